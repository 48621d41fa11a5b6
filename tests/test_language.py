"""Language models as runs: objective, whole training, resumption, meshes, and text from what was
trained."""

import json
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodels
from input_pipeline import TextCard
from jaxmodels import weights
from jaxmodels.nn.layers import TokenLogits
from tests.test_loop import assert_same_run, stopped_and_resumed
from train import evaluate, generate, loop, predict, setup
from train.config import CheckpointConfig, Config, ConfigError, DataConfig, OptimConfig, check
from train.records import opening
from train.tasks.causal_lm import causal_lm
from train.tasks.cross_entropy import token_cross_entropy

pytestmark = pytest.mark.usefixtures("two_devices")

SMALL = {"num_layers": 2, "num_heads": 2, "hidden_size": 32, "mlp_dim": 64}


def outputs_of(batch=3, length=12, vocabulary=50, *, bias=False, seed=0):
    rng = np.random.default_rng(seed)
    hidden, kernel = rng.normal(size=(batch, length, 8)), rng.normal(size=(vocabulary, 8))
    return TokenLogits(
        jnp.asarray(hidden),
        jnp.asarray(kernel),
        jnp.asarray(rng.normal(size=vocabulary)) if bias else None,
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_cross_entropy_in_parts_is_the_whole(x64, monkeypatch, platform, bias, label_smoothing):
    """In value and gradient, by the logits' own formula; on GPUs with rows added to the
    vocabulary."""
    monkeypatch.setattr("train.tasks.cross_entropy.target_platform", lambda: platform)
    outputs = outputs_of(bias=bias)
    rng = np.random.default_rng(1)
    target, weight = (
        jnp.asarray(rng.integers(0, 50, (3, 12))),
        jnp.asarray(rng.integers(0, 3, (3, 12)), jnp.float64),
    )

    def expected(outputs, weight):
        labels = jax.nn.one_hot(target, 50)
        smooth = optax.smooth_labels(labels, label_smoothing)
        plain = (optax.softmax_cross_entropy(outputs.logits, labels) * weight).sum()
        correct = ((outputs.logits.argmax(-1) == target) * weight).sum()
        return 0.7 * (optax.softmax_cross_entropy(outputs.logits, smooth) * weight).sum(), (
            plain,
            correct,
        )

    def found(outputs, weight, chunk):
        loss, *others = token_cross_entropy(
            outputs, target, weight, label_smoothing=label_smoothing, chunk=chunk
        )
        return 0.7 * loss, others

    whole = jax.value_and_grad(expected, (0, 1), has_aux=True)(outputs, weight)
    for chunk in (1, 3 * 50 * 4, None):
        # without a gradient
        np.testing.assert_allclose(found(outputs, weight, chunk)[0], whole[0][0], rtol=1e-12)
        parts = jax.value_and_grad(found, (0, 1), has_aux=True)(outputs, weight, chunk)
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_of_equal_logits_the_first_is_the_largest():
    outputs = TokenLogits(jnp.ones((1, 4, 2)), jnp.ones((5, 2)).at[1].set(0.5))
    sums = token_cross_entropy(outputs, jnp.array([[0, 1, 2, 4]]), jnp.ones((1, 4)))
    assert sums.correct == 1


def test_no_array_of_all_logits_with_a_large_vocabulary():
    """Nor in the backward pass: the largest array of the compiled gradient is a part of the
    logits."""
    outputs = TokenLogits(jnp.zeros((2, 64, 8)), jnp.zeros((1000, 8)))
    target, weight = jnp.zeros((2, 64), jnp.int32), jnp.ones((2, 64))

    def loss(outputs, chunk):
        return token_cross_entropy(outputs, target, weight, chunk=chunk).loss

    memory = [
        jax.jit(jax.grad(loss), static_argnums=1)
        .lower(outputs, chunk)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for chunk in (2**26, 2 * 4 * 1000)
    ]
    assert memory[0] >= 2 * 64 * 1000 * 4
    assert memory[1] < memory[0] / 5


def test_parts_are_of_what_each_device_has():
    """Of eight times the examples on eight devices as many places are made at a time as of one's on
    one."""

    def rounds(batch):
        shapes = (batch, 64, 8), (1000, 8), (batch, 64), (batch, 64)
        hidden, kernel, target, weight = map(
            jax.ShapeDtypeStruct, shapes, (jnp.float32,) * 2 + (jnp.int32, jnp.float32)
        )
        traced = jax.make_jaxpr(
            lambda *x: token_cross_entropy(TokenLogits(*x[:2]), *x[2:], chunk=16_000)
        )
        return re.findall(r"length=(\d+)", str(traced(hidden, kernel, target, weight)))

    with jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((4, 2, 1, 1), ("data", "fsdp", "sequence", "tensor"))
    ):
        eight = rounds(8)
    assert rounds(1) == eight == ["4"] and rounds(8) == ["32"]


