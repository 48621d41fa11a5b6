"""docs/differences.md, row by row: the default differs (or, in the last table, does not) and the
stated way agrees.

A row ``conv-padding`` has the test ``test_conv_padding``; the last test requires one of each.
"""

import inspect
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from einops import rearrange
from flax import linen as nn
from torch.nn import functional as F

from jaxmodels.families.vit.model import packed_xavier_uniform
from jaxmodels.nn import layers
from jaxmodels.nn.attention import AttentionMask, attention
from train.config import OptimConfig
from train.optim import make_optimizer, make_schedule
from train.tasks.classification import classification

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(0)
DTYPES = {"dtype": jnp.float64, "param_dtype": jnp.float64}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(0.3, 1.0, shape))


def to_torch(x):
    return torch.tensor(np.array(x))


def channels_first(x):
    return rearrange(to_torch(x), "b h w c -> b c h w")


def channels_last(x):
    return rearrange(x.detach(), "b c h w -> b h w c")


def distance(ours, theirs):
    """Largest difference, relative to the largest number of PyTorch's."""
    theirs = np.asarray(theirs.detach() if isinstance(theirs, torch.Tensor) else theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max()


def assert_differ(ours, theirs, least=1e-3):
    assert distance(ours, theirs) > least


def assert_agree(ours, theirs, most=1e-12):
    assert distance(ours, theirs) <= most


def initial(module, *inputs, **options):
    return module.init(KEY, *inputs, **options)["params"]


def assert_spread(values, expected):
    """The standard deviation, as exactly as thousands of draws tell."""
    values = values.detach().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    assert values.size >= 10_000
    assert abs(values.std() / expected - 1) < 0.03


# Layout


def test_image_layout():
    x = random(2, 5, 7, 3)
    twin = torch.nn.Conv2d(3, 4, 1, dtype=torch.float64)
    kernel, bias = (
        jnp.asarray(twin.weight.detach().numpy()),
        jnp.asarray(twin.bias.detach().numpy()),
    )
    params = {"kernel": rearrange(kernel, "o i h w -> h w i o"), "bias": bias}
    layer = nn.Conv(4, (1, 1), **DTYPES)
    given_pytorchs = initial(layer, rearrange(x, "b h w c -> b c h w"))
    assert given_pytorchs["kernel"].shape[2] == 7  # the width is taken for channels
    y = twin(rearrange(to_torch(x), "b h w c -> b c h w"))
    assert_agree(layer.apply({"params": params}, x), rearrange(y, "b o h w -> b h w o"))


def test_conv_kernel():
    assert initial(nn.Conv(4, (5, 6)), random(1, 8, 8, 3))["kernel"].shape == (5, 6, 3, 4)
    twin = torch.nn.Conv2d(3, 4, (5, 6), bias=False, dtype=torch.float64)
    assert twin.weight.shape == (4, 3, 5, 6)
    x = random(1, 8, 8, 3)
    layer = layers.conv(4, (5, 6), use_bias=False, name="conv", **DTYPES)
    kernel = rearrange(jnp.asarray(twin.weight.detach().numpy()), "o i h w -> h w i o")
    assert_agree(
        layer.apply({"params": {"kernel": kernel}}, x), channels_last(twin(channels_first(x)))
    )


def test_linear_kernel():
    twin, x = torch.nn.Linear(3, 5, bias=False, dtype=torch.float64), random(2, 3)
    layer = nn.Dense(5, use_bias=False, **DTYPES)
    assert initial(layer, x)["kernel"].shape == (3, 5)
    assert twin.weight.shape == (5, 3)
    kernel = rearrange(jnp.asarray(twin.weight.detach().numpy()), "o i -> i o")
    assert_agree(layer.apply({"params": {"kernel": kernel}}, x), twin(to_torch(x)))


def test_flatten_order():
    x = random(2, 4, 5, 3)
    ours, theirs = rearrange(x, "b h w c -> b (h w c)"), torch.flatten(channels_first(x), 1)
    assert_differ(ours, theirs)
    twin = torch.nn.Linear(60, 6, bias=False, dtype=torch.float64)
    kernel = rearrange(
        jnp.asarray(twin.weight.detach().numpy()), "o (c h w) -> (h w c) o", c=3, h=4
    )
    assert_agree(ours @ kernel, twin(theirs))


def test_sequence_layout():
    x = random(2, 5, 8)  # [b, n, d]
    twin = torch.nn.LSTM(8, 3, dtype=torch.float64)
    first = torch.nn.LSTM(8, 3, batch_first=True, dtype=torch.float64)
    first.load_state_dict(twin.state_dict())
    last_of_axis_0 = twin(to_torch(x))[1][0]
    assert last_of_axis_0.shape == (1, 5, 3)  # 5 sequences of length 2
    carry = nn.RNN(nn.OptimizedLSTMCell(3, **DTYPES), return_carry=True).init_with_output(KEY, x)[
        0
    ][0][0]
    assert carry.shape == first(to_torch(x))[1][0][0].shape == (2, 3)
    assert_agree(
        np.asarray(first(to_torch(x))[0].detach()),
        rearrange(twin(to_torch(x).transpose(0, 1))[0], "n b d -> b n d"),
    )


# Padding, pooling, resizing


def test_conv_padding():
    x, kernel = random(1, 7, 7, 2), random(3, 3, 2, 4)
    theirs = F.conv2d(channels_first(x), rearrange(to_torch(kernel), "h w i o -> o i h w"))
    assert nn.Conv(4, (3, 3)).init_with_output(KEY, x)[0].shape == (1, 7, 7, 4)
    layer = layers.conv(4, 3, use_bias=False, name="conv", **DTYPES)
    assert_agree(layer.apply({"params": {"kernel": kernel}}, x), channels_last(theirs))


def test_conv_padding_stride():
    x, kernel = random(1, 8, 8, 2), random(3, 3, 2, 4)
    theirs = F.conv2d(
        channels_first(x), rearrange(to_torch(kernel), "h w i o -> o i h w"), stride=2, padding=1
    )
    same = nn.Conv(4, (3, 3), strides=2, use_bias=False, **DTYPES)
    # of one shape all the same
    assert_differ(same.apply({"params": {"kernel": kernel}}, x), channels_last(theirs))
    layer = layers.conv(4, 3, stride=2, padding=1, use_bias=False, name="conv", **DTYPES)
    assert_agree(layer.apply({"params": {"kernel": kernel}}, x), channels_last(theirs))


def test_conv_transpose():
    x = random(1, 5, 5, 2)
    twin = torch.nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1, bias=False, dtype=torch.float64)
    kernel = jnp.asarray(twin.weight.detach().numpy())
    theirs = channels_last(twin(channels_first(x)))
    default = nn.ConvTranspose(3, (4, 4), strides=(2, 2), use_bias=False, **DTYPES)
    assert_differ(
        default.apply({"params": {"kernel": rearrange(kernel, "i o h w -> h w i o")}}, x), theirs
    )
    options = {"padding": ((2, 2), (2, 2)), "transpose_kernel": True}
    layer = nn.ConvTranspose(3, (4, 4), strides=(2, 2), use_bias=False, **options, **DTYPES)
    assert_agree(
        layer.apply({"params": {"kernel": rearrange(kernel, "i o h w -> h w o i")}}, x), theirs
    )


