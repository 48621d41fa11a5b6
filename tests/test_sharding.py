"""Eight devices compute what one does: gradients, loss curves, initial values; checkpoints move
between meshes."""

import contextlib
import dataclasses
import math
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxmodels
from input_pipeline import DatasetCard
from jaxmodels.adapt.multitask import MultiHead
from jaxmodels.families.googlenet import model as googlenet
from jaxmodels.nn.layers import TokenLogits
from tests import test_models
from train import compiling, initial, setup, sharding
from train.checkpoint import Checkpoints
from train.config import Config, ConfigError, MeshConfig, OptimConfig
from train.step import accumulated_gradients
from train.tasks.causal_lm import causal_lm
from train.tasks.classification import classification
from train.tasks.contrastive import contrastive
from train.tasks.cross_entropy import token_cross_entropy
from train.tasks.elbo import elbo
from train.tasks.masked_lm import masked_lm
from train.tasks.multitask import labelled, multi_task

CARD = DatasetCard(
    "digits", "1.0.0", {"train": 1438, "test": 359}, (8, 8, 1), 10, tuple("0123456789"), ""
)
MESHES = {
    "data=8": {"data": 8},
    "fsdp=8": {"data": 1, "fsdp": 8},
    "2x2x2": {"data": 2, "fsdp": 2, "tensor": 2},
    "tensor=8": {"data": 1, "tensor": 8},
    "fsdp=4 x tensor=2": {"data": 1, "fsdp": 4, "tensor": 2},
}
SEQUENCE = {"fsdp": 2, "sequence": 2, "tensor": 2}
SMALL = {"num_layers": 2, "num_heads": 2, "hidden_size": 32, "mlp_dim": 64}
CNN = {"features": (16, 32), "pool": "each", "hidden_size": 64}
PAIR = {
    "image_encoder": "vit_ti_16",
    "image_fields": SMALL | {"patch_size": 2},
    "text_encoder": "bert_tiny",
    "text_fields": SMALL,
}
IMAGE, TEXT, BOTH = ("image",), ("tokens", "segments"), ("image", "tokens", "segments", "present")
TASKS = partial(
    multi_task, tasks={name: partial(labelled, name=name) for name in ("digit", "other")}
)

FAMILIES = {  # name, fields, objective, inputs; dropout is on where the model has some
    "mlp": ("mlp", {"hidden_sizes": (64, 128), "dropout_rate": 0.1}, classification, IMAGE),
    "cnn": ("cnn", CNN, classification, IMAGE),
    "alexnet": (
        "alexnet",
        {
            "stem": "small",
            "features": (16, 32, 32, 32, 32),
            "hidden_sizes": (64, 64),
            "pooled_size": 1,
        },
        classification,
        IMAGE,
    ),
    "vgg": (
        "vgg11_bn",
        {
            "stage_sizes": (1, 1),
            "stage_features": (16, 32),
            "hidden_sizes": (32,),
            "pooled_size": 2,
        },
        classification,
        IMAGE,
    ),
    "googlenet": ("googlenet", {"stem": "small"}, classification, IMAGE),
    "resnet": ("resnet20", {"stage_sizes": (1, 1), "width": 16}, classification, IMAGE),
    "convnext": (
        "convnext_tiny",
        {"stage_sizes": (1, 1), "stage_features": (16, 32), "patch_size": 2},
        classification,
        IMAGE,
    ),
    "vit": (
        "vit_ti_16",
        SMALL | {"patch_size": 2, "scan": True, "dropout_rate": 0.1},
        classification,
        IMAGE,
    ),
    "vae": (
        "vae_conv",
        {"image_shape": (16, 16, 1), "features": (16, 32), "latent_size": 8},
        elbo,
        ("image", "noise"),
    ),
    "lstm": ("bilstm", {"embed_size": 32, "hidden_size": 32}, classification, TEXT),
    "transformer": (
        "transformer_tiny",
        SMALL | {"num_layers": 1},
        causal_lm,
        ("source", "tokens", "source_segments", "segments"),
    ),
    "bert": (
        "bert_tiny",
        SMALL | {"scan": True},
        masked_lm,
        ("tokens", "segments", "types", "positions"),
    ),
    "gpt2": ("gpt2_tiny", SMALL | {"scan": True, "remat": True}, causal_lm, TEXT),
    "fusion": (
        "fusion",
        SMALL | {"num_layers": 1, "fusion": "direct", "patch_size": 4},
        classification,
        BOTH,
    ),
    "dual_encoder": ("dual_encoder", {"embed_size": 32} | PAIR, contrastive, BOTH[:3]),
    "multi_task": ("cnn", CNN, TASKS, IMAGE),
}
"""One of each family; ``inception_v3`` is built as ``googlenet`` is, and takes minutes to
compile."""

