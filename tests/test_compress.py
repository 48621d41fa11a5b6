"""Pruning and int8 against NumPy, exact zeros through training, files bit for bit, and the command
line."""

import itertools
import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import traverse_util
from PIL import Image

from jaxmodels.adapt.patterns import split
from jaxmodels.compress import files, prune, quantize
from jaxmodels.foreign.rules import WeightsError
from tests import test_models
from tests.compiled import init
from tests.conftest import ALL_DEVICES, NEW_EMITTER, make_tiny
from tests.test_loop import assert_same_run, stopped_and_resumed
from train import batches, compiling, config, evaluate, initial, loop, predict, setup, sharding
from train.checkpoint import Checkpoints
from train.compress import command as compress
from train.config import ConfigError, MeshConfig, OptimConfig, PruneConfig
from train.launch.workdir import read_config
from train.optim import make_optimizer
from train.sharding import put_batch
from train.state import TrainState
from train.step import predict_step

pytestmark = pytest.mark.usefixtures("two_devices")

flat = partial(traverse_util.flatten_dict, sep="/")


def tree(seed=0):
    """One of each kind: dense, convolution with 3 and with 8 inputs, scanned, recurrent, and what
    is not pruned."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) * rng.uniform(0.5, 2), jnp.float32)  # noqa: E731
    return {
        "dense_0": {"kernel": draw(12, 6), "bias": draw(6)},
        "conv_0": {"kernel": draw(3, 3, 3, 5)},
        "conv_1": {"kernel": draw(3, 3, 8, 5)},
        "blocks": {
            "mlp_in": {"kernel": draw(4, 8, 6), "bias": draw(4, 6)},
            "norm": {"scale": draw(4, 8)},
        },
        "lstm_0": {"kernel_ih": draw(8, 16), "kernel_hh_reverse": draw(4, 16), "bias_ih": draw(16)},
        "token_embed": {"embedding": draw(20, 8)},
        "head": {"kernel": draw(8, 4), "bias": draw(4)},
        "decoder_conv_0": {"kernel": draw(4, 4, 8, 4)},
    }


PRUNED = (
    "dense_0/kernel",
    "conv_0/kernel",
    "conv_1/kernel",
    "blocks/mlp_in/kernel",
    "lstm_0/kernel_ih",
)
PRUNED = (*PRUNED, "lstm_0/kernel_hh_reverse")


def smallest_gone(x, share):
    """NumPy's reference: 0 in the place of the smallest ``share`` of all."""
    x = np.array(x)
    order = np.abs(x).ravel().argsort(kind="stable")
    x.reshape(-1)[order[: round(share * x.size)]] = 0
    return x


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
def test_global_and_layer_pruning_are_numpys(share):
    params = tree()
    before = {k: np.asarray(v) for k, v in flat(params).items()}
    together, each = (
        flat(prune.prune(params, share, scope=scope)) for scope in ("global", "layer")
    )
    everything = smallest_gone(np.concatenate([before[k].ravel() for k in PRUNED]), share)
    np.testing.assert_array_equal(np.concatenate([together[k].ravel() for k in PRUNED]), everything)
    for name, x in before.items():
        if name not in PRUNED:
            np.testing.assert_array_equal(together[name], x)
            np.testing.assert_array_equal(each[name], x)
        elif name.startswith("blocks/"):
            np.testing.assert_array_equal(
                each[name], np.stack([smallest_gone(layer, share) for layer in x])
            )
        else:
            np.testing.assert_array_equal(each[name], smallest_gone(x, share))
    assert prune.sparsity(prune.prune(params, share)) == pytest.approx(share, abs=1e-3)