def test_pool_stride():
    x = random(1, 6, 6, 2)
    assert nn.max_pool(x, (2, 2)).shape == (1, 5, 5, 2)
    assert_agree(layers.max_pool(x, 2, stride=2), channels_last(F.max_pool2d(channels_first(x), 2)))


def test_pool_ceil_mode():
    x = random(1, 8, 8, 2)
    theirs = channels_last(F.max_pool2d(channels_first(x), 3, 2, padding=1, ceil_mode=True))
    assert_differ(nn.max_pool(x, (3, 3), (2, 2), "SAME"), theirs[:, :4, :4])
    assert nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))).shape != theirs.shape
    assert_agree(layers.max_pool(x, 3, stride=2, padding=1, ceil_mode=True), theirs)


def test_avg_pool_overhang():
    x = random(1, 6, 6, 2)
    theirs = channels_last(F.avg_pool2d(channels_first(x), 3, 2, padding=1, ceil_mode=True))
    assert_differ(nn.avg_pool(x, (3, 3), (2, 2), ((1, 2), (1, 2))), theirs)
    assert_agree(layers.avg_pool(x, 3, stride=2, padding=1, ceil_mode=True), theirs)


def test_adaptive_pooling():
    assert not [name for name in dir(nn) if "adaptive" in name.lower()]
    x = random(1, 7, 5, 2)
    assert_agree(
        layers.adaptive_avg_pool(x, (3, 4)),
        channels_last(F.adaptive_avg_pool2d(channels_first(x), (3, 4))),
    )


