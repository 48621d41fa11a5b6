"""Cases in a process of their own, which is ended when one takes too long, and watched for what it
takes."""

import contextlib
import io
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.oracle import BYTES, SECONDS, Fault, Refused

START = 120.0
"""Seconds that a process may take to import and to make the healthy files."""


class Worker:
    """A process that tries cases of one kind, started again after one that ended it."""

    def __init__(self, kind: str, seed: int):
        self.kind, self.seed = kind, seed
        self.process: Any = None

    def attempt(self, case: int) -> tuple[str, str]:
        """("accepted" or "refused", "") or ("fault", what it was) of a case."""
        if self.process is None:
            self._start()
        try:
            self.pipe.send(case)
            if not self.pipe.poll(SECONDS + 2):
                self.end()
                return "fault", f"hangs: more than {SECONDS:g} s"
            return self.pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            code = self.process.exitcode
            self.end()
            return "fault", f"the process ended (exit code {code})"

    def end(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            shutil.rmtree(self.directory, ignore_errors=True)
            self.process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.directory = tempfile.mkdtemp(prefix=f"fuzz-{self.kind}-")
        arguments = (self.kind, self.seed, self.directory, theirs)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        if not self.pipe.poll(START):
            raise RuntimeError(f"the healthy files of {self.kind} were not made in {START:g} s")
        problem = self.pipe.recv()
        if problem:
            raise RuntimeError(
                f"the healthy files of {self.kind} cannot be made or read:\n{problem}"
            )


def _serve(kind: str, seed: int, directory: str, pipe: Connection) -> None:
    os.environ.update(JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="critical")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)  # libraries write there past Python
    from tests.fuzz.kinds import KINDS  # not above: the parent has no use for jax

    one = KINDS[kind]
    try:
        with _silent():
            context = one.prepare(Path(directory))
    except Exception:
        pipe.send(traceback.format_exc())
        return
    limit = _status("VmSize") + 3 * BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    pipe.send("")
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        pipe.send(
            _tried(
                one, context, np.random.default_rng([seed, *kind.encode(), case]), Path(directory)
            )
        )


def _tried(kind: Any, context: Any, rng: np.random.Generator, directory: Path) -> tuple[str, str]:
    place = directory / "case"
    place.mkdir()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest that was measured is forgotten
    start = time.perf_counter()
    try:
        with _silent():
            kind.attempt(context, rng, place)
        result = "accepted", ""
    except Refused:
        result = "refused", ""
    except Fault as e:
        result = "fault", str(e)
    except BaseException:
        result = "fault", traceback.format_exc()
    seconds, size = time.perf_counter() - start, _status("VmHWM") - before
    shutil.rmtree(place, ignore_errors=True)
    if result[0] != "fault" and seconds > SECONDS:
        return "fault", f"{result[0]} after {seconds:.1f} s"
    if result[0] != "fault" and size > BYTES:
        return "fault", f"{result[0]} with {size / BYTES:.1f} GiB more memory"
    return result


def _status(name: str) -> int:
    line = next(
        x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name + ":")
    )
    return 1024 * int(line.split()[1])


@contextlib.contextmanager
def _silent() -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
