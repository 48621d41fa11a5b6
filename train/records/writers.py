"""The writers of a run, and what is read back of its records.

``metrics.jsonl`` holds only what (config, seed) determine, so that it is equal, byte for byte,
however often the run was interrupted; times go to ``timings.jsonl``, each with a checksum of the
line of ``metrics.jsonl`` that it belongs to. TensorBoard gets both.
"""

import contextlib
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from train.records import files

_HIDDEN = "torch" not in sys.modules
# tensorboardX imports it for an annotation: half of the time that a command takes to start. For
# these lines it looks, to other threads too, as if it were not installed
if _HIDDEN:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary
finally:
    if _HIDDEN:
        del sys.modules["torch"]


class Writers:
    """Console, ``metrics.jsonl``, ``timings.jsonl`` and TensorBoard events of one workdir.

    Args:
      workdir: an existing directory.
      start: step from which the run goes on; records of later steps, left by an interrupted run,
        are dropped.
      evaluated: last step whose evaluation counts; records of later evaluations are dropped.
      steps: total, for the progress bar.
      quiet: print and write nothing (every process but the first).
      warn: told in one line of each file with damaged lines: they are left out, and the file is
        kept aside.

    Raises:
      WorkdirError: something that is no file, or no directory, has the name of one of these.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start: int,
        evaluated: int,
        steps: int,
        quiet: bool = False,
        warn: Callable[[str], None] = print,
    ):
        self.quiet = quiet
        self._last = start
        self._open = contextlib.ExitStack()
        if quiet:
            return
        timings = workdir / "timings.jsonl"
        for path in (workdir / "metrics.jsonl", timings):
            content = files.read_own(path) or b""
            checksums = {} if path == timings else _checksums(files.read_own(timings) or b"")
            found, damaged = _parse(content, checksums)
            if damaged:
                aside = files.keep_aside(path, content)
                few = ", ".join(map(str, damaged[:10])) + (", ..." if len(damaged) > 10 else "")
                what = "line" if len(damaged) == 1 else f"{len(damaged)} lines:"
                warn(
                    f"{path} is damaged in {what} {few}; all else is kept, and the file as it was "
                    f"is {aside.name}"
                )
            kept = [r for r in found if r["step"] <= (evaluated if r["kind"] == "eval" else start)]
            files.write_atomically(path, "".join(json.dumps(r) + "\n" for r in kept))
        files.require(workdir / "tensorboard", "a directory")
        (workdir / "tensorboard").mkdir(exist_ok=True)
        # not SummaryWriter: it writes in a thread, and blocks forever once that thread has met a
        # full disk
        self._events = EventsWriter(str(workdir / "tensorboard" / "events"))
        self._open.callback(self._events.close)
        self._events.write_event(
            Event(step=start + 1, session_log=SessionLog(status=SessionLog.START))
        )
        self._metrics, self._timings = (
            self._open.enter_context(files.open_own(workdir / name, os.O_WRONLY | os.O_APPEND))
            for name in ("metrics.jsonl", "timings.jsonl")
        )
        bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )
        self._bar = self._open.enter_context(bar)

    def progress(self, step: int) -> None:
        """Moves the bar to ``step``."""
        if not self.quiet:
            self._bar.update(step - self._last)
            self._last = step

    def line(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if not self.quiet:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def record(
        self, step: int, kind: str, values: Mapping[str, float], timings: Mapping[str, float]
    ) -> None:
        """Writes the metrics of ``kind`` (``train`` or ``eval``) after ``step`` steps, and prints
        them in one line."""
        if self.quiet:
            return
        line = json.dumps({"step": step, "kind": kind, **values}).encode()
        self._metrics.write(line + b"\n")
        self._metrics.flush()
        more = {**timings, "crc32": zlib.crc32(line)}
        self._timings.write(json.dumps({"step": step, "kind": kind, **more}).encode() + b"\n")
        self._timings.flush()
        for name, value in {**values, **timings}.items():
            summary = Summary(value=[Summary.Value(tag=f"{kind}/{name}", simple_value=value)])
            self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._events.flush()
        numbers = "  ".join(f"{k} {v:.4g}" for k, v in {**values, **timings}.items())
        self.line(f"step {step:>6}  {kind:<5}  {numbers}")

    def sync(self) -> None:
        """Puts the records on the disk, so that a checkpoint saved next never outlives them, even
        in a power cut."""
        if not self.quiet:
            os.fsync(self._metrics.fileno())
            os.fsync(self._timings.fileno())

    def close(self) -> None:
        """Flushes and closes everything."""
        self._open.close()


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a JSONL file; damaged lines are left out, and a last one that was cut off by a
    kill."""
    return _parse(files.read_own(path) or b"", {})[0]


def _parse(
    content: bytes, checksums: Mapping[tuple[int, str], set[int]]
) -> tuple[list[dict[str, Any]], list[int]]:
    """Records, and the numbers of damaged lines.

    Args:
      checksums: (step, kind) -> what the line may have. A line that has none is taken as it is,
        since a kill or damage may have cost its checksum; unless a checksum has no line: then this
        may be that line, with another step.
    """
    records, damaged = [], []
    lines = content.split(b"\n")
    read = [_record(line) for line in lines]
    homeless = checksums.keys() - {
        (record["step"], record["kind"]) for record in read if record is not None
    }
    for number, (line, record) in enumerate(zip(lines, read, strict=True), 1):
        if record is None:
            if number < len(lines):  # the last has no end: a kill cut it off
                damaged.append(number)
        elif zlib.crc32(line) in checksums.get(
            (record["step"], record["kind"]),
            () if homeless and any(lines[number:]) else {zlib.crc32(line)},
        ):
            records.append(record)
        else:
            damaged.append(number)
    return records, damaged


def _record(line: bytes) -> dict[str, Any] | None:
    """The record in a line, None if there is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int or record["step"] < 1:
        return None
    if record.get("kind") not in ("train", "eval"):
        return None
    return (
        record
        if all(isinstance(v, int | float) for k, v in record.items() if k != "kind")
        else None
    )


def _checksums(timings: bytes) -> dict[tuple[int, str], set[int]]:
    """(step, kind) -> checksums of its line in ``metrics.jsonl``: several, where a run was
    interrupted and resumed."""
    found: dict[tuple[int, str], set[int]] = {}
    for record in _parse(timings, {})[0]:
        if isinstance(record.get("crc32"), int):
            found.setdefault((record["step"], record["kind"]), set()).add(record["crc32"])
    return found
