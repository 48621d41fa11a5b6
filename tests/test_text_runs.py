"""BERT, the Transformer and the LSTM as runs: learning, scores, resumption; translations and labels
by the trained."""

import io
import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tokenizers import Tokenizer

from input_pipeline import DataError
from input_pipeline.cache import digest_lines
from jaxmodels.explain.attention import attention_maps
from jaxmodels.families.bert.model import PretrainingLogits
from jaxmodels.nn.layers import TokenLogits
from tests.test_loop import assert_same_run, stopped_and_resumed
from train import batches, evaluate, generate, initial, loop, predict, setup
from train.config import CheckpointConfig, Config, ConfigError, DataConfig, OptimConfig, check
from train.explain import command as explain
from train.records import opening
from train.step import accumulated_gradients, eval_variables
from train.tasks import translate
from train.tasks.masked_lm import masked_lm

pytestmark = pytest.mark.usefixtures("two_devices")

WORDS = {
    "ein": "a",
    "rot": "red",
    "hund": "dog",
    "rennt": "runs",
    "schnell": "fast",
    "hier": "here",
    "und": "and",
}
SMALL = {"num_layers": 1, "num_heads": 2, "hidden_size": 32, "mlp_dim": 64}


def config_of(tmp, **fields) -> Config:
    data = {
        "data_dir": str(tmp / "data"),
        "raw_dir": str(tmp / "raw"),
        "tokenizer": "words",
        "max_len": 12,
    }
    config = Config(
        **{
            "data": DataConfig(**data | fields.pop("data", {})),
            "optim": OptimConfig(learning_rate=1e-2, warmup_steps=5, clip_norm=1.0),
            "checkpoint": CheckpointConfig(every=20),
            "steps": 60,
            "batch_size": 16,
            "eval_batch_size": 16,
            "eval_every": 20,
            "log_every": 20,
            **fields,
        }
    )
    check(config)
    return config


def records(workdir, kind):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [record for record in lines if record["kind"] == kind]


# Translation


def translator_config(tmp) -> Config:
    return config_of(
        tmp,
        model="transformer_tiny",
        model_fields={
            **SMALL,
            "norm_first": True,
            "dropout_rate": 0.0,
            "activation_dropout_rate": 0.0,
        },
        task="seq2seq",
        data={
            "name": "text_pairs",
            "texts": ("source", "target"),
            "buckets": (4,),
            "eval_split": "validation",
        },
        options={"label_smoothing": 0.1, "beams": 2, "bleu_tokenizer": "none"},
        steps=160,
        eval_every=40,
    )


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("translator")
    rng = np.random.default_rng(0)
    (tmp / "raw").mkdir()
    for split, count in (("train", 300), ("valid", 40)):
        rows = [rng.choice([*WORDS], rng.integers(1, 7)) for _ in range(count)]
        text = "".join(
            f"{' '.join(row)}\t{' '.join(WORDS[word] for word in row)}\n" for row in rows
        )
        (tmp / "raw" / f"{split}.tsv").write_text(text)
    summary = loop.train(translator_config(tmp), tmp / "run")
    return tmp, summary


def test_a_translator_learns_and_is_measured(translator):
    tmp, summary = translator
    test = summary["test"]
    assert test["perplexity"] == pytest.approx(math.exp(test["loss"]))
    assert test["bleu"] > 50 and test["exact_match"] > 0.3
    assert test["bleu_signature"].startswith(
        "nrefs:1|case:mixed|eff:no|tok:none|smooth:exp|version:"
    )
    losses = [record["loss"] for record in records(tmp / "run", "eval")]
    assert losses[-1] < 0.5 * losses[0]
    for record in records(tmp / "run", "train"):  # the loss is smoothed, perplexity is not
        assert record["perplexity"] == pytest.approx(math.exp(record["cross_entropy"]), rel=1e-5)
        assert record["cross_entropy"] != record["loss"]
    rows = [
        line.split("\t") for line in (tmp / "run" / "translations.tsv").read_text().splitlines()
    ]
    assert rows[0] == ["source", "reference", "translation"] and len(rows) == 41
    assert all(
        reference == " ".join(WORDS[word] for word in source.split())
        for source, reference, _ in rows[1:]
    )
    assert np.mean([reference == found for _, reference, found in rows[1:]]) == pytest.approx(
        test["exact_match"]
    )
    translations, references = [row[2] for row in rows[1:]], [row[1] for row in rows[1:]]
    assert translate.bleu(translations, references, "none") == pytest.approx(test["bleu"])


