"""Every field of every model reaches its PyTorch original, or the original is refused with the
field's name."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

import jaxmodels
from jaxmodels import originals, weights
from jaxmodels.foreign.original import OriginalError
from jaxmodels.parity.randomness import deterministic_torch
from jaxmodels.parity.subject import main_output
from train.compare import twin
from train.compare.certificate import randomise
from train.config import Config, ConfigError
from train.tasks.classification import ClassificationOptions
from train.tasks.elbo import ELBOOptions

EXECUTION = {  # field -> why the original does not know it
    "dtype": "compared in float64 on both sides",
    "param_dtype": "compared in float64 on both sides",
    "attention": "by which kernel, not what is computed; tests/test_attention.py",
    "scan": "layers in a loop; the same parameters, stacked",
    "remat": "what is kept for the gradient",
    "origin": "where weights came from",
    "parent": "Linen's own",
    "name": "Linen's own",
}
INITIAL = {"zero_init_residual"}
"""Fields of initial values: the twin takes those of the run."""

SQUARE, GREY = (32, 32, 3), (8, 8, 1)
TINY = {"num_layers": 1, "num_heads": 2, "hidden_size": 16, "mlp_dim": 24}
BERT = TINY | {"vocab_size": 40, "max_len": 16, "head": "classification"}
FAMILIES = {  # preset, fields, shape of an image or (), and for each field another value
    "mlp": (
        ("mlp", {"num_classes": 4, "hidden_sizes": (8, 6)}, GREY),
        {"num_classes": 3, "hidden_sizes": (5,), "activation": "tanh", "dropout_rate": 0.5},
    ),
    "cnn": (
        ("cnn", {"num_classes": 4, "features": (4, 6), "hidden_size": 8}, GREY),
        {"num_classes": 3, "features": (5,), "pool": "each", "hidden_size": 0, "dropout_rate": 0.5},
    ),
    "alexnet": (
        (
            "alexnet",
            {
                "num_classes": 4,
                "features": (4, 5, 6, 7, 8),
                "hidden_sizes": (9, 8),
                "pooled_size": 2,
            },
            (64, 64, 3),
        ),
        {
            "num_classes": 3,
            "features": (5, 5, 6, 7, 9),
            "hidden_sizes": (7,),
            "stem": "small",
            "pooled_size": 1,
            "lrn": True,
            "dropout_rate": 0.25,
        },
    ),
    "vgg": (
        (
            "vgg11",
            {
                "num_classes": 4,
                "stage_sizes": (1, 1),
                "stage_features": (4, 5),
                "hidden_sizes": (6,),
                "pooled_size": 2,
            },
            SQUARE,
        ),
        {
            "num_classes": 3,
            "stage_sizes": (1, 2),
            "stage_features": (4, 6),
            "hidden_sizes": (),
            "batch_norm": True,
            "pooled_size": 1,
            "dropout_rate": 0.25,
        },
    ),
    "googlenet": (
        ("googlenet", {"num_classes": 4}, SQUARE),
        {
            "num_classes": 3,
            "stem": "small",
            "aux_heads": False,
            "transform_input": True,
            "dropout_rate": 0.5,
            "aux_dropout_rate": 0.5,
        },
    ),
    "inception": (
        ("inception_v3", {"num_classes": 4, "aux_heads": False}, (75, 75, 3)),
        {"num_classes": 3, "aux_heads": True, "transform_input": True, "dropout_rate": 0.25},
    ),
    "resnet": (
        ("resnet18", {"num_classes": 4, "stage_sizes": (1, 1, 1, 1)}, SQUARE),
        {
            "num_classes": 3,
            "stage_sizes": (1, 2, 1, 1),
            "block": "bottleneck",
            "width": 8,
            "stem": "small",
            "shortcut": "pad",
            "zero_init_residual": True,
        },
    ),
    "convnext": (
        (
            "convnext_tiny",
            {"num_classes": 4, "stage_sizes": (1, 2), "stage_features": (6, 8)},
            SQUARE,
        ),
        {
            "num_classes": 3,
            "stage_sizes": (2, 1),
            "stage_features": (5, 8),
            "patch_size": 2,
            "layer_scale": 0.5,
            "depth_dropout_rate": 0.5,
        },
    ),
    "cifar_resnet": (
        ("resnet20", {"num_classes": 4, "stage_sizes": (1, 1), "width": 4}, GREY),
        {
            "num_classes": 3,
            "stage_sizes": (1, 2, 1),
            "block": "bottleneck",
            "width": 6,
            "stem": "imagenet",
            "shortcut": "projection",
            "zero_init_residual": True,
        },
    ),
    "vae": (
        ("vae", {"image_shape": GREY, "hidden_sizes": (9,), "latent_size": 3}, GREY),
        {
            "image_shape": (8, 4, 1),
            "latent_size": 2,
            "kind": "conv",
            "hidden_sizes": (9, 5),
            "features": (4,),
            "likelihood": "gaussian",
            "activation": "gelu_tanh",
        },
    ),
    "vae_conv": (
        ("vae_conv", {"image_shape": GREY, "features": (4, 5), "latent_size": 3}, GREY),
        {
            "image_shape": (8, 4, 1),
            "latent_size": 2,
            "kind": "mlp",
            "hidden_sizes": (9,),
            "features": (4,),
            "likelihood": "gaussian",
            "activation": "tanh",
        },
    ),
    "vit": (
        ("vit_ti_16", TINY | {"num_classes": 4}, SQUARE),
        {
            "num_classes": 3,
            "patch_size": 8,
            "num_layers": 2,
            "num_heads": 4,
            "hidden_size": 12,
            "mlp_dim": 20,
            "representation_size": 5,
            "pool": "mean",
            "position": "sincos",
            "activation": "relu",
            "norm_eps": 1e-2,
            "dropout_rate": 0.5,
            "attention_dropout_rate": 0.5,
        },
    ),
    "gpt2": (
        ("gpt2_tiny", TINY | {"vocab_size": 40, "max_len": 16}, ()),
        {
            "vocab_size": 44,
            "max_len": 20,
            "num_layers": 2,
            "num_heads": 4,
            "hidden_size": 12,
            "mlp_dim": 20,
            "tie_embeddings": False,
            "activation": "relu",
            "norm_eps": 1e-2,
            "embedding_dropout_rate": 0.5,
            "dropout_rate": 0.5,
            "attention_dropout_rate": 0.5,
        },
    ),
    "bert": (
        ("bert_tiny", BERT, ()),
        {
            "vocab_size": 44,
            "max_len": 20,
            "type_vocab_size": 3,
            "num_layers": 2,
            "num_heads": 4,
            "hidden_size": 12,
            "mlp_dim": 20,
            "head": "pretraining",
            "num_classes": 3,
            "pool": "mean",
            "activation": "relu",
            "norm_eps": 1e-2,
            "dropout_rate": 0.5,
            "attention_dropout_rate": 0.5,
        },
    ),
    "bert-pretraining": (
        ("bert_tiny", BERT | {"head": "pretraining"}, ()),
        {"next_sentence": False, "tie_embeddings": False},
    ),
    "lstm": (
        ("lstm", {"vocab_size": 40, "num_classes": 3, "embed_size": 6, "hidden_size": 5}, ()),
        {
            "vocab_size": 44,
            "num_classes": 4,
            "embed_size": 7,
            "hidden_size": 6,
            "num_layers": 2,
            "bidirectional": True,
            "dropout_rate": 0.25,
        },
    ),
    "transformer": (
        ("transformer_tiny", TINY | {"vocab_size": 40, "max_len": 16}, ()),
        {
            "vocab_size": 44,
            "target_vocab_size": 40,
            "max_len": 20,
            "num_layers": 2,
            "num_heads": 4,
            "hidden_size": 12,
            "mlp_dim": 20,
            "share_embeddings": False,
            "tie_embeddings": False,
            "logits_bias": True,
            "position": "sine_halves",
            "scale_embedding": False,
            "activation": "gelu_tanh",
            "norm_first": True,
            "final_norm": False,
            "norm_eps": 1e-2,
            "dropout_rate": 0.5,
            "attention_dropout_rate": 0.5,
            "activation_dropout_rate": 0.5,
        },
    ),
    "marian": (
        ("marian", TINY | {"vocab_size": 40, "max_len": 16}, ()),
        {
            "vocab_size": 44,
            "target_vocab_size": 40,
            "max_len": 20,
            "num_layers": 2,
            "num_heads": 4,
            "hidden_size": 12,
            "mlp_dim": 20,
            "share_embeddings": False,
            "tie_embeddings": False,
            "logits_bias": False,
            "position": "sine",
            "scale_embedding": False,
            "activation": "relu",
            "norm_first": True,
            "final_norm": True,
            "norm_eps": 1e-2,
            "dropout_rate": 0.5,
            "attention_dropout_rate": 0.5,
            "activation_dropout_rate": 0.5,
        },
    ),
}
AT_ONCE = {  # of large originals
    "googlenet": ("num_classes", "transform_input", "dropout_rate", "aux_dropout_rate"),
    "inception": ("num_classes", "transform_input", "dropout_rate"),
}
CASES = [(family, ()) for family in FAMILIES if family not in AT_ONCE] + [*AT_ONCE.items()]
for family, (_, others) in FAMILIES.items():
    CASES += [(family, (name,)) for name in others if name not in AT_ONCE.get(family, ())]


COMPARED_ELSEWHERE = {"pooler"}
"""BERT's, for the head none, which has no objective: tests/test_weights_classes.py compares both
values."""


def fields_of(cls):
    return {f.name for f in dataclasses.fields(cls)} - {*EXECUTION}


def make(family, changed):
    """The model of a family with other values of some fields, without dropout but theirs, its shape
    and its inputs."""
    (name, fields, shape), others = FAMILIES[family]
    off = {k: 0.0 for k in jaxmodels.model_fields(name) if k.endswith("dropout_rate")}
    fields = off | fields | {name: others[name] for name in changed}
    model = jaxmodels.create(name, **fields, dtype=jnp.float64, param_dtype=jnp.float64)
    shape = fields.get("image_shape", shape)
    rng = np.random.default_rng(0)
    if not shape:
        tokens = rng.integers(1, 40, (2, 9)).astype(np.int32)
        inputs = (
            (tokens, tokens[:, ::-1].copy())
            if isinstance(model, jaxmodels.Transformer)
            else (tokens,)
        )
    else:
        inputs = (rng.uniform(size=(2, *shape)),)
        if isinstance(model, jaxmodels.VAE):
            inputs += (rng.normal(size=(2, model.latent_size)),)
    # parameters of auxiliary heads come to be from 299 pixels on
    return (
        model,
        (299, 299, 3) if changed == ("aux_heads",) and family == "inception" else shape,
        inputs,
    )


def as_torch(x):
    x = torch.from_numpy(x)
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x.long() if x.dtype == torch.int32 else x


@pytest.mark.parametrize("family", FAMILIES)
def test_no_field_escapes(family):
    cls = jaxmodels.model_class(FAMILIES[family][0][0])
    tried = [
        others for (name, _, _), others in FAMILIES.values() if jaxmodels.model_class(name) is cls
    ]
    assert set().union(*tried) == fields_of(cls) - COMPARED_ELSEWHERE


def test_no_family_escapes():
    with_original = {f.cls for f in jaxmodels.FAMILIES.values() if f.original is not None}
    assert {jaxmodels.model_class(name) for (name, _, _), _ in FAMILIES.values()} == with_original


@pytest.mark.parametrize(
    ("family", "changed"),
    CASES,
    ids=lambda x: x if isinstance(x, str) else "-".join(x) or "as it is",
)
def test_a_field_reaches_the_original_or_is_refused_by_name(family, changed, x64):
    model, shape, inputs = make(family, changed)
    before = make(family, ())[0]
    assert all(getattr(model, name) != getattr(before, name) for name in changed)
    with deterministic_torch(0):
        try:
            original = originals.build(model, shape)
        except (ConfigError, OriginalError) as e:
            assert changed and changed[0] in str(e), e
            assert "\n" not in str(e) and len(str(e)) <= 500
            return
        module = original.module.double()
        randomise(module)
        tensors = {k: v.clone().numpy() for k, v in original.tensors().items()}
        given = [as_torch(x) for x in inputs]
        variables = weights.from_torch(model, tensors, image_shape=shape, format=original.format)
        with torch.no_grad():
            theirs = original.main(module.eval()(*given)).numpy()
            ours = main_output(jax.jit(partial(model.apply, train=False))(variables, *inputs))
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())
            rates = [getattr(model, name) for name in changed if name.endswith("dropout_rate")]
            if family in AT_ONCE:  # batch norm makes training differ anyhow
                found = {m.p for m in module.modules() if isinstance(m, torch.nn.Dropout)}
                assert found >= {*rates}
            elif rates:
                module.train()
                first, second = (original.main(module(*given)).numpy() for _ in range(2))
                assert np.abs(first - second).max() > 1e-6 * np.abs(first).max(), (
                    "the original has no such dropout"
                )


@pytest.mark.parametrize("family", ["mlp", "cnn", "alexnet", "vgg"])
def test_as_much_dropout_as_ours(family, x64, monkeypatch):
    """At the same places: as many values, at the same rates."""
    (_, _, shape), _ = FAMILIES[family]
    model, shape, inputs = make(family, ("dropout_rate",))
    ours, theirs = [], []

    def note(call, args, kwargs, context):
        module = context.module
        if isinstance(module, nn.Dropout) and module.rate and not module.deterministic:
            ours.append((args[0].size, module.rate))
        return call(*args, **kwargs)

    plain = torch.nn.functional.dropout

    def dropout(x, p=0.5, training=True, inplace=False):
        if training and p:
            theirs.append((x.numel(), p))
        return plain(x, p, training, inplace)

    monkeypatch.setattr(torch.nn.functional, "dropout", dropout)
    with deterministic_torch(0):
        originals.build(model, shape).module.double().train()(*(as_torch(x) for x in inputs))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    with nn.intercept_methods(note):
        jax.eval_shape(partial(model.init, train=True), keys, *inputs)
    assert ours == theirs and ours


def test_every_option_of_a_run_is_followed_by_the_twin_or_refused():
    leaves = set()

    def walk(section, path):
        for f in dataclasses.fields(section):
            value = getattr(section, f.name)
            if dataclasses.is_dataclass(value):
                walk(value, f"{path}{f.name}.")
            else:
                leaves.add(f"{path}{f.name}")

    walk(Config(task="elbo", options=ELBOOptions()), "")
    known = leaves | {leaf.partition(".")[0] for leaf in leaves}
    assert twin.FOLLOWED | set(twin.HARMLESS) <= known
    assert not twin.FOLLOWED & set(twin.HARMLESS)
    changed = {  # the rest is refused unless it is off
        "accumulate": 2,
        "quantization_aware": True,
        "init_from": "x",
        "dtype": "bfloat16",
    }
    plain = Config(options=ClassificationOptions())
    for name, value in changed.items():
        with pytest.raises(ConfigError, match=rf"config\.{name} = "):
            twin.require_plain(dataclasses.replace(plain, **{name: value}))
    for section, name, value in (
        ("options", "label_smoothing", 0.1),
        ("optim", "ema_decay", 0.9),
        ("optim", "name", "lion"),
        ("data", "mixup", 0.2),
        ("prune", "sparsity", 0.5),
        ("distill", "teacher", "x"),
        ("tasks", "labels", ("a", "b")),
    ):
        config = Config(options=ClassificationOptions())
        setattr(getattr(config, section), name, value)
        with pytest.raises(ConfigError, match=rf"config\.{section}\.{name} = "):
            twin.require_plain(config)
    twin.require_plain(Config())
