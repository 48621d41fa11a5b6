"""Weights both ways: bit for bit, strict, and only from good safetensors files."""

import json
import pickle
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import jaxmodels
from jaxmodels import originals, weights
from jaxmodels.catalogue import formats_of
from jaxmodels.families.bert.model import HEADS
from jaxmodels.families.bert.weights import BERT_CLASSES
from jaxmodels.weights import WeightsError, read_tensors, write_tensors
from jaxmodels.weights.__main__ import main
from jaxmodels.weights.hub_config import transformers_config
from tests.compiled import apply, init
from tests.test_models import COMPOSED
from train.compare.certificate import randomise

CASES = [  # model, image shape, fields
    ("mlp", (5, 4, 2), {"hidden_sizes": (6, 5)}),
    ("mlp", (5, 4, 2), {"hidden_sizes": ()}),
    ("cnn", (8, 6, 2), {"pool": "each", "features": (3, 4), "hidden_size": 5}),
    ("cnn", (6, 6, 1), {"pool": "last", "features": (3, 4)}),
    (
        "alexnet",
        (64, 64, 1),
        {"features": (4, 5, 6, 7, 8), "hidden_sizes": (9, 10), "pooled_size": 2},
    ),
    (
        "vgg11",
        (32, 32, 3),
        {"stage_features": (3, 4, 5, 6, 7), "hidden_sizes": (8, 9), "pooled_size": 2},
    ),
    (
        "vgg11_bn",
        (32, 32, 1),
        {"stage_features": (3, 4, 5, 6, 7), "hidden_sizes": (8, 9), "pooled_size": 2},
    ),
    ("googlenet", (224, 224, 3), {}),
    ("inception_v3", (299, 299, 3), {}),
    ("resnet18", (32, 32, 3), {}),
    ("resnet50", (32, 32, 1), {"stage_sizes": (1, 2, 1, 1), "stem": "small"}),
    ("resnet20", (8, 8, 1), {"stage_sizes": (1, 2, 1), "width": 4}),
    ("convnext_tiny", (32, 16, 2), {"stage_sizes": (1, 2, 1), "stage_features": (4, 6, 8)}),
    ("vit_ti_16", (32, 32, 3), {"num_layers": 2, "representation_size": 24}),
    ("vit_ti_16", (32, 32, 1), {"num_layers": 3, "scan": True}),
    (
        "vit_b_16_hf",
        (32, 32, 3),
        {"num_layers": 2, "hidden_size": 24, "num_heads": 2, "mlp_dim": 40},
    ),
    ("gpt2_tiny", (), {"num_layers": 2}),
    ("gpt2_tiny", (), {"num_layers": 3, "scan": True, "tie_embeddings": False}),
    ("bert_tiny", (), {}),
    ("bert_tiny", (), {"head": "classification"}),
    ("bert_tiny", (), {"num_layers": 3, "scan": True}),
    ("bert_tiny", (), {"next_sentence": False}),
    ("bert_tiny", (), {"tie_embeddings": False}),
    ("transformer_tiny", (), {"num_layers": 2}),
    (
        "transformer_tiny",
        (),
        {
            "num_layers": 3,
            "scan": True,
            "share_embeddings": False,
            "tie_embeddings": False,
            "target_vocab_size": 7,
        },
    ),
    ("marian", (), {"num_layers": 2, "hidden_size": 24, "num_heads": 2, "mlp_dim": 40}),
    ("lstm", (), {"num_layers": 2, "embed_size": 6, "hidden_size": 5}),
    ("bilstm", (), {"num_layers": 3, "embed_size": 6, "hidden_size": 5}),
    ("vae", (6, 4, 2), {"hidden_sizes": (7, 5), "latent_size": 3, "image_shape": (6, 4, 2)}),
    (
        "vae_conv",
        (8, 4, 2),
        {"features": (3, 4), "latent_size": 3, "likelihood": "gaussian", "image_shape": (8, 4, 2)},
    ),
]
IDS = [f"{name}-{i}" for i, (name, _, _) in enumerate(CASES)]


