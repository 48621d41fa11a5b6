"""Damaged data sets, found on the host: labels that are no class, tokens without an embedding,
texts not in UTF-8."""

import dataclasses
import json
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from input_pipeline import DataError, describe, describe_text, make_loader
from input_pipeline.__main__ import main as show
from input_pipeline.examples import read_labels
from input_pipeline.ids import check_labels
from input_pipeline.prepare import open_builder
from input_pipeline.text import translation_texts
from tests.test_text import write
from train import setup
from train.config import Config, ConfigError, DataConfig


@pytest.mark.parametrize(
    "labels, options, message",
    [
        ([0, 2, 3, 7], {}, "example 2 of a split has label 3, and its classes are 0 to 2"),
        ([0, -2], {}, "example 1 of a split has label -2"),
        ([0, 2**40], {}, "example 1 of a split has label 1099511627776"),
        ([0, 3], {"indices": np.array([50, 70])}, "example 70 of a split has label 3"),
        (
            [-1, 0, -1],
            {"complete": True},
            "a split has 2 examples without a label, first example 0; name another",
        ),
    ],
)
def test_labels(labels, options, message):
    check_labels(np.array([0, 2, -1]), 3, "a split")
    check_labels(np.array([0, 2]), 3, "a split", complete=True)
    check_labels(np.zeros(0, int), 3, "a split", complete=True)
    with pytest.raises(DataError, match=message):
        check_labels(np.array(labels), 3, "a split", **options)


