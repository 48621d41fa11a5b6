"""Eight devices compute what one does: gradients, loss curves, initial values; checkpoints move between meshes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxmodels
from input_pipeline import DatasetCard
from tests import test_models
from train import setup, sharding
from train.checkpoint import Checkpoints
from train.config import Config, MeshConfig, OptimConfig
from train.objectives import classification
from train.step import accumulated_gradients

CARD = DatasetCard("digits", "1.0.0", {"train": 1438, "test": 359}, (8, 8, 1), 10, tuple("0123456789"), "")
MESHES = {
    "data=8": {"data": 8},
    "fsdp=8": {"data": 1, "fsdp": 8},
    "2x2x2": {"data": 2, "fsdp": 2, "tensor": 2},
    "tensor=8": {"data": 1, "tensor": 8},
    "fsdp=4 x tensor=2": {"data": 1, "fsdp": 4, "tensor": 2},
}
MODELS = {
    "cnn": {"features": (16, 32), "pool": "each", "hidden_size": 64},
    "mlp": {"hidden_sizes": (64, 128)},
}

ZOO = {  # tried on two meshes only: they take long to compile
    "resnet20": {"stage_sizes": (1, 1), "width": 16},
    "vgg11_bn": {"stage_sizes": (1, 1), "stage_features": (16, 32), "hidden_sizes": (32,), "pooled_size": 2},
    "vit_ti_16": {"patch_size": 2, "num_layers": 2, "num_heads": 4, "hidden_size": 32, "mlp_dim": 64, "scan": True},
}


def config_of(model="cnn", *, accumulate=1, **mesh) -> Config:
    return Config(
        model=model,
        model_fields=(MODELS | ZOO)[model],
        mesh=MeshConfig(**{"data": 1, **mesh}),
        optim=OptimConfig(name="sgd", learning_rate=0.05, schedule="constant", momentum=0.9),
        batch_size=64,
        eval_batch_size=64,
        accumulate=accumulate,
        steps=20,
    )


def build(config: Config, **kwargs):
    n = int(np.prod([config.mesh.data, config.mesh.fsdp, config.mesh.tensor]))
    return setup.build(config, card=CARD, devices=jax.devices()[:n], **kwargs)


def batches(n):
    rng = np.random.default_rng(0)
    for _ in range(n):
        label = rng.integers(0, 10, 64).astype(np.int32)
        noise = rng.integers(0, 64, (64, 8, 8, 1)) + 12 * label[:, None, None, None]
        yield {"image": noise.astype(np.uint8), "label": label, "weight": np.ones(64, np.float32)}


def float64_gradients(model, mesh, accumulate=1):
    """Gradients at the same parameters, with the state laid out as the mesh says."""
    config = config_of(model, accumulate=accumulate, **mesh)
    run = build(config)
    fields = {k: 0.0 for k in jaxmodels.model_fields(model) if k.endswith("dropout_rate")} | (MODELS | ZOO)[model]
    module = jaxmodels.create(model, num_classes=10, dtype=jnp.float64, param_dtype=jnp.float64, **fields)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1), jnp.float64), train=False)
    if "vit" in model:  # its head starts at zero, and then most gradients are zero
        head = variables["params"]["head"]
        head["kernel"] = jax.random.normal(jax.random.key(1), head["kernel"].shape, head["kernel"].dtype)
    variables = jax.device_put(variables, sharding.shardings_of(variables, run.mesh))
    batch = next(batches(1))
    batch = sharding.put_batch(batch | {"image": batch["image"] / 255.0}, run.mesh)

    def gradients(variables, batch):
        params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
        grads, count, _, state = accumulated_gradients(
            params, state, batch, jax.random.key(0), model=module, objective=classification, accumulate=accumulate
        )
        return jax.tree.map(lambda g: g / count, grads), state

    with jax.set_mesh(run.mesh):
        return jax.device_get(jax.jit(gradients)(variables, batch))


def relative(a, b):
    """Largest distance by norm; a gradient that is zero by construction (a bias before batch norm) is measured by 1."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    norms = [(np.linalg.norm(x - y), np.linalg.norm(y)) for x, y in pairs]
    return max(difference / (norm if norm > 1e-12 else 1.0) for difference, norm in norms)


@pytest.mark.parametrize("model", MODELS)
def test_float64_gradients_equal_one_device(model, x64):
    one = float64_gradients(model, {})
    assert min(np.linalg.norm(g) for g in jax.tree.leaves(one[0])) > 1e-6
    for name, mesh in MESHES.items():
        assert relative(float64_gradients(model, mesh), one) < 1e-10, name
    assert relative(float64_gradients(model, {}, accumulate=4), one) < 1e-10
    assert relative(float64_gradients(model, MESHES["2x2x2"], accumulate=4), one) < 1e-10


@pytest.mark.parametrize("model", ZOO)
def test_the_zoo_on_two_meshes(model, x64):
    """Gradients, and batch statistics, which are those of the global batch."""
    one = float64_gradients(model, {})
    assert np.median([np.linalg.norm(g) for g in jax.tree.leaves(one[0])]) > 1e-6
    assert ("vit" in model) == (not one[1])
    for name in ("2x2x2", "fsdp=4 x tensor=2"):
        assert relative(float64_gradients(model, MESHES[name]), one) < 1e-10, name