def make(name, **fields):
    known = jaxmodels.model_fields(name)
    sizes = {
        k: v
        for k, v in {"num_classes": 5, "vocab_size": 11}.items()
        if k in known and k not in fields
    }
    return jaxmodels.create(name, **sizes, **fields)


def original_of(model, shape):
    original = originals.build(model, shape)
    torch.manual_seed(0)
    randomise(original.module)
    return original, {k: v.numpy() for k, v in original.tensors().items()}


def same(a, b):
    """Same names, types, shapes and bytes."""
    assert sorted(a) == sorted(b)
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert a[name].shape == b[name].shape, name
        assert a[name].tobytes() == b[name].tobytes(), name
    return True


@pytest.fixture(scope="module")
def small():
    """A small ResNet with its tensors in torchvision's format."""
    model = jaxmodels.create("resnet18", num_classes=5, stage_sizes=(1, 1, 1, 1))
    return model, original_of(model, (32, 32, 3))[1]


@pytest.mark.parametrize(("name", "shape", "fields"), CASES, ids=IDS)
def test_round_trip_is_bitwise(name, shape, fields):
    model = make(name, **fields)
    original, tensors = original_of(model, shape)
    variables = weights.from_torch(model, tensors, image_shape=shape)  # finds the format by itself
    assert same(
        weights.to_torch(model, variables, image_shape=shape, format=original.format), tensors
    )


@pytest.mark.parametrize("name", sorted(set(jaxmodels.MODELS) - COMPOSED))
def test_every_preset_has_a_map(name):
    shape = (28, 28, 1) if name in ("mlp", "cnn") or name.startswith("vae") else None
    model = make(name, **({"image_shape": shape} if name.startswith("vae") else {}))
    for format in weights.formats(model):
        if format.startswith("transformers") and getattr(model, "final_norm", False):
            continue  # Marian's, which has none
        names = weights.torch_names(model, image_shape=shape, format=format)
        assert all(names.values())
    with torch.device("meta"):
        family_shape = formats_of(model).image_shape
        original = originals.build(model, family_shape if shape is None else shape)
    names = weights.torch_names(model, image_shape=shape, format=original.format)
    assert {n for found in names.values() for n in found} == set(original.tensors())


def test_other_precisions_come_back_bitwise(small):
    model, tensors = small
    half = {k: v.astype("bfloat16") if v.dtype == np.float32 else v for k, v in tensors.items()}
    narrow = model.clone(param_dtype=jnp.bfloat16)
    with pytest.raises(
        WeightsError, match="running_mean is bfloat16, the model has float32; pass cast=True"
    ):
        weights.from_torch(model, half)
    leaves = jax.tree.leaves(weights.from_torch(model, half, cast=True))
    assert {x.dtype.name for x in leaves} == {"float32", "int32"}
    parameters = {k: v for k, v in half.items() if "running" not in k}
    statistics = {k: v for k, v in tensors.items() if "running" in k}  # stay in float32
    variables = weights.from_torch(narrow, parameters | statistics)
    assert same(weights.to_torch(narrow, variables), parameters | statistics)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("layer2.0.bn1.running_var"), "layer2.0.bn1.running_var is missing"),
        (lambda t: t.pop("fc.bias"), "fc.bias is missing"),
        (lambda t: t.update({"fc.extra": t["fc.bias"]}), "fc.extra is left over"),
        (
            lambda t: t.update({"fc.weight": t["fc.weight"][:4]}),
            r"fc.weight has shape \(4, 512\), .* has \(5, 512\)",
        ),
        (
            lambda t: t.update({"fc.weight": t["fc.weight"].T}),
            r"fc.weight has shape \(512, 5\), .* has \(5, 512\)",
        ),
        (
            lambda t: t.update({"conv1.weight": t["fc.bias"]}),
            r"conv1.weight has shape \(5,\), which is not o i h w",
        ),
        (
            lambda t: t.update({"fc.bias": t["fc.bias"].astype(np.float16)}),
            "fc.bias is float16, the model has float32",
        ),
        (
            lambda t: t.update({"fc.bias": t["fc.bias"].astype(np.int32)}),
            "fc.bias is int32, the model has float32$",
        ),
        (
            lambda t: t.update({"bn1.num_batches_tracked": np.array(2**31)}),
            r"bn1.num_batches_tracked is int64 \(\), not an int64 count below 2\^31",
        ),
    ],
)
def test_every_mistake_names_the_tensor(small, change, words):
    model, tensors = small
    tensors = dict(tensors)
    change(tensors)
    with pytest.raises(WeightsError, match=words):
        weights.from_torch(model, tensors)


