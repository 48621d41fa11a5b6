"""Typed configuration: dataclasses, overrides from the command line, and checks that run before any
work.

A config file defines ``get_config() -> Config``. Every value, from the file or from
``--config.a.b=value``, is checked against its annotation, its choices and its limits; a mistake is
a :class:`ConfigError` of one line that names the field, the value and the nearest right one.
"""

import copy
import dataclasses
import difflib
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jaxmodels
from jaxmodels.families.fusion.model import MODALITIES
from train import tasks
from train.options import (
    EXAMPLES,
    PIXELS,
    BeamConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    DistillConfig,
    MeshConfig,
    OptimConfig,
    ProcessesConfig,
    PruneConfig,
    TasksConfig,
    VAEConfig,
    dormant,
)
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
    section_differences,
    set_field,
    shown,
)

__all__ = [
    "EXAMPLES",
    "BeamConfig",
    "CheckpointConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DistillConfig",
    "MeshConfig",
    "OptimConfig",
    "ProcessesConfig",
    "PruneConfig",
    "TasksConfig",
    "VAEConfig",
    "check",
    "check_batch",
    "check_table",
    "differences",
    "from_json",
    "load_config",
    "reads_images",
    "reads_text",
    "resolve_model_fields",
    "resolve_text_fields",
    "task_names",
    "to_json",
]

