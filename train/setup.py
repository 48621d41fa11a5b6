"""From a config to a run: data, mesh, model, task, optimiser and the shapes of the state."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import input_pipeline
import jaxmodels
from input_pipeline import DataSpec
from input_pipeline.cards import image_text_data
from jaxmodels import weights
from jaxmodels.adapt.multitask import LearnedWeights, MultiHead
from train import sharding, transfer
from train.batches import decoding, shapes_of
from train.checks import (
    check_batch,
    check_table,
    resolve_model_fields,
    resolve_options,
    resolve_text_fields,
)
from train.compiling import attention_backend
from train.config import Config, ConfigError
from train.initial import initialiser
from train.launch.workdir import read_card, read_config
from train.optim import make_optimizer
from train.options.fields import shown
from train.run import Run
from train.state import TrainState
from train.step import predict_step
from train.task import Task
from train.tasks import bundle_named, make_task
from train.tasks.checks import reads_images, reads_text, task_names
from train.tasks.distillation import load_teacher


def build(
    config: Config, *, card: DataSpec | None = None, devices: list[jax.Device] | None = None
) -> Run:
    """Makes a config concrete; prepares the data set unless its card is given.

    Raises:
      ConfigError: the config does not fit the devices or the data.
      DataError: the data set is unknown or its files are missing or broken.
    """
    resolve_options(config)
    mesh = sharding.make_mesh(config.mesh, devices)
    check_batch(config, sharding.batch_shards(mesh))
    card = card or describe(config)
    model = _make_model(config, card)
    task = make_task(config, model, card)
    tx = make_optimizer(config.optim, config.steps, config.prune)
    try:
        shapes = jax.eval_shape(
            initialiser(card, model, task, tx, ema=config.optim.ema_decay > 0), jax.random.key(0)
        )
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
    if ":" in f"{config.model}{config.data.name}{config.task}":
        _check_objective(config, card, model, task, shapes)
    transfer.check_patterns(config.optim, shapes.params)
    attention_backend(model, card, mesh)
    where = sharding.shardings_of(shapes, mesh)
    shapes = jax.tree.map(
        lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), shapes, where
    )
    return Run(config, card, mesh, model, task, tx, shapes)


def with_teacher(run: Run) -> Run:
    """The run with the teacher that ``config.distill`` names, if any: to train, not to evaluate.

    Raises:
      ConfigError: the teacher cannot be read or does not suit the run.
      CheckpointError, WorkdirError: it has no good checkpoint.
    """
    if run.config.distill.teacher is None:
        return run
    teacher = load_teacher(run, build, lambda w: (read_config(w), read_card(w)))
    return dataclasses.replace(run, teacher=teacher)


def _check_objective(
    config: Config, card: DataSpec, model: jaxmodels.Module, task: Task, shapes: TrainState
) -> None:
    """Raises ConfigError where the losses of a task cannot take a batch and the model's outputs."""
    (*_, batch) = shapes_of(card, config.batch_size)
    what = f"config.model = {config.model!r}, config.data.name = {config.data.name!r}"
    try:
        batch = jax.eval_shape(task.eval_batch, batch)
        step = partial(predict_step, model=model)
        outputs = jax.eval_shape(step, shapes, *(batch[key] for key in task.inputs))
        metrics = jax.eval_shape(task.eval_objective, outputs, batch)
    except Exception as e:  # of code that is not the project's: it may raise anything
        raise ConfigError(
            f"config.task = {config.task!r} does not suit {what}: {type(e).__name__}: {e}"
        ) from e
    wrong = [k for k, v in metrics.items() if [getattr(x, "shape", None) for x in v] != [(), ()]]
    if "loss" not in metrics or wrong:
        raise ConfigError(
            f"config.task = {config.task!r}: metrics are (sum, count) of one number each "
            f"and have a 'loss'; it gives {', '.join(metrics)}"
            + (f", and {wrong[0]} is {metrics[wrong[0]]}" if wrong else "")
        )


def _make_model(config: Config, card: DataSpec) -> jaxmodels.Module:
    """The model that the config names, with a head for each of several labels, and learned weights
    of tasks."""
    dtype, fields = jnp.dtype(config.dtype), _resolve_fields(config, card)
    if "dtype" in jaxmodels.model_fields(config.model):
        fields["dtype"] = dtype
    elif dtype != jnp.float32:
        raise ConfigError(
            f"config.dtype = {config.dtype!r}: config.model = {config.model!r} has no field dtype; "
            "nearest: 'float32'"
        )
    model = jaxmodels.create(config.model, **fields)
    if config.tasks.labels:
        model = MultiHead(model, card.tasks, dtype=dtype)
    if config.tasks.learned:
        model = LearnedWeights(model, len(task_names(config)))
    return model


def describe(config: Config) -> DataSpec:
    """What the data of a config are, preparing them first if need be."""
    data = config.data
    if input_pipeline.is_own(data.name):
        spec = input_pipeline.describe_own(data.name, (data.train_split, data.eval_split))
        if missing := [name for name in config.tasks.labels if name not in spec.tasks]:
            raise ConfigError(
                f"config.tasks.labels = {shown(config.tasks.labels)}: {data.name} has no label "
                f"{missing[0]!r}; it has {', '.join(spec.tasks) or 'none'}"
            )
        return spec
    where = {
        "data_dir": data.data_dir,
        "raw_dir": data.raw_dir,
        "labels": config.tasks.labels,
        "require": (data.train_split, data.eval_split),
    }
    text, image, form = None, None, bundle_named(config.task).form
    if reads_images(config):
        image = input_pipeline.describe(
            data.name,
            decoding=decoding(data),
            train_split=data.train_split,
            numbers=form == "numbers",
            **where,
        )
    if reads_text(config):
        if form is None:
            raise ConfigError(
                f"config.task = {config.task!r} takes no text, which config.model = "
                f"{config.model!r} reads"
            )
        text = input_pipeline.describe_text(
            data.name,
            max_len=data.max_len,
            form=form,
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
