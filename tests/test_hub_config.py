"""``config.json`` of transformers: each key of its config classes is applied, changes nothing, or
is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodels import weights
from jaxmodels.catalogue import HUB_FAMILIES
from jaxmodels.foreign.keys import ACTIVATIONS, BOOKKEEPING, FIXED, GENERATION
from jaxmodels.foreign.original import transformers
from jaxmodels.weights import WeightsError
from jaxmodels.weights.hub_config import fields_from_transformers

CLASSES = {
    "vit": ("ViTConfig", "ViTForImageClassification"),
    "bert": ("BertConfig", "BertForSequenceClassification"),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel"),
    "marian": ("MarianConfig", "MarianMTModel"),
}
TINY = {
    "vit": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
    },
    "bert": {
        "vocab_size": 20,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 12,
    },
    "gpt2": {
        "vocab_size": 20,
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "n_inner": 24,
        "n_positions": 12,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "marian": {
        "vocab_size": 20,
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "max_position_embeddings": 12,
        "pad_token_id": 17,
        "decoder_start_token_id": 17,
    },
}
# keys of files on the hub that today's classes do not list, of transformers 2 to 4
LEGACY = {
    "_attn_implementation_autoset": True,
    "_num_labels": 5,
    "cross_attention_hidden_size": 8,
    "finetuning_task": "sst-2",
    "gradient_checkpointing": True,
    "is_causal": True,
    "is_decoder": True,
    "language": "english",
    "num_labels": 3,
    "output_past": True,
    "per_layer_config": {"0": {"hidden_act": "relu"}},
    "position_embedding_type": "relative_key",
    "prefix": "x",
    "pruned_heads": {"0": [1]},
    "quantization_config": {"quant_method": "bitsandbytes"},
    "sep_token_id": 3,
    "task_specific_params": {"translation": {"num_beams": 5}},
    "tie_encoder_decoder": True,
    "tie_last_hidden_states": False,
    "tokenizer_class": "BertTokenizer",
    "torch_dtype": "float16",
    "torchscript": True,
    "unk_token_id": 3,
    "use_bfloat16": True,
    "xla_device": True,
    "summary_last_dropout": 0.3,
    "n_ctx": 5,
    "static_position_embeddings": True,
}
ONLY = {"summary_last_dropout": "gpt2", "n_ctx": "gpt2", "static_position_embeddings": "marian"}
# another value of each key of the classes
CHANGED = LEGACY | {
    "_name_or_path": "someone/else",
    "activation_dropout": 0.2,
    "activation_function": "relu",
    "add_cross_attention": True,
    "architectures": ["T5ForConditionalGeneration"],
    "attention_dropout": 0.2,
    "attention_probs_dropout_prob": 0.2,
    "attn_pdrop": 0.2,
    "bos_token_id": 4,
    "chunk_size_feed_forward": 1,
    "classifier_dropout": 0.3,
    "d_model": 32,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 32,
    "decoder_layerdrop": 0.2,
    "decoder_layers": 2,
    "decoder_start_token_id": 4,
    "decoder_vocab_size": 18,
    "dropout": 0.2,
    "dtype": "float16",
    "embd_pdrop": 0.2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "encoder_layerdrop": 0.2,
    "encoder_layers": 2,
    "encoder_stride": 8,
    "eos_token_id": 5,
    "forced_eos_token_id": 5,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.2,
    "hidden_size": 32,
    "id2label": {"0": "a", "1": "b", "2": "c"},
    "image_size": [8, 12],
    "init_std": 0.1,
    "initializer_range": 0.1,
    "intermediate_size": 32,
    "is_encoder_decoder": True,
    "label2id": {"a": 1, "b": 0},
    "layer_norm_eps": 0.1,
    "layer_norm_epsilon": 0.1,
    "max_position_embeddings": 14,
    "model_type": "roberta",
    "n_embd": 32,
    "n_head": 4,
    "n_inner": None,
    "n_layer": 2,
    "n_positions": 14,
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "output_attentions": True,
    "output_hidden_states": True,
    "pad_token_id": 6,
    "patch_size": 2,
    "pooler_act": "relu",
    "pooler_output_size": 8,
    "problem_type": "single_label_classification",
    "qkv_bias": False,
    "reorder_and_upcast_attn": True,
    "resid_pdrop": 0.2,
    "return_dict": False,
    "scale_attn_by_inverse_layer_idx": True,
    "scale_attn_weights": False,
    "scale_embedding": True,
    "share_encoder_decoder_embeddings": False,
    "summary_activation": "tanh",
    "summary_first_dropout": 0.3,
    "summary_proj_to_labels": False,
    "summary_type": "mean",
    "summary_use_proj": False,
    "tie_word_embeddings": False,
    "transformers_version": "4.0.0",
    "type_vocab_size": 3,
    "use_cache": False,
    "vocab_size": 22,
}
ALWAYS_REFUSED = {"architectures", "model_type", "is_causal"} | FIXED.keys()
REFUSED = {
    "vit": {"qkv_bias", "is_encoder_decoder", "is_decoder"},
    "bert": {"is_decoder", "is_encoder_decoder"},
    "gpt2": {"scale_attn_weights", "scale_attn_by_inverse_layer_idx", "is_encoder_decoder"},
    "marian": {"is_encoder_decoder"}  # of both halves there must be the same
    | {
        f"{side}_{name}"
        for side in ("encoder", "decoder")
        for name in ("layers", "ffn_dim", "attention_heads")
    }
    | {"num_hidden_layers", "num_attention_heads"},
}
SHAPES_ONLY = {("vit", "image_size"), ("vit", "num_channels"), ("bert", "tie_word_embeddings")}
"""Keys that no field says: the first two are the image shape, the third is of another head."""
TOGETHER = {  # what must change with a key
    ("marian", "tie_word_embeddings"): {"share_encoder_decoder_embeddings": False},
    ("marian", "decoder_vocab_size"): {"share_encoder_decoder_embeddings": False},
    ("marian", "share_encoder_decoder_embeddings"): {"decoder_vocab_size": 18},
}


def class_keys(kind):
    """Every key of the original's config class, and of the files of older versions."""
    cls = getattr(transformers(), CLASSES[kind][0])
    keys = (
        set(cls().to_dict())
        | {f.name for f in dataclasses.fields(cls)}
        | set(cls.attribute_map)
        | set(LEGACY)
    )
    return sorted(key for key in keys if ONLY.get(key, kind) == kind)


