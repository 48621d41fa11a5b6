"""Every shared layer against its PyTorch namesake, in float64."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from einops import rearrange
from jax.sharding import AxisType
from torch.nn import functional as F

from jaxmodels.nn import layers, meshes

pytestmark = pytest.mark.usefixtures("x64")

DTYPES = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1.0, shape)


def to_torch(x):
    """Channels first, in memory of its own, so that nothing PyTorch does in place reaches ours."""
    return torch.tensor(np.moveaxis(np.array(x), -1, 1))


def to_numpy(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def assert_equal(ours, theirs, rtol=1e-12):
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=rtol, atol=rtol)


def torch_conv(kernel, bias, **options):
    f, c, h, w = rearrange(kernel, "h w c f -> f c h w").shape
    layer = torch.nn.Conv2d(c, f, (h, w), bias=bias is not None, dtype=torch.float64, **options)
    layer.weight.data = torch.tensor(rearrange(np.array(kernel), "h w c f -> f c h w"))
    if bias is not None:
        layer.bias.data = torch.tensor(np.array(bias))
    return layer


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "padding"),
    [(1, 0), (3, 0), (3, 1), (4, 1), (5, 2), ((1, 7), (0, 3)), ((3, 2), (2, 1))],
)
def test_conv(kernel, padding, stride):
    x, shape = random(2, 9, 8, 3), (*layers.pair(kernel), 3, 4)
    layer = layers.conv(4, kernel, stride=stride, padding=padding, name="conv", **DTYPES)
    params = {"kernel": jnp.asarray(random(*shape, seed=1)), "bias": jnp.asarray(random(4, seed=2))}
    twin = torch_conv(params["kernel"], params["bias"], stride=stride, padding=padding)
    assert_equal(layer.apply({"params": params}, jnp.asarray(x)), to_numpy(twin(to_torch(x))))


def test_conv_without_bias_has_none():
    layer = layers.conv(4, 3, use_bias=False, name="conv", **DTYPES)
    assert list(layer.init(jax.random.key(0), jnp.ones((1, 5, 5, 2)))["params"]) == ["kernel"]


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (7, 6)])
@pytest.mark.parametrize(("momentum", "epsilon"), [(0.1, 1e-5), (0.3, 1e-3)])
def test_batch_norm_over_several_steps(shape, momentum, epsilon):
    layer = layers.BatchNorm(momentum=momentum, epsilon=epsilon, **DTYPES)
    twin = (torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d)(
        shape[-1], eps=epsilon, momentum=momentum, dtype=torch.float64
    )
    variables = layer.init(jax.random.key(0), jnp.ones(shape), train=True)
    stats = variables["batch_stats"]
    # initialising sees a batch and must not count it
    assert_equal(stats["mean"], twin.running_mean.numpy())
    assert_equal(stats["var"], twin.running_var.numpy())
    assert stats["count"] == 0
    params = {
        "scale": jnp.asarray(random(shape[-1], seed=1)),
        "bias": jnp.asarray(random(shape[-1], seed=2)),
    }
    twin.weight.data, twin.bias.data = (
        torch.tensor(np.array(params[k])) for k in ("scale", "bias")
    )
    # of the loss: its plain sum has no gradient through the batch norm
    pull = jnp.asarray(random(*shape, seed=3))

    def loss(params, x, stats, train):
        y, new = layer.apply(
            {"params": params, "batch_stats": stats}, x, train=train, mutable=["batch_stats"]
        )
        return (y * pull).sum(), (y, new["batch_stats"])

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True), static_argnums=3)
    for step, train in enumerate([True, True, False, True, False]):
        x = random(*shape, seed=10 + step) * (step + 1) + step
        (grads, grad_x), (y, stats) = gradient(params, jnp.asarray(x), stats, train)
        twin.train(train)
        twin.zero_grad()
        twin_x = to_torch(x).requires_grad_()
        twin_y = twin(twin_x)
        (twin_y * to_torch(pull)).sum().backward()
        assert_equal(y, to_numpy(twin_y))
        assert_equal(grad_x, to_numpy(twin_x.grad), rtol=1e-11)
        assert_equal(grads["scale"], twin.weight.grad.numpy(), rtol=1e-11)
        assert_equal(grads["bias"], twin.bias.grad.numpy(), rtol=1e-11)
        assert_equal(stats["mean"], twin.running_mean.numpy())
        assert_equal(stats["var"], twin.running_var.numpy())
        assert stats["count"] == twin.num_batches_tracked.item()


def test_batch_norm_of_bfloat16_keeps_statistics_in_float32():
    layer = layers.BatchNorm(dtype=jnp.bfloat16)
    x = jnp.asarray(random(64, 8), jnp.bfloat16) + 10
    y, variables = layer.init_with_output(jax.random.key(0), x, train=True)
    assert y.dtype == jnp.bfloat16
    assert {k: v.dtype for k, v in variables["batch_stats"].items() if k != "count"} == {
        "mean": jnp.float32,
        "var": jnp.float32,
    }
    truth = np.asarray(x, np.float64)
    truth = (truth - truth.mean(0)) / np.sqrt(truth.var(0) + 1e-5)
    # rounding of the result alone
    np.testing.assert_allclose(np.asarray(y, np.float64), truth, atol=2**-7)


def test_batch_norm_needs_more_than_one_value():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layers.BatchNorm().init(jax.random.key(0), jnp.ones((1, 1, 1, 3)), train=True)


def both_pools(ours, theirs, x):
    """Our result equals PyTorch's, or both refuse; returns whether there was a result."""
    try:
        expected = to_numpy(theirs(to_torch(x)))
    except RuntimeError:
        with pytest.raises(ValueError):
            ours(jnp.asarray(x))
        return False
    assert_equal(ours(jnp.asarray(x)), expected)
    return True


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("window", "padding"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 2)])
def test_pools(window, padding, stride, ceil_mode):
    options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    accepted = []
    for size in ((7, 10), (2, 8), (1, 5)):
        x = random(2, *size, 3) - 1  # mostly negative: a padding of 0 would win the maximum
        accepted.append(
            both_pools(
                lambda x: layers.max_pool(x, window, **options),
                lambda x: F.max_pool2d(x, window, **options),
                x,
            )
        )
        for count in (True, False):
            both_pools(
                lambda x, count=count: layers.avg_pool(
                    x, window, count_include_pad=count, **options
                ),
                lambda x, count=count: F.avg_pool2d(x, window, count_include_pad=count, **options),
                x,
            )
    assert accepted[0] == (padding <= window // 2)


def test_a_pool_too_large_says_so():
    with pytest.raises(
        ValueError, match="a pool of 3 cannot take a map of 2: fewer pools, larger images"
    ):
        layers.max_pool(jnp.ones((1, 8, 2, 1)), 3, stride=2)
    with pytest.raises(ValueError, match="padding 2 is more than half of the pool's window 3"):
        layers.avg_pool(jnp.ones((1, 8, 8, 1)), 3, stride=2, padding=2)


def test_max_pool_gradient():
    x = random(2, 7, 8, 3)
    ours = jax.grad(
        lambda x: jnp.square(layers.max_pool(x, 3, stride=2, padding=1, ceil_mode=True)).sum()
    )
    twin_x = to_torch(x).requires_grad_()
    F.max_pool2d(twin_x, 3, stride=2, padding=1, ceil_mode=True).square().sum().backward()
    assert_equal(ours(jnp.asarray(x)), to_numpy(twin_x.grad))


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (4, 4), (3, 5), (6, 2), (9, 13), (7, 10)])
@pytest.mark.parametrize("shape", [(7, 10), (4, 4), (1, 1), (2, 3)])
def test_adaptive_avg_pool(shape, size):
    x = random(2, *shape, 3)
    assert_equal(
        layers.adaptive_avg_pool(jnp.asarray(x), size),
        to_numpy(F.adaptive_avg_pool2d(to_torch(x), size)),
    )


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_local_response_norm(size):
    for options in ({}, {"alpha": 0.5, "beta": 0.6, "k": 2.0}):
        for channels in (3, 11):
            x = random(2, 3, 4, channels) * 10
            ours = layers.local_response_norm(jnp.asarray(x), size, **options)
            assert_equal(ours, to_numpy(torch.nn.LocalResponseNorm(size, **options)(to_torch(x))))
    assert_equal(
        layers.local_response_norm(jnp.asarray(x)),
        to_numpy(torch.nn.LocalResponseNorm(5, alpha=1e-4)(to_torch(x))),
    )


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("relu", F.relu),
        ("sigmoid", torch.sigmoid),
        ("tanh", torch.tanh),
        ("gelu", torch.nn.GELU()),
        ("gelu_tanh", torch.nn.GELU(approximate="tanh")),
        ("silu", F.silu),
    ],
)
def test_activations_and_their_gradients(name, twin):
    x = np.linspace(-6, 6, 101) + 0.01
    function = layers.ACTIVATIONS[name]
    twin_x = torch.tensor(x, requires_grad=True)
    twin(twin_x).sum().backward()
    assert_equal(function(jnp.asarray(x)), twin(twin_x).detach().numpy())
    assert_equal(jax.grad(lambda x: function(x).sum())(jnp.asarray(x)), twin_x.grad.numpy())


