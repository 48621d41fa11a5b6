"""Explanations: attention, Grad-CAM and gradients equal to PyTorch's; lens, rollout, faithfulness
to formulas."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import jaxmodels
from jaxmodels import originals, weights
from jaxmodels.capture import altering, feature_maps
from jaxmodels.explain import faithfulness
from jaxmodels.explain.attention import attention_maps, over_patches, rollout
from jaxmodels.explain.grad_cam import grad_cam
from jaxmodels.explain.gradients import (
    input_gradient,
    input_score,
    integrated_gradients,
    token_embeddings,
    token_score,
)
from jaxmodels.explain.logit_lens import hidden_states, logit_lens, read_out
from tests.compiled import apply, init
from train import sharding
from train.compare.certificate import randomise
from train.config import MeshConfig

WIDE = {"dtype": jnp.float64, "param_dtype": jnp.float64}
SMALL = {"num_layers": 2, "hidden_size": 32, "num_heads": 2, "mlp_dim": 48}
TEXT = {"vocab_size": 31, "max_len": 16, **SMALL}
VIT = {**SMALL, "num_classes": 5, "patch_size": 4}
STEPS = 16  # of integrated gradients compared with PyTorch


def pair(name, shape=(), *, eager=False, **fields):
    """A model in float64 with random weights, its variables, and PyTorch's original in evaluation
    mode.

    Args:
      eager: transformers' attention that shows its weights; of some its softmax is in float32
        whatever the type.
    """
    model = jaxmodels.create(name, **fields, **WIDE)
    torch.manual_seed(0)
    original = originals.build(model, shape)
    original.module.double()
    randomise(original.module)
    if eager:
        original.module.set_attn_implementation("eager")
    state = {k: v.numpy() for k, v in original.tensors().items()}
    variables = weights.from_torch(model, state, format=original.format, image_shape=shape or None)
    return model, jax.tree.map(jnp.asarray, variables), original.module.eval()


def texts(lengths, seed=0):
    segments = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int32)
    tokens = np.random.default_rng(seed).integers(1, 30, segments.shape).astype(np.int32)
    return jnp.asarray(tokens * segments), jnp.asarray(segments)


def tensors(*arrays):
    return [torch.tensor(np.asarray(x)) for x in arrays]


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def torch_images(images):
    return torch.tensor(np.moveaxis(images, -1, 1))


def apart(ours, theirs):
    """Distance relative to the norm of theirs."""
    ours, theirs = (
        np.asarray(ours),
        theirs.detach().numpy() if torch.is_tensor(theirs) else np.asarray(theirs),
    )
    assert ours.shape == theirs.shape and np.linalg.norm(theirs) > 0
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


# Attention


def maps_of(model, variables, *inputs):
    """Attention maps by one program, and in whose place."""
    said = []

    @jax.jit
    def run(variables, *inputs):
        maps, instead_of = attention_maps(model, variables, *inputs)
        said.append(instead_of)
        return maps

    return run(variables, *inputs), said[0]


def real_rows(maps, segments):
    """Queries that are no padding: of others transformers has what it likes."""
    return np.asarray(maps) * np.asarray(segments)[None, :, None, :, None]


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", ["bert_tiny", "gpt2_tiny"])
def test_attention_of_texts_equals_transformers(name, scan, x64):
    model, variables, twin = pair(name, **TEXT, scan=scan, eager=True)
    tokens, segments = texts((7, 4))
    maps, instead_of = maps_of(model, variables, tokens, segments)
    assert instead_of is None and list(maps) == ["attention"]
    with torch.no_grad():
        ids, mask = tensors(tokens, segments)
        parent = type(twin).__mro__[1]  # theirs, not ours around it
        outputs = parent.forward(twin, ids, attention_mask=mask, output_attentions=True)
    theirs = torch.stack(outputs.attentions)
    assert apart(real_rows(maps["attention"], segments), real_rows(theirs, segments)) < 1e-12
    np.testing.assert_allclose(maps["attention"].sum(-1), 1, rtol=1e-12)


@pytest.mark.parametrize("scan", [False, True])
def test_attention_of_images_equals_transformers(scan, x64):
    model, variables, twin = pair("vit_b_16_hf", (8, 8, 3), **VIT, scan=scan, eager=True)
    images = pixels(2, 8, 8, 3)
    maps, _ = maps_of(model, variables, images)
    with torch.no_grad():
        theirs = torch.stack(twin(torch_images(images), output_attentions=True).attentions)
    assert apart(maps["attention"], theirs) < 1e-6  # float32, see pair


def test_attention_of_marian_equals_transformers(x64):
    model, variables, twin = pair("marian", **TEXT, scan=True, eager=True)
    (source, source_segments), (target, target_segments) = texts((7, 4)), texts((5, 6), seed=1)
    maps, _ = maps_of(model, variables, source, target, source_segments, target_segments)
    with torch.no_grad():
        outputs = (
            type(twin)
            .__mro__[1]
            .forward(
                twin,
                torch.tensor(source),
                attention_mask=torch.tensor(source_segments),
                decoder_input_ids=torch.tensor(target),
                decoder_attention_mask=torch.tensor(target_segments),
                output_attentions=True,
            )
        )
    for name, theirs, segments in (
        ("encoder/attention", outputs.encoder_attentions, source_segments),
        ("decoder/attention", outputs.decoder_attentions, target_segments),
        ("decoder/cross_attention", outputs.cross_attentions, target_segments),
    ):
        assert (
            apart(real_rows(maps[name], segments), real_rows(torch.stack(theirs), segments)) < 1e-12
        ), name
    assert len(maps) == 3


def test_attention_of_the_transformer_equals_torch(monkeypatch, x64):
    model, variables, twin = pair("transformer_tiny", **TEXT)
    (source, source_segments), (target, target_segments) = texts((7, 4)), texts((5, 6), seed=1)
    maps, _ = maps_of(model, variables, source, target, source_segments, target_segments)
    seen, forward = [], torch.nn.MultiheadAttention.forward

    def shown(self, *args, **kwargs):
        output, found = forward(
            self, *args, **kwargs | {"need_weights": True, "average_attn_weights": False}
        )
        seen.append(found)
        return output, found

    monkeypatch.setattr(torch.nn.MultiheadAttention, "forward", shown)
    twin(*tensors(source, target, source_segments, target_segments))
    encoder, decoder, cross = seen[:2], seen[2::2], seen[3::2]
    for name, theirs, segments in (
        ("encoder/attention", encoder, source_segments),
        ("decoder/attention", decoder, target_segments),
        ("decoder/cross_attention", cross, target_segments),
    ):
        theirs = torch.stack(theirs).detach()
        assert apart(real_rows(maps[name], segments), real_rows(theirs, segments)) < 1e-12, name


@pytest.mark.parametrize("backend", ["xla", "splash"])
def test_fused_attention_is_run_plainly_and_said(backend):
    model = jaxmodels.create("gpt2_tiny", **TEXT)
    tokens, segments = texts((7, 4))
    variables = init(model, tokens, train=False)
    plain, _ = maps_of(model, variables, tokens, segments)
    fused, instead_of = maps_of(model.clone(attention=backend), variables, tokens, segments)
    assert instead_of == backend
    np.testing.assert_array_equal(fused["attention"], plain["attention"])


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(("length", "kernel"), [(128, "splash"), (127, None)])
def test_the_kernel_that_auto_chooses_is_said(length, kernel, scan, monkeypatch):
    """On a TPU auto takes splash from 128 tokens on; it is not run, for its weights are not to be
    had."""
    model = jaxmodels.create("bert_tiny", **TEXT | {"max_len": 128}, scan=scan)
    tokens, segments = texts((length, 4))
    variables = init(model, tokens, train=False)
    plain, _ = maps_of(model, variables, tokens, segments)
    monkeypatch.setattr("jaxmodels.nn.attention.target_platform", lambda: "tpu")
    monkeypatch.setattr("jaxmodels.nn.attention._splash", None)
    maps, instead_of = maps_of(model, variables, tokens, segments)
    assert instead_of == kernel
    np.testing.assert_array_equal(maps["attention"], plain["attention"])


def test_a_model_without_attention():
    model, images = jaxmodels.create("cnn", num_classes=3), jnp.zeros((1, 4, 4, 1))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images)
    with pytest.raises(
        ValueError, match=r"CNN has no attention; ViT, BERT, GPT2 and Transformer have"
    ):
        attention_maps(model, variables, images)


def random_maps(layers, b, heads, n, segments):
    maps = (
        np.exp(pixels(layers, b, heads, n, n))
        * (segments[:, None, :] == segments[:, :, None])[None, :, None]
    )
    return maps / maps.sum(-1, keepdims=True)


def test_rollout_equals_numpy(x64):
    _, segments = texts((6, 4))
    maps = random_maps(3, 2, 2, 6, np.asarray(segments))
    rolled = np.asarray(rollout(jnp.asarray(maps), segments))
    for b, length in enumerate((6, 4)):
        expected = np.eye(length)
        for layer in maps[:, b, :, :length, :length]:
            mixed = 0.5 * layer.mean(0) + 0.5 * np.eye(length)
            expected = mixed / mixed.sum(1, keepdims=True) @ expected
        np.testing.assert_allclose(rolled[b, :length, :length], expected, rtol=1e-12)
        np.testing.assert_allclose(rolled[b, :length].sum(1), 1, rtol=1e-12)
        assert not rolled[b, length:].any() and not rolled[b, :, length:].any()
    no_padding = rollout(jnp.asarray(maps[:, :1]))
    np.testing.assert_allclose(no_padding[0], rolled[0], rtol=1e-12)


def test_rollout_looks_back_only_where_the_model_does():
    model = jaxmodels.create("gpt2_tiny", **TEXT, dtype=jnp.bfloat16)
    tokens, segments = texts((7, 4))
    variables = init(model, tokens, train=False)
    maps = attention_maps(model, variables, tokens, segments).maps["attention"]
    rolled = rollout(maps, segments)
    assert maps.dtype == rolled.dtype == jnp.float32
    # bfloat16 weights alone are off by 4e-3
    np.testing.assert_allclose(rolled.sum(-1), segments, atol=1e-6)
    assert (
        not np.triu(rolled, 1).any()
        and (np.diagonal(rolled, axis1=1, axis2=2)[segments > 0] > 0).all()
    )


def test_rollout_over_patches():
    rolled = jnp.arange(2 * 7 * 7, dtype=jnp.float32).reshape(2, 7, 7)
    np.testing.assert_array_equal(over_patches(rolled, 2, 3)[1], [[50, 51, 52], [53, 54, 55]])
    np.testing.assert_allclose(over_patches(rolled, 1, 7)[0, 0], np.arange(7) + 21, rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"3 x 3 patches, with a class token or without, are not 7 tokens"
    ):
        over_patches(rolled, 3, 3)


# Grad-CAM


def torch_grad_cam(module, layer, images, target, rectified):
    kept = []
    handle = module.get_submodule(layer).register_forward_hook(
        lambda _, __, output: kept.append(output)
    )
    chosen = module(torch_images(images)).gather(1, torch.tensor(target)[:, None]).sum()
    handle.remove()
    (features,) = kept
    (gradient,) = torch.autograd.grad(chosen, features)
    features = F.relu(features) if rectified else features
    cam = F.relu((gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True))
    return F.interpolate(cam, images.shape[1:3], mode="bilinear", align_corners=False)[:, 0]


VGG = {"stage_features": (3, 4, 5, 6, 7), "hidden_sizes": (8, 9), "pooled_size": 2}
CAMS = {  # model: shape, fields, our layer (None: the default), theirs
    "resnet18": ("resnet18", (64, 48, 3), {"stage_sizes": (1, 1, 1, 2)}, None, "layer4.1"),
    "resnet18 inside": (
        "resnet18",
        (64, 48, 3),
        {"stage_sizes": (1, 1, 1, 1)},
        "stage_3_block_0/conv_1",
        "layer3.0.conv1",
    ),
    "resnet20": ("resnet20", (8, 8, 1), {"stage_sizes": (1, 2), "width": 4}, None, "layer2.1"),
    "vgg11": ("vgg11", (32, 32, 3), VGG, None, "features.18"),
    "vgg11_bn": ("vgg11_bn", (32, 32, 3), VGG, None, "features.26"),
    "cnn": ("cnn", (8, 6, 2), {"features": (3, 4), "pool": "each"}, None, "convs.1"),
    "alexnet": (
        "alexnet",
        (64, 64, 1),
        {"features": (4, 5, 6, 7, 8), "hidden_sizes": (9, 10), "pooled_size": 2},
        None,
        "features.10",
    ),
}


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("case", CAMS)
def test_grad_cam_equals_torch(case, rectified, x64):
    name, shape, fields, layer, theirs = CAMS[case]
    model, variables, twin = pair(name, shape, num_classes=5, **fields)
    # the hooked output must be the layer's, not what a ReLU wrote over it
    for part in twin.modules():
        if isinstance(part, torch.nn.ReLU):
            part.inplace = False
    images, target = pixels(3, *shape), np.array([0, 3, 4])
    expected = torch_grad_cam(twin, theirs, images, target, rectified)
    cam = jax.jit(partial(grad_cam, model, layer=layer, rectified=rectified))(
        variables, images, target
    )
    assert apart(cam, expected) < 1e-10


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [("googlenet", 64, "inception_5b"), ("inception_v3", 299, "mixed_7c")],
)
def test_the_default_layer_is_the_last_map(name, size, layer):
    model = jaxmodels.create(name, num_classes=3)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    assert list(feature_maps(model, variables, images))[-1] == layer


def test_grad_cam_names_the_nearest_layer():
    model = jaxmodels.create("cnn", num_classes=3)
    images, target = jnp.zeros((1, 4, 4, 1)), jnp.zeros(1, jnp.int32)
    variables = init(model, images, train=False)
    with pytest.raises(
        ValueError,
        match=r"'conv_2' gives no feature map; did you mean 'conv_\d'\?; conv_0, conv_1 do",
    ):
        grad_cam(model, variables, images, target, layer="conv_2")
    vit = jaxmodels.create("vit_ti_16", **VIT)
    with pytest.raises(
        ValueError, match=r"ViT has no feature maps .*: Grad-CAM is for convolutions"
    ):
        jax.eval_shape(
            lambda: grad_cam(vit, vit.init(jax.random.key(0), images, train=False), images, target)
        )


# Gradients


def torch_integrated_gradients(score, x, baseline):
    """A loop over the path, as anybody would write it: a node's weight is the width of its part."""
    total = torch.zeros_like(x)
    for part in range(STEPS):
        node, width = (
            ((part + 0.5) / STEPS) ** 1.5,
            ((part + 1) / STEPS) ** 1.5 - (part / STEPS) ** 1.5,
        )
        point = (baseline + node * (x - baseline)).requires_grad_()
        total += width * torch.autograd.grad(score(point).sum(), point)[0]
    return total * (x - baseline)