def test_local_response_norm():
    assert not [
        name
        for name in [*dir(nn), *dir(jax.nn)]
        if "response" in name.lower() or "lrn" in name.lower()
    ]
    x = 5 * random(1, 3, 3, 8)
    theirs = channels_last(torch.nn.LocalResponseNorm(5, alpha=0.1)(channels_first(x)))
    squares = jnp.stack(
        [jnp.square(x[..., max(0, i - 2) : i + 3]).sum(-1) for i in range(8)], axis=-1
    )
    assert_differ(x / (1 + 0.1 * squares) ** 0.75, theirs)  # alpha as in the paper
    assert_agree(layers.local_response_norm(x, 5, alpha=0.1), theirs)


def test_resize_antialias():
    x = random(1, 12, 12, 2)
    theirs = channels_last(F.interpolate(channels_first(x), (5, 7), mode="bilinear"))
    assert_differ(jax.image.resize(x, (1, 5, 7, 2), "bilinear"), theirs)
    assert_agree(jax.image.resize(x, (1, 5, 7, 2), "bilinear", antialias=False), theirs)


def test_resize_nearest():
    x = random(1, 12, 12, 2)
    assert_differ(
        jax.image.resize(x, (1, 5, 7, 2), "nearest"),
        channels_last(F.interpolate(channels_first(x), (5, 7))),
    )
    exact = channels_last(F.interpolate(channels_first(x), (5, 7), mode="nearest-exact"))
    assert_agree(jax.image.resize(x, (1, 5, 7, 2), "nearest"), exact)


def test_resize_cubic():
    x = random(1, 12, 12, 2)
    for size in ((5, 7), (20, 31)):
        ours = jax.image.resize(x, (1, *size, 2), "cubic")
        assert_differ(ours, channels_last(F.interpolate(channels_first(x), size, mode="bicubic")))
        assert_agree(
            ours,
            channels_last(F.interpolate(channels_first(x), size, mode="bicubic", antialias=True)),
        )


# Normalisation


def statistics(module, x):
    """Running statistics after one training batch."""
    options = (
        {"train": True} if isinstance(module, layers.BatchNorm) else {"use_running_average": False}
    )
    variables = module.init(KEY, x, **options)
    return module.apply(variables, x, mutable=["batch_stats"], **options)[1]["batch_stats"]


def test_batch_norm_momentum():
    x = random(64, 3) + 5
    twin = torch.nn.BatchNorm1d(3, dtype=torch.float64)
    twin(to_torch(x))
    assert_differ(statistics(nn.BatchNorm(**DTYPES), x)["mean"], twin.running_mean, 0.5)
    assert_agree(statistics(nn.BatchNorm(momentum=0.9, **DTYPES), x)["mean"], twin.running_mean)
    assert_agree(statistics(layers.BatchNorm(momentum=0.1, **DTYPES), x)["mean"], twin.running_mean)


def test_batch_norm_variance():
    x = random(4, 3)
    twin = torch.nn.BatchNorm1d(3, dtype=torch.float64)
    twin(to_torch(x))
    assert_differ(statistics(nn.BatchNorm(momentum=0.9, **DTYPES), x)["var"], twin.running_var)
    assert_agree(statistics(layers.BatchNorm(**DTYPES), x)["var"], twin.running_var)


def far_from_zero():
    """Mean 3000, deviation 1: the square of the mean leaves float32 no bits for the variance."""
    x = np.random.default_rng(0).normal(3000, 1, (256, 16)).astype(np.float32)
    return jnp.asarray(x)


def test_batch_norm_fast_variance():
    x = far_from_zero()
    twin = torch.nn.BatchNorm1d(16)(to_torch(x))
    assert_differ(nn.BatchNorm(use_running_average=False).init_with_output(KEY, x)[0], twin, 0.1)
    assert_agree(layers.BatchNorm().init_with_output(KEY, x, train=True)[0], twin, 1e-3)


def test_layer_norm_fast_variance():
    x = far_from_zero().T
    twin = F.layer_norm(to_torch(x), (256,))
    default = nn.LayerNorm(epsilon=1e-5).init_with_output(KEY, x)[0]
    assert_differ(default, twin, 0.1)
    assert_agree(layers.LayerNorm(1e-5).init_with_output(KEY, x)[0], twin, 1e-3)


