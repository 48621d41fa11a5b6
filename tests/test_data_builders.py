"""TFDS builders without TensorFlow: preparation, and reading by plain TFDS in another process."""

import gzip
import hashlib
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from input_pipeline import DataError, Decoding, describe, prepare
from input_pipeline.__main__ import main
from input_pipeline.datasets import mnist, raw
from input_pipeline.datasets.cifar import Cifar10, Cifar100

REPOSITORY = Path(__file__).parents[1]
WITHOUT_TENSORFLOW = """
import importlib.util, sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "torch"):
            raise ModuleNotFoundError(f"{name} is forbidden here", name=name)
sys.meta_path.insert(0, Forbid())
look = importlib.util.find_spec  # asks whether a module could be imported: the answer is no, not an error
importlib.util.find_spec = lambda name, package=None: None if name == "tensorflow" else look(name, package)
"""


def run(code: str, *args: str | Path) -> subprocess.Popen:
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TENSORFLOW + code, *map(str, args)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with digits, prepared by two processes at once beside what a killed one left."""
    root = tmp_path_factory.mktemp("data")
    stale = root / "digits" / "incomplete.ABCDEF_1.0.0"
    stale.mkdir(parents=True)
    (stale / "digits-train.array_record-00000-of-00001").write_bytes(b"half a file")
    code = "import input_pipeline as p\nassert p.describe('digits', data_dir=sys.argv[1]).splits['test'] == 359"
    for process in [run(code, root) for _ in range(2)]:
        finish(process)
    assert [path.name for path in (root / "digits").iterdir()] == ["1.0.0"]
    return root


def write_mnist(
    directory: Path, rng: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Writes 30 train and 20 test examples, one file gunzipped; returns (images, labels) by file
    prefix."""
    data = {}
    for prefix, count in (("train", 30), ("t10k", 20)):
        data[prefix] = (
            rng.integers(0, 256, (count, 28, 28), np.uint8),
            rng.integers(0, 10, count, np.uint8),
        )
        for kind, values in zip(("images-idx3", "labels-idx1"), data[prefix], strict=True):
            content = (
                struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
                + values.tobytes()
            )
            if (prefix, kind) == ("train", "images-idx3"):
                (directory / f"{prefix}-{kind}-ubyte").write_bytes(content)
            else:
                (directory / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    return data


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Raw files of 30 + 20 examples, and an MNIST builder that expects them; yields (directory,
    data)."""
    directory = tmp_path / "raw"
    directory.mkdir()
    data = write_mnist(directory, np.random.default_rng(0))
    files = []
    for file in mnist.MNIST.RAW_FILES:
        content = raw.read_payload(raw.find(directory, file))
        files.append(
            raw.RawFile(file.url, 0, "", file.unpacked, hashlib.sha256(content).hexdigest())
        )
    monkeypatch.setattr(mnist.MNIST, "RAW_FILES", tuple(files))
    monkeypatch.setattr(mnist, "_SPLITS", {"train": ("train", 30), "test": ("t10k", 20)})
    return directory, data


def write_cifar(
    directory: Path, builder: type[Cifar10], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Writes 4 records per file into the unpacked directory; returns all records by split."""
    directory = directory / builder.RAW_FILES[0].unpacked
    directory.mkdir(parents=True)
    sizes = [size for size, _ in builder.LABELS.values()]
    for key, (size, file) in builder.LABELS.items():
        (directory / file).write_text("".join(f"{key}_{i}\n" for i in range(size)) + "\n")
    records = {}
    for split, files in builder.FILES.items():
        labels = rng.integers(0, sizes, (4 * len(files), len(sizes)), np.uint8)
        pixels = rng.integers(0, 256, (4 * len(files), 3072), np.uint8)
        records[split] = np.concatenate([labels, pixels], axis=1)
        for i, file in enumerate(files):
            (directory / file).write_bytes(records[split][4 * i : 4 * i + 4].tobytes())
    return records


def as_set(images, labels) -> set[tuple[bytes, int]]:
    return {
        (np.asarray(image).tobytes(), int(label))
        for image, label in zip(images, labels, strict=True)
    }


def test_plain_tfds_reads_everything_in_a_fresh_process(
    tmp_path, data_dir, small_mnist, monkeypatch
):
    raw_dir, _ = small_mnist
    rng = np.random.default_rng(1)
    prepare.open_builder("mnist", data_dir=data_dir, raw_dir=raw_dir)
    for name, builder in (("cifar10", Cifar10), ("cifar100", Cifar100)):
        write_cifar(tmp_path / name, builder, rng)
        small = {split: dict.fromkeys(files, 4) for split, files in builder.FILES.items()}
        monkeypatch.setattr(builder, "FILES", small)
        prepare.open_builder(name, data_dir=data_dir, raw_dir=tmp_path / name)
    code = """
import json, tensorflow_datasets as tfds
result = {}
for name in ("digits", "mnist", "cifar10", "cifar100"):
    source = tfds.data_source(name, data_dir=sys.argv[1])
    example, info = source["train"][0], source["train"].dataset_info
    result[name] = [info.full_name, {k: len(v) for k, v in source.items()}, list(example["image"].shape),
                    sorted(example), info.features["label"].names[:2]]
assert "tensorflow" not in sys.modules
print(json.dumps(result))
"""
    keys = ["id", "image", "label"]
    assert json.loads(finish(run(code, data_dir)).splitlines()[-1]) == {
        "digits": ["digits/1.0.0", {"train": 1438, "test": 359}, [8, 8, 1], keys[1:], ["0", "1"]],
        "mnist": ["mnist/3.0.1", {"train": 30, "test": 20}, [28, 28, 1], keys[1:], ["0", "1"]],
        "cifar10": [
            "cifar10/3.0.2",
            {"train": 20, "test": 4},
            [32, 32, 3],
            keys,
            ["label_0", "label_1"],
        ],
        "cifar100": [
            "cifar100/3.0.2",
            {"train": 4, "test": 4},
            [32, 32, 3],
            ["coarse_label", *keys],
            ["label_0", "label_1"],
        ],
    }


def test_digits_content_is_scikit_learns(data_dir):
    from sklearn.datasets import load_digits

    digits = load_digits()
    source = prepare.open_builder("digits", data_dir=data_dir).as_data_source()
    for split, rows in (("train", np.arange(1797) % 5 != 4), ("test", np.arange(1797) % 5 == 4)):
        examples = list(source[split])
        expected = as_set(
            (digits.images[rows] * 255 / 16).round().astype(np.uint8), digits.target[rows]
        )
        assert as_set([e["image"] for e in examples], [e["label"] for e in examples]) == expected
        assert len(examples) == rows.sum()


def test_mnist_content_and_damaged_files(tmp_path, small_mnist):
    raw_dir, data = small_mnist
    source = prepare.open_builder("mnist", data_dir=tmp_path, raw_dir=raw_dir).as_data_source()
    for split, prefix in (("train", "train"), ("test", "t10k")):
        examples = list(source[split])
        assert as_set([e["image"] for e in examples], [e["label"] for e in examples]) == as_set(
            *data[prefix]
        )
    path = raw_dir / "train-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        DataError,
        match=r"bad checksum: .*train-images-idx3-ubyte has sha256 \w{64}, expected \w{64}",
    ):
        prepare.open_builder("mnist", data_dir=tmp_path / "b", raw_dir=raw_dir)
    path.write_bytes(content[:-1])
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte is truncated: 23535 bytes .*, expected 23536"
    ):
        prepare.open_builder("mnist", data_dir=tmp_path / "b", raw_dir=raw_dir)
    path.unlink()
    with pytest.raises(
        DataError, match=r"raw lacks train-images-idx3-ubyte\.gz \(or train-images-idx3-ubyte\)"
    ):
        prepare.open_builder("mnist", data_dir=tmp_path / "b", raw_dir=raw_dir)
    path.write_bytes(content)  # a failure leaves nothing that breaks the next attempt
    assert (
        prepare.open_builder("mnist", data_dir=tmp_path / "b", raw_dir=raw_dir)
        .info.splits["test"]
        .num_examples
        == 20
    )