TRANSFORMERS = ("vit", "transformer", "bert", "gpt2")


def config_of(*, accumulate=1, **mesh) -> Config:
    return Config(
        model="cnn",
        model_fields=CNN,
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


def batch_of(objective, size, rng):
    """Sixteen examples of everything, of which three are padding; texts of different lengths."""

    def draw(*shape, high=40):
        return rng.integers(0, high, shape).astype(np.int32)

    real = np.arange(16) < rng.integers(3, 17, (16, 1))
    real_examples = (np.arange(16) < 13).astype(np.float32)
    masked = (draw(16, 3, high=2) * real_examples[:, None]).astype(np.float32)
    lengths = {"segments": real, "source_segments": real[::-1], "types": real & (np.arange(16) > 5)}
    return {
        "image": rng.uniform(size=(16, size, size, 1)),
        "noise": rng.normal(size=(16, 8)),
        "present": rng.random((16, 2)) < 0.7,
        "label": draw(16, high=10),
        "label_digit": draw(16, high=10),
        "label_other": draw(16, high=5) - 1,
        "weight": real.astype(np.float32) if objective is causal_lm else real_examples,
        **{name: draw(16, 16) for name in ("tokens", "source", "target")},
        **{name: value.astype(np.int32) for name, value in lengths.items()},
        "positions": draw(16, 3, high=16),
        "masked_target": draw(16, 3),
        "masked_weight": masked,
        "share_masked": np.full(16, real_examples.sum() / masked.sum(), np.float32),
    }


def without_dropout(name, fields):
    """In the encoders of two modalities neither."""
    parts = [part for part in ("image", "text") if f"{part}_fields" in fields]
    inner = {
        f"{part}_fields": without_dropout(fields[f"{part}_encoder"], fields[f"{part}_fields"])
        for part in parts
    }
    return (
        fields
        | inner
        | {k: 0.0 for k in jaxmodels.model_fields(name) if k.endswith("dropout_rate")}
    )


def gradients(family, mesh, dtype=np.float64, accumulate=1, dropout=True):
    """Of every parameter, with the model's new state and the loss; the same values and batch on
    every mesh."""
    name, fields, objective, inputs = FAMILIES[family]
    known = jaxmodels.model_fields(name)
    fields = {
        k: v for k, v in {"vocab_size": 40, "num_classes": 10, "max_len": 16}.items() if k in known
    } | fields
    if not dropout:
        fields = without_dropout(name, fields)
    model = jaxmodels.create(name, dtype=dtype, param_dtype=dtype, **fields)
    if objective is TASKS:
        model = MultiHead(model, {"digit": 10, "other": 4}, dtype=dtype, param_dtype=dtype)
    rng = np.random.default_rng(0)
    batch = batch_of(objective, 16 if family in ("alexnet", "googlenet", "vae") else 8, rng)
    batch = {k: v.astype(dtype) if v.dtype == np.float64 else v for k, v in batch.items()}
    shapes = jax.eval_shape(
        partial(model.init, train=False), jax.random.key(0), *(batch[k] for k in inputs)
    )

    def value(path, leaf):  # none is zero, as some are at first: gradients behind it would be
        if path[0].key == "batch_stats":
            return np.full(leaf.shape, path[-1].key == "var", leaf.dtype)
        return ((path[-1].key == "scale") + 0.1 * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(value, shapes)
    sizes = {"data": 1, **mesh}
    mesh = sharding.make_mesh(MeshConfig(**sizes), jax.devices()[: math.prod(sizes.values())])
    variables = jax.device_put(variables, sharding.shardings_of(variables, mesh))
    options = {"model": model, "objective": objective, "inputs": inputs, "accumulate": accumulate}

    def of(variables, batch):
        params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
        grads, count, metrics, state = accumulated_gradients(
            params, state, batch, jax.random.key(0), **options
        )
        return jax.tree.map(lambda g: g / count, grads), state, metrics["loss"]

    with jax.set_mesh(mesh):
        return jax.device_get(jax.jit(of)(variables, sharding.put_batch(batch, mesh)))


def relative(a, b):
    """Largest distance by norm; a gradient that is zero by construction (a bias before batch norm)
    is measured by 1."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    norms = [(np.linalg.norm(x - y), np.linalg.norm(y)) for x, y in pairs]
    return max(difference / (norm if norm > 1e-12 else 1.0) for difference, norm in norms)


def few_blocks(monkeypatch):
    """Of GoogLeNet: all are alike, and slow to compile."""
    monkeypatch.setattr(
        googlenet, "BLOCKS", {name: googlenet.BLOCKS[name] for name in ("3a", "4a")}
    )
    monkeypatch.setattr(googlenet, "AUXILIARY", {})


@pytest.mark.parametrize("family", FAMILIES)
def test_float64_gradients_equal_one_device(family, x64, monkeypatch):
    """With the same dropout masks, and batch statistics, which are those of the global batch.

    ``python -m tests.meshes`` tries every family on every mesh.
    """
    few_blocks(monkeypatch)
    one = gradients(family, {})
    assert np.median([np.linalg.norm(g) for g in jax.tree.leaves(one[0])]) > 1e-6
    meshes = {"2x2x2": MESHES["2x2x2"]}
    if family in TRANSFORMERS:
        meshes = {"sequence": SEQUENCE}
    if family == "cnn":
        meshes |= MESHES
    for name, mesh in meshes.items():
        assert relative(gradients(family, mesh), one) < 1e-10, name


def test_the_table_has_a_row_for_every_family():
    """docs/meshes.md is what ``python -m tests.meshes`` printed."""
    text = (Path(__file__).parent.parent / "docs" / "meshes.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", text, re.MULTILINE)
    assert [name for name, _ in rows] == list(FAMILIES)
    assert all(float(distance) < 1e-10 for _, distance in rows)


@pytest.mark.parametrize("family", ["cnn", "gpt2", "bert"])
def test_micro_batches_on_a_mesh(family, x64):
    """Of which each has another number of examples, of tokens, of masked tokens."""
    one = gradients(family, {}, dropout=False)
    for mesh, accumulate in (({}, 4), (MESHES["2x2x2"], 2)):
        assert relative(gradients(family, mesh, accumulate=accumulate, dropout=False), one) < 1e-10


def test_float32_gradients_of_gpt2_split_by_length():
    """Of all parameters together: a key's bias has none but rounding. 3e-7 was seen."""

    def together(mesh):
        return np.concatenate(
            [g.ravel() for g in jax.tree.leaves(gradients("gpt2", mesh, np.float32)[0])]
        )

    assert relative(together(SEQUENCE), together({})) < 2e-6


@pytest.mark.parametrize(("mesh", "length"), [("2x2x2", 16), ("sequence", 16), ("sequence", 15)])
def test_cross_entropy_in_parts_on_a_mesh_is_that_of_one_device(mesh, length, x64):
    """Of a vocabulary that is split as the models' are, whose gradient is made beside the loss."""
    rng = np.random.default_rng(0)
    hidden, kernel, weight = (
        rng.normal(size=shape) for shape in ((8, length, 32), (40, 32), (8, length))
    )
    target = rng.integers(0, 40, (8, length)).astype(np.int32)

    def of(chunk, kernel, hidden, target, weight):
        def loss(kernel, hidden, weight):
            return token_cross_entropy(
                TokenLogits(hidden, kernel, None), target, weight, chunk=chunk
            ).loss

        return jax.value_and_grad(loss, (0, 1, 2))(kernel, hidden, weight)

    one = jax.jit(partial(of, 2**20))(kernel, hidden, target, weight)
    sizes = {"data": 1} | (MESHES | {"sequence": SEQUENCE})[mesh]
    where = sharding.make_mesh(MeshConfig(**sizes), jax.devices()[: math.prod(sizes.values())])
    table = {"params": {"token_embed": {"embedding": kernel}}}
    (split,) = jax.tree.leaves(jax.device_put(table, sharding.shardings_of(table, where)))
    assert split.sharding.shard_shape(split.shape) == (20, 16)
    batch = sharding.put_batch({"hidden": hidden, "tokens": target, "weight": weight}, where)
    with jax.set_mesh(where):
        inputs = split, batch["hidden"], batch["tokens"], batch["weight"]
        traced = jax.jit(partial(of, 640)).trace(*inputs)
        found = traced.lower().compile()(*inputs)
    assert re.search(r"length=\d+", str(traced.jaxpr)), "one part is no loop"
    assert relative(found, one) < 1e-12


@pytest.mark.parametrize(("remat", "part"), [(True, 0.5), (False, 0.75)])
def test_scanned_layers_are_gathered_one_at_a_time(remat, part, monkeypatch):
    """Memory of the compiled gradients against what gathering all layers at once takes."""
    fields = {
        "num_layers": 8,
        "num_heads": 4,
        "hidden_size": 128,
        "mlp_dim": 512,
        "vocab_size": 64,
        "max_len": 8,
    }
    model = jaxmodels.create("gpt2_tiny", scan=True, remat=remat, **fields)
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=8))
    text = jax.ShapeDtypeStruct((8, 8), jnp.int32)
    params = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), text)["params"]
    where = sharding.shardings_of(params, mesh)
    params = jax.tree.map(
        lambda x, w: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=w), params, where
    )

    def of(params, tokens):
        batch = {"tokens": tokens, "target": tokens, "weight": jnp.ones(tokens.shape)}
        options = {"model": model, "objective": causal_lm, "inputs": ("tokens",)}
        return accumulated_gradients(params, {}, batch, jax.random.key(0), **options)[0]

    def memory():
        with jax.set_mesh(mesh):
            compiled = jax.jit(lambda *x: of(*x), out_shardings=where).lower(params, text).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    found = memory()
    monkeypatch.setattr(sharding, "in_stack", lambda path: False)
    monkeypatch.setattr("train.step.gathering_layers", contextlib.nullcontext)
    assert found < part * memory()


