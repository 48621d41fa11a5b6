"""Trains: ``python -m train --config=configs/NAME.py --workdir=DIR [--config.FIELD=VALUE ...]``."""

import argparse
import ast
import glob
import importlib.util
import os
import sys
from pathlib import Path

import jax

from train import cli
from train.config import ConfigError, load_config

CONFIGS = Path(__file__).parent.parent / "configs"

EPILOG = """\
Any field of the config can be set: --config.steps=2000 --config.optim.learning_rate=3e-4
--config.model_fields.hidden_size=256 --config.mesh.fsdp=8 --config.data.raw_dir=DIR. The fields are documented in
train/config.py. Running the same command again goes on from the newest checkpoint in the workdir.
Scores of a checkpoint: python -m train.evaluate --help. Labels for images: python -m train.predict --help.
"""


def main(argv: list[str] | None = None) -> int:
    """Parses flags, starts jax.distributed where the environment asks for it, and trains."""
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description="Trains a model as a config says.",
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", help="a file of configs/ (--list shows them), or your own")
    parser.add_argument("--workdir", type=Path, help="where checkpoints and results go; made if missing")
    parser.add_argument("--config.FIELD", metavar="VALUE", dest="unused", help="sets a field of the config")
    parser.add_argument("--list", action="store_true", help="list the configs with one line each, and stop")
    args, rest = parser.parse_known_args(argv)
    if args.list:
        print_configs()
        return 0
    overrides = cli.overrides(rest, ["--config", "--workdir", "--list", "--help"])
    if not args.config:
        raise ConfigError("--config=FILE is missing; python -m train --list shows the configs there are")
    if not args.workdir:
        raise ConfigError("--workdir=DIR is missing: where checkpoints and results go")
    config = load_config(args.config, overrides)
    _start_distributed()
    from train.loop import train  # not above: mistakes, --list and --help are answered at once

    train(config, args.workdir)
    return 0


def print_configs() -> None:
    """Name and first line of the docstring of every config."""
    for path in sorted(CONFIGS.glob("[!_]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        print(f"configs/{path.name:<24} {docstring.partition(chr(10))[0]}")


def _start_distributed() -> None:
    """Joins the other processes if the environment says that there are some.

    jax itself finds the others under Slurm's srun, Open MPI and on TPU pods; anywhere else, set in every process
    ``JAX_COORDINATOR_ADDRESS`` (host:port of the first), ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``.
    """
    env = os.environ
    given = [name for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID") if name in env]
    several = (
        int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1
        or int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
        or any("," in env.get(name, "") for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"))
        or "MEGASCALE_COORDINATOR_ADDRESS" in env
    )
    try:
        if len(given) == 3:
            count, index = int(env["JAX_NUM_PROCESSES"]), int(env["JAX_PROCESS_ID"])
            jax.distributed.initialize(env["JAX_COORDINATOR_ADDRESS"], count, index)
        elif several:
            jax.distributed.initialize()
        elif given:
            raise ValueError(f"of the three environment variables only {', '.join(given)} is set")
        elif _on_tpu_vm():
            jax.distributed.initialize()
    except (ValueError, RuntimeError, OSError) as e:
        if not (given or several):  # one TPU host that nobody announces
            cli.warn(f"this TPU host does not know of others, and trains alone ({e})")
            return
        raise ConfigError(
            f"cannot join the other processes: {e}; set JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID in every process, or none of them"
        ) from e


def _on_tpu_vm() -> bool:
    """Whether this is a Google Cloud TPU host that has to ask the metadata server for the others."""
    chips = [*glob.glob("/dev/accel[0-9]*"), *glob.glob("/dev/vfio/[0-9]*")]
    wanted = os.environ.get("JAX_PLATFORMS", "tpu")
    return bool(chips) and "tpu" in wanted and importlib.util.find_spec("libtpu") is not None


if __name__ == "__main__":
    sys.exit(cli.run(main))