def torch_input_gradient(score, x, baseline):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(score(x).sum(), x)[0] * (x - baseline)


BOTH = [
    # 5 does not divide 16
    (partial(integrated_gradients, steps=STEPS, chunk=5), torch_integrated_gradients),
    (input_gradient, torch_input_gradient),
]


@pytest.mark.parametrize(("ours", "theirs"), BOTH, ids=["integrated", "input"])
@pytest.mark.parametrize(
    ("name", "shape", "fields"),
    [
        ("resnet20", (8, 8, 3), {"stage_sizes": (1, 2), "width": 4}),
        ("cnn", (8, 6, 2), {"features": (3, 4)}),
        ("vit_b_16_hf", (8, 8, 3), VIT | {"scan": True, "remat": True}),
    ],
)
def test_gradients_of_images_equal_torch(name, shape, fields, ours, theirs, x64):
    model, variables, twin = pair(name, shape, **{"num_classes": 5} | fields)
    images, baseline, target = pixels(2, *shape), pixels(1, *shape, seed=1), np.array([1, 4])

    def torch_score(x):
        outputs = twin(x)
        return getattr(outputs, "logits", outputs).gather(1, torch.tensor(target)[:, None])[:, 0]

    expected = theirs(torch_score, torch_images(images), torch_images(baseline))
    score = input_score(model, variables, jnp.asarray(target))
    found = jax.jit(partial(ours, score))(images, jnp.asarray(baseline))
    assert apart(found.values, np.moveaxis(expected.detach().numpy(), 1, -1)) < 1e-10
    assert apart(found.score, torch_score(torch_images(images))) < 1e-10


