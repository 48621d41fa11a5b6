"""Checks of the options that some tasks take and others refuse."""

import jaxmodels
from jaxmodels.families.fusion.model import MODALITIES
from train import tasks
from train.options import Config
from train.options.fields import ConfigError, nearest_name, shown

IMAGE_AND_TEXT = (jaxmodels.Fusion, jaxmodels.DualEncoder)
"""Classes of models that take both."""


def reads_text(config: Config) -> bool:
    """Whether the model takes text: its data are tokens."""
    return "vocab_size" in jaxmodels.model_fields(config.model)


def reads_images(config: Config) -> bool:
    """Whether the model takes images, alone or with a text; or, if its data are a table, rows of
    numbers."""
    return not reads_text(config) or jaxmodels.model_class(config.model) in IMAGE_AND_TEXT


def task_names(config: Config) -> tuple[str, ...]:
    """Of a run with several tasks, in order; else ()."""
    return tasks.bundle_named(config.task).parts or config.tasks.labels


def suits(config: Config, option: str) -> bool:
    """Whether the task takes an option that some tasks refuse."""
    return option in tasks.bundle_named(config.task).suits


def check_text(config: Config) -> None:
    if config.data.isolate_documents and not suits(config, "data.isolate_documents"):
        raise ConfigError(
            "config.data.isolate_documents = True is for "
            f"{tasks.suiting('data.isolate_documents')}; nearest: "
            "config.data.isolate_documents = False"
        )
    rate = config.data.crop_text
    labelled = reads_text(config) and not reads_images(config) and suits(config, "data.crop_text")
    if rate and not labelled:
        raise ConfigError(
            f"config.data.crop_text = {rate} is for labelled texts; nearest: config.data.crop_text "
            "= 0.0"
        )
    buckets, longest = config.data.buckets, config.data.max_len
    if buckets and not (reads_text(config) and suits(config, "data.buckets")):
        raise ConfigError(
            f"config.data.buckets = {shown(buckets)} is for labelled texts and for pairs; nearest: "
            "config.data.buckets = ()"
        )
    if any(not 0 < length < longest for length in buckets):
        raise ConfigError(
            f"config.data.buckets = {shown(buckets)} must be between 0 and config.data.max_len = "
            f"{longest}"
        )


def check_image_text(config: Config) -> None:
    both = reads_text(config) and reads_images(config)
    for name in config.init_parts:
        if not both or name not in MODALITIES:
            raise ConfigError(
                f"config.init_parts.{name} is not an encoder of model {config.model!r}"
            )
    if config.init_parts and config.init_from:
        raise ConfigError("config.init_from and config.init_parts exclude each other")
    for name, value, wrong in (
        ("hide_rate", config.data.hide_rate, not both or not suits(config, "data.hide_rate")),
        ("mixup", config.data.mixup, both),
        ("buckets", config.data.buckets, both),
    ):
        if value and wrong:
            what = f"model {config.model!r} with task {config.task!r}"
            raise ConfigError(
                f"config.data.{name} = {shown(value)} is not for {what}; nearest: {type(value)()}"
            )


def check_tasks(config: Config) -> None:
    parts = task_names(config)
    for name in config.tasks.weights:
        if name not in parts:
            raise ConfigError(
                f"config.tasks.weights.{name} is of no task"
                + (nearest_name(name, parts) or f"; task {config.task!r} has but one")
            )
    for name, weight in config.tasks.weights.items():
        if weight <= 0:
            raise ConfigError(f"config.tasks.weights.{name} = {weight} must be above 0")
    if config.tasks.labels and not suits(config, "tasks.labels"):
        raise ConfigError(
            f"config.tasks.labels = {shown(config.tasks.labels)} are for "
            f"{tasks.suiting('tasks.labels')}, not for {config.task!r}; nearest: ()"
        )
    if config.tasks.labels and (config.data.mixup or config.data.buckets):
        name = "mixup" if config.data.mixup else "buckets"
        raise ConfigError(
            f"config.data.{name} is for one label, not for config.tasks.labels = "
            f"{shown(config.tasks.labels)}"
        )
    if len(set(config.tasks.labels)) < len(config.tasks.labels):
        raise ConfigError(
            f"config.tasks.labels = {shown(config.tasks.labels)} names one of them twice"
        )
    if config.tasks.learned and len(parts) < 2:
        raise ConfigError(
            "config.tasks.learned = True is for several tasks; name them with config.tasks.labels"
        )