def test_no_activation_is_untested():
    assert sorted(layers.ACTIVATIONS) == ["gelu", "gelu_tanh", "relu", "sigmoid", "silu", "tanh"]


def assert_same_uniform(ours, theirs, bound):
    for values in (np.asarray(ours), theirs.detach().numpy()):
        assert 0.99 * bound < values.max() <= bound
        assert -bound <= values.min() < -0.99 * bound
        assert abs(values.std() * math.sqrt(3) / bound - 1) < 0.02


def test_initial_weights_and_biases_of_linear_and_conv():
    torch.manual_seed(0)
    keys = iter(jax.random.split(jax.random.key(0), 4))
    linear = torch.nn.Linear(30, 4_000)
    assert_same_uniform(
        layers.torch_uniform(next(keys), (30, 4_000)), linear.weight, 1 / math.sqrt(30)
    )
    assert_same_uniform(layers.torch_bias(30)(next(keys), (4_000,)), linear.bias, 1 / math.sqrt(30))
    conv = torch.nn.Conv2d(5, 4_000, (3, 2))
    assert_same_uniform(
        layers.torch_uniform(next(keys), (3, 2, 5, 4_000)), conv.weight, 1 / math.sqrt(30)
    )
    assert_same_uniform(layers.torch_bias(30)(next(keys), (4_000,)), conv.bias, 1 / math.sqrt(30))