def written(kind, directory, **changes):
    """A directory of transformers with just this config.json, and its model."""
    library = transformers()
    config_class, model_class = (getattr(library, name) for name in CLASSES[kind])
    config = TINY[kind] | {"model_type": kind, "architectures": [model_class.__name__]} | changes
    torch.manual_seed(0)
    model = model_class(
        config_class.from_dict({k: v for k, v in config.items() if "dtype" not in k})
    )
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "embed_positions" in name:  # Marian's sines
                continue
            value.copy_(
                torch.randn(value.shape) * 0.3
                + ("norm" in name.lower() and name.endswith("weight"))
            )
    directory.mkdir(exist_ok=True)
    model.save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(config))
    return config, model.eval()


def inputs(kind, config):
    rng = np.random.default_rng(0)
    if kind == "vit":
        side = config.get("image_size")
        height, width = side if isinstance(side, list) else (side, side)
        return (rng.normal(size=(2, height, width, config["num_channels"])).astype(np.float32),)
    return tuple(rng.integers(3, 18, (2, 7)) for _ in range(2 if kind == "marian" else 1))


def theirs(kind, model, given):
    given = [torch.from_numpy(x) for x in given]
    with torch.no_grad():
        if kind == "vit":
            found = model(given[0].permute(0, 3, 1, 2).to(model.dtype))
        elif kind == "marian":
            found = model(input_ids=given[0], decoder_input_ids=given[1])
        else:
            found = model(given[0])
    return (found[0] if isinstance(found, tuple) else found.logits).float().numpy()


