"""Exact sizes of every preset, the dtype policy, fields that change shape only, mistakes; parity is
in test_compare."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxmodels
from jaxmodels.nn.layers import AuxiliaryLogits, TokenLogits
from tests.compiled import init

IMAGENET, CIFAR, GREY = (224, 224, 3), (32, 32, 3), (28, 28, 1)


def dense(rows, columns):
    return rows * columns + columns


def bert_heads(vocabulary, size):
    """Pooler, transform with its norm, bias of the vocabulary, next sentence."""
    return 2 * dense(size, size) + 2 * size + vocabulary + dense(size, 2)


def transformer(vocabulary, layers, size, mlp, *, norms=4):
    """One embedding; an encoder layer has 1 attention and 2 norms, a decoder layer 2 and 3;
    ``norms`` at the end."""
    attention, feed_forward = 4 * dense(size, size), dense(size, mlp) + dense(mlp, size)
    return (
        vocabulary * size + layers * (3 * attention + 2 * feed_forward + 10 * size) + norms * size
    )


# three convolutions; an embedding of 10 tokens and an LSTM
ENCODERS = 9 * (3 * 32 + 32 * 64 + 64 * 128) + 32 + 64 + 128 + 10 * 128 + 4 * 256 * (128 + 256 + 2)

PARAMETERS = {  # name -> (image shape, classes, exact number of parameters)
    "mlp": (GREY, 10, 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10),
    "cnn": (GREY, 10, 9 * 32 + 32 + 9 * 32 * 64 + 64 + 14 * 14 * 64 * 10 + 10),
    # torchvision's documentation
    "alexnet": (IMAGENET, 1000, 61_100_840),
    "vgg11": (IMAGENET, 1000, 132_863_336),
    "vgg11_bn": (IMAGENET, 1000, 132_868_840),
    "vgg13": (IMAGENET, 1000, 133_047_848),
    "vgg13_bn": (IMAGENET, 1000, 133_053_736),
    "vgg16": (IMAGENET, 1000, 138_357_544),
    "vgg16_bn": (IMAGENET, 1000, 138_365_992),
    "vgg19": (IMAGENET, 1000, 143_667_240),
    "vgg19_bn": (IMAGENET, 1000, 143_678_248),
    "googlenet": (IMAGENET, 1000, 13_004_888),  # with auxiliary heads
    "inception_v3": ((299, 299, 3), 1000, 27_161_264),
    "resnet18": (IMAGENET, 1000, 11_689_512),
    "resnet34": (IMAGENET, 1000, 21_797_672),
    "resnet50": (IMAGENET, 1000, 25_557_032),
    "resnet101": (IMAGENET, 1000, 44_549_160),
    "resnet152": (IMAGENET, 1000, 60_192_808),
    "convnext_tiny": (IMAGENET, 1000, 28_589_128),
    "convnext_small": (IMAGENET, 1000, 50_223_688),
    "convnext_base": (IMAGENET, 1000, 88_591_464),
    "convnext_large": (IMAGENET, 1000, 197_767_336),
    "vit_b_16": (IMAGENET, 1000, 86_567_656),
    "vit_b_32": (IMAGENET, 1000, 88_224_232),
    "vit_l_16": (IMAGENET, 1000, 304_326_632),
    "vit_l_32": (IMAGENET, 1000, 306_535_400),
    "vit_h_14": (IMAGENET, 1000, 632_045_800),
    "vit_b_16_hf": (IMAGENET, 1000, 86_567_656),
    # Steiner et al. 2022, arXiv:2106.10270, table 2 (5.5 and 22 million), with a head of 1000
    # classes
    "vit_ti_16": (IMAGENET, 1000, 5_717_416),
    "vit_s_16": (IMAGENET, 1000, 22_050_664),
    # He et al. 2016, table 6 (0.27 and 0.85 million)
    "resnet20": (CIFAR, 10, 269_722),
    "resnet56": (CIFAR, 10, 853_018),
    # Radford et al. 2019, table 2 (117, 345, 762 and 1542 million, which the authors corrected),
    # and transformers
    "gpt2_tiny": ((), 65, 65 * 128 + 256 * 128 + 4 * (12 * 128**2 + 13 * 128) + 256),
    "gpt2_124m": ((), 50_257, 124_439_808),
    "gpt2_355m": ((), 50_257, 354_823_168),
    "gpt2_774m": ((), 50_257, 774_030_080),
    "gpt2_1558m": ((), 50_257, 1_557_611_200),
    # transformers' BertForPreTraining and BertModel, which has 109,482,240, 335,141,888, 22,713,216
    # and 33,360,000
    "bert_base": ((), 30_522, 110_106_428),
    "bert_large": ((), 30_522, 336_226_108),
    "minilm_l6": ((), 30_522, 22_713_216 - dense(384, 384) + bert_heads(30_522, 384)),
    "minilm_l12": ((), 30_522, 33_360_000 - dense(384, 384) + bert_heads(30_522, 384)),
    "bert_tiny": ((), 100, (100 + 128 + 2 + 2) * 128 + 2 * (12 * 128**2 + 13 * 128) + bert_heads(100, 128)),
    # Vaswani et al. 2017, table 3 (65 and 213 million, with a vocabulary of about 37,000)
    "transformer_base": ((), 37_000, transformer(37_000, 6, 512, 2048)),
    "transformer_big": ((), 37_000, transformer(37_000, 6, 1024, 4096)),
    "transformer_tiny": ((), 100, transformer(100, 3, 128, 512)),
    "marian": ((), 58_101, transformer(58_101, 6, 512, 2048, norms=0) + 58_101),
    "lstm": ((), 100, 100 * 128 + 4 * 256 * (128 + 256 + 2) + 256 * 3 + 3),
    "bilstm": ((), 100, 100 * 128 + 8 * 256 * (128 + 256 + 2) + 8 * 256 * (512 + 256 + 2) + 512 * 3 + 3),
    "vae": (GREY, 0, 784 * 400 + 400 + 2 * (400 * 20 + 20) + 20 * 400 + 400 + 400 * 784 + 784),
    "vae_conv": (
        GREY,
        0,
        (16 * 32 + 32) + (16 * 32 * 64 + 64) + 2 * (3136 * 20 + 20)  # encoder
        + (20 * 3136 + 3136) + (16 * 64 * 32 + 32) + (16 * 32 + 1),
    ),
    # the encoders cnn and lstm without their heads; features of 128 for each and what stands for a
    # missing one
    "fusion": ((32, 32, 3), 10, ENCODERS + 2 * 128 + dense(2048, 128) + 2 * dense(256, 128) + dense(128, 3)),
    "dual_encoder": ((32, 32, 3), 10, ENCODERS + 2048 * 128 + 256 * 128 + 1),
}  # fmt: skip

COMPOSED = {"fusion", "dual_encoder"}
"""Made of other models: they have no original, and their parts have a certificate."""

LIGHT = {  # one of each family, small
    "mlp": (GREY, {}),
    "cnn": (GREY, {}),
    "alexnet": ((64, 64, 3), {"hidden_sizes": (16, 16)}),
    "vgg11_bn": (CIFAR, {"hidden_sizes": (16, 16)}),
    "googlenet": ((64, 64, 3), {}),
    "inception_v3": ((80, 80, 3), {"aux_heads": False}),
    "resnet18": (CIFAR, {}),
    "resnet20": (CIFAR, {}),
    "convnext_tiny": (CIFAR, {"stage_sizes": (1, 2), "stage_features": (8, 16)}),
    "vit_ti_16": (CIFAR, {"num_layers": 2, "scan": True, "remat": True}),
    "vit_b_16_hf": (CIFAR, {"num_layers": 1, "representation_size": 8}),
    "gpt2_tiny": ((), {"num_layers": 2, "scan": True, "remat": True}),
    "bert_tiny": ((), {"head": "classification", "scan": True, "remat": True}),
    "transformer_tiny": ((), {"scan": True, "remat": True}),
    "lstm": ((), {}),
    "bilstm": ((), {"embed_size": 8, "hidden_size": 8}),
    "vae": (GREY, {}),
    "vae_conv": (GREY, {"likelihood": "gaussian"}),
    "fusion": (CIFAR, {"fusion": "cross_attention", "text_encoder": "bert_tiny"}),
    "dual_encoder": (CIFAR, {"image_encoder": "resnet20"}),
}


def make(name, shape, classes=10, **fields):
    """A model and what it is called with: images, and noise for the autoencoders, or tokens."""
    if not shape:
        if "num_classes" in jaxmodels.model_fields(name):
            fields = {"num_classes": 3, **fields}
        model = jaxmodels.create(name, vocab_size=classes, **fields)
        texts = 2 if isinstance(model, jaxmodels.Transformer) else 1
        return model, (jnp.zeros((2, 9), jnp.int32),) * texts
    if name in COMPOSED:
        known = jaxmodels.model_fields(name)
        fields = {
            k: v
            for k, v in {"num_classes": 3, "vocab_size": classes, **fields}.items()
            if k in known
        }
        return jaxmodels.create(name, **fields), (
            jnp.zeros((2, *shape)),
            jnp.zeros((2, 9), jnp.int32),
        )
    if name.startswith("vae"):
        model = jaxmodels.create(name, image_shape=shape, **fields)
        return model, (jnp.zeros((2, *shape)), jnp.zeros((2, model.latent_size)))
    return jaxmodels.create(name, num_classes=classes, **fields), (jnp.zeros((2, *shape)),)


def shapes(model, inputs):
    return jax.eval_shape(lambda key: model.init(key, *inputs, train=False), jax.random.key(0))


def test_no_preset_escapes_the_table():
    assert sorted(PARAMETERS) == jaxmodels.list_models()
    families = {jaxmodels.model_class(name) for name in LIGHT}
    assert families == {jaxmodels.model_class(name) for name in jaxmodels.MODELS}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name):
    shape, classes, expected = PARAMETERS[name]
    params = shapes(*make(name, shape, classes))["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", LIGHT)
def test_bfloat16_reaches_every_product_and_parameters_stay_float32(name, train):
    shape, fields = LIGHT[name]
    model, inputs = make(name, shape, dtype=jnp.bfloat16, **fields)
    inputs = tuple(x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x for x in inputs)
    variables = shapes(model, inputs)
    assert {x.dtype for x in jax.tree.leaves(variables["params"])} == {jnp.dtype("float32")}

    def apply(variables, inputs):
        rngs = {"dropout": jax.random.key(0)}
        mutable = [k for k in variables if k != "params"] if train else []
        outputs = model.apply(variables, *inputs, train=train, rngs=rngs, mutable=mutable)[0]
        return outputs.logits if isinstance(outputs, TokenLogits) else outputs

    jaxpr = jax.make_jaxpr(apply)(variables, inputs)
    products = [
        e
        for e in equations(jaxpr.jaxpr)
        if e.primitive.name in ("dot_general", "conv_general_dilated")
    ]
    assert len(products) >= 2
    for eqn in products:
        assert {v.aval.dtype for v in eqn.invars} == {jnp.dtype("bfloat16")}, eqn
    assert {x.dtype for x in jaxpr.out_avals} == {jnp.dtype("float32")}


def equations(jaxpr):
    """All equations, also inside scans, calls and rematerialised blocks."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            if hasattr(inner, "eqns"):
                yield from equations(getattr(inner, "jaxpr", inner))


