"""Scores of a checkpoint:
``python -m train.evaluate --workdir=DIR [--split=test] [--step=N|best]``.

Every example counts exactly once: the last batch is padded with weight 0, and sums and counts are
merged.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train import binary, cli, files, strict_json
from train.checkpoint import CheckpointError, Checkpoints
from train.config import Config, ConfigError, MeshConfig
from train.fields import shown
from train.metrics import Sums, correlations, macro_f1, matthews, per_class
from train.setup import Run, build
from train.sharding import batch_shards, make_mesh, put_batch
from train.state import TrainState
from train.workdir import read_card, read_config


@dataclass(frozen=True)
class Evaluation:
    """What was found on a split: means of the metrics, the examples (or tokens) they count, and,
    for classes, the confusion."""

    means: dict[str, float]
    examples: int
    confusion: np.ndarray | None  # int64 [classes, classes]


def evaluate(
    run: Run,
    step: Any,
    state: TrainState,
    split: str,
    *,
    stopping: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Evaluates a whole split; None if ``stopping`` said so.

    Args:
      step: ``run.compile_eval_step()`` or ``run.compile_final_step()``.
    """
    sums, confusion = Sums(), None

    def add(metrics: dict[str, Any], counts: np.ndarray | None) -> None:
        nonlocal confusion
        sums.add(metrics)
        if counts is not None:
            confusion = counts.astype(np.int64) + (0 if confusion is None else confusion)

    with contextlib.closing(_results(run, step, state, split)) as results:
        for result in results:
            add(*result)
            if stopping():
                return None
    count, means = next(iter(sums.values.values()))[1], sums.means()
    return Evaluation(means | run.task.derive(means), int(count), confusion)


def _results(run: Run, step: Any, state: TrainState, split: str) -> Iterator[Any]:
    """What a compiled step gives for each batch of a split, on the host."""
    pending = None
    with contextlib.closing(run.loader(split, train=False)) as loader:
        for batch in loader:
            # fetched late: the device stays busy
            done, pending = pending, step(state, put_batch(batch, run.mesh))
            if done is not None:
                yield jax.device_get(done)
    yield jax.device_get(pending)


def outcomes(
    run: Run, state: TrainState, split: str, *, stopping: Callable[[], bool] = lambda: False
) -> tuple[np.ndarray, np.ndarray] | tuple[()] | None:
    """Label [n] and probability of class 1 [n] of each example of a split, the same on every
    process.

    () if the run is not a classifier of two classes, or if a probability is NaN, which a warning
    says; None if ``stopping`` said so.
    """
    if not run.task.confusion or run.model.num_classes != 2:
        return ()
    found = collect(
        run,
        lambda state, batch: (batch["label"], run.probabilities(state, batch)[:, 1]),
        state,
        split,
        stopping=stopping,
    )
    if found is None:
        return None
    label, probability = found[0], found[1].astype(np.float64)
    if wrong := int((~np.isfinite(probability)).sum()):
        cli.warn(
            f"{wrong} of {len(probability)} probabilities on {split} are NaN: there are no scores "
            "of two classes"
        )
        return ()
    return label, probability


def collect(
    run: Run,
    step: Callable[[TrainState, Any], tuple[jax.Array, ...]],
    state: TrainState,
    split: str,
    *,
    stopping: Callable[[], bool] = lambda: False,
) -> list[np.ndarray] | None:
    """Arrays [n, ...] over the examples of a split, the same on every process; None if ``stopping``
    said so.

    Args:
      step: (state, batch as loaded) -> arrays [b, ...].
    """
    compiled, found = run.compile_collecting(lambda s, b: (b["weight"], *step(s, b))), []
    with contextlib.closing(_results(run, compiled, state, split)) as results:
        for result in results:
            found.append(result)
            if stopping():
                return None
    weight, *arrays = map(np.concatenate, zip(*found, strict=True))
    return [x[weight > 0] for x in arrays]


def final_means(
    run: Run,
    state: TrainState,
    split: str,
    *,
    stopping: Callable[[], bool] = lambda: False,
    keep: Callable[[list[tuple[str, str, str]]], None] = lambda texts: None,
) -> dict[str, float] | None:
    """Means of what a task measures only when a run ends ({} for most); None if ``stopping`` said
    so.

    Args:
      keep: told the sources, references and translations of a task that translates.
    """
    if run.task.translates:
        from train import translate  # here: most runs have no use for it

        measured = translate.measure(run, state, split, stopping=stopping)
        if measured is None:
            return None
        keep(measured[1])
        return measured[0]
    if run.task.correlates:
        pairs = collect(
            run, lambda s, b: (b["label"], run.outputs(s, b)[:, 0]), state, split, stopping=stopping
        )
        return None if pairs is None else correlations(*pairs)
    if run.task.retrieves:
        from train import retrieval  # as above

        return retrieval.measure(run, state, split, stopping=stopping)
    if run.task.final_step is None:
        return {}
    found = evaluate(run, run.compile_final_step(), state, split, stopping=stopping)
    return None if found is None else found.means


