"""Faults on purpose: ``python -m tests.chaos FAULT --times=N``; ``all`` for every one.

Of one process:

kill     One run is undisturbed; another, with the same config, is killed with SIGKILL at random
moments (start-up,
         steps, evaluation, saves) and resumed each time. Their ``metrics.jsonl`` and every array of
         their final states must be equal bit for bit. At least three quarters of the kills must
         come after a checkpoint.
bitflip  One random bit of the data files of the newest checkpoint is flipped, each time in a fresh
copy. Each flip must
         be noticed, and the checkpoint before must be restored exactly.
records  One random bit of a stopped run's ``metrics.jsonl`` is flipped, and the run is resumed. The
flip must be named,
         the file kept aside, all other lines kept, and the final state equal that of the
         undisturbed run.
cache    One random bit of the decoded images, or of what is kept beside them, is flipped, and the
run is resumed.
         ``metrics.jsonl`` and the final state must equal those of the undisturbed run.

Of two processes, with one device each (tests/processes.py): each time a fresh run meets one fault
at a random step, and is resumed by two processes, every other time by one. ``pair`` is for all of
these:

none         nothing: two processes compute what they computed before, and what one does
worker       SIGKILL of the second process           coordinator  SIGKILL of the first
save         SIGKILL of either during a save         frozen       SIGSTOP of either
exception    an exception in either                  term         SIGTERM to either, from before the
first step on hup          SIGHUP in the place of SIGTERM          usr1         SIGUSR1 in the place
of SIGTERM
evaluation   SIGTERM to either during an evaluation, which is cut short
flip         SIGTERM, then a bit of the newest checkpoint is flipped
disk         the file system of the workdir is full (a small tmpfs: needs root and mount)
inodes       the same, but for its inodes: no file can be made, and no directory
mkdir        the directory of a save cannot be made  rename       a save cannot be renamed at its
end

Exit code 0 if all held. The moments and bits come from ``--seed``.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from tests import processes
from tests.processes import flip_bit, flip_bit_of
from train import setup
from train.checkpoint import Checkpoints
from train.launch import cli
from train.launch.workdir import read_config
from train.records.restore import restore
from train.records.writers import read_records

ROOT = Path(__file__).parent.parent
LIMIT = 3600.0
"""Seconds after which a run hangs."""


def command(workdir: Path, steps: int, *more: str) -> list[str]:
    """A short run of ``configs/digits_cnn.py`` that logs, evaluates and saves often and out of step
    with each other."""
    fields = {
        "steps": steps,
        "batch_size": 32,
        "log_every": 7,
        "eval_every": 50,
        "checkpoint.every": 20,
    }
    fields |= {
        "checkpoint.keep_last": 3,
        "optim.warmup_steps": 5,
        "optim.ema_decay": 0.99,
        "accumulate": 2,
    }
    flags = [f"--config.{k}={v}" for k, v in fields.items()]
    return [
        sys.executable,
        "-m",
        "train",
        "--config=configs/digits_cnn.py",
        f"--workdir={workdir}",
        *flags,
        *more,
    ]


def undisturbed(workdir: Path, steps: int, *more: str) -> float:
    """Runs to the end; returns seconds."""
    start = time.perf_counter()
    subprocess.run(
        command(workdir, steps, *more),
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=LIMIT,
    )
    return time.perf_counter() - start


def same_states(one: Path, other: Path) -> bool:
    """True if every array of two final states is equal bit for bit."""
    run = setup.build(read_config(one))
    pairs = zip(*(jax.tree.leaves(restore(run, w)) for w in (one, other)), strict=True)
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def kill(base: Path, *, times: int, steps: int, seed: int) -> bool:
    """See the module's docstring."""
    rng = random.Random(seed)
    reference, victim = base / "reference", base / "victim"
    seconds = undisturbed(reference, steps)
    start_up = undisturbed(base / "short", 20)
    records = victim / "metrics.jsonl"
    after_checkpoint = 0
    for killed in range(times):
        done = processes.newest(victim)
        # of the kills may come before the first checkpoint
        enough = killed - after_checkpoint < times // 4
        with (base / "victim.log").open("a") as log:
            process = subprocess.Popen(command(victim, steps), cwd=ROOT, stdout=log, stderr=log)
            if rng.random() < 0.25 and (done or enough):
                time.sleep(rng.uniform(0.3, start_up))
            else:
                before = records.stat().st_mtime_ns if records.exists() else 0
                until = time.monotonic() + LIMIT
                while process.poll() is None and time.monotonic() < until:
                    if stepped(records, before, done) and (enough or processes.newest(victim)):
                        break
                    time.sleep(0.05)
                # a share of what is left, so that the run does not end before the last kill
                share = max(seconds - start_up, 1.0) * (1 - done / steps) / (times - killed)
                time.sleep(rng.uniform(0, 0.7 * share))
            if process.poll() is not None:
                print(
                    f"the run ended by itself with exit code {process.returncode}: see "
                    f"{base / 'victim.log'}"
                )
                return False
            process.send_signal(signal.SIGKILL)
            process.wait()
        newest = processes.newest(victim)
        after_checkpoint += newest > 0
        print(f"kill {killed + 1:>2}: newest checkpoint {newest or 'none'}", flush=True)
    undisturbed(victim, steps)
    same_lines = (reference / "metrics.jsonl").read_bytes() == (
        victim / "metrics.jsonl"
    ).read_bytes()
    same_arrays = same_states(reference, victim)
    print(
        f"{times} kills, {after_checkpoint} of them after a checkpoint; metrics.jsonl equal: "
        f"{same_lines}; all arrays of the state equal: {same_arrays}"
    )
    return same_lines and same_arrays and after_checkpoint >= 0.75 * times