def test_scan_and_remat_change_nothing(x64):
    fields = {"num_layers": 3, "hidden_size": 24, "num_heads": 2, "mlp_dim": 32, "patch_size": 8}
    image = jax.random.normal(jax.random.key(1), (2, 24, 16, 2))
    wide = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    plain = jaxmodels.create("vit_ti_16", num_classes=5, **fields, **wide)
    params = plain.init(jax.random.key(0), image, train=False)["params"]
    params["head"]["kernel"] = jax.random.normal(jax.random.key(2), params["head"]["kernel"].shape)
    blocks = [params[f"block_{i}"] for i in range(3)]
    stacked = {k: v for k, v in params.items() if not k.startswith("block_")}
    stacked["blocks"] = jax.tree.map(lambda *x: jnp.stack(x), *blocks)

    def gradient(model, params):
        return jax.grad(lambda p: jnp.square(model.apply({"params": p}, image, train=True)).sum())(
            params
        )

    expected = gradient(plain, params)
    for scan, remat in ((False, True), (True, False), (True, True)):
        model = plain.clone(scan=scan, remat=remat)
        text = str(jax.make_jaxpr(lambda p, m=model: gradient(m, p))(stacked if scan else params))
        assert ("scan[" in text, "policy=None" in text) == (scan, remat)
        found = gradient(model, stacked if scan else params)
        if scan:
            found = found | {
                f"block_{i}": jax.tree.map(lambda x, i=i: x[i], found["blocks"]) for i in range(3)
            }
            del found["blocks"]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), found, expected
        )


