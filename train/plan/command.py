"""Runs ``python -m train.plan``: a plan, a search, or rows of a table."""

import argparse
import ast
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import jax

from train.config import Config, ConfigError, load_config
from train.launch import cli
from train.plan import report, search
from train.plan.cards import Given, card_of
from train.plan.compiling import make_plan
from train.plan.topology import find_topology


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Compiles, and reports. Exit code 1 if the step does not fit, or nothing that is searched."""
    # devices are those of the topology; what is compiled for them, the cache on disk cannot give
    # back
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    if args.table and not args.config:
        for path in cli.config_files():
            _renew(args.table, path, [])
        return 0
    if not args.config:
        raise ConfigError(
            "--config=FILE is missing; python -m train --list shows the configs there are"
        )
    if args.table:
        _renew(args.table, Path(args.config), overrides)
        return 0
    return _plan(args, load_config(args.config, overrides, say=cli.warn))


def _plan(args: argparse.Namespace, config: Config) -> int:
    topology = find_topology(f"{args.slices}*{args.topology}" if args.slices > 1 else args.topology)
    card, data = card_of(config, _given(args))
    if args.search:
        plans, left = search.search(config, card, topology, limit=args.limit, say=_say)
        print(report.ranking(plans, left))
        _write(args.json, [plan.to_json() for plan in plans])
        return 0 if plans else 1
    plan = make_plan(config, card, topology)
    name = Path(args.config).stem
    print(report.report(plan, name=name, data=data, accumulate=config.accumulate), flush=True)
    written: dict[str, Any] = {"config": name, **plan.to_json()}
    if plan.fits is False:
        found, tried = search.find_way_out(config, card, topology, _say)
        print(f"  {report.way_out_text(found, tried, plan)}")
        written["way_out"] = found and found.to_json()
    print(report.FOOTER)
    _write(args.json, written)
    return 1 if plan.fits is False else 0


def _given(args: argparse.Namespace) -> Given:
    if args.image is None:
        return Given(classes=args.classes, vocab=args.vocab)
    if not re.fullmatch(r"\d+x\d+x\d+", args.image):
        raise ConfigError(f"--image={args.image} is not HEIGHTxWIDTHxCHANNELS such as 224x224x3")
    height, width, channels = map(int, args.image.split("x"))
    return Given((height, width, channels), args.classes, args.vocab)


def _renew(table: Path, path: Path, overrides: list[str]) -> None:
    """Renews one row: on the slice that the config's card names in its line ``Plan``, or on v5e:2x4
    or less of it."""
    card_line = re.search(
        r"^Plan +(python .*)$", ast.get_docstring(ast.parse(path.read_text())) or "", re.MULTILINE
    )
    words = shlex.split(card_line.group(1)) if card_line else []
    named = [word.removeprefix("--topology=") for word in words if word.startswith("--topology=")]
    own = [word.removeprefix("--config.") for word in words if word.startswith("--config.")]
    config = load_config(path, own + overrides, say=cli.warn)
    card, _ = card_of(config, Given())
    for name in named or ["v5e:2x4", "v5e:2x2", "v5e:1x1"]:
        try:
            plan = make_plan(config, card, find_topology(name))
        except ConfigError as e:  # a batch that does not divide by so many
            _say(f"{path.stem} on {name}: {e}")
            continue
        _say(f"{path.stem} on {name}: {report.memory_text(plan)}; {plan.compile_seconds:.1f} s")
        report.update_table(table, {path.stem: plan.to_json()})
        return
    raise ConfigError(f"{path}: no topology takes it")


def _write(path: Path | None, value: Any) -> None:
    if path is not None:
        path.write_text(json.dumps(value, indent=1) + "\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