def test_named_initialisers():
    torch.manual_seed(0)
    ours = np.asarray(layers.kaiming_normal_fan_out(jax.random.key(0), (3, 3, 50, 100)))
    theirs = torch.nn.init.kaiming_normal_(
        torch.empty(100, 50, 3, 3), mode="fan_out", nonlinearity="relu"
    ).numpy()
    sigma = math.sqrt(2 / 900)
    for values in (ours, theirs):
        assert abs(values.std() / sigma - 1) < 0.01
        assert np.abs(values).max() > 4 * sigma  # not truncated
    ours = layers.xavier_uniform(jax.random.key(1), (300, 500))
    assert_same_uniform(
        ours, torch.nn.init.xavier_uniform_(torch.empty(500, 300)), math.sqrt(6 / 800)
    )


@pytest.mark.parametrize("train", [True, False])
def test_conv_bn(train):
    x = random(3, 9, 8, 2)
    layer = layers.ConvBN(4, (3, 1), stride=2, padding=(1, 0), **DTYPES)
    variables = layer.init(jax.random.key(0), jnp.asarray(x), train=False)
    assert sorted(variables["params"]) == ["bn", "conv"]
    params = jax.tree.map(lambda p: p + 0.1, variables["params"])
    conv = torch_conv(params["conv"]["kernel"], None, stride=2, padding=(1, 0))
    norm = torch.nn.BatchNorm2d(4, eps=1e-3, dtype=torch.float64).train(train)
    norm.weight.data, norm.bias.data = (
        torch.tensor(np.array(params["bn"][k])) for k in ("scale", "bias")
    )
    y, new = layer.apply(
        {**variables, "params": params}, jnp.asarray(x), train=train, mutable=["batch_stats"]
    )
    assert_equal(y, to_numpy(F.relu(norm(conv(to_torch(x))))))
    assert_equal(new["batch_stats"]["bn"]["var"], norm.running_var.numpy())


def test_imagenet_to_half():
    pixels = np.random.default_rng(0).uniform(0, 1, (2, 3, 3, 3))
    normalised = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert_equal(layers.imagenet_to_half(jnp.asarray(normalised)), (pixels - 0.5) / 0.5)
    with pytest.raises(ValueError, match=r"for 3 colours, not for 1 channel\(s\); set it to False"):
        layers.imagenet_to_half(jnp.ones((1, 2, 2, 1)))


def test_pair():
    assert layers.pair(3) == (3, 3)
    assert layers.pair((1, 7)) == (1, 7)


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        ("bfloat16", "float32"),
        ("float16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_at_least_float32(dtype, wide):
    assert layers.at_least_float32(jnp.ones(3, dtype)).dtype == wide


def test_constrain_batch_splits_the_leading_dimension():
    x = jnp.ones((8, 3))
    assert meshes.constrain_batch(x) is x  # without a mesh
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: meshes.constrain_batch(x * 2))(x)
    assert y.sharding.shard_shape(y.shape)[0] == 2