def test_two_of_four_along_the_inputs():
    params = tree()
    # all equal: still two stay
    params["dense_0"]["kernel"] = params["dense_0"]["kernel"].at[:4, 0].set(1.0)
    masks = prune.masks(params, 0.5, scope="2:4")
    assert masks["conv_0"]["kernel"] is None, "3 inputs are no group of 4"
    assert masks["head"]["kernel"] is None and masks["token_embed"]["embedding"] is None
    found = flat(prune.apply_masks(params, masks))
    for name in set(PRUNED) - {"conv_0/kernel"}:
        before, after = (
            np.moveaxis(np.asarray(x[name]), -2, -1).reshape(-1, 4) for x in (flat(params), found)
        )
        assert ((after != 0).sum(1) == 2).all(), name
        kept = np.sort(np.abs(after), 1)[:, 2:]
        np.testing.assert_array_equal(kept, np.sort(np.abs(before), 1)[:, 2:])
    np.testing.assert_array_equal(found["conv_0/kernel"], params["conv_0"]["kernel"])


def test_what_cannot_be_pruned():
    with pytest.raises(ValueError, match=r"scope 'half' is not one of global, layer, 2:4"):
        prune.masks(tree(), 0.5, scope="half")
    with pytest.raises(ValueError, match="no kernel to prune"):
        prune.masks({"head": tree()["head"]}, 0.5)
    with pytest.raises(ValueError, match="divisible by 4"):
        prune.masks({"conv_0": tree()["conv_0"]}, 0.5, scope="2:4")
    only = prune.masks(tree(), 0.5, select=lambda path: path == "head/kernel")
    assert [k for k, v in flat(only).items() if v is not None] == ["head/kernel"]


def test_gradual_sparsity_is_the_formula():
    at = lambda step: float(prune.gradual(step, sparsity=0.8, begin=10, end=50))  # noqa: E731
    assert at(0) == at(10) == 0 and at(50) == at(90) == pytest.approx(0.8)
    for step in (11, 20, 37):
        assert at(step) == pytest.approx(0.8 * (1 - (1 - (step - 10) / 40) ** 3))
    assert float(prune.gradual(0, sparsity=0.8, begin=0, end=0)) == pytest.approx(0.8)


# while training


OPTIMISERS = {
    "adamw": OptimConfig(name="adamw", weight_decay=0.1, clip_norm=1.0),
    "sgd": OptimConfig(name="sgd", momentum=0.9, nesterov=True, weight_decay=1e-2),
    "lion": OptimConfig(name="lion", weight_decay=0.1),
    "adafactor": OptimConfig(
        name="adafactor", weight_decay=0.1, freeze=("dense_0",), rates={"conv_1": 3.0}
    ),
}


@pytest.mark.parametrize(
    ("name", "scope", "share"),
    [
        ("adamw", "global", 0.8),
        ("sgd", "2:4", 0.5),
        ("lion", "layer", 0.9),
        ("adafactor", "global", 0.8),
    ],
)
def test_zeros_stay_zero_through_100_steps(name, scope, share):
    optim = OPTIMISERS[name]
    tx = make_optimizer(optim, 200, PruneConfig(share, scope, begin_step=5, end_step=45, every=10))
    params, before = tree(), flat(tree())

    @jax.jit
    def step(params, state, key):
        # 1e3: updates of another size than the parameters, so that p + u rounds
        grads = jax.tree.map(
            lambda p: p + 1e3 * jax.random.normal(key, p.shape), split(params, optim.freeze)[0]
        )
        updates, state = tx.update(grads, state, params)
        trained = optax.apply_updates(split(params, optim.freeze)[0], updates)
        return jax.tree.map(lambda p, t: p if t is None else t, params, trained), state

    state, zeros, shares = tx.init(params), [], []
    for i in range(100):
        params, state = step(params, state, jax.random.key(i))
        now = {k: np.asarray(x) for k, x in flat(params).items()}
        zeros.append({k: (x == 0) & ~np.signbit(x) for k, x in now.items()})
        trained = [now[k] == 0 for k in PRUNED if not (optim.freeze and "dense_0" in k)]
        shares.append(sum(x.sum() for x in trained) / sum(x.size for x in trained))
        for k, mask in zeros[max(0, i - 1)].items():
            assert zeros[i][k][mask].all(), f"step {i}: a zero of {k} moved"
        if scope == "2:4" and i >= 15:  # the share at step 5 is 0
            for k in set(PRUNED) - {"conv_0/kernel"}:  # 3 inputs are no group of 4
                groups = np.moveaxis(now[k], -2, -1).reshape(-1, 4)
                assert ((groups == 0).sum(1) >= 2).all(), f"step {i}: {k}"
    assert shares[4] == 0 and all(a <= b for a, b in itertools.pairwise(shares))
    for i, chosen in ((5, 5), (14, 5), (15, 15), (24, 15), (44, 35), (45, 45), (99, 45)):
        expected = float(prune.gradual(chosen, sparsity=share, begin=5, end=45))
        assert scope == "2:4" or shares[i] == pytest.approx(expected, abs=5e-3), i
    for k, x in before.items():
        if "dense_0" in k and optim.freeze:
            np.testing.assert_array_equal(now[k], x)
        elif k in PRUNED:
            kept = now[k] != 0
            assert kept.any() and (now[k][kept] != np.asarray(x)[kept]).any()
        else:
            assert not (now[k] == 0).any()
    masks = state.masks
    assert all(
        (flat(params)[k] == 0).sum() == (~m).sum() for k, m in flat(masks).items() if m is not None
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory, data_dir):
    """A finished run with all that has state switched on."""
    c = make_tiny(data_dir)
    c.model_fields = {"hidden_sizes": (32, 16)}
    workdir = tmp_path_factory.mktemp("compress") / "base"
    loop.train(c, workdir)
    return workdir


