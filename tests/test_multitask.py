"""Several tasks over one trunk: their losses, missing labels, learned weights; BERT's two are the
same code."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import jaxmodels
from input_pipeline import DataError
from input_pipeline.datasets.builder import ArrayBuilder
from jaxmodels.adapt.multitask import LearnedWeights, MultiHead, WeightedOutputs
from tests.compiled import init
from tests.test_text_runs import pretraining_config
from train import batches, compiling, evaluate, initial, loop, setup
from train.config import CheckpointConfig, Config, ConfigError, DataConfig, OptimConfig, check
from train.explain import command as explain
from train.predict import main as predict
from train.step import accumulated_gradients
from train.tasks.multitask import labelled, multi_task, multi_task_loss, share

pytestmark = pytest.mark.usefixtures("two_devices")


class Shades(ArrayBuilder, skip_registration=True):
    """Images of one brightness: label says whether it is bright, ``band`` in which quarter, where
    it is known."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(4, 4, 1)),
                    "label": tfds.features.ClassLabel(num_classes=2),
                    "band": tfds.features.ClassLabel(num_classes=4),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        def split(count):
            level = np.random.default_rng(count).integers(0, 256, count)
            image = np.broadcast_to(level[:, None, None, None], (count, 4, 4, 1)).astype(np.uint8)
            band = np.where(np.arange(count) % 3 == 0, -1, level // 64)
            return self._generate_examples(image, label=level // 128, band=band)

        return {"train": split(120), "test": split(50)}


@pytest.fixture(scope="module")
def shades(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shades")
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    Shades(data_dir=directory, file_format="array_record").download_and_prepare(
        download_config=config
    )
    return str(directory)


def shades_config(data_dir, **fields) -> Config:
    config = Config(
        **{
            "model": "mlp",
            "model_fields": {"hidden_sizes": (16,)},
            "data": DataConfig(name="shades", data_dir=data_dir),
            "optim": OptimConfig(learning_rate=2e-2),
            "checkpoint": CheckpointConfig(every=10),
            "steps": 60,
            "batch_size": 48,
            "accumulate": 2,
            "eval_batch_size": 16,
            "eval_every": 30,
            "log_every": 30,
        }
    )
    for name, value in {"labels": ("label", "band"), **fields}.items():
        setattr(config.tasks, name, value)
    check(config)
    return config


@pytest.mark.parametrize("learned", [False, True])
def test_a_run_with_two_labels(shades, tmp_path, learned, capsys):
    workdir = tmp_path / "run"
    summary = loop.train(shades_config(shades, learned=learned, weights={"band": 2.0}), workdir)
    test = summary["test"]
    assert test["label_accuracy"] > 0.9 and test["band_accuracy"] > 0.6  # by chance 0.5 and 0.25
    if not learned:
        assert test["loss"] == pytest.approx(test["label_loss"] + 2 * test["band_loss"], rel=1e-6)
    else:
        assert test["label_weight"] != 1 and test["band_weight"] != 2  # they have moved
        expected = sum(test[f"{t}_weight"] * test[f"{t}_loss"] for t in ("label", "band"))
        expected -= (math.log(test["label_weight"]) + math.log(test["band_weight"] / 2)) / 2
        assert test["loss"] == pytest.approx(expected, rel=1e-5)
    capsys.readouterr()
    assert evaluate.main([f"--workdir={workdir}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == test
    name = tmp_path / "white.png"
    Image.new("L", (4, 4), 255).save(name)
    assert predict([f"--workdir={workdir}", "--json", "--top=2", str(name)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == str(name) and list(found["tasks"]) == ["label", "band"]
    assert found["tasks"]["label"][0]["label"] == "1" and found["tasks"]["band"][0]["label"] == "3"
    assert sum(x["probability"] for x in found["tasks"]["label"]) == pytest.approx(1)
    options = [f"--workdir={workdir}", "--task=band", "--method=integrated_gradients"]
    assert explain.main([*options, f"--out={tmp_path / 'x.html'}", str(name)]) == 0
    p = found["tasks"]["band"][0]["probability"]
    assert f"<p>band: 3 with probability {p:.4f}</p>" in (tmp_path / "x.html").read_text()
    with pytest.raises(ConfigError, match=r"--task=x is none of this run's; there are label, band"):
        explain.main([f"--workdir={workdir}", "--task=x", str(name)])


def test_labels_that_are_missing_do_not_count(shades):
    run = setup.build(shades_config(shades))
    (*_, last) = batches.loader(run, "test", train=False)
    assert last["weight"].tolist() == [1, 1] + [0] * 14
    total = known = 0.0
    step = compiling.compile_eval_step(run)
    for batch in batches.loader(run, "test", train=False):
        metrics, _ = step(initial.init(run), batch)
        total, known = total + metrics["label_loss"][1], known + metrics["band_loss"][1]
    assert (total, known) == (50, 33)


def test_the_loss_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    logits = {"a": rng.normal(size=(6, 3)), "b": rng.normal(size=(6, 4))}
    batch = {
        "label_a": np.array([0, 1, 2, 0, 1, 2]),
        "label_b": np.array([3, -1, -1, 0, -1, 2]),
        "weight": np.array([1.0, 1, 1, 1, 1, 0]),
    }
    nats = {k: -np.log(np.exp(x) / np.exp(x).sum(1, keepdims=True)) for k, x in logits.items()}
    of_a = np.mean([nats["a"][i, batch["label_a"][i]] for i in range(5)])
    of_b = (nats["b"][0, 3] + nats["b"][3, 0]) / 2
    batch = jax.tree.map(jnp.asarray, batch)
    batch["share_b"] = share(batch["weight"], batch["weight"] * (batch["label_b"] >= 0))
    parts = {name: lambda o, b, name=name: labelled(o, b, name=name) for name in ("a", "b")}
    outputs = jax.tree.map(jnp.asarray, logits)
    found = multi_task(outputs, batch, tasks=parts, weights={"b": 3.0})
    means = {k: float(s / n) for k, (s, n) in found.items()}
    assert means["loss"] == pytest.approx(of_a + 3 * of_b, rel=1e-6)
    assert means["b_loss"] == pytest.approx(of_b, rel=1e-6)
    assert multi_task_loss(means, ("a", "b"), {"b": 3.0}) == pytest.approx(means["loss"], rel=1e-6)
    log_variances = jnp.array([0.5, -0.2])
    found = multi_task(
        WeightedOutputs(outputs, log_variances), batch, tasks=parts, weights={"b": 3.0}
    )
    means = {k: float(s / n) for k, (s, n) in found.items()}
    expected = math.exp(-0.5) * of_a + 0.25 + 3 * math.exp(0.2) * of_b - 0.1
    assert means["loss"] == pytest.approx(expected, rel=1e-6)
    assert multi_task_loss(means, ("a", "b"), {"b": 3.0}) == pytest.approx(expected, rel=1e-6)
    # a variance is right where it is twice the loss
    best = jnp.log(2 * jnp.array([of_a, 3 * of_b]))
    slope = jax.grad(
        lambda s: multi_task(WeightedOutputs(outputs, s), batch, tasks=parts, weights={"b": 3.0})[
            "loss"
        ][0]
    )
    np.testing.assert_allclose(slope(best), 0, atol=1e-5)


def test_a_task_without_labels_adds_nothing():
    means = {"a_loss": 2.0, "b_loss": math.nan}
    assert multi_task_loss(means, ("a", "b"), {"a": 0.5}) == 1.0


@pytest.mark.parametrize("accumulate", [2, 3])
def test_micro_batches_equal_one_batch(shades, x64, accumulate):
    """Though they have different numbers of labels."""
    run = setup.build(shades_config(shades, learned=True), devices=jax.devices()[:1])
    batch = {k: jnp.asarray(v) for k, v in next(batches.loader(run, "train", train=True)).items()}
    batch["weight"] = batch["weight"].at[:5].set(0.0)
    batch = run.task.train_batch(jax.random.key(0), batch)
    params = jax.tree.map(lambda x: x.astype(jnp.float64) + 0.1, initial.init(run).params)

    def gradients(accumulate):
        grads, count, metrics, _ = accumulated_gradients(
            params,
            {},
            batch,
            jax.random.key(1),
            model=run.model,
            objective=run.task.train_objective,
            inputs=run.task.inputs,
            accumulate=accumulate,
        )
        return jax.tree.map(lambda g: g / count, grads), metrics

    (one, whole), (many, parts) = (jax.jit(gradients, static_argnums=0)(n) for n in (1, accumulate))
    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)  # images come in float32
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-6)


def test_parameters_keep_their_names_and_heads_see_what_the_head_saw(x64):
    wide = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    trunk = jaxmodels.create("resnet20", num_classes=3, stage_sizes=(1,), width=4, **wide)
    image = jax.random.normal(jax.random.key(1), (2, 8, 8, 3), jnp.float64)
    alone = init(trunk, image, train=False)
    model = LearnedWeights(MultiHead(trunk, {"a": 3, "b": 5}, **wide), 2)
    together = init(model, image, train=False)
    names = set(together["params"])
    assert names - set(alone["params"]) == {"head_a", "head_b", "log_variances"}
    assert set(alone["params"]) - names == {"head"}
    assert sorted(together["batch_stats"]) == sorted(alone["batch_stats"])
    params = {
        **alone["params"],
        "head_a": alone["params"]["head"],
        "head_b": together["params"]["head_b"],
    }
    del params["head"]
    params["log_variances"] = jnp.zeros(2)
    outputs, _ = model.apply({**alone, "params": params}, image, train=False)
    np.testing.assert_array_equal(outputs["a"], trunk.apply(alone, image, train=False))
    _, changed = model.apply(
        {**alone, "params": params}, image, train=True, mutable=["batch_stats"]
    )
    _, expected = trunk.apply(alone, image, train=True, mutable=["batch_stats"])
    for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_pretraining_learns_its_weights(data_dir, tmp_path):
    config = pretraining_config(data_dir)
    config.tasks.learned = True
    config.steps, config.eval_every = 12, 12
    check(config)
    test = loop.train(config, tmp_path / "run")["test"]
    expected = sum(
        test[f"{t}_weight"] * test[f"{t}_loss"] - math.log(test[f"{t}_weight"]) / 2
        for t in ("masked", "next")
    )
    assert test["loss"] == pytest.approx(expected, rel=1e-5)
    assert test["masked_weight"] < 1  # its loss is far above 1/2


@pytest.mark.parametrize(
    "fields, words",
    [
        (
            {"weights": {"bend": 2.0}},
            "config.tasks.weights.bend is of no task; did you mean 'band'",
        ),
        ({"weights": {"band": 0.0}}, "config.tasks.weights.band = 0.0 must be above 0"),
        ({"labels": ("band", "band")}, "names one of them twice"),
        ({"labels": (), "learned": True}, "config.tasks.learned = True is for several tasks"),
    ],
)
def test_configs_that_cannot_be(shades, fields, words):
    with pytest.raises(ConfigError, match=words):
        shades_config(shades, **fields)


def test_a_label_that_is_not_there(shades):
    with pytest.raises(DataError, match="has no label 'colour'; its class labels: band, label"):
        setup.build(shades_config(shades, labels=("label", "colour")))