def test_evaluate_translates_too(translator, capsys):
    tmp, summary = translator
    assert evaluate.main([f"--workdir={tmp / 'run'}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == summary["test"].keys()
    for name, value in summary["test"].items():
        assert found[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-5))
    assert evaluate.main([f"--workdir={tmp / 'run'}"]) == 0
    assert "BLEU as sacrebleu's nrefs:1" in capsys.readouterr().out


def test_a_stopped_translator_goes_on_as_if_nothing_had_been(translator, tmp_path, monkeypatch):
    """Batches of several lengths included."""
    tmp, _ = translator
    stopped_and_resumed(translator_config(tmp), tmp_path / "run", monkeypatch, 53)
    assert_same_run(tmp / "run", tmp_path / "run")


def test_generate_translates(translator, capsys, monkeypatch):
    tmp, _ = translator
    rows = [
        line.split("\t") for line in (tmp / "run" / "translations.tsv").read_text().splitlines()[1:]
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{row[0]}\n" for row in rows)))
    assert generate.main([f"--workdir={tmp / 'run'}"]) == 0
    found = capsys.readouterr()
    assert found.out.splitlines() == [row[2] for row in rows]
    assert "40 texts in" in found.err
    assert (
        generate.main(
            [f"--workdir={tmp / 'run'}", "--prompt=hund", "--beams=1", "--length_penalty=0"]
        )
        == 0
    )
    assert capsys.readouterr().out == "dog\n"
    assert generate.main([f"--workdir={tmp / 'run'}", "--prompt=" + "hund " * 20]) == 0
    assert "1 of 1 sources are longer than 12 tokens and are cut" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"beams 10 must be .* at most half the vocabulary"):
        generate.main([f"--workdir={tmp / 'run'}", "--prompt=hund", "--beams=10"])


def test_what_a_translation_looks_at(translator, tmp_path, capsys):
    """Cells of the page: those of a source alone, without the padding that it has among longer
    ones."""
    tmp, _ = translator
    options = [f"--workdir={tmp / 'run'}", f"--out={tmp_path / 'page.html'}"]
    lines = (tmp / "raw" / "valid.tsv").read_text().splitlines()[:4]
    sources = [line.split("\t")[0] for line in lines]
    assert len({len(source.split()) for source in sources}) > 1
    assert explain.main([*options, "--split=validation", "--count=4"]) == 0
    assert "4 examples" in capsys.readouterr().out
    sections = (tmp_path / "page.html").read_text().split("<section>")[1:]
    run = setup.build(translator_config(tmp))
    variables = eval_variables(opening.restore(run, tmp / "run"))
    tokenizer = Tokenizer.from_str(run.card.kind("text").tokenizer)
    number = tokenizer.token_to_id
    assert len(sections) == 4
    source, section = min(
        zip(sources, sections, strict=True), key=lambda pair: len(pair[0].split())
    )
    assert f"<h2>{source}</h2>" in section
    assert generate.main([f"--workdir={tmp / 'run'}", f"--prompt={source}", "--beams=1"]) == 0
    translation = capsys.readouterr().out.strip()
    assert f"<p>{translation}</p>" in section
    head, *rows = re.findall(r"<tr>(.*?)</tr>", section)
    assert re.findall(r"<th>(.*?)</th>", head) == ["", *source.split(), "[SEP]"]
    assert [re.findall(r"<th>(.*?)</th>", row) for row in rows] == [
        [w] for w in [*translation.split(), "[SEP]"]
    ]
    given = (
        [*map(number, source.split()), number("[SEP]")],
        [number("[CLS]"), *map(number, translation.split())],
    )
    maps = attention_maps(run.model, variables, *(np.array([x], np.int32) for x in given)).maps
    cells = [[float(w) for w in re.findall(r'title="(.*?)"', row)] for row in rows]
    np.testing.assert_allclose(
        cells, np.mean(maps["decoder/cross_attention"], (0, 2))[0], atol=6e-4
    )
    np.testing.assert_allclose(np.sum(cells, 1), 1, atol=0.004)
    for wrong, words in (
        ([""], "its source is empty"),
        (["--method=rollout", "hier"], "--method is not for trans"),
    ):
        with pytest.raises((ConfigError, DataError), match=words):
            explain.main([*options, *wrong])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"texts": ("target",)}, "data.texts must name two texts, source and target of them"),
        ({"texts": ("source", "french")}, "has no text 'french'; it has source, target"),
        ({"eval_split": "test"}, "has no split 'test'"),
    ],
)
def test_pairs_that_a_config_asks_for_in_vain(translator, fields, words):
    config = translator_config(translator[0])
    for name, value in fields.items():
        setattr(config.data, name, value)
    with pytest.raises(Exception, match=words):
        setup.build(config)