def pruning(base) -> config.Config:
    c = read_config(base)
    c.init_from, c.init_skip = str(base), ()
    c.prune = PruneConfig(sparsity=0.75, begin_step=2, end_step=10, every=3)
    c.checkpoint.every, c.eval_every = 5, 4
    return c


def test_a_trained_run_is_pruned_and_fine_tuned(base, tmp_path, monkeypatch):
    c = pruning(base)
    c.optim.freeze = ("dense_1",)
    loop.train(c, tmp_path / "whole")
    stopped_and_resumed(c, tmp_path / "cut", monkeypatch, 7)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    run = setup.build(c)
    checkpoints = Checkpoints(tmp_path / "whole" / "checkpoints", read_only=True)
    state, _ = checkpoints.restore(run.shapes)
    assert checkpoints.best_step() > c.prune.end_step, (
        "the best of a run that prunes is a pruned one"
    )
    checkpoints.close()
    (mask,) = jax.tree.leaves(state.opt_state.masks)
    assert mask.dtype == bool and int((~mask).sum()) == round(0.75 * mask.size)
    for params in (state.params, state.ema_params):
        np.testing.assert_array_equal(
            np.asarray(params["dense_0"]["kernel"]) == 0, ~np.asarray(mask)
        )
    np.testing.assert_array_equal(
        state.params["dense_1"]["kernel"], initial.start(run)[0].params["dense_1"]["kernel"]
    )


def test_pruning_on_a_mesh_is_that_of_one_device(base):
    """One-shot, so that the masks are a function of the same initial parameters."""
    found = []
    for mesh in (MeshConfig(data=1), MeshConfig(data=2, fsdp=2, tensor=2)):
        c = pruning(base)
        c.prune = PruneConfig(sparsity=0.75)
        c.mesh = mesh
        run = setup.build(c, devices=ALL_DEVICES[: np.prod([mesh.data, mesh.fsdp, mesh.tensor])])
        (state, _), (step, _, _) = initial.start(run), compiling.compile_train_step(run)
        where = run.shapes.opt_state.masks["dense_0"]["kernel"].sharding
        assert where == run.shapes.params["dense_0"]["kernel"].sharding
        batch = batches.examples(run, "train", c.batch_size)
        for _ in range(2):
            state, _ = step(state, put_batch(batch, run.mesh))
        found.append(jax.device_get((state.opt_state.masks, state.params)))
    for a, b in zip(*(jax.tree.leaves(masks) for masks, _ in found), strict=True):
        np.testing.assert_array_equal(a, b)
    for masks, params in found:
        for name, mask in flat(masks).items():
            if mask is not None:
                np.testing.assert_array_equal(flat(params)[name] == 0, ~mask)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["prune.sparsity=1"], "config.prune.sparsity = 1.0"),
        (["prune.sparsity=0.8", "prune.scope=2:4"], "nearest: 0.5"),
        (["prune.sparsity=0.8", "prune.end_step=2000"], "config.prune.end_step = 2000"),
        (
            ["prune.sparsity=0.8", "prune.begin_step=9", "prune.end_step=3"],
            "config.prune.begin_step = 9",
        ),
        (["prune.scope=global_"], "nearest: 'global'"),
    ],
)
def test_prune_configs_that_cannot_be(flags, words):
    with pytest.raises(ConfigError) as e:
        config.load_config("configs/digits_cnn.py", flags)
    assert words in str(e.value) and "\n" not in str(e.value)