@pytest.mark.parametrize(("ours", "theirs"), BOTH, ids=["integrated", "input"])
@pytest.mark.parametrize("scan", [False, True])
def test_gradients_of_texts_equal_transformers(scan, ours, theirs, x64):
    model, variables, twin = pair(
        "bert_tiny", **TEXT, scan=scan, head="classification", num_classes=3
    )
    tokens, segments = texts((7, 4))
    types, target = (jnp.arange(7, dtype=jnp.int32) > 3) * segments, np.array([2, 0])
    masked = jnp.where(segments > 0, 3, tokens)  # the baseline: another token
    ids, other_ids, mask, type_ids = tensors(tokens, masked, segments, types)
    forward = partial(
        type(twin).__mro__[1].forward, twin, attention_mask=mask, token_type_ids=type_ids
    )
    embed = twin.get_input_embeddings()

    def torch_score(embedded):
        logits = forward(inputs_embeds=embedded).logits
        return logits.gather(1, torch.tensor(target)[:, None])[:, 0]

    with torch.no_grad():
        embedded, baseline = embed(ids), embed(other_ids)
    expected = theirs(torch_score, embedded, baseline)
    inputs = (tokens, segments, types)
    score = token_score(model, variables, inputs, jnp.asarray(target))
    x = token_embeddings(model, variables, *inputs)
    found = ours(score, x, token_embeddings(model, variables, masked, *inputs[1:]))
    assert apart(found.values, expected) < 1e-10
    assert not np.asarray(found.values)[segments == 0].any()


