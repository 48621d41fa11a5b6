"""Checks of the options of pruning and distillation."""

from train import tasks
from train.options import Config
from train.options.fields import ConfigError, shown
from train.tasks.checks import suits


def check_compression(config: Config) -> None:
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
    if config.distill.teacher is not None and not suits(config, "distill"):
        raise ConfigError(
            f"config.distill.teacher = {shown(config.distill.teacher)} is for "
            f"{tasks.suiting('distill')}, not for {config.task!r}; nearest: "
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
    if not suits(config, "prune.method"):
        raise ConfigError(f"{of} is not for task {config.task}; nearest: 'magnitude'")
