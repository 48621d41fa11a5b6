"""Plans: ``python -m train.plan --config=configs/NAME.py --topology=v5e:4x4 [--search]``."""

import argparse
import sys

from train.launch import cli
from train.plan.command import run
from train.records import files

EPILOG = """\
The training step that `python -m train` would run is compiled for devices that are not here, with
the very shardings. Topologies: v3:2x2, v4:2x2x1, v5e:2x4, v5p:2x2x1, v6e:4x4, tpu7x:2x2x1, ...;
several slices, replicas of each other, 2*v5e:4x4; h100:8, h200:8; and cpu:8 where no compiler of
TPUs is installed. Exit code 1 if the step does not fit.
"""


def main(argv: list[str] | None = None) -> int:
    """Parses flags, compiles, and reports."""
    parser = argparse.ArgumentParser(
        prog="python -m train.plan",
        description="Says whether a training step fits a TPU slice, and how fast it can be at "
        "best, without the slice.",
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", type=files.given_text("--config"), help="a file of configs/, or your own"
    )
    parser.add_argument(
        "--topology", default="v5e:2x4", help="what to compile for (default: v5e:2x4)"
    )
    parser.add_argument(
        "--slices",
        type=int,
        default=1,
        help="of that topology, joined by the data centre's network",
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="rank meshes x remat x micro-batches by estimated time",
    )
    parser.add_argument(
        "--limit", type=int, default=24, help="most compilations of --search (default: 24)"
    )
    parser.add_argument(
        "--json",
        type=files.given("--json"),
        help="file to write the plan to, or with --search the list of plans",
    )
    parser.add_argument(
        "--table",
        type=files.given("--table"),
        help="Markdown table whose row of --config, or all rows, to renew",
    )
    parser.add_argument(
        "--image", help="shape of the images where the data are not here: 224x224x3"
    )
    parser.add_argument("--classes", type=int, help="number of classes where the data are not here")
    parser.add_argument(
        "--vocab", type=int, help="size of the vocabulary where the tokenizer is not here"
    )
    parser.add_argument(
        "--config.FIELD", metavar="VALUE", dest="unused", help="sets a field of the config"
    )
    args, rest = parser.parse_known_args(argv)
    flags = [
        "--config",
        "--topology",
        "--slices",
        "--search",
        "--limit",
        "--json",
        "--table",
        "--image",
        "--help",
    ]
    overrides = cli.overrides(rest, [*flags, "--classes", "--vocab"])
    return run(args, overrides)


if __name__ == "__main__":
    sys.exit(cli.run(main))