def test_layer_norm_epsilon():
    x = 1e-3 * random(4, 8)
    twin = F.layer_norm(to_torch(x), (8,))
    assert_differ(nn.LayerNorm(use_fast_variance=False, **DTYPES).init_with_output(KEY, x)[0], twin)
    layer = layers.LayerNorm(1e-5, **DTYPES)
    assert_agree(layer.init_with_output(KEY, x)[0], twin)


def test_group_norm_epsilon():
    x = 1e-3 * random(2, 4, 4, 6)
    twin = channels_last(torch.nn.GroupNorm(3, 6, dtype=torch.float64)(channels_first(x)))
    assert_differ(
        nn.GroupNorm(3, use_fast_variance=False, **DTYPES).init_with_output(KEY, x)[0], twin
    )
    layer = nn.GroupNorm(3, epsilon=1e-5, use_fast_variance=False, **DTYPES)
    assert_agree(layer.init_with_output(KEY, x)[0], twin)


def test_rms_norm_epsilon():
    x = 1e-3 * random(4, 8)
    twin = torch.nn.RMSNorm(8, dtype=torch.float64)(to_torch(x))
    assert_differ(nn.RMSNorm(**DTYPES).init_with_output(KEY, x)[0], twin)
    layer = nn.RMSNorm(epsilon=float(jnp.finfo(x.dtype).eps), **DTYPES)
    assert_agree(layer.init_with_output(KEY, x)[0], twin)


# Activations


def test_gelu():
    x = random(100)
    assert_differ(jax.nn.gelu(x), F.gelu(to_torch(x)), 1e-5)
    assert_agree(layers.gelu(x), F.gelu(to_torch(x)))
    assert_agree(layers.gelu_tanh(x), F.gelu(to_torch(x), approximate="tanh"))


def test_prelu_slope():
    x = random(4, 5)
    twin = torch.nn.PReLU(dtype=torch.float64)(to_torch(x))
    assert_differ(nn.PReLU(param_dtype=jnp.float64).init_with_output(KEY, x)[0], twin)
    assert_agree(
        nn.PReLU(param_dtype=jnp.float64, negative_slope_init=0.25).init_with_output(KEY, x)[0],
        twin,
    )


def test_softmax_dtype():
    x = (8 * random(50, 200)).astype(jnp.bfloat16)
    twin = torch.softmax(to_torch(x.astype(jnp.float32)).bfloat16(), -1).double()
    ours = jax.nn.softmax(layers.at_least_float32(x)).astype(jnp.bfloat16)
    assert_differ(jax.nn.softmax(x), twin)
    assert_agree(ours, twin, 2**-9)


# Initial values


def test_dense_init():
    twin = torch.nn.Linear(100, 200).weight
    assert_spread(twin, 1 / math.sqrt(300))
    assert_spread(initial(nn.Dense(200), jnp.ones((1, 100)))["kernel"], 1 / math.sqrt(100))
    ours = initial(nn.Dense(200, kernel_init=layers.torch_uniform), jnp.ones((1, 100)))["kernel"]
    assert_spread(ours, 1 / math.sqrt(300))
    assert 0.099 < jnp.abs(ours).max() <= 0.1
    assert 0.099 < twin.abs().max() <= 0.1


def test_dense_bias_init():
    twin = torch.nn.Linear(16, 20_000).bias
    assert_spread(twin, 1 / math.sqrt(48))
    assert not initial(nn.Dense(20_000), jnp.ones((1, 16)))["bias"].any()
    layer = nn.Dense(20_000, kernel_init=nn.initializers.zeros, bias_init=layers.torch_bias(16))
    assert_spread(initial(layer, jnp.ones((1, 16)))["bias"], 1 / math.sqrt(48))


def test_conv_init():
    x = jnp.ones((1, 3, 3, 20))
    assert_spread(torch.nn.Conv2d(20, 100, 3).weight, 1 / math.sqrt(3 * 180))
    assert_spread(initial(nn.Conv(100, (3, 3)), x)["kernel"], 1 / math.sqrt(180))
    ours = initial(layers.conv(100, 3, name="conv", dtype=jnp.float32, param_dtype=jnp.float32), x)[
        "kernel"
    ]
    assert_spread(ours, 1 / math.sqrt(3 * 180))


def test_embedding_init():
    assert_spread(torch.nn.Embedding(300, 64).weight, 1)
    ids = jnp.zeros(1, jnp.int32)
    assert_spread(initial(nn.Embed(300, 64), ids)["embedding"], 1 / 8)
    assert_spread(
        initial(nn.Embed(300, 64, embedding_init=layers.normal(1.0)), ids)["embedding"], 1
    )


