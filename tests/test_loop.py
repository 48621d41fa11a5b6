"""Whole runs: exact resume, signals, foreign workdirs, NaN, and what is left in the workdir."""

import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from input_pipeline import DataError
from tests.chaos import flip_bit
from tests.conftest import drawing, make_tiny
from tests.flags import FAST_COMPILATION
from train import batches, compiling, evaluate, loop, predict, setup
from train import config as config_lib
from train.checkpoint import Checkpoints
from train.errors import NonFiniteError
from train.launch.workdir import WorkdirError, read_card
from train.loop import train
from train.records import opening

ROOT = Path(__file__).parent.parent


def final_state(workdir):
    run = setup.build(opening.read_config(workdir))
    return jax.device_get(opening.restore(run, workdir))


def assert_same_run(a: Path, b: Path):
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    one, other = final_state(a), final_state(b)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)


def stopped_and_resumed(config: config_lib.Config, workdir: Path, monkeypatch, step: int):
    """The run, interrupted once at a step."""

    def stop(self, now):
        self.asked, self.name = self.asked or now == step, "SIGTERM"
        return self.asked

    with monkeypatch.context() as patch:
        patch.setattr(loop._Stop, "reached", stop)
        assert loop.train(config, workdir) is None
    loop.train(config, workdir)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """A finished run of the embedded data set with everything switched on, shared by the tests that
    only look."""
    workdir = tmp_path_factory.mktemp("finished")
    with drawing():
        summary = train(full_config(data_dir), workdir)
    return workdir, summary


def full_config(data_dir):
    return config_lib.Config(
        model="mlp",
        model_fields={"hidden_sizes": (128,), "dropout_rate": 0.1},
        data=config_lib.DataConfig(data_dir=data_dir, crop_padding=1, erasing=0.1, mixup=0.1),
        optim=config_lib.OptimConfig(
            learning_rate=1e-2, warmup_steps=5, weight_decay=1e-2, ema_decay=0.9, clip_norm=1.0
        ),
        checkpoint=config_lib.CheckpointConfig(every=50),
        steps=200,
        batch_size=64,
        accumulate=2,
        eval_every=75,
        eval_batch_size=128,
        log_every=30,
        options={"label_smoothing": 0.05},
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_dir):
    """Workdir of ``tiny`` run to its end without any disturbance."""
    workdir = tmp_path_factory.mktemp("whole")
    train(make_tiny(data_dir), workdir)
    return workdir


def test_a_run_learns_and_leaves_everything(finished):
    workdir, summary = finished
    assert summary == json.loads((workdir / "summary.json").read_text())
    assert {"train", "test", "steps", "seconds", "examples_per_second"} <= set(summary)
    assert summary["test"]["accuracy"] > 0.9 and summary["train"]["accuracy"] > 0.9
    assert summary["train"]["examples"] == 1438 and summary["test"]["examples"] == 359
    assert summary["steps"] == 200 and summary["seconds"] > 0 and summary["examples_per_second"] > 0
    confusion = np.asarray(summary["test"]["confusion"])
    assert confusion.sum() == 359
    assert np.trace(confusion) / 359 == pytest.approx(summary["test"]["accuracy"], rel=1e-6)
    assert [c["support"] for c in summary["test"]["per_class"].values()] == confusion.sum(
        1
    ).tolist()
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = {kind: [r["step"] for r in records if r["kind"] == kind] for kind in ("train", "eval")}
    assert steps == {"train": [30, 60, 90, 120, 150, 180, 200], "eval": [75, 150, 200]}
    assert {"loss", "accuracy", "top5", "grad_norm", "learning_rate"} <= set(records[0])
    assert config_lib.from_json((workdir / "config.json").read_text()) is not None
    for name in ("curves.png", "confusion.png"):
        with Image.open(workdir / name) as image:
            assert min(image.size) > 200 and len(np.unique(np.asarray(image.convert("L")))) > 20
    timings = [json.loads(line) for line in (workdir / "timings.jsonl").read_text().splitlines()]
    assert {"examples_per_second", "step_ms", "data_wait_percent"} <= set(timings[0])
    saved = [t["step"] for t in timings if "checkpoint_percent" in t]
    assert saved == [60, 90, 120, 180]  # what was saved at 50, 75, 100 and 150


