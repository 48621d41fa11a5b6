"""Caches: a flipped bit of data, header or digests is found, said in one line, and what was cached
is made again."""

import os
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer

from input_pipeline import cache, examples, make_loader
from input_pipeline.corpus import open_stream, trained_tokenizer
from input_pipeline.prepare import open_builder


def flips(directory):
    """Flips a bit of one byte after the other of all files of a directory, and turns it back."""
    for path in sorted(directory.iterdir()):
        data = path.read_bytes()
        for i in range(len(data)):
            broken = bytearray(data)
            broken[i] ^= 1 << i % 8
            path.write_bytes(broken)
            yield f"{path.name}, byte {i}"
        path.write_bytes(data)


def test_every_flipped_bit_of_a_cache_of_images_is_found(tmp_path, capsys):
    rng = np.random.default_rng(0)
    found = examples.ArrayExamples(
        rng.integers(0, 256, (3, 2, 2, 1), np.uint8), np.arange(3, dtype=np.int32)
    )
    examples._write_cache(tmp_path / "c", found)
    assert [path.name for path in sorted((tmp_path / "c").iterdir())] == [
        "digests",
        "image.npy",
        "label.npy",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]

    def read():
        return examples._read_cache(tmp_path / "c", 3, (2, 2, 1))

    np.testing.assert_array_equal(read().image, found.image)
    np.testing.assert_array_equal(read().label, found.label)
    assert read().image.dtype == np.uint8 and read().label.dtype == np.int32
    count = 0
    for place in flips(tmp_path / "c"):
        assert read() is None, place
        count += 1
    assert count == 128 + 12 + 128 + 12 + len("image.npy 140 01234567\n") * 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == count and set(lines) == {
        f"the cache {tmp_path / 'c'} is damaged (does not fit its digests) and is made again"
    }
    assert read() is not None


def test_every_flipped_bit_of_a_cache_of_tokens_is_found(tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.txt").write_text("ab abc b c a")
    builder = open_builder("text_files", data_dir=tmp_path, raw_dir=tmp_path / "raw" / "train.txt")
    tokenizer = trained_tokenizer(builder, "characters", 0, "train")
    tokens, starts = open_stream(builder, "train", tokenizer)
    directories = sorted(tmp_path.glob("local/*/.jaxmodels_cache/text_files-*"))
    directory = next(path for path in directories if (path / "tokens.bin").exists())
    # whatever is wrong is to be made again
    monkeypatch.setattr("input_pipeline.corpus._write_stream", None)
    for place in flips(directory):
        with pytest.raises(TypeError):
            open_stream(builder, "train", tokenizer)
            raise AssertionError(place)
    again = open_stream(builder, "train", tokenizer)
    assert isinstance(again[0], np.memmap)
    np.testing.assert_array_equal(again[0], tokens)
    np.testing.assert_array_equal(again[1], starts)


def test_a_damaged_tokenizer_is_trained_again(tmp_path, capsys):
    (tmp_path / "train.txt").write_text("ab abc b c a")
    builder = open_builder("text_files", data_dir=tmp_path, raw_dir=tmp_path / "train.txt")
    first = trained_tokenizer(builder, "characters", 0, "train").to_str()
    (path,) = tmp_path.glob("local/*/.jaxmodels_cache/text_files-*/tokenizer.json")
    assert Tokenizer.from_file(str(path)).to_str() == first
    for broken in (path.read_text().replace('"a": 1', '"a": 2'), "", "{}"):
        path.write_text(broken)
        capsys.readouterr()
        assert trained_tokenizer(builder, "characters", 0, "train").to_str() == first
        assert Tokenizer.from_file(str(path)).to_str() == first
        assert (
            capsys.readouterr().err.count("is damaged (does not fit its digests) and is made again")
            == 1
        )


def read_digits(data_dir):
    return next(make_loader("digits", "test", batch_size=359, train=False, data_dir=data_dir))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return root, read_digits(root)


@pytest.mark.parametrize(
    "damage", ["flip", "truncate", "lengthen", "missing", "no digests", "another shape"]
)
def test_a_damaged_cache_is_said_in_one_line_and_made_again(digits, tmp_path, damage, capsys):
    shutil.copytree(digits[0], tmp_path / "data")  # with the times of its files
    (path,) = tmp_path.glob("data/.jaxmodels_cache/digits-*/image.npy")
    if damage == "flip":
        data = bytearray(path.read_bytes())
        data[-100] ^= 4
        path.write_bytes(data)
    elif damage == "truncate":
        os.truncate(path, path.stat().st_size - 1)
    elif damage == "lengthen":
        path.write_bytes(path.read_bytes() + b"\0")
    elif damage == "missing":
        path.unlink()
    elif damage == "no digests":
        path.with_name("digests").unlink()
    else:
        np.save(path, np.zeros((359, 8, 9, 1), np.uint8))
    capsys.readouterr()
    for lines in (1, 0):
        batch = read_digits(tmp_path / "data")
        for key, values in digits[1].items():
            np.testing.assert_array_equal(batch[key], values)
        said = [line for line in capsys.readouterr().err.splitlines() if "the cache" in line]
        assert len(said) == lines


def test_a_cache_of_an_older_format_is_made_again_in_silence(digits, tmp_path, monkeypatch, capsys):
    shutil.copytree(digits[0], tmp_path / "data")
    monkeypatch.setattr("input_pipeline.examples._CACHE_FORMAT", 99)
    capsys.readouterr()
    np.testing.assert_array_equal(read_digits(tmp_path / "data")["image"], digits[1]["image"])
    assert "cache" not in capsys.readouterr().err
    assert len([*tmp_path.glob("data/.jaxmodels_cache/digits-*/image.npy")]) == 2


def test_blocks_have_their_own_digests(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 64)
    data = np.arange(200, dtype=np.uint8)
    with cache.written(tmp_path / "c", ("a.bin", "empty.bin")) as temporary:
        data.tofile(temporary / "a.bin")
        (temporary / "empty.bin").touch()
    first, second = (tmp_path / "c" / "digests").read_text().splitlines()
    assert (
        first.split()[:2] == ["a.bin", "200"]
        and len(first.split()) == 2 + 4
        and second == "empty.bin 0"
    )
    for mapped in ((), ("a.bin",)):
        found = cache.checked(tmp_path / "c", ("a.bin", "empty.bin"), mapped=mapped)
        np.testing.assert_array_equal(found["a.bin"], data)
    with pytest.raises(ZeroDivisionError), cache.written(tmp_path / "c", ("a.bin",)) as temporary:
        raise ZeroDivisionError
    assert cache.checked(tmp_path / "c", ("a.bin", "empty.bin")) is not None  # the old one stays
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