def test_packed_and_stacked_tensors_are_checked_too():
    model = make("vit_ti_16", num_layers=2, scan=True)
    _, tensors = original_of(model, (32, 32, 3))
    name = "encoder.layers.encoder_layer_1.self_attention.in_proj_weight"
    with pytest.raises(WeightsError, match=rf"{name} has shape \(575, 192\), not 3 equal parts"):
        weights.from_torch(model, tensors | {name: tensors[name][1:]}, image_shape=(32, 32, 3))
    with pytest.raises(
        WeightsError, match=rf"{name} has shape \(573, 192\), the model has \(576, 192\)"
    ):
        weights.from_torch(model, tensors | {name: tensors[name][3:]}, image_shape=(32, 32, 3))
    with pytest.raises(
        WeightsError, match=r"pos_embedding has shape \(1, 5, 192\), the model has \(1, 197, 192\)"
    ):
        weights.from_torch(model, tensors)


def test_counters_that_no_file_of_old_had(small):
    model, tensors = small
    old = {k: v for k, v in tensors.items() if "num_batches" not in k}
    variables = weights.from_torch(model, old)
    assert variables["batch_stats"]["bn_stem"]["count"] == 0
    one = {k: v for k, v in tensors.items() if k != "bn1.num_batches_tracked"}
    with pytest.raises(WeightsError, match=r"bn1\.num_batches_tracked is missing"):
        weights.from_torch(model, one)


def test_skip_leaves_out_what_matches(small):
    _, tensors = small
    other = jaxmodels.create("resnet18", num_classes=3, stage_sizes=(1, 1, 1, 1))
    variables = weights.from_torch(other, tensors, skip=("head", "stage_[34]_*"))
    assert sorted(variables["params"]) == [
        "bn_stem",
        "conv_stem",
        "stage_1_block_0",
        "stage_2_block_0",
    ]
    assert sorted(variables["batch_stats"]) == ["bn_stem", "stage_1_block_0", "stage_2_block_0"]
    with pytest.raises(WeightsError, match="skip 'he' matches nothing; fc"):
        weights.from_torch(other, tensors, skip=("he",))  # whole components only
    with pytest.raises(TypeError, match="several patterns"):
        weights.from_torch(other, tensors, skip="head")
    more = tensors | {"pooler.dense.weight": np.zeros(3, np.float32)}
    with pytest.raises(WeightsError, match=r"pooler\.dense\.weight is left over"):
        weights.from_torch(other, more, skip=("head",))
    weights.from_torch(other, more, skip=("head", "pooler.*"))


