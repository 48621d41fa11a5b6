"""Saves that fail: each part of one ends soon, in one line, and holds no thread."""

import builtins
import contextlib
import errno
import os
import re
import resource
import shutil
import subprocess
import threading
import time

import pytest

from tests.test_checkpoint import equal, like, make_state
from train.checkpoint import CheckpointError, Checkpoints, SaveError
from train.launch import cli
from train.records import files

PARTS = {  # which call makes, writes, renames or removes what of step 2; keep_last is 1
    "directory": (os, "mkdir", r"/2\.orbax-checkpoint-tmp$"),
    "directory of an item": (os, "mkdir", r"/host\.orbax-checkpoint-tmp$"),
    "host data": (builtins, "open", r"/host\.orbax-checkpoint-tmp/metadata$"),
    "description of the arrays": (builtins, "open", r"/_METADATA$"),
    "description of the step": (builtins, "open", r"/_CHECKPOINT_METADATA$"),
    "mark of an item": (builtins, "open", r"/state\.orbax-checkpoint-tmp/commit_success.txt$"),
    "name of an item": (os, "rename", r"/state\.orbax-checkpoint-tmp$"),
    "mark of the step": (builtins, "open", r"/2\.orbax-checkpoint-tmp/commit_success.txt$"),
    "name of the step": (os, "rename", r"/2\.orbax-checkpoint-tmp$"),
    "the step before": (shutil, "rmtree", r"/1$"),
}
WORDS = {
    errno.ENOSPC: "disk full while saving the checkpoint of step 2",
    errno.EDQUOT: r"disk full \(the quota is used up\) while saving the checkpoint of step 2",
    errno.EIO: "cannot save the checkpoint of step 2 in .*: Input/output error: /",
    errno.EROFS: "cannot save the checkpoint of step 2 in .*: Read-only file system: /",
    errno.ESTALE: "cannot save the checkpoint of step 2 in .*: Stale file handle: /",
}


def break_call(patch, module, name, pattern, number):
    """Lets a function fail where its first argument fits; returns the calls that did."""
    original, met = getattr(module, name), []

    def broken(path, *args, **options):
        writes = name != "open" or "r" not in (args[0] if args else options.get("mode", "r"))
        if writes and isinstance(path, str | os.PathLike) and re.search(pattern, os.fspath(path)):
            met.append(os.fspath(path))
            raise OSError(number, os.strerror(number), os.fspath(path))
        return original(path, *args, **options)

    patch.setattr(module, name, broken)
    return met


def save_two(directory) -> tuple[Checkpoints, float]:
    """A good save, then one that fails; how long until that was said."""
    checkpoints = Checkpoints(directory, keep_last=1)
    checkpoints.save(make_state(1), {"position": 1})
    checkpoints.wait()
    start = time.monotonic()
    return checkpoints, start


@pytest.mark.parametrize("part", PARTS)
def test_whatever_part_of_a_save_fails_ends_soon(tmp_path, part):
    number = list(WORDS)[list(PARTS).index(part) % len(WORDS)]
    threads = set(threading.enumerate())
    checkpoints, start = save_two(tmp_path / "c")
    with pytest.MonkeyPatch.context() as patch:
        met = break_call(patch, *PARTS[part], number)
        with pytest.raises(SaveError, match=WORDS[number]) as caught:
            checkpoints.save(make_state(2), {"position": 2})
            checkpoints.wait()
        with contextlib.suppress(SaveError):  # it may say so again
            checkpoints.close()
    assert met and time.monotonic() - start < 10
    text, code = cli.explain(caught.value)
    assert code == 1 and "\n" not in text and len(text) < 500
    left = 2 if part == "the step before" else 1
    assert f"the checkpoint of step {left} is kept" in text
    until = time.monotonic() + 5
    while (
        held := [t for t in set(threading.enumerate()) - threads if not t.daemon]
    ) and time.monotonic() < until:
        time.sleep(0.05)
    # without work; they end with the process
    pools = ("ThreadPoolExecutor", "asyncio", "metadata_store")
    assert not [t for t in held if not t.name.startswith(pools)], held
    again = Checkpoints(tmp_path / "c")
    assert equal(again.restore(like(make_state(0)))[0], make_state(left))
    again.save(make_state(3), {})  # and what was left behind is in nobody's way
    again.close()
    assert again.steps()[-1] == 3


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path):
    """EFBIG from TensorStore's own writes; Python ignores the signal that would come with it."""
    checkpoints, start = save_two(tmp_path / "c")
    large = make_state(2, width=256)
    # all is compiled: jax keeps programs in files
    checkpoints.save(large.replace(step=large.step - 1), {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        with pytest.raises(
            SaveError,
            match=r"disk full \(ulimit -f limits the size of files\) while saving .* step 2",
        ):
            checkpoints.save(large, {})
            checkpoints.wait()
        with pytest.raises(OSError) as caught:
            files.write_atomically(tmp_path / "large", bytes(4000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert time.monotonic() - start < 10
    assert "ulimit -f" in cli.explain(caught.value)[0] and not (tmp_path / "large.part").exists()
    checkpoints.close()


def mounted(path, options):
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    return os.geteuid() == 0 and not subprocess.run(command, capture_output=True).returncode


@pytest.mark.parametrize("inodes", [9, 11, 17])
def test_no_inode_left(tmp_path, inodes, capfd):
    """At the step's directory, at an item's, at an array's; TensorStore's words and threads
    included."""
    mount = tmp_path / "small"
    mount.mkdir()
    if not mounted(mount, f"size=3m,nr_inodes={inodes}"):
        pytest.skip("needs root and mount for a small tmpfs")
    try:
        checkpoints = Checkpoints(mount / "checkpoints")
        start = time.monotonic()
        with pytest.raises(
            SaveError, match=r"disk full while saving the checkpoint of step \d.*kept|no earlier"
        ):
            for step in range(1, 4):
                checkpoints.save(make_state(step), {})
                checkpoints.wait()
        checkpoints.close()
        assert time.monotonic() - start < 10
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
    assert capfd.readouterr().err == ""


def test_read_only_in_the_middle_of_a_run(tmp_path):
    """The cause of what TensorStore and Orbax meet is told in the system's words."""
    mount = tmp_path / "small"
    mount.mkdir()
    if not mounted(mount, "size=3m"):
        pytest.skip("needs root and mount for a small tmpfs")
    try:
        checkpoints, start = save_two(mount / "checkpoints")
        subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
        with pytest.raises(SaveError, match="Read-only file system"):
            checkpoints.save(make_state(2), {})
            checkpoints.wait()
        checkpoints.close()
        assert time.monotonic() - start < 10
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.mark.parametrize("what", ["file", "link"])
def test_checkpoints_that_are_no_directory_are_refused(tmp_path, what):
    path = tmp_path / "checkpoints"
    path.write_text("") if what == "file" else path.symlink_to(tmp_path.parent)
    with pytest.raises(CheckpointError, match=f"checkpoints is a .*{what}, not a directory"):
        Checkpoints(path)