def losses(config, steps=20):
    run = build(config)
    state, (step, _, _) = run.init(), run.compile_train_step()
    found = []
    for batch in batches(steps):
        state, metrics = step(state, sharding.put_batch(batch, run.mesh))
        found.append(float(metrics["loss"][0] / metrics["loss"][1]))
    return np.asarray(found), state


@pytest.mark.parametrize("model", MODELS)
def test_float32_loss_curve_of_20_sgd_steps_equals_one_device(model):
    one, _ = losses(config_of(model))
    assert one[-1] < 0.9 * one[0]
    for name, mesh in MESHES.items():
        many, state = losses(config_of(model, **mesh))
        assert np.abs(many / one - 1).max() < 1e-5, name
        kernel = state.params["dense" if model == "cnn" else "dense_0"]["kernel"]
        split = mesh.get("fsdp", 1) * mesh.get("tensor", 1)
        assert kernel.addressable_shards[0].data.size == kernel.size // split, "the parameters must really be split"
    many, _ = losses(config_of(model, accumulate=4))
    assert np.abs(many / one - 1).max() < 1e-5


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_initial_values_do_not_depend_on_the_mesh(mesh):
    """The same draws; XLA (seen with jaxlib 0.12) rounds the inverse error function of a shard in another last bit."""
    one, many = build(config_of()).init(), build(config_of(**mesh)).init()
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [*test_models.LIGHT, "bert_tiny pretraining", "marian"])
def test_each_parameter_is_matched_by_exactly_one_rule(name):
    name, _, head = name.partition(" ")
    shape, fields = test_models.LIGHT.get(name, ((), {}))
    fields = fields | ({"head": head} if head else {})
    params = test_models.shapes(*test_models.make(name, shape, **fields))["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = sharding.path_name(path)
        matched = [(p, s) for p, s in sharding.RULES if re.search(p, path)]
        assert len(matched) == 1, path
        assert len(matched[0][1]) == len(leaf.shape) - ("blocks" in path.split("/")), path


def test_rules_give_way_to_shapes():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    spec = lambda path, shape: sharding.spec_of(path, shape, mesh)  # noqa: E731
    assert spec("params/dense_0/kernel", (64, 128)) == P("fsdp", "tensor")
    assert spec("params/dense_0/kernel", (64, 127)) == P("fsdp", None)
    assert spec("params/dense_0/kernel", (63, 127)) == P(None, None)
    assert spec("opt_state/0/mu/conv_1/kernel", (3, 3, 16, 32)) == P(None, None, "fsdp", "tensor")
    assert spec("opt_state/0/v_row/dense_0/kernel", (4096,)) == P("fsdp")
    assert spec("params/dense_0/bias", (128,)) == P("tensor")
    assert spec("params/blocks/mlp_in/kernel", (6, 64, 128)) == P(None, "fsdp", "tensor")
    assert spec("blocks/attention/out/kernel", (6, 64, 64)) == P(None, "tensor", "fsdp")
    assert spec("params/block_3/norm_1/scale", (64,)) == P(None)
    assert spec("step", ()) == P()


def test_optimizer_state_lies_like_its_parameter():
    config = config_of(fsdp=4, tensor=2)
    config.optim = OptimConfig(name="adamw", ema_decay=0.9)
    shapes = build(config).shapes
    for tree in (shapes.opt_state[0].mu, shapes.opt_state[0].nu, shapes.ema_params):
        assert jax.tree.map(lambda s: s.sharding, tree) == jax.tree.map(lambda s: s.sharding, shapes.params)


def test_checkpoint_moves_from_8_to_4_to_1_devices(tmp_path):
    config = config_of(fsdp=8)
    config.optim = OptimConfig(name="adamw", ema_decay=0.9, warmup_steps=2)
    _, state = losses(config, 3)
    expected = jax.device_get(state)
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(state, {"x": 1})
    checkpoints.close()
    for mesh in ({"fsdp": 4}, {"data": 2, "tensor": 2}, {}, {"data": 2, "fsdp": 2, "tensor": 2}):
        other = config_of(**mesh)
        other.optim = config.optim
        run = build(other)
        checkpoints = Checkpoints(tmp_path / "c", read_only=True)
        found, host = checkpoints.restore(run.shapes)
        checkpoints.close()
        assert host == {"x": 1}
        for got, want, shape in zip(*map(jax.tree.leaves, (found, expected, run.shapes)), strict=True):
            np.testing.assert_array_equal(got, want)
            assert got.sharding == shape.sharding


def test_batch_is_split_over_data_and_fsdp():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    image = sharding.put_batch({"image": np.arange(16.0).reshape(16, 1)}, mesh)["image"]
    assert {s.data.shape for s in image.addressable_shards} == {(4, 1)}
    assert image.sharding == NamedSharding(mesh, sharding.BATCH)
