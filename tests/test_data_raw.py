"""Raw files: parsing, checking, finding and downloading."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import DataError
from input_pipeline.datasets import raw
from input_pipeline.datasets.cifar import parse_records, read_members
from input_pipeline.datasets.mnist import FashionMNIST, parse_idx

ADVICE = "Ask somebody."


def idx(values: np.ndarray) -> bytes:
    return (
        struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()
    )


def raw_file(content: bytes, url: str = "http://127.0.0.1:9/some/data.bin.gz") -> raw.RawFile:
    return raw.RawFile(url, len(content), hashlib.sha256(content).hexdigest(), "data.bin")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)


def test_idx_is_read_packed_and_unpacked(tmp_path: Path, images: np.ndarray):
    (tmp_path / "x").write_bytes(idx(images))
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx(images)))
    for name in ("x", "x.gz"):
        np.testing.assert_array_equal(
            parse_idx(raw.read_payload(tmp_path / name), name, (5, 4, 3)), images
        )


def test_idx_of_wrong_magic_shape_or_size(images: np.ndarray):
    content = idx(images)
    with pytest.raises(
        DataError, match=r"FILE is truncated: 75 bytes \(decompressed\), expected 76"
    ):
        parse_idx(content[:-1], "FILE", (5, 4, 3))
    with pytest.raises(DataError, match="FILE is truncated: 3 bytes"):
        parse_idx(content[:3], "FILE", (5, 4, 3))
    with pytest.raises(DataError, match="FILE is too long: 77 bytes"):
        parse_idx(content + b"x", "FILE", (5, 4, 3))
    with pytest.raises(DataError, match="magic 00000803, expected 00000801"):
        parse_idx(content, "FILE", (5,))
    with pytest.raises(DataError, match=r"declares shape \(5, 4, 3\), expected \(5, 3, 4\)"):
        parse_idx(content, "FILE", (5, 3, 4))


def test_truncated_or_damaged_gzip(tmp_path: Path, images: np.ndarray):
    path = tmp_path / "x.gz"
    packed = gzip.compress(idx(images))
    path.write_bytes(packed[:-20])
    with pytest.raises(
        DataError, match=r"x\.gz is truncated: \d+ bytes \(decompressed\), expected 76"
    ):
        parse_idx(raw.read_payload(path), path, (5, 4, 3))
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"x\.gz is not a sound gzip file"):
        raw.read_payload(path)
    path.write_bytes(packed[:-8] + bytes(8))  # the CRC of the content
    with pytest.raises(DataError, match=r"x\.gz is not a sound gzip file \(CRC"):
        raw.read_payload(path)


def test_cifar_records_equal_a_hand_made_image():
    pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    labels = np.array([[3, 77], [19, 99]], np.uint8)
    content = b"".join(
        bytes(labels[i]) + b"".join(pixels[i, :, :, c].tobytes() for c in range(3))
        for i in range(2)
    )
    image, label = parse_records(content, "FILE", 2, (20, 100))
    np.testing.assert_array_equal(image, pixels)
    np.testing.assert_array_equal(label, labels)
    with pytest.raises(DataError, match=r"FILE is truncated: 6147 bytes, expected 6148"):
        parse_records(content[:-1], "FILE", 2, (20, 100))
    with pytest.raises(
        DataError, match=r"FILE has labels up to \[19, 99\], allowed are less than \(20, 99\)"
    ):
        parse_records(content, "FILE", 2, (20, 99))


def test_cifar_archive_and_directory(tmp_path: Path):
    archive = tmp_path / "c.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in {"c-bin/a.bin": b"aa", "c-bin/b.bin": b"b", "../evil": b"x"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    published = dataclasses.replace(
        raw_file(archive.read_bytes(), "http://host/c.tar.gz"), unpacked="c-bin"
    )
    assert read_members(archive, published, ["a.bin", "b.bin"]) == {"a.bin": b"aa", "b.bin": b"b"}
    with pytest.raises(DataError, match=r"c\.tar\.gz lacks c-bin/z\.bin"):
        read_members(archive, published, ["a.bin", "z.bin"])
    (tmp_path / "c-bin").mkdir()
    (tmp_path / "c-bin" / "a.bin").write_bytes(b"aa")
    assert read_members(tmp_path / "c-bin", published, ["a.bin"]) == {"a.bin": b"aa"}
    with pytest.raises(DataError, match=r"c-bin lacks b\.bin: unpack c\.tar\.gz again"):
        read_members(tmp_path / "c-bin", published, ["a.bin", "b.bin"])
    # raw_dir may be the unpacked directory
    assert raw.find(tmp_path / "c-bin", published) == tmp_path / "c-bin"
    damaged = bytearray(archive.read_bytes())
    damaged[40] ^= 1
    archive.write_bytes(damaged)
    with pytest.raises(
        DataError, match=r"bad checksum: .*c\.tar\.gz has sha256 \w{64}, expected \w{64}.*delete it"
    ):
        read_members(archive, published, ["a.bin"])
    archive.write_bytes(damaged[:-9])
    with pytest.raises(
        DataError, match=rf"c\.tar\.gz has {len(damaged) - 9} bytes, expected {len(damaged)}"
    ):
        read_members(archive, published, ["a.bin"])


def test_lookup_order(tmp_path: Path):
    file = raw_file(b"x")
    places = {name: tmp_path / name for name in ("raw", "system", "root")}
    downloads = places["root"] / "downloads" / "jaxmodels" / "name"
    for directory in (places["raw"], places["system"], downloads):
        directory.mkdir(parents=True)
    (downloads / "data.bin").touch()
    obtain = functools.partial(raw.obtain, "name", (file,), data_dir=places["root"], advice=ADVICE)
    assert obtain(raw_dir=None, system_dir=places["system"]) == [downloads / "data.bin"]
    (places["system"] / "data.bin.gz").touch()
    assert obtain(raw_dir=None, system_dir=places["system"]) == [places["system"] / "data.bin.gz"]
    with pytest.raises(
        DataError, match=r"name: raw_dir .*raw lacks data\.bin\.gz \(or data\.bin\)"
    ):
        obtain(raw_dir=places["raw"], system_dir=places["system"])
    (places["raw"] / "data.bin").touch()
    assert obtain(raw_dir=places["raw"], system_dir=places["system"]) == [
        places["raw"] / "data.bin"
    ]


@pytest.fixture
def server(tmp_path: Path):
    """Serves tmp_path/www; yields its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    (tmp_path / "www").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_download(tmp_path: Path, server: str):
    content = np.random.default_rng(2).bytes(3 << 20)
    (tmp_path / "www" / "data.bin.gz").write_bytes(content)
    obtain = functools.partial(
        raw.obtain, "name", raw_dir=None, data_dir=tmp_path, system_dir=None, advice=ADVICE
    )
    file = raw_file(content, f"{server}/data.bin.gz")
    (path,) = obtain(files=(file,))
    assert path.read_bytes() == content
    (tmp_path / "www" / "data.bin.gz").unlink()
    assert obtain(files=(file,)) == [path]  # not fetched again
    path.unlink()
    with pytest.raises(
        DataError,
        match=r"cannot download http.*data\.bin\.gz .*404.*--config\.data\.raw_dir=DIR.*Ask som",
    ):
        obtain(files=(file,))
    (tmp_path / "www" / "data.bin.gz").write_bytes(content[:-1] + b"\0")
    with pytest.raises(DataError, match="did not deliver the published file: bad checksum"):
        obtain(files=(file,))
    (tmp_path / "www" / "data.bin.gz").write_bytes(content[:-1])
    with pytest.raises(
        DataError,
        match=r"did not deliver the published file: .* has 3145727 bytes, expected 3145728",
    ):
        obtain(files=(file,))
    assert list(path.parent.iterdir()) == []  # neither the file nor a part of it


def test_download_without_network(tmp_path: Path):
    with pytest.raises(
        DataError,
        match=r"cannot download http://127\.0\.0\.1:9/some/data\.bin\.gz .*refused.*Ask somebody",
    ):
        raw.obtain(
            "name",
            (raw_file(b"x"),),
            raw_dir=None,
            data_dir=tmp_path,
            system_dir=None,
            advice=ADVICE,
        )


@pytest.mark.skipif(
    not (FashionMNIST.SYSTEM_DIR and FashionMNIST.SYSTEM_DIR.exists()),
    reason="needs Debian's package dataset-fashion-mnist",
)
def test_debian_fashion_mnist_has_the_published_content():
    for file in FashionMNIST.RAW_FILES:
        path = raw.find(FashionMNIST.SYSTEM_DIR, file)
        assert hashlib.sha256(raw.read_payload(path)).hexdigest() == file.payload_sha256
