"""Tables: the breast cancer data, rows and their standardisation, whole runs, and the errors of a
person."""

import dataclasses
import json
import re
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import jaxmodels
from input_pipeline import DataError, describe, make_loader
from input_pipeline.__main__ import main as show
from jaxmodels import weights
from tests.conftest import drawing
from tests.test_data_builders import finish, run
from tests.test_loop import ROOT, assert_same_run, command_line, stopped_and_resumed
from train import evaluate, initial, predict, setup
from train.config import (
    CheckpointConfig,
    Config,
    ConfigError,
    DataConfig,
    MeshConfig,
    OptimConfig,
    load_config,
)
from train.explain import command as explain
from train.launch.workdir import read_card
from train.loop import train
from train.records import opening
from train.tasks import binary, two_classes

CONFIG = ROOT / "configs" / "breast_cancer_mlp.py"


def make_config(data_dir, **fields) -> Config:
    return Config(
        **{
            "model": "mlp",
            "model_fields": {"hidden_sizes": (8,), "dropout_rate": 0.1},
            "data": DataConfig(name="breast_cancer", data_dir=data_dir, eval_split="validation"),
            "optim": OptimConfig(learning_rate=1e-2, warmup_steps=2, ema_decay=0.9),
            "checkpoint": CheckpointConfig(every=20),
            "steps": 60,
            "batch_size": 32,
            "eval_batch_size": 64,
            "eval_every": 20,
            "log_every": 20,
        }
        | fields
    )


def batches(data_dir, split, name="breast_cancer", **kwargs):
    loader = make_loader(
        name, split, **{"batch_size": 64, "train": False, "data_dir": data_dir} | kwargs
    )
    return list(loader)


def rows_of(data_dir, split):
    found = [
        (b["features"][b["weight"] > 0], b["label"][b["weight"] > 0])
        for b in batches(data_dir, split)
    ]
    return tuple(np.concatenate(x) for x in zip(*found, strict=True))


def scikit_learns():
    """Features, and label 1 for malignant; of each class the position of its patients in the
    file."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    label = (data.target_names[data.target] == "malignant").astype(int)
    return data.data.astype(np.float32), label, tuple(map(str, data.feature_names))


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """What the bootstrap gives is no concern of these tests, and it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(binary, "RESAMPLES", 40)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("finished")
    with drawing():  # a test looks at the plot of two classes
        return workdir, train(make_config(data_dir), workdir)


# The data


def test_prepared_without_tensorflow_and_read_by_plain_tfds(tmp_path):
    code = """
import json, input_pipeline as p, tensorflow_datasets as tfds
p.describe("breast_cancer", data_dir=sys.argv[1])
source = tfds.data_source("breast_cancer", data_dir=sys.argv[1])
assert "tensorflow" not in sys.modules
example = source["test"][0]
print(json.dumps([{k: len(v) for k, v in source.items()}, list(example["features"].shape), sorted(example)]))
"""
    splits = {"train": 343, "validation": 113, "test": 113}
    assert json.loads(finish(run(code, tmp_path)).splitlines()[-1]) == [
        splits,
        [30],
        ["features", "label"],
    ]


def test_splits_hold_every_patient_once_and_both_classes_alike(data_dir):
    features, label, _ = scikit_learns()
    order = {split: set() for split in ("train", "validation", "test")}
    for positive in (0, 1):
        for i, row in enumerate(features[label == positive]):
            split = ("train", "train", "train", "validation", "test")[i % 5]
            order[split].add((row.tobytes(), positive))
    for split, cancers in (("train", 128), ("validation", 42), ("test", 42)):
        found, labels = rows_of(data_dir, split)
        assert found.dtype == np.float32 and labels.dtype == np.int32
        assert labels.sum() == cancers
        assert {(row.tobytes(), int(y)) for row, y in zip(found, labels, strict=True)} == order[
            split
        ]
        assert len(found) == len(order[split])
    assert sum(map(len, order.values())) == 569 == len(set.union(*order.values()))


