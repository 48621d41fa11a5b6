"""Checks of a config: what its fields say about each other, about the model and about the data."""

import dataclasses
from typing import Any

import jaxmodels
from train import tasks
from train.compress.checks import check_compression
from train.options import PIXELS, Config, DataConfig
from train.options.fields import (
    COUNT,
    ConfigError,
    check_limits,
    check_section,
    check_type,
    coerce,
    fill,
    limit,
    nearest_multiples,
    nearest_name,
    shown,
)
from train.tasks.checks import check_image_text, check_tasks, check_text, reads_images, reads_text

SIZES = {
    **dict.fromkeys(("num_layers", "stage_sizes"), 2**9),
    **dict.fromkeys(("num_heads", "pooled_size"), 2**12),
    **dict.fromkeys(("patch_size", "image_shape"), PIXELS),
    **dict.fromkeys(
        ("hidden_size", "hidden_sizes", "mlp_dim", "embed_size", "width", "max_len"), 2**20
    ),
    **dict.fromkeys(
        ("features", "stage_features", "latent_size", "outer_size", "representation_size"), 2**20
    ),
    **dict.fromkeys(("vocab_size", "target_vocab_size", "type_vocab_size", "num_classes"), 2**24),
}
"""Field of a model -> the greatest whole number in it: ten times and more what any published model
has."""


def resolve_options(config: Config) -> None:
    """Makes ``config.options`` the dataclass of its task, out of a dict or of that dataclass."""
    cls, given = tasks.bundle_named(config.task).options, config.options
    if isinstance(given, dict):
        config.options = cls()
        fill(config.options, given, "config.options")
    elif not isinstance(given, cls):
        raise ConfigError(
            f"config.options is a {type(given).__name__}, and those of config.task = "
            f"{shown(config.task)} are a {cls.__name__}"
        )


def check(config: Config) -> None:
    """Checks types, choices, limits and what fields say about each other; needs no device.

    Raises:
      ConfigError: for the first field that is wrong.
    """
    check_section(config, "config")
    resolve_options(config)
    check_section(config.options, "config.options")
    if config.batch_size % config.accumulate:
        near = nearest_multiples(config.batch_size, config.accumulate)
        raise ConfigError(
            f"config.batch_size = {config.batch_size} is not divisible by config.accumulate = "
            f"{config.accumulate}; nearest: {near}"
        )
    _check_steps_per_execution(config)
    if config.optim.warmup_steps >= config.steps:
        raise ConfigError(
            f"config.optim.warmup_steps = {config.optim.warmup_steps} is not below config.steps = "
            f"{config.steps}; nearest: {config.steps - 1}"
        )
    if len(config.data.mean) != len(config.data.std):
        raise ConfigError(
            f"config.data.mean = {shown(config.data.mean)} and config.data.std = "
            f"{shown(config.data.std)} differ in length"
        )
    if any(s <= 0 for s in config.data.std):
        raise ConfigError(
            f"config.data.std = {shown(config.data.std)} must be positive; nearest: 0.5"
        )
    sizes = dataclasses.asdict(config.mesh)
    if list(sizes.values()).count(-1) > 1:
        raise ConfigError(f"config.mesh = {sizes}: only one axis can be -1")
    for name, size in sizes.items():
        if size < 1 and size != -1:
            raise ConfigError(
                f"config.mesh.{name} = {size} must be a number of devices or -1; nearest: 1"
            )
    tasks.bundle_named(config.task).check(config)
    for pattern, rate in config.optim.rates.items():
        if rate <= 0:
            raise ConfigError(
                f"config.optim.rates.{pattern} = {rate} must be above 0; config.optim.freeze stops "
                "training"
            )
    _check_model(config)
    if config.mesh.sequence != 1 and "attention" not in jaxmodels.model_fields(config.model):
        raise ConfigError(
            f"config.mesh.sequence = {config.mesh.sequence} splits the tokens of transformers, and "
            f"model {config.model!r} is none; nearest: 1"
        )
    check_compression(config)
    if reads_text(config) and not reads_images(config):
        _require_no_images(config, f"model {config.model!r} reads text")
    check_text(config)
    check_image_text(config)
    check_tasks(config)


def _check_steps_per_execution(config: Config) -> None:
    count, of = (
        config.steps_per_execution,
        f"config.steps_per_execution = {config.steps_per_execution}",
    )
    whole = {"steps": config.steps, "log_every": config.log_every, "eval_every": config.eval_every}
    for name, value in (whole | {"checkpoint.every": config.checkpoint.every}).items():
        if value % count:
            near = nearest_multiples(value, count)
            raise ConfigError(
                f"config.{name} = {shown(value)} is not divisible by {of}; nearest: {near}"
            )
    if count > 1 and config.data.buckets:
        raise ConfigError(f"{of} needs batches of one length; nearest: config.data.buckets = ()")


def check_table(config: Config) -> None:
    """Checks a config whose data are a table: rows of numbers.

    Raises:
      ConfigError: a model or an option that is for images.
    """
    inputs = jaxmodels.family_of(config.model).inputs
    if inputs and "row" not in inputs:
        raise ConfigError(
            f"config.model = {config.model!r} is for images, and {config.data.name} is a table; "
            "nearest: config.model = 'mlp'"
        )
    _require_no_images(config, f"{config.data.name} is a table")