def test_he_normal():
    sigma = math.sqrt(2 / 100)
    twin = torch.nn.init.kaiming_normal_(torch.empty(300, 100)).numpy()
    default = jax.nn.initializers.he_normal()(KEY, (100, 300))
    ours = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")(KEY, (100, 300))
    for values in (twin, default, ours):
        assert_spread(values, sigma)
    assert jnp.abs(default).max() < 2.3 * sigma
    assert np.abs(twin).max() > 3.5 * sigma
    assert jnp.abs(ours).max() > 3.5 * sigma


def test_truncated_normal():
    twin = torch.nn.init.trunc_normal_(torch.empty(200, 100), std=0.02)
    assert_spread(twin, 0.02)
    # cut at 2 deviations
    assert_spread(jax.nn.initializers.truncated_normal(0.02)(KEY, (200, 100)), 0.02 * 0.8796)
    assert_spread(layers.normal(0.02)(KEY, (200, 100)), 0.02)
    wide = torch.nn.init.trunc_normal_(torch.empty(200, 100), std=2.0)
    assert wide.abs().max() <= 2
    ours = jax.nn.initializers.truncated_normal(2.0, lower=-2 / 2.0, upper=2 / 2.0)(KEY, (200, 100))
    assert_spread(ours, wide.std().item())


def test_attention_init():
    d = 128
    twin = torch.nn.MultiheadAttention(d, 2)
    x = jnp.ones((1, 2, d))
    default = initial(nn.MultiHeadDotProductAttention(2), x)["query"]["kernel"]
    assert_spread(twin.in_proj_weight[:d], math.sqrt(2 / (4 * d)))
    assert_spread(default, 1 / math.sqrt(d))
    assert_spread(packed_xavier_uniform(KEY, (d, d)), math.sqrt(2 / (4 * d)))
    assert not twin.in_proj_bias.any()


def test_lstm_init():
    twin = torch.nn.LSTM(20, 64)
    assert_spread(twin.weight_hh_l0, 1 / math.sqrt(3 * 64))
    x = jnp.ones((1, 20))

    def recurrent(**options):
        cell = nn.OptimizedLSTMCell(64, **options)
        carry = cell.initialize_carry(KEY, x.shape)
        params = initial(cell, carry, x)
        return jnp.concatenate([params[f"h{gate}"]["kernel"] for gate in "ifgo"], axis=1), params

    default, params = recurrent()
    np.testing.assert_allclose(default[:, :64].T @ default[:, :64], np.eye(64), atol=1e-5)
    assert not params["hf"]["bias"].any()
    init = layers.torch_bias(64)  # the same bound for every array of the layer
    ours, params = recurrent(kernel_init=init, recurrent_kernel_init=init, bias_init=init)
    assert_spread(ours, 1 / math.sqrt(3 * 64))
    assert params["hf"]["bias"].any()


# Attention, recurrence


def test_attention_packing():
    x = random(2, 5, 8)
    twin = torch.nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
    torch.nn.init.normal_(twin.in_proj_bias)
    theirs, _ = twin(*[to_torch(x)] * 3)
    layer = nn.MultiHeadDotProductAttention(2, **DTYPES)
    assert initial(layer, x)["query"]["kernel"].shape == (8, 2, 4)
    assert twin.in_proj_weight.shape == (24, 8)
    packed, bias, out = (
        jnp.asarray(p.detach().numpy())
        for p in (twin.in_proj_weight, twin.in_proj_bias, twin.out_proj.weight)
    )
    parts = (
        rearrange(packed, "(p h d) i -> p i h d", p=3, h=2),
        rearrange(bias, "(p h d) -> p h d", p=3, h=2),
    )
    params = {
        name: {"kernel": parts[0][i], "bias": parts[1][i]}
        for i, name in enumerate(("query", "key", "value"))
    }
    params["out"] = {"kernel": rearrange(out, "o (h d) -> h d o", h=2), "bias": jnp.zeros(8)}
    assert_agree(layer.apply({"params": params}, x), theirs)


