"""``python -m train.compare MODEL...``: certificates, timings, and the table that the README
shows."""

import argparse
import sys

import jax

from train.launch import cli
from train.records import files

DTYPES = ("float64", "float32", "bfloat16")


def main(argv: list[str] | None = None) -> int:
    """Prints a certificate for each model. Exit code 1 if a bar fails."""
    args = _parse(argv)
    # imported here: PyTorch is optional, and mistakes on the command line are answered without it
    from train.compare.command import run

    return run(args)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m train.compare",
        description="Does a model equal its PyTorch original, and which is faster? Needs pip "
        "install -e .[compare]",
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="names of jaxmodels.list_models()"
    )
    parser.add_argument(
        "--all", action="store_true", help="every model, each in a process of its own"
    )
    parser.add_argument(
        "--speed-only",
        action="store_true",
        help="no certificates; sizes of jaxmodels/bench/sizes.py",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        default="cpu",
        help="of --speed-only: where both run; gpu: published sizes in bfloat16, and PyTorch needs "
        "a build for CUDA",
    )
    parser.add_argument(
        "--steps", type=int, default=20, help="of each optimiser (default 20; 0: none)"
    )
    parser.add_argument(
        "--dtype",
        default=",".join(DTYPES),
        help="what to compare in besides float64, which is the truth: float32, bfloat16 (default: "
        "both)",
    )
    parser.add_argument(
        "--image_size",
        type=int,
        help="pixels; default: small, see CASES in jaxmodels/families/NAME/original.py",
    )
    parser.add_argument("--batch_size", type=int, help="examples, of comparison and timing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--timing",
        choices=("full", "eager", "none"),
        default="full",
        help="full: against PyTorch eager and torch.compile, with memory; eager: without "
        "torch.compile and memory",
    )
    parser.add_argument(
        "--json", type=files.given("--json"), help="write the certificates here, as a list"
    )
    parser.add_argument(
        "--html",
        type=files.given("--html"),
        help="write them here as a page, with loss curves and every layer",
    )
    parser.add_argument(
        "--table",
        type=files.given("--table"),
        help="Markdown file whose table is renewed; of --speed-only: made, and a plot",
    )
    args = parser.parse_args(argv)
    if args.speed_only and args.timing == "none":
        parser.error("--speed-only with --timing=none measures nothing")
    if args.speed_only and (args.html or args.image_size or args.batch_size):
        parser.error(
            "--speed-only has sizes of its own and writes no --html; --table writes a page and a "
            "plot"
        )
    if args.device != "cpu" and not args.speed_only:
        parser.error(
            "--device=gpu is for --speed-only: certificates are made where jax is and PyTorch's CPU"
        )
    if args.table and not args.speed_only and len(args.models) == 1:
        parser.error(
            "--table holds the certificates of all that are named: of one, it would lose the others"
        )
    if args.all == bool(args.models):
        parser.error("name models, or say --all")
    args.dtype = tuple(d for d in args.dtype.split(",") if d)
    for dtype in args.dtype:
        if dtype not in DTYPES:
            parser.error(f"--dtype={dtype} is not one of {', '.join(DTYPES)}")
    if args.steps == 1:
        parser.error("--steps=1 shows no step: the first loss comes before it; nearest: 2")
    if args.steps < 0 or (args.image_size or 1) < 1 or (args.batch_size or 1) < 1:
        parser.error("--steps, --image_size and --batch_size must be positive")
    for file in (args.json, args.html, args.table):
        if file and not file.parent.is_dir():
            parser.error(f"the folder of {file} does not exist")
    return args


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)  # the time to compile is measured
    sys.exit(cli.run(main, long=True))
