"""A run's directory: what is refused, what a failed start leaves, and records that were damaged."""

import dataclasses
import errno
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import DataError
from input_pipeline.prepare import data_root
from jaxmodels.weights import WeightsError
from jaxmodels.weights import files as weights_files
from train import loop
from train.config import Config
from train.errors import WorkdirError
from train.launch import cli
from train.launch.workdir import DIRECTORIES, FILES, claimed, read_card, read_config
from train.records import figures, files
from train.records.writers import Writers, read_records

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "text", ["", "  ", "gs://bucket/x", "s3://b", "https://x/y", "~no-such-user/x", "a\0b"]
)
def test_paths_that_are_none_of_this_machine_are_refused(text):
    for refuse, error in (
        (files.given("--workdir"), WorkdirError),
        (data_root, DataError),
        (weights_files.local_path, WeightsError),
    ):
        with pytest.raises(error) as caught:
            refuse(text)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    with pytest.raises(WorkdirError, match="^--out" if text.strip() else "^--out is empty"):
        files.given("--out")(text)
    with pytest.raises(WorkdirError) as caught:
        files.user_path("gs://" + "x" * 5000, "--out")
    assert len(str(caught.value)) < 300


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        files.user_path("~/w", "--workdir")
        == tmp_path / "w"
        == data_root("~/w")
        == weights_files.local_path("~/w")
    )
    assert files.given_text("--raw_dir")("~root/x").endswith("/x") and "~" not in files.given_text(
        "--raw_dir"
    )("~root/x")
    assert files.user_path("a:b/c", "--workdir") == Path("a:b/c")


@pytest.mark.parametrize(
    "module",
    [
        "train.evaluate",
        "train.predict",
        "train.generate",
        "train.explain.command",
        "train.compress.command",
    ],
)
def test_an_empty_workdir_is_an_error_of_every_command(module):
    with pytest.raises(WorkdirError, match="--workdir is empty"):
        __import__(module, fromlist=["main"]).main(["--workdir="])


