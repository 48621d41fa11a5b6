"""Pairings of inputs and labels that need a config alone: numbers of images and of rows, several
numbers, several labels of an image."""

import json
from functools import partial

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from input_pipeline import describe
from input_pipeline.features import Preparation
from jaxmodels.nn.layers import AuxiliaryLogits
from train import evaluate, loop, predict
from train.config import Config, ConfigError, DataConfig, load_config
from train.explain import command as explain
from train.launch.workdir import read_card
from train.tasks.regression import regression

SMALL = {
    "diabetes_mlp": ["steps=160", "eval_every=80", "checkpoint.every=80", "log_every=80"],
    "turned_digits_cnn": ["steps=8", "eval_every=4", "checkpoint.every=4", "log_every=4"],
    "posed_digits_cnn": ["steps=8", "eval_every=4", "checkpoint.every=4", "log_every=4"],
}
CNN = ["model_fields.features=(4, 8)", "model_fields.hidden_size=8", "batch_size=16"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module", params=SMALL)
def run(request, data_dir, tmp_path_factory):
    """Config and workdir of a finished run."""
    name = request.param
    flags = [*SMALL[name], f"data.data_dir={data_dir}", "optim.warmup_steps=1"]
    flags += CNN if name != "diabetes_mlp" else []
    config = load_config(f"configs/{name}.py", flags)
    workdir = tmp_path_factory.mktemp("runs") / name
    loop.train(config, workdir)
    return config, workdir


def test_a_run_is_scored_in_the_units_of_its_data(run):
    config, workdir = run
    scores, label = json.loads((workdir / "summary.json").read_text())["test"], read_card(workdir)
    label = label.label
    assert label.mean and len(label.mean) == label.size == len(label.names)
    names = [""] if label.size == 1 else [f"{name}_" for name in label.names]
    for name, std in zip(names, label.std, strict=True):
        assert 0 < scores[f"{name}mean_absolute_error"] < 2 * std
        assert -1 <= scores[f"{name}pearson"] <= 1
    if config.data.name == "diabetes":
        assert scores["pearson"] > 0.5 and scores["mean_absolute_error"] < 65


def test_it_resumes_bit_for_bit(run, tmp_path, monkeypatch):
    config, workdir = run

    class Killed(RuntimeError):
        pass

    evaluated = loop._Loop._evaluate

    def killed(self, state, step):
        evaluated(self, state, step)
        self._save(state, step)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop._Loop, "_evaluate", killed)
        loop.train(config, tmp_path / "run")
    loop.train(config, tmp_path / "run")
    whole, cut = (path / "metrics.jsonl" for path in (workdir, tmp_path / "run"))
    assert whole.read_bytes() == cut.read_bytes()


def test_it_is_evaluated_predicted_and_explained(run, tmp_path, capsys):
    _, workdir = run
    evaluate.main([f"--workdir={workdir}", "--json"])
    scores = json.loads((workdir / "summary.json").read_text())["test"]
    assert json.loads(capsys.readouterr().out)["pearson"] == pytest.approx(scores["pearson"])
    card = read_card(workdir)
    if card.kind("row"):
        file = tmp_path / "rows.csv"
        row = card.kind("row")
        file.write_text(",".join(row.feature_names) + "\n" + ",".join(map(str, row.mean)) + "\n")
    else:
        file = tmp_path / "image.png"
        PIL.Image.fromarray(np.full((16, 16), 9, np.uint8)).save(file)
    assert predict.main([f"--workdir={workdir}", "--json", str(file)]) == 0
    said = json.loads(capsys.readouterr().out)
    values = said["values"] if card.label.size > 1 else {"": said["value"]}
    assert len(values) == card.label.size
    lowest, highest = np.array(card.label.mean) - 4 * np.array(card.label.std), 4e3
    assert all(low < x < highest for low, x in zip(lowest, values.values(), strict=True))
    target = card.label.names[-1]
    page = tmp_path / "page.html"
    flags = [f"--workdir={workdir}", f"--target={target}", "--ig_steps=8", f"--out={page}"]
    assert explain.main([*flags, str(file)]) == 0
    assert f"{target} = {values.get(target, said.get('value')):.4f}" in page.read_text()


def test_the_loss_is_the_mean_over_the_numbers():
    rng = np.random.default_rng(0)
    outputs, label = rng.normal(size=(2, 5, 3)).astype(np.float32)
    weight = jnp.asarray([1, 1, 0, 1, 1], jnp.float32)
    found = regression(jnp.asarray(outputs), {"label": jnp.asarray(label), "weight": weight})[
        "loss"
    ]
    expected = float((((outputs - label) ** 2).mean(1) * weight).sum())
    assert float(found[0]) == pytest.approx(expected, rel=1e-6) and float(found[1]) == 4
    one = regression(
        jnp.asarray(outputs[:, :1]), {"label": jnp.asarray(label[:, 0]), "weight": weight}
    )["loss"]
    assert float(one[0]) == pytest.approx(
        float((((outputs - label)[:, 0] ** 2) * weight).sum()), rel=1e-6
    )
    both = AuxiliaryLogits(jnp.asarray(outputs), (jnp.asarray(outputs),))
    with_head = regression(both, {"label": jnp.asarray(label), "weight": weight})["loss"]
    assert float(with_head[0]) == pytest.approx(1.3 * expected, rel=1e-6)


def test_numbers_are_standardised_by_the_training_split(data_dir):
    spec = describe("diabetes", data_dir=data_dir, numbers=True, train_split="train[:50%]")
    whole = describe("diabetes", data_dir=data_dir, numbers=True)
    assert spec.label.mean != whole.label.mean and spec.fitted
    batch = {"label": np.array([spec.label.mean[0], spec.label.mean[0] + spec.label.std[0]])}
    found = spec.label.eval_batch(batch, Preparation())["label"]
    np.testing.assert_allclose(found, [0, 1], atol=1e-6)
    np.testing.assert_allclose(spec.label.in_units(found[:, None])[:, 0], batch["label"], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"model_fields": {"num_classes": 3}},
            "num_classes = 3, and an example of diabetes has one",
        ),
        ({"task": "classification"}, "it is a number, for task regression"),
        ({"data": {"mixup": 0.2}}, "is for images|is for labels of classes"),
        ({"data": {"name": "breast_cancer"}}, "'label' that is a floating-point number"),
    ],
)
def test_what_does_not_suit_is_one_line(data_dir, tmp_path, change, words):
    data = DataConfig(**({"name": "diabetes", "data_dir": str(data_dir)} | change.pop("data", {})))
    fields = {"model": "mlp", "task": "regression", "batch_size": 32} | change
    make = partial(Config, data=data, **fields)
    with pytest.raises((ConfigError, ValueError), match=words) as e:
        loop.train(make(), tmp_path / "run")
    assert "\n" not in str(e.value)