def test_plain_vit_positions_match_the_published_formula():
    """Beyer et al. 2022: features are sin x, cos x, sin y, cos y, and neighbours differ in one of
    the two only."""
    from jaxmodels.families.vit.model import sincos_positions

    table = sincos_positions(3, 4, 16).reshape(3, 4, 16)
    np.testing.assert_array_equal(table[0, :, :8], table[2, :, :8])
    np.testing.assert_array_equal(table[:, 0, 8:], table[:, 3, 8:])
    np.testing.assert_allclose(table[1, 2, 0], np.sin(2.0))
    np.testing.assert_allclose(table[1, 2, 7], np.cos(2.0 * 1e-4), rtol=1e-12)
    np.testing.assert_allclose(table[1, 2, 12], np.cos(1.0))
    model = jaxmodels.create(
        "vit_ti_16", num_classes=3, num_layers=1, pool="mean", position="sincos"
    )
    params = shapes(model, (jnp.zeros((1, 32, 48, 3)),))["params"]
    assert "position" not in params
    assert "class_token" not in params


@pytest.mark.parametrize(
    ("name", "shape", "fields"),
    [
        (
            "alexnet",
            (28, 28, 1),
            {"stem": "small", "hidden_sizes": (8, 8), "pooled_size": 3, "lrn": True},
        ),
        (
            "vgg11",
            (28, 28, 1),
            {"stage_sizes": (1, 1, 2), "stage_features": (4, 8, 8), "hidden_sizes": (8,)},
        ),
        ("googlenet", (28, 28, 1), {"stem": "small"}),
        ("inception_v3", (90, 75, 1), {"aux_heads": False}),
        ("resnet18", (28, 20, 1), {"stem": "small"}),
        ("vit_ti_16", (28, 56, 1), {"patch_size": 7, "num_layers": 1}),
    ],
)
def test_grey_and_small_images(name, shape, fields):
    model, inputs = make(name, shape, classes=6, **fields)
    out = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), *inputs, train=False)[0])
    assert out.shape == (2, 6)


