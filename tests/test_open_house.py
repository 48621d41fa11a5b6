"""A family, a feature, a task and a data set of somebody's own, in ``tests/hers.py``: named by
``package.module:attribute``, they do what the built-in ones do, and nothing of the packages knows
them."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import jaxmodels
from input_pipeline import DataError, describe_own
from input_pipeline import __main__ as shown
from jaxmodels import weights
from tests import hers
from train import evaluate, loop, predict
from train.compare.__main__ import main as compare
from train.config import ConfigError, differences, from_json, load_config, to_json
from train.explain import command as explain
from train.launch.workdir import read_card, read_config
from train.plan.__main__ import main as plan

ROOT = Path(__file__).parent.parent
CONFIG = """
from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config():
    return Config(
        model="tests.hers:FAMILY.small",
        model_fields={"width": 16},
        task="tests.hers:ANGLE",
        options={"circle": 0.2},
        data=DataConfig(name="tests.hers:LINES", eval_split="test", mean=(0.0,), std=(1.0,)),
        optim=OptimConfig(learning_rate=1e-2),
        checkpoint=CheckpointConfig(every=20),
        steps=60,
        batch_size=32,
        eval_batch_size=64,
        eval_every=30,
        log_every=10,
    )
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "angle.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, file):
    """A run to its end, without any disturbance."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    loop.train(load_config(file), path)
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A file with a line of the test split."""
    path = tmp_path_factory.mktemp("image") / "line.png"
    PIL.Image.fromarray(hers.LINES.splits["test"]()["image"][0, ..., 0]).save(path)
    return path


def test_it_learns_and_its_reports_are_in_the_summary(workdir):
    summary = json.loads((workdir / "summary.json").read_text())["test"]
    assert summary["degrees"] < 15, "45 is chance"
    assert 0 <= summary["within_5_degrees"] <= 1 and summary["examples"] == 128
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all("degrees" in record for record in records)


def test_names_and_options_are_kept(workdir, file):
    config = read_config(workdir)
    assert config == load_config(file) and isinstance(config.options, hers.AngleOptions)
    assert from_json(to_json(config)) == config and config.options.circle == 0.2
    other = load_config(file, ["options.circle=0.3"])
    assert differences(config, other) == ["config.options.circle: 0.2 -> 0.3"]
    spec = read_card(workdir)
    assert spec == describe_own("tests.hers:LINES")
    assert spec.label == hers.Angle(float(np.pi)) and spec.num_classes == 2
    kept = json.loads((workdir / "dataset.json").read_text())["features"]["label"]
    assert kept["kind"] == "tests.hers:Angle"


def test_it_resumes_bit_for_bit_after_a_kill(workdir, file, tmp_path):
    """SIGKILL in a process of its own, after a checkpoint; then the same command again."""
    command = [sys.executable, "-m", "train", f"--config={file}", f"--workdir={tmp_path / 'run'}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 240
        while not (tmp_path / "run" / "checkpoints" / "20").is_dir():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "run" / "summary.json").exists()
    loop.train(load_config(file), tmp_path / "run")
    whole, cut = (path / "metrics.jsonl" for path in (workdir, tmp_path / "run"))
    assert whole.read_bytes() == cut.read_bytes()


def test_it_is_evaluated_predicted_and_explained(workdir, image, capsys, tmp_path):
    assert evaluate.main([f"--workdir={workdir}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    summary = json.loads((workdir / "summary.json").read_text())["test"]
    assert found["degrees"] == pytest.approx(summary["degrees"], rel=1e-5)
    assert predict.main([f"--workdir={workdir}", "--json", str(image)]) == 0
    said = json.loads(capsys.readouterr().out)["degrees"]
    true = float(np.degrees(hers.LINES.splits["test"]()["angle"][0]))
    assert abs((said - true + 90) % 180 - 90) < 45
    page = tmp_path / "page.html"
    arguments = [f"--workdir={workdir}", "--ig_steps=8", f"--out={page}", str(image)]
    assert explain.main(arguments) == 0
    assert "<img" in page.read_text()


def test_it_is_planned(file, capsys, tmp_path):
    plan([f"--config={file}", "--topology=v5e:2x2", f"--json={tmp_path / 'plan.json'}"])
    assert json.loads((tmp_path / "plan.json").read_text())["parameters"] == 2658
    assert "those of tests.hers:LINES" in capsys.readouterr().out


def test_it_is_certified(tmp_path):
    """The original is PyTorch's, by the rules of her family; weights go both ways."""
    json_file = tmp_path / "certificate.json"
    arguments = ["tests.hers:FAMILY.small", "--timing=none", "--steps=2", "--dtype=float32"]
    assert compare([*arguments, f"--json={json_file}"]) == 0
    model = jaxmodels.create("tests.hers:FAMILY.small", num_classes=2)
    found = hers.FAMILY.original(model, (16, 16, 1)).tensors()
    theirs = {name: tensor.numpy() for name, tensor in found.items()}
    variables = weights.from_torch(model, theirs, image_shape=(16, 16, 1))
    back = weights.to_torch(model, variables, image_shape=(16, 16, 1))
    assert {*back} == {*theirs}
    assert all(np.array_equal(back[name], theirs[name]) for name in theirs)


def test_the_data_set_is_shown(capsys):
    assert shown.main(["tests.hers:LINES"]) == 0
    assert "angle                    float32 []" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["model=tests.hers:FAMILY"], "it has tests.hers:FAMILY.compass, tests.hers:FAMILY.small"),
        (["model=tests.hers:nothing"], "neither in jaxmodels.list_models() nor"),
        (["model=tests.hers:LINES"], "is a DataSet; a Linen module class"),
        (["model_fields.widht=3"], "did you mean 'width'?"),
        (["options.circl=3"], "did you mean 'circle'?"),
        (["options.circle=-1"], "config.options.circle = -1.0 must be at least 0"),
    ],
)
def test_mistakes_are_one_line(file, flags, words):
    with pytest.raises(ConfigError) as e:
        load_config(file, flags)
    assert words in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["data.name=tests.hers:FAMILY"], "is a Family, not an input_pipeline.DataSet"),
        (["data.name=nowhere:LINES"], "cannot be imported (ModuleNotFoundError"),
        (["data.eval_split=validation"], "has no split 'validation'"),
        (["task=classification"], "KeyError: 'label'"),
        (["model=mlp", "model_fields={}", "data.eval_split=test[:0]"], "has no examples"),
    ],
)
def test_what_does_not_suit_is_one_line(file, flags, words, tmp_path):
    with pytest.raises((ConfigError, DataError)) as e:
        loop.train(load_config(file, flags), tmp_path / "run")
    assert words in str(e.value) and "\n" not in str(e.value)
