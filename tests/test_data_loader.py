"""Loader: order, resumption, padding, processes, the decoded cache, sets that vary in size."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from input_pipeline import DataError, Decoding, make_loader
from input_pipeline import examples as examples_module
from input_pipeline.decode import fit
from input_pipeline.examples import ArrayExamples
from input_pipeline.image_file import opened
from input_pipeline.loader import _TrainBatches
from input_pipeline.prepare import open_builder
from tests.test_image_file import encoded


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    open_builder("digits", data_dir=root)
    return root


@pytest.fixture
def load(data_dir: Path):
    """make_loader on digits that closes what it opened."""
    loaders = []

    def load(split: str = "test", *, batch_size: int, train: bool, **kwargs):
        loaders.append(
            make_loader(
                "digits", split, batch_size=batch_size, train=train, data_dir=data_dir, **kwargs
            )
        )
        return loaders[-1]

    yield load
    for loader in loaders:
        loader.close()


def take(loader, count: int) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(loader, count))


def joined(batches: list[dict[str, np.ndarray]], key: str) -> np.ndarray:
    return np.concatenate([batch[key] for batch in batches])


def assert_same(a: list[dict[str, np.ndarray]], b: list[dict[str, np.ndarray]]):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            np.testing.assert_array_equal(x[key], y[key])


def numbered(count: int) -> ArrayExamples:
    """Examples whose label is their index."""
    return ArrayExamples(np.zeros((count, 1, 1, 1), np.uint8), np.arange(count, dtype=np.int32))


@pytest.mark.parametrize("count, batch_size", [(10, 4), (10, 10), (7, 16), (1, 3)])
def test_each_epoch_is_a_permutation_whatever_the_batch_size(count, batch_size):
    source = _TrainBatches(numbered(count), batch_size, slice(0, batch_size), seed=3)
    stream = np.concatenate([source[t]["label"] for t in range(5 * count)])
    epochs = stream[: 4 * count].reshape(4, count)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(count), (4, 1)))
    if count == 10:
        assert len(np.unique(epochs, axis=0)) == 4  # epochs differ
        other = _TrainBatches(numbered(count), batch_size, slice(0, batch_size), seed=4)
        assert not np.array_equal(
            stream, np.concatenate([other[t]["label"] for t in range(5 * count)])
        )


def test_batch_format(load):
    (batch,) = take(load("train", batch_size=32, train=True), 1)
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "image": ((32, 8, 8, 1), "uint8"),
        "label": ((32,), "int32"),
        "weight": ((32,), "float32"),
    }
    assert batch["weight"].all()


@pytest.mark.parametrize("train", [True, False])
def test_processes_share_the_rows_of_the_same_global_batches(load, train):
    count = 20 if train else 6  # 359 test examples in batches of 64
    whole = take(load(batch_size=64, train=train), count)
    for processes in (2, 4):
        parts = [
            take(load(batch_size=64, train=train, process_index=i, process_count=processes), count)
            for i in range(processes)
        ]
        merged = [
            {k: np.concatenate([rank[k] for rank in ranks]) for k in ranks[0]}
            for ranks in zip(*parts, strict=True)
        ]
        assert_same(merged, whole)


@pytest.mark.parametrize("in_memory_bytes", [2**31, 0])  # without and with threads that prefetch
def test_resuming_anywhere_gives_the_same_stream(load, in_memory_bytes):
    reference = take(load(batch_size=50, train=True, in_memory_bytes=in_memory_bytes), 20)
    loader = load(batch_size=50, train=True, in_memory_bytes=in_memory_bytes)
    states = []
    for t in range(20):
        states.append(json.loads(json.dumps(loader.get_state())))
        assert states[-1] == {"next_index": t}  # what was consumed, not what was prefetched
        next(loader)
    for t in (19, 0, 7, 13):
        loader.set_state(states[t])
        assert_same(take(loader, 20 - t), reference[t:])
        started = load(batch_size=50, train=True, start_batch=t, in_memory_bytes=in_memory_bytes)
        assert_same(take(started, 20 - t), reference[t:])


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("batch_size", [64, 359, 512])
def test_evaluation_counts_every_example_once(load, data_dir, batch_size, processes):
    batch_size -= batch_size % processes
    ranks = [
        list(load(batch_size=batch_size, train=False, process_index=i, process_count=processes))
        for i in range(processes)
    ]
    assert {len(batches) for batches in ranks} == {-(-359 // batch_size)}
    batches = [
        {k: np.concatenate([b[k] for b in row]) for k in row[0]} for row in zip(*ranks, strict=True)
    ]
    real = joined(batches, "weight") == 1
    assert real.sum() == joined(batches, "weight").sum() == 359
    source = open_builder("digits", data_dir=data_dir).as_data_source("test")
    np.testing.assert_array_equal(
        joined(batches, "label")[real], [example["label"] for example in source]
    )
    np.testing.assert_array_equal(
        joined(batches, "image")[real], [example["image"] for example in source]
    )
    assert not joined(batches, "image")[~real].any()
    assert not joined(batches, "label")[~real].any()


def test_split_slices(load):
    def images(split):
        batches = list(load(split, batch_size=100, train=False))
        return joined(batches, "image")[joined(batches, "weight") == 1]

    train, test = images("train"), images("test")
    np.testing.assert_array_equal(
        np.concatenate([images("train[:90%]"), images("train[90%:]")]), train
    )
    np.testing.assert_array_equal(images("test[5:7]"), test[5:7])
    np.testing.assert_array_equal(
        images("test[-3:]+train[:2]"), np.concatenate([test[-3:], train[:2]])
    )


def test_streaming_equals_in_memory(load):
    for split, train in (("train[10%:20%]+test", True), ("test[:99]", False)):
        in_memory = take(load(split, batch_size=40, train=train), 20)
        assert_same(take(load(split, batch_size=40, train=train, in_memory_bytes=0), 20), in_memory)


def test_prefetching_thread_for_large_batches_changes_nothing(load):
    large = load("train", batch_size=20_000, train=True)  # 1.3 MB
    small = load("train", batch_size=1000, train=True)
    np.testing.assert_array_equal(joined(take(large, 1), "image"), joined(take(small, 20), "image"))
    assert large.get_state() == {"next_index": 1}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"batch_size": 10, "process_count": 4},
            "batch_size 10 must be a positive multiple of process_count 4",
        ),
        ({"batch_size": 0}, "batch_size 0"),
        (
            {"process_index": 2, "process_count": 2},
            "process_index 2 is not in 0 .. process_count - 1 = 1",
        ),
        ({"seed": -1}, "seed -1"),
        ({"start_batch": 7}, "start_batch 7 is not in 0 .. 6"),
        ({"split": "validation"}, "digits/1.0.0 has no split 'validation' .*Splits: train, test"),
        ({"split": "test[:0]"}, r"split 'test\[:0\]' of digits/1.0.0 has no examples"),
        ({"split": "test[:x%]"}, r"no split 'test\[:x%\]'"),
    ],
)
def test_wrong_arguments(load, arguments, message):
    with pytest.raises(DataError, match=message):
        load(**({"split": "test", "batch_size": 64, "train": False} | arguments))


def count_decodes(monkeypatch) -> list[str]:
    calls: list[str] = []
    original = examples_module.RecordExamples.load

    def counting(self, description):
        calls.append(description)
        return original(self, description)

    monkeypatch.setattr(examples_module.RecordExamples, "load", counting)
    return calls


def test_cache_is_used_and_rebuilt_when_damaged(tmp_path, monkeypatch):
    decodes = count_decodes(monkeypatch)

    def read():
        return list(make_loader("digits", "test", batch_size=359, train=False, data_dir=tmp_path))

    reference = read()
    assert_same(read(), reference)
    assert len(decodes) == 1
    (file,) = (tmp_path / ".jaxmodels_cache").glob("digits-1.0.0-test-*/image.npy")
    os.truncate(file, file.stat().st_size - 1)
    assert_same(read(), reference)
    assert len(decodes) == 2
    np.save(file.with_name("label.npy"), np.zeros(3, np.int32))
    assert_same(read(), reference)
    assert len(decodes) == 3
    assert_same(read(), reference)
    assert len(decodes) == 3
    (records,) = (tmp_path / "digits" / "1.0.0").glob("*test.array_record*")
    os.utime(records, ns=(0, 0))  # another file: the cache does not speak for it
    assert_same(read(), reference)
    assert len(decodes) == 4


def test_cache_that_cannot_be_written_is_done_without(tmp_path):
    open_builder("digits", data_dir=tmp_path)
    (tmp_path / ".jaxmodels_cache").touch()
    (batch,) = make_loader("digits", "test", batch_size=359, train=False, data_dir=tmp_path)
    assert batch["weight"].sum() == 359


class Varying(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images of several sizes under a name of their own, as a user's own data set may be."""

    VERSION = tfds.core.Version("1.2.3")
    code_path = None
    url_infos = {}  # noqa: RUF012

    def _info(self):
        features = {
            "picture": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, size in enumerate([(20, 10), (10, 20), (16, 16), (33, 47)]):
            ramp = np.linspace(0, 255, size[0], dtype=np.uint8)  # brighter to the right
            pixels = np.broadcast_to(ramp[None, :, None], (size[1], size[0], 3))
            yield i, {"picture": PIL.Image.fromarray(np.ascontiguousarray(pixels)), "label": i % 2}


def test_images_of_varying_size(tmp_path, capsys):
    Varying(data_dir=tmp_path, file_format="array_record").download_and_prepare()

    def read(**kwargs):
        return list(
            make_loader("varying", "train", batch_size=4, train=False, data_dir=tmp_path, **kwargs)
        )

    with pytest.raises(
        DataError,
        match=r"images of varying/1\.2\.3 vary in size: .*--config\.data\.image_size=SIZE",
    ):
        read()
    for batches in (read(decoding=Decoding(8)), read(decoding=Decoding(8), in_memory_bytes=0)):
        (batch,) = batches
        assert batch["image"].shape == (4, 8, 8, 3)
        # still brighter to the right
        assert (np.diff(batch["image"].astype(int), axis=2) > 0).all()
        # The shorter side is kept whole: a wide image loses its ends, a tall one keeps the full
        # range of brightness.
        spans = sorted((image[0, -1, 0] - image[0, 0, 0]).item() for image in batch["image"])
        assert spans[0] < 128 < 200 < spans[1]
        assert sorted(batch["label"]) == [0, 0, 1, 1]
    (centre,) = read(decoding=Decoding(8, resize_size=16))
    spans = sorted((image[0, -1, 0] - image[0, 0, 0]).item() for image in centre["image"])
    assert spans[-1] < 140  # half of it is cropped away


def test_random_decoding_is_new_in_every_epoch_and_the_same_after_resuming(tmp_path):
    Varying(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    decoding = Decoding(8, crop_area=(0.1, 0.5), randaugment_layers=1)

    def read(count, **kwargs):
        options = {
            "batch_size": 4,
            "train": True,
            "data_dir": tmp_path,
            "decoding": decoding,
        } | kwargs
        loader = make_loader("varying", "train", **options)
        batches = take(loader, count)
        loader.close()
        return batches

    reference = read(6)
    assert_same(read(3, start_batch=3), reference[3:])
    parts = [read(6, process_index=i, process_count=2) for i in range(2)]
    assert_same(
        [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)],
        reference,
    )
    images = joined(reference, "image")
    assert len(np.unique(images, axis=0)) > 20  # of 24: few coincide
    assert not np.array_equal(joined(read(6, seed=1), "image"), images)
    # evaluation has no chance in it
    assert_same(read(1, train=False), read(1, train=False, decoding=Decoding(8)))


class Odd(Varying, skip_registration=True):
    """Images as people store them: turned by their camera, transparent, animated, broken in the
    last split."""

    name = "odd"

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ("train", "broken")}

    def _generate_examples(self, split):
        frames = [PIL.Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (200, 100)]
        animated = encoded(frames[0], save_all=True, append_images=frames[1:])
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
        clear = np.dstack([pixels, pixels[..., 0]])
        files = [
            encoded(pixels, exif=exif),
            encoded(clear),
            encoded(pixels[..., 0].astype(np.uint16) * 257),
            animated,
        ]
        files += [animated] if split == "train" else [files[0][:50]]
        for i, data in enumerate(files):
            yield i, {"picture": data, "label": i % 2}


@pytest.mark.parametrize("in_memory_bytes", [2**31, 0])
def test_images_of_a_prepared_data_set_are_read_as_files_are(tmp_path, capsys, in_memory_bytes):
    Odd(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    options = {"batch_size": 5, "train": False, "data_dir": tmp_path, "decoding": Decoding(8)}
    capsys.readouterr()
    (batch,) = make_loader("odd", "train", **options, in_memory_bytes=in_memory_bytes)
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "several frames" in line]) == 1
    assert any(
        "of odd/1.2.3/train has several frames, of which the first is read" in line
        for line in lines
    )
    files = [
        record["picture"]
        for record in open_builder("odd", data_dir=tmp_path).as_data_source(
            "train", decoders={"picture": tfds.decode.SkipDecoding()}
        )
    ]
    for data, pixels in zip(files, batch["image"], strict=True):
        with opened(data, 3) as image:
            np.testing.assert_array_equal(pixels, np.asarray(fit(image, (8, 8))))
    assert sum((pixels == 200).all() for pixels in batch["image"]) == 2
    with pytest.raises(
        DataError, match=r"example \d of odd/1\.2\.3/broken: not a readable image \("
    ):
        list(make_loader("odd", "broken", **options, in_memory_bytes=in_memory_bytes))
