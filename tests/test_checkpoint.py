"""Checkpoints: exact, digested, kept by rule, and damage noticed."""

import json
import os
import random
import subprocess
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.chaos import flip_bit
from train.checkpoint import CheckpointError, Checkpoints
from train.records.digests import digest
from train.records.files import is_disk_full
from train.state import TrainState


def make_state(step, *, width=16, dtype=jnp.float32) -> TrainState:
    params = {"dense": {"kernel": jax.random.normal(jax.random.key(step), (64, width), dtype)}}
    return TrainState(
        step=jnp.int32(step),
        params=params,
        model_state={},
        opt_state=(jnp.float32(step),),
        ema_params=None,
        finite=jnp.ones((), bool),
    )


def like(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def equal(a, b):
    return jax.tree.all(
        jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)) and x.dtype == y.dtype, a, b)
    )


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=3)
    for step in (1, 2, 3):
        checkpoints.save(make_state(step), {"position": step, "x": 0.1})
    checkpoints.close()
    return tmp_path / "checkpoints"


def test_round_trip_is_exact(saved):
    checkpoints = Checkpoints(saved)
    state, host = checkpoints.restore(like(make_state(0)))
    assert equal(state, make_state(3)) and host == {"position": 3, "x": 0.1}
    state, host = checkpoints.restore(like(make_state(0)), step=2)
    assert equal(state, make_state(2)) and host["position"] == 2
    flip_bit(saved / "2", random.Random(0))
    with pytest.raises(CheckpointError, match=r"step 2 is damaged .* \[1, 2, 3\]"):
        checkpoints.restore(like(make_state(0)), step=2)
    with pytest.raises(CheckpointError, match=r"step 7 .* \[1, 2, 3\]"):
        checkpoints.restore(like(make_state(0)), step=7)
    checkpoints.close()


def test_what_is_saved_is_what_was_there_when_save_was_called(tmp_path):
    """Orbax writes the host data in another thread, later."""
    for attempt in range(4):
        host = {"window": {"loss": [1.0, 2.0]}, "position": 0}
        checkpoints = Checkpoints(tmp_path / str(attempt))
        checkpoints.save(make_state(1), host)
        host["window"]["loss"] = [3.0, 4.0]
        host["position"] = 1
        checkpoints.close()
        again = Checkpoints(tmp_path / str(attempt))
        assert again.restore(like(make_state(0)))[1] == {
            "window": {"loss": [1.0, 2.0]},
            "position": 0,
        }
        again.close()