def test_a_token_of_a_language_model(x64):
    model, variables, twin = pair("gpt2_tiny", **TEXT, scan=True)
    tokens, segments = texts((7, 4))
    inputs, target, place = (tokens, segments), jnp.array([5, 9]), segments.sum(1) - 1
    score = token_score(model, variables, inputs, target, place)
    x = token_embeddings(model, variables, *inputs)
    found = integrated_gradients(score, x, jnp.zeros_like(x), steps=64)
    with torch.no_grad():
        logits = twin(*tensors(tokens, segments)).logits.numpy()
    assert apart(found.score, logits[[0, 1], np.asarray(place), np.asarray(target)]) < 1e-10
    assert found.completeness_error.max() < 1e-3
    early = token_score(model, variables, inputs, target, jnp.array([2, 2]))
    later = np.asarray(integrated_gradients(early, x, jnp.zeros_like(x)).values)[:, 3:]
    assert not later.any()  # nothing behind the place has a part in it
    with pytest.raises(ValueError, match=r"logits of tokens are of one at each place: give place"):
        token_score(model, variables, inputs, target)(x)


def test_completeness_is_a_formula(x64):
    """And the rule is of second order: of a cubic it errs by a quarter as much with twice the
    steps."""
    x, baseline = jnp.asarray(pixels(3, 2, 2)), jnp.asarray(pixels(1, 2, 2, seed=1))
    score = lambda x: (x**2).sum((1, 2)) * x.sum((1, 2))  # noqa: E731
    errors = [
        integrated_gradients(score, x, baseline, steps=n).completeness_error for n in (64, 128)
    ]
    assert errors[0].max() < 1e-3
    np.testing.assert_allclose(errors[0] / errors[1], 4, rtol=0.05)
    off = input_gradient(score, x, baseline)
    difference = np.asarray(score(x) - score(baseline))
    expected = np.abs(np.asarray(off.values).sum((1, 2)) - difference) / np.abs(difference)
    np.testing.assert_allclose(off.completeness_error, expected, rtol=1e-12)
    assert expected.max() > 0.1
    # there is nothing to compare with
    assert (input_gradient(score, x, x).completeness_error == np.inf).all()
    linear = lambda x: 3 * x.sum((1, 2))  # noqa: E731
    np.testing.assert_allclose(
        integrated_gradients(linear, x, baseline).values, 3 * (x - baseline), rtol=1e-12
    )


