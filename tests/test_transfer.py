"""Transfer learning: patterns, frozen parts, rates by part, and parameters from other runs and
files."""

import dataclasses
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import traverse_util
from torch.nn import functional as F

import jaxmodels
from input_pipeline import DatasetCard
from jaxmodels import weights
from jaxmodels.adapt import patterns
from jaxmodels.adapt.frozen import evaluating
from tests.conftest import make_tiny
from train import compiling, initial, loop, setup
from train import config as config_lib
from train.checkpoint import Checkpoints
from train.config import Config, ConfigError, MeshConfig, OptimConfig, load_config
from train.launch.workdir import read_config
from train.loop import train
from train.optim import make_optimizer
from train.records import nonfinite
from train.records.restore import restore
from train.sharding import put_batch
from train.state import TrainState, init_state
from train.step import train_step
from train.tasks.classification import classification

CARD = DatasetCard(
    "digits", "1.0.0", {"train": 1438, "test": 359}, (8, 8, 1), 10, tuple("0123456789"), ""
)
flat = partial(traverse_util.flatten_dict, sep="/")
CLASSES, SHAPE = 5, (6, 6, 2)
RESNET = {"stage_sizes": (1,), "width": 4, "stem": "small"}
FROZEN = ("*_stem", "*/conv_1", "*/bn_1")  # of RESNET: the stem and the first half of the block


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("head", "head/kernel", True),
        ("head/kernel", "head/kernel", True),
        ("head", "head_2/kernel", False),
        ("hea", "head/kernel", False),
        ("kernel", "head/kernel", False),
        ("head/kernel/x", "head/kernel", False),
        ("stage_[12]_*", "stage_2_block_0/conv_1/kernel", True),
        ("stage_[12]_*", "stage_3_block_0/conv_1/kernel", False),
        ("*/bn_?/scale", "stage_3_block_0/bn_2/scale", True),
        ("*/scale", "stage_3_block_0/bn_2/scale", False),
        ("*", "head/kernel", True),
        ("", "head/kernel", False),
    ],
)
def test_a_pattern_matches_whole_components_from_the_left(pattern, path, expected):
    assert patterns.matches(pattern, path) is expected


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("freeze", ("dense_00",), ["config.optim.freeze: 'dense_00'", "did you mean 'dense_0'?"]),
        (
            "freeze",
            ("dense_0", "dense_0/bais"),
            ["'dense_0/bais'", "did you mean 'bias' in 'dense_0'?"],
        ),
        ("freeze", ("encoder",), ["'encoder'", "there are dense_0, head"]),
        (
            "freeze",
            ("head/kernel/x",),
            ["'head/kernel/x' matches no parameter", "nothing is in 'head/kernel'"],
        ),
        ("freeze", ("dense_*", "head"), ["('dense_*', 'head')", "no parameter to train"]),
        ("rates", {"haed": 2.0}, ["config.optim.rates: 'haed'", "'head'"]),
    ],
)
def test_a_pattern_that_matches_nothing_is_named(tiny, field, value, words):
    setattr(tiny.optim, field, value)
    with pytest.raises(ConfigError) as e:
        setup.build(tiny, card=CARD)
    assert "\n" not in str(e.value)
    for word in words:
        assert word in str(e.value), str(e.value)


def test_the_command_line_sets_patterns():
    flags = [
        "optim.freeze=stage_1_*",
        "optim.rates.head=10",
        "optim.rates.stage_[23]_*/bn_1=0.5",
        "init_skip=()",
    ]
    config = load_config("configs/digits_cnn.py", [*flags, "init_from=runs/x"])
    assert (
        config.optim.freeze == ("stage_1_*",)
        and config.init_skip == ()
        and config.init_from == "runs/x"
    )
    assert config.optim.rates == {"head": 10.0, "stage_[23]_*/bn_1": 0.5}
    assert all(type(rate) is float for rate in config.optim.rates.values())
    assert config_lib.from_json(config_lib.to_json(config)) == config
    assert load_config("configs/digits_transfer.py", ["init_from=none"]).init_from is None
    for flag, word in (
        ("optim.rates.head=0", "config.optim.rates.head = 0.0 must be above 0"),
        ("optim.rates.head=fast", "'fast'"),
        ("optim.freeze=1", "(1,)"),
        ("init_from=3", "config.init_from = 3"),
    ):
        with pytest.raises(ConfigError) as e:
            load_config("configs/digits_cnn.py", [flag])
        assert word in str(e.value)