def test_nothing_saved_is_not_an_error(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.restore(like(make_state(0))) is None
    checkpoints.close()


def test_keeps_the_last_and_the_best_also_after_a_restart(tmp_path):
    for steps in (range(1, 5), range(5, 9)):
        checkpoints = Checkpoints(tmp_path / "c", keep_last=2, keep_best=1)
        checkpoints.restore(like(make_state(0)))
        for step in steps:
            if step in (2, 3, 6):
                checkpoints.score(step, {2: 0.9, 3: 0.5, 6: 0.7}[step])
            checkpoints.save(make_state(step), {})
            checkpoints.wait()
        assert checkpoints.best_step() == 2
        checkpoints.close()
    assert checkpoints.steps() == [2, 7, 8]


@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_, jnp.float16]
)
def test_digest_sees_every_single_bit(dtype):
    rng = np.random.default_rng(0)
    x = np.asarray(
        jnp.asarray(
            rng.integers(0, 2, (3, 5)) if dtype == jnp.bool_ else rng.normal(size=(3, 5)) * 50,
            dtype,
        )
    )
    one = int(digest(jnp.asarray(x)))
    assert one == int(digest(jnp.asarray(x.copy())))
    raw = x.view(np.uint8).ravel()
    for bit in range(8 * raw.size if dtype != jnp.bool_ else 0):
        flipped = raw.copy()
        flipped[bit // 8] ^= 1 << (bit % 8)
        assert int(digest(jnp.asarray(flipped.view(x.dtype).reshape(x.shape)))) != one
    if dtype == jnp.bool_:
        for i in np.ndindex(x.shape):
            y = x.copy()
            y[i] = not y[i]
            assert int(digest(jnp.asarray(y))) != one


def test_digest_sees_order_and_float64(x64):
    x = jnp.arange(12.0, dtype=jnp.float64)
    assert x.dtype == jnp.float64
    assert int(digest(x)) != int(digest(x[::-1]))
    assert int(digest(x)) != int(digest(x.at[5].set(np.nextafter(5.0, 6.0))))
    assert int(digest(jnp.zeros(3))) == int(digest(jnp.zeros(4))) == 0, (
        "shapes are compared beside the digest"
    )


def test_damage_is_named_moved_aside_and_passed_over(saved):
    where = flip_bit(saved / "3", random.Random(0))
    warnings = []
    checkpoints = Checkpoints(saved)
    state, host = checkpoints.restore(like(make_state(0)), warn=warnings.append)
    assert equal(state, make_state(2)) and host["position"] == 2
    assert len(warnings) == 1 and "step 3 is damaged" in warnings[0] and "\n" not in warnings[0], (
        where
    )
    assert (saved.parent / "damaged" / "3").is_dir() and checkpoints.steps() == [1, 2]
    checkpoints.save(make_state(3), {"position": 3})  # the same step can be saved again
    checkpoints.wait()
    assert equal(checkpoints.restore(like(make_state(0)))[0], make_state(3))
    checkpoints.close()


@pytest.mark.parametrize("file", ["state", "host", "truncated", "removed", "checksum"])
def test_every_kind_of_damage_falls_back(saved, file):
    newest = saved / "3"
    files = newest.glob("host/metadata" if file in ("host", "checksum") else "state/*/[0-9]*")
    largest = max(files, key=lambda p: p.stat().st_size)
    if file == "removed":
        largest.unlink()
    elif file == "truncated":
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    elif file == "checksum":
        value = json.loads(largest.read_text())
        value["host"]["position"] = 4
        largest.write_text(json.dumps(value))
    else:
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 0x80
        largest.write_bytes(bytes(data))
    warnings = []
    checkpoints = Checkpoints(saved)
    state, _ = checkpoints.restore(like(make_state(0)), warn=warnings.append)
    checkpoints.close()
    assert equal(state, make_state(2)) and len(warnings) == 1 and len(warnings[0]) < 400


def test_read_only_touches_nothing(saved):
    flip_bit(saved / "3", random.Random(1))
    before = sorted(p for p in saved.parent.rglob("*"))
    checkpoints = Checkpoints(saved, read_only=True)
    state, _ = checkpoints.restore(like(make_state(0)), warn=lambda text: None)
    checkpoints.close()
    assert equal(state, make_state(2)) and sorted(p for p in saved.parent.rglob("*")) == before


def test_all_damaged_is_an_error_not_a_fresh_start(saved):
    for step in (1, 2, 3):
        flip_bit(saved / str(step), random.Random(step))
    checkpoints = Checkpoints(saved)
    with pytest.raises(CheckpointError, match=r"no good checkpoint .* \[3, 2, 1\]"):
        checkpoints.restore(like(make_state(0)), warn=lambda text: None)
    checkpoints.close()
    assert checkpoints.steps() == [1, 2, 3]


@pytest.mark.parametrize(
    ("width", "dtype", "words"), [(17, jnp.float32, "64, 17"), (16, jnp.bfloat16, "bfloat16")]
)
def test_another_model_is_refused_not_cast(saved, width, dtype, words):
    checkpoints = Checkpoints(saved)
    with pytest.raises(CheckpointError, match=f"params/dense/kernel.*{words}"):
        checkpoints.restore(like(make_state(0, width=width, dtype=dtype)))
    checkpoints.close()


def test_disk_full_is_recognised_through_causes():
    error = RuntimeError("save failed")
    error.__cause__ = ValueError("RESOURCE_EXHAUSTED: write: No space left on device")
    assert (
        is_disk_full(error)
        and is_disk_full(OSError(28, "x"))
        and not is_disk_full(RuntimeError("other"))
    )


def test_a_write_that_fails_on_one_process_alone_is_told_at_once(tmp_path, monkeypatch):
    """And not when the other processes, which wait for this one, have given up."""
    given_up, others = [], threading.Event()

    def full(timeout):
        raise OSError(28, "No space left on device")

    async def save(*args, **options):
        return [SimpleNamespace(result=full)]

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "async_save", save)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    progress = checkpoints._manager._save_progress_tracker
    begin = progress.set
    monkeypatch.setattr(
        progress, "set", lambda on: begin(on) if on else given_up.append(others.wait(20))
    )
    checkpoints.save(make_state(1), {})
    with monkeypatch.context() as patch:
        patch.setattr("train.checkpoint.jax", SimpleNamespace(process_count=lambda: 2))
        with pytest.raises(
            CheckpointError, match=r"disk full while saving the checkpoint of step 1"
        ):
            checkpoints.wait()
    assert not given_up
    others.set()


def test_disk_full_during_a_save_keeps_the_checkpoint_before(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs root and mount for a small tmpfs")
    try:
        checkpoints = Checkpoints(mount / "checkpoints", keep_last=9)
        checkpoints.save(make_state(1, width=4096), {})  # about 1 MB each
        checkpoints.wait()
        with pytest.raises(
            CheckpointError,
            match=r"disk full.* the checkpoint of step \d is kept.* goes on from there",
        ):
            for step in range(2, 9):
                checkpoints.save(make_state(step, width=4096), {})
                checkpoints.wait()
        checkpoints._manager.close()
        again = Checkpoints(mount / "checkpoints")
        kept = again.steps()[-1]
        assert equal(
            again.restore(like(make_state(0, width=4096)))[0], make_state(kept, width=4096)
        )
        again.close()
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