def test_mistakes_name_the_way_out():
    model = jaxmodels.create("gpt2_tiny", **TEXT)
    tokens, _ = texts((7, 4))
    variables = init(model, tokens, train=False)
    with pytest.raises(
        ValueError, match=r"the model has no module 'token_embd'; did you mean 'token_embed'\?"
    ):
        token_embeddings(model, variables, tokens, embedding="token_embd")
    with (
        pytest.raises(ValueError, match=r"no module 'nrm'; did you mean 'norm'\?"),
        altering("nrm"),
    ):
        apply(model, variables, tokens, train=False)
    with pytest.raises(ValueError, match=r"steps 0 and chunk 8 must be at least 1"):
        integrated_gradients(lambda x: x.sum(1), jnp.ones((1, 2)), jnp.zeros((1, 2)), steps=0)
    with pytest.raises(ValueError, match=r"MLP is not GPT2, for which the logit lens is"):
        logit_lens(jaxmodels.create("mlp", num_classes=2), variables, tokens)
    encoder = jaxmodels.create("bert_tiny", **TEXT, head="none")
    variables = init(encoder, tokens, train=False)
    with pytest.raises(ValueError, match=r"a model that gives Encoded has no logits of one class"):
        jax.jit(token_score(encoder, variables, (tokens,), jnp.zeros(2, int)))(
            jnp.zeros((*tokens.shape, encoder.hidden_size))
        )


