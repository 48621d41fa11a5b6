"""Runs of two processes on the loopback, and what happens to them: see :mod:`tests.chaos`. No run
outlasts LIMIT."""

import contextlib
import dataclasses
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from tests.flags import FAST_COMPILATION
from train import setup
from train.launch.workdir import read_config
from train.records.restore import restore
from train.records.writers import read_records

ROOT = Path(__file__).parent.parent
FAULTS = (
    *(
        "none",
        "worker",
        "coordinator",
        "save",
        "frozen",
        "exception",
        "term",
        "hup",
        "usr1",
        "evaluation",
        "flip",
    ),
    *("disk", "inodes", "mkdir", "rename"),
)
SIGNALS = {"term": signal.SIGTERM, "hup": signal.SIGHUP, "usr1": signal.SIGUSR1}
LOST_SECONDS = 10
LIMIT = 300.0
"""Seconds after which a run hangs."""
SOON = 20.0
"""Seconds within which the others must have ended: some to notice, GRACE_SECONDS for a save in
flight."""

SAVE_SOON = 10.0
"""The same where a save failed: none in flight is waited for."""

STEPS = 60
FIELDS = {
    "model": "mlp",
    "model_fields": {"hidden_sizes": (64,), "dropout_rate": 0.1},
    "steps": STEPS,
    "batch_size": 32,
    "eval_batch_size": 128,
    "log_every": 3,
    "eval_every": 25,
    "checkpoint.every": 10,
    "optim.name": "sgd",
    "optim.learning_rate": 0.02,
    "optim.warmup_steps": 5,
    "processes.lost_seconds": LOST_SECONDS,
    "processes.join_seconds": 120,
}

FAILING = """
import pathlib
from train import loop
from train.__main__ import program
log = loop._Loop._log
def broken(self, step):
    if step >= {step}:
        pathlib.Path({marker!r}).touch()
        raise RuntimeError("on purpose")
    log(self, step)
loop._Loop._log = broken
program()
"""
"""The program, but for an exception at a step."""

UNWRITABLE = """
import os, pathlib
from train.__main__ import program
call = os.{call}
def broken(path, *args, **options):
    if "{step}.orbax-checkpoint-tmp" in str(path) and str(path).endswith("tmp"):
        pathlib.Path({marker!r}).touch()
        raise OSError(5, "Input/output error", str(path))
    return call(path, *args, **options)
os.{call} = broken
program()
"""
"""The program, but for a directory of one save that cannot be made, or at its end not renamed."""

SLOW = """
import pathlib, time
from train import evaluate
from train.__main__ import program
put = evaluate.put_batch
def slow(batch, mesh):
    pathlib.Path({marker!r}).touch()
    time.sleep(2)
    return put(batch, mesh)
evaluate.put_batch = slow
program()
"""
"""The program, but for two seconds before each batch of an evaluation."""


@dataclasses.dataclass
class Group:
    """The processes of one run; their output is in ``logs``."""

    processes: list[subprocess.Popen]
    logs: list[Path]
    workdir: Path

    def text(self, index: int) -> str:
        return self.logs[index].read_text(errors="replace")

    def wait(self, indices: Sequence[int] | None = None, limit: float = LIMIT) -> list[int | None]:
        """Exit codes; None of what has not ended within ``limit``."""
        chosen = self.processes if indices is None else [self.processes[i] for i in indices]
        until = time.monotonic() + limit
        for process in chosen:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(until - time.monotonic(), 0.01))
        return [p.poll() for p in chosen]

    def wait_for(self, condition: Callable[[], bool], limit: float = LIMIT) -> bool:
        """Whether it came true while all processes were running."""
        until = time.monotonic() + limit
        while not condition():
            if time.monotonic() > until or any(p.poll() is not None for p in self.processes):
                return False
            time.sleep(0.01)
        return True

    def step(self) -> int:
        """Last that was logged."""
        path = self.workdir / "metrics.jsonl"
        return max((r["step"] for r in read_records(path)), default=0) if path.exists() else 0