def test_a_directory_is_what_was_saved_last(tmp_path, small):
    model, tensors = small
    variables = weights.from_torch(model, tensors)
    names = sorted(tensors)
    write_tensors(tmp_path / "part.safetensors", {n: tensors[n] for n in names})
    index = {"weight_map": dict.fromkeys(names, "part.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    changed = jax.tree.map(lambda x: x + 1, variables)
    weights.save(tmp_path, model, changed)
    assert same(
        weights.to_torch(model, weights.load(tmp_path)[1]), weights.to_torch(model, changed)
    )


def test_a_directory_says_in_which_type_its_model_is(tmp_path, small):
    model, tensors = small
    narrow = model.clone(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    variables = weights.from_torch(narrow, tensors, cast=True)
    weights.save(tmp_path, narrow, variables)
    again, found = weights.load(tmp_path)
    assert again.dtype == again.param_dtype == jnp.bfloat16
    assert found["params"]["head"]["kernel"].dtype == jnp.bfloat16


def test_the_config_of_another_library_does_not_matter_where_the_model_is_given(tmp_path, small):
    model, tensors = small
    write_tensors(tmp_path / "model.safetensors", tensors)
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    assert same(weights.to_torch(model, weights.load(tmp_path, model)[1]), tensors)
    with pytest.raises(WeightsError, match="model type None"):
        weights.load(tmp_path)


def test_to_torch_is_strict_too(small):
    model, tensors = small
    variables = weights.from_torch(model, tensors)
    del variables["params"]["head"]["bias"]
    variables["params"]["head"]["scale"] = np.zeros(3, np.float32)
    variables["params"]["conv_stem"]["kernel"] = np.zeros((7, 7, 1, 64), np.float32)
    with pytest.raises(WeightsError) as e:
        weights.to_torch(model, variables)
    for words in (
        "params/head/bias is missing",
        "params/head/scale is left over",
        "(7, 7, 1, 64), not (7, 7, 3, 64)",
    ):
        assert words in str(e.value)


def test_exports_load_in_torchvision(tmp_path, small):
    model, tensors = small
    variables = weights.from_torch(model, tensors)
    weights.save(tmp_path, model, variables)
    module = originals.build(model, (32, 32, 3)).module
    module.load_state_dict(load_file(tmp_path / "model.safetensors"))
    image = np.random.default_rng(0).normal(size=(2, 48, 48, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = module.eval()(torch.from_numpy(image).permute(0, 3, 1, 2)).numpy()
    again, found = weights.load(tmp_path)  # the directory says what it is
    assert again == model
    assert same(weights.to_torch(again, found), tensors)
    np.testing.assert_allclose(
        apply(again, found, jnp.asarray(image), train=False), theirs, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("scan", [False, True])
def test_transformers_directories_both_ways(tmp_path, scan):
    model = make("vit_b_16_hf", num_layers=2, hidden_size=24, num_heads=2, mlp_dim=40)
    original, tensors = original_of(model, (32, 48 - 16, 1))
    original.module.save_pretrained(tmp_path / "theirs")
    image = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype(np.float32)
    inputs = torch.from_numpy(image).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = original.module.eval()(inputs).logits.numpy()

    loaded, variables = weights.load(tmp_path / "theirs", model.clone(scan=True) if scan else None)
    assert loaded == model.clone(scan=scan)
    np.testing.assert_allclose(
        apply(loaded, variables, jnp.asarray(image), train=False), expected, rtol=1e-5, atol=1e-5
    )

    weights.save(
        tmp_path / "ours", loaded, variables, image_shape=(32, 32, 1), format="transformers"
    )
    assert same(read_tensors(tmp_path / "ours"), read_tensors(tmp_path / "theirs"))
    import transformers

    again = transformers.ViTForImageClassification.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        np.testing.assert_array_equal(again(inputs).logits.numpy(), expected)
    assert same({k: v.numpy() for k, v in again.state_dict().items()}, tensors)


@pytest.mark.parametrize("tied", [True, False])
def test_gpt2_directories_both_ways(tmp_path, tied):
    import transformers

    model = make(
        "gpt2_tiny",
        max_len=16,
        num_layers=2,
        hidden_size=24,
        num_heads=2,
        mlp_dim=40,
        tie_embeddings=tied,
    )
    original, _ = original_of(model, ())
    original.module.save_pretrained(tmp_path / "theirs")
    tokens = np.random.default_rng(0).integers(0, 11, (2, 9))
    with torch.no_grad():
        expected = original.module.eval()(torch.from_numpy(tokens)).logits.numpy()
    loaded, variables = weights.load(tmp_path / "theirs")
    assert loaded == model
    logits = apply(loaded, variables, jnp.asarray(tokens), train=False).logits
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    weights.save(tmp_path / "ours", loaded, variables, format="transformers")
    assert same(read_tensors(tmp_path / "ours"), read_tensors(tmp_path / "theirs"))
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        np.testing.assert_array_equal(again(torch.from_numpy(tokens)).logits.numpy(), expected)


@pytest.mark.parametrize("head", sorted(set(HEADS) - {"choices"}))  # whose texts have an axis more
def test_bert_directories_both_ways(tmp_path, head):
    import transformers

    fields = {
        "max_len": 16,
        "num_layers": 2,
        "hidden_size": 24,
        "num_heads": 2,
        "mlp_dim": 40,
        "head": head,
    }
    model = make(
        "bert_tiny",
        **{"num_classes": 2} if head not in ("classification", "tokens") else {},
        **fields,
    )
    cls = getattr(transformers, BERT_CLASSES[head])
    theirs = cls(transformers.BertConfig(**transformers_config(model, ()))).eval()
    torch.manual_seed(0)
    randomise(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    rng = np.random.default_rng(0)
    tokens, types = rng.integers(0, 11, (2, 9)), rng.integers(0, 2, (2, 9))
    segments = (np.arange(9) < np.array([[9], [5]])).astype(np.int32)
    given = {"input_ids": tokens, "attention_mask": segments, "token_type_ids": types}
    given = {k: torch.from_numpy(v) for k, v in given.items()}
    with torch.no_grad():
        expected = [x.numpy() for x in theirs(**given).to_tuple()]

    loaded, variables = weights.load(tmp_path / "theirs")
    assert loaded == model
    found = apply(
        loaded,
        variables,
        jnp.asarray(tokens),
        jnp.asarray(segments),
        jnp.asarray(types),
        train=False,
    )
    if head == "pretraining":
        found = (found.tokens.logits, found.next_sentence)
    found = found if isinstance(found, tuple) else (found,)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        # padding means nothing
        real = segments.astype(bool) if a.shape[:2] == segments.shape else slice(None)
        assert np.abs(b).max() > 1e-2
        np.testing.assert_allclose(a[real], b[real], rtol=1e-4, atol=1e-5)
    weights.save(
        tmp_path / "ours",
        loaded,
        variables,
        format="transformers_base" if head == "none" else "transformers",
    )
    assert same(read_tensors(tmp_path / "ours"), read_tensors(tmp_path / "theirs"))
    again = cls.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        for a, b in zip(again(**given).to_tuple(), expected, strict=True):
            np.testing.assert_array_equal(a.numpy(), b)


def test_marian_directories_both_ways(tmp_path):
    import transformers

    model = make("marian", max_len=16, num_layers=2, hidden_size=24, num_heads=2, mlp_dim=40)
    original, _ = original_of(model, ())
    theirs = transformers.MarianMTModel(original.module.config).eval()
    # it has its table of positions
    theirs.load_state_dict(original.module.state_dict(), strict=False)
    theirs.save_pretrained(tmp_path / "theirs")
    source, target = np.random.default_rng(0).integers(0, 10, (2, 2, 9))
    given = {"input_ids": torch.from_numpy(source), "decoder_input_ids": torch.from_numpy(target)}
    with torch.no_grad():
        expected = theirs(**given).logits.numpy()
    loaded, variables = weights.load(tmp_path / "theirs")
    assert loaded == model
    logits = apply(loaded, variables, jnp.asarray(source), jnp.asarray(target), train=False).logits
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    weights.save(tmp_path / "ours", loaded, variables, format="transformers")
    again = transformers.MarianMTModel.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        np.testing.assert_array_equal(again(**given).logits.numpy(), expected)


def test_a_pretrained_encoder_with_a_new_head(tmp_path):
    """What the file has beside the encoder is named by patterns, or refused by name."""
    fields = {"max_len": 16, "num_layers": 1, "hidden_size": 24, "num_heads": 2, "mlp_dim": 40}
    original, tensors = original_of(make("bert_tiny", **fields), ())
    original.module.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    # as the hub's bert-base-uncased says of such a file
    config["architectures"] = ["BertForMaskedLM"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert weights.load(tmp_path)[0].head == "pretraining"
    model = make("bert_tiny", head="classification", **fields)
    with pytest.raises(
        WeightsError, match=r"classifier\.weight is missing.*cls\.predictions\..* is left over"
    ):
        weights.load(tmp_path, model)
    _, variables = weights.load(tmp_path, model, skip=("head", "cls.*"))
    assert "head" not in variables["params"]
    mean = make("bert_tiny", head="classification", pool="mean", **fields)
    variables = init(mean, jnp.ones((1, 4), int), train=False)
    with pytest.raises(
        WeightsError, match=r"transformers' BERT classifies by its pooler and not by pool='mean'"
    ):
        weights.save(tmp_path / "mean", mean, variables, format="transformers")
    assert not (tmp_path / "mean").exists()
    _, variables = weights.load(tmp_path, model, skip=("head", "cls.*"))
    np.testing.assert_array_equal(
        variables["params"]["pooler"]["bias"], tensors["bert.pooler.dense.bias"]
    )


def test_gpt2_as_openai_published_it():
    """Without the prefix, with the causal masks among the tensors, with or without the tied
    head."""
    model = make("gpt2_tiny", num_layers=2)
    tensors = original_of(model, ())[1]
    plain = {k.removeprefix("transformer."): v for k, v in tensors.items()}
    masks = {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 8, 8), np.float32)) for i in range(2)}
    expected = weights.to_torch(model, weights.from_torch(model, tensors))
    found = weights.from_torch(
        model, plain | masks | {"lm_head.weight": plain["wte.weight"].copy()}
    )
    assert same(weights.to_torch(model, found), expected)
    with pytest.raises(
        WeightsError, match=r"lm_head\.weight differs from wte\.weight, to which the model ties it"
    ):
        weights.from_torch(model, plain | {"lm_head.weight": plain["wte.weight"] + 1})
    with pytest.raises(
        WeightsError, match=r"h\.0\.attn\.c_attn\.weight has shape \(128, 383\), not 3 equal parts"
    ):
        weights.from_torch(
            model, plain | {"h.0.attn.c_attn.weight": plain["h.0.attn.c_attn.weight"][:, 1:]}
        )
    with pytest.raises(
        WeightsError,
        match=r"h\.0\.attn\.c_attn\.weight has shape \(128, 381\), the model has \(128, 384\)",
    ):
        weights.from_torch(
            model, plain | {"h.0.attn.c_attn.weight": plain["h.0.attn.c_attn.weight"][:, 3:]}
        )


def test_the_saved_preset_is_the_nearest(tmp_path):
    model = jaxmodels.create("resnet34", num_classes=3, width=4)
    image, rng = jnp.zeros((1, 32, 32, 3)), np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.random(x.shape).astype(x.dtype),
        jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image),
    )
    weights.save(tmp_path, model, variables, image_shape=(32, 32, 3))
    config = json.loads((tmp_path / "config.json").read_text())["jaxmodels"]
    assert config["model"] == "resnet34"
    assert config["fields"] == {"num_classes": 3, "width": 4}
    again, found = weights.load(tmp_path)
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_a_file_alone_needs_the_model(tmp_path, small):
    model, tensors = small
    write_tensors(tmp_path / "x.safetensors", tensors)
    with pytest.raises(WeightsError, match="that describes a model; pass model="):
        weights.load(tmp_path / "x.safetensors")
    assert same(
        weights.to_torch(model, weights.load(tmp_path / "x.safetensors", model)[1]), tensors
    )


def test_several_files_with_an_index(tmp_path, small):
    _, tensors = small
    names = sorted(tensors)
    write_tensors(tmp_path / "a.safetensors", {k: tensors[k] for k in names[:20]})
    write_tensors(tmp_path / "b.safetensors", {k: tensors[k] for k in names[20:]})
    places = {k: "a.safetensors" if i < 20 else "b.safetensors" for i, k in enumerate(names)}
    index = tmp_path / "model.safetensors.index.json"
    with pytest.raises(
        WeightsError, match=r"2 safetensors files and no model.safetensors.index.json"
    ):
        read_tensors(tmp_path)
    index.write_text(json.dumps({"weight_map": places}))
    assert same(read_tensors(tmp_path), tensors)
    index.write_text(json.dumps({"weight_map": places | {"ghost": "a.safetensors"}}))
    with pytest.raises(WeightsError, match="disagree on ghost"):
        read_tensors(tmp_path)
    index.write_text(json.dumps({"weight_map": places | {"ghost": "../a.safetensors"}}))
    with pytest.raises(WeightsError, match="outside its directory"):
        read_tensors(tmp_path)
    index.write_text("[]")
    with pytest.raises(WeightsError, match="not an index"):
        read_tensors(tmp_path)


def test_files_of_pytorch_itself_are_read(tmp_path, small):
    _, tensors = small
    save_file(
        {k: torch.from_numpy(np.array(v)) for k, v in tensors.items()}, tmp_path / "x.safetensors"
    )
    assert same(read_tensors(tmp_path / "x.safetensors"), tensors)


def test_pickles_are_refused_and_converted(tmp_path, small, capsys):
    model, tensors = small
    state = {f"module.{k}": torch.from_numpy(np.array(v)) for k, v in tensors.items()}
    old, new = tmp_path / "x.pth", tmp_path / "old.pt"
    torch.save({"state_dict": state, "epoch": 3}, old)
    torch.save(state, new, _use_new_zipfile_serialization=False)
    for path in (old, new):
        with pytest.raises(
            WeightsError, match=r"is a pickle.*python -m jaxmodels.weights convert .*safetensors"
        ):
            weights.load(path, model)
        assert main(["convert", str(path), str(tmp_path / "y.safetensors")]) == 0
        assert same(read_tensors(tmp_path / "y.safetensors"), tensors)
    disguised = tmp_path / "z.safetensors"
    disguised.write_bytes(pickle.dumps(print))
    with pytest.raises(WeightsError, match="is a pickle"):
        read_tensors(disguised)
    assert main(["convert", str(disguised), str(tmp_path / "n.safetensors")]) == 2
    assert "not a file of weights alone" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "y.safetensors")]) == 0
    assert "conv1.weight  float32  64x3x7x7" in capsys.readouterr().out