def stepped(records: Path, before: int, done: int) -> bool:
    """Whether a run started since the file was as ``before`` has logged a step after ``done``."""
    if not records.exists() or records.stat().st_mtime_ns == before:
        return False
    return any(r["step"] > done for r in read_records(records)[-1:])


def bitflip(base: Path, *, times: int, steps: int, seed: int) -> bool:
    """See the module's docstring."""
    rng = random.Random(seed)
    source = base / "source"
    undisturbed(source, steps)
    run = setup.build(read_config(source))
    newest, before = Checkpoints(source / "checkpoints", read_only=True).steps()[:-3:-1]
    expected = [np.asarray(x) for x in jax.tree.leaves(restore(run, source, str(before)))]
    detected = exact = 0
    for i in range(times):
        copy = base / f"copy_{i}"
        shutil.copytree(source, copy)
        where = flip_bit(copy / "checkpoints" / str(newest), rng)
        warnings: list[str] = []
        checkpoints = Checkpoints(copy / "checkpoints")
        restored = checkpoints.restore(run.shapes, warn=warnings.append)
        checkpoints.close()
        assert restored is not None
        state = restored[0]
        same = all(
            np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state), expected, strict=True)
        )
        detected += len(warnings) == 1
        exact += int(state.step) == before and same
        print(f"flip {i + 1:>2}: {where}: {warnings[0] if warnings else 'NOT NOTICED'}", flush=True)
        shutil.rmtree(copy)
    print(f"{times} flips: {detected} detected, {exact} fell back to step {before} exactly")
    return detected == exact == times


def records(base: Path, *, times: int, steps: int, seed: int) -> bool:
    """See the module's docstring."""
    rng = random.Random(seed)
    reference, stopped = base / "reference", base / "stopped"
    undisturbed(reference, steps)
    expected = (reference / "metrics.jsonl").read_bytes().splitlines()
    shutil.copytree(reference, stopped)
    (stopped / "summary.json").unlink()
    # as if it had been killed during its last save
    shutil.rmtree(stopped / "checkpoints" / str(steps))
    held = 0
    for i in range(times):
        copy = base / f"copy_{i}"
        shutil.copytree(stopped, copy)
        path = copy / "metrics.jsonl"
        known = [line for line in expected if json.loads(line)["step"] <= processes.newest(copy)]
        data = bytearray(path.read_bytes())
        bit = rng.randrange(8 * (sum(map(len, known)) + len(known)))
        lost = {data[: bit // 8].count(b"\n")}
        if data[bit // 8] == 10:  # the ends of two lines met
            lost.add(min(lost) + 1)
        data[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(data)
        resumed = subprocess.run(
            command(copy, steps), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT
        )
        aside = path.with_name("metrics.jsonl.damaged-1")
        good = {
            "ended well": resumed.returncode == 0,
            "named": re.search(
                rf"metrics\.jsonl is damaged in .*\b{min(lost) + 1}\b", resumed.stderr
            )
            is not None,
            "kept aside": aside.exists() and aside.read_bytes() == data,
            "all else kept": path.read_bytes().splitlines()
            == [x for n, x in enumerate(expected) if n not in lost],
            "same state": same_states(reference, copy),
        }
        held += all(good.values())
        print(
            f"flip {i + 1:>2}: line {min(lost) + 1}: "
            f"{', '.join(k if v else f'NOT {k}' for k, v in good.items())}"
        )
        shutil.rmtree(copy)
    print(f"{times} flips in metrics.jsonl: {held} held", flush=True)
    return held == times


def cache(base: Path, *, times: int, steps: int, seed: int) -> bool:
    """See the module's docstring."""
    rng = random.Random(seed)
    data_dir = base / "data"
    where = f"--config.data.data_dir={data_dir}"
    reference, kept, used = base / "reference", base / "kept", data_dir / ".jaxmodels_cache"
    undisturbed(reference, steps, where)
    shutil.copytree(used, kept)
    held = 0
    for i in range(times):
        shutil.rmtree(used)
        shutil.copytree(kept, used)
        files = sorted(p for p in used.rglob("*") if p.is_file() and p.stat().st_size)
        path = (
            rng.choice(files) if i % 2 else rng.choices(files, [p.stat().st_size for p in files])[0]
        )
        where_flipped = flip_bit_of(path, rng)
        victim = base / f"victim_{i}"
        undisturbed(victim, steps, where)
        lines = (reference / "metrics.jsonl").read_bytes() == (
            victim / "metrics.jsonl"
        ).read_bytes()
        same = lines and same_states(reference, victim)
        held += same
        print(
            f"flip {i + 1:>2}: {path.relative_to(used)} {where_flipped}: "
            f"{'equal' if same else 'NOT EQUAL'}",
            flush=True,
        )
    print(f"{times} flips in the cache: {held} changed nothing")
    return held == times


ALONE = {"kill": kill, "bitflip": bitflip, "records": records, "cache": cache}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fault", choices=("all", *ALONE, "pair", *processes.FAULTS))
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--steps", type=int, default=None, help="length of the runs of one process")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # takes the runs along
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    held = []
    for fault, function in ALONE.items():
        steps = 100 * args.times if fault == "kill" else 80
        if args.fault in (fault, "all"):
            with tempfile.TemporaryDirectory() as base:
                held.append(
                    function(
                        Path(base), times=args.times, steps=args.steps or steps, seed=args.seed
                    )
                )
    several = (
        processes.FAULTS
        if args.fault in ("pair", "all")
        else [f for f in processes.FAULTS if f == args.fault]
    )
    if several:
        with tempfile.TemporaryDirectory() as base:
            held.append(processes.try_all(Path(base), several, times=args.times, seed=args.seed))
    print("held" if all(held) else "FAILED")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(cli.run(main))