def test_tensorboard_events_hold_the_records(finished):
    workdir, _ = finished
    scalars = {}
    for path in (workdir / "tensorboard").glob("events*"):
        data, at = path.read_bytes(), 0
        while at < len(data):  # TFRecord: length, its checksum, the event, its checksum
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                scalars[event.step, value.tag] = value.simple_value
    for record in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()):
        tag = f"{record['kind']}/loss"
        assert scalars[record["step"], tag] == pytest.approx(record["loss"], rel=1e-6)


def test_evaluate_reproduces_the_summary(finished, capsys):
    workdir, summary = finished
    assert evaluate.main([f"--workdir={workdir}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == summary["test"]
    assert evaluate.main([f"--workdir={workdir}", "--split=train", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {k: found[k] for k in summary["train"]} == summary["train"]
    assert evaluate.main([f"--workdir={workdir}", "--step=best"]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_predict_labels_files_and_folders_and_names_broken_ones(
    finished, tmp_path, capsys, data_dir
):
    workdir, _ = finished
    run = setup.build(opening.read_config(workdir))
    batch = next(iter(batches.loader(run, "test", train=False)))
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for i in range(20):
        Image.fromarray(batch["image"][i, :, :, 0]).save(folder / f"{i:02}.png")
    large = (
        Image.fromarray(batch["image"][0, :, :, 0])
        .convert("RGBA")
        .resize((80, 80), Image.Resampling.NEAREST)
    )
    large.save(folder / "sub" / "large.png")
    (folder / "broken.png").write_bytes((folder / "00.png").read_bytes()[:40])
    (folder / "notes.txt").write_text("not an image")
    code = predict.main(
        [f"--workdir={workdir}", "--batch_size=8", "--json", str(folder), str(tmp_path / "no.png")]
    )
    captured = capsys.readouterr()
    found = {
        Path(r["file"]).name: r["labels"][0] for r in map(json.loads, captured.out.splitlines())
    }
    assert code == 1 and len(found) == 21
    right = [found[f"{i:02}.png"]["label"] == str(batch["label"][i]) for i in range(20)]
    assert np.mean(right) >= 0.8
    assert found["large.png"]["label"] == found["00.png"]["label"]
    assert found["large.png"]["probability"] == pytest.approx(
        found["00.png"]["probability"], abs=0.1
    )
    assert (
        "broken.png" in captured.err
        and "no.png: no such file" in captured.err
        and "2 of 23" in captured.err
    )
    assert "Traceback" not in captured.err
    logits = run.model.apply(
        {"params": opening.restore(run, workdir).eval_params},
        jnp.asarray((batch["image"][:1] / 255.0 - 0.5) / 0.5, jnp.float32),
        train=False,
    )
    assert found["00.png"]["probability"] == pytest.approx(
        float(jax.nn.softmax(logits).max()), rel=1e-4
    )


def test_two_runs_are_bit_equal_and_another_seed_is_not(tiny, whole, tmp_path):
    train(tiny, tmp_path / "same")
    assert_same_run(whole, tmp_path / "same")
    train(dataclasses.replace(tiny, seed=1), tmp_path / "other")
    assert records(whole)[0]["loss"] != records(tmp_path / "other")[0]["loss"]


@pytest.mark.parametrize("stop_at", [1, 5, 8, 12, 16])
def test_stopping_at_any_step_and_resuming_changes_nothing(
    tiny, whole, tmp_path, monkeypatch, stop_at
):
    """8 is an evaluation, 12 a checkpoint and a log line, 16 the end; 5 lies inside a log
    window."""

    def reached(self, step):
        self.asked, self.name = self.asked or step == stop_at, "SIGTERM"
        return self.asked

    monkeypatch.setattr(loop._Stop, "reached", reached)
    assert train(tiny, tmp_path / "parts") is None
    assert not (tmp_path / "parts" / "summary.json").exists()
    monkeypatch.undo()
    summary = train(tiny, tmp_path / "parts")
    assert_same_run(whole, tmp_path / "parts")
    expected = json.loads((whole / "summary.json").read_text())
    assert summary["test"] == expected["test"] and summary["train"] == expected["train"]


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("cut", "number"), [(8, signal.SIGHUP), (16, signal.SIGUSR1)])
def test_a_signal_during_an_evaluation_loses_nothing(
    tiny, whole, tmp_path, monkeypatch, cut, number
):
    """The evaluation after step 8 (or the last) is cut short, later made good, and killed before
    the next save."""
    original = loop.evaluate

    def cut_short(run, step, state, split, *, stopping):
        if int(state.step) == cut:
            os.kill(os.getpid(), number)
        return original(run, step, state, split, stopping=stopping)

    monkeypatch.setattr(loop, "evaluate", cut_short)
    assert train(tiny, tmp_path / "parts") is None
    monkeypatch.undo()
    assert [r["step"] for r in records(tmp_path / "parts") if r["kind"] == "eval"] == (
        [] if cut == 8 else [8]
    )
    made_good = loop._Loop._evaluate

    def killed_after(self, state, step):
        made_good(self, state, step)
        raise RuntimeError("killed")

    monkeypatch.setattr(loop._Loop, "_evaluate", killed_after)
    with pytest.raises(RuntimeError, match="killed"):
        train(tiny, tmp_path / "parts")
    monkeypatch.undo()
    train(tiny, tmp_path / "parts")
    assert [r["step"] for r in records(tmp_path / "parts") if r["kind"] == "eval"] == [8, 16]
    assert_same_run(whole, tmp_path / "parts")


def test_several_steps_in_one_call_are_the_steps_of_several_calls(
    tiny, whole, tmp_path, monkeypatch
):
    several = dataclasses.replace(tiny, steps_per_execution=2)
    train(several, tmp_path / "several")
    one, other = records(whole), records(tmp_path / "several")
    assert [(r["step"], r["kind"]) for r in one] == [(r["step"], r["kind"]) for r in other]
    np.testing.assert_allclose([r["loss"] for r in other], [r["loss"] for r in one], rtol=1e-5)
    for x, y in zip(
        *(jax.tree.leaves(final_state(w)) for w in (whole, tmp_path / "several")), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    stopped_and_resumed(several, tmp_path / "parts", monkeypatch, 10)
    assert_same_run(tmp_path / "several", tmp_path / "parts")


def test_resuming_on_another_mesh_goes_on_with_the_same_batches(tiny, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(
        loop._Stop, "reached", lambda self, step: setattr(self, "asked", step == 9) or step == 9
    )
    train(tiny, tmp_path / "parts")
    monkeypatch.undo()
    train(dataclasses.replace(tiny, mesh=config_lib.MeshConfig(data=2, fsdp=4)), tmp_path / "parts")
    losses = [[r["loss"] for r in records(workdir)] for workdir in (whole, tmp_path / "parts")]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_finished_run_is_not_trained_again(tiny, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "w")
    first = json.loads((whole / "summary.json").read_text())
    before = (tmp_path / "w" / "metrics.jsonl").read_bytes()
    again = train(tiny, tmp_path / "w")
    assert (
        again["test"] == first["test"] and (tmp_path / "w" / "metrics.jsonl").read_bytes() == before
    )


def test_a_foreign_workdir_is_refused_with_the_fields(tiny, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "w")
    other = dataclasses.replace(
        tiny, seed=5, optim=dataclasses.replace(tiny.optim, learning_rate=0.5)
    )
    with pytest.raises(
        WorkdirError, match=r"config\.optim\.learning_rate: 0\.003 -> 0\.5; config\.seed: 0 -> 5"
    ):
        train(other, tmp_path / "w")
    allowed = dataclasses.replace(
        tiny, mesh=config_lib.MeshConfig(fsdp=2), checkpoint=config_lib.CheckpointConfig(every=3)
    )
    assert train(allowed, tmp_path / "w") is not None


def test_a_mistake_found_late_claims_nothing(tiny, tmp_path):
    with pytest.raises(DataError, match="did you mean digits"):
        train(
            dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, name="digitz")),
            tmp_path / "w",
        )
    with pytest.raises(DataError, match=r"no split 'valid'"):
        train(
            dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, eval_split="valid")),
            tmp_path / "w",
        )
    assert train(tiny, tmp_path / "w") is not None


@pytest.fixture(scope="module")
def begun(tmp_path_factory, data_dir):
    """A workdir of four steps, for tests that damage a copy of it."""
    workdir = tmp_path_factory.mktemp("begun") / "w"
    train(dataclasses.replace(make_tiny(data_dir), steps=4), workdir)
    return workdir


@pytest.mark.parametrize("text", ['{"model"', "[]", '{"optim": 1}', '{"stepz": 3}', ""])
def test_a_damaged_config_is_named(tiny, begun, tmp_path, text):
    shutil.copytree(begun, tmp_path / "w")
    (tmp_path / "w" / "config.json").write_text(text)
    with pytest.raises(WorkdirError, match=r"config\.json is damaged"):
        train(tiny, tmp_path / "w")
    (tmp_path / "w" / "dataset.json").write_text(text)
    with pytest.raises(WorkdirError, match=r"dataset\.json is damaged"):
        read_card(tmp_path / "w")


def test_unusable_workdirs(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="not writable"):
        train(tiny, tmp_path / "file" / "w")
    with loop.claimed(tmp_path / "w", tiny), pytest.raises(WorkdirError, match="in use"):
        train(tiny, tmp_path / "w")
    (tmp_path / "x" / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(WorkdirError, match=r"no config\.json"):
        train(tiny, tmp_path / "x")


@pytest.mark.parametrize("bad_step", [1, 10])
def test_nan_stops_the_run_that_takes_several_steps_at_once(tiny, tmp_path, monkeypatch, bad_step):
    """The first or the second of the two steps of a call; its batch has an image that is not
    finite."""
    config = dataclasses.replace(tiny, steps_per_execution=2)
    original, calls = batches.loader, iter(range(1, 17))

    def poisoned(self, split, *, train):
        loader = original(self, split, train=train)
        if train:
            draw = type(loader).__next__

            class Poisoned(type(loader)):
                def __next__(self):
                    batch = draw(self)
                    return batch | {
                        "weight": batch["weight"]
                        * np.float32(np.nan if next(calls) == bad_step else 1)
                    }

            loader.__class__ = Poisoned
        return loader

    monkeypatch.setattr(batches, "loader", poisoned)
    with pytest.raises(NonFiniteError, match=f"step {bad_step} "):
        train(config, tmp_path / "w")
    monkeypatch.undo()
    with np.load(tmp_path / "w" / "nonfinite" / f"step_{bad_step}.npz") as saved:
        loader = batches.loader(setup.build(config), "train", train=True)
        expected = [next(loader) for _ in range(bad_step)][-1]
        np.testing.assert_array_equal(saved["image"], expected["image"])
    assert train(config, tmp_path / "w") is not None


@pytest.mark.parametrize("bad_step", [1, 9])
def test_nan_stops_the_run_and_names_the_tensor(tiny, tmp_path, monkeypatch, bad_step):
    """Dense layer 0 gets infinite weights just before a step; its output is the first tensor that
    is not finite."""
    original = compiling.compile_train_step

    def broken(self):
        step, seconds, flops = original(self)

        def poisoned(state, batch):
            if int(state.step) == bad_step - 1:
                kernel = state.params["dense_0"]["kernel"]
                params = state.params | {
                    "dense_0": state.params["dense_0"] | {"kernel": kernel.at[3, 3].set(3e38)}
                }
                state = state.replace(
                    params=jax.device_put(params, jax.tree.map(lambda x: x.sharding, state.params))
                )
            return step(state, batch)

        return poisoned, seconds, flops

    monkeypatch.setattr(compiling, "compile_train_step", broken)
    with pytest.raises(NonFiniteError) as e:
        train(tiny, tmp_path / "w")
    message = str(e.value)
    assert f"step {bad_step} " in message and "\n" not in message
    assert (
        "first non-finite tensor: outputs/" in message or "first non-finite tensor: loss" in message
    ), message
    assert ("step 8 is kept" if bad_step == 9 else "no checkpoint yet") in message
    report = json.loads((tmp_path / "w" / "nonfinite" / f"step_{bad_step}.json").read_text())
    assert report["first_nonfinite"] in message
    run = setup.build(tiny)
    with np.load(tmp_path / "w" / "nonfinite" / f"step_{bad_step}.npz") as saved:
        loader = batches.loader(run, "train", train=True)
        expected = [next(loader) for _ in range(bad_step)][-1]
        np.testing.assert_array_equal(saved["image"], expected["image"])
    monkeypatch.undo()
    assert train(tiny, tmp_path / "w") is not None, "the last good checkpoint is untouched"


def test_damaged_checkpoint_is_passed_over_and_the_run_ends_the_same(
    tiny, whole, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        loop._Stop, "reached", lambda self, step: setattr(self, "asked", step == 13) or step == 13
    )
    train(tiny, tmp_path / "parts")
    monkeypatch.undo()
    flip_bit(tmp_path / "parts" / "checkpoints" / "13", random.Random(0))
    train(tiny, tmp_path / "parts")
    assert "step 13 is damaged" in capsys.readouterr().err
    assert_same_run(whole, tmp_path / "parts")


@pytest.fixture(scope="module")
def small_config(tmp_path_factory):
    """A run that would take minutes, with log lines after seconds."""
    path = tmp_path_factory.mktemp("config") / "small.py"
    path.write_text(
        "from train.config import *\n"
        "def get_config():\n"
        "    return Config(model='mlp', steps=20000, log_every=50, eval_every=5000)\n"
    )
    return path


def command_line(config, workdir, data_dir, *flags, processes=None):
    command = [sys.executable, "-m", "train", f"--config={config}", f"--workdir={workdir}"]
    env = os.environ | {"XLA_FLAGS": FAST_COMPILATION, "JAX_PLATFORMS": "cpu"} | (processes or {})
    flags = [f"--config.data.data_dir={data_dir}", *flags]
    return subprocess.Popen(
        command + flags,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, lines: int):
    for _ in range(1200):
        if path.exists() and len(path.read_text().splitlines()) >= lines:
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} did not get {lines} lines")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0)])
def test_signals_save_and_exit_0(small_config, tmp_path, data_dir, number, code):
    """And compiled programs are kept where nobody has named a place for them."""
    env = {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    process = command_line(small_config, tmp_path / "w", data_dir, processes=env)
    wait_for(tmp_path / "w" / "metrics.jsonl", 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code and err == ""
    stopped = int(out.split(f"stopped by {number.name} after step ")[1].split(";")[0])
    checkpoints = Checkpoints(tmp_path / "w" / "checkpoints", read_only=True)
    assert checkpoints.steps()[-1] == stopped < 20000
    checkpoints.close()
    assert [*(tmp_path / "cache" / "jaxmodels").glob("*/jit_train_step-*")]


def test_signals_that_ask_to_stop(monkeypatch):
    asks = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
    before = {s: signal.getsignal(s) for s in asks}
    with loop._stop_signal() as stop:
        assert all(signal.getsignal(s) == stop.ask for s in asks)
    assert {s: signal.getsignal(s) for s in asks} == before
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with loop._stop_signal() as stop:
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, "nohup stays what it is"
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked
    finally:
        signal.signal(signal.SIGHUP, previous)


PRINTING = """
import contextlib, os, sys
from train.launch import console
console.outlive()
file = open(sys.argv[1], "w")
for stream in (sys.stdout, sys.stderr):
    for i in range(3):
        print("x" * 70_000, file=stream, flush=True)
with contextlib.suppress(OSError):
    os.write(1, b"of a library")
file.write(f"went on {file.fileno() > 2}")
"""


@pytest.mark.parametrize("redirections", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full", ">&-", "2>&-"])
def test_output_that_is_closed_or_full_stops_nothing(tmp_path, redirections):
    command = f'exec "$0" -c "$1" "$2" {redirections}'
    args = ["sh", "-c", command, sys.executable, PRINTING, str(tmp_path / "file")]
    assert subprocess.run(args, cwd=ROOT, capture_output=True).returncode == 0
    assert (tmp_path / "file").read_text() == "went on True"


def test_output_whose_reader_has_gone_stops_nothing(tmp_path):
    read, write = os.pipe()
    os.close(read)
    args = [sys.executable, "-c", PRINTING, str(tmp_path / "file")]
    assert subprocess.run(args, cwd=ROOT, stdout=write, stderr=write).returncode == 0
    os.close(write)
    assert (tmp_path / "file").read_text() == "went on True"


def test_a_run_without_any_output_is_the_same_run(small_config, tmp_path, data_dir):
    """Its files get no standard descriptor, and nothing that is printed."""
    flags = ["--config.steps=20", "--config.log_every=10", f"--config.data.data_dir={data_dir}"]
    args = [
        sys.executable,
        "-m",
        "train",
        f"--config={small_config}",
        f"--workdir={tmp_path / 'w'}",
        *flags,
    ]
    env = os.environ | {"XLA_FLAGS": FAST_COMPILATION}
    assert (
        subprocess.run(
            ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *args], cwd=ROOT, env=env
        ).returncode
        == 0
    )
    found = [(r["step"], r["kind"]) for r in records(tmp_path / "w")]
    assert (
        found == [(10, "train"), (20, "train"), (20, "eval")]
        and (tmp_path / "w" / "summary.json").is_file()
    )


def two_processes(config, workdir, data_dir, *flags):
    """A run of two processes with four devices each; what they printed."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    two = []
    for i in range(2):
        env = {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(i),
        }
        env["XLA_FLAGS"] = f"{FAST_COMPILATION} --xla_force_host_platform_device_count=4"
        two.append(command_line(config, workdir, data_dir, *flags, processes=env))
    results = [p.communicate(timeout=150) for p in two]
    assert [p.returncode for p in two] == [0, 0], results
    return [out for out, _ in results]


TWO = (
    *("--config.steps=40", "--config.log_every=10", "--config.eval_every=20"),
    *("--config.mesh.fsdp=2", "--config.mesh.tensor=2"),
    *("--config.optim.name=sgd", "--config.optim.learning_rate=0.1"),
)
"""Trained by SGD: Adam makes a full step of what is rounding where the true gradient is zero."""

TOGETHER = "--config.steps_per_execution=5"


@pytest.fixture(scope="module")
def two(small_config, tmp_path_factory, data_dir):
    """Workdir and outputs of two processes, which take several steps at once."""
    workdir = tmp_path_factory.mktemp("two") / "w"
    return workdir, two_processes(small_config, workdir, data_dir, *TWO, TOGETHER)


def test_two_processes_equal_one(two, small_config, tmp_path, data_dir):
    """One command per host; jax.distributed starts because the environment asks for it."""
    workdir, (first, second) = two
    assert "summary.json" in first and "step" not in second
    overrides = [flag.removeprefix("--config.") for flag in TWO]
    train(
        config_lib.load_config(str(small_config), [f"data.data_dir={data_dir}", *overrides]),
        tmp_path / "one",
    )
    a, b = records(tmp_path / "one"), records(workdir)
    assert [r["step"] for r in a] == [r["step"] for r in b] and a[-1]["loss"] < 0.5 * a[0]["loss"]
    np.testing.assert_allclose([r["loss"] for r in b], [r["loss"] for r in a], rtol=1e-5)
    of_one, of_two = (jax.tree.leaves(final_state(w).params) for w in (tmp_path / "one", workdir))
    for x, y in zip(of_one, of_two, strict=True):
        assert np.linalg.norm(x - y) < 1e-5 * np.linalg.norm(x)
    scores = [json.loads((w / "summary.json").read_text()) for w in (tmp_path / "one", workdir)]
    assert [score["test"]["examples"] for score in scores] == [359, 359]


def test_two_processes_are_the_same_each_time(two, small_config, tmp_path, data_dir):
    two_processes(small_config, tmp_path / "again", data_dir, *TWO, TOGETHER)
    assert_same_run(two[0], tmp_path / "again")