def test_where_a_run_starts_and_the_order_of_rates_are_part_of_what_it_is():
    a, b = Config(), Config(init_from="x", init_skip=())
    assert config_lib.differences(a, b) == [
        "config.init_from: None -> 'x'",
        "config.init_skip: None -> ()",
    ]
    a.optim.rates, b = {"head": 2.0, "*": 3.0}, Config()
    b.optim.rates = {"*": 3.0, "head": 2.0}
    assert config_lib.differences(a, b) == [
        f"config.optim.rates: {a.optim.rates} -> {b.optim.rates}"
    ]


# the optimiser and the step


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_1, self.bn_1 = torch.nn.Conv2d(4, 4, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(4)
        self.conv_2, self.bn_2 = torch.nn.Conv2d(4, 4, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(4)

    def forward(self, x):
        return F.relu(self.bn_2(self.conv_2(F.relu(self.bn_1(self.conv_1(x))))) + x)


class Twin(torch.nn.Module):
    """RESNET with our names."""

    def __init__(self):
        super().__init__()
        self.conv_stem, self.bn_stem = (
            torch.nn.Conv2d(SHAPE[-1], 4, 3, 1, 1, bias=False),
            torch.nn.BatchNorm2d(4),
        )
        self.stage_1_block_0 = Block()
        self.head = torch.nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.stage_1_block_0(F.relu(self.bn_stem(self.conv_stem(x)))).mean((2, 3)))


TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def to_torch(variables):
    """Our variables as a state dict of ``Twin``."""
    result = {}
    for collection in ("params", "batch_stats"):
        for name, x in flat(variables[collection]).items():
            *modules, leaf = name.split("/")
            x = np.asarray(x)
            x = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T
            result[".".join([*modules, TORCH_LEAVES.get(leaf, "num_batches_tracked")])] = (
                torch.tensor(np.array(x))
            )
    return result


def batch_of(n, shape=SHAPE, classes=CLASSES, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.normal(size=(n, *shape)), dtype),
        "label": jnp.asarray(rng.integers(0, classes, n), jnp.int32),
        "weight": jnp.ones(n, jnp.float32),
    }