# Labels


def labeller_config(tmp, model="bilstm", **data) -> Config:
    fields = {"embed_size": 16, "hidden_size": 16, "num_layers": 1, "dropout_rate": 0.1}
    return config_of(
        tmp,
        model=model,
        model_fields=fields if model == "bilstm" else SMALL | {"dropout_rate": 0.0},
        data={"name": "text_labels", "buckets": (6,), **data},
    )


def write_labels(tmp, columns):
    """Whether "rot" comes before "hund", in one text or one in each of two."""
    rng = np.random.default_rng(0)
    (tmp / "raw").mkdir()
    for split, count in (("train", 200), ("test", 40)):
        rows = ["\t".join([*columns, "label"])]
        for _ in range(count):
            pair = ["rot", "hund"] if rng.random() < 0.5 else ["hund", "rot"]
            parts = [
                " ".join([*rng.choice(["ein", "und", "hier"], rng.integers(0, 4)), word])
                for word in pair
            ]
            texts = parts if len(columns) == 2 else [" ".join(parts)]
            rows.append("\t".join([*texts, "yes" if pair[0] == "rot" else "no"]))
        (tmp / "raw" / f"{split}.tsv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def labeller(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("labeller")
    write_labels(tmp, ["text"])
    return tmp, loop.train(labeller_config(tmp), tmp / "run")


def test_a_classifier_of_texts_has_scores_of_every_class(labeller):
    tmp, summary = labeller
    test = summary["test"]
    assert test["examples"] == 40 and test["accuracy"] > 0.9
    assert sorted(test["per_class"]) == ["no", "yes"]
    assert {"precision", "recall", "f1", "support"} == set(test["per_class"]["no"])
    assert test["matthews"] > 0.8 and test["macro_f1"] > 0.9
    assert np.sum(test["confusion"]) == 40
    # in batches of several lengths too, label 1 is the positive one
    found = test["two_classes"]
    assert (
        found["positive"] == "yes"
        and found["confusion"] == test["confusion"]
        and found["roc_auc"]["value"] > 0.95
    )
    losses = [record["loss"] for record in records(tmp / "run", "eval")]
    assert losses == sorted(losses, reverse=True)


def test_a_stopped_classifier_goes_on_as_if_nothing_had_been(labeller, tmp_path, monkeypatch):
    tmp, _ = labeller
    stopped_and_resumed(labeller_config(tmp), tmp_path / "run", monkeypatch, 33)
    assert_same_run(tmp / "run", tmp_path / "run")


def test_training_crops_texts_by_the_key_and_evaluation_does_not(labeller):
    tmp, _ = labeller
    run = setup.build(labeller_config(tmp, crop_text=1.0))
    batch = jax.tree.map(jnp.asarray, batches.examples(run, "train", 32))
    same, again, other = (run.task.train_batch(jax.random.key(i), batch) for i in (0, 0, 1))
    assert (same["segments"].sum(1) < batch["segments"].sum(1)).mean() > 0.3
    assert jnp.array_equal(same["tokens"], again["tokens"]) and not jnp.array_equal(
        same["tokens"], other["tokens"]
    )
    assert jnp.array_equal(run.task.eval_batch(batch)["tokens"], batch["tokens"])
    with pytest.raises(
        ConfigError, match=r"config.data.crop_text = 1.0 is not for pairs \(text and pair\)"
    ):
        setup.build(
            labeller_config(tmp, crop_text=1.0),
            card=run.card.changed("text", texts=("text", "pair")),
        )


def test_texts_are_labelled(labeller, capsys, monkeypatch):
    tmp, _ = labeller
    monkeypatch.setattr("sys.stdin", io.StringIO("ein rot und hund\nhund rot\n"))
    assert (
        predict.main([f"--workdir={tmp / 'run'}", "--json", "--top=2", "hier rot ein hund", "-"])
        == 0
    )
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in found] == ["hier rot ein hund", "ein rot und hund", "hund rot"]
    assert [row["labels"][0]["label"] for row in found] == ["yes", "yes", "no"]
    assert all(
        sum(label["probability"] for label in row["labels"]) == pytest.approx(1, abs=1e-5)
        for row in found
    )
    (tmp / "texts.txt").write_text("hund rot\nein rot und hund\n")
    # lines, a directory, a text
    words = [str(tmp / "texts.txt"), str(tmp / "run"), "hier rot ein hund"]
    assert predict.main([f"--workdir={tmp / 'run'}", "--json", *words]) == 1
    printed = capsys.readouterr()
    again = [json.loads(line) for line in printed.out.splitlines()]
    assert [row["text"] for row in again] == ["hund rot", "ein rot und hund", "hier rot ein hund"]
    assert [row["labels"][0]["label"] for row in again] == ["no", "yes", "yes"]
    assert (
        f"skipped {tmp / 'run'} is a directory" in printed.err
        and "1 of 3 input(s) could not be read" in printed.err
    )
    with pytest.raises(DataError, match="is a directory, and texts are read from"):
        predict.main([f"--workdir={tmp / 'run'}", str(tmp / "run")])
    assert predict.main([f"--workdir={tmp / 'run'}", "rot hund " * 9]) == 0
    assert "1 of 1 text(s) are longer than 12 tokens and are cut" in capsys.readouterr().err