def _require_no_images(config: Config, instead: str) -> None:
    plain = DataConfig()
    for name in (
        "image_size",
        "resize_size",
        "crop_area",
        "randaugment_layers",
        "mean",
        "std",
        "crop_padding",
        "flip",
        "erasing",
        "mixup",
    ):
        value, default = getattr(config.data, name), getattr(plain, name)
        if value != default:
            raise ConfigError(
                f"config.data.{name} = {shown(value)} is for images, and {instead}; nearest: "
                f"{default!r}"
            )


def check_batch(config: Config, shards: int) -> None:
    """Checks that batches split evenly over ``shards`` = data x fsdp devices, micro-batch by
    micro-batch."""
    for name, size, unit in (
        ("batch_size", config.batch_size, shards * config.accumulate),
        ("eval_batch_size", config.eval_batch_size, shards),
    ):
        if size % unit:
            of = f"mesh data x fsdp = {shards}"
            of += f" times accumulate = {config.accumulate}" if unit != shards else ""
            near = nearest_multiples(size, unit)
            raise ConfigError(f"config.{name} = {size} is not divisible by {of}; nearest: {near}")


def resolve_text_fields(config: Config, vocab_size: int, num_classes: int) -> dict[str, Any]:
    """``config.model_fields`` plus what the model has to know of the text: vocabulary, longest
    text, classes if any."""
    fields = dict(config.model_fields)
    known = jaxmodels.model_fields(config.model)
    if (
        num_classes
        and "num_classes" in known
        and fields.setdefault("num_classes", num_classes) < num_classes
    ):
        raise ConfigError(
            f"config.model_fields.num_classes = {fields['num_classes']} is below the {num_classes} "
            f"classes of {config.data.name}; nearest: {num_classes}"
        )
    for name, needed, of in (
        ("vocab_size", vocab_size, f"tokens of data.tokenizer = {shown(config.data.tokenizer)}"),
        ("max_len", config.data.max_len, "tokens of config.data.max_len"),
    ):
        if name in known and fields.setdefault(name, needed) < needed:
            raise ConfigError(
                f"config.model_fields.{name} = {fields[name]} is below the {needed} {of}; nearest: "
                f"{needed}"
            )
    return fields


def resolve_model_fields(
    config: Config, num_classes: int, image_shape: tuple[int, ...]
) -> dict[str, Any]:
    """``config.model_fields`` plus what the model has to know of the data: number of classes, shape
    of the images."""
    known, fields = jaxmodels.model_fields(config.model), dict(config.model_fields)
    if "num_classes" in known and fields.setdefault("num_classes", num_classes) < num_classes:
        raise ConfigError(
            f"config.model_fields.num_classes = {fields['num_classes']} is below the {num_classes} "
            f"classes of {config.data.name}; nearest: {num_classes}"
        )
    if "image_shape" in known and fields.setdefault("image_shape", image_shape) != image_shape:
        raise ConfigError(
            f"config.model_fields.image_shape = {fields['image_shape']} is not that of "
            f"{config.data.name}'s images; nearest: {image_shape}"
        )
    return fields


def _check_size(value: Any, key: str, name: str) -> None:
    """Whole numbers of a model's field, in tuples and in fields of the models within it too, are no
    absurd ones."""
    if isinstance(value, dict):
        for k, v in value.items():
            _check_size(v, str(k), f"{name}.{shown(k)}")
        return
    if isinstance(value, tuple | list):
        for item in value:
            _check_size(item, key, name)
    if type(value) is int:
        check_limits(value, limit(low=-COUNT, high=SIZES.get(key, COUNT)), name)


def _check_model(config: Config) -> None:
    try:
        known = jaxmodels.model_fields(config.model)
    except ValueError as e:
        raise ConfigError(f"config.model: {e}") from None
    for key, value in config.model_fields.items():
        name = f"config.model_fields.{key}"
        if key not in known or key in ("dtype", "param_dtype"):
            hint = (
                "; set config.dtype"
                if key in ("dtype", "param_dtype")
                else nearest_name(key, known)
            )
            raise ConfigError(f"{name} is not a field of model {config.model!r}{hint}")
        value = config.model_fields[key] = coerce(value, known[key])
        check_type(value, known[key], name)
        _check_size(value, key, name)
    family = jaxmodels.family_of(config.model)
    if not tasks.fits(tasks.bundle_named(config.task), family):
        near = "".join(f"; nearest: config.task = {name!r}" for name in tasks.fitting(family)[:1])
        raise ConfigError(
            f"config.task = {config.task!r} does not fit model {config.model!r}{near}"
        )
    head = tasks.bundle_named(config.task).head
    if (
        head is not None
        and "head" in known
        and config.model_fields.setdefault("head", head) != head
    ):
        raise ConfigError(
            f"config.model_fields.head = {config.model_fields['head']!r} is not for task "
            f"{config.task!r}; nearest: {head!r}"
        )