@contextlib.contextmanager
def group(
    workdir: Path,
    *flags: str,
    logs: Path,
    count: int = 2,
    programs: dict[int, list[str]] | None = None,
    **env: str,
) -> Iterator[Group]:
    """Starts ``count`` processes with two devices among them; none outlives the context.

    Args:
      logs: directory of what they print.
      programs: process -> what it runs in place of ``-m train``.
      env: further variables of the environment; ``{index}`` in a value is the number of the
        process.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    started, paths = [], []
    given = [f"--config.{k}={v}" for k, v in FIELDS.items()]
    try:
        for i in range(count):
            several = {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(i),
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={2 // count} {FAST_COMPILATION}",
            }
            environment = os.environ | several | {k: v.format(index=i) for k, v in env.items()}
            command = [
                sys.executable,
                *(programs or {}).get(i, ["-m", "train"]),
                "--config=configs/digits_cnn.py",
            ]
            paths.append(logs / f"{i}.log")
            with paths[-1].open("a") as log:
                started.append(
                    subprocess.Popen(
                        [*command, f"--workdir={workdir}", *given, *flags],
                        cwd=ROOT,
                        env=environment,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        yield Group(started, paths, workdir)
    finally:
        for process in started:
            process.kill()
            process.wait()


@dataclasses.dataclass
class Row:
    """Of the table: what was done and what came of it."""

    fault: str
    at: str = ""
    noticed: str = ""  # seconds until the others had ended
    codes: str = ""
    kept: str = ""  # newest finished checkpoint, before -> after
    resumed: str = ""
    problems: list[str] = dataclasses.field(default_factory=list)

    def require(self, condition: bool, problem: str) -> None:
        if not condition:
            self.problems.append(problem)


def try_all(base: Path, faults: Sequence[str], *, times: int, seed: int) -> bool:
    """Meets each fault ``times`` times, and prints a table."""
    rng = random.Random(seed)
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(base / "cache_{index}"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    reference = base / "reference"
    with group(reference, logs=base, **cache) as run:
        codes = run.wait()
        if codes != [0, 0]:
            print(f"the undisturbed run ended with {codes}:\n{run.text(0)}\n{run.text(1)}")
            return False
    rows = []
    for fault in faults:
        for i in range(times):
            row = Row(fault)
            rows.append(row)
            one = i % 2 == 1
            with _directory(base / "run", small=fault in ("disk", "inodes")) as directory:
                if directory is None:
                    row.at = "not tried: needs root and mount"
                    break
                workdir = directory / "disk" / "w"
                try:
                    _meet(row, workdir, rng, cache)
                    _resume(row, workdir, reference, cache, count=1 if one else 2)
                except Exception as e:  # the table shall tell of the other faults all the same
                    row.problems.append(f"{type(e).__name__}: {e}")
                if row.problems:
                    for log in sorted(directory.glob("*.log")):
                        print(f"--- {log.name} ---\n{log.read_text(errors='replace')[-3000:]}")
            print(" | ".join(_cells(row)), flush=True)
    print()
    table = [
        ["fault", "at", "noticed", "exit codes", "checkpoint", "resumed", "verdict"],
        *map(_cells, rows),
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        )
    return not any(row.problems for row in rows)


def _cells(row: Row) -> list[str]:
    verdict = "; ".join(row.problems) if row.problems else "held" if row.codes else "-"
    return [row.fault, row.at, row.noticed, row.codes, row.kept, row.resumed, verdict]


@contextlib.contextmanager
def _directory(path: Path, *, small: bool) -> Iterator[Path | None]:
    """A fresh one with ``disk`` in it; that is a small file system of its own, or None where it
    cannot be had."""
    shutil.rmtree(path, ignore_errors=True)
    disk = path / "disk"
    disk.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=24m,nr_inodes=2000", "tmpfs", str(disk)]
    if small and (os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode):
        yield None
        return
    try:
        yield path
    finally:
        if small:
            subprocess.run(["umount", "-l", str(disk)], check=True)


def _meet(row: Row, workdir: Path, rng: random.Random, cache: dict[str, str]) -> None:
    """Runs into the fault; fills in all but how the run goes on."""
    fault, step, who = row.fault, rng.randrange(12, 40), rng.randrange(2)
    if fault == "none":
        row.at = "-"
        return
    who = {"worker": 1, "coordinator": 0}.get(fault, who)
    logs = workdir.parent.parent
    marker = logs / "raised"
    if fault in ("mkdir", "rename"):
        who, step = 0, rng.choice((20, 30, 40))  # process 0 makes and renames directories
    program = {
        "exception": FAILING,
        "evaluation": SLOW,
        "mkdir": UNWRITABLE,
        "rename": UNWRITABLE,
    }.get(fault, "")
    other = program.format(step=step, marker=str(marker), call=fault)
    programs = {i: ["-c", other] for i in (0, 1) if other and (i == who or fault == "evaluation")}
    with group(workdir, logs=logs, programs=programs, **cache) as run:
        row.at = f"process {who}, step {step}"
        if fault in SIGNALS and rng.random() < 0.5:  # anywhere, compilation included
            row.at = f"process {who}, before step 1"
            ready = run.wait_for(lambda: "devices " in run.text(0))
        elif other:
            ready = run.wait_for(marker.exists)
        else:
            ready = run.wait_for(lambda: run.step() >= step)
        if fault == "save":
            saves = workdir / "checkpoints"
            ready = ready and run.wait_for(lambda: any(saves.glob("*.orbax-checkpoint-tmp*")))
            row.at = f"process {who}, save after {run.step()}"
        row.require(ready, "the fault could not be set")
        good = fault in (*SIGNALS, "evaluation", "flip")
        before, start = newest(workdir), time.monotonic()
        others = [1 - who]
        if fault in ("worker", "coordinator", "save"):
            run.processes[who].kill()
        elif fault == "frozen":
            run.processes[who].send_signal(signal.SIGSTOP)
        elif good:
            run.processes[who].send_signal(SIGNALS.get(fault, signal.SIGTERM))
            others = [0, 1]
        elif fault in ("disk", "inodes"):
            others = [0, 1]
            row.at = f"step {step}"
            (_fill if fault == "disk" else _use_inodes)(workdir.parent / "filler")
        codes = run.wait(others)
        seconds = time.monotonic() - start
        row.noticed = f"{seconds:.1f} s"
        row.require(None not in codes, "HANGS")
        if fault == "frozen":
            run.processes[who].send_signal(signal.SIGCONT)
        all_codes = run.wait(limit=SOON + LOST_SECONDS)
        row.codes = " ".join(map(str, all_codes))
        row.require(None not in all_codes, "HANGS")
        lost = LOST_SECONDS if fault == "frozen" else 0
        # what was said of a save is known only when the next one is due
        soon = SAVE_SOON if fault in ("mkdir", "rename") else SOON
        row.require(good or seconds < soon + lost, "noticed late")
        row.require(all((c == 0) == good for c in all_codes), "wrong exit codes")
        said = run.text(others[0])
        if fault in ("worker", "coordinator", "save", "frozen"):
            row.require(
                f"error: process {who} (" in said and "is lost" in said,
                "the lost process is not named",
            )
            row.require("Thread 0x" in said, "no stacks")
            if fault == "frozen":
                row.require(
                    "this process is lost: it stood still" in run.text(who),
                    "it does not say so itself",
                )
        elif fault == "exception":
            row.require(
                f"error: process {who} (" in said and "RuntimeError: on purpose" in said,
                "no traceback",
            )
        elif fault in ("mkdir", "rename"):
            text = f"error: cannot save the checkpoint of step {step} in "
            row.require(
                text in run.text(0) and "Input/output error" in run.text(0),
                "does not say what failed",
            )
            row.require(
                "error: process 0 (" in run.text(1) and text[7:] in run.text(1),
                "the other does not say it",
            )
        elif fault in ("disk", "inodes"):
            row.require(
                any("disk full" in run.text(i) for i in (0, 1)),
                "does not say that the disk is full",
            )
            shutil.rmtree(workdir.parent / "filler")
        if fault in ("disk", "inodes", "mkdir", "rename"):
            row.require(not any("Traceback" in run.text(i) for i in (0, 1)), "a traceback")
        after = newest(workdir)
        row.kept = f"{before} -> {after}"
        row.require(after >= before, "a finished checkpoint is gone")
        if good:
            finished = after == STEPS  # both agree to stop a moment after one was told to
            row.require(
                finished or f"after step {after};" in run.text(0),
                "not saved at the step that was said",
            )
    if fault == "evaluation":
        row.at = f"process {who}, evaluation after 25"
        row.require(newest(workdir) == 25, "the evaluation was not cut short")
    if fault == "flip":
        flip_bit(workdir / "checkpoints" / str(newest(workdir)), rng)


def _fill(path: Path) -> None:
    """Writes until the disk is full."""
    path.mkdir()
    with contextlib.suppress(OSError), (path / "0").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 14))


def _use_inodes(path: Path) -> None:
    """Makes files until none can be made."""
    path.mkdir()
    with contextlib.suppress(OSError):
        for i in itertools.count():
            (path / str(i)).touch()


def _resume(row: Row, workdir: Path, reference: Path, cache: dict[str, str], *, count: int) -> None:
    with group(workdir, logs=workdir.parent.parent, count=count, **cache) as run:
        codes = run.wait()
        row.require(codes == [0] * count, f"resumed run ended with {codes}")
        if row.fault == "flip":
            row.require("is damaged" in run.text(0), "the flipped bit was not noticed")
        if row.fault == "none":
            row.codes = " ".join(map(str, codes))
    row.resumed = f"by {count}: "
    if count == 2:
        lines = (workdir / "metrics.jsonl").read_bytes() == (
            reference / "metrics.jsonl"
        ).read_bytes()
        states = all(
            np.array_equal(a, b) for a, b in zip(state(workdir), state(reference), strict=True)
        )
        row.resumed += "equal bit for bit" if lines and states else "NOT EQUAL"
        row.require(lines and states, "not equal")
    else:
        losses = [
            np.array([r["loss"] for r in read_records(w / "metrics.jsonl")])
            for w in (workdir, reference)
        ]
        distance = (
            float(np.abs(losses[0] / losses[1] - 1).max())
            if len(losses[0]) == len(losses[1])
            else np.inf
        )
        row.resumed += f"losses within {distance:.0e}"
        row.require(distance < 1e-5, "not equal")


def newest(workdir: Path) -> int:
    """Step of the newest finished checkpoint, or 0."""
    return max(
        (int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*") if p.name.isdigit()),
        default=0,
    )


def state(workdir: Path) -> list[np.ndarray]:
    """Arrays of the newest checkpoint."""
    return [
        np.asarray(x) for x in jax.tree.leaves(restore(setup.build(read_config(workdir)), workdir))
    ]


def flip_bit(checkpoint: Path, rng: random.Random) -> str:
    """Flips one random bit of the files that hold a checkpoint's arrays, and says where."""
    files = sorted((checkpoint / "state").glob("*/[0-9]*"))
    path = rng.choices(files, [p.stat().st_size for p in files])[0]
    return f"{path.relative_to(checkpoint)} {flip_bit_of(path, rng)}"


def flip_bit_of(path: Path, rng: random.Random) -> str:
    """Flips one random bit of a file, and says which."""
    data = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(data))
    data[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(data)
    return f"bit {bit}"