def test_cifar_content(tmp_path, monkeypatch):
    records = write_cifar(tmp_path / "raw", Cifar100, np.random.default_rng(2))
    monkeypatch.setattr(Cifar100, "FILES", {"train": {"train.bin": 4}, "test": {"test.bin": 4}})
    source = prepare.open_builder(
        "cifar100", data_dir=tmp_path, raw_dir=tmp_path / "raw"
    ).as_data_source("train")
    by_id = {example["id"].decode(): example for example in source}
    for i, record in enumerate(records["train"]):
        example = by_id[f"train_{i:05d}"]
        assert (example["coarse_label"], example["label"]) == tuple(record[:2])
        np.testing.assert_array_equal(
            example["image"], record[2:].reshape(3, 32, 32).transpose(1, 2, 0)
        )


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_features_are_those_of_the_stock_builder(tmp_path, name):
    stock = tfds.builder_cls(name)(data_dir=tmp_path)
    ours = prepare.BUILTIN[name](data_dir=tmp_path)
    assert ours.info.full_name == stock.info.full_name
    assert ours.info.features.to_json() == stock.info.features.to_json()
    names = [builder.info.features["label"].names for builder in (ours, stock)]
    assert names[0] == names[1]
    assert ours.info.supervised_keys == stock.info.supervised_keys