def test_requirements_name_field_and_value():
    layers.require_positive(width=1, features=(1, 2))
    layers.require_rate(dropout_rate=0.0)
    layers.require_choice("stem", "small", ("imagenet", "small"))
    with pytest.raises(ValueError, match=r"features \(4, 0\) must be at least 1"):
        layers.require_positive(width=1, features=(4, 0))
    for rate in (1.0, -0.1):
        with pytest.raises(ValueError, match=f"dropout_rate {rate} must be at least 0 and below 1"):
            layers.require_rate(dropout_rate=rate)
    with pytest.raises(ValueError, match="stem 'smal' is not one of imagenet, small"):
        layers.require_choice("stem", "smal", ("imagenet", "small"))


@pytest.mark.parametrize("width", [1, 7, 64])
def test_layer_norm(width):
    x, weight = random(3, 5, width), random(3, 5, width, seed=1)
    params = {"scale": random(width, seed=2), "bias": random(width, seed=3)}
    layer = layers.LayerNorm(1e-5, **DTYPES)

    def loss(params, x):
        y = layer.apply({"params": params}, x)
        return (y * weight).sum(), y

    (_, y), (grads, dx) = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)
    theirs = torch.tensor(x, requires_grad=True)
    scale, bias = (torch.tensor(params[k], requires_grad=True) for k in ("scale", "bias"))
    z = F.layer_norm(theirs, (width,), scale, bias, 1e-5)
    (z * torch.tensor(weight)).sum().backward()
    assert_equal(y, z.detach().numpy())
    for ours, other in ((dx, theirs), (grads["scale"], scale), (grads["bias"], bias)):
        assert_equal(ours, other.grad.numpy(), 1e-11)


def test_layer_norm_and_gelu_are_differentiable_forwards_backwards_and_twice():
    params = {"scale": random(6), "bias": random(6, seed=1)}
    layer = layers.LayerNorm(1e-5, **DTYPES)

    def plain(x):
        y = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        y = y * params["scale"] + params["bias"]
        return (y * jax.nn.gelu(y, approximate=False) + jax.nn.gelu(y, approximate=True) ** 2).sum()

    def ours(x):
        y = layer.apply({"params": params}, x)
        return (y * layers.gelu(y) + layers.gelu_tanh(y) ** 2).sum()

    x = random(2, 6)
    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        assert_equal(derivative(ours)(x), derivative(plain)(x), 1e-10)


def test_layer_norm_computes_in_float32_and_keeps_its_input_alone():
    x = jnp.asarray(100 + random(64, 256), jnp.bfloat16)
    layer = layers.LayerNorm(1e-5, dtype=jnp.bfloat16, param_dtype=jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    y, back = jax.vjp(lambda x: layer.apply(variables, x), x)
    assert y.dtype == jnp.bfloat16
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, atol=0.02)
    assert sum(r.nbytes for r in jax.tree.leaves(back)) < 1.1 * x.nbytes


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_gelu_equals_pytorchs_and_keeps_one_array(name, platform, monkeypatch):
    monkeypatch.setattr("jaxmodels.nn.cpu.target_platform", lambda: platform)
    x = np.concatenate([np.linspace(-12, 12, 1001), [-1e4, 1e4, 0.0]])
    theirs = torch.tensor(x, requires_grad=True)
    F.gelu(theirs, approximate="tanh" if name == "gelu_tanh" else "none").sum().backward()
    y, back = jax.vjp(getattr(layers, name), jnp.asarray(x))
    assert_equal(
        y, F.gelu(torch.tensor(x), approximate="tanh" if name == "gelu_tanh" else "none").numpy()
    )
    assert_equal(back(np.ones_like(x))[0], theirs.grad.numpy())
    assert [r.shape for r in jax.tree.leaves(back)] == [x.shape]
    curve = jax.hessian(getattr(layers, name))(jnp.asarray(0.3))
    assert_equal(
        curve,
        jax.hessian(partial(jax.nn.gelu, approximate=name == "gelu_tanh"))(jnp.asarray(0.3)),
        1e-10,
    )
    narrow = jnp.asarray(x[:1001], jnp.bfloat16)  # computed in float32 and rounded once, to 8 bits
    exact = getattr(layers, name)(narrow.astype(jnp.float64))
    np.testing.assert_allclose(
        getattr(layers, name)(narrow).astype(jnp.float64), exact, rtol=2**-8, atol=2e-6
    )