def test_bfloat16_pickles_are_converted_exactly(tmp_path):
    value = torch.randn(3, 4).bfloat16()
    torch.save({"a": value}, tmp_path / "x.pt")
    assert main(["convert", str(tmp_path / "x.pt"), str(tmp_path / "x.safetensors")]) == 0
    assert torch.equal(load_file(tmp_path / "x.safetensors")["a"], value)


def test_a_hub_id_is_fetched(tmp_path, monkeypatch, small):
    model, tensors = small
    weights.save(tmp_path, model, weights.from_torch(model, tensors))
    import huggingface_hub

    asked = []

    def fetch(name, revision, allow_patterns):
        asked.append((name, revision))
        assert not any(p.endswith((".bin", ".pth")) for p in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert same(weights.to_torch(model, weights.load("someone/resnet@v1")[1]), tensors)
    assert asked == [("someone/resnet", "v1")]

    def fail(*args, **kwargs):
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        WeightsError, match=r"someone/resnet is no local path.*\(no route to host\)"
    ):
        weights.load("someone/resnet")
    with pytest.raises(WeightsError, match="does not exist"):
        weights.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "t5"}, "model type 't5'; there is a map for vit, bert, gpt2, marian"),
        (
            {"model_type": "bert", "architectures": ["BertLMHeadModel"]},
            "is of BertLMHeadModel, a BERT that sees no later token",
        ),
        (
            {"model_type": "bert", "is_decoder": True},
            "is_decoder True, and the model here has False",
        ),
        (
            {"model_type": "marian", "decoder_layers": 3},
            "encoder_layers 12, decoder_layers 3: not one number",
        ),
        ({"model_type": "vit", "hidden_act": "mish"}, "hidden_act 'mish'"),
        ({"model_type": "vit", "qkv_bias": False}, "qkv_bias"),
        ({"jaxmodels": {"model": "resnet19"}}, "does not describe a model"),
        ([], "not an object of JSON"),
    ],
)
def test_a_config_that_we_cannot_have(tmp_path, config, words):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=words):
        weights.load(tmp_path)