def test_card(data_dir):
    card = describe("digits", data_dir=data_dir)
    assert (card.name, card.version, card.model_shape, card.num_classes) == (
        "digits",
        "1.0.0",
        (8, 8, 1),
        10,
    )
    assert card.splits == {"train": 1438, "test": 359}
    assert card.label_names == tuple("0123456789")
    assert describe("digits", data_dir=data_dir, decoding=Decoding(16)).model_shape == (16, 16, 1)


def test_unknown_name_version_and_raw_dir(tmp_path, data_dir):
    with pytest.raises(
        DataError,
        match=r"unknown data set 'fashion-mnist', did you mean fashion_mnist.*Built in: digits",
    ):
        describe("fashion-mnist", data_dir=data_dir)
    with pytest.raises(DataError, match=r"digits has no version 9\.9\.9 in .*, only 1\.0\.0"):
        describe("digits:9.9.9", data_dir=data_dir)
    with pytest.raises(
        DataError, match=r"mnist: raw_dir .*nowhere lacks train-images-idx3-ubyte\.gz"
    ):
        describe("mnist", data_dir=tmp_path, raw_dir=tmp_path / "nowhere")


def test_data_dir_that_cannot_be_written_or_is_full(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    message = r"cannot prepare digits in data_dir .*file/below \(.*Not a directory.*--config\.data\.data_dir=DIR"
    with pytest.raises(DataError, match=message):
        describe("digits", data_dir=tmp_path / "file" / "below")

    def fail(self, **kwargs):  # what array_record raises
        raise RuntimeError(
            "Failed to finalize writing: write() failed: No space left on device; writing x"
        )

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(DataError, match=r"in data_dir .*No space left on device.*TFDS_DATA_DIR"):
        describe("digits", data_dir=tmp_path)


def test_set_without_random_access(tmp_path, data_dir):
    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    info = tmp_path / "digits" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(
        DataError, match=r"is prepared as tfrecord, which has no random access\. Prepare it again"
    ):
        describe("digits", data_dir=tmp_path)


def test_data_dir_from_the_environment(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert describe("digits").directory.startswith(str(data_dir))


def test_command_line(tmp_path, data_dir, capsys):
    assert main([]) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in prepare.BUILTIN)
    assert main(["digits", f"--data_dir={data_dir}", f"--sheet={tmp_path / 's.png'}"]) == 0
    out = capsys.readouterr().out
    assert "train: 1,438 examples; 0 151," in out
    assert str(tmp_path / "s.png") in out
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert main(["digitz", f"--data_dir={data_dir}"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: unknown data set 'digitz', did you mean digits")
    assert captured.err.count("\n") == 1
