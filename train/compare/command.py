"""Runs ``python -m train.compare``: certificates, timings, tables."""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

from jaxmodels.bench.sizes import CASES_ON
from jaxmodels.bench.timing import SETTINGS
from jaxmodels.foreign.original import Case
from jaxmodels.originals.cases import CASES, own_case, require_possible
from jaxmodels.parity import Certificate, report
from train.compare import speed, tables
from train.compare.certificate import certify
from train.compare.timing import measure
from train.config import ConfigError
from train.launch import cli
from train.records.files import write_atomically


def run(args: argparse.Namespace) -> int:
    """Prints a certificate, or timings, of each model. Exit code 1 if a bar fails."""
    cases = CASES_ON[args.device] if args.speed_only else CASES
    names = list(cases) if args.all else args.models
    cases = cases | {name: own_case(name) for name in names if ":" in name}
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
        setting = SETTINGS[args.device]
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


def _one(case: Case, args: argparse.Namespace) -> Certificate:
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
    if args.json:
        write_atomically(args.json, json.dumps(found, indent=1) + "\n")
    if args.html:
        write_atomically(args.html, "\n".join(pages))
    if args.table and args.speed_only:
        write_atomically(args.table, speed.page(found, plot=args.table.with_suffix(".png").name))
        speed.plot(found, args.table.with_suffix(".png"))
    elif args.table:
        write_atomically(args.table, tables.with_table(args.table.read_text(), found))


def _sized(case: Case, args: argparse.Namespace) -> Case:
    if args.image_size:
        case = dataclasses.replace(
            case, image_shape=(args.image_size, args.image_size, case.image_shape[2])
        )
    if args.batch_size:
        case = dataclasses.replace(
            case, batch_size=args.batch_size, timing_batch_size=args.batch_size
        )
    return case