# Logit lens


@pytest.mark.parametrize("fields", [{}, {"scan": True, "remat": True, "tie_embeddings": False}])
def test_the_logit_lens_equals_transformers(fields, x64):
    """Hidden states, the last layer by the model's own logits, and the first block's by hand."""
    model, variables, twin = pair("gpt2_tiny", **TEXT, **fields)
    tokens, segments = texts((7, 4))
    hidden = jax.jit(partial(hidden_states, model))(variables, tokens, segments)
    with torch.no_grad():
        forward = partial(type(twin).__mro__[1].forward, twin)
        ids, mask, place = tensors(tokens, segments, np.maximum(np.cumsum(segments, 1) - 1, 0))
        outputs = forward(ids, attention_mask=mask, position_ids=place, output_hidden_states=True)
        theirs = torch.stack(outputs.hidden_states[:-1])  # the last is behind the norm
        first = twin.lm_head(twin.transformer.ln_f(outputs.hidden_states[1])).numpy()
    real = np.asarray(segments) > 0
    assert apart(np.asarray(hidden)[:-1, real], theirs[:, torch.tensor(real)]) < 1e-12
    read = jax.jit(partial(read_out, model))
    last = read(variables, hidden[-1], tokens, segments).logits
    np.testing.assert_allclose(
        last, apply(model, variables, tokens, segments, train=False).logits, rtol=1e-12
    )
    one = read(variables, hidden[1], tokens, segments).logits
    assert apart(np.asarray(one)[real], first[real]) < 1e-12
    lens = jax.jit(partial(logit_lens, model, top=3))(variables, tokens, segments)
    np.testing.assert_array_equal(lens.tokens[1], np.argsort(-one, axis=-1)[..., :3])
    chosen = np.take_along_axis(np.asarray(jax.nn.softmax(one)), np.asarray(lens.tokens[1]), -1)
    np.testing.assert_allclose(lens.probabilities[1], chosen, rtol=1e-10)
    assert lens.tokens.shape == (3, 2, 7, 3)


