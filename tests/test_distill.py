"""Distillation: the loss against PyTorch's, teachers that fit and teachers that do not, and
students of both kinds."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodels import weights
from jaxmodels.adapt.features import FeatureOutputs
from jaxmodels.nn.layers import AuxiliaryLogits
from tests.conftest import ALL_DEVICES, make_tiny
from tests.test_text_runs import labeller_config, write_labels
from train import batches, compiling, initial, loop, setup
from train.config import Config, ConfigError, DistillConfig, MeshConfig, OptimConfig, load_config
from train.launch.workdir import read_config
from train.records.restore import restore
from train.sharding import put_batch
from train.step import accumulated_gradients, predict_step
from train.tasks.classification import classification
from train.tasks.distillation import distillation

pytestmark = pytest.mark.usefixtures("two_devices")


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_the_loss_is_pytorchs(temperature, alpha, x64):
    rng = np.random.default_rng(0)
    student, teacher, extra = rng.normal(size=(3, 6, 5)) * 3
    label, weight = rng.integers(0, 5, 6), np.asarray([1.0, 1, 1, 0.5, 1, 0])  # the last is padding
    batch = {
        "label": jnp.asarray(label),
        "weight": jnp.asarray(weight),
        "extra": jnp.asarray(extra),
    }
    found = distillation(
        jnp.asarray(student),
        batch,
        teacher=jnp.asarray(teacher),
        teacher_outputs=lambda teacher, batch: teacher + batch["extra"],
        temperature=temperature,
        alpha=alpha,
    )
    log_softmax = partial(torch.nn.functional.log_softmax, dim=-1)
    one, other = (log_softmax(torch.tensor(x) / temperature) for x in (student, teacher + extra))
    kl = torch.nn.functional.kl_div(one, other, log_target=True, reduction="none").sum(-1)
    ce = torch.nn.functional.cross_entropy(
        torch.tensor(student), torch.tensor(label), reduction="none"
    )
    parts = {"cross_entropy": ce, "distillation": temperature**2 * kl}
    parts["loss"] = (1 - alpha) * parts["cross_entropy"] + alpha * parts["distillation"]
    for name, value in parts.items():
        np.testing.assert_allclose(found[name][0], (value.numpy() * weight).sum(), rtol=1e-12)
        assert float(found[name][1]) == weight.sum()


def test_the_angle_between_features_is_pytorchs(x64):
    ours, theirs = np.random.default_rng(0).normal(size=(2, 4, 5))
    logits, weight = jnp.eye(6)[:4], np.asarray([1.0, 1, 0.5, 0])
    found = distillation(
        FeatureOutputs(logits, jnp.asarray(ours)),
        {"label": jnp.arange(4), "weight": jnp.asarray(weight)},
        teacher=None,
        teacher_outputs=lambda teacher, batch: FeatureOutputs(logits, jnp.asarray(theirs)),
        temperature=1.0,
        alpha=1.0,
        hidden=0.5,
    )
    loss = torch.nn.functional.cosine_embedding_loss(
        *map(torch.tensor, (ours, theirs)), torch.ones(4), reduction="none"
    )
    np.testing.assert_allclose(found["hidden"][0], (loss.numpy() * weight).sum(), rtol=1e-12)
    np.testing.assert_allclose(found["loss"][0], 0.5 * found["hidden"][0], rtol=1e-6)


def test_a_student_looks_as_its_teacher_does(teacher):
    c = student(teacher, distill=DistillConfig(teacher=str(teacher), hidden=2.0))
    with pytest.raises(
        ConfigError,
        match=r"its head takes 32 features and its student's 64; distill.hidden must be 0",
    ):
        setup.with_teacher(setup.build(c))
    c.model_fields["hidden_size"] = 32
    run = setup.with_teacher(setup.build(c))
    batch = batches.examples(run, "train", c.batch_size)
    x = run.task.eval_batch(jax.tree.map(jnp.asarray, batch))["image"]
    known = run.teacher.outputs(run.teacher.state, {"image": x})
    head = run.teacher.state.params["head"]
    np.testing.assert_allclose(
        known.outputs, known.features @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5
    )
    state, (step, _, _) = initial.init(run), compiling.compile_train_step(run)
    apart = []
    for _ in range(8):
        state, metrics = step(state, put_batch(batch, run.mesh))
        apart.append(float(metrics["hidden"][0]) / c.batch_size)
    assert 0 < apart[-1] < 0.8 * apart[0] < 2
    assert jax.tree.structure(state) == jax.tree.structure(run.shapes)


def test_auxiliary_heads_learn_from_labels_alone():
    logits, batch = jnp.eye(6)[:4], {"label": jnp.arange(4), "weight": jnp.ones(4)}
    outputs = AuxiliaryLogits(logits, (2 * logits,))
    options = {
        "teacher": logits,
        "teacher_outputs": lambda teacher, batch: teacher,
        "temperature": 2.0,
    }
    found = distillation(outputs, batch, alpha=0.25, **options)
    assert float(found["distillation"][0]) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(
        found["loss"][0], 0.75 * classification(outputs, batch)["loss"][0], rtol=1e-6
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, data_dir):
    c = make_tiny(data_dir)
    c.optim.learning_rate, c.steps, c.accumulate = 3e-2, 32, 1
    workdir = tmp_path_factory.mktemp("distill") / "teacher"
    loop.train(c, workdir)
    return workdir


def student(teacher, **fields) -> Config:
    c = read_config(teacher)
    c.model, c.model_fields = "cnn", {"features": (4,), "pool": "each"}
    c.optim = OptimConfig(name="sgd", learning_rate=0.1, schedule="constant", clip_norm=1.0)
    c.distill = DistillConfig(teacher=str(teacher), temperature=2.0, alpha=0.8)
    for name, value in fields.items():
        setattr(c, name, value)
    return c


def test_a_student_learns_from_its_teacher(teacher, tmp_path):
    c = student(teacher)
    summary = loop.train(c, tmp_path / "run")
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    losses = [r["distillation"] for r in lines if r["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0] and "distillation" not in summary["test"]
    # the student's checkpoint holds nothing of the teacher, and evaluation does not ask for it
    c.distill.teacher = str(tmp_path / "gone")
    run = setup.build(c)
    state = restore(run, tmp_path / "run")
    assert (
        sum(x.size for x in jax.tree.leaves(state))
        < 2 * sum(x.size for x in jax.tree.leaves(state.params)) + 10
    )


def test_the_teacher_is_an_argument_of_the_step_and_right_in_every_micro_batch(teacher):
    """Metrics of a step are those of teacher and student run by hand; the gradient is that of one
    batch."""
    c = student(teacher, accumulate=4)
    c.data.crop_padding = 0
    run = setup.with_teacher(setup.build(c))
    theirs = setup.build(read_config(teacher))
    known = restore(theirs, teacher, "best")
    for a, b in zip(
        *map(jax.tree.leaves, (run.teacher.state.params, known.ema_params)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    batch = batches.examples(run, "train", c.batch_size)
    batch["weight"] = batch["weight"] * (np.arange(c.batch_size) % 7 > 0)
    state, (step, _, _) = initial.init(run), compiling.compile_train_step(run)
    prepared = run.task.eval_batch(jax.tree.map(jnp.asarray, batch))
    one, other = (
        np.asarray(predict_step(s, prepared["image"], model=m), np.float64)
        for s, m in ((state, run.model), (known, theirs.model))
    )
    softmax = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)  # noqa: E731
    p, q = softmax(other / 2), softmax(one / 2)
    expected = (4 * (p * np.log(p / q)).sum(-1) * batch["weight"]).sum()

    options = {
        "model": run.model,
        "objective": partial(
            compiling.step_function(run).keywords["objective"], teacher=run.teacher.state
        ),
    }
    gradients = partial(accumulated_gradients, **options)
    grads = [
        jax.jit(partial(gradients, accumulate=k))(state.params, {}, prepared, jax.random.key(0))[0]
        for k in (1, 4)
    ]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), *grads)
    _, metrics = step(state, put_batch(batch, run.mesh))
    np.testing.assert_allclose(metrics["distillation"][0], expected, rtol=1e-4)
    assert float(metrics["distillation"][1]) == batch["weight"].sum()


def test_a_teacher_on_a_mesh(teacher):
    found = []
    for sizes in ((1, 1, 1), (1, 4, 2)):
        c = student(
            teacher, mesh=MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
        )
        c.model_fields = {"features": (8,), "pool": "each", "hidden_size": 32}
        run = setup.with_teacher(setup.build(c, devices=ALL_DEVICES[: int(np.prod(sizes))]))
        state, (step, _, _) = initial.init(run), compiling.compile_train_step(run)
        _, metrics = step(state, put_batch(batches.examples(run, "train", c.batch_size), run.mesh))
        found.append([float(metrics[k][0]) for k in ("loss", "distillation", "grad_norm")])
    kernel = run.teacher.state.params["dense_0"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 8
    np.testing.assert_allclose(*found, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: setattr(c.data, "mean", (0.4,)),
            "its config.data.mean is (0.5,) and its student's (0.4,)",
        ),
        (
            lambda c: setattr(c.data, "image_size", 16),
            "its image shape is (8, 8, 1) and its student's (16, 16, 1)",
        ),
        (
            lambda c: c.model_fields.update(num_classes=11),
            "it gives (64, 10) where its student gives",
        ),
        (
            lambda c: setattr(c.distill, "teacher", "nowhere"),
            "neither the workdir of a run nor weights",
        ),
    ],
)
def test_teachers_that_do_not_fit(teacher, tmp_path, change, words):
    c = student(teacher)
    change(c)
    with pytest.raises(ConfigError, match=r"config\.distill\.teacher = ") as e:
        loop.train(c, tmp_path / "run")
    assert words in str(e.value) and "\n" not in str(e.value)
    assert not (tmp_path / "run" / "config.json").exists(), "a mistake must not claim the workdir"


def test_only_classifiers_have_teachers():
    with pytest.raises(
        ConfigError, match=r"config\.distill\.teacher = 'x' is for task classification"
    ):
        load_config("configs/gpt2_pydoc.py", ["distill.teacher=x"])


def test_an_lstm_learns_from_bert(tmp_path):
    """From a run of ours, and from weights that transformers reads: other inputs, the same
    tokens."""
    write_labels(tmp_path, ["text"])
    c = labeller_config(tmp_path, model="bert_tiny")
    c.steps = c.eval_every = 20
    loop.train(c, tmp_path / "bert")
    run = setup.with_teacher(setup.build(c))
    state = restore(run, tmp_path / "bert", "best")
    weights.save(
        tmp_path / "weights", run.model, {"params": state.eval_params}, format="transformers"
    )
    logits = []
    for source in ("weights", "bert"):
        c = labeller_config(tmp_path)
        c.distill.teacher = str(tmp_path / source)
        run = setup.with_teacher(setup.build(c))
        batch = put_batch(next(batches.loader(run, "train", train=True)), run.mesh)
        logits.append(
            np.asarray(jax.jit(run.teacher.outputs)(run.teacher.state, run.task.eval_batch(batch)))
        )
        assert run.teacher.state.opt_state == ()
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-6)
    (student, _), (step, _, _) = initial.start(run), compiling.compile_train_step(run)
    assert float(step(student, batch)[1]["distillation"][0]) > 0
    c.data.tokenizer = "characters"
    c.distill.teacher = str(tmp_path / "bert")
    with pytest.raises(ConfigError, match="its tokenizer is another and its student's another"):
        setup.with_teacher(setup.build(c))
