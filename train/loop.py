"""The training loop: the only place with side effects.

Data flows one way: config -> loader -> batch -> step -> metrics -> writers, with the checkpoint
reading the state and the loader's position on the side. Everything that happens at a step boundary
happens in one order: log, evaluate, save; so a checkpoint of step n implies that every record up to
n is written, and resuming repeats nothing and loses nothing.
"""

import contextlib
import hashlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from input_pipeline.features import to_json
from jaxmodels.plan.chips import mfu
from train import batches, compiling, initial
from train.checkpoint import Checkpoints
from train.config import Config
from train.errors import NonFiniteError, Stopped
from train.evaluate import means_of, measured, scores
from train.launch import cli, distributed
from train.launch.workdir import claimed, read_card, write_identity
from train.metrics import Sums
from train.optim import make_schedule
from train.passes import Evaluation, evaluate
from train.plan import memory
from train.records import figures, header, strict_json
from train.records.files import write_atomically
from train.records.nonfinite import report as report_nonfinite
from train.records.writers import Writers, read_records
from train.run import Run
from train.setup import build, with_teacher
from train.state import TrainState


def train(config: Config, workdir: Path) -> dict[str, Any] | None:
    """Trains from the newest good checkpoint of ``workdir``, or from the start, to
    ``config.steps``.

    Returns:
      What ``summary.json`` holds ({} on processes other than the first); None if a signal stopped
      the run before the end (its state is saved).

    Raises:
      ConfigError, DataError, WorkdirError, CheckpointError, NonFiniteError: each with a one-line
        message.
    """
    with contextlib.ExitStack() as stack:
        started = stack.enter_context(claimed(workdir, config))
        # a run goes on with the tokenizer, or the standardisation, that it began with, whatever the
        # data give today
        began = read_card(workdir) if _began(workdir) else None
        run = with_teacher(build(config, card=began if began and began.fitted else None))
        memory.require(run)
        distributed.agree(
            "data",
            _data(run),
            "every process needs the same data set and the same versions of packages",
        )
        # what cannot be read is better found now than at an evaluation
        if run.card.fitted:
            batches.loader(run, config.data.eval_split, train=False).close()
        checkpoints = Checkpoints(
            workdir / "checkpoints",
            keep_last=config.checkpoint.keep_last,
            keep_best=config.checkpoint.keep_best,
        )
        stop = stack.enter_context(_stop_signal())
        restored = checkpoints.restore(run.shapes, warn=cli.warn)
        if restored:
            state, progress = restored[0], Progress(**restored[1])
            sources = ", ".join(filter(None, [config.init_from, *config.init_parts.values()]))
            origin = f"{sources}, when the run began" if sources else ""
        else:
            (state, origin), progress = initial.start(run, warn=cli.warn), Progress()
        if jax.process_index() == 0:  # only now: a mistake in init_from must not claim the workdir
            write_identity(workdir, config, run.card)
            started()
        writers = Writers(
            workdir,
            start=int(state.step),
            evaluated=progress.evaluated,
            steps=config.steps,
            quiet=jax.process_index() != 0,
            warn=cli.warn,
        )
        stack.callback(writers.close)
        writers.line(header.header(run, workdir, int(state.step), origin))
        loop = _Loop(run, workdir, checkpoints, writers, stop, progress)
        try:
            state = loop.run_steps(state)
            summary = loop.finish(state) if int(state.step) == config.steps else None
        except BaseException as error:
            distributed.failed(error)
            if jax.process_count() == 1:
                # the save in flight must not be cut off, and its own failure must not hide the
                # cause; of several processes it has some seconds at the exit, because one that
                # ended would be waited for
                with contextlib.suppress(Exception):
                    checkpoints.close()
            raise
        checkpoints.close()
        if summary is None:
            writers.line(
                f"stopped by {stop.name} after step {int(state.step)}; all is saved: run the same "
                "command to go on"
            )
            return None
        return summary


