"""Every model against its PyTorch twin, its exact size, and the dtype policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from einops import rearrange
from torch import nn as tnn

import jaxmodels
from train.objectives import classification

PARAMETERS = {  # name -> (image shape, fields, exact number of parameters)
    "mlp": ((28, 28, 1), {}, 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10),
    "cnn": ((28, 28, 1), {}, 9 * 32 + 32 + 9 * 32 * 64 + 64 + 14 * 14 * 64 * 10 + 10),
}


def test_no_preset_escapes_the_table():
    assert sorted(PARAMETERS) == jaxmodels.list_models()


@pytest.mark.parametrize("name", jaxmodels.list_models())
def test_parameter_count(name):
    shape, fields, expected = PARAMETERS[name]
    model = jaxmodels.create(name, num_classes=10, **fields)
    variables = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, *shape)), train=False), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(variables)) == expected


def randomised(model, image, dtype):
    """Parameters none of which is zero: a zero bias or head would hide faults."""
    variables = model.init(jax.random.key(0), jnp.zeros(image, dtype), train=False)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 0.3 / max(1, p.ndim), p.shape), dtype), variables)


class TorchMLP(tnn.Module):
    def __init__(self, params, activation):
        super().__init__()
        layers = [tnn.Flatten()]
        names = sorted(n for n in params if n.startswith("dense"))
        for name in names:
            layers += [self.linear(params[name]), tnn.ReLU() if activation == "relu" else tnn.Sigmoid()]
        self.net = tnn.Sequential(*layers, self.linear(params["head"]))
        self.paths = [(n, self.net[1 + 2 * i]) for i, n in enumerate(names)] + [("head", self.net[-1])]

    @staticmethod
    def linear(p):
        layer = tnn.Linear(*p["kernel"].shape)
        layer.weight.data, layer.bias.data = to_torch(p["kernel"].T), to_torch(p["bias"])
        return layer

    def forward(self, x):
        return self.net(x)

    def gradients(self):
        return {f"{n}/kernel": m.weight.grad.numpy().T for n, m in self.paths} | {
            f"{n}/bias": m.bias.grad.numpy() for n, m in self.paths
        }


class TorchCNN(tnn.Module):
    """Channels first, as anybody would write it in PyTorch; the flattening is put into our order."""

    def __init__(self, params, pool):
        super().__init__()
        self.pool = pool
        self.convs = tnn.ModuleList(self.conv(params[n]) for n in sorted(params) if n.startswith("conv"))
        self.dense = TorchMLP.linear(params["dense"]) if "dense" in params else None
        self.head = TorchMLP.linear(params["head"])

    @staticmethod
    def conv(p):
        h, w, c, f = p["kernel"].shape
        layer = tnn.Conv2d(c, f, (h, w), padding=1)
        layer.weight.data = to_torch(rearrange(p["kernel"], "h w c f -> f c h w"))
        layer.bias.data = to_torch(p["bias"])
        return layer

    def forward(self, x):
        x = rearrange(x, "b h w c -> b c h w")
        for i, conv in enumerate(self.convs):
            x = torch.relu(conv(x))
            if self.pool == "each" or (self.pool == "last" and i == len(self.convs) - 1):
                x = torch.nn.functional.max_pool2d(x, 2)
        x = rearrange(x, "b c h w -> b (h w c)")
        if self.dense is not None:
            x = torch.relu(self.dense(x))
        return self.head(x)

    def gradients(self):
        dense = [("dense", self.dense)] * (self.dense is not None) + [("head", self.head)]
        found = {f"{n}/kernel": m.weight.grad.numpy().T for n, m in dense}
        for i, m in enumerate(self.convs):
            found[f"conv_{i}/kernel"] = rearrange(m.weight.grad.numpy(), "f c h w -> h w c f")
        named = [*dense, *((f"conv_{i}", m) for i, m in enumerate(self.convs))]
        return found | {f"{n}/bias": m.bias.grad.numpy() for n, m in named}


def to_torch(x):
    return torch.tensor(np.asarray(x))


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.linalg.norm(b) > 1e-6, "comparing zeros proves nothing"
    return np.linalg.norm(a - b) / np.linalg.norm(b)


CASES = [
    ("mlp", (8, 8, 1), {"hidden_sizes": (32, 16), "activation": "relu"}),
    ("mlp", (6, 5, 3), {"hidden_sizes": (24,), "activation": "sigmoid"}),
    ("mlp", (8, 8, 1), {"hidden_sizes": ()}),
    ("mlp", (4, 4, 2), {"hidden_sizes": (16, 16, 16, 16), "activation": "sigmoid"}),
    ("cnn", (8, 8, 1), {"pool": "last"}),
    ("cnn", (28, 28, 1), {"pool": "each", "hidden_size": 32}),
    ("cnn", (9, 7, 3), {"pool": "last", "hidden_size": 16}),
    ("cnn", (6, 6, 2), {"pool": "none", "features": (4, 8, 12)}),
]


def ours_and_torch(name, shape, fields, dtype):
    batch, classes = 5, 7
    model = jaxmodels.create(name, num_classes=classes, dtype=dtype, param_dtype=dtype, **fields)
    variables = randomised(model, (batch, *shape), dtype)
    rng = np.random.default_rng(2)
    image = jnp.asarray(rng.normal(0.2, 1.0, (batch, *shape)), dtype)
    label = rng.integers(0, classes, batch).astype(np.int32)

    def loss_fn(params):
        logits = model.apply({"params": params}, image, train=True, rngs={"dropout": jax.random.key(0)})
        loss, count = classification(logits, {"label": jnp.asarray(label), "weight": jnp.ones(batch, dtype)})["loss"]
        return loss / count, logits

    (loss, logits), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(variables["params"])
    params = jax.tree.map(np.asarray, variables["params"])
    twin = TorchMLP(params, fields.get("activation", "relu")) if name == "mlp" else TorchCNN(params, fields["pool"])
    twin_logits = twin(to_torch(image))
    twin_loss = torch.nn.functional.cross_entropy(twin_logits, torch.tensor(label).long())
    twin_loss.backward()
    flat = {"/".join(str(k.key) for k in path): g for path, g in jax.tree_util.tree_leaves_with_path(grads)}
    return (logits, loss, flat), (twin_logits.detach().numpy(), twin_loss.item(), twin.gradients())


@pytest.mark.parametrize(("name", "shape", "fields"), CASES)
def test_equals_pytorch_in_float64(name, shape, fields, x64):
    (logits, loss, grads), (twin_logits, twin_loss, twin_grads) = ours_and_torch(name, shape, fields, np.float64)
    assert logits.dtype == np.float64
    assert relative(logits, twin_logits) < 1e-12
    assert abs(float(loss) - twin_loss) < 1e-12 * abs(twin_loss)
    assert sorted(grads) == sorted(twin_grads)
    for path in grads:
        assert relative(grads[path], twin_grads[path]) < 1e-12, path


@pytest.mark.parametrize(("name", "shape", "fields"), CASES)
def test_float32_is_as_exact_as_pytorch(name, shape, fields):
    """The yardstick is PyTorch's own float32 distance from the float64 truth (floor 1e-6), not an absolute number."""
    with jax.enable_x64(True):
        _, (true_logits, _, true_grads) = ours_and_torch(name, shape, fields, np.float64)
    with jax.default_matmul_precision("highest"):
        (logits, _, grads), (twin_logits, _, twin_grads) = ours_and_torch(name, shape, fields, np.float32)
    assert relative(logits, true_logits) <= max(1e-6, 3 * relative(twin_logits, true_logits))
    for path in grads:
        limit = max(1e-6, 3 * relative(twin_grads[path], true_grads[path]))
        assert relative(grads[path], true_grads[path]) <= limit, path