def test_layers_are_gathered_in_the_context_alone():
    """Not in a program that imports ``train.sharding``, whatever its mesh."""
    model = jaxmodels.create("gpt2_tiny", num_layers=1, hidden_size=64, vocab_size=32)
    text = jnp.zeros((8, 4), int)
    params = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), text)

    def gathers():
        traced = jax.jit(partial(model.apply, train=False)).trace(params, text)
        return "_gathered" in str(traced.jaxpr)

    with jax.set_mesh(sharding.make_mesh(MeshConfig(fsdp=4))):
        assert not gathers()
        with sharding.gathering_layers():
            assert gathers()
        assert not gathers()
    with sharding.gathering_layers():
        assert not gathers()


def losses(config, steps=20):
    run = build(config)
    state, (step, _, _) = initial.init(run), compiling.compile_train_step(run)
    found = []
    for batch in batches(steps):
        state, metrics = step(state, sharding.put_batch(batch, run.mesh))
        found.append(float(metrics["loss"][0] / metrics["loss"][1]))
    return np.asarray(found), state


def test_float32_loss_curve_of_20_sgd_steps_equals_one_device():
    one, _ = losses(config_of())
    assert one[-1] < 0.9 * one[0]
    many, state = losses(config_of(accumulate=4, **MESHES["2x2x2"]))
    assert np.abs(many / one - 1).max() < 1e-5
    kernel = state.params["dense"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4, (
        "the parameters must really be split"
    )


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_initial_values_do_not_depend_on_the_mesh(mesh):
    """The same draws; XLA (seen with jaxlib 0.12) rounds the inverse error function of a shard in
    another last bit."""
    one, many = initial.init(build(config_of())), initial.init(build(config_of(**mesh)))
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
    assert spec("params/blocks/norm_1/scale", (128, 63)) == P(None, None), "layers are not split"
    assert spec("blocks/attention/out/kernel", (6, 64, 64)) == P(None, "tensor", "fsdp")
    assert spec("params/block_3/norm_1/scale", (64,)) == P(None)
    assert spec("step", ()) == P()
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=4))
    assert spec("params/head/kernel", (512, 10)) == P("fsdp", None), (
        "an axis of one device takes no dimension"
    )