def ours(model, variables, given):
    found = model.apply(variables, *map(jnp.asarray, given), train=False)
    return np.asarray(found if isinstance(found, jax.Array) else found.logits)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Results of the unchanged config of each kind: our model, transformers' model and its
    outputs."""
    found = {}
    for kind in CLASSES:
        directory = tmp_path_factory.mktemp(kind)
        config, original = written(kind, directory)
        model, variables = weights.load(directory)
        given = inputs(kind, config)
        expected = theirs(kind, original, given)
        np.testing.assert_allclose(ours(model, variables, given), expected, rtol=1e-4, atol=1e-4)
        found[kind] = directory, model, original, expected
    return found


def applied(kind):
    family = HUB_FAMILIES[kind]
    labels = {"id2label", "num_labels"} if kind in ("vit", "bert") else set()
    return (family.applied.keys() | family.aliases.keys() | labels) - REFUSED[kind]


def test_the_keys_are_those_of_the_classes():
    for kind in CLASSES:
        assert not set(class_keys(kind)) - CHANGED.keys(), (
            "a new key of transformers: which value changes it?"
        )
        assert len(class_keys(kind)) > 40
        assert HUB_FAMILIES[kind].aliases == getattr(transformers(), CLASSES[kind][0]).attribute_map
        assert applied(kind) | REFUSED[kind] <= set(class_keys(kind))
    assert GENERATION | BOOKKEEPING >= set(transformers().GenerationConfig().to_dict())


@pytest.mark.parametrize("kind", CLASSES)
def test_a_key_that_is_not_applied_changes_nothing_or_is_refused_by_name(kind, base):
    directory, model, original, expected = base[kind]
    config_class, model_class = (getattr(transformers(), name) for name in CLASSES[kind])
    before, refused = json.loads((directory / "config.json").read_text()), set()
    said = {"architectures": "of T5ForConditionalGeneration", "model_type": "model type 'roberta'"}
    for key in sorted(set(class_keys(kind)) - applied(kind)):
        value = CHANGED[key] if CHANGED[key] != before.get(key) else before[key] + 2
        if (kind, key) == ("marian", "is_encoder_decoder"):
            value = False
        (directory / "config.json").write_text(json.dumps(before | {key: value}))
        try:
            loaded, _ = weights.load(directory)
        except WeightsError as e:
            assert said.get(key, HUB_FAMILIES[kind].aliases.get(key, key)) in str(e)
            assert "\n" not in str(e) and len(str(e)) < 500
            refused.add(key)
            continue
        assert loaded == model, key
        if key == "return_dict":  # with false, heads of transformers fail
            continue
        if "dtype" in key:  # of the stored tensors
            again, precision = model_class.from_pretrained(directory), 0.05
        else:
            again = model_class(
                config_class.from_dict(json.loads((directory / "config.json").read_text()))
            )
            again.load_state_dict(original.state_dict())
            precision = 1e-6
        found = theirs(kind, again.eval(), inputs(kind, before))
        np.testing.assert_allclose(found, expected, rtol=precision, atol=precision, err_msg=key)
    (directory / "config.json").write_text(json.dumps(before))
    assert refused == (REFUSED[kind] | ALWAYS_REFUSED) & set(class_keys(kind))


@pytest.mark.parametrize("kind", CLASSES)
def test_an_applied_key_computes_what_transformers_computes(kind, base, tmp_path):
    for key in sorted(applied(kind)):
        changes = {key: CHANGED[key]} | TOGETHER.get((kind, key), {})
        if key in HUB_FAMILIES[kind].aliases:  # which wins over the other name
            changes |= {
                HUB_FAMILIES[kind].aliases[key]: TINY[kind][HUB_FAMILIES[kind].aliases[key]]
            }
        config, original = written(kind, tmp_path / key, **changes)
        model, variables = weights.load(tmp_path / key)
        assert model != base[kind][1] or (kind, key) in SHAPES_ONLY, key
        if not any(part in key for part in ("act", "eps", "head", "embedding")) or "drop" in key:
            continue  # the shapes show it, which all fit, or it is in training alone
        given = inputs(kind, config)
        expected = theirs(kind, original, given)
        np.testing.assert_allclose(
            ours(model, variables, given), expected, rtol=1e-4, atol=1e-4, err_msg=key
        )


@pytest.mark.parametrize("kind", CLASSES)
def test_what_generation_config_could_say_changes_nothing_here(kind, base):
    directory, model, *_ = base[kind]
    before = (directory / "config.json").read_text()
    (directory / "config.json").write_text(
        json.dumps(json.loads(before) | dict.fromkeys(GENERATION, 3))
    )
    assert weights.load(directory)[0] == model
    (directory / "config.json").write_text(before)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_key_that_nobody_knows_is_refused_unless_it_says_nothing(kind, base):
    directory, model, *_ = base[kind]
    before = (directory / "config.json").read_text()
    for value in (3, True, "x", [1], {"a": 1}, 0):
        (directory / "config.json").write_text(json.dumps(json.loads(before) | {"head_dim": value}))
        with pytest.raises(
            WeightsError, match=r"'head_dim' .* is not known here .* take it out of the file"
        ):
            weights.load(directory)
        with pytest.raises(WeightsError, match="'head_dim'"):
            weights.load(directory, model)
    for value in (None, False, "", [], {}):
        (directory / "config.json").write_text(json.dumps(json.loads(before) | {"head_dim": value}))
        assert weights.load(directory)[0] == model
    (directory / "config.json").write_text(before)


def test_every_activation_of_transformers_is_ours_or_refused():
    from transformers.activations import ACT2FN

    from jaxmodels.nn.layers import ACTIVATIONS as OURS

    x = np.linspace(-6, 6, 101, dtype=np.float32)
    assert ACTIVATIONS.keys() <= ACT2FN.keys()
    for name in ACT2FN:
        for kind, key in (
            ("vit", "hidden_act"),
            ("bert", "hidden_act"),
            ("gpt2", "activation_function"),
        ):
            config = {"model_type": kind, key: name}
            if name not in ACTIVATIONS:
                with pytest.raises(
                    WeightsError, match=rf"config\.json has {key} '{name}'; there are gelu"
                ):
                    fields_from_transformers(config)
                continue
            function = OURS[fields_from_transformers(config)[1]["activation"]]
            expected = ACT2FN[name](torch.from_numpy(x)).numpy()
            np.testing.assert_allclose(
                function(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6, err_msg=name
            )


def test_zero_is_a_value():
    kinds = {
        "vit": {"layer_norm_eps": 0.0},
        "bert": {
            "layer_norm_eps": 0,
            "hidden_dropout_prob": 0,
            "attention_probs_dropout_prob": 0.0,
        },
        "gpt2": {"layer_norm_epsilon": 0.0, "embd_pdrop": 0, "resid_pdrop": 0.0, "attn_pdrop": 0.0},
        "marian": {"dropout": 0.0},
    }
    for kind, config in kinds.items():
        fields = fields_from_transformers({"model_type": kind} | config)[1]
        zeros = [name for name, value in fields.items() if value == 0 and isinstance(value, float)]
        assert len(zeros) >= len(config), kind