def test_pairs_of_texts_are_classified_by_bert(tmp_path, capsys):
    write_labels(tmp_path, ["text", "text_pair"])
    config = labeller_config(tmp_path, "bert_tiny", texts=("text", "text_pair"), buckets=())
    config.steps, config.eval_every = 150, 150
    assert loop.train(config, tmp_path / "run")["test"]["accuracy"] > 0.9
    assert predict.main([f"--workdir={tmp_path / 'run'}", "hier rot\tein hund", "hund\trot"]) == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split("  ")[1].split()[0] for line in lines] == ["yes", "no"]
    with pytest.raises(
        DataError, match=r"'rot' has 1 part\(s\): text and text_pair go with a tab in between"
    ):
        predict.main([f"--workdir={tmp_path / 'run'}", "rot"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"buckets": (12,)},
            r"config.data.buckets = \(12,\) must be between 0 and config.data.max_len = 12",
        ),
        ({"buckets": (0, 4)}, "must be between 0 and"),
    ],
)
def test_buckets_that_cannot_be(tmp_path, fields, words):
    with pytest.raises(ConfigError, match=words):
        labeller_config(tmp_path, **fields)
    with pytest.raises(
        ConfigError, match=r"config.data.crop_text = 0.5 is for labelled texts; nearest: .* = 0.0"
    ):
        check(config_of(tmp_path, model="gpt2_tiny", task="causal_lm", data={"crop_text": 0.5}))
    with pytest.raises(
        ConfigError, match=r"config.data.buckets = \(4,\) is for labelled texts and for pairs"
    ):
        check(Config(model="cnn", data=DataConfig(buckets=(4,))))