@pytest.mark.parametrize("name", jaxmodels.list_models())
def test_bfloat16_reaches_every_product_and_parameters_stay_float32(name):
    shape, fields, _ = PARAMETERS[name]
    model = jaxmodels.create(name, num_classes=10, dtype=jnp.bfloat16, **fields)
    image = jnp.zeros((2, *shape), jnp.bfloat16)
    variables = model.init(jax.random.key(0), image, train=False)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    jaxpr = jax.make_jaxpr(lambda v: model.apply(v, image, train=False))(variables)
    products = [e for e in jaxpr.eqns if e.primitive.name in ("dot_general", "conv_general_dilated")]
    assert len(products) >= 2
    for eqn in products:
        assert {v.aval.dtype for v in eqn.invars} == {jnp.dtype("bfloat16")}, eqn
    assert jaxpr.out_avals[0].dtype == jnp.float32


def test_dropout_is_on_in_training_only():
    model = jaxmodels.create("mlp", num_classes=3, dropout_rate=0.5)
    x = jnp.ones((4, 10))
    variables = model.init(jax.random.key(0), x, train=False)
    a, b = (model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(i)}) for i in (1, 2))
    assert not jnp.array_equal(a, b)
    assert jnp.array_equal(model.apply(variables, x, train=False), model.apply(variables, x, train=False))


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
        ("mlp", {"activation": "gelu"}, "relu, sigmoid"),
        ("cnn", {"pool": "max"}, "none, last, each"),
        ("cnn", {"pool": "each", "features": (4,) * 5}, "2x2 pool"),
    ],
)
def test_impossible_fields_say_so(name, fields, match):
    model = jaxmodels.create(name, num_classes=2, **fields)
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False))