def test_auxiliary_heads_are_for_training():
    model, inputs = make("googlenet", (32, 32, 3), classes=6)
    variables = shapes(model, inputs)

    def apply(v, train):
        return model.apply(
            v, *inputs, train=train, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"]
        )[0]

    outputs = jax.eval_shape(lambda v: apply(v, True), variables)
    assert isinstance(outputs, AuxiliaryLogits)
    assert [x.shape for x in (outputs.logits, *outputs.auxiliary)] == [(2, 6)] * 3
    assert jax.eval_shape(lambda v: apply(v, False), variables).shape == (2, 6)


@pytest.mark.parametrize(
    ("name", "shape", "fields"),
    [
        ("mlp", (10,), {"dropout_rate": 0.5}),
        (
            "alexnet",
            (28, 28, 1),
            {"stem": "small", "hidden_sizes": (8, 8), "features": (4,) * 5, "pooled_size": 1},
        ),
        (
            "vgg11",
            (8, 8, 1),
            {"stage_sizes": (1,), "stage_features": (4,), "hidden_sizes": (8,), "pooled_size": 1},
        ),
        ("vit_ti_16", (16, 16, 1), {"num_layers": 1, "dropout_rate": 0.5}),
        ("vit_ti_16", (32, 32, 1), {"num_layers": 2, "attention_dropout_rate": 0.5, "scan": True}),
    ],
)
def test_dropout_is_on_in_training_only(name, shape, fields):
    model, _ = make(name, shape, classes=3, **fields)
    x = jax.random.normal(jax.random.key(3), (4, *shape))
    variables = init(model, x, train=False)
    # the ViT's head starts at zero
    variables = jax.tree.map(lambda p: p + 0.1, {"params": variables["params"]})

    @partial(jax.jit, static_argnames="train")
    def run(seed, *, train):
        return model.apply(variables, x, train=train, rngs={"dropout": jax.random.key(seed)})

    assert not jnp.array_equal(run(1, train=True), run(2, train=True))
    assert jnp.array_equal(run(1, train=False), run(2, train=False))


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("cnm", {}, ["'cnm'", "did you mean 'cnn'"]),
        ("cnn", {"hidden_sise": 3}, ["'hidden_sise'", "did you mean 'hidden_size'"]),
    ],
)
def test_create_names_the_mistake(name, fields, words):
    with pytest.raises(ValueError) as e:
        jaxmodels.create(name, num_classes=2, **fields)
    assert all(w in str(e.value) for w in words)


