"""From a config to everything a run needs: data card, mesh, model, optimiser, and compiled
steps."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import input_pipeline
import jaxmodels
from input_pipeline import DataSpec, Decoding
from input_pipeline.cards import image_text_data
from input_pipeline.text import Form
from jaxmodels import weights
from jaxmodels.adapt.multitask import LearnedWeights, MultiHead
from jaxmodels.families.fusion.model import encoder_of
from jaxmodels.nn.attention import KERNELS, choose_backend, exact_attention, gpu_capability
from jaxmodels.plan.flops import count_flops
from train import sharding, transfer
from train.compress import surgeon
from train.config import (
    Config,
    ConfigError,
    DataConfig,
    check_batch,
    check_table,
    reads_images,
    reads_text,
    resolve_model_fields,
    resolve_text_fields,
    task_names,
)
from train.launch.workdir import read_card, read_config
from train.optim import make_optimizer
from train.options.fields import shown
from train.plan import memory
from train.state import TrainState, init_state
from train.step import eval_step, predict_step, train_step, train_steps
from train.tasks import TASKS, Task, make_task
from train.tasks.distillation import Teacher, load_teacher, student
from train.tasks.preprocessing import unwrapped

FORMS: dict[str, Form] = {name: task.form for name, task in TASKS.items() if task.form is not None}
"""Objective -> how text is cut for it."""


@dataclass(frozen=True)
class Run:
    """A config made concrete. ``shapes`` is the abstract TrainState, with its shardings."""

    config: Config
    card: DataSpec
    mesh: Mesh
    model: jaxmodels.Module
    task: Task
    tx: optax.GradientTransformation
    shapes: TrainState

    def init(self) -> TrainState:
        """The state at step 0, every array made where it lies; values depend on the mesh by
        rounding only."""
        shardings = jax.tree.map(lambda s: s.sharding, self.shapes)
        with jax.set_mesh(self.mesh):
            init = _initialiser(self.config, self.card, self.model, self.task, self.tx)
            return jax.jit(init, out_shardings=shardings)(jax.random.key(self.config.seed))

    def start(self, *, warn: Callable[[str], None] = print) -> tuple[TrainState, str]:
        """The state at step 0 with what ``config.init_from`` or ``config.init_parts`` give, and in
        words what that is.

        Raises:
          ConfigError: the source cannot be read or does not fit.
        """
        config, state = self.config, self.init()
        _ = self.teacher  # a mistake in it shall be found now
        options: dict[str, Any] = {
            "skip": config.init_skip,
            "image_shape": self.card.model_shape,
            "warn": warn,
        }
        if config.init_from is not None:
            state, origin = transfer.load(config.init_from, state, model=self.model, **options)
            if config.prune.sparsity and config.prune.method == "surgeon":
                state = surgeon.operate(self, state)
            return state, origin
        origins = []
        for name, source in config.init_parts.items():
            if name not in state.params:
                raise ConfigError(
                    f"config.init_parts.{name}: the model has no such part with "
                    f"{config.model_fields}"
                )
            part = encoder_of(unwrapped(self.model), name)
            state, origin = transfer.load_part(name, source, state, model=part, **options)
            origins.append(origin)
        return state, "; ".join(origins)

    @cached_property
    def teacher(self) -> Teacher | None:
        """The teacher of ``config.distill``; read when training, and only it, asks."""
        return (
            None
            if self.config.distill.teacher is None
            else load_teacher(self, build, lambda w: (read_config(w), read_card(w)))
        )

    def step_function(self) -> partial:
        """:func:`train.step.train_step` with everything but (state, batch, the state of a teacher
        if any) bound."""
        config, objective, model = self.config, self.task.train_objective, self.model
        if self.teacher is not None:
            model, objective = student(model, self.teacher, config.distill, config.label_smoothing)
        return partial(
            train_step,
            model=model,
            tx=self.tx,
            objective=objective,
            inputs=self.task.inputs,
            preprocess=self.task.train_batch,
            seed=config.seed,
            accumulate=config.accumulate,
            ema_decay=config.optim.ema_decay,
            freeze=config.optim.freeze,
            quantized=config.quantization_aware,
        )

    def trace_train_step(self) -> list[jax.stages.Traced]:
        """The training step traced for each length that batches may have, ascending; no device
        needs to be here."""
        return self._trace(self.step_function(), self.batch_shapes(self.config.batch_size))

    def _trace(
        self, step: Callable[..., Any], batches: list[dict[str, jax.ShapeDtypeStruct]]
    ) -> Any:
        teacher = () if self.teacher is None else (self.teacher.state,)
        shardings = jax.tree.map(lambda s: s.sharding, self.shapes)
        with jax.set_mesh(self.mesh):
            jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
            return [jitted.trace(self.shapes, batch, *teacher) for batch in batches]

    def compile_train_step(self) -> tuple[Any, float, float]:
        """The compiled training step, seconds it took to compile, and floating-point operations of
        one step.

        It takes what :meth:`put_batches` gives; metrics of several steps are stacked. Where batches
        have several lengths, the operations are those of the longest.
        """
        teacher = () if self.teacher is None else (self.teacher.state,)
        batches, count = self.batch_shapes(self.config.batch_size), self.config.steps_per_execution
        start = time.perf_counter()
        single = traced = self.trace_train_step()
        if count > 1:
            stacked = [jax.tree.map(partial(_stacked, count), batch) for batch in batches]
            traced = self._trace(partial(train_steps, step=self.step_function()), stacked)
        with jax.set_mesh(self.mesh):
            what = f"a training step of {self.config.batch_size} examples"
            compiled = [memory.fitting(one.lower().compile(), what) for one in traced]
        seconds = time.perf_counter() - start
        chosen = _by_length(batches, compiled)
        return (
            lambda state, batch: chosen(state, batch, *teacher),
            seconds,
            float(self.model_flops(single[-1])),
        )

    def put_batches(self, batches: list[dict[str, np.ndarray]]) -> dict[str, jax.Array]:
        """Places the batches of one call of the training step: ``config.steps_per_execution`` of
        them, as loaded."""
        (first, *others) = batches
        return (
            sharding.put_batches(batches, self.mesh)
            if others
            else sharding.put_batch(first, self.mesh)
        )

    def model_flops(self, traced: jax.stages.Traced) -> int:
        """Operations of a traced training step by formula (:mod:`jaxmodels.plan.flops`), over all
        devices.

        An attention kernel computes its scores more than once, or hides what it computes: the
        products that it stands for are counted.
        """
        if self.mesh.devices.flat[0].platform in KERNELS:
            with exact_attention():
                traced = self.trace_train_step()[-1]
        return count_flops(traced.jaxpr)

    def compile_eval_step(self) -> Any:
        """The compiled evaluation step: (state, batch) -> metrics, counts of the task's reports by
        their names."""
        task = self.task
        counts = {report.name: report.count for report in task.reports if report.count is not None}
        return self._compile_eval(
            partial(
                eval_step,
                model=self.model,
                objective=task.eval_objective,
                inputs=task.inputs,
                preprocess=task.eval_batch,
                count=lambda outputs, batch: {k: f(outputs, batch) for k, f in counts.items()},
                quantized=self.config.quantization_aware,
            )
        )

    def compile_sums(self, step: Callable[[TrainState, Any], Any]) -> Any:
        """The compiled (state, batch as loaded) -> sums and counts, in the form of an evaluation
        step: (state, batch) -> metrics, None."""
        return self._compile_eval(lambda state, batch: (step(state, batch), None))

    def _compile_eval(self, step: Callable[..., Any], **options: Any) -> Any:
        batches = self.batch_shapes(self.config.eval_batch_size)
        what = f"an evaluation step of {self.config.eval_batch_size} examples"
        with jax.set_mesh(self.mesh):
            compiled = [
                jax.jit(step, **options).lower(self.shapes, batch).compile() for batch in batches
            ]
        return _by_length(batches, [memory.fitting(one, what) for one in compiled])

    def compile_predict_step(self, batch_size: int) -> Any:
        """The compiled (state, batch as loaded, of the greatest length) -> :meth:`answers`."""
        batch = self.batch_shapes(batch_size)[-1]
        with jax.set_mesh(self.mesh):
            return jax.jit(self.answers).lower(self.shapes, batch).compile()

    def compile_collecting(self, step: Callable[[TrainState, Any], Any]) -> Any:
        """The compiled (state, batch as loaded) -> arrays [b, ...], whole on every process."""
        return self._compile_eval(step, out_shardings=NamedSharding(self.mesh, P()))

    def answers(self, state: TrainState, batch: dict[str, jax.Array]) -> Any:
        """The task's answers for a batch as loaded, as ``train.predict`` shows them: for classes
        their probabilities [b, classes]. Pure."""
        return self.task.bundle.answer(self.outputs(state, batch))

    def outputs(self, state: TrainState, batch: dict[str, jax.Array]) -> Any:
        """Of the model in evaluation, for a batch as loaded. Pure."""
        batch = self.task.eval_batch(batch)
        inputs, quantized = (batch[k] for k in self.task.inputs), self.config.quantization_aware
        return predict_step(state, *inputs, model=self.model, quantized=quantized)

    def loader(self, split: str, *, train: bool) -> Iterator[dict[str, np.ndarray]]:
        """This process's share of the batches: an endless shuffled stream for training, one ordered
        pass otherwise."""
        size = self.config.batch_size if train else self.config.eval_batch_size
        index, count = sharding.local_rows(self.mesh, size)
        return self._make_loader(
            split, batch_size=size, train=train, process_index=index, process_count=count
        )

    def examples(self, split: str, count: int) -> dict[str, np.ndarray]:
        """The first ``count`` examples of a split, the same on every process, without augmentation.

        Texts are in their own order, whatever their lengths, and padded to the greatest. Where
        there are fewer, rows of weight 0 follow.
        """
        whole = self.card.changed("text", buckets=())
        options = {"batch_size": count, "train": False, "card": whole}
        with contextlib.closing(self._make_loader(split, **options)) as loader:
            return next(loader)

    def first_examples(self, count: int) -> dict[str, np.ndarray]:
        """The first ``count`` examples of training, the same on every process."""
        # only these are read
        options: dict[str, Any] = {"batch_size": count, "train": True, "in_memory_bytes": 0}
        with contextlib.closing(
            self._make_loader(self.config.data.train_split, **options)
        ) as loader:
            return next(loader)

    def unaugmented_examples(self, count: int) -> dict[str, np.ndarray]:
        """The first :meth:`examples` of training: ``count``, or all there are."""
        batch = self.examples(self.config.data.train_split, count)
        real = batch["weight"].reshape(count, -1).any(1)
        return {k: v[real] for k, v in batch.items()}

    def _make_loader(
        self, split: str, *, card: DataSpec | None = None, **kwargs: Any
    ) -> Iterator[dict[str, np.ndarray]]:
        data, card = self.config.data, card or self.card
        return input_pipeline.make_loader(
            data.name,
            split,
            seed=self.config.seed,
            data_dir=data.data_dir,
            raw_dir=data.raw_dir,
            decoding=_decoding(data),
            images="image" in card.kinds,
            labels=self.config.tasks.labels,
            known=card,
            complete=self.config.objective == "classification" and not self.config.tasks.labels,
            text=card if "text" in card.kinds else None,
            **kwargs,
        )

    def batch_shapes(self, size: int) -> list[dict[str, jax.ShapeDtypeStruct]]:
        """Of batches of ``size`` examples as loaded, one for each length that batches of text may
        have."""
        return _batch_shapes(self.card, size, self.mesh)


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


def build(
    config: Config, *, card: DataSpec | None = None, devices: list[jax.Device] | None = None
) -> Run:
    """Makes a config concrete; prepares the data set unless its card is given.

    Raises:
      ConfigError: the config does not fit the devices or the data.
      DataError: the data set is unknown or its files are missing or broken.
    """
    mesh = sharding.make_mesh(config.mesh, devices)
    check_batch(config, sharding.batch_shards(mesh))
    card = card or describe(config)
    model = _make_model(config, card)
    task = make_task(config, model, card)
    tx = make_optimizer(config.optim, config.steps, config.prune)
    try:
        shapes = jax.eval_shape(_initialiser(config, card, model, task, tx), jax.random.key(0))
    # a size that the architecture cannot take: the models say which, or, for absurd ones, jax does
    except (
        ValueError,
        TypeError,
        ZeroDivisionError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as e:
        raise ConfigError(
            f"config.model = {config.model!r} with {shown(config.model_fields, 150)}: {e}"
        ) from e
    transfer.check_patterns(config.optim, shapes.params)
    attention_backend(model, card, mesh)
    where = sharding.shardings_of(shapes, mesh)
    shapes = jax.tree.map(
        lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), shapes, where
    )
    return Run(config, card, mesh, model, task, tx, shapes)


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


def _make_model(config: Config, card: DataSpec) -> jaxmodels.Module:
    """The model that the config names, with a head for each of several labels, and learned weights
    of tasks."""
    dtype = jnp.dtype(config.dtype)
    model = jaxmodels.create(config.model, **_resolve_fields(config, card), dtype=dtype)
    if config.tasks.labels:
        model = MultiHead(model, card.tasks, dtype=dtype)
    if config.tasks.learned:
        model = LearnedWeights(model, len(task_names(config)))
    return model


def describe(config: Config) -> DataSpec:
    """What the data of a config are, preparing them first if need be."""
    data = config.data
    where = {
        "data_dir": data.data_dir,
        "raw_dir": data.raw_dir,
        "labels": config.tasks.labels,
        "require": (data.train_split, data.eval_split),
    }
    text = image = None
    if reads_images(config):
        image = input_pipeline.describe(
            data.name,
            decoding=_decoding(data),
            train_split=data.train_split,
            numbers=config.objective == "regression",
            **where,
        )
    if reads_text(config):
        text = input_pipeline.describe_text(
            data.name,
            max_len=data.max_len,
            form=FORMS[config.objective],
            tokenizer=_tokenizer(data.tokenizer),
            vocab_size=data.vocab_size,
            train_split=data.train_split,
            texts=data.texts,
            isolate=data.isolate_documents,
            buckets=data.buckets,
            **where,
        )
    return image_text_data(image, text) if image and text else image or text


def _tokenizer(name: str) -> str:
    """A kind or a path as it is; of a hub id, where its files are after their download."""
    if name.count("/") != 1 or Path(name).expanduser().exists():
        return name
    try:
        return str(weights.resolve_source(name))
    except weights.WeightsError as e:
        raise ConfigError(f"config.data.tokenizer = {name!r}: {e}") from e


def _resolve_fields(config: Config, card: DataSpec) -> dict[str, Any]:
    text, image, mean = card.kind("text"), card.kind("image"), config.data.mean
    if card.kind("row"):
        check_table(config)
    if image and len(mean) not in (1, channels := image.image_shape[-1]):
        raise ConfigError(
            f"config.data.mean = {mean} has {len(mean)} values for {channels} channel(s)"
        )
    if text:
        return resolve_text_fields(config, text.vocab_size, card.num_classes)
    return resolve_model_fields(config, card.num_classes, card.model_shape)


def _decoding(data: DataConfig) -> Decoding:
    return Decoding(
        image_size=data.image_size,
        resize_size=data.resize_size,
        crop_area=data.crop_area,
        randaugment_layers=data.randaugment_layers,
        randaugment_magnitude=data.randaugment_magnitude,
    )


def _initialiser(
    config: Config,
    card: DataSpec,
    model: jaxmodels.Module,
    task: Task,
    tx: optax.GradientTransformation,
):
    batch = jax.eval_shape(task.eval_batch, _batch_shapes(card, 1)[0])
    inputs = tuple(batch[k] for k in task.inputs)
    return partial(init_state, model=model, tx=tx, inputs=inputs, ema=config.optim.ema_decay > 0)


def _batch_shapes(
    card: DataSpec, size: int, mesh: Mesh | None = None
) -> list[dict[str, jax.ShapeDtypeStruct]]:
    """Batches as loaded: of images one shape, of text one for each length that batches may have."""

    def abstract(key: str, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        where = None if mesh is None else sharding.batch_sharding(key, shape, mesh)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    found = [card.shapes(size, length) for length in card.lengths]
    return [{k: abstract(k, *v) for k, v in shapes.items()} for shapes in found]


def parameter_count(run: Run) -> tuple[int, int]:
    """Number of parameters and their bytes, over all devices once."""
    leaves = jax.tree.leaves(run.shapes.params)
    return sum(p.size for p in leaves), sum(p.size * p.dtype.itemsize for p in leaves)