IMAGE_AND_TEXT = (jaxmodels.Fusion, jaxmodels.DualEncoder)
"""Classes of models that take both."""

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


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    say: Callable[[str], None] = lambda text: None,
) -> Config:
    """Runs ``get_config()`` of a config file, applies ``a.b=value`` overrides and checks the
    result.

    A warm-up of the file that fewer steps leave no room for keeps its share of the steps.

    Args:
      say: told of that, in one line.

    Raises:
      ConfigError: no such file, not a config file, or a field that is unknown, of the wrong type or
        out of its limits.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, [p.stem for p in path.parent.glob("*.py")], n=1)
        hint = (
            f"; did you mean {path.parent / near[0]}.py?"
            if near
            else "; python -m train --list shows those there are"
        )
        raise ConfigError(f"config file {path} does not exist{hint}")
    spec = importlib.util.spec_from_file_location(f"configs.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config file {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as e:
        raise ConfigError(f"config file {path}: {type(e).__name__}: {e}") from e
    if not isinstance(config, Config):
        raise ConfigError(
            f"config file {path}: get_config() returned {type(config).__name__}, not a "
            "train.config.Config"
        )
    of_file = copy.deepcopy(config)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--config.{override} has no value; write --config.{override}=VALUE")
        set_field(config, key, text)
    told = {override.partition("=")[0] for override in overrides}
    check_section(config, "config")
    try:
        check_section(of_file, "config")
    except ConfigError:  # which the command line mends
        of_file = config
    if "optim.warmup_steps" not in told:
        _shorten_warmup(config, of_file, say)
    check(config)
    # what belongs to something that the command line switches off is no mistake
    without = {k: v for k, v in _dormant(config).items() if k in told or k in _dormant(of_file)}
    if without:
        raise ConfigError(dormant.complaint(config, without))
    return config


def _shorten_warmup(config: Config, of_file: Config, say: Callable[[str], None]) -> None:
    """Gives the warm-up of a file its share of the steps again, where fewer steps leave no room for
    it."""
    warmup, steps = of_file.optim.warmup_steps, config.steps
    if warmup < of_file.steps and warmup >= steps:
        shorter = min(max(1, round(warmup * steps / of_file.steps)), steps - 1)
        of = f"the same share of config.steps = {steps} as {warmup} is of {of_file.steps}"
        say(
            f"config.optim.warmup_steps = {warmup} does not fit and is shortened to {shorter}, {of}"
        )
        config.optim.warmup_steps = shorter


def _awake(config: Config) -> Config:
    """A copy with defaults for options that have no effect."""
    config = copy.deepcopy(config)
    for name in _dormant(config):
        dormant.reset(config, name)
    return config


def _dormant(config: Config) -> dict[str, str]:
    known = config.model in jaxmodels.MODELS or ":" in config.model
    reads = known and reads_text(config)
    return dormant.dormant(config, text=reads, others=tasks.options_of_others(config.objective))


def check(config: Config) -> None:
    """Checks types, choices, limits and what fields say about each other; needs no device.

    Raises:
      ConfigError: for the first field that is wrong.
    """
    check_section(config, "config")
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
    tasks.TASKS[config.objective].check(config)
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
    _check_compression(config)
    if reads_text(config) and not reads_images(config):
        _require_no_images(config, f"model {config.model!r} reads text")
    _check_text(config)
    _check_image_text(config)
    _check_tasks(config)


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


def _check_compression(config: Config) -> None:
    prune = config.prune
    if prune.sparsity:
        if not prune.begin_step <= prune.end_step < config.steps:
            raise ConfigError(
                f"config.prune.begin_step = {prune.begin_step}, config.prune.end_step = "
                f"{prune.end_step} and config.steps = {config.steps} must be in this order, the "
                "end below the steps"
            )
        if prune.scope == "2:4" and prune.sparsity != 0.5:
            raise ConfigError(
                f"config.prune.sparsity = {prune.sparsity} with scope 2:4; nearest: 0.5"
            )
        if prune.method == "surgeon":
            _check_surgeon(config)
    if config.distill.teacher is not None and not _suits(config, "distill"):
        raise ConfigError(
            f"config.distill.teacher = {shown(config.distill.teacher)} is for "
            f"{tasks.suiting('distill')}, not for {config.objective!r}; nearest: "
            "config.distill.teacher = None"
        )


def _check_surgeon(config: Config) -> None:
    """Needs what is to be pruned when the run begins, and what of it is padding."""
    prune, of = config.prune, "config.prune.method = 'surgeon'"
    if config.init_from is None:
        raise ConfigError(
            f"{of} prunes what was trained; set config.init_from to it, or "
            "config.prune.method=magnitude"
        )
    for name in ("begin_step", "end_step"):
        if getattr(prune, name):
            raise ConfigError(
                f"config.prune.{name} = {getattr(prune, name)}, but {of} prunes at once; nearest: 0"
            )
    if prune.scope == "2:4":
        raise ConfigError(f"config.prune.scope = '2:4' is not for {of}; nearest: 'layer'")
    if not _suits(config, "prune.method"):
        raise ConfigError(f"{of} is not for objective {config.objective}; nearest: 'magnitude'")


def _check_text(config: Config) -> None:
    if config.data.isolate_documents and not _suits(config, "data.isolate_documents"):
        raise ConfigError(
            "config.data.isolate_documents = True is for "
            f"{tasks.suiting('data.isolate_documents')}; nearest: "
            "config.data.isolate_documents = False"
        )
    rate = config.data.crop_text
    labelled = reads_text(config) and not reads_images(config) and _suits(config, "data.crop_text")
    if rate and not labelled:
        raise ConfigError(
            f"config.data.crop_text = {rate} is for labelled texts; nearest: config.data.crop_text "
            "= 0.0"
        )
    buckets, longest = config.data.buckets, config.data.max_len
    if buckets and not (reads_text(config) and _suits(config, "data.buckets")):
        raise ConfigError(
            f"config.data.buckets = {shown(buckets)} is for labelled texts and for pairs; nearest: "
            "config.data.buckets = ()"
        )
    if any(not 0 < length < longest for length in buckets):
        raise ConfigError(
            f"config.data.buckets = {shown(buckets)} must be between 0 and config.data.max_len = "
            f"{longest}"
        )


def _check_image_text(config: Config) -> None:
    both = reads_text(config) and reads_images(config)
    for name in config.init_parts:
        if not both or name not in MODALITIES:
            raise ConfigError(
                f"config.init_parts.{name} is not an encoder of model {config.model!r}"
            )
    if config.init_parts and config.init_from:
        raise ConfigError("config.init_from and config.init_parts exclude each other")
    for name, value, wrong in (
        ("hide_rate", config.data.hide_rate, not both or not _suits(config, "data.hide_rate")),
        ("mixup", config.data.mixup, both),
        ("buckets", config.data.buckets, both),
    ):
        if value and wrong:
            what = f"model {config.model!r} with objective {config.objective!r}"
            raise ConfigError(
                f"config.data.{name} = {shown(value)} is not for {what}; nearest: {type(value)()}"
            )


def _check_tasks(config: Config) -> None:
    parts = task_names(config)
    for name in config.tasks.weights:
        if name not in parts:
            raise ConfigError(
                f"config.tasks.weights.{name} is of no task"
                + (nearest_name(name, parts) or f"; objective {config.objective!r} has but one")
            )
    for name, weight in config.tasks.weights.items():
        if weight <= 0:
            raise ConfigError(f"config.tasks.weights.{name} = {weight} must be above 0")
    if config.tasks.labels and not _suits(config, "tasks.labels"):
        raise ConfigError(
            f"config.tasks.labels = {shown(config.tasks.labels)} are for "
            f"{tasks.suiting('tasks.labels')}, not for {config.objective!r}; nearest: ()"
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


def task_names(config: Config) -> tuple[str, ...]:
    """Of a run with several tasks, in order; else ()."""
    return tasks.TASKS[config.objective].parts or config.tasks.labels


def _suits(config: Config, option: str) -> bool:
    """Whether the task takes an option that some tasks refuse."""
    return option in tasks.TASKS[config.objective].suits


def reads_text(config: Config) -> bool:
    """Whether the model takes text: its data are tokens."""
    return "vocab_size" in jaxmodels.model_fields(config.model)


def reads_images(config: Config) -> bool:
    """Whether the model takes images, alone or with a text; or, if its data are a table, rows of
    numbers."""
    return not reads_text(config) or jaxmodels.model_class(config.model) in IMAGE_AND_TEXT


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


def to_json(config: Config) -> str:
    """The resolved config as JSON text; :func:`from_json` reads it back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads what :func:`to_json` wrote. Raises ConfigError where it does not fit this version's
    fields."""
    config = Config()
    try:
        values = json.loads(text)
    except RecursionError:
        raise ConfigError("the JSON of the config is nested too deeply") from None
    fill(config, values, "config")
    check(config)
    return config


def differences(a: Config, b: Config) -> list[str]:
    """Fields that change what is computed and differ, as ``"config.seed: 0 -> 1"``.

    Resumable fields and those that have no effect are left out.
    """
    return section_differences(_awake(a), _awake(b), "config")


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
    fitting = tasks.fitting(jaxmodels.model_class(config.model))
    if config.objective not in fitting:
        raise ConfigError(
            f"config.objective = {config.objective!r} does not fit model {config.model!r}; "
            f"nearest: config.objective = {fitting[0]!r}"
        )
    head = tasks.TASKS[config.objective].head
    if "head" in known and config.model_fields.setdefault("head", head) != head:
        raise ConfigError(
            f"config.model_fields.head = {config.model_fields['head']!r} is not for objective "
            f"{config.objective!r}; nearest: {head!r}"
        )