# int8


def numpy_int8(x, axes):
    x = np.asarray(x, np.float32)
    largest = np.abs(x).max(axes, keepdims=True)
    largest = np.where(largest > 1e-35, largest, np.float32(1))
    return np.rint(x * (np.float32(127) / largest)).astype(np.int8), largest * np.float32(1 / 127)


def test_weights_and_scales_are_numpys():
    params = tree()
    params["dense_0"]["kernel"] = params["dense_0"]["kernel"].at[:, 2:4].set(0)  # channels of zeros
    # and of next to nothing
    params["dense_0"]["kernel"] = params["dense_0"]["kernel"].at[5, 3].set(1e-39)
    found, back = (
        flat(jax.jit(quantize.quantize)(params)),
        flat(quantize.dequantize(quantize.quantize(params))),
    )
    axes = {
        "dense_0/kernel": (0,),
        "conv_0/kernel": (0, 1, 2),
        "conv_1/kernel": (0, 1, 2),
        "head/kernel": (0,),
    }
    axes |= {"blocks/mlp_in/kernel": (1,), "token_embed/embedding": (1,)}
    assert {k.removesuffix("_int8") for k in found if k.endswith("_int8")} == set(axes)
    assert back.keys() == flat(params).keys()
    for name, x in flat(params).items():
        if name not in axes:
            np.testing.assert_array_equal(found[name], x)
            continue
        q, scale = numpy_int8(x, axes[name])
        assert (
            found[f"{name}_int8"].dtype == jnp.int8 and found[f"{name}_scale"].dtype == jnp.float32
        )
        np.testing.assert_array_equal(found[f"{name}_int8"], q)
        np.testing.assert_array_equal(found[f"{name}_scale"], scale.squeeze(axes[name]))
        np.testing.assert_array_equal(back[name], q * scale)
        assert (np.abs(back[name] - np.asarray(x)) <= scale / 2 * (1 + 1e-6)).all()
    assert 0 < quantize.int8_share(quantize.quantize(params)) < 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_dense_layer_is_numpys_integer_product(dtype):
    layer = nn.Dense(7, dtype=dtype, use_bias=False)
    # a row of zeros
    x = jax.random.normal(jax.random.key(0), (3, 5, 200)).astype(dtype).at[1, 2].set(0)
    params = quantize.quantize(layer.init(jax.random.key(1), x)["params"])
    with quantize.executing():
        y = layer.apply({"params": params}, x)
    rows, row_scale = numpy_int8(x, -1)
    exact = rows.astype(np.int64) @ np.asarray(params["kernel_int8"], np.int64)
    expected = exact.astype(np.float32) * row_scale * np.asarray(params["kernel_scale"])
    assert y.dtype == dtype and (y[1, 2] == 0).all()
    np.testing.assert_array_equal(y, expected.astype(dtype))


@pytest.mark.parametrize(
    "fields",
    [{"padding": ((1, 1), (0, 2)), "strides": 2}, {"padding": "SAME"}, {"padding": "VALID"}],
)
def test_a_convolution_is_numpys_integer_sum(fields):
    layer = nn.Conv(6, (3, 2), use_bias=False, **fields)
    x = jax.random.normal(jax.random.key(0), (3, 9, 8, 5))
    params = quantize.quantize(layer.init(jax.random.key(1), x)["params"])
    with quantize.executing():
        y = layer.apply({"params": params}, x)
    q, scale = numpy_int8(x, (1, 2, 3))
    pads = {"SAME": ((1, 1), (0, 1)), "VALID": ((0, 0), (0, 0))}.get(
        fields["padding"], fields["padding"]
    )
    q, stride = np.pad(q.astype(np.int64), ((0, 0), *pads, (0, 0))), fields.get("strides", 1)
    windows = np.lib.stride_tricks.sliding_window_view(q, (3, 2), (1, 2))[:, ::stride, ::stride]
    exact = np.einsum("bhwcij,ijco->bhwo", windows, np.asarray(params["kernel_int8"], np.int64))
    np.testing.assert_array_equal(
        y, exact.astype(np.float32) * scale * np.asarray(params["kernel_scale"])
    )


