"""Objective regression: a number of texts, its squared error, its correlation, weights of
transformers."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch

import jaxmodels
from input_pipeline.__main__ import main as show
from jaxmodels import weights
from tests.test_text_runs import SMALL, config_of
from train import batches, compiling, evaluate, initial, loop, predict, setup
from train.config import ConfigError, check
from train.tasks.regression import regression
from train.tasks.scores import correlations

pytestmark = pytest.mark.usefixtures("two_devices")


def test_squared_error_counts_what_has_weight(x64):
    rng = np.random.default_rng(0)
    outputs, label, weight = (
        rng.normal(size=(6, 1)),
        rng.normal(size=6),
        np.array([1, 1, 0, 1, 0, 1.0]),
    )
    batch = {"label": jnp.asarray(label), "weight": jnp.asarray(weight)}
    found = regression(jnp.asarray(outputs), batch)
    real = weight > 0
    np.testing.assert_allclose(
        found["loss"], (((outputs[real, 0] - label[real]) ** 2).sum(), 4), rtol=1e-12
    )
    expected = 2 * (outputs - label[:, None]) * weight[:, None]
    gradient = jax.grad(lambda x: regression(x, batch)["loss"][0])(jnp.asarray(outputs))
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def test_correlations_are_scipys():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 6, 200).astype(np.float32)  # with ties
    output = (np.exp(label) + rng.normal(size=200) * 9).astype(np.float32).round()
    found = correlations(label, output)
    np.testing.assert_allclose(
        found["pearson"], scipy.stats.pearsonr(label.astype(float), output).statistic, rtol=1e-6
    )
    np.testing.assert_allclose(
        found["spearman"], scipy.stats.spearmanr(label, output).statistic, rtol=1e-12
    )
    assert found["spearman"] > found["pearson"] + 0.01
    for scale in (1e-170, 1e170):  # whose squares are out of range
        huge = correlations(label, output.astype(float) * scale)
        assert huge["pearson"] == pytest.approx(found["pearson"], rel=1e-12)
    for constant in (
        correlations(label, np.full(200, 0.1, np.float32)),
        correlations(label[:1], output[:1]),
    ):
        assert np.isnan(constant["pearson"]) and np.isnan(constant["spearman"])


def stsb_config(tmp, **fields):
    data = {"name": "glue/stsb", "eval_split": "validation"} | fields.pop("data", {})
    embedding = {"embed_size": 16, "hidden_size": 16, "num_layers": 1, "dropout_rate": 0.0}
    options = {
        "model": "bilstm",
        "model_fields": embedding,
        "task": "regression",
        "steps": 80,
        "eval_every": 80,
    }
    return config_of(tmp, data=data, **options | fields)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that learns how often "rot" stands in two texts."""
    tmp = tmp_path_factory.mktemp("stsb")
    (tmp / "raw").mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 300), ("dev", 41)):
        rows = ["index\tsentence1\tsentence2\tscore"]
        for i in range(count):
            parts = [rng.choice(["rot", "hund", "hier"], rng.integers(1, n)) for n in (4, 3)]
            score = sum(list(words).count("rot") for words in parts)
            rows.append("\t".join([str(i), *map(" ".join, parts), f"{score}.000"]))
        (tmp / "raw" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return tmp, loop.train(stsb_config(tmp), tmp / "run")


def test_a_regression_learns_and_correlates(finished, capsys):
    """Over the whole split, the padding of its last batch left out, as scipy has it of the
    predictions."""
    tmp, summary = finished
    rows = [line.split("\t") for line in (tmp / "raw" / "dev.tsv").read_text().splitlines()[1:]]
    texts, label = ["\t".join(row[1:3]) for row in rows], np.array([float(row[3]) for row in rows])
    assert predict.main([f"--workdir={tmp / 'run'}", "--json", *texts]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in found] == texts
    values = np.array([row["value"] for row in found])
    test = summary["test"]
    assert test["examples"] == 41 and test["loss"] < 0.3 * label.var()
    np.testing.assert_allclose(test["loss"], ((values - label) ** 2).mean(), rtol=1e-4)
    np.testing.assert_allclose(
        test["pearson"], scipy.stats.pearsonr(values, label).statistic, rtol=1e-4
    )
    np.testing.assert_allclose(
        test["spearman"], scipy.stats.spearmanr(values, label).statistic, rtol=1e-4
    )
    assert predict.main([f"--workdir={tmp / 'run'}", texts[0]]) == 0
    assert capsys.readouterr().out == f"{texts[0]}  {values[0]:.4f}\n"
    assert evaluate.main([f"--workdir={tmp / 'run'}", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == {name: pytest.approx(value, rel=1e-5) for name, value in test.items()}


def test_the_data_are_shown(finished, capsys):
    tmp, _ = finished
    assert show([f"--raw_dir={tmp / 'raw'}", f"--data_dir={tmp / 'data'}", "glue/stsb"]) == 0
    assert re.search(
        r"validation: 41 texts, [\d,]+ characters; labels 0 to [345], mean \d\.\d",
        capsys.readouterr().out,
    )


def test_what_does_not_fit_a_regression(finished):
    tmp, _ = finished
    for fields, words in (
        (
            {"model": "bert_tiny", "model_fields": SMALL | {"num_classes": 3}},
            "num_classes = 3, .* has one; nearest: 1",
        ),
        (
            {"task": "classification"},
            "'label' that is a ClassLabel; it is a number, for task regression",
        ),
        (
            {"options": {"label_smoothing": 0.1}},
            "config.options.label_smoothing does not exist",
        ),
        ({"model": "cnn", "model_fields": {}}, "needs a uint8 feature 'image'"),
        ({"model": "gpt2_tiny", "model_fields": {}}, "'regression' does not fit model 'gpt2_tiny'"),
    ):
        with pytest.raises(Exception, match=words):
            setup.build(stsb_config(tmp, **fields))
    rte = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n"
    for name in ("train.tsv", "dev.tsv"):
        (tmp / "rte").mkdir(exist_ok=True)
        (tmp / "rte" / name).write_text(rte)
    config = stsb_config(tmp, data={"name": "glue/rte", "raw_dir": str(tmp / "rte")})
    with pytest.raises(Exception, match="has no feature 'label' that is a floating-point number"):
        setup.build(config)
    config = stsb_config(tmp)
    config.distill.teacher = "runs/teacher"
    with pytest.raises(ConfigError, match="is for task classification, not for 'regression'"):
        check(config)


def test_weights_of_transformers_regress(finished, tmp_path):
    """BertForSequenceClassification with one label: the same numbers and, given labels, the same
    loss."""
    from jaxmodels.foreign.original import transformers

    tmp, _ = finished
    sizes = {
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
    }
    config = transformers().BertConfig(
        vocab_size=40, max_position_embeddings=12, num_labels=1, **sizes
    )
    torch.manual_seed(0)
    theirs = transformers().BertForSequenceClassification(config).eval()
    tokens, label = torch.randint(5, 40, (4, 9)), torch.tensor([0.0, 2.5, 5.0, 1.0])
    with torch.no_grad():
        expected = theirs(tokens, labels=label)  # sets problem_type to regression
    assert theirs.config.problem_type == "regression"
    theirs.save_pretrained(tmp_path)
    model, variables = weights.load(tmp_path)
    assert model.num_classes == 1 and model.head == "classification"
    outputs = model.apply(variables, jnp.asarray(tokens.numpy(), jnp.int32), train=False)
    np.testing.assert_allclose(outputs, expected.logits.numpy(), rtol=1e-4, atol=1e-5)
    loss, count = regression(outputs, {"label": jnp.asarray(label.numpy()), "weight": jnp.ones(4)})[
        "loss"
    ]
    np.testing.assert_allclose(loss / count, expected.loss.item(), rtol=1e-4)
    built = setup.build(stsb_config(tmp, model="bert_tiny", model_fields=SMALL, dtype="bfloat16"))
    assert built.model == jaxmodels.create(
        "bert_tiny",
        head="classification",
        num_classes=1,
        vocab_size=built.card.kind("text").vocab_size,
        max_len=12,
        **SMALL,
    ).clone(dtype=jnp.dtype("bfloat16"))
    assert (
        jax.eval_shape(
            partial(compiling.outputs, built), built.shapes, batches.batch_shapes(built, 16)[0]
        ).dtype
        == jnp.float32
    )


def test_one_output_on_a_sharded_mesh(finished):
    """Which does not divide over the tensor axis."""
    config = stsb_config(finished[0], model="bert_tiny", model_fields=SMALL)
    batch, outputs = None, []
    for sizes in ((1, 1), (1, 2), (2, 1)):
        config.mesh.data, config.mesh.tensor = sizes
        run = setup.build(config, devices=jax.devices()[: sizes[0] * sizes[1]])
        batch = batch or batches.examples(run, "validation", 16)
        with jax.set_mesh(run.mesh):
            outputs.append(
                jax.jit(partial(compiling.outputs, run))(
                    initial.init(run), setup.sharding.put_batch(batch, run.mesh)
                )
            )
    for other in outputs[1:]:
        np.testing.assert_allclose(other, outputs[0], rtol=1e-5, atol=1e-6)