def test_optimizer_state_lies_like_its_parameter():
    config = config_of(fsdp=4, tensor=2)
    config.optim = OptimConfig(name="adamw", ema_decay=0.9)
    shapes = build(config).shapes
    for tree in (shapes.opt_state[0].mu, shapes.opt_state[0].nu, shapes.ema_params):
        assert jax.tree.map(lambda s: s.sharding, tree) == jax.tree.map(
            lambda s: s.sharding, shapes.params
        )


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
        for got, want, shape in zip(
            *map(jax.tree.leaves, (found, expected, run.shapes)), strict=True
        ):
            np.testing.assert_array_equal(got, want)
            assert got.sharding == shape.sharding


def test_batch_is_split_over_data_and_fsdp():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    image = sharding.put_batch({"image": np.arange(16.0).reshape(16, 1)}, mesh)["image"]
    assert {s.data.shape for s in image.addressable_shards} == {(4, 1)}
    assert image.sharding == NamedSharding(mesh, sharding.BATCH)


def test_batches_of_several_steps_are_each_split_as_one_is():
    mesh = sharding.make_mesh(MeshConfig(data=2, sequence=4))
    tokens = np.arange(3 * 4 * 8).reshape(3, 4, 8)
    placed = sharding.put_batches([{"tokens": one, "label": one[:, 0]} for one in tokens], mesh)
    assert {k: v.addressable_shards[0].data.shape for k, v in placed.items()} == {
        "tokens": (3, 2, 2),
        "label": (3, 2),
    }
    np.testing.assert_array_equal(placed["tokens"], tokens)