def test_attention_layout():
    query, key, value = (random(2, 5, 3, 4, seed=i) for i in range(3))  # [b, n, h, d]
    ours = nn.dot_product_attention(query, key, value)
    assert_differ(ours, F.scaled_dot_product_attention(*map(to_torch, (query, key, value))))
    heads = [rearrange(x, "b n h d -> b h n d") for x in (query, key, value)]
    theirs = F.scaled_dot_product_attention(*map(to_torch, heads))
    assert_agree(rearrange(ours, "b n h d -> b h n d"), theirs)
    assert_agree(attention(*heads, AttentionMask()), theirs)


def test_attention_mask():
    x, causal = random(2, 5, 1, 8), np.tril(np.ones((5, 5), bool))
    ours = nn.dot_product_attention(x, x, x, mask=jnp.asarray(causal)[None, None])[:, :, 0]
    twin = torch.nn.MultiheadAttention(8, 1, bias=False, batch_first=True, dtype=torch.float64)
    twin.in_proj_weight.data, twin.out_proj.weight.data = (
        torch.eye(8).double().repeat(3, 1),
        torch.eye(8).double(),
    )
    x = to_torch(x[:, :, 0])
    theirs, _ = twin(x, x, x, attn_mask=torch.tensor(causal))
    assert not torch.isfinite(theirs).all()  # the last position may look at nothing
    assert_agree(ours, twin(x, x, x, attn_mask=torch.tensor(~causal))[0])
    assert_agree(ours, F.scaled_dot_product_attention(x, x, x, attn_mask=torch.tensor(causal)))


def test_attention_float64():
    x = random(2, 5, 3, 4)
    heads = rearrange(x, "b n h d -> b h n d")
    theirs = F.scaled_dot_product_attention(*[to_torch(heads)] * 3)
    assert_differ(
        rearrange(jax.nn.dot_product_attention(x, x, x), "b n h d -> b h n d"), theirs, 1e-9
    )
    assert_agree(attention(heads, heads, heads, AttentionMask()), theirs)


def test_attention_dropout():
    query = random(4, 6, 2, 8)  # [b, n, h, d]

    def dropped(weights):  # does every example lose the same weights?
        pattern = np.asarray(weights) == 0
        assert pattern.any()
        return (pattern == pattern[:1]).all()

    options = {"dropout_rng": KEY, "dropout_rate": 0.5, "deterministic": False}
    assert dropped(nn.dot_product_attention_weights(query, query, **options))
    assert not dropped(
        nn.dot_product_attention_weights(query, query, broadcast_dropout=False, **options)
    )
    assert not dropped(
        nn.Dropout(0.5, deterministic=False).apply(
            {}, jnp.ones((4, 2, 6, 6)), rngs={"dropout": KEY}
        )
    )
    assert not dropped(torch.dropout(torch.ones(4, 2, 6, 6), 0.5, train=True))


def test_lstm_biases():
    x = random(2, 6, 3)
    twin = torch.nn.LSTM(3, 4, batch_first=True, dtype=torch.float64)
    cell = nn.OptimizedLSTMCell(4, **DTYPES)
    shapes = initial(nn.RNN(cell), x)["cell"]
    assert sum(p["bias"].size for p in shapes.values() if "bias" in p) == 4 * 4
    assert twin.bias_ih_l0.numel() + twin.bias_hh_l0.numel() == 2 * 4 * 4
    gates = {
        k: rearrange(jnp.asarray(v.detach().numpy()), "(g h) ... -> g h ...", g=4)
        for k, v in twin.named_parameters()
    }
    params = {}
    for i, gate in enumerate("ifgo"):
        params[f"i{gate}"] = {"kernel": gates["weight_ih_l0"][i].T}
        params[f"h{gate}"] = {
            "kernel": gates["weight_hh_l0"][i].T,
            "bias": gates["bias_ih_l0"][i] + gates["bias_hh_l0"][i],
        }
    assert_agree(nn.RNN(cell).apply({"params": {"cell": params}}, x), twin(to_torch(x))[0])


# Losses


def test_cross_entropy_reduction():
    logits, label = random(6, 4), np.arange(6) % 4
    theirs = F.cross_entropy(to_torch(logits), torch.tensor(label))
    ours = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(label))
    assert ours.shape == (6,)
    total, count = classification(logits, {"label": jnp.asarray(label), "weight": jnp.ones(6)})[
        "loss"
    ]
    assert_agree(total / count, theirs)


def test_squared_error():
    a, b = random(3, 4), random(3, 4, seed=1)
    theirs = F.mse_loss(to_torch(a), to_torch(b))
    assert_differ(optax.l2_loss(a, b).mean(), theirs)
    assert_agree(optax.squared_error(a, b).mean(), theirs)