# Faithfulness


def test_curves_of_a_model_whose_important_pixels_are_known():
    """The class is as probable as the share of its three pixels that is left."""
    images = np.abs(pixels(2, 4, 4, 1)) + 1
    important = np.zeros((2, 4, 4), np.float32)
    important[0, 1, :3] = important[1, 3, 1:] = 1

    def probability(removed):
        left = faithfulness.replace_units(
            jnp.asarray(images), jnp.zeros((1, 1, 1, 1)), removed, 4, 4
        )[..., 0]
        return ((left > 0) * important).sum((1, 2)) / 3

    truth = jnp.asarray(important.reshape(2, 16))
    found = faithfulness.curves(probability, truth, steps=16)
    # a step takes one pixel: 1, 2/3, 1/3, 0, 0, ... and the other way round
    expected = np.maximum(1 - np.arange(17) / 3, 0)
    np.testing.assert_allclose(found.deletion, [expected] * 2, atol=1e-6)
    np.testing.assert_allclose(found.insertion, [1 - expected] * 2, atol=1e-6)
    np.testing.assert_allclose(
        faithfulness.area(found.deletion), (0.5 + 2 / 3 + 1 / 3) / 16, atol=1e-6
    )
    chance = faithfulness.random_curves(
        jax.random.key(0), probability, jnp.ones((2, 16), bool), draws=64
    )
    # in random order each pixel is as likely gone as not: the diagonal, here to within 5 deviations
    # of 64 draws
    np.testing.assert_allclose(chance.deletion, [1 - np.arange(17) / 16] * 2, atol=0.2)
    np.testing.assert_allclose(faithfulness.area(chance.insertion), 0.5, atol=0.1)
    wrong = faithfulness.curves(probability, -truth)
    deletion, by_chance, worst = (faithfulness.area(x.deletion) for x in (found, chance, wrong))
    assert (deletion < by_chance).all() and (by_chance < worst).all()


def test_units_that_are_not_real_stay():
    real = jnp.asarray([[True, False, True, True], [False, False, True, True]])
    seen = []

    def probability(removed):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), removed)
        return removed.sum(1).astype(jnp.float32)

    attribution = jnp.asarray([[1.0, 9.0, 3.0, 2.0], [9.0, 9.0, 1.0, 2.0]])
    found = faithfulness.curves(probability, attribution, real, steps=6)
    jax.effects_barrier()
    assert seen and not any((x & ~np.asarray(real)).any() for x in seen)
    # halves are rounded to even: 3 units at 1/6 are 0, at 3/6 are 2; 2 units at 1/4 ...
    np.testing.assert_array_equal(found.deletion[0], np.round(3 * np.arange(7) / 6))
    np.testing.assert_array_equal(found.insertion[1], 2 - np.round(2 * np.arange(7) / 6))


def test_units_of_an_image():
    values = jnp.asarray(pixels(2, 6, 8), jnp.float32)
    np.testing.assert_array_equal(faithfulness.image_units(values, 6, 8), values.reshape(2, 48))
    flat = faithfulness.image_units(jnp.ones((1, 6, 8)), 2, 4)
    np.testing.assert_allclose(flat, np.ones((1, 8)), rtol=1e-6)
    images = jnp.ones((1, 6, 8, 2))
    removed = jnp.zeros((1, 8), bool).at[0, 5].set(True)  # row 1, column 1
    left = np.asarray(faithfulness.replace_units(images, jnp.zeros((1, 1, 1, 2)), removed, 2, 4))
    expected = np.ones((1, 6, 8, 2))
    expected[:, 3:, 2:4] = 0
    np.testing.assert_array_equal(left, expected)


def test_blurring_equals_torchvision(x64):
    originals.torchvision()
    from torchvision.transforms.v2 import functional as T

    images = pixels(2, 9, 7, 3)
    padded = F.pad(torch_images(images), (6, 6, 6, 6), mode="replicate")
    expected = T.gaussian_blur(padded, [13, 13], [2.0, 2.0])[:, :, 6:-6, 6:-6]
    assert (
        apart(faithfulness.blurred(jnp.asarray(images), 2.0), np.moveaxis(expected.numpy(), 1, -1))
        < 1e-12
    )


