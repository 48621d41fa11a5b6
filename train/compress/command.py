"""What compression costs a finished classifier:
``python -m train.compress --workdir=DIR [--add=DIR ...]``.

Writes ``report.txt``, ``report.json``, ``pareto.png`` and the variables of each row,
``NAME.safetensors``.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from jaxmodels.compress import files
from jaxmodels.compress.prune import prune, sparsity
from jaxmodels.compress.quantize import executing, int8_share, quantize
from jaxmodels.compress.surgeon import prune_model
from train import batches
from train.compress.figures import plot_pareto
from train.compress.surgeon import calibration
from train.config import EXAMPLES, ConfigError
from train.launch import cli
from train.passes import evaluate
from train.records import opening, strict_json
from train.records.files import given, write_atomically
from train.records.restore import restore
from train.run import Run
from train.setup import build
from train.sharding import put_batch
from train.state import PyTree, TrainState
from train.step import eval_step, predict_step
from train.tasks import bundle_of

SPARSITIES = (0.5, 0.7, 0.8, 0.9)
"""Of the kernels, of all together."""

RUNS = 30
"""Of each row, for its latency."""


@dataclass(frozen=True)
class Row:
    """One way to have the model.

    Attributes:
      accuracy: on the run's eval split.
      bytes: of its file; sparsity: share of zeros among the kernels that are pruned; int8: share of
        numbers in int8.
      latency_ms: median time of a batch.
      size_ratio, latency_ratio: to the original.
    """

    name: str
    accuracy: float
    bytes: int
    size_ratio: float
    sparsity: float
    int8: float
    latency_ms: float
    latency_ratio: float


@dataclass(frozen=True)
class Bench:
    """A run with what measures all of its variants, made once; compiled once for those with the
    same arrays.

    Attributes:
      accuracy: of a state on the run's eval split; latency_step: (state, *inputs) -> outputs, of
        ``inputs`` one batch.
    """

    run: Run
    accuracy: Callable[[TrainState], float]
    latency_step: Callable[..., jax.Array]
    inputs: list[jax.Array]


@dataclass(frozen=True)
class Variant:
    """A run's parameters, compressed, and the file that they are written to."""

    name: str
    bench: Bench
    state: TrainState
    file: Path

    def variables(self) -> PyTree:
        """What ``model.apply`` takes."""
        return {"params": self.state.params, **self.state.model_state}


def make_bench(run: Run, batch_size: int, split: str) -> Bench:
    """See :class:`Bench`; accuracy is of ``split``, batches of ``batch_size`` are for the
    latency."""
    task = run.task
    step = jax.jit(
        partial(
            eval_step,
            model=run.model,
            objective=task.eval_objective,
            inputs=task.inputs,
            preprocess=task.eval_batch,
        )
    )

    def accuracy(state: TrainState) -> float:
        with jax.set_mesh(run.mesh), executing():
            found = evaluate(run, step, state, split)
        return found.means["accuracy"]

    batch = task.eval_batch(put_batch(batches.examples(run, split, batch_size), run.mesh))
    return Bench(
        run,
        accuracy,
        jax.jit(partial(predict_step, model=run.model)),
        [batch[k] for k in task.inputs],
    )


def variants(run: Run, state: TrainState, examples: int) -> dict[str, PyTree]:
    """Parameters by name of row: the original's, and what can be had of it without training.

    Args:
      examples: of the run's train_split, on whose activations the surgeon works; 0: no rows of its.
    """
    params = state.params
    found = {"original": params, "int8": quantize(params)}
    found |= {f"pruned_{share:.0%}".rstrip("%"): prune(params, share) for share in SPARSITIES}
    try:
        found["pruned_2_4"] = prune(params, 0.5, scope="2:4")
    except ValueError as e:
        cli.warn(f"no row pruned_2_4: {e}")
    found |= _surgeon(run, state, examples) if examples else {}
    return found | {"int8_pruned_50": quantize(prune(params, 0.5))}


def _surgeon(run: Run, state: TrainState, examples: int) -> dict[str, PyTree]:
    """Rows of second-order pruning; none, and a warning, where the model has kernels that it cannot
    prune."""
    batches, found = calibration(run, examples), {}
    variables = jax.device_get({"params": state.params, **state.model_state})
    where = jax.tree.map(lambda x: x.sharding, state.params)
    try:
        for share in SPARSITIES:
            params = prune_model(run.model, variables, batches, share)["params"]
            found[f"surgeon_{share:.0%}".rstrip("%")] = jax.device_put(params, where)
    except ValueError as e:
        cli.warn(f"no rows surgeon_*: {e}")
    return found


def measure(variants: list[Variant]) -> list[Row]:
    """Accuracy, bytes and latency of each; the first is what the ratios are to."""
    accuracy = [v.bench.accuracy(v.state) for v in variants]
    size = [files.save(v.file, jax.device_get(v.variables())) for v in variants]
    latency = _latencies(variants)
    return [
        Row(
            name=v.name,
            accuracy=accuracy[i],
            bytes=size[i],
            size_ratio=size[i] / size[0],
            sparsity=sparsity(v.state.params),
            int8=int8_share(v.state.params),
            latency_ms=latency[i],
            latency_ratio=latency[i] / latency[0],
        )
        for i, v in enumerate(variants)
    ]