def put(path: Path, what: str, outside: Path) -> None:
    """Something that is neither a file nor a directory of the run's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "link":
        path.symlink_to(outside)
    elif what == "dangling":
        path.symlink_to(outside / "not there")
    elif path.name in FILES:
        path.mkdir()
    else:
        path.write_text("")


@pytest.mark.parametrize("name", [*FILES, *DIRECTORIES])
def test_what_is_no_file_or_leads_outside_is_refused_in_one_line(tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    for what in ("pipe", "link", "dangling", "other kind"):
        workdir = tmp_path / what / "w"
        put(workdir / name, what, outside)
        with (
            pytest.raises(WorkdirError, match=rf"{name} is .*, not a (file|directory)") as caught,
            claimed(workdir, Config()),
        ):
            pass
        text, code = cli.explain(caught.value)
        assert code == 2 and "\n" not in text and len(text) < 500
        assert [p.name for p in workdir.iterdir()] == [name], "no lock is left"
    assert not [*outside.iterdir()]


@pytest.mark.parametrize("what", ["pipe", "link", "other kind"])
def test_readers_of_a_workdir_refuse_them_too(tmp_path, what):
    for name, read in (("config.json", read_config), ("dataset.json", read_card)):
        put(tmp_path / what / name, what, tmp_path)
        with pytest.raises(WorkdirError, match=f"{name} is "):
            read(tmp_path / what)
    put(tmp_path / what / "metrics.jsonl", what, tmp_path)
    with pytest.raises(WorkdirError, match=r"metrics\.jsonl is "):
        read_records(tmp_path / what / "metrics.jsonl")


def test_a_workdir_may_itself_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "w").symlink_to(tmp_path / "disk")
    with claimed(tmp_path / "w", Config()) as started:
        started()
    assert (tmp_path / "disk" / "lock").is_file()


def test_a_refused_run_leaves_the_lock_of_the_first(tmp_path):
    with claimed(tmp_path / "w", Config()) as started:
        started()
        before = (tmp_path / "w" / "lock").read_bytes()
        with (
            pytest.raises(WorkdirError, match="in use by another run"),
            claimed(tmp_path / "w", Config()),
        ):
            pass
        assert before and (tmp_path / "w" / "lock").read_bytes() == before
    with claimed(tmp_path / "w", Config()) as started:
        started()
        assert (tmp_path / "w" / "lock").read_bytes() != before, "each run has a name of its own"


def test_a_failed_start_leaves_nothing_that_was_not_there(tiny, tmp_path):
    bad = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, name="digitz"))
    for there in ((), ("other.txt",), ("lock",)):
        workdir = tmp_path / f"a{len(there)}" / "b" / "-".join(there or ("w",))
        for name in there:
            workdir.mkdir(parents=True)
            (workdir / name).write_text("was here")
        with pytest.raises(DataError):
            loop.train(bad, workdir)
        assert (
            [p.name for p in workdir.iterdir()] == list(there)
            if there
            else not (tmp_path / "a0").exists()
        )
    # found when the checkpoints are open
    missing = dataclasses.replace(tiny, init_from=str(tmp_path / "none"))
    with pytest.raises(ValueError):
        loop.train(missing, tmp_path / "late" / "w")
    assert not (tmp_path / "late").exists()


def writers(workdir, start=100, warnings=None):
    warn = print if warnings is None else warnings.append
    return Writers(workdir, start=start, evaluated=start, steps=100, warn=warn)


def record(workdir, steps):
    found = writers(workdir, 0)
    for step in steps:
        found.record(step, "train", {"loss": 1 / step, "accuracy": 0.5}, {"step_ms": 1.0})
    found.close()
    return (workdir / "metrics.jsonl").read_bytes()


DAMAGES = {  # line 3 of 6 becomes these
    "flipped brace": lambda line: b"y" + line[1:],
    "not UTF-8": lambda line: line[:9] + b"\xff" + line[10:],
    "NUL bytes": lambda line: bytes(len(line)),
    "a bare number": lambda line: b"17",
    "a list": lambda line: b"[1, 2]",
    "an empty line": lambda line: b"",
    "deep": lambda line: b"[" * 100_000,
    "another digit": lambda line: line.replace(b"0.5", b"0.7"),
    "no step": lambda line: b'{"kind": "train", "loss": 1.0}',
    "a text for a number": lambda line: b'{"step": 3, "kind": "train", "loss": "1.0"}',
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_is_named_and_costs_no_other(tmp_path, damage):
    lines = record(tmp_path, range(1, 7)).splitlines(keepends=True)
    lines[2] = DAMAGES[damage](lines[2].rstrip(b"\n")) + b"\n"
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(lines))
    warnings: list[str] = []
    writers(tmp_path, warnings=warnings).close()
    assert path.read_bytes() == b"".join(lines[:2] + lines[3:])
    assert (tmp_path / "metrics.jsonl.damaged-1").read_bytes() == b"".join(lines)
    assert (
        len(warnings) == 1
        and "metrics.jsonl is damaged in line 3;" in warnings[0]
        and "damaged-1" in warnings[0]
    )
    writers(tmp_path, warnings=warnings).close()
    assert len(warnings) == 1 and not (tmp_path / "metrics.jsonl.damaged-2").exists(), (
        "it is said once"
    )


def test_what_a_kill_cuts_off_is_no_damage(tmp_path):
    whole = record(tmp_path, range(1, 7))
    path = tmp_path / "metrics.jsonl"
    for cut, kept in (
        (whole[:-1], 6),
        (whole[:-2], 5),
        (whole + b'{"step": 7, "ki', 6),
        (whole + b"12", 6),
        (b"", 0),
    ):
        path.write_bytes(cut)
        warnings: list[str] = []
        writers(tmp_path, warnings=warnings).close()
        assert not warnings and path.read_bytes() == b"".join(
            whole.splitlines(keepends=True)[:kept]
        )
    assert not [*tmp_path.glob("*.damaged-*")]


def test_records_of_before_have_no_checksums_and_stay(tmp_path):
    whole = record(tmp_path, range(1, 7))
    timings = [json.loads(x) for x in (tmp_path / "timings.jsonl").read_text().splitlines()]
    (tmp_path / "timings.jsonl").write_text(
        "".join(json.dumps({k: v for k, v in t.items() if k != "crc32"}) + "\n" for t in timings)
    )
    writers(tmp_path, 4).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(
        whole.splitlines(keepends=True)[:4]
    )
    (tmp_path / "timings.jsonl").unlink()
    writers(tmp_path, 3).close()
    assert [r["step"] for r in read_records(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_second_damage_is_kept_beside_the_first(tmp_path):
    record(tmp_path, range(1, 4))
    path = tmp_path / "metrics.jsonl"
    for n in (1, 2):
        path.write_bytes(b"#" + path.read_bytes()[1:])
        damaged = path.read_bytes()
        writers(tmp_path, warnings=[]).close()
        assert (tmp_path / f"metrics.jsonl.damaged-{n}").read_bytes() == damaged


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_mode_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.write_atomically(tmp_path / "a.json", "{}")
        figures.write_png(tmp_path / "b.png", np.zeros((4, 4, 3), np.uint8))
        figures.plot_curves([{"step": 1, "kind": "train", "loss": 1.0}], tmp_path / "c.png", {})
        weights_files.write_tensors(tmp_path / "d.safetensors", {"a": np.zeros(3, np.float32)})
        record(tmp_path, [1])
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir() if p.is_file()}
    assert len(modes) == 6 and set(modes.values()) == {0o666 & ~umask}, modes


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    files.write_atomically(tmp_path / "a", "old")

    def full(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError) as caught:
        files.write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a"]
    text, code = cli.explain(caught.value)
    assert code == 1 and "Input/output error" in text and "\n" not in text


@pytest.mark.parametrize(
    "number", [errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOSPC, errno.EFBIG]
)
def test_errors_of_the_file_system_are_one_line_with_the_cause(number):
    for error in (
        OSError(number, os.strerror(number)),
        OSError(number, os.strerror(number), "/w/summary.json"),
    ):
        text, code = cli.explain(error)
        assert (
            code == 1
            and "\n" not in text
            and ("/w/summary.json" in text) == (error.filename is not None)
        )
        full = number in (errno.ENOSPC, errno.EFBIG)
        assert ("disk full" in text) == full and (full or os.strerror(number) in text)
    assert (
        cli.explain(OSError("socket")) is None
        and cli.explain(ConnectionResetError(104, "reset")) is None
    )


def test_libtpu_is_quiet_where_there_is_no_tpu():
    """It would say what it misses as soon as jax looks for devices."""
    pytest.importorskip("libtpu")
    program = "import jax\nfrom train.launch import cli\ncli.run(lambda: print(jax.default_backend()) or 0)"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("TPU_", "JAX_PLATFORMS"))}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "cpu\n" and done.stderr == ""


def test_a_named_pipe_does_not_hold_up_a_write(tmp_path):
    os.mkfifo(tmp_path / "x.json.part")
    start = time.monotonic()
    with pytest.raises(WorkdirError, match=r"x\.json\.part is a pipe"):
        files.write_atomically(tmp_path / "x.json", "{}")
    assert time.monotonic() - start < 5


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WorkdirError, match="pipe is a pipe, not a file"):
        files.write_atomically(tmp_path / "pipe", "text")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
