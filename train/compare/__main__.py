"""``python -m train.compare MODEL...``: certificates, timings, and the table that the README
shows."""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

from train import cli, files
from train.config import ConfigError
from train.files import write_atomically

DTYPES = ("float64", "float32", "bfloat16")


def main(argv: list[str] | None = None) -> int:
    """Prints a certificate for each model. Exit code 1 if a bar fails."""
    args = _parse(argv)
    from jaxmodels.parity import report, timing
    from train.compare import speed
    from train.compare.cases import CASES, require_possible

    cases = speed.CASES_ON[args.device] if args.speed_only else CASES
    names = list(cases) if args.all else args.models
    for name in names:
        if name not in cases:
            what = (
                f"is not timed on a {args.device}"
                if args.speed_only
                else "has no PyTorch original here"
            )
            raise ConfigError(f"model {name!r} {what}; there are {', '.join(cases)}")
    if len(names) > 1:
        return _each_alone(names, args)
    (name,) = names
    if args.speed_only:
        speed.prepare(args.device)
        setting = timing.SETTINGS[args.device]
        found = [
            speed.measure_one(
                cases[name], full=args.timing == "full", seed=args.seed, setting=setting
            )
        ]
        _write(args, found, [])
        print(speed.table(found), flush=True)
        return 0
    if args.timing != "none" and jax.default_backend() != "cpu":
        raise ConfigError(
            f"jax is on {jax.default_backend()}, PyTorch's side of a certificate on a CPU: timings "
            "would not compare; say --timing=none, or set JAX_PLATFORMS=cpu"
        )
    case = _sized(cases[name], args)
    require_possible(case)
    result = _one(case, args)
    _write(args, [result.to_json()], [report.page([result])] if args.html else [])
    print(report.summary(result), flush=True)
    return 1 if result.failures else 0


def _one(case: Any, args: argparse.Namespace) -> Any:
    from train.compare.certificate import certify
    from train.compare.timing import measure

    def say(text: str) -> None:
        print(f"{case.key}: {text}", file=sys.stderr, flush=True)

    result = certify(case, steps=args.steps, dtypes=args.dtype, seed=args.seed, say=say)
    if args.timing != "none":
        full = args.timing == "full"
        result.timings = measure(case, compile=full, memory=full, say=say, seed=args.seed)
        result.ratio_train, result.ratio_infer = (
            result.timings["ratio_train"],
            result.timings["ratio_infer"],
        )
    return result


def _each_alone(names: list[str], args: argparse.Namespace) -> int:
    """Runs every model in a process of its own, so that none lives in another's memory.

    Files grow model by model.
    """
    from jaxmodels.parity import report
    from train.compare import speed, tables

    found: list[dict[str, Any]] = []
    pages: list[str] = []
    failed = []
    if args.table and not args.speed_only:
        # a mistake shows now, not after the first model
        tables.with_table(args.table.read_text(), found)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            json_file, html_file = Path(folder, "result.json"), Path(folder, "result.html")
            json_file.unlink(missing_ok=True)
            command = [sys.executable, "-m", "train.compare", name, "--json", str(json_file)]
            command += ["--seed", str(args.seed), "--timing", args.timing]
            if args.speed_only:
                command += ["--speed-only", "--device", args.device]
            else:
                command += [
                    "--html",
                    str(html_file),
                    "--steps",
                    str(args.steps),
                    "--dtype",
                    ",".join(args.dtype),
                ]
            for flag in ("image_size", "batch_size"):
                command += [f"--{flag}", str(getattr(args, flag))] if getattr(args, flag) else []
            code = subprocess.run(command).returncode
            if code:
                failed.append(name)
            if not json_file.exists():
                cli.warn(f"{name} gave no result (exit code {code})")
                continue
            found += json.loads(json_file.read_text())
            pages += [] if args.speed_only else [html_file.read_text()]
            _write(args, found, pages)
    print(speed.table(found) if args.speed_only else report.table(found))
    if failed:
        print(f"{len(failed)} of {len(names)} failed: {', '.join(failed)}")
    return 1 if failed else 0


def _write(args: argparse.Namespace, found: list[dict[str, Any]], pages: list[str]) -> None:
    """Writes the files that were asked for, with the results so far."""
    from train.compare import speed, tables

    if args.json:
        write_atomically(args.json, json.dumps(found, indent=1) + "\n")
    if args.html:
        write_atomically(args.html, "\n".join(pages))
    if args.table and args.speed_only:
        write_atomically(args.table, speed.page(found, plot=args.table.with_suffix(".png").name))
        speed.plot(found, args.table.with_suffix(".png"))
    elif args.table:
        write_atomically(args.table, tables.with_table(args.table.read_text(), found))


def _sized(case: Any, args: argparse.Namespace) -> Any:
    if args.image_size:
        case = dataclasses.replace(
            case, image_shape=(args.image_size, args.image_size, case.image_shape[2])
        )
    if args.batch_size:
        case = dataclasses.replace(
            case, batch_size=args.batch_size, timing_batch_size=args.batch_size
        )
    return case


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
        "--speed-only", action="store_true", help="no certificates; sizes of train/compare/speed.py"
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
        "--image_size", type=int, help="pixels; default: small, see train/compare/cases.py"
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