def scores(
    run: Run,
    found: Evaluation,
    pairs: tuple[np.ndarray, np.ndarray] | tuple[()] = (),
    threshold: float = 0.5,
) -> dict[str, Any]:
    """JSON values: the means, the number of examples and, for classes, per-class scores and the
    confusion matrix.

    Args:
      pairs: what :func:`outcomes` gave; threshold: of the scores of two classes.
    """
    confusion, result = found.confusion, {**found.means, run.task.unit: found.examples}
    if run.task.translates:
        from train import translate  # here: most runs have no use for it

        result["bleu_signature"] = translate.bleu_signature(run.config.beam.bleu_tokenizer)
    if confusion is None:
        return result
    classes = per_class(confusion.astype(np.float64))
    names = [
        run.card.label_names[i] if i < len(run.card.label_names) else str(i)
        for i in range(len(confusion))
    ]
    if pairs:
        result["two_classes"] = {"positive": names[1], **binary.scores(*pairs, threshold=threshold)}
    return {
        **result,
        "macro_f1": macro_f1(confusion),
        "matthews": matthews(confusion.astype(np.float64)),
        "per_class": {
            name: {k: float(v[i]) for k, v in classes.items()}
            | {"support": int(classes["support"][i])}
            for i, name in enumerate(names)
        },
        "confusion": confusion.tolist(),
    }


def table(result: dict[str, Any]) -> str:
    """Per-class scores as aligned text."""
    rows = [f"{'class':<16} precision  recall      f1  support"]
    for name, c in result["per_class"].items():
        rows.append(
            f"{name:<16} {c['precision']:9.4f} {c['recall']:7.4f} {c['f1']:7.4f}  {c['support']:7d}"
        )
    return "\n".join(rows)


def restore(run: Run, workdir: Path, step: str = "last") -> TrainState:
    """The state of a checkpoint of ``workdir``: the ``"last"``, the ``"best"`` or the one of step
    ``"N"``."""
    if not (workdir / "checkpoints").is_dir():
        raise CheckpointError(f"{workdir} has no checkpoints yet")
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    try:
        number = None if step in ("last", "best") else _step_number(step)
        restored = checkpoints.restore(run.shapes, step=number, warn=cli.warn)
        if step == "best":
            number = checkpoints.best_step()  # known from the newest
            if number is None:
                raise CheckpointError(f"{workdir} has no checkpoint with a score; use --step=last")
            if restored is None or number != int(restored[0].step):
                restored = checkpoints.restore(run.shapes, step=number)
        if restored is None:
            raise CheckpointError(f"{workdir} has no finished checkpoint yet")
        return restored[0]
    finally:
        checkpoints.close()


def _step_number(text: str) -> int:
    """The number of a step as a person writes it; digits of other scripts, and more than any step
    has, are none."""
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise ConfigError(f"--step={shown(text)} is not last, best or the number of a step")
    return int(text)


def opened(
    run: Run, workdir: Path, step: str, weights: Path | None, stack: contextlib.ExitStack
) -> tuple[Run, TrainState]:
    """A run with its checkpoint, or with a file of compressed weights, which run as they are while
    ``stack`` lasts."""
    if weights is None:
        return run, restore(run, workdir, step)
    from jaxmodels.compress.quantize import executing  # here: most runs have no use for them
    from jaxmodels.foreign.rules import WeightsError
    from train import compressed

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


def _threshold(run: Run, state: TrainState, split: str, sensitivity: float) -> float:
    """The threshold that gives a sensitivity on the run's own eval_split, to be applied to another
    split."""
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
    pairs = outcomes(run, state, chosen_on)
    if not pairs or not pairs[0].any():
        raise ConfigError(
            "--sensitivity is for classifiers of two classes, and needs examples of both"
        )
    return binary.threshold_of(sensitivity, *pairs)


def main(argv: list[str] | None = None) -> int:
    """Prints the scores of a split as a table, or as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate", description="Scores of a checkpoint on a split."
    )
    parser.add_argument(
        "--workdir", type=files.given("--workdir"), required=True, help="workdir of a run"
    )
    parser.add_argument(
        "--split", default=None, help='TFDS split; default: the one the run evaluated, e.g. "test"'
    )
    parser.add_argument("--step", default="last", help='"last" (default), "best" or a number')
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
    parser.add_argument(
        "--data_dir",
        type=files.given_text("--data_dir"),
        help="where the data set lies on this machine",
    )
    parser.add_argument(
        "--raw_dir", type=files.given_text("--raw_dir"), help="where its raw files lie"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, as in summary.json")
    args = parser.parse_args(argv)
    if args.step not in ("last", "best") and not args.step.isdigit():
        parser.error(f"--step={args.step} is not last, best or a number")
    config = for_this_machine(read_config(args.workdir))
    config.data.data_dir = args.data_dir or config.data.data_dir
    config.data.raw_dir = args.raw_dir or config.data.raw_dir
    run = build(config, card=read_card(args.workdir))
    split = args.split or config.data.eval_split
    with contextlib.ExitStack() as stack:
        run, state = opened(run, args.workdir, args.step, args.weights, stack)
        threshold = (
            0.5 if args.sensitivity is None else _threshold(run, state, split, args.sensitivity)
        )
        found, extra = (
            evaluate(run, run.compile_eval_step(), state, split),
            final_means(run, state, split),
        )
        pairs = outcomes(run, state, split)
    assert found is not None and extra is not None and pairs is not None
    result = scores(run, found, pairs, threshold) | extra
    if args.json:
        print(strict_json.dumps(result, indent=2))
    else:
        if found.confusion is not None:
            print(table(result))
        if pairs:
            print(binary.table(result["two_classes"]))
        if "bleu_signature" in result:
            print(f"BLEU as sacrebleu's {result['bleu_signature']}")
        means = "  ".join(f"{k} {v:.6g}" for k, v in (found.means | extra).items())
        which = f"step {int(state.step)}" if args.weights is None else args.weights.name
        print(f"{which}  {split}  {means}  {run.task.unit} {found.examples}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, long=True))