def test_texts_are_split_over_sequence_where_it_divides_their_length():
    mesh = sharding.make_mesh(MeshConfig(data=2, sequence=4))
    batch = {
        "tokens": np.arange(32).reshape(4, 8),
        "target": np.zeros((4, 6)),
        "label": np.arange(4),
    }
    batch |= {"features": np.zeros((4, 8)), "weight": np.zeros(4)}
    placed = sharding.put_batch(batch, mesh)
    found = {k: v.addressable_shards[0].data.shape for k, v in placed.items()}
    assert found == {
        "tokens": (2, 2),
        "target": (2, 6),
        "label": (2,),
        "features": (2, 8),
        "weight": (2,),
    }
    np.testing.assert_array_equal(placed["tokens"], batch["tokens"])


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh is made of; no device behind it."""

    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"
    process_index: int = 0


def test_slices_are_outermost_on_data(monkeypatch):
    chips = [Chip(i, i % 2) for i in range(8)]
    real, arranged = sharding.Mesh, []

    def mesh(devices, axes, axis_types):
        arranged.append(devices)
        return real(np.asarray(jax.devices()).reshape(devices.shape), axes, axis_types=axis_types)

    monkeypatch.setattr(sharding, "Mesh", mesh)
    sharding.make_mesh(MeshConfig(data=-1, fsdp=2), chips)
    (found,) = arranged
    assert found.shape == (4, 2, 1, 1)
    slices = np.vectorize(lambda chip: chip.slice_index)(found)
    assert (slices == np.asarray([0, 0, 1, 1])[:, None, None, None]).all(), (
        "only data crosses slices"
    )
    with pytest.raises(
        ConfigError,
        match=r"config\.mesh\.data = 1 is not divisible by the 2 slices .* nearest: 2, ",
    ):
        sharding.make_mesh(MeshConfig(data=1, fsdp=8), chips)