def test_kl_divergence():
    logs, target = jax.nn.log_softmax(random(3, 4)), jax.nn.softmax(random(3, 4, seed=1))
    with pytest.warns(UserWarning, match="batchmean"):
        theirs = F.kl_div(to_torch(logs), to_torch(target))
    ours = optax.kl_divergence(logs, target)
    assert ours.shape == (3,)
    assert_differ(ours.mean(), theirs)
    assert_agree(ours.mean(), F.kl_div(to_torch(logs), to_torch(target), reduction="batchmean"))


# Optimisers


def walk(tx, make_torch, steps=5, scale=1.0, groups=lambda params: list(params.values())):
    """Largest relative distance of the parameters over steps with the same gradients."""
    params = {"kernel": random(4, 3), "bias": random(3, seed=1)}
    twins = {k: torch.nn.Parameter(to_torch(v)) for k, v in params.items()}
    optimiser, state, worst = make_torch(groups(twins)), tx.init(params), 0.0
    for step in range(steps):
        grads = {k: scale * random(*v.shape, seed=10 * step + v.ndim) for k, v in params.items()}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for k, twin in twins.items():
            twin.grad = to_torch(grads[k])
        optimiser.step()
        worst = max(worst, *(distance(params[k], twins[k]) for k in params))
    return worst


def grouped(decay):
    """PyTorch's parameter groups that decay what ``train.optim.decay_mask`` does."""
    return lambda p: [
        {"params": [p["kernel"]], "weight_decay": decay},
        {"params": [p["bias"]], "weight_decay": 0.0},
    ]


def test_adamw_decay():
    assert walk(optax.adamw(0.1), lambda p: torch.optim.AdamW(p, lr=0.1)) > 1e-3
    assert walk(optax.adamw(0.1, weight_decay=1e-2), lambda p: torch.optim.AdamW(p, lr=0.1)) < 1e-12
    ours = make_optimizer(
        OptimConfig(learning_rate=0.1, schedule="constant", weight_decay=1e-2), 10
    )
    assert walk(ours, lambda p: torch.optim.AdamW(p, lr=0.1), groups=grouped(1e-2)) < 1e-12


def test_sgd_weight_decay():
    assert "weight_decay" not in inspect.signature(optax.sgd).parameters

    def twin(params):
        return torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1)

    # the weights grow
    after = optax.chain(optax.sgd(0.1, momentum=0.9), optax.add_decayed_weights(0.1))
    assert walk(after, twin) > 1e-2
    before = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
    assert walk(before, twin) < 1e-12
    config = OptimConfig(
        name="sgd", learning_rate=0.1, schedule="constant", momentum=0.9, weight_decay=0.1
    )
    assert walk(make_optimizer(config, 10), twin, groups=grouped(0.1)) < 1e-12


def test_clip_norm():
    grads = {"a": 3 * random(4, 3), "b": random(5, seed=1)}

    def clipped(tx):
        return tx.update(grads, tx.init(grads))[0]["a"]

    twins = [torch.nn.Parameter(to_torch(g)) for g in grads.values()]
    for twin, grad in zip(twins, grads.values(), strict=True):
        twin.grad = to_torch(grad)
    norm = torch.nn.utils.clip_grad_norm_(twins, 0.5).item()
    ours = clipped(optax.clip_by_global_norm(0.5))
    assert_differ(ours, twins[0].grad, 0.9e-6 / norm)
    assert_agree(ours, twins[0].grad, 1.1e-6 / norm)

    def scale(g, _):
        return jax.tree.map(lambda x: x * jnp.minimum(1, 0.5 / (optax.tree.norm(g) + 1e-6)), g)

    assert_agree(clipped(optax.stateless(scale)), twins[0].grad)


def test_rmsprop():
    def twin(params):
        return torch.optim.RMSprop(params, lr=0.01)

    assert walk(optax.rmsprop(0.01), twin) > 1e-3
    assert (
        walk(optax.rmsprop(0.01, decay=0.99, eps=1e-8, eps_in_sqrt=False), twin, scale=1e-7) < 1e-12
    )


# Numbers


def test_float64():
    x = np.full(3, 1 + 1e-12)
    assert torch.tensor(x).dtype == torch.float64
    with jax.enable_x64(False):
        assert jnp.asarray(x).dtype == jnp.float32
        assert jnp.asarray(np.arange(3)).dtype == jnp.int32
    with jax.enable_x64(True):
        assert_agree(jnp.asarray(x), torch.tensor(x), 0)