def test_card_standardises_by_the_rows_that_are_trained_on(data_dir):
    card = describe("breast_cancer", data_dir=data_dir, train_split="train[:50]")
    first = rows_of(data_dir, "train")[0][:50].astype(np.float64)
    np.testing.assert_allclose(card.kind("row").mean, first.sum(0) / 50, rtol=1e-12)
    np.testing.assert_allclose(
        card.kind("row").std, np.sqrt(((first - first.sum(0) / 50) ** 2).sum(0) / 50), rtol=1e-9
    )
    assert card.label_names == ("benign", "malignant")
    assert card.kind("row").feature_names == scikit_learns()[2]
    run = setup.build(make_config(data_dir))
    assert run.card == describe("breast_cancer", data_dir=data_dir)
    batch = jax.jit(run.task.eval_batch)(batches(data_dir, "train", batch_size=343)[0])
    x = np.asarray(batch["features"], np.float64)
    # float32 numbers of up to 4,000 whose mean is taken away
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-5)


def test_loader_pads_an_evaluation_and_shuffles_training(data_dir):
    parts = batches(data_dir, "test")
    assert [p["features"].shape for p in parts] == [(64, 30)] * 2
    assert sum(p["weight"].sum() for p in parts) == 113
    assert not parts[1]["features"][49:].any() and not parts[1]["weight"][49:].any()
    loader = make_loader(
        "breast_cancer", "train", batch_size=343, train=True, seed=1, data_dir=data_dir
    )
    epochs = [next(loader) for _ in range(2)]
    assert (epochs[0]["features"] != epochs[1]["features"]).any()
    for batch in epochs:
        assert {r.tobytes() for r in batch["features"]} == {
            r.tobytes() for r in rows_of(data_dir, "train")[0]
        }
    half = make_loader(
        "breast_cancer",
        "train",
        batch_size=64,
        train=True,
        seed=1,
        data_dir=data_dir,
        process_index=1,
        process_count=2,
    )
    np.testing.assert_array_equal(next(half)["features"], epochs[0]["features"][32:64])