class Everything(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images, texts and two labels of three classes; prepared files are then changed by hand."""

    name = "everything"
    VERSION = tfds.core.Version("1.0.0")
    code_path = None
    url_infos = {}  # noqa: RUF012

    def _info(self):
        label = tfds.features.ClassLabel(names=["a", "b", "c"])
        features = {"image": tfds.features.Image(shape=(4, 4, 1)), "label": label, "more": label}
        features |= {"text": tfds.features.Text(), "other": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(b"caf\xc3\xa9"),
            "latin": self._generate_examples(b"caf\xe9"),
        }

    def _generate_examples(self, last):
        image = Image.fromarray(np.zeros((4, 4), np.uint8))
        for i in range(6):
            text = last if i == 4 else f"text {i}".encode()
            yield (
                i,
                {"image": image, "label": i % 3, "more": (i + 1) % 3, "text": text, "other": text},
            )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    Everything(data_dir=root, file_format="array_record").download_and_prepare(
        download_config=config
    )
    return root


@pytest.fixture
def damaged(prepared):
    """Its metadata know two of the three classes of both labels."""
    path = prepared / "everything" / "1.0.0" / "features.json"
    before = path.read_text()
    features = json.loads(before)
    for key in ("label", "more"):
        features["featuresDict"]["features"][key]["classLabel"]["numClasses"] = "2"
        (path.parent / f"{key}.labels.txt").write_text("a\nb\n")
    path.write_text(json.dumps(features))
    yield prepared
    path.write_text(before)
    for key in ("label", "more"):
        (path.parent / f"{key}.labels.txt").write_text("a\nb\nc\n")


def read(data_dir, split="train", **options):
    return list(
        make_loader(
            "everything", split, **{"batch_size": 3, "train": False, "data_dir": data_dir} | options
        )
    )


def test_an_image_whose_label_is_no_class(damaged):
    for options in ({}, {"in_memory_bytes": 0}):  # held in memory, and read when asked for
        with pytest.raises(
            DataError,
            match=r"example 2 of everything/1\.0\.0/train has label 2, .* are 0 to 1: the dat",
        ):
            read(damaged, **options)
    with pytest.raises(DataError, match=r"example 1 of everything/1\.0\.0/train has label 2"):
        read_labels(open_builder("everything", data_dir=damaged), "train", "more")


def test_a_text_whose_label_is_no_class(damaged):
    card = describe_text(
        "everything", form="labels", max_len=8, tokenizer="words", texts=("text",), data_dir=damaged
    )
    with pytest.raises(
        DataError, match=r"example 2 of split 'train' of everything/1\.0\.0 has label 2"
    ):
        read(damaged, text=card)


def test_another_version_of_a_data_set_is_noticed(prepared):
    card = describe("everything", data_dir=prepared, labels=("more",))
    assert len(read(prepared, known=card)) == 2
    for kind, fields, message in (
        (
            "class_label",
            {"label_names": ("b", "a", "c")},
            "its 3 classes are a, b, c, and then they were b, a, c",
        ),
        ("class_labels", {"tasks": {"more": 2}}, "more has 3 classes, and then it had 2"),
        (
            "image",
            {"image_shape": (8, 8, 1)},
            r"its images are \(4, 4, 1\), and then they were \(8, 8, 1\)",
        ),
    ):
        with pytest.raises(DataError, match=f"is not what the run was trained on: {message}"):
            read(prepared, known=card.changed(kind, **fields))


LATIN = r"split 'latin' of everything/1\.0\.0: its text is not UTF-8, byte 0xe9 at offset 3; prepare the data set from"


def test_text_that_is_not_utf8_is_named(prepared, capsys):
    options = {"max_len": 8, "data_dir": prepared}
    windows = describe_text("everything", tokenizer="bpe", vocab_size=300, **options)
    with pytest.raises(DataError, match=f"example 4 of {LATIN}"):
        read(prepared, "latin", text=windows)
    labels = describe_text(
        "everything", form="labels", tokenizer="words", texts=("text",), **options
    )
    with pytest.raises(DataError, match=f"example 4 of {LATIN}"):
        read(prepared, "latin", text=labels)
    pairs = describe_text(
        "everything", form="translation", tokenizer="words", texts=("text", "other"), **options
    )
    for function in (
        lambda: read(prepared, "latin", text=pairs),
        lambda: translation_texts("everything", "latin", pairs, data_dir=prepared),
        lambda: describe_text("everything", tokenizer="words", train_split="latin", **options),
    ):
        with pytest.raises(DataError, match=f"example 4 of {LATIN}"):
            function()
    capsys.readouterr()
    assert show(["everything", f"--data_dir={prepared}"]) == 2
    assert re.search(
        f"error: example 4 of {LATIN}".replace("its text", "its other"), capsys.readouterr().err
    )


def test_tokens_beyond_the_vocabulary_are_found_before_any_device(prepared):
    options = {"max_len": 8, "data_dir": prepared, "vocab_size": 300}
    card = describe_text(
        "everything", form="labels", tokenizer="wordpiece", texts=("text",), **options
    )
    text = card.kind("text")
    assert text.opened_tokenizer(card.name).get_vocab_size() == text.vocab_size
    smaller = card.changed("text", vocab_size=text.vocab_size - 1)
    for function in (
        lambda: read(prepared, text=smaller),
        lambda: smaller.kind("text").padded([("text 1",)], card.name),
    ):
        with pytest.raises(
            DataError,
            match=r"of everything has .* tokens, and its vocab_size is .*: its dataset.json is",
        ):
            function()
    with pytest.raises(
        DataError, match="the tokenizer that the run keeps of everything cannot be read"
    ):
        damaged = card.changed("text", tokenizer='{"version": "1.0"}').kind("text")
        damaged.padded([("text 1",)], card.name)


@pytest.mark.parametrize(
    "model, objective, fields, message",
    [
        (
            "bert_tiny",
            "classification",
            {"type_vocab_size": 1},
            "type_vocab_size = 1 is below the 2 of text_labels; nearest",
        ),
        ("bert_tiny", "classification", {"vocab_size": 5}, "vocab_size = 5 is below the"),
        (
            "transformer_tiny",
            "seq2seq",
            {"target_vocab_size": 5, "share_embeddings": False},
            "target_vocab_size = 5 is below",
        ),
    ],
)
def test_a_model_has_an_embedding_for_every_token_and_type(
    tmp_path, model, objective, fields, message
):
    line = {"text": "a b c d e", "text_pair": "f g h", "source": "a b c d", "target": "e f g h"}
    lines = "\n".join(json.dumps(line | {"label": str(i % 2)}) for i in range(20))
    name = "text_labels" if objective == "classification" else "text_pairs"
    raw = write(tmp_path / "raw", {"all.jsonl": lines})
    data = DataConfig(
        name=name,
        raw_dir=str(raw),
        data_dir=str(tmp_path / "data"),
        tokenizer="wordpiece",
        max_len=16,
    )
    sizes = {"num_layers": 1, "num_heads": 1, "hidden_size": 4, "mlp_dim": 4}
    config = Config(
        model=model, task=objective, data=data, model_fields=sizes | fields, batch_size=8
    )
    with pytest.raises(ConfigError, match=message):
        setup.build(config)
    good = {k: v for k, v in config.model_fields.items() if "vocab" not in k}
    assert setup.build(dataclasses.replace(config, model_fields=good))
