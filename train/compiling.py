"""The steps of a run, as functions and compiled."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxmodels
from input_pipeline import DataSpec
from jaxmodels.adapt.multitask import unwrapped
from jaxmodels.nn.attention import KERNELS, choose_backend, exact_attention, gpu_capability
from jaxmodels.plan.flops import count_flops
from train import sharding
from train.batches import batch_shapes
from train.options.fields import ConfigError
from train.plan import memory
from train.run import Run
from train.state import TrainState
from train.step import eval_step, predict_step, train_step, train_steps


def step_function(run: Run) -> partial:
    """:func:`train.step.train_step` with everything bound but the state, the batch and, if there
    is a teacher, its state."""
    config, model, objective = run.config, run.model, run.task.train_objective
    if run.teacher is not None:
        model, objective = run.teacher.model, run.teacher.objective
    return partial(
        train_step,
        model=model,
        tx=run.tx,
        objective=objective,
        inputs=run.task.inputs,
        preprocess=run.task.train_batch,
        seed=config.seed,
        accumulate=config.accumulate,
        ema_decay=config.optim.ema_decay,
        freeze=config.optim.freeze,
        quantized=config.quantization_aware,
    )


def trace_train_step(run: Run) -> list[jax.stages.Traced]:
    """The training step traced for each length that batches may have, ascending; no device
    needs to be here."""
    return _trace(run, step_function(run), batch_shapes(run, run.config.batch_size))


def _trace(
    run: Run, step: Callable[..., Any], batches: list[dict[str, jax.ShapeDtypeStruct]]
) -> Any:
    teacher = () if run.teacher is None else (run.teacher.state,)
    shardings = jax.tree.map(lambda s: s.sharding, run.shapes)
    with jax.set_mesh(run.mesh):
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
        return [jitted.trace(run.shapes, batch, *teacher) for batch in batches]


def compile_train_step(run: Run) -> tuple[Any, float, float]:
    """The compiled training step, seconds it took to compile, and floating-point operations of
    one step.

    It takes what :func:`train.batches.put_batches` gives; metrics of several steps are
    stacked. Where batches have several lengths, the operations are those of the longest.
    """
    teacher = () if run.teacher is None else (run.teacher.state,)
    batches, count = batch_shapes(run, run.config.batch_size), run.config.steps_per_execution
    start = time.perf_counter()
    single = traced = trace_train_step(run)
    if count > 1:
        stacked = [jax.tree.map(partial(_stacked, count), batch) for batch in batches]
        traced = _trace(run, partial(train_steps, step=step_function(run)), stacked)
    with jax.set_mesh(run.mesh):
        what = f"a training step of {run.config.batch_size} examples"
        compiled = [memory.fitting(one.lower().compile(), what) for one in traced]
    seconds = time.perf_counter() - start
    chosen = _by_length(batches, compiled)
    return (
        lambda state, batch: chosen(state, batch, *teacher),
        seconds,
        float(model_flops(run, single[-1])),
    )


def model_flops(run: Run, traced: jax.stages.Traced) -> int:
    """Operations of a traced training step by formula (:mod:`jaxmodels.plan.flops`), over all
    devices.

    An attention kernel computes its scores more than once, or hides what it computes: the
    products that it stands for are counted.
    """
    if run.mesh.devices.flat[0].platform in KERNELS:
        with exact_attention():
            traced = trace_train_step(run)[-1]
    return count_flops(traced.jaxpr)


def compile_eval_step(run: Run) -> Any:
    """The compiled evaluation step: (state, batch) -> metrics, counts of the task's reports by
    their names."""
    task = run.task
    counts = {report.name: report.count for report in task.reports if report.count is not None}
    return _compile_eval(
        run,
        partial(
            eval_step,
            model=run.model,
            objective=task.eval_objective,
            inputs=task.inputs,
            preprocess=task.eval_batch,
            count=lambda outputs, batch: {k: f(outputs, batch) for k, f in counts.items()},
            quantized=run.config.quantization_aware,
        ),
    )


def compile_sums(run: Run, step: Callable[[TrainState, Any], Any]) -> Any:
    """The compiled (state, batch as loaded) -> sums and counts, in the form of an evaluation
    step: (state, batch) -> metrics, None."""
    return _compile_eval(run, lambda state, batch: (step(state, batch), None))


def _compile_eval(run: Run, step: Callable[..., Any], **options: Any) -> Any:
    batches = batch_shapes(run, run.config.eval_batch_size)
    what = f"an evaluation step of {run.config.eval_batch_size} examples"
    with jax.set_mesh(run.mesh):
        compiled = [
            jax.jit(step, **options).lower(run.shapes, batch).compile() for batch in batches
        ]
    return _by_length(batches, [memory.fitting(one, what) for one in compiled])


def compile_predict_step(run: Run, batch_size: int) -> Any:
    """The compiled (state, batch as loaded, of the greatest length) -> :func:`answers`."""
    batch = batch_shapes(run, batch_size)[-1]
    with jax.set_mesh(run.mesh):
        return jax.jit(partial(answers, run)).lower(run.shapes, batch).compile()


def compile_collecting(run: Run, step: Callable[[TrainState, Any], Any]) -> Any:
    """The compiled (state, batch as loaded) -> arrays [b, ...], whole on every process."""
    return _compile_eval(run, step, out_shardings=NamedSharding(run.mesh, P()))


def answers(run: Run, state: TrainState, batch: dict[str, jax.Array]) -> Any:
    """The task's answers for a batch as loaded, as ``train.predict`` shows them: for classes
    their probabilities [b, classes]. Pure."""
    return run.task.bundle.answer(outputs(run, state, batch))


def outputs(run: Run, state: TrainState, batch: dict[str, jax.Array]) -> Any:
    """Outputs of the model in evaluation, for a batch as loaded. Pure."""
    batch = run.task.eval_batch(batch)
    inputs, quantized = (batch[k] for k in run.task.inputs), run.config.quantization_aware
    return predict_step(state, *inputs, model=run.model, quantized=quantized)


def attention_backend(
    model: jaxmodels.Module, card: DataSpec, mesh: Mesh
) -> tuple[str, str] | None:
    """The backend by which the model's longest self-attention trains on a mesh, and why; None: it
    has no choice.

    Raises:
      ConfigError: the model names one that cannot do it.
    """
    model = unwrapped(model)
    if not hasattr(model, "attention"):
        return None
    if card.kinds == ("text",):
        length = max(card.lengths)
    else:
        length = math.prod(size // model.patch_size for size in card.model_shape[:2]) + (
            model.pool == "cls"
        )
    device = mesh.devices.flat[0]
    try:
        return choose_backend(
            model.attention,
            platform=device.platform,
            dtype=model.dtype,
            head_size=model.hidden_size // model.num_heads,
            queries=length,
            keys=length,
            dropout_rate=model.attention_dropout_rate,
            parts=mesh.shape["sequence"],
            capability=gpu_capability(),
            device_kind=device.device_kind,
        )
    except ValueError as e:
        raise ConfigError(f"config.model_fields.attention = {model.attention!r}: {e}") from e


def _stacked(count: int, one: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        (count, *one.shape), one.dtype, sharding=sharding.stacked(one.sharding)
    )


def _by_length(batches: list[dict[str, jax.ShapeDtypeStruct]], compiled: list[Any]) -> Any:
    """The compiled function, or one that calls that which was compiled for a batch's length."""
    if len(compiled) == 1:
        return compiled[0]
    found = {batch["tokens"].shape[1]: one for batch, one in zip(batches, compiled, strict=True)}
    return lambda state, batch, *rest: found[batch["tokens"].shape[1]](state, batch, *rest)
