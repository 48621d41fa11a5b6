"""The reader of image files: every mode and format against its definition, orientation,
transparency, ranges, bombs."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from input_pipeline import DataError, Decoding
from input_pipeline.decode import decode_image
from input_pipeline.image_file import MAX_PIXELS, opened

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 5, 3), np.uint8)
GREY = RNG.integers(0, 256, (6, 5), np.uint8)
ALPHA = RNG.integers(0, 256, (6, 5), np.uint8)


def encoded(image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        file, kind, **options
    )
    return file.getvalue()


def read(data, channels=3, **options):
    pixels = decode_image(data, channels, Decoding(), **options).astype(int)
    return pixels[..., 0] if channels == 1 else pixels


def on_white(pixels, alpha):
    """Exact, in whole numbers and half up."""
    pixels, alpha = pixels.astype(int), alpha.astype(int)
    alpha = alpha[..., None] if pixels.ndim == 3 else alpha
    return (2 * (alpha * pixels + (255 - alpha) * 255) + 255) // 510


def png(header: bytes, rows: list[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of what Pillow does not write."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def image_header(width, height, bits, colour):
    return struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)


# Pixels of 8 bits are what they were

PLAIN = {
    "RGB": ("PNG", "JPEG", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "WEBP", "GIF"),
    "L": ("PNG", "JPEG", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "GIF"),
    "1": ("PNG", "BMP", "TIFF", "PPM"),
    "P": ("PNG", "BMP", "TIFF", "GIF"),
    "CMYK": ("JPEG", "TIFF"),
    "YCbCr": ("TIFF",),
}


@pytest.mark.parametrize(
    "mode, kind", [(mode, kind) for mode, kinds in PLAIN.items() for kind in kinds]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_plain_images_are_as_pillow_converts_them(mode, kind, channels):
    """Whoever trained on them before goes on with the same bits."""
    data = encoded(Image.fromarray(COLOUR).convert(mode), kind)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))
    np.testing.assert_array_equal(read(data, channels), expected)


def test_lab_is_a_colour_too():
    image = Image.fromarray(
        np.dstack([np.full((4, 4), 200, np.uint8), *[np.full((4, 4), 0, np.uint8)] * 2]), "RGB"
    )
    lab = Image.frombytes("LAB", image.size, image.tobytes())
    found = read(encoded(lab, "TIFF"))
    # a and b are 0: grey
    assert (np.abs(found - found[0, 0, 0]) <= 2).all() and 180 < found[0, 0, 0] < 215
    np.testing.assert_array_equal(read(encoded(lab, "TIFF"), 1), found[..., 0])


def test_colours_of_16_bits_lose_their_lower_half():
    wide = RNG.integers(0, 2**16, (6, 5, 3)).astype(">u2")
    data = png(image_header(5, 6, 16, 2), [row.tobytes() for row in wide])
    np.testing.assert_array_equal(read(data), wide >> 8)


# Transparency


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "TGA"])
def test_alpha_is_laid_on_white(kind):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encoded(np.dstack([COLOUR, ALPHA]), kind, **options)
    expected = on_white(COLOUR, ALPHA)
    np.testing.assert_array_equal(read(data), expected)
    grey = np.asarray(Image.fromarray(expected.astype(np.uint8)).convert("L"))
    np.testing.assert_array_equal(read(data, 1), grey)
    # whoever has 4 channels keeps it
    np.testing.assert_array_equal(read(data, 4), np.dstack([COLOUR, ALPHA]))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_alpha_of_grey_is_laid_on_white(kind):
    data = encoded(Image.fromarray(np.dstack([GREY, ALPHA])), kind)
    np.testing.assert_array_equal(read(data, 1), on_white(GREY, ALPHA))
    np.testing.assert_array_equal(read(data), np.dstack([on_white(GREY, ALPHA)] * 3))
    np.testing.assert_array_equal(read(data, 4), np.dstack([GREY, GREY, GREY, ALPHA]))


def test_transparency_of_palettes():
    colours = RNG.integers(0, 256, (16, 3), np.uint8)
    numbers, alpha = (
        RNG.integers(0, 16, (6, 5)).astype(np.uint8),
        RNG.integers(0, 256, 16).astype(np.uint8),
    )
    image = Image.fromarray(numbers)
    image.putpalette(colours.tobytes())
    for transparency, alphas in (
        (alpha.tobytes(), alpha),
        (3, np.where(np.arange(16) == 3, 0, 255)),
    ):
        data = encoded(image, transparency=transparency)
        np.testing.assert_array_equal(read(data), on_white(colours[numbers], alphas[numbers]))
        np.testing.assert_array_equal(read(data, 4)[..., 3], alphas[numbers])
    gif = encoded(image, "GIF", transparency=3, optimize=False)
    np.testing.assert_array_equal(
        read(gif), on_white(colours[numbers], np.where(numbers == 3, 0, 255))
    )


def test_one_transparent_colour():
    key = tuple(int(x) for x in COLOUR[2, 3])
    there = (COLOUR != key).any(-1) * 255
    np.testing.assert_array_equal(read(encoded(COLOUR, transparency=key)), on_white(COLOUR, there))
    there = (GREY != GREY[1, 1]) * 255
    np.testing.assert_array_equal(
        read(encoded(GREY, transparency=int(GREY[1, 1])), 1), on_white(GREY, there)
    )
    black = encoded(Image.fromarray(GREY > 99), transparency=0)
    assert (read(black, 1) == 255).all()  # black is transparent, and the rest is white


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_one_transparent_grey_of_every_depth(bits):
    """A tRNS chunk holds a number as it is stored, whatever a pixel of 8 bits becomes of it."""
    numbers = np.arange(16).reshape(2, 8) * ((2**bits - 1) // 15 if bits > 4 else 1) % 2**bits
    stored = np.unpackbits(numbers.astype(">u2").view(np.uint8).reshape(2, 8, 2), axis=-1)[
        ..., 16 - bits :
    ]
    rows = [row.tobytes() for row in np.packbits(stored.reshape(2, -1), axis=-1)]
    data = png(image_header(8, 2, bits, 0), rows, (b"tRNS", struct.pack(">H", int(numbers[0, 2]))))
    plain = np.rint(numbers * 255 / (2**bits - 1))
    expected = np.where(numbers == numbers[0, 2], 255, plain)
    assert (expected != plain).any()
    np.testing.assert_array_equal(read(data, 1), expected)
    np.testing.assert_array_equal(read(data, 4)[..., 3], (numbers != numbers[0, 2]) * 255)


def test_one_transparent_colour_of_16_bits_is_refused():
    rows = [np.arange(24, dtype=">u2").tobytes()] * 2
    data = png(image_header(8, 2, 16, 2), rows, (b"tRNS", struct.pack(">HHH", 0, 1, 2)))
    with pytest.raises(
        DataError, match="one transparent colour among colours of 16 bits; save it with an alpha"
    ):
        read(data)


# Orientation

UPRIGHT = {  # EXIF 2.32, tag 274: where the stored row 0 and column 0 are
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF", "deflated"])
def test_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "deflated": {"compression": "tiff_deflate"}}.get(
        kind, {}
    )
    kind = "TIFF" if kind == "deflated" else kind
    for image in (COLOUR, GREY):
        data = encoded(image, kind, exif=exif, **options)
        plain = read(encoded(image, kind, **options), 3 if image.ndim == 3 else 1)
        np.testing.assert_array_equal(
            read(data, 3 if image.ndim == 3 else 1), UPRIGHT[orientation](plain)
        )


def test_orientation_beside_transparency_and_16_bits():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(np.dstack([COLOUR, ALPHA]), exif=exif)
    np.testing.assert_array_equal(read(data), UPRIGHT[6](on_white(COLOUR, ALPHA)))
    wide = RNG.integers(0, 2**16, (6, 5)).astype(np.uint16)
    np.testing.assert_array_equal(
        read(encoded(wide, exif=exif), 1), UPRIGHT[6](np.rint(wide / 257))
    )


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0" * 40]
)
def test_a_broken_exif_block_says_nothing(exif):
    np.testing.assert_array_equal(read(encoded(COLOUR, "PNG", exif=exif)), COLOUR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow looks into that of a JPEG for the resolution
        found = read(encoded(COLOUR, "JPEG", exif=exif))
    np.testing.assert_array_equal(found, read(encoded(COLOUR, "JPEG")))
    for orientation in (0, 9, 65535):
        tag = Image.Exif()
        tag[0x0112] = orientation
        np.testing.assert_array_equal(read(encoded(COLOUR, exif=tag)), COLOUR)


# More than 8 bits

WIDE = np.linspace(0, 65535, 30).astype(np.uint16).reshape(6, 5)


def wide_files():
    """The same grey of 16 bits in every way to store it."""
    yield encoded(WIDE)
    yield encoded(WIDE, "TIFF")
    yield encoded(WIDE, "TIFF", compression="tiff_deflate")
    yield encoded(Image.frombytes("I;16B", (5, 6), WIDE.astype(">u2").tobytes()), "TIFF")
    yield encoded(WIDE.astype(np.int32), "TIFF")
    yield b"P5 5 6 65535\n" + WIDE.astype(">u2").tobytes()


def test_grey_of_16_bits_is_scaled():
    for data in wide_files():
        np.testing.assert_array_equal(read(data, 1), np.rint(WIDE / 257))
        np.testing.assert_array_equal(read(data), np.dstack([np.rint(WIDE / 257)] * 3))
        np.testing.assert_array_equal(read(data, 4)[..., 3], 255)
    every = np.arange(2**16).astype(np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(read(encoded(every), 1), np.rint(every / 257))


def test_a_tiff_says_what_is_white_and_how_many_bits_it_has():
    """Pillow looks at both for 8 bits alone."""
    kinds = (
        (WIDE, np.rint(WIDE / 257)),
        ((WIDE / 65535).astype(np.float32), np.rint(WIDE / 65535 * 255)),
    )
    for numbers, expected in ((GREY, GREY), *kinds):
        data = encoded(numbers, "TIFF")
        inverted = tagged(data, 262, 0)
        np.testing.assert_array_equal(read(data, 1), expected)
        np.testing.assert_array_equal(read(inverted, 1), 255 - expected)
    few = np.array([[0, 4095, 2048, 16]])
    packed = np.packbits(
        np.unpackbits(few.astype(">u2").view(np.uint8).reshape(4, 2), axis=1)[:, 4:].reshape(-1)
    )
    data = tagged(encoded(np.zeros((1, 4), np.uint16), "TIFF"), 258, 12)
    place = struct.unpack("<I", tag_of(data, 273)[8:])[0]
    data = data[:place] + packed.tobytes() + data[place + 6 :]
    np.testing.assert_array_equal(read(data, 1), np.rint(few / 4095 * 255))


def tag_of(data: bytes, number: int) -> bytes:
    """The entry of a tag in a little-endian TIFF of one image."""
    (start,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[start : start + 2])
    entries = [data[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    return next(entry for entry in entries if struct.unpack("<H", entry[:2])[0] == number)


def tagged(data: bytes, number: int, value: int) -> bytes:
    """A TIFF whose tag has another value."""
    entry = tag_of(data, number)
    return data.replace(entry, entry[:8] + struct.pack("<I", value))


def test_dark_grey_of_16_bits_stays_dark():
    dark = (WIDE // 1000).astype(np.uint16)
    np.testing.assert_array_equal(read(encoded(dark), 1), np.zeros((6, 5)))


def test_floating_point_from_0_to_1_is_scaled():
    numbers = RNG.random((6, 5)).astype(np.float32)
    numbers[0, :2] = 0, 1
    np.testing.assert_array_equal(
        read(encoded(numbers, "TIFF"), 1), np.rint(numbers * np.float32(255))
    )


@pytest.mark.parametrize(
    "numbers, message",
    [
        (
            np.float32([[0, 255]]),
            "floating-point pixels from 0 to 255, and those from 0 to 1 are read; save it with 8",
        ),
        (np.float32([[-0.1, 0.5]]), "floating-point pixels from -0.1 to 0.5"),
        (np.float32([[0, np.nan]]), "floating-point pixels from nan to nan"),
        (np.float32([[0, np.inf]]), "floating-point pixels from 0 to inf"),
        (
            np.int32([[0, 65536]]),
            "pixels of 32 bits from 0 to 65536, and those of 16 bits, to 65535, are read; save",
        ),
        (np.int32([[-1, 300]]), "pixels of 32 bits from -1 to 300"),
        (np.int32([[0, 255]]), "pixels of 32 bits from 0 to 255"),  # 8 bits or 16?
        (np.int32([[0, 2**31 - 1]]), "pixels of 32 bits from 0 to 2147483647"),
    ],
)
def test_numbers_of_an_unknown_range_are_refused(numbers, message):
    with pytest.raises(DataError, match=message):
        read(encoded(numbers, "TIFF"), 1)


# Several frames


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames_is_read_and_said(kind):
    frames = [Image.fromarray(np.full((6, 5, 3), value, np.uint8)) for value in (200, 100, 0)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    said = []
    np.testing.assert_array_equal(read(data, notice=said.append), np.full((6, 5, 3), 200))
    assert said == ["has several frames, of which the first is read"]
    read(encoded(frames[0], kind, **options), notice=said.append)
    assert len(said) == 1


def test_a_broken_second_frame_is_nobodys_business():
    frames = [Image.fromarray(np.full((6, 5, 3), value, np.uint8)) for value in (200, 100)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read(data[: len(data) - 9]), np.full((6, 5, 3), 200))


# Bombs and broken files


@pytest.mark.parametrize("action", ["error", "ignore"])
@pytest.mark.parametrize("side", [8193, 12_000, 50_000, 2**31 - 1])
def test_an_image_is_refused_by_its_pixels_before_it_is_decoded(side, action, monkeypatch):
    """Also between Pillow's warning and its error, whatever is done with warnings."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert side**2 > MAX_PIXELS
    data = png(image_header(side, side, 8, 0), [b"\0"])
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(
            DataError, match=r"(at most|more than) 67,108,864( pixels| are read); make the image sm"
        ):
            read(data, 1)