def test_a_grouped_convolution_is_dequantised():
    layer = nn.Conv(8, (3, 3), feature_group_count=2)
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 4))
    params = layer.init(jax.random.key(1), x)["params"]
    with quantize.executing():
        y = layer.apply({"params": quantize.quantize(params)}, x)
    expected = layer.apply({"params": quantize.dequantize(quantize.quantize(params))}, x)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


def integer_products(jaxpr) -> int:
    """Products of int8 and int8 to int32, in a jaxpr and all inside it; of a scan's body once."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            kinds = [str(v.aval.dtype) for v in (*equation.invars, *equation.outvars)]
            count += kinds == ["int8", "int8", "int32"]
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            count += integer_products(inner) if hasattr(inner, "eqns") else 0
    return count


@pytest.mark.parametrize("name", test_models.LIGHT)
def test_every_model_multiplies_in_int8_without_an_edit(name):
    """As many integer products as the model calls dense layers and ungrouped convolutions, and without the
    context an error."""
    shape, fields = test_models.LIGHT[name]
    model, inputs = test_models.make(name, shape, **fields)
    variables = test_models.shapes(model, inputs)
    calls = 0

    def count(call, args, kwargs, context):
        nonlocal calls
        # which fusion does not run
        without = context.module.path in (("image", "head"), ("text", "head"))
        calls += (
            context.method_name == "__call__"
            and isinstance(context.module, nn.Dense | nn.Conv)
            and not without
            and getattr(context.module, "feature_group_count", 1) == 1  # others are dequantised
        )
        return call(*args, **kwargs)

    apply = partial(model.apply, train=False)
    with nn.intercept_methods(count):
        expected = jax.make_jaxpr(apply)(variables, *inputs).out_avals
    quantized = variables | {"params": jax.eval_shape(quantize.quantize, variables["params"])}
    with quantize.executing():
        jaxpr = jax.make_jaxpr(lambda *a: apply(*a))(quantized, *inputs)
    assert [(a.shape, a.dtype) for a in jaxpr.out_avals] == [(a.shape, a.dtype) for a in expected]
    scans = fields.get("scan") and calls  # nn.scan traces its body more than once
    found = integer_products(jaxpr.jaxpr)
    assert 0 < found <= calls if scans else found == calls
    with pytest.raises(Exception, match=r"kernel|embedding"):
        jax.eval_shape(lambda *a: apply(*a), quantized, *inputs)


MODELS = {
    "cnn": {"features": (8, 16), "hidden_size": 32},
    "resnet20": {"stage_sizes": (1, 1)},
    "vit_ti_16": {
        "patch_size": 2,
        "num_layers": 2,
        "hidden_size": 32,
        "num_heads": 4,
        "mlp_dim": 64,
        "scan": True,
    },
    "bert_tiny": {
        "head": "classification",
        "num_layers": 2,
        "num_heads": 2,
        "hidden_size": 32,
        "mlp_dim": 64,
    },
    "gpt2_tiny": {"num_layers": 2, "num_heads": 2, "hidden_size": 32, "mlp_dim": 64},
    "lstm": {"embed_size": 16, "hidden_size": 16},
}


def drawn(name, dtype=jnp.float32):
    """A small model with all parameters drawn at random, and inputs."""
    shape = (8, 8, 3) if name in ("cnn", "resnet20", "vit_ti_16") else ()
    model, inputs = test_models.make(name, shape, dtype=dtype, **MODELS[name])
    inputs = tuple(
        jax.random.normal(jax.random.key(0), (8, *shape))
        if shape
        else jax.random.randint(jax.random.key(0), x.shape, 1, 9)
        for x in inputs
    )
    variables = init(model, *inputs, seed=1, train=False)
    leaves, structure = jax.tree.flatten(variables["params"])
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return model, variables | {"params": jax.tree.unflatten(structure, leaves)}, inputs


def first(outputs):
    return np.asarray(outputs.logits if hasattr(outputs, "logits") else outputs, np.float32)


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("name", MODELS)
def test_int8_is_near_float32_and_nearer_to_its_simulation_in_float(name):
    """The simulation rounds the same numbers and computes in float; where a sum rounds differently,
    a step may flip."""
    model, variables, inputs = drawn(name)
    params = variables["params"]
    apply = lambda params: model.apply(variables | {"params": params}, *inputs, train=False)  # noqa: E731
    exact = first(jax.jit(apply)(params))
    with quantize.executing():
        int8 = first(jax.jit(lambda params: apply(quantize.quantize(params)))(params))
    with quantize.fake_activations():
        fake = first(jax.jit(lambda params: apply(quantize.fake_quantize(params)))(params))
    assert 1e-4 < relative(int8, exact) < 0.06
    assert relative(fake, int8) < 0.5 * relative(int8, exact)


def test_int8_in_bfloat16():
    model, variables, inputs = drawn("cnn", jnp.bfloat16)
    with quantize.executing():
        int8 = model.apply(
            variables | {"params": quantize.quantize(variables["params"])}, *inputs, train=False
        )
    assert int8.dtype == jnp.float32
    assert relative(first(int8), first(model.apply(variables, *inputs, train=False))) < 0.05


@pytest.mark.parametrize("name", ["cnn", "vit_ti_16"])
@pytest.mark.parametrize(
    "mesh", [{"data": 1, "fsdp": 8}, {"data": 1, "fsdp": 4, "tensor": 2}], ids=str
)
def test_int8_on_a_mesh(name, mesh):
    """Sums of integers are the same in any order: without norms in between nothing differs at
    all."""
    model, variables, inputs = drawn(name)
    mesh = sharding.make_mesh(MeshConfig(**mesh), ALL_DEVICES)
    found = []
    for on_mesh in (False, True):
        params = variables["params"]
        if on_mesh:
            params = jax.device_put(params, sharding.shardings_of(params, mesh))
        params = quantize.quantize(params)
        state = TrainState(jnp.int32(0), params, {}, (), None, jnp.bool_(True))
        step = jax.jit(partial(predict_step, model=model), compiler_options=NEW_EMITTER)
        with quantize.executing(), jax.set_mesh(mesh) if on_mesh else quantize.executing():
            found.append(np.asarray(step(state, *inputs)))
    if name == "cnn":
        np.testing.assert_array_equal(*found)
    assert relative(*found) < 2e-3


def test_int8_lies_as_what_it_stands_for():
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=4, tensor=2), ALL_DEVICES)
    for name, shape in (("dense_0/kernel", (64, 32)), ("token_embed/embedding", (64, 32))):
        assert sharding.spec_of(f"{name}_int8", shape, mesh) == sharding.spec_of(name, shape, mesh)


def test_the_gradient_is_that_at_the_rounded_weights():
    model, variables, (x,) = drawn("cnn")

    def loss(params):
        return (model.apply({"params": params}, x, train=False) ** 2).sum()

    found = jax.grad(lambda params: loss(quantize.fake_quantize(params)))(variables["params"])
    expected = jax.grad(loss)(quantize.dequantize(quantize.quantize(variables["params"])))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected)
    dx = jax.grad(lambda x: (quantize.fake_quantized(x, (1,)) * 3).sum())(
        jnp.linspace(-1, 1, 12).reshape(3, 4)
    )
    np.testing.assert_array_equal(dx, np.full((3, 4), 3.0))


def test_quantisation_aware_training_evaluates_what_int8_gives(base, tmp_path):
    c = read_config(base)
    c.quantization_aware = True
    c.init_from, c.init_skip = str(base), ()
    summary = loop.train(c, tmp_path / "run")
    run, state = compress._open(tmp_path / "run", "last", compress_arguments())
    state = state.replace(params=quantize.quantize(state.params))
    accuracy = compress.make_bench(run, 8, "test").accuracy(state)
    assert abs(summary["test"]["accuracy"] - accuracy) <= 1 / 359  # a logit may flip


def compress_arguments():
    import argparse

    return argparse.Namespace(data_dir=None, raw_dir=None)


# files and the command line


def bits(x):
    return np.asarray(x).reshape(-1).view(np.uint8)


@pytest.mark.parametrize("share", [0.0, 0.9])
@pytest.mark.parametrize("int8", [False, True])
def test_files_hold_every_bit(tmp_path, share, int8):
    params = prune.prune(tree(), share)
    params["dense_0"]["kernel"] = (
        params["dense_0"]["kernel"].at[0, :3].set(jnp.asarray([-0.0, np.nan, np.inf]))
    )
    params["dense_0"]["bias"] = params["dense_0"]["bias"].astype(jnp.bfloat16)
    variables = {
        "params": quantize.quantize(params) if int8 else params,
        "batch_stats": {"count": jnp.int32(7)},
    }
    size = files.save(tmp_path / "x.safetensors", variables)
    found = files.load(tmp_path / "x.safetensors")
    assert (
        jax.tree.structure(found) == jax.tree.structure(variables)
        and size == (tmp_path / "x.safetensors").stat().st_size
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(variables), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(bits(a), bits(b))


def test_files_are_small_and_damage_is_found(tmp_path):
    params = {"dense": {"kernel": jax.random.normal(jax.random.key(0), (256, 256))}}
    sizes = [
        files.save(tmp_path / "x.safetensors", {"params": p}) / (4 * 256**2)
        for p in (
            params,
            prune.prune(params, 0.9),
            quantize.quantize(params),
            quantize.quantize(prune.prune(params, 0.9)),
        )
    ]
    # 1 bit of mask for each number besides, 0.01 for names and the like
    np.testing.assert_allclose(sizes, [1, 0.1 + 1 / 32, 1 / 4, 0.1 / 4 + 1 / 32], atol=0.01)
    raw = bytearray((tmp_path / "x.safetensors").read_bytes())
    raw[-9] ^= 1
    (tmp_path / "x.safetensors").write_bytes(raw)
    with pytest.raises(WeightsError, match="damaged"):
        files.load(tmp_path / "x.safetensors")


def test_a_short_report(base, tmp_path, capsys, monkeypatch):
    """The command with few rows; its files give the accuracy again."""
    monkeypatch.setattr(compress, "RUNS", 1)
    monkeypatch.setattr(compress, "SPARSITIES", (0.5,))
    out, split = tmp_path / "out", "--split=train"
    arguments = [f"--workdir={base}", f"--out={out}", "--examples=0", "--step=last", split]
    assert compress.main(arguments) == 0
    rows = {row["name"]: row for row in json.loads((out / "report.json").read_text())["rows"]}
    assert [*rows] == ["original", "int8", "pruned_50", "pruned_2_4", "int8_pruned_50"]
    assert (out / "report.txt").read_text() in capsys.readouterr().out
    assert rows["pruned_50"]["sparsity"] == pytest.approx(0.5, abs=0.01)
    weights = f"--weights={out / 'int8_pruned_50.safetensors'}"
    assert evaluate.main([f"--workdir={base}", weights, split, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["accuracy"]
    assert found == pytest.approx(rows["int8_pruned_50"]["accuracy"], abs=1e-6)


def test_the_report(base, tmp_path, capsys, monkeypatch, plots):
    monkeypatch.setattr(compress, "RUNS", 3)
    c = pruning(base)
    loop.train(c, tmp_path / "fine_tuned")
    capsys.readouterr()
    out = tmp_path / "out"
    arguments = [
        f"--workdir={base}",
        f"--add={tmp_path / 'fine_tuned'}",
        f"--out={out}",
        "--examples=200",
        "--step=last",
        "--split=train",
    ]
    assert compress.main(arguments) == 0
    printed, found = capsys.readouterr().out, json.loads((out / "report.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    names = ["original", "int8", "pruned_50", "pruned_70", "pruned_80", "pruned_90", "pruned_2_4"]
    names += ["surgeon_50", "surgeon_70", "surgeon_80", "surgeon_90", "int8_pruned_50"]
    assert [*rows] == [*names, "fine_tuned", "fine_tuned_int8"] and found["split"] == "train"
    assert all(name in printed for name in rows) and (out / "report.txt").read_text() in printed
    assert (out / "pareto.png").stat().st_size > 10_000
    assert rows["original"]["size_ratio"] == rows["original"]["latency_ratio"] == 1
    assert (
        rows["pruned_80"]["sparsity"] == pytest.approx(0.8, abs=0.01)
        and rows["original"]["int8"] == 0
    )
    assert rows["surgeon_80"]["sparsity"] == pytest.approx(0.8, abs=0.01)
    assert rows["fine_tuned"]["sparsity"] == pytest.approx(0.75, abs=0.01)
    for name, row in rows.items():
        assert (
            row["bytes"] == (out / f"{name}.safetensors").stat().st_size and row["latency_ms"] > 0
        )
    with pytest.raises(
        ConfigError, match=r"--add=.*fine_tuned would overwrite fine_tuned\.safetensors: rename it"
    ):
        compress.main([*arguments, arguments[1]])
    # the files alone give the accuracy again
    image = tmp_path / "seven.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3).save(image)
    for name in ("original", "int8_pruned_50"):
        weights = f"--weights={out / name}.safetensors"
        assert evaluate.main([f"--workdir={base}", weights, "--split=train", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(
            rows[name]["accuracy"], abs=1e-6
        )
        probabilities = []
        for options in ([weights], ["--step=last"]):
            assert (
                predict.main([f"--workdir={base}", *options, "--json", "--top=10", str(image)]) == 0
            )
            found = json.loads(capsys.readouterr().out)["labels"]
            probabilities.append({label["label"]: label["probability"] for label in found})
        assert (probabilities[0] == probabilities[1]) == (name == "original")
    with pytest.raises(
        ConfigError,
        match=r"fine.safetensors is not of this run's model \w+: 1 arrays differ, first ",
    ):
        params = files.load(out / "original.safetensors")
        params["params"]["head"]["bias"] = jnp.zeros(3)
        files.save(tmp_path / "fine.safetensors", params)
        evaluate.main([f"--workdir={base}", f"--weights={tmp_path / 'fine.safetensors'}"])
    (tmp_path / "broken.safetensors").write_bytes((out / "original.safetensors").read_bytes()[:-9])
    for name in ("broken", "missing"):
        with pytest.raises(ConfigError, match=rf"--weights=.*{name}\.safetensors: "):
            evaluate.main([f"--workdir={base}", f"--weights={tmp_path / f'{name}.safetensors'}"])
    with pytest.raises(ConfigError, match="--step is of a checkpoint and --weights of a file"):
        evaluate.main(
            [f"--workdir={base}", f"--weights={out / 'original.safetensors'}", "--step=best"]
        )


def test_the_report_is_for_classifiers_of_the_same_data(base, tmp_path):
    (tmp_path / "other").mkdir()
    for name in ("config.json", "dataset.json"):
        text = (base / name).read_text()
        (tmp_path / "other" / name).write_text(
            text.replace('"eval_split": "test"', '"eval_split": "train"')
        )
    shutil.copytree(base / "checkpoints", tmp_path / "other" / "checkpoints")
    with pytest.raises(
        ConfigError, match=r"--add=.* is of a run with config.data.eval_split = 'train', not 'test'"
    ):
        compress.main([f"--workdir={base}", f"--add={tmp_path / 'other'}", f"--out={tmp_path}"])
    text = (
        (base / "config.json")
        .read_text()
        .replace('"task": "classification"', '"task": "elbo"')
        .replace('"label_smoothing": 0.0', '"beta": 1.0')
    )
    (tmp_path / "other" / "config.json").write_text(
        text.replace('"mlp"', '"vae"').replace('"hidden_sizes"', '"features"')
    )
    with pytest.raises(ConfigError, match="not of a classifier"):
        compress.main([f"--workdir={tmp_path / 'other'}"])