def test_logits_of_bfloat16_are_products_in_float32():
    hidden, kernel = (
        jax.random.normal(jax.random.key(i), (1, n, 256), jnp.bfloat16)
        for i, n in ((0, 8), (1, 200))
    )
    logits = TokenLogits(hidden, kernel[0]).logits
    exact = np.einsum(
        "bld,vd->blv", np.asarray(hidden, np.float64), np.asarray(kernel[0], np.float64)
    )
    np.testing.assert_allclose(logits, exact, rtol=1e-5, atol=1e-4)


def test_loss_counts_tokens_and_bits_characters():
    outputs = outputs_of()
    batch = {
        "target": jnp.zeros((3, 12), jnp.int32),
        "weight": jnp.ones((3, 12)).at[1, 5:].set(0),
        "characters": jnp.full((3, 12), 2.5),
    }
    metrics = causal_lm(outputs, batch)
    count = 3 * 12 - 7
    assert metrics["loss"][1] == metrics["accuracy"][1] == count
    assert metrics["bits_per_character"][1] == 2.5 * count
    np.testing.assert_allclose(
        metrics["bits_per_character"][0], metrics["loss"][0] / math.log(2), rtol=1e-6
    )
    # what has no weight has no say
    changed = outputs._replace(hidden=outputs.hidden.at[1, 5:].add(1.0))
    np.testing.assert_allclose(causal_lm(changed, batch)["loss"][0], metrics["loss"][0])


def test_a_batch_of_mixed_lengths_equals_one_by_one(x64):
    model = jaxmodels.create(
        "gpt2_tiny", vocab_size=11, max_len=16, **SMALL, dtype=jnp.float64, param_dtype=jnp.float64
    )
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 11, n) for n in (9, 4, 6)]
    variables = jax.jit(partial(model.init, train=False))(
        jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
    )
    apply = jax.jit(partial(model.apply, train=False))
    for left in (False, True):
        tokens, segments = np.zeros((2, 3, 9), np.int32)
        for i, text in enumerate(texts):
            places = slice(9 - len(text), 9) if left else slice(0, len(text))
            tokens[i, places], segments[i, places] = text, 1
        logits = apply(variables, jnp.asarray(tokens), jnp.asarray(segments)).logits
        for i, text in enumerate(texts):
            alone = apply(variables, jnp.asarray(text)[None]).logits[0]
            np.testing.assert_allclose(logits[i][segments[i] > 0], alone, rtol=1e-10, atol=1e-12)
    packed = jnp.asarray(np.concatenate(texts[1:]))[None]
    segments = jnp.asarray([[1] * 4 + [2] * 6])
    logits = apply(variables, packed, segments).logits[0, 4:]
    alone = apply(variables, jnp.asarray(texts[2])[None]).logits[0]
    np.testing.assert_allclose(logits, alone, rtol=1e-10, atol=1e-12)


def test_nothing_is_seen_of_later_tokens():
    model = jaxmodels.create("gpt2_tiny", vocab_size=11, max_len=16, **SMALL)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32), train=False)
    tokens = jnp.asarray([[1, 2, 3, 4, 5, 6, 7]])
    before = model.apply(variables, tokens, train=False).logits[0]
    after = model.apply(variables, tokens.at[0, 4].set(9), train=False).logits[0]
    changed = (before != after).any(-1)
    assert changed.tolist() == [False] * 4 + [True] * 3