# Masked tokens and next sentence


def pretraining_config(data_dir, **fields) -> Config:
    config = Config(
        **{
            "model": "bert_tiny",
            "model_fields": {**SMALL, "dropout_rate": 0.1},
            "task": "masked_lm",
            "data": DataConfig(
                name="pydoc", data_dir=data_dir, tokenizer="wordpiece", vocab_size=400, max_len=32
            ),
            "optim": OptimConfig(learning_rate=1e-2, warmup_steps=5, clip_norm=1.0),
            "checkpoint": CheckpointConfig(every=8),
            "steps": 24,
            "batch_size": 32,
            "accumulate": 2,
            "eval_batch_size": 64,
            "eval_every": 12,
            "log_every": 12,
            **fields,
        }
    )
    check(config)
    return config


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("pretrained") / "run"
    return workdir, loop.train(pretraining_config(data_dir), workdir)


def test_pretraining_learns_and_has_both_accuracies(pretrained):
    workdir, summary = pretrained
    test = summary["test"]
    assert test["loss"] == pytest.approx(test["masked_loss"] + test["next_loss"], rel=1e-6)
    assert test["masked_loss"] < math.log(400) - 0.5
    assert summary["train"]["masked_accuracy"] > 0.03  # by chance 0.0025
    assert 0 < test["masked_accuracy"] < 1 and 0.3 < test["next_accuracy"] < 1
    for record in records(workdir, "train"):
        assert record["loss"] == pytest.approx(
            record["masked_loss"] + record["next_loss"], rel=1e-3
        )


def test_stopped_pretraining_goes_on_as_if_nothing_had_been(
    pretrained, tmp_path, data_dir, monkeypatch
):
    """Pairs and masks are functions of seed and step."""
    stopped_and_resumed(pretraining_config(data_dir), tmp_path / "run", monkeypatch, 13)
    assert_same_run(pretrained[0], tmp_path / "run")


