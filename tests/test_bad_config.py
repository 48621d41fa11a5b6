"""A ``config.json`` that is damaged, absurd or of wrong types ends in one line, before anything is
made by it."""

import json
import time

import jax
import numpy as np
import pytest

import jaxmodels
from jaxmodels import weights
from jaxmodels.catalogue import HUB_FAMILIES
from jaxmodels.foreign.json_files import read_json_object
from jaxmodels.weights import WeightsError
from jaxmodels.weights.hub_config import fields_from_transformers

NAN = float("nan")
WRONG = [
    "12",
    12.5,
    True,
    None,
    [],
    [12],
    {},
    -1,
    0,
    10**9,
    2**40,
    10**400,
    float("nan"),
    float("inf"),
    "\ud800" * 300,
]


def refused(directory, config, *words):
    """One line that names the file, within a second."""
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    (directory / "config.json").write_bytes(text)
    start = time.monotonic()
    with pytest.raises(WeightsError) as e:
        weights.load(directory)
    assert time.monotonic() - start < 1
    line = str(e.value)
    assert (
        line.isprintable()
        and len(line) <= 500 + len(str(directory))
        and str(directory / "config.json") in line
    )
    for word in words:
        assert word in line, line
    return line


@pytest.mark.parametrize("kind", HUB_FAMILIES)
def test_wrong_types_and_absurd_sizes(kind, tmp_path):
    family = HUB_FAMILIES[kind]
    count = 0
    for key, setting in family.applied.items():
        for value in WRONG:
            if isinstance(setting.default, bool) and isinstance(value, bool):
                continue
            if isinstance(setting.default, float) and value == 0 and not isinstance(value, bool):
                continue
            if "eps" in key and value == 12.5:
                continue
            if value is None and setting.default is None:
                continue
            refused(tmp_path, {"model_type": kind, key: value}, key)
            count += 1
    assert count > 12 * len(family.applied)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"model_type": "bert", "num_attention_heads": 7},
            "hidden_size 768, which num_attention_heads 7 does not",
        ),
        ({"model_type": "gpt2", "hidden_size": 40}, "n_embd 40, which n_head 12 does not divide"),
        (
            {"model_type": "vit", "image_size": 8},
            "image_size 8x8, which patch_size 16 does not divide",
        ),
        ({"model_type": "vit", "image_size": [32, 40]}, "image_size 32x40, which patch_size 16"),
        (
            {"model_type": "vit", "image_size": [32, 32, 3]},
            "image_size [32, 32, 3]; it must be one number, or height",
        ),
        (
            {"model_type": "vit", "patch_size": [16, 8]},
            "patch_size [16, 8], and patches here are square",
        ),
        ({"model_type": "vit", "image_size": 16384, "patch_size": 2}, "rows of patches 8,192"),
        (
            {"model_type": "vit", "id2label": ["a", "b"]},
            "id2label ['a', 'b']; it must be an object",
        ),
        ({"model_type": "vit", "id2label": {"a": 1}}, "its names must be whole numbers"),
        ({"model_type": "vit", "id2label": {}}, "0 labels, and a classifier has 1"),
        ({"model_type": "vit", "num_labels": "3"}, "num_labels '3'; it must be a whole number"),
        (
            {"model_type": "bert", "architectures": "BertModel"},
            "architectures 'BertModel'; it must be a list",
        ),
        ({"model_type": "bert", "architectures": [3]}, "architectures [3]; it must be a list"),
        (
            {
                "model_type": "marian",
                "d_model": 48,
                "encoder_attention_heads": 5,
                "decoder_attention_heads": 5,
            },
            "d_model",
        ),
        (
            {"model_type": "marian", "d_model": 2**15, "max_position_embeddings": 2**15},
            "a matrix of more than 16,777,216",
        ),
        ({"model_type": ["bert"]}, "model type ['bert']"),
        ({"model_type": 5}, "model type 5"),
        ({"a": 1}, "model type None"),
    ],
)
def test_what_does_not_go_together(tmp_path, config, words):
    refused(tmp_path, config, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"model_type":' * 100_000, "nested too deeply"),
        (
            b'{"model_type": "bert", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            "nested too deeply",
        ),
        (b'{"model_type": "bert"', "no good JSON"),
        (b"", "no good JSON"),
        (b'{"model_type": "b\xffert"}', "no good JSON"),
        ('{"model_type": "bert"}'.encode("utf-16"), "no good JSON"),
        (b'{"vocab_size": 1, "model_type": "bert", "vocab_size": 2}', "names 'vocab_size' twice"),
        (b'{"model_type": "bert", "vocab_size": ' + b"9" * 5000 + b"}", "no good JSON"),
        (b"[1, 2]", "not an object of JSON"),
        (b"7", "holds 7, not an object of JSON"),
        (b"null", "holds None, not an object of JSON"),
    ],
)
def test_what_is_no_json_object(tmp_path, text, words):
    refused(tmp_path, text, words)
    with pytest.raises(WeightsError, match=r"config\.json"):  # and so with a model
        weights.load(tmp_path, jaxmodels.create("bert_tiny", vocab_size=9))


