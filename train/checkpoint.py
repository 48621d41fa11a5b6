"""Saving and restoring (state, host data) with Orbax; the only module that knows Orbax.

Orbax does not notice flipped bits (compressed chunks carry no checksum), so a digest of every array
is saved beside it and verified on restore. The digest is computed on the devices from the values
alone: it does not depend on how the array is split, so a checkpoint can be verified on any mesh. A
checkpoint that fails is moved to ``damaged/`` beside ``checkpoints/`` and the next older one is
used.
"""

import contextlib
import errno
import json
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from train.errors import CheckpointError, SaveError, WorkdirError
from train.launch import abandoned
from train.records import files
from train.records.digests import digests
from train.sharding import path_name
from train.state import TrainState

ARRAY_HANDLERS = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=2**20)),
    (np.ndarray, ocp.type_handlers.NumpyHandler()),
)
"""Every device writes its part of an array that all hold alike, but not where the parts would be
below 1 MiB: by default a bias becomes as many files as there are devices, and cutting it takes
longer than writing it."""


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      directory: made if missing; step ``n`` lies in ``directory/n``.
      keep_last: newest checkpoints kept.
      keep_best: checkpoints kept for their metric (higher is better), besides.
      read_only: never write or move anything.
    """

    def __init__(
        self, directory: Path, *, keep_last: int = 2, keep_best: int = 1, read_only: bool = False
    ):
        self.directory = directory.absolute()
        self.read_only = read_only
        self._policy = _LatestAndBest(keep_last, keep_best)
        self._in_flight: int | None = None
        self._failed: Exception | None = None  # a write of the save in flight
        # one zarr directory per array: every byte is read back, and any zarr reader can open it.
        # OCDBT, the default, keeps parts of the data twice and reads one copy
        states = ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=ARRAY_HANDLERS)
        handlers = {"state": states, "host": ocp.JsonCheckpointHandler()}
        for handler in handlers.values():
            handler.async_save = self._noted(handler.async_save)
        options = ocp.CheckpointManagerOptions(
            create=not read_only,
            read_only=read_only,
            preservation_policy=self._policy,
            # made in the background, a directory that cannot be made leaves threads that wait five
            # minutes for it
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
        )
        abandoned.keep_quiet()
        try:
            files.require(self.directory, "a directory")
            self._manager = ocp.CheckpointManager(
                self.directory, item_handlers=handlers, options=options
            )
        except WorkdirError as e:
            raise CheckpointError(str(e)) from e
        except (OSError, ValueError) as e:
            raise CheckpointError(
                f"cannot open the checkpoints in {self.directory}: {files.one_line(e)}"
            ) from e
        # the last step of a save: process 0 alone takes it
        last_step = self._manager._checkpointer._make_on_commit_callback
        self._manager._checkpointer._make_on_commit_callback = lambda *args: self._noted_call(
            last_step(*args)
        )

    def save(self, state: TrainState, host: dict[str, Any]) -> None:
        """Starts an asynchronous save of ``state`` and of ``host`` (JSON values).

        ``state`` may be donated and ``host`` changed as soon as this returns.

        A step that is already saved is left as it is. Waits for the save before, if it has not
        finished.

        Raises:
          SaveError: this save or the one before failed (disk full, directory gone).
        """
        self.wait()
        step = int(state.step)
        # a copy: Orbax turns it into text later, in another thread
        host = json.loads(json.dumps(host))
        saved = {
            "host": host,
            "arrays": digests(state),
            "scores": [list(x) for x in self._policy.scores.items()],
        }
        saved["checksum"] = _json_checksum(saved)
        try:
            if step in self._manager.all_steps():
                return
            args = ocp.args.Composite(
                state=ocp.args.PyTreeSave(state), host=ocp.args.JsonSave(saved)
            )
            self._in_flight, self._failed = step, None
            self._manager.save(step, args=args, force=True)
        except Exception as e:
            raise self._save_error(e, step) from e

    def score(self, step: int, value: float) -> None:
        """Notes the score of ``step``, higher being better; kept from the next save on."""
        self._policy.scores[step] = value

    def check(self) -> None:
        """Raises SaveError if the save in flight has failed by now; waits for nothing."""
        if self._in_flight is not None and (
            self._failed is not None or not self._manager.is_saving_in_progress()
        ):
            self.wait()
            self._in_flight = None

    def wait(self) -> None:
        """Waits for the save in flight. Raises SaveError if it failed."""
        try:
            # where a write fails on one process alone, Orbax waits ten minutes for the others
            # before it says so
            while jax.process_count() > 1 and self._manager.is_saving_in_progress():
                if self._failed is not None:
                    raise self._failed
                time.sleep(0.01)
            self._manager.wait_until_finished()
        except Exception as e:
            raise self._save_error(e, self._in_flight) from e

    def _noted_call(self, call: Callable[[], None]) -> Callable[[], None]:
        """A call that leaves the exception with which it ends in ``_failed``."""

        def noted() -> None:
            try:
                call()
            except Exception as e:
                self._failed = e
                raise

        return noted

    def _noted(
        self, save: Callable[..., Awaitable[list[Any] | None]]
    ) -> Callable[..., Awaitable[list[Any]]]:
        """An asynchronous save whose writes leave the exception with which they end in
        ``_failed``."""

        async def noted(*args: Any, **options: Any) -> list[Any]:
            return [_Noted(future, self) for future in await save(*args, **options) or ()]

        return noted

    def steps(self) -> list[int]:
        """Steps of the checkpoints, oldest first; one whose save is in flight counts until it
        fails."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Step of the kept checkpoint with the highest metric, as the last restore or save knows
        it."""
        scores = {
            step: score for step, score in self._policy.scores.items() if step in self.steps()
        }
        return max(scores, key=lambda step: (scores[step], step)) if scores else None

    def restore(
        self, like: TrainState, *, step: int | None = None, warn: Callable[[str], None] = print
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest good checkpoint, or exactly ``step``, onto the shardings of ``like``.

        Args:
          like: ShapeDtypeStructs with shardings; any mesh, not only the one that saved.
          warn: told in one line of each damaged checkpoint that is passed over.

        Returns:
          The state and the host data, or None if there is no checkpoint at all.

        Raises:
          CheckpointError: the checkpoint is of another model, or none is good.
        """
        steps = self.steps() if step is None else [step]
        if step is not None and step not in self.steps():
            raise CheckpointError(
                f"no checkpoint of step {step} in {self.directory}; there are {self.steps()}"
            )
        damaged = []
        for candidate in reversed(steps):
            try:
                state, host = self._restore(candidate, like)
            except _Damaged as e:
                if step is not None:
                    raise CheckpointError(
                        f"checkpoint of step {step} is damaged ({e}); there are {self.steps()}"
                    ) from e
                damaged.append(candidate)
                warn(f"checkpoint of step {candidate} is damaged ({e}); trying the one before")
                continue
            self._move_aside(damaged)
            return state, host
        if damaged:
            raise CheckpointError(
                f"no good checkpoint in {self.directory}: damaged are {damaged}; restore them from "
                "a copy, or start again with another --workdir"
            )
        return None

    def restore_part(
        self,
        choose: Callable[[dict[str, jax.ShapeDtypeStruct]], Any],
        *,
        warn: Callable[[str], None] = print,
    ) -> tuple[Any, int] | None:
        """Reads some arrays of the best checkpoint, or of the newest where none has a score, for
        another run to use.

        Args:
          choose: all arrays of a checkpoint by name (``params/dense_0/kernel``) -> those to read,
            as nested dicts of ShapeDtypeStructs with shardings.
          warn: told in one line of each damaged checkpoint that is passed over.

        Returns:
          The arrays and the step, or None if there is no checkpoint at all.

        Raises:
          CheckpointError: none is good.
        """
        newest_first = self.steps()[::-1]
        for step in newest_first:
            with contextlib.suppress(_Damaged):
                self._policy.scores = self._read_host(step)[2]
                break
        best = self.best_step()
        for step in [s for s in newest_first if s == best] + [s for s in newest_first if s != best]:
            try:
                _, arrays, _ = self._read_host(step)
                kinds = {
                    k: jax.ShapeDtypeStruct(a["shape"], jnp.dtype(a["dtype"]))
                    for k, a in arrays.items()
                }
                return self._read_arrays(step, choose(kinds), arrays, part=True), step
            except _Damaged as e:
                warn(f"checkpoint of step {step} is damaged ({e}); trying another")
        if newest_first:
            raise CheckpointError(
                f"no good checkpoint in {self.directory}: damaged are {newest_first}"
            )
        return None

    def close(self) -> None:
        """Waits for the save in flight and frees threads. Raises SaveError if it failed."""
        self.wait()
        try:
            self._manager.close()
        except Exception as e:  # of what is written beside it
            raise self._save_error(e, self._in_flight) from e

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        host, arrays, scores = self._read_host(step)
        _require_same_arrays(arrays, like, step)
        state = self._read_arrays(step, like, arrays)
        self._policy.scores = scores
        return state, host

    def _read_host(self, step: int) -> tuple[dict[str, Any], dict[str, Any], dict[int, float]]:
        """Host data, description and digest of each array, scores."""
        fault = ""
        try:
            args = ocp.args.Composite(host=ocp.args.JsonRestore())
            saved = self._manager.restore(step, args=args)["host"]
            checksum, arrays, host = saved.pop("checksum"), saved["arrays"], saved["host"]
            scores = dict(saved["scores"])
            if checksum != _json_checksum(saved):
                fault = "host data fails its checksum"
        except Exception as e:
            fault = f"host data unreadable: {files.one_line(e)}"
            _require_damage(e, step)
        _agree(fault)
        return host, arrays, scores

    def _read_arrays(
        self, step: int, like: Any, arrays: dict[str, Any], *, part: bool = False
    ) -> Any:
        """The arrays of ``like``, all of the checkpoint or a ``part``, verified."""
        fault = ""
        try:
            how = ocp.checkpoint_utils.construct_restore_args(like)
            args = ocp.args.Composite(
                state=ocp.args.PyTreeRestore(like, restore_args=how, partial_restore=part)
            )
            state = self._manager.restore(step, args=args)["state"]
        except Exception as e:
            fault = f"arrays unreadable: {files.one_line(e)}"
            _require_damage(e, step)
        _agree(fault)
        for name, array in digests(state).items():
            if array["digest"] != arrays[name]["digest"]:
                raise _Damaged(f"array {name} fails its digest")
        return state

    def _move_aside(self, steps: list[int]) -> None:
        if self.read_only or not steps:
            return
        if jax.process_index() == 0:
            aside = self.directory.parent / "damaged"
            aside.mkdir(exist_ok=True)
            for step in steps:
                target = aside / str(step)
                for n in range(1, 10_000):
                    if not target.exists():
                        break
                    target = aside / f"{step}-{n}"
                (self.directory / str(step)).rename(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are moved aside")
        self._manager.reload()

    def _save_error(self, error: Exception, step: int | None) -> SaveError:
        what = f"checkpoint of step {step}"
        try:
            self._manager.reload()
            good = self._manager.latest_step()
        except Exception:
            good = None
        kept = (
            f"the checkpoint of step {good} is kept"
            if good is not None
            else "there is no earlier checkpoint"
        )
        if full := files.disk_full(error):
            return SaveError(
                f"{full} while saving the {what} in {self.directory}; {kept}. "
                "Free some space and run the same command again: it goes on from there"
            )
        return SaveError(
            f"cannot save the {what} in {self.directory}: {files.cause(error)}; {kept}"
        )


@dataclass(frozen=True)
class _Noted:
    """A write of Orbax's in the background."""

    write: Any
    checkpoints: Checkpoints

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self.write.result(timeout)
        except Exception as e:
            self.checkpoints._failed = e
            raise

    def cancel(self) -> Any:
        return self.write.cancel()


def _agree(fault: str) -> None:
    """Raises _Damaged on every process if there is a fault on any: those that go on would wait for
    it forever."""
    anywhere = bool(fault)
    if jax.process_count() > 1:
        anywhere = bool(multihost_utils.process_allgather(np.asarray(anywhere)).any())
    if anywhere:
        raise _Damaged(fault or "unreadable on another process")


def _require_damage(error: Exception, step: int) -> None:
    """Lets errors pass that say nothing about the files."""
    passing = isinstance(
        error, PermissionError | MemoryError
    ) or "RESOURCE_EXHAUSTED: Out of memory" in str(error)
    if passing or (
        isinstance(error, OSError) and error.errno in (errno.ESTALE, errno.EMFILE, errno.ENFILE)
    ):
        raise CheckpointError(
            f"cannot read the checkpoint of step {step}: {files.one_line(error)}"
        ) from error


class _Damaged(Exception):
    """Why a checkpoint cannot be used."""


@dataclass
class _LatestAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the newest checkpoints and those with the highest scores.

    Orbax's own BestN reads a metrics file per checkpoint on start-up, and a damaged one would stop
    everything.
    """

    keep_last: int
    keep_best: int
    scores: dict[int, float] = field(default_factory=dict)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        steps = [c.step for c in checkpoints]
        scored = sorted((s for s in steps if s in self.scores), key=lambda s: (self.scores[s], s))
        kept = {
            *sorted(steps)[-self.keep_last :],
            *scored[len(scored) - min(len(scored), self.keep_best) :],
        }
        return [s in kept for s in steps]


def _require_same_arrays(arrays: dict[str, Any], like: TrainState, step: int) -> None:
    """Orbax would cast a dtype silently and complain of names at length."""
    expected = {
        path_name(p): (str(x.dtype), list(x.shape))
        for p, x in jax.tree_util.tree_leaves_with_path(like)
    }
    found = {name: (a["dtype"], a["shape"]) for name, a in arrays.items()}
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            saved = "{} {}".format(*found[name]) if name in found else "not there"
            wanted = "{} {}".format(*expected[name]) if name in expected else "without it"
            raise CheckpointError(
                f"checkpoint of step {step} is of another model or optimiser: {name} is {saved}, "
                f"expected {wanted}"
            )


def _json_checksum(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