def test_a_run_keeps_its_tokenizer(pretrained, data_dir, capsys):
    """Though the corpus would now give another, as that of another version of Python does."""
    workdir, summary = pretrained
    cached = list(Path(data_dir).rglob(".jaxmodels_cache/*/tokenizer.json"))
    files = [*cached, *(path.with_name("digests") for path in cached)]
    before = {path: path.read_text() for path in files}
    card = setup.build(pretraining_config(data_dir)).card
    try:
        for path in cached:
            if Tokenizer.from_str(before[path]).to_str() == card.kind("text").tokenizer:
                path.write_text(before[path].replace('"##', '"##x'))
                path.with_name("digests").write_text(
                    digest_lines({path.name: np.fromfile(path, np.uint8)})
                )
        assert (
            setup.build(pretraining_config(data_dir)).card.kind("text").tokenizer
            != card.kind("text").tokenizer
        )
        assert evaluate.main([f"--workdir={workdir}", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == summary["test"]
        loop.train(pretraining_config(data_dir), workdir)
        assert (
            json.loads((workdir / "dataset.json").read_text())["tokenizer"]
            == card.kind("text").tokenizer
        )
    finally:
        for path, text in before.items():
            path.write_text(text)


def test_what_was_pretrained_is_fine_tuned(pretrained, tmp_path, data_dir):
    """The encoder goes on, the heads of pretraining are left behind; the tokenizer comes along."""
    card = setup.build(pretraining_config(data_dir)).card
    (tmp_path / "tokenizer.json").write_text(card.kind("text").tokenizer)
    write_labels(tmp_path, ["text"])
    config = labeller_config(tmp_path, "bert_tiny", tokenizer=str(tmp_path / "tokenizer.json"))
    config.data.max_len, config.init_from, config.steps = 32, str(pretrained[0]), 5
    config.optim.warmup_steps = 1
    built = setup.build(config)
    state, text = setup.transfer.load(
        config.init_from,
        initial.init(built),
        skip=None,
        model=built.model,
        image_shape=(),
        warn=print,
    )
    assert text.endswith("fresh: head")
    theirs = opening.restore(
        setup.build(pretraining_config(data_dir)), pretrained[0], "best"
    ).params
    np.testing.assert_array_equal(state.params["pooler"]["kernel"], theirs["pooler"]["kernel"])
    np.testing.assert_array_equal(
        state.params["token_embed"]["embedding"], theirs["token_embed"]["embedding"]
    )


def test_both_losses_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    hidden, kernel, bias = rng.normal(size=(4, 5, 8)), rng.normal(size=(30, 8)), rng.normal(size=30)
    tokens = TokenLogits(*map(jnp.asarray, (hidden, kernel, bias)))
    following = jnp.asarray(rng.normal(size=(4, 2)))
    masked = np.array(
        [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], np.float32
    )
    batch = {
        "masked_target": jnp.asarray(rng.integers(0, 30, (4, 5))),
        "masked_weight": jnp.asarray(masked),
        "label": jnp.asarray([0, 1, 1, 0]),
        "weight": jnp.asarray([1.0, 1.0, 1.0, 0.0]),
        "share_masked": jnp.full(4, 3 / 8),
    }
    found = masked_lm(PretrainingLogits(tokens, following), batch)
    logits = hidden @ kernel.T + bias
    losses = optax.softmax_cross_entropy_with_integer_labels(
        jnp.asarray(logits), batch["masked_target"]
    )
    following_losses = optax.softmax_cross_entropy_with_integer_labels(following, batch["label"])
    expected = (losses * masked).sum() / 8 + following_losses[:3].mean()
    np.testing.assert_allclose(found["loss"][0] / found["loss"][1], expected, rtol=1e-5)
    assert found["masked_accuracy"][1] == 8 and found["next_accuracy"][1] == 3


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_of_pretraining_equal_one_batch(x64, data_dir, accumulate):
    """Though they have different numbers of masked tokens and of examples."""
    fields = {**SMALL, "dropout_rate": 0.0, "attention_dropout_rate": 0.0}
    run = setup.build(
        pretraining_config(data_dir, model_fields=fields, accumulate=1), devices=jax.devices()[:1]
    )
    model = run.model.clone(dtype=jnp.float64, param_dtype=jnp.float64)
    params = jax.tree.map(lambda x: x.astype(jnp.float64), initial.init(run).params)
    batch = {k: jnp.asarray(v) for k, v in next(batches.loader(run, "train", train=True)).items()}
    batch["weight"] = batch["weight"].at[5:9].set(0.0)
    batch["segments"] = batch["segments"].at[20:, 9:].set(0)
    batch = run.task.train_batch(jax.random.key(0), batch)
    assert len({float(rows.sum()) for rows in batch["masked_weight"].reshape(4, -1)}) > 1

    def gradients(accumulate):
        grads, count, metrics, _ = accumulated_gradients(
            params,
            {},
            batch,
            jax.random.key(1),
            model=model,
            objective=masked_lm,
            inputs=run.task.inputs,
            accumulate=accumulate,
        )
        return jax.tree.map(lambda g: g / count, grads), metrics

    (one, whole), (many, parts) = (jax.jit(gradients, static_argnums=0)(n) for n in (1, accumulate))
    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-12)