def _data(run: Run) -> dict[str, str]:
    """What has to be equal on all processes before they compile: the data set's card and its first
    examples."""
    if jax.process_count() == 1:
        return {}
    card = distributed.flat(to_json(run.card), "data set")
    found = {k: v for k, v in card.items() if not k.endswith(".directory")}
    for name, values in batches.first_examples(run, 16).items():
        found[f"{name} of the first examples"] = hashlib.sha256(values.tobytes()).hexdigest()[:12]
    return found


def _began(workdir: Path) -> bool:
    """The same on every process: the files of a run are on a file system that all share."""
    return (workdir / "dataset.json").is_file()


@dataclass
class Progress:
    """What the loop carries besides the state; JSON values, saved with each checkpoint."""

    loader: dict[str, Any] | None = None  # Grain's state
    window: dict[str, Any] = field(default_factory=dict)  # sums since the last log line
    evaluated: int = 0  # last step with an evaluation
    seconds: float = 0.0  # since the very start, over all resumptions
    step_seconds: float = 0.0  # of them in training steps


class _Loop:
    def __init__(
        self,
        run: Run,
        workdir: Path,
        checkpoints: Checkpoints,
        writers: Writers,
        stop: "_Stop",
        progress: Progress,
    ):
        self.run, self.config, self.workdir = run, run.config, workdir
        self.checkpoints, self.writers, self.stop, self.progress = (
            checkpoints,
            writers,
            stop,
            progress,
        )
        self.window = Sums(progress.window)
        self.schedule = make_schedule(run.config.optim, run.config.steps)
        self.eval_step = compiling.compile_eval_step(run)
        self.started = time.perf_counter() - progress.seconds
        self.last_evaluation: tuple[int, Evaluation] | None = None
        self.draws = [one.draw(run) for one in run.task.reports if one.draw is not None]
        self.flops = self.compile_seconds = 0.0

    def run_steps(self, state: TrainState) -> TrainState:
        """Steps until ``config.steps`` or a signal, whichever comes first; saves at the end in
        either case."""
        config, step = self.config, int(state.step)
        due = step % config.eval_every == 0 or step == config.steps
        # a signal had cut this evaluation short
        if due and 0 < step != self.progress.evaluated and not self._evaluate(state, step):
            return state
        if step == config.steps:
            return state
        train_step, self.compile_seconds, self.flops = compiling.compile_train_step(self.run)
        self.writers.line(
            f"compiled the training step in {self.compile_seconds:.1f} s, {self.flops / 1e9:.3g} "
            "GFLOP per step"
        )
        loader = batches.loader(self.run, config.data.train_split, train=True)
        if self.progress.loader is not None:
            loader.set_state(self.progress.loader)
        together = config.steps_per_execution
        pending: tuple[int, Any, list[dict[str, np.ndarray]]] | None = None
        self._restart_clocks()
        resumed = time.perf_counter()
        with contextlib.closing(loader):
            while step < config.steps:
                start = time.perf_counter()
                host_batches = [next(loader) for _ in range(together)]
                batch = batches.put_batches(self.run, host_batches)
                # if the step before is still running, the device did not wait; if not, it waited at
                # most this long
                if pending is None or pending[1]["loss"][0].is_ready():
                    self.window_wait += time.perf_counter() - start
                state, metrics = train_step(state, batch)
                step += together
                # the step before: fetched late, so that the device is never idle for it
                self._settle(pending, state)
                pending = (step, metrics, host_batches)
                self.window_steps += together
                stopping = self.stop.reached(step)
                self.checkpoints.check()
                log, due, save = (
                    step % n == 0
                    for n in (config.log_every, config.eval_every, config.checkpoint.every)
                )
                last = step == config.steps
                if not (log or due or save or last or stopping):
                    continue
                self._settle(pending, state)
                pending = None
                elapsed = time.perf_counter() - resumed  # boundaries are not counted
                self.window_seconds += elapsed
                self.progress.step_seconds += elapsed
                self.progress.loader = loader.get_state()
                if log or last:
                    self._log(step)
                if (due or last) and not stopping:
                    stopping = not self._evaluate(state, step)
                if due or save or last or stopping:
                    start = time.perf_counter()
                    self._save(state, step)
                    self.window_save += time.perf_counter() - start
                if stopping:
                    break
                resumed = time.perf_counter()
        return state

    def finish(self, state: TrainState) -> dict[str, Any] | None:
        """Final scores, summary and pictures; None if a signal came first."""
        config, split = self.config, self.config.data.eval_split
        try:
            if self.last_evaluation is not None and self.last_evaluation[0] == config.steps:
                held_out = self.last_evaluation[1]
            else:
                held_out = self._measure(state, split)
            findings = measured(self.run, state, split, held_out, stopping=self._may_leave)
            train = self._measure(state, config.data.train_split)
        except Stopped:
            return None
        if jax.process_index() != 0:
            return {}
        examples, unit = config.steps * config.batch_size, self.run.task.bundle.unit
        splits = {"train": config.data.train_split, "test": split}
        result = scores(self.run, held_out, findings)
        summary = {
            split: result,
            "train": train.means | {unit: train.examples},
            "test": result,  # the name that every split had here once
            "splits": splits,
            "steps": config.steps,
            "seconds": round(time.perf_counter() - self.started, 3),
            "examples_per_second": round(examples / max(self.progress.step_seconds, 1e-9), 1),
        }
        legend = {"train": splits["train"], "eval": split}
        figures.plot_curves(
            read_records(self.workdir / "metrics.jsonl"), self.workdir / "curves.png", legend
        )
        written = "summary.json, metrics.jsonl, curves.png, tensorboard/"
        for one, finding in findings.items():
            for name in one.files(self.run, finding, result, self.workdir, split):
                written += f", {name}"
            for line in one.lines(result):
                self.writers.line(line)
        write_atomically(self.workdir / "summary.json", strict_json.dumps(summary, indent=2) + "\n")
        for name, means, count in (
            (config.data.train_split, train.means, train.examples),
            (split, means_of(held_out, findings), held_out.examples),
        ):
            numbers = "  ".join(f"{k} {v:.4f}" for k, v in means.items())
            self.writers.line(f"final {name:<5} {numbers}  ({count:,} {unit})")
        self.writers.line(f"wrote {self.workdir}/{written}")
        return summary

    def _settle(
        self, pending: tuple[int, Any, list[dict[str, np.ndarray]]] | None, state: TrainState
    ) -> None:
        """Fetches the metrics of the steps of one call, of which the last is given; stops the run
        if one is bad."""
        if pending is None:
            return
        last, metrics, batches = pending
        metrics = jax.device_get(metrics)
        for i, batch in enumerate(batches):
            one = metrics if len(batches) == 1 else jax.tree.map(lambda x, i=i: x[i], metrics)
            self._count(last - len(batches) + 1 + i, one, batch, state)

    def _count(
        self, step: int, metrics: Any, batch: dict[str, np.ndarray], state: TrainState
    ) -> None:
        if not all(np.isfinite(metrics[k][0]) for k in ("loss", "grad_norm", "update_norm")):
            name = report_nonfinite(self.run, state, batch, step, self.workdir)
            self.checkpoints.wait()
            kept = self.checkpoints.steps()
            raise NonFiniteError(
                f"loss or gradient of step {step} is not finite; first non-finite tensor: {name}; "
                f"the batch is in {self.workdir}/nonfinite/step_{step}.npz; "
                + (
                    f"the checkpoint of step {kept[-1]} is kept"
                    if kept
                    else "there was no checkpoint yet"
                )
                + "; a lower config.optim.learning_rate or config.optim.clip_norm may help"
            )
        self.window.add(metrics)
        self.writers.progress(step)

    def _log(self, step: int) -> None:
        seconds = self.window_seconds
        means = self.window.means()
        values = (
            means | self.run.task.derive(means) | {"learning_rate": float(self.schedule(step - 1))}
        )
        timings = {
            "examples_per_second": self.window_steps * self.config.batch_size / seconds,
            "step_ms": 1e3 * seconds / self.window_steps,
            "data_wait_percent": 100 * self.window_wait / seconds,
        }
        if self.run.task.bundle.unit == "tokens":
            tokens, steps = self.window.values["loss"][1], self.window.values["grad_norm"][1]
            timings["tokens_per_second"] = tokens / steps * self.window_steps / seconds
        use = mfu(
            self.flops,
            seconds / self.window_steps,
            jax.devices()[0].device_kind,
            jax.device_count(),
        )
        if use is not None:
            timings["mfu_percent"] = 100 * use
        if self.window_save:  # since the line before; no part of the step's time either
            timings["checkpoint_percent"] = 100 * self.window_save / (self.window_save + seconds)
        if self.compile_seconds:  # with the first line only: no part of the step's time
            timings["compile_s"], self.compile_seconds = self.compile_seconds, 0.0
        self.writers.record(step, "train", values, timings)
        self.window = Sums()
        self._restart_clocks()

    def _restart_clocks(self) -> None:
        self.window_steps, self.window_seconds, self.window_wait, self.window_save = (
            0,
            0.0,
            0.0,
            0.0,
        )

    def _evaluate(self, state: TrainState, step: int) -> bool:
        """Records the scores on eval_split, and pictures; False if a signal cut it short."""
        start = time.perf_counter()
        try:
            found = self._measure(state, self.config.data.eval_split)
        except Stopped:
            return False
        bundle = self.run.task.bundle
        timings = {f"{bundle.unit}_per_second": found.examples / (time.perf_counter() - start)}
        self.writers.record(step, "eval", found.means, timings)
        for draw in self.draws:
            drawn = draw(state)
            if jax.process_index() == 0:
                figures.write_pictures(drawn, self.workdir / "samples", step)
        self.progress.evaluated = step
        self.last_evaluation = (step, found)
        score, prune = found.means[bundle.score], self.config.prune
        # the best of a run that prunes is one that is pruned
        if not prune.sparsity or step > prune.end_step:
            self.checkpoints.score(step, -score if bundle.lower_is_better else score)
        return True

    def _measure(self, state: TrainState, split: str) -> Evaluation:
        return evaluate(self.run, self.eval_step, state, split, stopping=self._may_leave)

    def _may_leave(self) -> bool:
        self.checkpoints.check()
        return self.stop.agreed()  # several processes must leave the collective evaluation together

    def _save(self, state: TrainState, step: int) -> None:
        self.progress.window = self.window.values
        self.progress.seconds = time.perf_counter() - self.started
        self.writers.sync()
        self.checkpoints.save(state, vars(self.progress))


class _Stop:
    """True if a signal asked the run to stop at the next step boundary."""

    def __init__(self):
        self.asked = False
        self.name = ""
        self.calls = 0

    def ask(self, number: int, frame: Any) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait
        self.asked, self.name = True, signal.Signals(number).name

    def agreed(self) -> bool:
        """True from the same call on on every process; all of them call it equally often, steps or
        batches."""
        if jax.process_count() > 1 and not self.asked:
            self.calls += 1
            self.name = "a signal to one of the processes"
            self.asked = multihost_utils.reached_preemption_sync_point(self.calls)
        return self.asked

    def reached(self, step: int) -> bool:
        """Whether the run stops after ``step``."""
        return self.agreed()


@contextlib.contextmanager
def _stop_signal() -> Iterator[_Stop]:
    stop = _Stop()
    # With several processes jax takes SIGTERM, and train.launch.distributed passes other signals on
    # to it. Ctrl-C stays what it is: one process cannot stop alone.
    handled = (
        () if jax.process_count() > 1 else (signal.SIGINT, signal.SIGTERM, *distributed.passed_on())
    )
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stop.ask) for number in handled}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