def test_what_is_no_file(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(WeightsError, match=r"config\.json is not a file"):
        weights.load(tmp_path)
    path = tmp_path / "large.json"
    path.write_bytes(b'{"a": "' + b"x" * 100 + b'"}')
    with pytest.raises(
        WeightsError, match=r"large\.json has 109 bytes, and a file of JSON here at most 50"
    ):
        read_json_object(path, max_bytes=50)
    path.write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')  # with a byte order mark
    assert read_json_object(path) == {"a": 1}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ([], "section jaxmodels that does not describe a model"),
        ({"model": "bert_tiny"}, "does not describe a model"),
        (
            {"model": "no such", "fields": {}, "image_shape": [], "format": "x"},
            "does not describe a model",
        ),
        (
            {"model": "bert_tiny", "fields": {"vocab_size": "9"}, "image_shape": [], "format": "x"},
            "vocab_size '9'",
        ),
        (
            {
                "model": "bert_tiny",
                "fields": {"vocab_size": 9, "num_layers": 10**9},
                "image_shape": [],
            },
            "num_layers 1000",
        ),
        (
            {
                "model": "bert_tiny",
                "fields": {"vocab_size": 9, "num_layers": 2000},
                "image_shape": [],
            },
            "of 2,000 layers",
        ),
        (
            {
                "model": "bert_tiny",
                "fields": {"vocab_size": 9, "num_layers": 2.0},
                "image_shape": [],
            },
            "num_layers 2.0",
        ),
        (
            {"model": "bert_tiny", "fields": {"vocab_size": 9, "scan": 1}, "image_shape": []},
            "scan 1; it must be of",
        ),
        (
            {"model": "bert_tiny", "fields": {"vocab_size": 9, "norm_eps": NAN}, "image_shape": []},
            "norm_eps nan",
        ),
        (
            {
                "model": "resnet18",
                "fields": {"num_classes": 2, "stage_sizes": [2, 5000]},
                "image_shape": [],
            },
            "5,002 layers",
        ),
        (
            {
                "model": "mlp",
                "fields": {"num_classes": 2, "hidden_sizes": [1] * 2000},
                "image_shape": [],
            },
            "2,000 numbers",
        ),
        (
            {"model": "mlp", "fields": {"num_classes": 2}, "image_shape": [10**6, 10**6, 3]},
            "which no images have",
        ),
        (
            {"model": "mlp", "fields": {"num_classes": 2}, "image_shape": [8, -8, 3]},
            "which no images have",
        ),
        (
            {"model": "mlp", "fields": {"num_classes": 2}, "image_shape": "x"},
            "which no images have",
        ),
        (
            {"model": "mlp", "fields": {"nope": 2}, "image_shape": [8, 8, 3], "format": "torch"},
            "has no field 'nope'",
        ),
        (
            {
                "model": "transformer_tiny",
                "fields": {"vocab_size": 9, "max_len": 2**24, "hidden_size": 2**20},
            }
            | {"image_shape": [], "format": "torch"},
            "too large",
        ),
    ],
)
def test_a_section_of_ours_that_is_absurd(tmp_path, section, words):
    refused(tmp_path, {"jaxmodels": section}, words)


def test_more_layers_than_tensors_are_not_traced(tmp_path):
    model = jaxmodels.create(
        "gpt2_tiny", vocab_size=9, num_layers=1, hidden_size=8, num_heads=2, mlp_dim=8
    )
    found = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jax.numpy.ones((1, 2), int), train=False)
    )
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), found)
    weights.save(tmp_path, model, variables)
    config = json.loads((tmp_path / "config.json").read_text())
    config["jaxmodels"]["fields"]["num_layers"] = config["n_layer"] = 900
    (tmp_path / "config.json").write_text(json.dumps(config))
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"num_layers 900, and there are 1\d tensors"):
        weights.load(tmp_path)
    assert time.monotonic() - start < 1


def test_random_values_are_refused_or_make_a_model():
    """Random values of each key raise no other exception."""
    rng, outcomes = np.random.default_rng(0), {True: 0, False: 0}
    pool = [
        *WRONG,
        *[12, 24, 768, 16, 1e-5, "gelu", "relu", False, {"0": "a"}, [32, 32], 3, 0.1] * 2,
    ]
    for kind, family in HUB_FAMILIES.items():
        keys = [
            *family.applied,
            *family.aliases,
            *family.fixed,
            "id2label",
            "num_labels",
            "architectures",
            "head_dim",
        ]
        for _ in range(250):
            chosen = keys[rng.integers(len(keys))], keys[rng.integers(len(keys))]
            config = {"model_type": kind} | {
                key: pool[rng.integers(len(pool))] for key in chosen[: rng.integers(3)]
            }
            try:
                cls, fields, _, _ = fields_from_transformers(config)
                cls(**fields)
                outcomes[True] += 1
            except WeightsError as e:
                assert str(e).isprintable() and len(str(e)) < 500
                outcomes[False] += 1
    assert min(outcomes.values()) > 50, outcomes