def test_the_largest_image_that_is_read(monkeypatch):
    monkeypatch.setattr("input_pipeline.image_file.MAX_PIXELS", 30)
    assert read(encoded(GREY), 1).shape == (6, 5)
    monkeypatch.setattr("input_pipeline.image_file.MAX_PIXELS", 29)
    with pytest.raises(
        DataError, match="it has 5 x 6 pixels, and at most 29 are read; make the image smaller"
    ):
        read(encoded(GREY), 1)


def test_a_thin_image_does_not_grow_without_bound():
    data = encoded(np.zeros((1, 60_000), np.uint8))
    with pytest.raises(DataError, match="it would be resized to 13,440,000 x 224 pixels"):
        decode_image(data, 1, Decoding(224))


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "PCX", "SGI", "AVIF"]
)
def test_a_truncated_file_is_refused_or_whole(kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    data = encoded(COLOUR, kind)
    whole = read(data)
    for length in range(len(data)):
        try:
            found = read(data[:length])
        except DataError as error:
            assert len(str(error)) <= 250 and "\n" not in str(error)
        else:
            np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_flipped_bits_are_one_line_at_most(kind):
    """No exception but one; a PNG, which has checksums, never gives other pixels."""
    data, rng = encoded(COLOUR, kind), np.random.default_rng(1)
    whole = read(data)
    for _ in range(150):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            broken[place] ^= 1 << rng.integers(8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = read(bytes(broken))
            except DataError as error:
                assert len(str(error)) <= 250 and "\n" not in str(error)
            else:
                if kind == "PNG":
                    np.testing.assert_array_equal(found, whole)


def test_a_header_that_lies_about_the_rest():
    with pytest.raises(DataError, match="not a readable image"):
        read(png(image_header(4000, 4000, 8, 0), [b"\0" * 10]), 1)
    with pytest.raises(DataError, match="not a readable image"):
        read(b"P5 3000 3000 255\n" + bytes(100), 1)


def test_other_formats_are_named():
    """An EPS would be given to another program."""
    file = io.BytesIO()
    Image.fromarray(COLOUR).save(file, "EPS")
    for data in (file.getvalue(), b"%PDF-1.4", b"", b"text"):
        with pytest.raises(
            DataError, match=r"not a readable image \(of none of the formats PNG, JPEG, .*WEBP"
        ):
            read(data)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name, message in (
        ("pipe.png", "is no regular file"),
        ("loop.png", r"cannot be read \(Too many levels"),
        ("zero.png", "is no regular file"),
        ("folder.png", "is a directory"),
        ("nothing.png", "no such file"),
        ("nul\0.png", "cannot be read"),
    ):
        with pytest.raises(DataError, match=message), opened(tmp_path / name, 3):
            pass
    (tmp_path / "good.png").write_bytes(encoded(COLOUR))
    np.testing.assert_array_equal(decode_image(tmp_path / "good.png", 3, Decoding()), COLOUR)