def fill(low, high, tree):
    """Random values for a tree of arrays or shapes."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(rng.uniform(low, high, x.shape), x.dtype), tree)


def make(optim, *, model="resnet20", fields=RESNET, ema=False, dtype=jnp.float32, **kwargs):
    """A random state, running statistics included, and its compiled step."""
    module = jaxmodels.create(model, num_classes=CLASSES, dtype=dtype, param_dtype=dtype, **fields)
    tx = make_optimizer(optim, 100)
    inputs = (jax.ShapeDtypeStruct((1, *SHAPE), dtype),)
    state = jax.eval_shape(
        partial(init_state, model=module, tx=tx, inputs=inputs, ema=ema), jax.random.key(0)
    )
    params = fill(-0.5, 0.5, state.params)
    state = TrainState(
        step=jnp.int32(0),
        params=params,
        model_state=fill(0.5, 1.5, state.model_state),
        opt_state=tx.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
        finite=jnp.ones((), bool),
    )
    step = partial(
        train_step, model=module, tx=tx, objective=classification, freeze=optim.freeze, **kwargs
    )
    return state, jax.jit(step)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_frozen_parts_and_rates_equal_pytorch(name, x64):
    """Five steps with ``requires_grad=False`` and ``eval()``, and with parameter groups of other
    learning rates."""
    rates = {"head/bias": 2.0, "head": 5.0, "stage_[1-3]_*/conv_2": 0.1}
    optim = OptimConfig(
        name=name,
        learning_rate=0.03,
        schedule="constant",
        weight_decay=0.1,
        b2=0.95,
        freeze=FROZEN,
        rates=rates,
    )
    state, step = make(optim, dtype=jnp.float64)

    def is_frozen(key):
        return key.startswith(
            ("conv_stem", "bn_stem", "stage_1_block_0.conv_1", "stage_1_block_0.bn_1")
        )

    twin = Twin().double()
    twin.load_state_dict(to_torch({"params": state.params, **state.model_state}))
    groups = []
    for key, p in twin.named_parameters():
        if is_frozen(key):
            p.requires_grad = False
            continue
        rate = {"head.bias": 2, "head.weight": 5, "stage_1_block_0.conv_2.weight": 0.1}.get(key, 1)
        groups.append(
            {"params": [p], "lr": 0.03 * rate, "weight_decay": 0.1 if p.ndim > 1 else 0.0}
        )
    torch_optimizer = (
        torch.optim.AdamW(groups, betas=(0.9, 0.95))
        if name == "adamw"
        else torch.optim.SGD(groups, lr=1, momentum=0.9)
    )
    before = to_torch({"params": state.params, **state.model_state})
    for seed in range(5):
        batch = batch_of(8, seed=seed, dtype=jnp.float64)
        state, _ = step(state, batch)
        twin.train()
        for module in (twin.bn_stem, twin.stage_1_block_0.bn_1):
            module.eval()
        torch_optimizer.zero_grad()
        images = torch.tensor(np.array(batch["image"])).permute(0, 3, 1, 2)
        F.cross_entropy(twin(images), torch.tensor(np.array(batch["label"])).long()).backward()
        torch_optimizer.step()
    ours, theirs = to_torch({"params": state.params, **state.model_state}), twin.state_dict()
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_allclose(
            ours[key].numpy(), theirs[key].numpy(), rtol=1e-9, atol=1e-12, err_msg=key
        )
        assert torch.equal(ours[key], before[key]) == is_frozen(key), key


def bits(tree):
    return {k: np.asarray(x).tobytes() for k, x in flat(tree).items()}


def frozen_names(tree):
    return {k for k in flat(tree) if patterns.matches_any(FROZEN, k)}


@pytest.mark.parametrize(
    ("name", "accumulate"), [("adamw", 2), ("sgd", 1), ("lion", 1), ("adafactor", 1)]
)
def test_frozen_parameters_do_not_change_by_one_bit_and_have_no_state(name, accumulate):
    optim = OptimConfig(
        name=name,
        learning_rate=0.05,
        schedule="constant",
        weight_decay=0.1,
        clip_norm=1.0,
        freeze=FROZEN,
    )
    state, step = make(optim, ema=True, accumulate=accumulate, ema_decay=0.9)
    kernel = state.params["conv_stem"]["kernel"].at[0, 0].set(-0.0)  # adding 0 would clear the sign
    state = state.replace(params=state.params | {"conv_stem": {"kernel": kernel}})
    state = state.replace(ema_params=jax.tree.map(jnp.copy, state.params))
    new = state
    for seed in range(3):
        new, metrics = step(new, batch_of(8, seed=seed))
    assert bool(new.finite) and np.isfinite(metrics["loss"][0])
    for before, after in (
        (state.params, new.params),
        (state.ema_params, new.ema_params),
        (state.model_state["batch_stats"], new.model_state["batch_stats"]),
    ):
        names, old, now = frozen_names(before), bits(before), bits(after)
        assert 0 < len(names) < len(old)
        assert {k for k in old if old[k] == now[k]} == names
    held = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree.leaves_with_path(new.opt_state)
    ]
    assert any("conv_2" in k for k in held)
    assert not [k for k in held if "stem" in k or "_1/" in k]


def test_frozen_parameters_count_in_no_norm():
    # nothing here runs otherwise in evaluation, so gradients are the same
    fields = {"hidden_sizes": (8,)}
    whole = OptimConfig(name="sgd", learning_rate=1.0, schedule="constant", momentum=0.0)
    frozen = dataclasses.replace(whole, clip_norm=0.01, freeze=("dense_0",))
    (state, step), batch = make(whole, model="mlp", fields=fields), batch_of(8)
    new, metrics = step(state, batch)
    grads = jax.tree.map(lambda a, b: a - b, state.params["head"], new.params["head"])
    norm = optax.tree.norm(grads)
    assert norm < 0.9 * metrics["grad_norm"][0]
    state, step = make(frozen, model="mlp", fields=fields)
    new, metrics = step(state, batch)
    np.testing.assert_allclose(metrics["grad_norm"][0], norm, rtol=1e-4)
    np.testing.assert_allclose(metrics["update_norm"][0], 0.01, rtol=1e-4)
    moved = jax.tree.map(lambda a, b: a - b, state.params["head"], new.params["head"])
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(grads), strict=True):
        # differences of float32 below 1, each rounded by 3e-8
        np.testing.assert_allclose(a, 0.01 / norm * b, rtol=1e-4, atol=1e-7)


def test_gradients_of_frozen_parameters_are_not_computed():
    """The head alone costs the forward pass; all of it costs about three times as much."""

    def flops(freeze):
        state, step = make(OptimConfig(name="sgd", freeze=freeze))
        return step.lower(state, batch_of(32)).cost_analysis()["flops"]

    whole, head = flops(()), flops(("*_stem", "stage_*"))
    assert 0.25 * whole < head < 0.45 * whole


@pytest.mark.parametrize("scan", [False, True])
def test_dropout_in_frozen_blocks_is_off(scan):
    fields = {
        "patch_size": 4,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_size": 8,
        "mlp_dim": 8,
        "pool": "mean",
    }
    fields |= {"attention_dropout_rate": 0.5, "scan": scan, "remat": True}
    model = jaxmodels.create("vit_ti_16", num_classes=CLASSES, **fields)
    image = batch_of(4, shape=(8, 8, 1))["image"]
    params = fill(
        0.1,
        0.5,
        jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)["params"],
    )

    @partial(jax.jit, static_argnums=(0, 1))
    def logits(train, freeze):
        with evaluating(patterns.frozen_modules(params, freeze)):
            return model.apply(
                {"params": params}, image, train=train, rngs={"dropout": jax.random.key(2)}
            )

    expected = logits(False, ())
    assert not np.allclose(logits(True, ()), expected)
    np.testing.assert_array_equal(logits(True, ("block*",)), expected)
    names = patterns.frozen_modules(params, ("block*/norm_1", "block*/mlp_in/kernel"))
    assert names == ({"blocks/norm_1"} if scan else {"block_0/norm_1", "block_1/norm_1"})


def test_eight_devices_train_a_part_as_one_does():
    optim = OptimConfig(
        name="sgd",
        learning_rate=0.05,
        schedule="constant",
        freeze=("dense_0",),
        rates={"head": 3.0},
    )
    fields = {"hidden_sizes": (32, 64)}
    config = Config(
        model="mlp",
        model_fields=fields,
        optim=optim,
        batch_size=16,
        accumulate=2,
        eval_batch_size=16,
    )
    results = []
    for mesh in (MeshConfig(data=1), MeshConfig(data=2, fsdp=2, tensor=2)):
        count = mesh.data * mesh.fsdp * mesh.tensor
        run = setup.build(
            dataclasses.replace(config, mesh=mesh), card=CARD, devices=jax.devices()[:count]
        )
        state = initial.init(run)
        first = jax.device_get(state.params["dense_0"])
        step, _, _ = compiling.compile_train_step(run)
        for seed in range(2):
            rng = np.random.default_rng(seed)
            image, label = (
                rng.integers(0, 255, (16, 8, 8, 1), np.uint8),
                rng.integers(0, 10, 16).astype(np.int32),
            )
            batch = put_batch(
                {"image": image, "label": label, "weight": np.ones(16, np.float32)}, run.mesh
            )
            state, metrics = step(state, batch)
        results.append((jax.device_get(state.params), float(metrics["loss"][0])))
        assert bits(first) == bits(state.params["dense_0"])
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-4)
    for a, b in zip(jax.tree.leaves(results[1][0]), jax.tree.leaves(results[0][0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_step_with_nan_is_replayed_with_the_frozen_part(tiny):
    tiny.optim.freeze, tiny.data.crop_padding = ("dense_0",), 0
    run = setup.build(tiny, card=CARD, devices=jax.devices()[:1])
    state, batch = (
        initial.init(run),
        {k: np.asarray(v) for k, v in batch_of(64, shape=(8, 8, 1)).items()},
    )
    batch["image"] = np.zeros((64, 8, 8, 1), np.uint8)
    assert nonfinite.first_nonfinite(run, state, batch).startswith("none on replay")


# where initial parameters come from


def perturbed(run, value):
    """The initial state plus ``value``; the average lies another 1/4 away."""
    state = jax.tree.map(
        lambda x: x + jnp.asarray(value, x.dtype) if x.dtype == jnp.float32 else x,
        initial.init(run),
    )
    return state.replace(ema_params=jax.tree.map(lambda x: x + 0.25, state.ema_params))


@pytest.fixture(scope="module")
def source(data_dir, tmp_path_factory):
    """Workdir of a run with checkpoints of step 1, 2 and 3; step 2 has the best score. Parameters
    are init + step."""
    run, workdir = setup.build(make_tiny(data_dir), card=CARD), tmp_path_factory.mktemp("source")
    checkpoints = Checkpoints(workdir / "checkpoints", keep_last=3)
    for step, score in ((1, 0.5), (2, 0.9), (3, 0.7)):
        checkpoints.score(step, score)
        checkpoints.save(perturbed(run, float(step)).replace(step=jnp.int32(step)), {})
    checkpoints.close()
    return workdir


def starting(config, source, **changes):
    return dataclasses.replace(config, init_from=str(source), **changes)


@pytest.mark.parametrize("mesh", [{}, {"data": 2, "fsdp": 4}])
def test_the_best_checkpoint_gives_all_but_the_head(tiny, source, mesh):
    run = setup.build(starting(tiny, source, seed=5, mesh=MeshConfig(**mesh)), card=CARD)
    fresh, (state, origin) = initial.init(run), initial.start(run)
    expected = jax.device_get(perturbed(setup.build(tiny, card=CARD), 2.0).ema_params)
    np.testing.assert_array_equal(state.params["dense_0"]["kernel"], expected["dense_0"]["kernel"])
    np.testing.assert_array_equal(state.params["dense_0"]["bias"], expected["dense_0"]["bias"])
    assert bits(state.params["head"]) == bits(fresh.params["head"])
    assert bits(state.ema_params) == bits(state.params) != bits(fresh.params)
    for a, b in zip(
        jax.tree.leaves(state.opt_state), jax.tree.leaves(fresh.opt_state), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    same = jax.tree.map(
        lambda x, s: x.sharding == s.sharding and x.dtype == s.dtype, state, run.shapes
    )
    assert all(jax.tree.leaves(same))
    assert origin == f"2,080 parameters from the checkpoint of step 2 of {source}, 330 fresh: head"


def test_after_damage_another_checkpoint(tiny, source, tmp_path):
    source = shutil.copytree(source, tmp_path / "copy")
    shutil.rmtree(source / "checkpoints" / "2" / "state")
    warnings = []
    run = setup.build(starting(tiny, source, init_skip=()), card=CARD)
    state, origin = initial.start(run, warn=warnings.append)
    assert "step 3 of" in origin and "fresh" not in origin
    assert len(warnings) == 1 and f"{source}: checkpoint of step 2 is damaged" in warnings[0]
    expected = perturbed(setup.build(tiny, card=CARD), 3.0).ema_params
    assert bits(state.params) == bits(expected)
    for step in (1, 3):
        shutil.rmtree(source / "checkpoints" / str(step) / "state")
    with pytest.raises(ConfigError, match=r"no good checkpoint in .*\[3, 2, 1\]"):
        initial.start(run, warn=warnings.append)


def test_a_run_without_average_or_scores_gives_its_last_parameters(tiny, tmp_path):
    plain = dataclasses.replace(tiny, optim=OptimConfig(name="sgd"))
    run = setup.build(plain, card=CARD)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (4, 8):
        checkpoints.save(perturbed(run, float(step)).replace(step=jnp.int32(step)), {})
    checkpoints.close()
    state, origin = initial.start(
        setup.build(starting(tiny, tmp_path, init_skip=("dense_0/bias",)), card=CARD)
    )
    assert "step 8" in origin and "32 fresh: dense_0/bias" in origin
    expected = perturbed(run, 8.0).params
    assert bits(state.params["head"]) == bits(expected["head"])
    np.testing.assert_array_equal(state.params["dense_0"]["bias"], 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model_fields": {"hidden_sizes": (16,)}},
            ["params/dense_0/bias is float32 (32,) there and float32 (16,) here"],
        ),
        (
            {"model_fields": {"hidden_sizes": (32, 8)}},
            ["params/dense_1/bias is absent there and float32 (8,) here"],
        ),
        (
            {"model_fields": {"hidden_sizes": ()}},
            ["params/dense_0/bias is float32 (32,) there and absent here"],
        ),
        (
            {"model_fields": {"hidden_sizes": (32,), "num_classes": 12}, "init_skip": ()},
            ["params/head/kernel is float32 (32, 10)", "(32, 12) here"],
        ),
        (
            {"model": "resnet20", "model_fields": RESNET, "init_skip": ()},
            ["batch_stats/bn_stem/count is absent there and int32 () here", ", and 18 more"],
        ),
        (
            {"init_skip": ("haed",)},
            ["config.init_skip: 'haed' matches no parameter", "did you mean 'head'?"],
        ),
        (
            {"init_skip": ("dense_0", "head")},
            ["config.init_skip = ('dense_0', 'head') leaves nothing to take"],
        ),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(tiny, source, changes, words):
    run = setup.build(starting(tiny, source, **changes), card=CARD)
    with pytest.raises(ConfigError) as e:
        initial.start(run)
    assert "\n" not in str(e.value) and len(str(e.value)) < 600
    for word in [*words, "config.init_skip"]:
        assert word in str(e.value), str(e.value)


def test_what_is_only_there_can_be_left_out(tiny, source):
    fields = {"model_fields": {"hidden_sizes": ()}, "init_skip": ("dense_0", "head/kernel")}
    state, origin = initial.start(setup.build(starting(tiny, source, **fields), card=CARD))
    np.testing.assert_array_equal(state.params["head"]["bias"], 2.25)
    assert origin.startswith("10 parameters from")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, data_dir):
    """Workdir of a finished run."""
    workdir = tmp_path_factory.mktemp("pretrained")
    train(dataclasses.replace(make_tiny(data_dir), seed=7), workdir)
    return workdir


def fine_tuning(tiny, pretrained):
    tiny.optim.freeze, tiny.optim.rates = ("dense_0",), {"head/bias": 0.5}
    return starting(tiny, pretrained)


def test_a_run_from_another_run_resumes_bit_for_bit_without_it(
    tiny, pretrained, tmp_path, monkeypatch, capsys
):
    shutil.copytree(pretrained, tmp_path / "from")
    config = fine_tuning(tiny, tmp_path / "from")
    train(config, tmp_path / "whole")
    out = capsys.readouterr().out
    assert (
        "initial    2,080 parameters from the checkpoint of step " in out
        and "330 fresh: head" in out
    )
    assert "frozen     2,080 parameters: dense_0" in out and "rates      head/bias x 0.5" in out
    monkeypatch.setattr(
        loop._Stop, "reached", lambda self, step: setattr(self, "asked", step == 5) or step == 5
    )
    assert train(config, tmp_path / "parts") is None
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "from")
    assert train(config, tmp_path / "parts") is not None
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (
        tmp_path / "parts" / "metrics.jsonl"
    ).read_bytes()
    run = setup.build(read_config(tmp_path / "whole"))
    one, other = (jax.device_get(restore(run, tmp_path / w)) for w in ("whole", "parts"))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    before = jax.device_get(restore(setup.build(read_config(pretrained)), pretrained, "best"))
    assert (
        bits(one.params["dense_0"])
        == bits(one.ema_params["dense_0"])
        == bits(before.ema_params["dense_0"])
    )
    assert bits(one.params["head"]) != bits(before.ema_params["head"])


def test_a_source_that_is_wrong_claims_nothing(tiny, pretrained, tmp_path):
    config = fine_tuning(tiny, pretrained)
    with pytest.raises(ConfigError, match=r"'head_1' matches no parameter; did you mean 'head'\?"):
        train(dataclasses.replace(config, init_skip=("head_1",)), tmp_path / "w")
    for wrong in (tmp_path / "no" / "such" / "run", tmp_path):
        with pytest.raises(ConfigError, match=r"config\.init_from = .*, not the workdir of a run"):
            train(dataclasses.replace(config, init_from=str(wrong)), tmp_path / "w")
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has no finished checkpoint yet"):
        train(dataclasses.replace(config, init_from=str(tmp_path / "empty")), tmp_path / "w")
    assert train(dataclasses.replace(config, steps=4), tmp_path / "w") is not None


def test_parameters_from_safetensors(tiny, tmp_path):
    config = dataclasses.replace(tiny, model="resnet20", model_fields=RESNET)
    run = setup.build(config, card=CARD, devices=jax.devices()[:1])
    fresh, there = initial.init(run), perturbed(run, 1.5)
    variables = jax.tree.map(np.asarray, {"params": there.params, **there.model_state})
    weights.save(tmp_path, run.model, variables, image_shape=CARD.kind("image").image_shape)
    file, half = tmp_path / "model.safetensors", tmp_path / "half" / "model.safetensors"
    tensors = {
        k: x.astype(np.float16) if x.dtype == np.float32 else x
        for k, x in weights.read_tensors(file).items()
    }
    half.parent.mkdir()
    weights.write_tensors(half, tensors)
    for path, precision in ((tmp_path, 0.0), (file, 0.0), (half, 1e-3)):
        run.config.init_from = str(path)
        state, origin = initial.start(run)
        assert origin.endswith(f"parameters from {path}, 50 fresh: head")
        assert bits(state.params["head"]) == bits(fresh.params["head"])
        taken = (
            flat({**state.params, **state.model_state}),
            flat({**there.params, **there.model_state}),
        )
        for name in taken[0]:
            if not name.startswith("head/"):
                np.testing.assert_allclose(
                    taken[0][name], taken[1][name], rtol=precision, atol=precision, err_msg=name
                )
    with pytest.raises(ConfigError, match=r"config\.init_from = .* do not fit ResNet .* has shape"):
        initial.start(
            setup.build(starting(config, file, model_fields=RESNET | {"width": 8}), card=CARD)
        )
    # what is only in the file: an error, or named as the file names it
    more = tensors | {"fc2.weight": np.zeros((3, 4), np.float32)}
    weights.write_tensors(half, more)
    with pytest.raises(ConfigError, match=r"fc2\.weight is left over; config\.init_skip can name"):
        initial.start(setup.build(starting(config, half), card=CARD))
    initial.start(setup.build(starting(config, half, init_skip=("head", "fc2.*")), card=CARD))