@pytest.mark.parametrize(
    ("name", "fields", "match"),
    [
        ("mlp", {"activation": "mish"}, "relu, sigmoid"),
        ("cnn", {"pool": "max"}, "none, last, each"),
        ("cnn", {"pool": "each", "features": (4,) * 5}, "2x2 pool"),
        ("alexnet", {}, r"a pool of 3 cannot take a map of 1"),
        ("alexnet", {"features": (4, 4)}, "five numbers"),
        ("vgg16", {}, "a pool of 2 cannot take a map of 1"),
        (
            "vgg16",
            {"stage_sizes": (1,)},
            r"stage_sizes \(1,\) and stage_features \(64, .*\) differ in length",
        ),
        ("resnet18", {"block": "wide"}, "basic, bottleneck"),
        ("resnet18", {"stage_sizes": (0,)}, "at least 1"),
        ("vit_b_16", {"patch_size": 3}, "8x8 is not divisible by patch_size 3"),
        (
            "vit_b_16",
            {"patch_size": 4, "num_heads": 7},
            "hidden_size 768 is not divisible by num_heads 7",
        ),
        ("vit_b_16", {"patch_size": 4, "pool": "max"}, "cls, mean"),
        (
            "vit_b_16",
            {"patch_size": 4, "hidden_size": 90, "num_heads": 9, "position": "sincos"},
            "divisible by 4",
        ),
        ("vit_b_16", {"patch_size": 4, "representation_size": -1}, "at least 0"),
        ("vit_b_16", {"patch_size": 4, "dropout_rate": 1.0}, "below 1"),
    ],
)
def test_impossible_fields_say_so(name, fields, match):
    model = jaxmodels.create(name, num_classes=2, **fields)
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False))


@pytest.mark.parametrize("name", PARAMETERS)
def test_help_says_what_a_preset_is(name):
    """Its docstring has its exact number of parameters, and its annotation its class."""
    preset = jaxmodels.MODELS[name]
    assert f"{PARAMETERS[name][2]:,} parameters" in preset.__doc__
    assert inspect.signature(preset).return_annotation is jaxmodels.model_class(name)
    assert getattr(jaxmodels, name) is preset


def test_families_share_no_preset_and_no_class():
    names = [name for family in jaxmodels.FAMILIES.values() for name in family.presets]
    assert sorted(names) == jaxmodels.list_models()
    assert len({family.cls for family in jaxmodels.FAMILIES.values()}) == len(jaxmodels.FAMILIES)
    for name in names:
        family = jaxmodels.family_of(name)
        assert family is jaxmodels.family_of(family.cls)
        assert jaxmodels.preset_fields(name).keys() <= jaxmodels.model_fields(name).keys()


@pytest.mark.parametrize("model", ["resnet19", nn.Dense])
def test_no_family(model):
    with pytest.raises(
        ValueError, match=r"did you mean 'resnet1|Dense is not a model of jaxmodels"
    ):
        jaxmodels.family_of(model)