def test_tokens_are_replaced_or_dropped():
    tokens, segments = jnp.asarray([[5, 6, 7, 8, 0]]), jnp.asarray([[1, 1, 1, 1, 0]])
    removed = jnp.asarray([[False, True, False, True, False]])
    np.testing.assert_array_equal(
        faithfulness.replace_tokens(tokens, 3, removed), [[5, 3, 7, 3, 0]]
    )
    found = faithfulness.drop_tokens(removed, tokens, segments)
    np.testing.assert_array_equal(found, [[[5, 7, 0, 0, 0]], [[1, 1, 0, 0, 0]]])


# Meshes and bfloat16


def on_mesh(function, variables, batch):
    """``function(variables, *batch)`` with parameters and batch over data x fsdp x tensor, and on
    one device."""
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))

    def gathered(variables, *batch):
        with sharding.gathering_layers():
            return function({"params": sharding.gather_fsdp(variables["params"])}, *batch)

    placed = jax.device_put(variables, sharding.shardings_of(variables, mesh))
    split = sharding.put_batch({str(i): np.asarray(x) for i, x in enumerate(batch)}, mesh)
    with jax.set_mesh(mesh):
        many = jax.jit(gathered)(placed, *split.values())
    return jax.device_get(many), jax.device_get(jax.jit(function)(variables, *batch))


def same(many, one):
    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def test_texts_on_a_mesh(x64):
    model, variables, _ = pair("gpt2_tiny", **TEXT, scan=True)
    tokens, segments = texts((7, 4, 5, 6))

    def explained(variables, tokens, segments):
        maps = attention_maps(model, variables, tokens, segments).maps["attention"]
        score = token_score(model, variables, (tokens, segments), tokens[:, 1], segments.sum(1) - 1)
        x = token_embeddings(model, variables, tokens, segments)
        lens = logit_lens(model, variables, tokens, segments, top=2)
        return (
            rollout(maps, segments),
            integrated_gradients(score, x, jnp.zeros_like(x), steps=4, chunk=2),
            lens,
        )

    same(*on_mesh(explained, variables, (tokens, segments)))


def test_images_on_a_mesh(x64):
    model, variables, _ = pair("cnn", (8, 8, 1), num_classes=5, features=(16, 32), hidden_size=64)
    images, target = pixels(4, 8, 8, 1), np.arange(4)

    def explained(variables, images, target):
        score = input_score(model, variables, target)
        black = jnp.zeros((1, 8, 8, 1))
        found = integrated_gradients(score, images, black, steps=4, chunk=2)

        def probability(removed):
            return jax.nn.sigmoid(score(faithfulness.replace_units(images, black, removed, 8, 8)))

        units = faithfulness.image_units(found.values.sum(-1), 8, 8)
        return (
            found,
            grad_cam(model, variables, images, target),
            faithfulness.curves(probability, units, steps=4),
        )

    same(*on_mesh(explained, variables, (images, target)))


def test_bfloat16_models_are_explained_in_float32():
    images, target = jnp.asarray(pixels(4, 8, 8, 1), jnp.float32), jnp.arange(4)
    model = jaxmodels.create("cnn", num_classes=5, features=(8, 16), hidden_size=16)
    variables = init(model, images, train=False)

    @partial(jax.jit, static_argnums=0)
    def explained(model):
        cam = grad_cam(model, variables, images, target)
        return cam, integrated_gradients(
            input_score(model, variables, target), images, jnp.zeros((1, 8, 8, 1))
        ).values

    for half, full in zip(
        explained(model.clone(dtype=jnp.bfloat16)), explained(model), strict=True
    ):
        assert half.dtype == jnp.float32
        # 8 bits, and units near 0 that are open in one and shut in the other
        assert np.vdot(half, full) > 0.99 * np.linalg.norm(half) * np.linalg.norm(full)
