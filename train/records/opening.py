"""A finished run as commands open it: the flags that say which one, its config on this machine, its
data card, and its state."""

import argparse
import contextlib
from pathlib import Path

import jax

from input_pipeline import DataSpec
from jaxmodels.compress.quantize import executing
from jaxmodels.foreign.rules import WeightsError
from train.compress import weights as compressed
from train.config import Config, ConfigError, MeshConfig
from train.launch.workdir import read_card, read_config
from train.records import files
from train.records.restore import restore
from train.run import Run
from train.sharding import batch_shards, make_mesh
from train.state import TrainState


def add_flags(
    parser: argparse.ArgumentParser,
    *,
    workdir: str = "workdir of a run",
    step: str = "last",
    data: bool = True,
) -> None:
    """Adds ``--workdir``, ``--step``, and with ``data`` where the data lie.

    Args:
      workdir: what is said of that flag.
      step: the default, ``"last"`` or ``"best"``.
    """
    parser.add_argument("--workdir", type=files.given("--workdir"), required=True, help=workdir)
    other = {"last": "best", "best": "last"}[step]
    said = f'checkpoint: "{step}" (default), "{other}" or a number'
    parser.add_argument("--step", default=step, help=said)
    if data:
        for name, what in (
            ("--data_dir", "where the data set lies on this machine"),
            ("--raw_dir", "where its raw files lie"),
        ):
            parser.add_argument(name, type=files.given_text(name), help=what)


def require_step(parser: argparse.ArgumentParser, step: str) -> None:
    """Ends the command for a ``--step`` that names no checkpoint."""
    if step not in ("last", "best") and not step.isdigit():
        parser.error(f"--step={step} is not last, best or a number")


def read(args: argparse.Namespace, workdir: Path | None = None) -> tuple[Config, DataSpec]:
    """Config, for this machine, and data card of the run of ``--workdir``, or of another workdir.

    ``--data_dir`` and ``--raw_dir`` go over those of the config, where a command has them.
    """
    workdir = args.workdir if workdir is None else workdir
    config = for_this_machine(read_config(workdir))
    config.data.data_dir = getattr(args, "data_dir", None) or config.data.data_dir
    config.data.raw_dir = getattr(args, "raw_dir", None) or config.data.raw_dir
    return config, read_card(workdir)


def opened(
    run: Run, workdir: Path, step: str, weights: Path | None, stack: contextlib.ExitStack
) -> tuple[Run, TrainState]:
    """A run with its checkpoint, or with a file of compressed weights, which run as they are while
    ``stack`` lasts."""
    if weights is None:
        return run, restore(run, workdir, step)
    if step != "last":
        raise ConfigError("--step is of a checkpoint and --weights of a file: give one of them")
    stack.enter_context(executing())
    try:
        return compressed.load(run, weights)
    except WeightsError as e:
        raise ConfigError(f"--weights={weights}: {e}") from e


def for_this_machine(config: Config) -> Config:
    """The config on the mesh of its run where that fits this machine, else with all devices on the
    data axis.

    On another mesh sums have another order: scores agree to rounding, not to the last bit.
    """
    try:
        shards = batch_shards(make_mesh(config.mesh))
    except ConfigError:
        config.mesh = MeshConfig()
        shards = jax.device_count()
    config.eval_batch_size = -(-config.eval_batch_size // shards) * shards
    config.batch_size = (
        -(-config.batch_size // (shards * config.accumulate)) * shards * config.accumulate
    )
    return config