def _latencies(variants: list[Variant]) -> list[float]:
    """Median milliseconds of a batch, the runs of all variants interleaved: what slows the machine
    slows all alike."""
    calls = []
    for variant in variants:
        bench = variant.bench
        with jax.set_mesh(bench.run.mesh), executing():
            step = bench.latency_step.lower(variant.state, *bench.inputs).compile()
        calls.append(partial(step, variant.state, *bench.inputs))
        jax.block_until_ready(calls[-1]())
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(RUNS):
        for seconds, call in zip(times, calls, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append(time.perf_counter() - start)
    return [1e3 * float(np.median(seconds)) for seconds in times]


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':<{width}} accuracy         bytes  ratio  sparsity  int8  latency ms  ratio"]
    for r in rows:
        lines.append(
            f"{r.name:<{width}} {r.accuracy:8.4f} {r.bytes:13,} {r.size_ratio:6.3f} "
            f"{r.sparsity:9.3f} {r.int8:5.2f} {r.latency_ms:11.3f} {r.latency_ratio:6.2f}"
        )
    return "\n".join(lines)


def _open(workdir: Path, step: str, args: argparse.Namespace) -> tuple[Run, TrainState]:
    config, card = opening.read(args, workdir)
    if bundle_of(config).score != "accuracy":
        raise ConfigError(
            f"{workdir} is of a run with config.task = {config.task!r}, not of a classifier"
        )
    run = build(config, card=card)
    state = restore(run, workdir, step)
    return run, state.replace(params=state.eval_params, ema_params=None, opt_state=())


def main(argv: list[str] | None = None) -> int:
    """Prints the report and writes it, the plot and the files."""
    parser = argparse.ArgumentParser(
        prog="python -m train.compress", description="What compression costs a classifier."
    )
    opening.add_flags(parser, workdir="workdir of a finished classification run", step="best")
    parser.add_argument(
        "--add",
        type=given("--add"),
        action="append",
        default=[],
        help="another on the same data; repeatable",
    )
    parser.add_argument(
        "--split",
        default=None,
        help="what accuracy is measured on; default: the config's eval_split",
    )
    parser.add_argument(
        "--out", type=given("--out"), default=None, help="where to write; default: WORKDIR/compress"
    )
    parser.add_argument(
        "--batch_size", type=int, default=32, help="examples of a batch, for the latency"
    )
    parser.add_argument(
        "--examples",
        type=int,
        default=2048,
        help="of training, for the rows surgeon_*; 0: without these rows",
    )
    args = parser.parse_args(argv)
    opening.require_step(parser, args.step)
    if not (1 <= args.batch_size <= EXAMPLES and 0 <= args.examples <= EXAMPLES):
        parser.error(
            f"--batch_size must be at least 1 and --examples at least 0, both at most {EXAMPLES}"
        )
    out = args.out or args.workdir / "compress"
    run, state = _open(args.workdir, args.step, args)
    batch_size = -(-args.batch_size // jax.device_count()) * jax.device_count()
    split = args.split or run.config.data.eval_split
    found = [(make_bench(run, batch_size, split), state, variants(run, state, args.examples))]
    taken = {*found[0][2]}
    for workdir in args.add:
        other, its = _open(workdir, args.step, args)
        _require_same_data(workdir, other, run)
        name = workdir.resolve().name
        rows = {name: its.params, f"{name}_int8": quantize(its.params)}
        if taken & {*rows}:
            raise ConfigError(
                f"--add={workdir} would overwrite {sorted(taken & {*rows})[0]}.safetensors: rename "
                "it"
            )
        taken |= {*rows}
        found.append((make_bench(other, batch_size, split), its, rows))
    out.mkdir(parents=True, exist_ok=True)
    every = [
        Variant(name, bench, state.replace(params=params), out / f"{name}.safetensors")
        for bench, state, rows in found
        for name, params in rows.items()
    ]
    measured = measure(every)
    text = f"accuracy on {split}\n{table(measured)}"
    print(text)
    device = jax.devices()[0]
    about = {"workdir": str(args.workdir), "split": split, "batch_size": args.batch_size}
    about |= {"device": f"{jax.device_count()} x {device.device_kind} ({device.platform})"}
    write_atomically(out / "report.txt", text + "\n")
    rows = [asdict(r) for r in measured]
    write_atomically(
        out / "report.json", strict_json.dumps(about | {"rows": rows}, indent=2) + "\n"
    )
    plot_pareto(rows, out / "pareto.png", split)
    print(f"wrote {out}/report.txt, report.json, pareto.png and {len(measured)} files of weights")
    return 0


def _require_same_data(workdir: Path, other: Run, run: Run) -> None:
    for name in ("name", "eval_split"):
        theirs, ours = getattr(other.config.data, name), getattr(run.config.data, name)
        if theirs != ours:
            raise ConfigError(
                f"--add={workdir} is of a run with config.data.{name} = {theirs!r}, not {ours!r}"
            )
