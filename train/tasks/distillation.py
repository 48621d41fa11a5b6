"""Distillation: a classifier that learns from a teacher as well (Hinton et al. 2015,
arXiv:1503.02531)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.errors import FlaxError
from jaxtyping import Array, Float

from jaxmodels import Module, weights
from jaxmodels.adapt.features import FeatureOutputs, WithFeatures
from jaxmodels.nn.layers import AuxiliaryLogits, at_least_float32
from train import batches, sharding, transfer
from train.options.fields import ConfigError
from train.records.restore import restore
from train.run import Run, Teacher
from train.state import TrainState
from train.step import Batch, Metric, predict_step
from train.tasks.classification import classification
from train.tasks.preprocessing import model_inputs


def distillation(
    outputs: Float[Array, "b classes"] | AuxiliaryLogits | FeatureOutputs,
    batch: dict[str, Array],
    *,
    teacher: Any,
    teacher_outputs: Callable[[Any, dict[str, Array]], Float[Array, "b classes"] | FeatureOutputs],
    temperature: float,
    alpha: float,
    hidden: float = 0.0,
    label_smoothing: float = 0.0,
) -> dict[str, Metric]:
    """Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531, section 2).

    ``loss = (1 - alpha) classification
    + alpha T^2 sum_b w_b KL(softmax(teacher_b / T) || softmax(logits_b / T))``;
    ``distillation`` is the second term without alpha, ``cross_entropy`` the first. The rest is as
    in :func:`classification`. With ``hidden``,
    ``hidden sum_b w_b (1 - cos(teacher's features_b, features_b))`` is added (Sanh et al. 2019,
    arXiv:1910.01108), and ``hidden`` among the metrics is that without the factor.

    Args:
      teacher: what ``teacher_outputs`` takes besides the batch.
      hidden: if not 0, student and teacher give :class:`FeatureOutputs` of the same width.
    """
    found, features = teacher_outputs(teacher, batch), {}
    if hidden:
        (outputs, ours), (found, theirs) = outputs, found
        distance = optax.losses.cosine_distance(
            at_least_float32(ours), at_least_float32(theirs), epsilon=1e-12
        )
        features = {
            "hidden": (
                (distance * batch["weight"].astype(distance.dtype)).sum(),
                batch["weight"].sum(),
            )
        }
    logits = outputs.logits if isinstance(outputs, AuxiliaryLogits) else outputs
    metrics = classification(outputs, batch, label_smoothing=label_smoothing)
    cross_entropy, count = metrics["loss"]
    target = jax.nn.log_softmax(found.astype(logits.dtype) / temperature)
    divergence = optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(logits / temperature), target
    )
    distilled = temperature**2 * (divergence * batch["weight"].astype(logits.dtype)).sum()
    loss = (1 - alpha) * cross_entropy + alpha * distilled
    if hidden:
        loss += hidden * features["hidden"][0]
    return (
        metrics
        | features
        | {
            "loss": (loss, count),
            "cross_entropy": (cross_entropy, count),
            "distillation": (distilled, count),
        }
    )


def load_teacher(run: Run, build: Callable[..., Any], read: Callable[[Path], Any]) -> Teacher:
    """The teacher that ``config.distill.teacher`` names, for the student of ``run``.

    Args:
      run: a ``train.run.Run``.
      build: ``train.setup.build``, which makes the run of the teacher.
      read: workdir -> its config and its data.

    Raises:
      ConfigError: it cannot be read, or reads other data or knows other classes.
      CheckpointError, WorkdirError: there is no good checkpoint of it.
    """
    source = run.config.distill.teacher
    assert source is not None
    checkpoints = transfer.checkpoints_of(source, "config.distill.teacher")
    model, state, inputs, quantized = (
        _from_run(checkpoints.parent, run, build, read)
        if checkpoints.is_dir()
        else _from_weights(source, run)
    )

    hidden = run.config.distill.hidden > 0
    model = WithFeatures(model) if hidden else model

    def outputs(state: TrainState, batch: Batch) -> Any:
        return predict_step(state, *(batch[k] for k in inputs), model=model, quantized=quantized)

    batch = jax.eval_shape(
        run.task.eval_batch, batches.batch_shapes(run, run.config.batch_size)[-1]
    )
    try:
        found = jax.eval_shape(outputs, state, batch)
    except (ValueError, TypeError, FlaxError) as e:
        raise _unfit(
            source, f"it cannot take its student's inputs: {' '.join(str(e).split())}"
        ) from e
    if hidden:
        student = partial(predict_step, model=WithFeatures(run.model))
        try:
            ours = jax.eval_shape(
                student, run.shapes, *(batch[k] for k in run.task.inputs)
            ).features.shape[1]
        except ValueError as e:
            raise ConfigError(
                f"config.distill.hidden = {run.config.distill.hidden}: {e}; nearest: 0"
            ) from e
        found, theirs = found.outputs, found.features.shape[1]
        if ours != theirs:
            raise _unfit(
                source,
                f"its head takes {theirs} features and its student's {ours}; distill.hidden must "
                "be 0",
            )
    wanted = (run.config.batch_size, run.model.num_classes)
    if getattr(found, "shape", None) != wanted:
        shape = getattr(found, "shape", type(found).__name__)
        raise _unfit(source, f"it gives {shape} where its student gives logits of shape {wanted}")
    options = run.config.distill
    return Teacher(
        state=state,
        outputs=outputs,
        origin=f"{source}, {sum(x.size for x in jax.tree.leaves(state.params)):,} parameters",
        model=WithFeatures(run.model) if hidden else run.model,
        objective=partial(
            distillation,
            teacher_outputs=outputs,
            temperature=options.temperature,
            alpha=options.alpha,
            hidden=options.hidden,
            label_smoothing=run.config.options.label_smoothing,
        ),
    )


def _from_run(
    workdir: Path, run: Run, build: Callable[..., Any], read: Callable[[Path], Any]
) -> tuple[Module, TrainState, tuple[str, ...], bool]:
    config, card = read(workdir)
    same = {"config.task": (config.task, run.config.task)}
    same["classes"] = card.label_names, run.card.label_names
    theirs_text, ours_text = card.kind("text"), run.card.kind("text")
    if theirs_text and ours_text:
        same |= {
            name: (getattr(theirs_text, name), getattr(ours_text, name))
            for name in ("texts", "tokenizer")
        }
        if theirs_text.max_len < ours_text.max_len:
            raise _unfit(
                workdir,
                f"it reads {theirs_text.max_len} tokens and its student {ours_text.max_len}",
            )
    rows = card.kind("row"), run.card.kind("row")
    if all(rows):
        same["mean and deviation of the columns"] = tuple((row.mean, row.std) for row in rows)
    if not card.kinds == run.card.kinds == ("text",):
        images = card.kind("image"), run.card.kind("image")
        same["image shape"] = tuple(x.image_shape if x else ("text",) for x in images)
        for name in ("mean", "std"):
            same[f"config.data.{name}"] = getattr(config.data, name), getattr(run.config.data, name)
    for name, (theirs, ours) in same.items():
        if theirs != ours:
            texts = (str(x) if len(str(x)) < 100 else "another" for x in (theirs, ours))
            raise _unfit(workdir, "its {} is {} and its student's {}".format(name, *texts))
    for name in ("mesh", "batch_size", "eval_batch_size", "accumulate"):
        setattr(config, name, getattr(run.config, name))
    theirs = build(config, card=card, devices=list(run.mesh.devices.flat))
    state = restore(theirs, workdir, "best")
    return (
        theirs.model,
        _bare(state.eval_params, state.model_state),
        theirs.task.inputs,
        config.quantization_aware,
    )


def _from_weights(source: str, run: Run) -> tuple[Module, TrainState, tuple[str, ...], bool]:
    try:
        model, variables = weights.load(source, cast=True)
    except weights.WeightsError as e:
        raise _unfit(source, f"it is neither the workdir of a run nor weights: {e}") from e
    variables = jax.device_put(variables, sharding.shardings_of(variables, run.mesh))
    text = run.card.kind("text")
    if run.card.kinds == ("text",) and getattr(model, "vocab_size", 0) < text.vocab_size:
        raise _unfit(
            source, f"it knows fewer tokens than the {text.vocab_size} of config.data.tokenizer"
        )
    params = variables.pop("params")
    return model, _bare(params, variables), model_inputs(model, run.card), False


def _bare(params: Any, model_state: Any) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, model_state, (), None, jnp.ones((), bool))


def _unfit(source: str | Path, why: str) -> ConfigError:
    return ConfigError(f"config.distill.teacher = {str(source)!r} does not fit: {why}")
