"""Images that a person gives to train.predict: what cannot be read ends only itself, and nothing
waits."""

import os

import numpy as np
import pytest
from PIL import Image

from input_pipeline import DataError, DatasetCard, Decoding, ImageTextCard, TextCard
from input_pipeline.decode import decode_image
from input_pipeline.features.image import load_image
from input_pipeline.tokenizers import train_tokenizer
from tests.test_image_file import COLOUR, encoded, image_header, png
from train import predict
from train.config import Config, DataConfig
from train.records import reading

CARD = DatasetCard("c", "1.0.0", {"train": 1}, (8, 8, 3), 2, ("no", "yes"), ".")
CONFIG = Config(data=DataConfig(name="c", image_size=8, resize_size=10))


@pytest.fixture
def folder(tmp_path):
    """Two images among what is none of them."""
    inner = tmp_path / "images" / "x.png"
    inner.mkdir(parents=True)
    (tmp_path / "images" / "a.png").write_bytes(encoded(COLOUR))
    (inner / "b.JPG").write_bytes(encoded(COLOUR, "JPEG"))
    (inner / "notes.txt").write_text("no image")
    os.mkfifo(inner / "pipe.png")
    (inner / "loop.png").symlink_to("loop.png")
    (inner / "around").symlink_to(tmp_path / "images")
    (inner / "zero.png").symlink_to("/dev/zero")
    (inner / "gone.png").symlink_to("nowhere")
    (inner / "cut.png").write_bytes(encoded(COLOUR)[:60])
    (inner / "bomb.png").write_bytes(png(image_header(9_000, 9_000, 8, 2), [b""]))
    return tmp_path / "images"


def test_a_folder(folder, capsys):
    names, arrays, broken = reading.read([str(folder), str(folder / "no.png")], CONFIG, CARD, False)
    assert names == [str(folder / "a.png"), str(folder / "x.png" / "b.JPG")] and broken == 7
    decoding = Decoding(8, 10)
    for name, pixels in zip(names, arrays["image"], strict=True):
        with open(name, "rb") as file:
            np.testing.assert_array_equal(pixels, decode_image(file.read(), 3, decoding))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"warning: skipped {folder / 'x.png' / 'bomb.png'}: it has 9,000 x 9,000 pixels, and at "
        "most 67,108,864 are read; make the image smaller",
        f"warning: skipped {folder / 'x.png' / 'cut.png'}: not a readable image (image file is "
        "truncated)",
        f"warning: skipped {folder / 'x.png' / 'gone.png'}: no such file",
        f"warning: skipped {folder / 'x.png' / 'loop.png'}: cannot be read (Too many levels of "
        "symbolic links)",
        f"warning: skipped {folder / 'x.png' / 'pipe.png'}: is no regular file",
        f"warning: skipped {folder / 'x.png' / 'zero.png'}: is no regular file",
        f"warning: skipped {folder / 'no.png'}: no such file",
    ]


def test_nothing_but_broken_files(folder, capsys):
    names, arrays, broken = reading.read(
        ["/dev/zero", str(folder / "x.png" / "pipe.png")], CONFIG, CARD, False
    )
    assert names == [] and broken == 2 and arrays["label"].shape == (0,)
    assert capsys.readouterr().err.count("is no regular file") == 2
    with pytest.raises(ValueError, match="no image files in"):
        (folder.parent / "empty").mkdir()
        reading.read([str(folder.parent / "empty")], CONFIG, CARD, False)
    for name in ("x" * 5000, "nul\0.png"):
        assert reading.read([name], CONFIG, CARD, False)[2] == 1


@pytest.mark.parametrize(
    "shape, resize_size", [((6, 5, 3), None), ((8, 8, 1), None), ((8, 8, 3), 12), ((8, 8, 4), 9)]
)
def test_the_same_pixels_as_in_training(tmp_path, shape, resize_size):
    """For every way to store an image, the sizes of a run's data included."""
    exif = Image.Exif()
    exif[0x0112] = 3
    rgba = np.dstack([COLOUR, np.arange(30, dtype=np.uint8).reshape(6, 5) * 8])
    images = {
        "turned.jpg": encoded(COLOUR, "JPEG", exif=exif),
        "clear.png": encoded(rgba),
        "clear.gif": encoded(Image.fromarray(rgba), "GIF"),
        "wide.png": encoded((COLOUR[..., 0] * 257.0).astype(np.uint16)),
        "float.tif": encoded(COLOUR[..., 0].astype(np.float32) / 255, "TIFF"),
        "ink.jpg": encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    }
    size = None if shape[:2] == (6, 5) else shape[0]
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
        trained_on = decode_image(data, shape[2], Decoding(size, resize_size))
        found = load_image(tmp_path / name, shape, resize_size=resize_size)
        np.testing.assert_array_equal(found, trained_on, err_msg=name)
        inverted = load_image(tmp_path / name, shape, resize_size=resize_size, invert=True)
        np.testing.assert_array_equal(inverted, 255 - trained_on)
    with pytest.raises(DataError, match=r"nowhere\.png: no such file"):
        load_image(tmp_path / "nowhere.png", shape)


def test_an_animation_is_said(tmp_path, capsys):
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (200, 100)]
    (tmp_path / "a.gif").write_bytes(
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    )
    _, arrays, broken = reading.read([str(tmp_path / "a.gif")], CONFIG, CARD, False)
    assert not broken and (arrays["image"] == 200).all()
    assert (
        capsys.readouterr().err
        == f"warning: {tmp_path / 'a.gif'} has several frames, of which the first is read\n"
    )


def test_images_with_a_text(folder, capsys):
    tokenizer = train_tokenizer("words", ["a b c"], 20).to_str()
    card = ImageTextCard(
        CARD, TextCard("c", "1.0.0", {"train": 1}, 20, 8, tokenizer, ".", "labels")
    )
    words = [f"{folder / 'a.png'}\ta b", f"{folder / 'x.png'}\ta", str(folder / "a.png"), "\tc"]
    names, arrays, broken = reading.read(words, CONFIG, card, False)
    assert names == [f"{folder / 'a.png'} a b", str(folder / "a.png"), "c"] and broken == 1
    assert arrays["present"].tolist() == [[True, True], [True, False], [False, True]]
    assert capsys.readouterr().err == f"warning: skipped {folder / 'x.png'}: is a directory\n"


def test_names_that_are_not_utf8_can_be_printed():
    assert (
        predict._shown(os.fsdecode(b"caf\xe9.png")) == "caf\ufffd.png"
        and predict._shown("café 猫") == "café 猫"
    )