def test_variance():
    x = random(3, 5)
    assert_differ(x.var(1), to_torch(x).var(1))
    assert_agree(x.var(1, ddof=1), to_torch(x).var(1))
    assert_agree(x.var(1), to_torch(x).var(1, correction=0))


def test_matmul_precision():
    x = jnp.ones((4, 4), jnp.float32)

    def precision():
        (product,) = jax.make_jaxpr(lambda x: x @ x)(x).eqns
        return product.params["precision"]

    assert torch.get_float32_matmul_precision() == "highest"
    assert jax.config.jax_default_matmul_precision is None
    assert precision() is None  # the fastest that the device has
    with jax.default_matmul_precision("highest"):
        assert set(precision()) == {jax.lax.Precision.HIGHEST}
        x = random(64, 64).astype(jnp.float32)
        assert_agree(x @ x, to_torch(x) @ to_torch(x), 1e-5)


# The same on both sides


def test_batch_norm_epsilon():
    x = 1e-3 * random(8, 3)
    twin = torch.nn.BatchNorm1d(3, dtype=torch.float64)(to_torch(x))
    for layer, options in (
        (nn.BatchNorm(**DTYPES), {"use_running_average": False}),
        (layers.BatchNorm(**DTYPES), {"train": True}),
    ):
        assert_agree(layer.init_with_output(KEY, x, **options)[0], twin, 1e-9)


def test_dropout():
    ours = nn.Dropout(0.25, deterministic=False).apply({}, jnp.ones(10_000), rngs={"dropout": KEY})
    theirs = F.dropout(torch.ones(10_000, dtype=torch.float64), 0.25)
    for y in (np.asarray(ours), theirs.numpy()):
        np.testing.assert_allclose(np.unique(y), [0, 1 / 0.75])
        assert abs((y == 0).mean() - 0.25) < 0.02
    x = random(5)
    assert nn.Dropout(0.25, deterministic=True).apply({}, x) is x


def test_leaky_relu():
    x = random(20)
    assert_agree(jax.nn.leaky_relu(x), F.leaky_relu(to_torch(x)))


def test_label_smoothing():
    logits, label = random(6, 4), np.arange(6) % 4
    theirs = F.cross_entropy(
        to_torch(logits), torch.tensor(label), label_smoothing=0.1, reduction="none"
    )
    smooth = optax.smooth_labels(jax.nn.one_hot(label, 4), 0.1)
    assert_agree(optax.softmax_cross_entropy(logits, smooth), theirs)


def test_adam_epsilon():
    for scale in (1.0, 1e-9):  # gradients smaller than epsilon
        assert walk(optax.adam(0.1), lambda p: torch.optim.Adam(p, lr=0.1), scale=scale) < 1e-12


def test_decay_mask():
    def zero_gradients(tx, groups):
        return walk(
            tx, lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1), scale=0.0, groups=groups
        )

    def everything(params):
        return list(params.values())

    assert zero_gradients(optax.adamw(0.1, weight_decay=0.1), everything) < 1e-12
    ours = make_optimizer(OptimConfig(learning_rate=0.1, schedule="constant", weight_decay=0.1), 10)
    assert zero_gradients(ours, everything) > 1e-2
    assert zero_gradients(ours, grouped(0.1)) < 1e-12


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_momentum(nesterov):
    tx = optax.sgd(0.1, momentum=0.9, nesterov=nesterov)
    assert walk(tx, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=nesterov)) < 1e-12


def test_cosine_schedule():
    ours = make_schedule(OptimConfig(learning_rate=0.1, schedule="cosine"), 20)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20)
    for step in range(20):
        np.testing.assert_allclose(ours(step), schedule.get_last_lr()[0], rtol=1e-6)
        optimiser.step()
        schedule.step()


def test_rows_and_tests_correspond():
    text = (Path(__file__).parent.parent / "docs" / "differences.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", text, re.MULTILINE)
    assert all(len(rest.split(" | ")) == 4 for _, rest in rows)
    tests = [n for n, f in globals().items() if n.startswith("test_") and inspect.isfunction(f)]
    tests.remove("test_rows_and_tests_correspond")
    assert sorted("test_" + row.replace("-", "_") for row, _ in rows) == sorted(tests)