def test_a_thousand_damaged_files(tmp_path):
    """Each is refused in one clear line or gives exactly what was written: never a crash, a hang or
    another number."""
    rng = np.random.default_rng(0)
    tensors = {
        "a.weight": rng.normal(size=(7, 5)).astype(np.float32),
        "b": rng.normal(size=(3, 2, 2)),
        "counter": np.array(5),
        "half": rng.normal(size=9).astype("bfloat16"),
    }
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors)
    good = path.read_bytes()
    assert same(read_tensors(path), tensors)
    header = 8 + int.from_bytes(good[:8], "little")
    refused = 0
    for i in range(1000):
        data = bytearray(good)
        kind, end = i % 5, header if i % 2 else len(good)
        if kind == 0:
            data = data[: rng.integers(len(good))]
        elif kind == 1:
            data += rng.bytes(int(rng.integers(1, 40)))
        elif kind == 2:
            data[rng.integers(end)] ^= 1 << int(rng.integers(8))
        elif kind == 3:
            start = int(rng.integers(end))
            length = int(rng.integers(1, 30))
            data[start : start + length] = rng.bytes(len(data[start : start + length]))
        else:
            start, stop = sorted(rng.integers(0, end, 2))
            del data[start:stop]
        path.write_bytes(data)
        try:
            found = read_tensors(path)
        except WeightsError as e:
            assert str(path) in str(e)
            assert "\n" not in str(e)
            refused += 1
        else:
            assert same(found, tensors), f"damage {i} went unnoticed"
    assert refused > 900
    path.write_bytes(good)
    assert same(read_tensors(path), tensors)


def test_a_header_of_pickle_length_is_still_safetensors(tmp_path):
    """19,280 bytes of header begin with the letters PK, 640 with a byte that also begins a
    pickle."""
    for length in (19280, 640):
        header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(
            length
        )
        path = tmp_path / "x.safetensors"
        path.write_bytes(length.to_bytes(8, "little") + header.encode() + np.float32(2).tobytes())
        assert read_tensors(path)["a"] == 2


def test_weights_need_no_torch(tmp_path, small):
    model, tensors = small
    weights.save(tmp_path, model, weights.from_torch(model, tensors))
    code = f"""
import sys
from functools import partial
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "tensorflow"):
            raise ImportError(name + " must not be imported")
sys.meta_path.insert(0, Refuse())
from jaxmodels import weights
model, variables = weights.load({str(tmp_path)!r})
weights.save({str(tmp_path / "again")!r}, model, variables)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert same(read_tensors(tmp_path / "again"), tensors)
