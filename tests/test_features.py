"""Features: any inputs with any labels make a data set; each is written, read and loaded."""

import json

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from input_pipeline import DataError, describe, make_loader
from input_pipeline.features import Given, Image, Number, Row, from_json, to_json
from input_pipeline.features.spec import make_spec
from train.options.fields import fits

SPLIT = {"train": 6}
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1), np.uint8)
INK = IMAGES.reshape(6, -1).mean(1) / 255
ROWS = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)


class Measured(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images or rows with a number or two, the numbers a function of the pixels."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None
    url_infos = {}  # noqa: RUF012
    inputs = "image"
    numbers = INK

    def _info(self):
        image = tfds.features.Image(shape=(4, 4, 1))
        row = tfds.features.Tensor(shape=(3,), dtype=np.float32)
        label = tfds.features.Tensor(shape=self.numbers.shape[1:], dtype=np.float32)
        found = {self.inputs: image if self.inputs == "image" else row, "label": label}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(found), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        images = [PIL.Image.fromarray(image[..., 0]) for image in IMAGES]
        values = images if self.inputs == "image" else ROWS
        for i, label in enumerate(self.numbers):
            yield i, {self.inputs: values[i], "label": label.astype(np.float32)}


def prepared(root, inputs, numbers):
    """Root of the data sets, with one of them prepared; its name is "measured"."""
    kind = type(
        "Measured", (Measured,), {"inputs": inputs, "numbers": numbers}, skip_registration=True
    )
    kind(data_dir=root, file_format="array_record").download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return root


def require(name, value, hint):
    if not fits(value, hint):
        raise ValueError(f"{name} is {value!r}")


def spec_of(inputs, label, tasks=None):
    return make_spec("mine", "1.0.0", SPLIT, "/x", inputs, label, tasks or {})


SPECS = {
    "image and number": spec_of({"image": Image((4, 4, 1))}, Number()),
    "image and numbers": spec_of({"image": Image((4, 4, 1))}, Number(2)),
    "row and number": spec_of({"row": Row(("a", "b"), (0.0, 1.0), (1.0, 2.0))}, Number()),
    "row and labels": spec_of({"row": Row(("a",), (0.0,), (1.0,))}, None, {"p": 2, "q": 3}),
    "image, row and number": spec_of(
        {"image": Image((4, 4, 1)), "row": Row(("a",), (0.0,), (1.0,))}, Number()
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_new_pairing_is_read_as_it_was_written(name):
    spec = SPECS[name]
    values = json.loads(json.dumps(to_json(spec)))
    assert from_json(values, require) == spec
    assert {f["kind"] for f in values["features"].values()} == {
        f.kind for f in spec.features.values()
    }
    values["features"]["label" if spec.label else "tasks"]["kind"] = "smell"
    with pytest.raises(ValueError, match="unknown kind 'smell'"):
        from_json(values, require)


def test_a_batch_holds_what_the_features_say():
    shapes = SPECS["image, row and number"].shapes(5, 0)
    assert shapes == {
        "image": ((5, 4, 4, 1), np.uint8),
        "features": ((5, 1), np.float32),
        "label": ((5,), np.float32),
        "weight": ((5,), np.float32),
        "present": ((5, 2), np.bool_),
    }
    assert SPECS["image and numbers"].shapes(5, 0)["label"] == ((5, 2), np.float32)
    assert SPECS["row and labels"].shapes(5, 0)["label_q"] == ((5,), np.int32)
    assert "a number each" in SPECS["row and number"].summary()


@pytest.mark.parametrize("in_memory_bytes", [0, 2**20])
@pytest.mark.parametrize("numbers", [INK, np.stack([INK, -INK], 1)], ids=["one", "two"])
def test_images_with_numbers(tmp_path, numbers, in_memory_bytes):
    root = prepared(tmp_path, "image", numbers)
    spec = describe("measured", data_dir=root, numbers=True)
    mean, std = (tuple(np.atleast_1d(f(numbers.astype(np.float32), 0))) for f in (np.mean, np.std))
    assert spec.kinds == ("image",) and spec.label.size == len(mean)
    np.testing.assert_allclose((spec.label.mean, spec.label.std), (mean, std), rtol=1e-5)
    options = {"batch_size": 4, "train": False, "data_dir": root, "known": spec}
    batches = list(make_loader("measured", "train", in_memory_bytes=in_memory_bytes, **options))
    for batch in batches:
        assert {k: (v.shape, v.dtype) for k, v in batch.items()} == spec.shapes(4, 0)
    found = {k: np.concatenate([b[k] for b in batches])[:6] for k in ("image", "label")}
    np.testing.assert_array_equal(found["image"], IMAGES)
    np.testing.assert_array_equal(found["label"], numbers.astype(np.float32))
    other = spec.changed("number", size=3)
    with pytest.raises(DataError, match="and then it was 3 numbers each"):
        make_loader("measured", "train", **options | {"known": other})


def test_rows_with_a_number(tmp_path):
    root = prepared(tmp_path, "features", INK)
    spec = describe("measured", data_dir=root, numbers=True)
    assert spec.kinds == ("row",) and spec.num_classes == 1
    np.testing.assert_allclose(spec.kind("row").mean, ROWS.mean(0), rtol=1e-5)
    (batch,) = make_loader("measured", "train", batch_size=6, train=False, data_dir=root)
    np.testing.assert_array_equal(batch["label"], INK.astype(np.float32))
    with pytest.raises(DataError, match="it is a number, for task regression"):
        describe("measured", data_dir=root)


def test_a_label_that_is_no_number_is_refused(tmp_path):
    numbers = INK.copy()
    numbers[2] = np.nan
    for inputs in ("image", "features"):
        root = prepared(tmp_path / inputs, inputs, numbers)
        with pytest.raises(DataError, match="missing or not finite, first example 2"):
            list(make_loader("measured", "train", batch_size=6, train=False, data_dir=root))


def test_classes_are_no_numbers(tmp_path):
    with pytest.raises(DataError, match="has no feature 'label' that is a floating-point number"):
        describe("digits", data_dir=tmp_path, numbers=True)


def test_an_image_is_given_whatever_the_label(tmp_path):
    PIL.Image.fromarray(IMAGES[0, ..., 0]).save(tmp_path / "a.png")
    warnings = []
    spec = make_spec("mine", "1.0.0", SPLIT, "/x", {"image": Image((4, 4, 1))}, Number(), {})
    words = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    given = Given(text=str, lines=list, warn=warnings.append, invert=True)
    names, arrays, broken = spec.read(words, given)
    assert names == words[:1] and broken == 1 and "b.png: no such file" in warnings[0]
    np.testing.assert_array_equal(arrays["image"][0], 255 - IMAGES[0])
    assert arrays["label"].tolist() == [0.0] and arrays["weight"].tolist() == [1.0]
