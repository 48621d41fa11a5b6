"""Trains: ``python -m train --config=configs/NAME.py --workdir=DIR [--config.FIELD=VALUE ...]``."""

import argparse
import ast

from train.config import ConfigError, load_config
from train.launch import cli, console, distributed
from train.loop import train
from train.records import files

EPILOG = """\
Any field of the config can be set: --config.steps=2000 --config.optim.learning_rate=3e-4
--config.model_fields.hidden_size=256 --config.mesh.fsdp=8 --config.data.raw_dir=DIR. The fields
are documented in train/options. Running the same command again goes on from the newest
checkpoint in the workdir. Scores of a checkpoint: python -m train.evaluate --help. Labels for
images: python -m train.predict --help.
"""


def main(argv: list[str] | None = None) -> int:
    """Parses flags, joins other processes where the environment says that there are some, and
    trains."""
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description="Trains a model as a config says.",
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=files.given_text("--config"),
        help="a file of configs/ (--list shows them), or your own",
    )
    parser.add_argument(
        "--workdir",
        type=files.given("--workdir"),
        help="where checkpoints and results go; made if missing",
    )
    parser.add_argument(
        "--config.FIELD", metavar="VALUE", dest="unused", help="sets a field of the config"
    )
    parser.add_argument(
        "--list", action="store_true", help="list the configs with one line each, and stop"
    )
    args, rest = parser.parse_known_args(argv)
    if args.list:
        print_configs()
        return 0
    overrides = cli.overrides(rest, ["--config", "--workdir", "--list", "--help"])
    if not args.config:
        raise ConfigError(
            "--config=FILE is missing; python -m train --list shows the configs there are"
        )
    if args.workdir is None:
        raise ConfigError("--workdir=DIR is missing: where checkpoints and results go")
    config = load_config(args.config, overrides, say=cli.warn)
    with distributed.joined(config, args.workdir):
        train(config, args.workdir)
    return 0


def print_configs() -> None:
    """Name and first line of the docstring of every config."""
    for path in cli.config_files():
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        print(f"configs/{path.name:<24} {docstring.partition(chr(10))[0]}")


def program() -> None:
    """The command: ends this process, and the others of its run with it. A closed terminal ends
    neither."""
    console.outlive()
    distributed.exit_with(lambda: cli.run(main, long=True))


if __name__ == "__main__":
    program()