def config_of(data_dir, **fields) -> Config:
    return Config(
        **{
            "model": "gpt2_tiny",
            "model_fields": {**SMALL, "dropout_rate": 0.1},
            "task": "causal_lm",
            "data": DataConfig(
                name="pydoc", data_dir=data_dir, tokenizer="bpe", vocab_size=400, max_len=32
            ),
            "optim": OptimConfig(
                learning_rate=3e-3, warmup_steps=2, weight_decay=1e-2, clip_norm=1.0
            ),
            "checkpoint": CheckpointConfig(every=8),
            "steps": 24,
            "batch_size": 16,
            "accumulate": 2,
            "eval_every": 12,
            "eval_batch_size": 256,
            "log_every": 6,
            **fields,
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("language") / "run"
    summary = loop.train(config_of(data_dir), workdir)
    return workdir, summary


def test_a_run_learns_and_says_how_well(run):
    workdir, summary = run
    test = summary["test"]
    assert test["loss"] < math.log(400) - 0.5
    assert test["perplexity"] == pytest.approx(math.exp(test["loss"]))
    assert test["tokens"] > 2_000
    assert 0 < test["bits_per_character"] < 8
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all("perplexity" in record for record in records)
    assert {"tokens_per_second"} <= set(
        json.loads((workdir / "timings.jsonl").read_text().splitlines()[0])
    )


def test_the_best_checkpoint_has_the_lowest_loss(run, data_dir):
    workdir, _ = run
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    losses = {r["step"]: r["loss"] for r in records if r["kind"] == "eval"}
    built = setup.build(config_of(data_dir))
    assert int(opening.restore(built, workdir, "best").step) == min(losses, key=losses.get)


def test_a_stopped_run_goes_on_as_if_nothing_had_been(run, tmp_path, data_dir, monkeypatch):
    stopped_and_resumed(config_of(data_dir), tmp_path / "run", monkeypatch, 13)
    assert_same_run(run[0], tmp_path / "run")


def test_evaluate_gives_the_summary_again(run, capsys):
    workdir, summary = run
    assert evaluate.main([f"--workdir={workdir}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == summary["test"]


def test_text_from_a_run_and_from_its_weights(run, tmp_path, data_dir, capsys):
    workdir, _ = run
    arguments = ["--prompt=The for statement", "--max_tokens=12", "--temperature=0.7", "--top_k=20"]
    assert generate.main([f"--workdir={workdir}", *arguments]) == 0
    found = capsys.readouterr()
    assert found.out.startswith("The for statement")
    assert "12 tokens in" in found.err and "tokens/s" in found.err
    built = setup.build(config_of(data_dir))
    state = opening.restore(built, workdir)
    weights.save(
        tmp_path, built.model, {"params": jax.device_get(state.params)}, format="transformers"
    )
    (tmp_path / "tokenizer.json").write_text(built.card.kind("text").tokenizer)
    assert generate.main([f"--weights={tmp_path}", *arguments]) == 0
    assert capsys.readouterr().out == found.out
    assert generate.main([f"--workdir={workdir}", "--count=2", "--max_tokens=4"]) == 0
    assert capsys.readouterr().out.count("---") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt=" + "word " * 40], "a prompt of .* tokens leaves nothing of max_len 32"),
        (["--step=7"], "no checkpoint of step 7"),
    ],
)
def test_mistakes_in_what_is_asked_for(run, arguments, words):
    with pytest.raises(Exception, match=words):
        generate.main([f"--workdir={run[0]}", *arguments])


def test_a_language_model_labels_no_images(run):
    with pytest.raises(ConfigError, match="knows no labels"):
        predict.main([f"--workdir={run[0]}", "x.png"])


def test_weights_and_tokenizer_must_belong_together(run, tmp_path, data_dir):
    card = setup.build(config_of(data_dir)).card
    model = jaxmodels.create("gpt2_tiny", vocab_size=300, max_len=16, **SMALL)
    variables = jax.device_get(
        model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32), train=False)
    )
    weights.save(tmp_path, model, variables)
    (tmp_path / "tokenizer.json").write_text(card.kind("text").tokenizer)
    with pytest.raises(
        ConfigError, match="the tokenizer has 400 tokens and the weights are for 300"
    ):
        generate.main([f"--weights={tmp_path}"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"model": "cnn", "model_fields": {}},
            "does not fit model 'cnn'; nearest: config.task = 'classification'",
        ),
        ({"data": DataConfig(name="pydoc", flip=True)}, "config.data.flip = True is for images"),
        ({"model_fields": {"vocab_size": 30}}, "vocab_size = 30 is below the 400 tokens"),
        ({"model_fields": {"max_len": 30}}, "max_len = 30 is below the 32 tokens"),
        ({"model_fields": {"attention": "flash"}}, "attention 'flash' is not one of auto, einsum"),
    ],
)
def test_configs_that_do_not_fit(data_dir, fields, words):
    config = config_of(data_dir, **fields)
    card = TextCard("pydoc", "1.0.0", {"train": 1, "test": 1}, 400, 32, "{}", "")
    with pytest.raises(ConfigError, match=words):
        check(config)
        setup.build(config, card=card)


def test_a_scanned_model_compiles_alike_whatever_its_depth():
    """The program of 48 layers has not a line more than that of 12."""

    def lines(layers):
        fields = SMALL | {"num_layers": layers, "scan": True, "remat": True}
        model = jaxmodels.create("gpt2_tiny", vocab_size=50, **fields)
        tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)
        variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), tokens)
        loss = lambda v, x: model.apply(v, x, train=False).logits.sum()  # noqa: E731
        return len(jax.jit(jax.grad(loss)).lower(variables, tokens).as_text().splitlines())

    assert lines(48) == lines(12)
