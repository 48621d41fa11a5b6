"""Scores of a checkpoint:
``python -m train.evaluate --workdir=DIR [--split=test] [--step=N|best]``.

Every example counts exactly once: the last batch is padded with weight 0, and sums and counts are
merged.
"""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from train import compiling
from train.config import ConfigError
from train.launch import cli
from train.passes import Evaluation, evaluate
from train.records import files, opening, strict_json
from train.run import Run
from train.setup import build
from train.state import TrainState
from train.tasks import Report


def measured(
    run: Any,
    state: TrainState,
    split: str,
    found: Evaluation,
    *,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[Report, Any]:
    """Findings on a split of the task's reports, in their order, without those that have none.

    Args:
      found: on the same split.

    Raises:
      Stopped: ``stopping`` said so.
    """
    findings: dict[Report, Any] = {}
    for report in run.task.reports:
        if report.count is not None:
            findings[report] = found.counts[report.name]
        elif report.measure is None:
            findings[report] = ()
        elif (finding := report.measure(run, state, split, stopping)) is not None:
            findings[report] = finding
    return findings


def means_of(found: Evaluation, findings: dict[Report, Any]) -> dict[str, float]:
    """Means of the metrics and those of the reports."""
    means = dict(found.means)
    for report, finding in findings.items():
        means |= report.means(finding)
    return means


def scores(run: Any, found: Evaluation, findings: dict[Report, Any]) -> dict[str, Any]:
    """JSON values of a split: means, the number of examples, and what the reports say."""
    result = {**found.means, run.task.bundle.unit: found.examples}
    for report, finding in reversed(findings.items()):
        result |= report.values(run, finding)
    return result | means_of(found, findings)


def final_means(run: Run, state: TrainState, split: str) -> dict[str, float]:
    """Means that a task measures only when a run ends; {} for most."""
    means: dict[str, float] = {}
    for report in run.task.reports:
        if report.measure is not None:
            finding = report.measure(run, state, split, lambda: False)
            means |= {} if finding is None else report.means(finding)
    return means


def _tuned(run: Run, state: TrainState, split: str, sensitivity: float) -> Run:
    """The run with the threshold that has a sensitivity on its own eval_split, to be applied to
    another split."""
    chosen_on = run.config.data.eval_split
    if not 0 < sensitivity <= 1:
        raise ConfigError(
            f"--sensitivity={sensitivity} is not above 0 and at most 1; nearest: 0.95"
        )
    if split == chosen_on:
        raise ConfigError(
            f"--sensitivity chooses the threshold on {chosen_on!r}, and scores on the same "
            "examples would flatter it; name another --split"
        )
    reports = tuple(
        report if report.tuned is None else report.tuned(run, state, chosen_on, sensitivity)
        for report in run.task.reports
    )
    if None in reports or all(report.tuned is None for report in reports):
        raise ConfigError(
            "--sensitivity is for classifiers of two classes, and needs examples of both"
        )
    return dataclasses.replace(run, task=dataclasses.replace(run.task, reports=reports))


def main(argv: list[str] | None = None) -> int:
    """Prints the scores of a split as a table, or as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate", description="Scores of a checkpoint on a split."
    )
    opening.add_flags(parser)
    parser.add_argument(
        "--split", default=None, help='TFDS split; default: the one the run evaluated, e.g. "test"'
    )
    parser.add_argument(
        "--weights",
        type=files.given("--weights"),
        help="a file of train.compress, instead of a checkpoint",
    )
    parser.add_argument(
        "--sensitivity",
        type=float,
        default=None,
        help="two classes: score --split at the highest threshold that has this sensitivity on the "
        "run's eval_split",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, as in summary.json")
    args = parser.parse_args(argv)
    opening.require_step(parser, args.step)
    config, card = opening.read(args)
    run = build(config, card=card)
    split = args.split or config.data.eval_split
    with contextlib.ExitStack() as stack:
        run, state = opening.opened(run, args.workdir, args.step, args.weights, stack)
        if args.sensitivity is not None:
            run = _tuned(run, state, split, args.sensitivity)
        found = evaluate(run, compiling.compile_eval_step(run), state, split)
        findings = measured(run, state, split, found)
    result = scores(run, found, findings)
    if args.json:
        print(strict_json.dumps(result, indent=2))
    else:
        for report in findings:
            for line in report.lines(result):
                print(line)
        means = "  ".join(f"{k} {v:.6g}" for k, v in means_of(found, findings).items())
        which = f"step {int(state.step)}" if args.weights is None else args.weights.name
        print(f"{which}  {split}  {means}  {run.task.bundle.unit} {found.examples}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, long=True))