class Another(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A table of another name, with three classes, one constant column and no names; ``hole`` has a
    NaN."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None
    url_infos = {}  # noqa: RUF012

    def _info(self):
        features = {
            "x": tfds.features.Tensor(shape=(3,), dtype=np.float64),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {
            split: self._generate_examples(split) for split in ("train", "test", "hole", "unknown")
        }

    def _generate_examples(self, split):
        for i in range(60):
            x = [
                float(i % 3 == 1),
                7.0,
                np.nan if split == "hole" and i == 3 else float(i % 3 == 2),
            ]
            yield i, {"x": np.array(x), "label": -1 if split == "unknown" else i % 3}


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("another"))
    Another(data_dir=root, file_format="array_record").download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return root


def test_any_prepared_table_works_by_its_name(another, tmp_path):
    card = describe("another", data_dir=another)
    assert (
        card.kind("row").feature_names == ("column 0", "column 1", "column 2")
        and card.kind("row").std[1] == 1.0
        and card.num_classes == 3
    )
    data = DataConfig(name="another", data_dir=another)
    optim = OptimConfig(name="sgd", learning_rate=0.3)
    summary = train(make_config(another, data=data, optim=optim), tmp_path / "w")
    assert summary["test"]["accuracy"] > 0.9 and "two_classes" not in summary["test"]
    assert not (tmp_path / "w" / "two_classes.png").exists()
    with pytest.raises(ConfigError, match=r"--sensitivity is for classifiers of two classes"):
        evaluate.main([f"--workdir={tmp_path / 'w'}", "--split=train", "--sensitivity=0.9"])


def test_rows_that_cannot_be_used_are_counted(another):
    with pytest.raises(
        DataError,
        match=r"split 'hole' of another/1\.0\.0 has 1 row\(s\) with a number that is missing",
    ):
        batches(another, "hole", "another")
    with pytest.raises(
        DataError, match=r"split 'unknown' of another/1\.0\.0 has 60 examples without a label"
    ):
        batches(another, "unknown", "another")
    with pytest.raises(DataError, match=r"no split 'tset'"):
        describe("another", data_dir=another, require=("tset",))


def test_command_line_shows_a_table(data_dir, capsys):
    assert show(["breast_cancer", f"--data_dir={data_dir}"]) == 0
    out = capsys.readouterr().out
    assert "validation: 113 rows; benign 71, malignant 42" in out and "worst area" in out


# Runs


def test_a_run_learns_and_leaves_scores_of_two_classes(finished):
    workdir, summary = finished
    assert summary["validation"] == summary["test"]
    assert summary["splits"] == {"train": "train", "test": "validation"}
    found = summary["validation"]["two_classes"]
    assert found["positive"] == "malignant" and found["threshold"] == 0.5
    assert (
        np.sum(found["confusion"]) == 113
        and found["confusion"] == summary["validation"]["confusion"]
    )
    assert found["sensitivity"]["value"] == pytest.approx(
        summary["validation"]["per_class"]["malignant"]["recall"]
    )
    assert found["roc_auc"]["value"] > 0.97
    assert found == json.loads((workdir / "summary.json").read_text())["validation"]["two_classes"]
    with Image.open(workdir / "two_classes.png") as image:
        assert min(image.size) > 300 and len(np.unique(np.asarray(image.convert("L")))) > 20
    assert read_card(workdir) == setup.build(make_config(None), card=read_card(workdir)).card
    assert read_card(workdir).kinds == ("row",)


def test_evaluation_and_resumption_standardise_as_the_run_began(
    data_dir, finished, tmp_path, monkeypatch, capsys
):
    workdir, summary = finished
    assert evaluate.main([f"--workdir={workdir}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == summary["test"]
    stopped_and_resumed(make_config(data_dir), tmp_path / "parts", monkeypatch, 33)
    assert_same_run(workdir, tmp_path / "parts")
    # what the data would give today does not count
    path = tmp_path / "parts" / "dataset.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"mean": [0.0] * 30}))
    with monkeypatch.context() as patch:
        patch.setattr("input_pipeline.describe", None)
        again = train(make_config(data_dir), tmp_path / "parts")
    assert again["test"]["loss"] != summary["test"]["loss"]


def test_eight_devices_count_each_patient_once(finished, data_dir):
    """The last batch is padded, and each device holds an eighth of a batch."""
    workdir, _ = finished
    card, features, label = read_card(workdir), *rows_of(data_dir, "validation")
    results = []
    for mesh in (MeshConfig(), MeshConfig(data=2, fsdp=2, tensor=2)):
        config = dataclasses.replace(opening.read_config(workdir), mesh=mesh)
        built = setup.build(config, card=card)
        assert built.mesh.size == 8
        state = opening.restore(built, workdir)
        found = two_classes.outcomes(built, state, "validation")
        np.testing.assert_array_equal(found[0], label)
        results.append(found[1])
    # the classifier again, in float64 and NumPy
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), state.eval_params)
    x = (features - np.array(card.kind("row").mean)) / np.array(card.kind("row").std)
    hidden = np.maximum(x @ params["dense_0"]["kernel"] + params["dense_0"]["bias"], 0)
    logits = hidden @ params["head"]["kernel"] + params["head"]["bias"]
    expected = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    for probability in results:
        np.testing.assert_allclose(probability, expected, atol=1e-5)  # float32, logits of about 10


def test_two_processes_count_each_patient_once(data_dir, tmp_path):
    """Each has half of every batch, and the scores are those of all."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    flags = ["--config.steps=20", "--config.optim.warmup_steps=2"]
    env = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    two = [
        command_line(
            CONFIG, tmp_path / "w", data_dir, *flags, processes=env | {"JAX_PROCESS_ID": str(i)}
        )
        for i in range(2)
    ]
    results = [p.communicate(timeout=150) for p in two]
    assert [p.returncode for p in two] == [0, 0], results
    found = json.loads((tmp_path / "w" / "summary.json").read_text())["test"]["two_classes"]
    built = setup.build(opening.for_this_machine(opening.read_config(tmp_path / "w")))
    label, probability = two_classes.outcomes(
        built, opening.restore(built, tmp_path / "w"), "validation"
    )
    expected = binary.scores(label, probability)
    assert np.sum(found["confusion"]) == 113 and found["confusion"] == expected["confusion"]
    assert found["brier"]["value"] == pytest.approx(expected["brier"]["value"], rel=1e-4)


def test_threshold_is_chosen_on_the_evaluation_split(finished, data_dir, capsys):
    workdir, _ = finished
    built = setup.build(opening.read_config(workdir), card=read_card(workdir))
    state = opening.restore(built, workdir)
    label, probability = two_classes.outcomes(built, state, "validation")
    command = [f"--workdir={workdir}", "--split=test", "--sensitivity=0.95"]
    assert evaluate.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["two_classes"]
    reached = probability >= found["threshold"]
    assert reached[label == 1].mean() >= 0.95
    higher = probability > found["threshold"]
    assert higher[label == 1].mean() < 0.95
    label, probability = two_classes.outcomes(built, state, "test")
    hits = int(((probability >= found["threshold"]) & (label == 1)).sum())
    assert found["confusion"][1] == [42 - hits, hits]
    assert evaluate.main(command) == 0
    assert "malignant missed" in capsys.readouterr().out
    with pytest.raises(
        ConfigError, match=r"'validation', and scores on the same examples would flatter it"
    ):
        evaluate.main([f"--workdir={workdir}", "--sensitivity=0.95"])
    with pytest.raises(ConfigError, match=r"--sensitivity=1\.5 .* nearest: 0\.95"):
        evaluate.main([f"--workdir={workdir}", "--split=test", "--sensitivity=1.5"])


def test_what_is_for_images_is_refused(data_dir):
    with pytest.raises(
        ConfigError,
        match=r"config\.model = 'cnn' is for images, and breast_cancer is a table; .*'mlp'",
    ):
        setup.build(make_config(data_dir, model="cnn", model_fields={}))
    data = DataConfig(name="breast_cancer", data_dir=data_dir, eval_split="test", mean=(0.1,))
    with pytest.raises(
        ConfigError,
        match=r"config\.data\.mean = \(0\.1,\) is for images, and breast_cancer is a table",
    ):
        setup.build(make_config(data_dir, data=data))


def test_a_run_starts_from_weights_of_rows(finished, data_dir, tmp_path):
    workdir, _ = finished
    built = setup.build(opening.read_config(workdir), card=read_card(workdir))
    state = jax.device_get(opening.restore(built, workdir))
    weights.save(tmp_path, built.model, {"params": state.params}, image_shape=(30,))
    config = make_config(data_dir, init_from=str(tmp_path), init_skip=())
    started = jax.device_get(initial.start(setup.build(config))[0])
    for a, b in zip(jax.tree.leaves(started.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_config_trains(data_dir, tmp_path):
    config = load_config(CONFIG, [f"data.data_dir={data_dir}", "steps=30", "optim.warmup_steps=5"])
    assert train(config, tmp_path / "w")["test"]["accuracy"] > 0.85


def test_predict_reads_columns_by_name(finished, data_dir, tmp_path, capsys, monkeypatch):
    workdir, _ = finished
    card = read_card(workdir)
    features, _ = rows_of(data_dir, "test")
    order = np.random.default_rng(0).permutation(30)
    lines = [
        [card.kind("row").feature_names[i] for i in order],
        *([f"{row[i]:.9g}" for i in order] for row in features[:20]),
    ]
    comma, tab = tmp_path / "a.csv", tmp_path / "b.tsv"
    comma.write_text("".join(",".join(["id", *line]) + "\n" for line in lines))
    tab.write_text("".join("\t".join(line) + "\n" for line in lines))
    assert (
        predict.main(
            [f"--workdir={workdir}", "--json", "--top=2", "--batch_size=8", str(comma), str(tab)]
        )
        == 0
    )
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["row"] for r in found[:2]] == [f"{comma}:2", f"{comma}:3"] and len(found) == 40
    assert [r["labels"] for r in found[:20]] == [r["labels"] for r in found[20:]]
    built = setup.build(opening.read_config(workdir), card=card)
    _, probability = two_classes.outcomes(built, opening.restore(built, workdir), "test")
    by_name = [{x["label"]: x["probability"] for x in r["labels"]} for r in found]
    np.testing.assert_allclose([r["malignant"] for r in by_name[:20]], probability[:20], atol=1e-6)
    for text, message in (
        (
            comma.read_text().replace("worst area", "worst  area"),
            r"lacks 1 of the 30 columns .*'worst area'; it has 'wor",
        ),
        (
            "a,b\n1,2\n",
            r"lacks 30 of the 30 columns of breast_cancer, first 'mean radius'; its first line "
            r"must",
        ),
        (
            "\n".join(comma.read_text().splitlines()[:2]).rsplit(",", 1)[0] + ",many",
            r"bad\.csv:2, '.*': 'many' is not a number",
        ),
        (
            "\n".join(comma.read_text().splitlines()[:2]).rsplit(",", 1)[0],
            r"bad\.csv:2 has \d+ cells for 31 columns",
        ),
        (",".join(card.kind("row").feature_names) + "\n", r"no rows in .*bad\.csv"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            predict.main([f"--workdir={workdir}", str(tmp_path / "bad.csv")])
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        predict.main([f"--workdir={workdir}", str(tmp_path / "none.csv")])


def test_no_label_comes_from_an_answer_that_is_no_number(finished, tmp_path, capsys):
    """Numbers that float32 has may be too large for the model."""
    workdir, _ = finished
    names = read_card(workdir).kind("row").feature_names
    rows = [["1"] * len(names), ["3e38"] * len(names), ["2"] * len(names)]
    (tmp_path / "t.csv").write_text("".join(",".join(row) + "\n" for row in [names, *rows]))
    assert predict.main([f"--workdir={workdir}", "--json", str(tmp_path / "t.csv")]) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["row"] for line in captured.out.splitlines()] == [
        f"{tmp_path / 't.csv'}:{i}" for i in (2, 4)
    ]
    assert f"skipped {tmp_path / 't.csv'}:3: the model's answer is not a number" in captured.err


def test_a_row_is_explained(finished, data_dir, tmp_path):
    """What the page gives to its columns sums to the difference between the row's score and that of
    the mean row."""
    workdir, _ = finished
    card, page = read_card(workdir), tmp_path / "page.html"
    features, _ = rows_of(data_dir, "test")
    (tmp_path / "rows.csv").write_text(
        ",".join(card.kind("row").feature_names) + "\n" + ",".join(map(str, features[0])) + "\n"
    )
    options = ["--method=integrated_gradients", "--target=malignant"]
    assert (
        explain.main(
            [f"--workdir={workdir}", f"--out={page}", *options, str(tmp_path / "rows.csv")]
        )
        == 0
    )
    cells = re.findall(r"<tr><th>(.*?)</th><td>(.*?)</td><td>(.*?)</td>", page.read_text())
    assert sorted(name for name, *_ in cells) == sorted(card.kind("row").feature_names)
    numbers = {name: float(number) for name, number, _ in cells}
    np.testing.assert_allclose(
        [numbers[name] for name in card.kind("row").feature_names], features[0], rtol=1e-3
    )
    values = [float(value) for *_, value in cells]
    assert np.all(np.diff(np.abs(values)) <= 0)
    built = setup.build(opening.read_config(workdir), card=card)
    params = {"params": opening.restore(built, workdir).eval_params}
    scores = built.model.apply(
        params,
        jnp.stack([(features[0] - card.kind("row").mean) / card.kind("row").std, np.zeros(30)]),
        train=False,
    )
    # three digits of 30 numbers
    assert sum(values) == pytest.approx(float(scores[0, 1] - scores[1, 1]), abs=0.02)


def test_mlp_takes_rows():
    model = jaxmodels.create("mlp", num_classes=2, hidden_sizes=(4,))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((3, 30)), train=False))
    assert {k: v["kernel"].shape for k, v in shapes["params"].items()} == {
        "dense_0": (30, 4),
        "head": (4, 2),
    }
