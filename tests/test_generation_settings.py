"""Settings of ``generation_config.json``: every key is accounted for, and texts are
transformers'."""

import copy
import dataclasses
import inspect
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodels import originals, weights
from jaxmodels.decode import hub, processors, rules
from jaxmodels.decode import settings as decoding
from jaxmodels.decode.beam import beam_search
from jaxmodels.decode.generate import generate
from jaxmodels.decode.sampling import warped

SIZE, START, END = 30, 29, 0
TEXTS = 24
ENDS = {
    "eos_token_id": END,
    "pad_token_id": START,
    "decoder_start_token_id": START,
    "bos_token_id": 1,
}

SETTINGS = {
    "forced_eos_token_id": END,
    "forced_bos_token_id": 5,
    "early_stopping": True,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 2,
    "repetition_penalty": 1.5,
    "encoder_repetition_penalty": 1.6,
    "min_length": 6,
    "min_new_tokens": 7,
    "max_length": 9,
    "max_new_tokens": 8,
    "renormalize_logits": True,
    "bad_words_ids": [[3], [4, 5], [6, 7, 8], [START], [END]],
    "suppress_tokens": [2, 3, 9],
    "begin_suppress_tokens": [1, 22, 3, 17],
    "length_penalty": 0.0,
    "exponential_decay_length_penalty": [2, 1.4],
    "sequence_bias": [[[3], -4.0], [[7], 2.5], [[5, 6], 3.0], [[9, 8, 7], -2.0]],
    "remove_invalid_values": True,
}
"""One value for each setting that changes texts without draws."""

MORE = (
    {"early_stopping": "never"},
    {"length_penalty": -1.0, "early_stopping": "never"},
    {"no_repeat_ngram_size": 1, "encoder_no_repeat_ngram_size": 1},
    {"eos_token_id": [END, 4, 22]},
    {"remove_invalid_values": True, "bad_words_ids": [[3], [4, 5]]},
)
MIXTURES = (
    {"forced_eos_token_id": END, "bad_words_ids": [[START], [3, 4]], "renormalize_logits": True},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "min_length": 5},
    {"forced_bos_token_id": 6, "begin_suppress_tokens": [2, 7], "early_stopping": True},
    {"encoder_no_repeat_ngram_size": 1, "suppress_tokens": [5, 8], "length_penalty": 2.0},
    {
        "sequence_bias": [[[3], 1.5], [[2, 4], -3.0]],
        "renormalize_logits": True,
        "min_new_tokens": 4,
    },
)
CASES = [{name: value} for name, value in SETTINGS.items()] + [*MORE, *MIXTURES]
IDS = [",".join(f"{k}={v}" for k, v in case.items())[:60] for case in CASES]


def library():
    return originals.transformers()


def keys():
    """Every key that transformers' class takes, those of older files too."""
    cls = library().GenerationConfig
    taken = re.findall(r'kwargs\.(?:pop|get)\(\s*"(\w+)"', inspect.getsource(cls.__init__))
    return {*taken, *cls().to_dict(), *cls._get_default_generation_params()}


def test_every_key_of_transformers_is_applied_or_harmless_or_refused():
    tables = [{*hub.APPLIED}, {*hub.HARMLESS}, {*hub.REFUSED}]
    assert set.union(*tables) == keys()
    assert sum(map(len, tables)) == len(keys())


APPLIED_SAMPLES = SETTINGS | {
    "eos_token_id": [1, 2],
    "pad_token_id": 3,
    "bos_token_id": 4,
    "decoder_start_token_id": 5,
    "num_beams": 3,
    "num_return_sequences": 2,
    "do_sample": True,
    "temperature": 0.5,
    "top_k": 7,
    "top_p": 0.5,
    "min_p": 0.1,
    "top_h": 0.5,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
}
REFUSED_SAMPLES = {
    "penalty_alpha": 0.6,
    "dola_layers": "high",
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 2,
    "use_mtp": True,
    "is_assistant": True,
    "num_beam_groups": 2,
    "diversity_penalty": 0.5,
    "constraints": [{}],
    "force_words_ids": [[3]],
    "guidance_scale": 1.5,
    "watermarking_config": {"bias": 2.0},
    "low_memory": True,
    "force_bos_token_to_be_generated": True,
    "token_healing": True,
    "max_time": 1.0,
    "stop_strings": ["."],
    "cache_implementation": "quantized",
}


def directory(path, **said):
    (path / "generation_config.json").write_text(json.dumps(said))
    return path


def one_line(error):
    text = str(error.value)
    assert len(text) <= 500 and "\n" not in text, text
    return text


@pytest.mark.parametrize("key", [*hub.APPLIED, *hub.HARMLESS, *hub.REFUSED])
def test_no_key_is_passed_over(key, tmp_path):
    base = {"num_beams": 4} if key == "num_return_sequences" else {}
    plain = weights.generation_config(directory(tmp_path, **base))
    assert weights.generation_config(directory(tmp_path, **base, **{key: None})) == plain
    if key in hub.APPLIED:
        assert (
            weights.generation_config(directory(tmp_path, **base, **{key: APPLIED_SAMPLES[key]}))
            != plain
        )
        for wrong in (
            "three",
            float("nan"),
            [["x"]],
            {"a": 1},
            -(10**12),
            [-1],
            10**400,
            [[]],
            True,
        ):
            if wrong is True and isinstance(APPLIED_SAMPLES[key], bool):
                continue
            with pytest.raises(weights.WeightsError) as error:
                weights.generation_config(directory(tmp_path, **{key: wrong}))
            assert key in one_line(error) and str(tmp_path) in one_line(error)
    elif key in hub.HARMLESS:
        assert weights.generation_config(directory(tmp_path, **{key: 1})) == plain
    else:
        with pytest.raises(weights.WeightsError, match=f"{key} .* is refused: ") as error:
            weights.generation_config(directory(tmp_path, **{key: REFUSED_SAMPLES[key]}))
        one_line(error)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"num_beam": 4}, "'num_beam' is no setting that is known here"),
        ({"x" * 3000: 4}, "is no setting that is known here"),
        (
            {"num_beams": 10**9},
            "num_beams 1000000000 must be a whole number, at least 1 and at most 1024",
        ),
        ({"num_beams": 2.0}, "num_beams 2.0 must be a whole number"),
        ({"bad_words_ids": [3]}, r"bad_words_ids \[3\] must be a list of lists"),
        ({"suppress_tokens": 3}, "suppress_tokens 3 must be a list of tokens"),
        ({"suppress_tokens": [*range(10**4), "x"]}, "suppress_tokens 'x' must be a whole number"),
        ({"sequence_bias": {"(3,)": 1.0}}, "sequence_bias .* must be a list of pairs"),
        ({"decoder_start_token_id": [1, 2]}, "decoder_start_token_id .* must be a whole number"),
        ({"early_stopping": "always"}, "early_stopping 'always' must be true, false or"),
        ({"num_return_sequences": 2}, "num_return_sequences 2 needs do_sample or num_beams"),
        (
            {"forced_bos_token_id": 3, "suppress_tokens": [3]},
            "forced_bos 3 is in suppress_tokens too",
        ),
    ],
)
def test_wrong_settings_are_one_line(said, words, tmp_path):
    with pytest.raises(weights.WeightsError, match=words) as error:
        weights.generation_config(directory(tmp_path, **said))
    one_line(error)


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": ' * 100_000, "null", "\xff"])
def test_files_that_are_no_objects_are_one_line(text, tmp_path):
    for name in ("generation_config.json", "config.json"):
        (tmp_path / name).write_bytes(text.encode("latin-1"))
        with pytest.raises(
            weights.WeightsError, match=f"{name} (is no good JSON|holds .*, not an object)"
        ) as error:
            weights.generation_config(tmp_path)
        one_line(error)
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    "key", ["bad_words_ids", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens"]
)
def test_tokens_outside_the_vocabulary_are_named(key, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 20, "decoder_vocab_size": 10}))
    value = {"bad_words_ids": [[3, 10]], "suppress_tokens": [10]}.get(key, 10)
    with pytest.raises(
        weights.WeightsError, match=f"{key} has token 10, outside the model's vocabulary of 10"
    ):
        weights.generation_config(directory(tmp_path, **{key: value}))


def test_generation_config_says_all_where_it_is_there(tmp_path):
    """And without it config.json does, as in transformers."""
    model = {
        "num_beams": 3,
        "eos_token_id": 7,
        "vocab_size": 20,
        "n_layer": 2,
        "length_penalty": 0.0,
    }
    (tmp_path / "config.json").write_text(json.dumps(model))
    said = weights.generation_config(tmp_path)
    assert (said.beams, said.stop, said.length_penalty) == (3, (7,), 0.0)
    said = weights.generation_config(directory(tmp_path, num_beams=2))
    assert (said.beams, said.stop, said.length_penalty) == (2, (), None)
    (tmp_path / "config.json").write_text(json.dumps(model | {"jaxmodels": {}}))
    assert weights.generation_config(tmp_path).beams == 2
    (tmp_path / "generation_config.json").unlink()
    assert weights.generation_config(tmp_path) == weights.GenerationConfig()


# scores behind the processors


def their_processors(twin, said, prompt, source, **more):
    config = library().GenerationConfig(**ENDS | said | more)
    for name, value in config._get_default_generation_params().items():
        if getattr(config, name) is None:
            setattr(config, name, value)
    config.max_length = more["max_length"]
    twin._prepare_special_tokens(config, device="cpu")
    return twin._get_logits_processor(config, input_ids_seq_length=prompt, encoder_input_ids=source)


SIDES = {"layers": 1, "attention_heads": 4, "ffn_dim": 40}


@pytest.fixture(scope="module")
def marian():
    torch.manual_seed(0)
    sizes = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in SIDES.items()}
    config = library().MarianConfig(
        vocab_size=SIZE,
        d_model=32,
        max_position_embeddings=40,
        **sizes,
        pad_token_id=START,
        eos_token_id=END,
        decoder_start_token_id=START,
    )
    return randomised(library().MarianMTModel(config))


def randomised(model):
    """Weights with which texts are not one token over and over, and some of which end."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and parameter.requires_grad:
            parameter.data.normal_(0, 0.5)
        if name.endswith("decoder.layers.0.final_layer_norm.weight"):
            parameter.data.normal_(0, 1)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias[0, END] += 4
    return model.eval()


JITTED = jax.jit(
    lambda r, scores, written: processors.normalised(r, processors.process(r, scores, written))
)


@pytest.fixture
def one_program(monkeypatch):
    monkeypatch.setattr(rules, "EVERY", True)


@pytest.mark.parametrize("said", CASES, ids=IDS)
def test_processors_are_transformers(said, marian, one_program):
    """At every length, of texts and sources in which tokens come again."""
    rng = np.random.default_rng(0)
    source = rng.integers(0, 9, (TEXTS, 7))
    tokens = rng.integers(0, 9, (TEXTS, 10))
    logits = np.round(rng.normal(size=(TEXTS, SIZE)) * 3, 2).astype(np.float32)
    changed = False
    settings = dataclasses.replace(
        hub.settings_from_transformers(ENDS | said), max_length=10, max_new_tokens=None
    )
    for prompt in (1, 3):
        more = {"max_length": 10, "max_new_tokens": None}
        theirs = their_processors(marian, said, prompt, torch.from_numpy(source), **more)
        ours = rules.make_rules(settings, prompt=prompt, max_len=10, size=SIZE)
        for place in range(prompt, 10):
            expected = theirs(torch.from_numpy(tokens[:, :place]), torch.from_numpy(logits)).numpy()
            first = np.zeros(TEXTS, np.int32)
            written = processors.Written(
                tokens, first, np.int32(place), source, np.ones(source.shape, bool)
            )
            found = np.asarray(JITTED(ours, logits, written))
            if said.get("renormalize_logits"):
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
            else:
                np.testing.assert_array_equal(found, expected)
            changed |= not np.array_equal(expected, logits)
    beams_only = {
        "early_stopping",
        "length_penalty",
        "max_length",
        "max_new_tokens",
        "remove_invalid_values",
    }
    assert changed or {*said} <= beams_only | {"eos_token_id"}


# texts


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(0)
    config = library().GPT2Config(
        vocab_size=SIZE,
        n_positions=40,
        n_embd=32,
        n_layer=1,
        n_head=4,
        bos_token_id=1,
        eos_token_id=END,
    )
    return randomised(library().GPT2LMHeadModel(config))


def until_end(row, ends):
    return row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))]


def saved(twin, path, said, **more):
    """A directory with settings; transformers' model as it reads it, and ours."""
    twin.save_pretrained(path)
    directory(path, **ENDS | {"max_length": 12} | said | more)
    theirs = type(twin).from_pretrained(path, dtype=torch.float32).eval()
    model, variables = weights.load(path, cast=True)
    return theirs, model, variables, weights.generation_config(path)


def compare_translations(twin, path, said, **more):
    source = np.random.default_rng(1).integers(1, SIZE - 1, (TEXTS, 6))
    theirs, model, variables, settings = saved(twin, path, said, **more)
    with torch.no_grad():
        rows = theirs.generate(torch.from_numpy(source))[:, 1:].tolist()
    ours, _ = beam_search(model, variables, source, settings=settings)
    assert ours == [until_end(row, settings.stop) for row in rows]
    return ours


def compare_texts(twin, path, said, **more):
    prompts = np.random.default_rng(1).integers(1, SIZE - 1, (TEXTS, 4))
    theirs, model, variables, settings = saved(twin, path, said, **more)
    with torch.no_grad():
        rows = theirs.generate(
            torch.from_numpy(prompts), attention_mask=torch.ones(prompts.shape, dtype=int)
        )
    ours = generate(model, variables, prompts.tolist(), settings=settings)
    assert ours == [until_end(row, settings.stop) for row in rows[:, 4:].tolist()]
    return ours


@pytest.mark.parametrize("said", CASES, ids=IDS)
@pytest.mark.parametrize("mode", ["beams", "greedy", "gpt2"])
def test_texts_are_transformers(said, mode, marian, gpt2, tmp_path, one_program):
    if mode == "gpt2":
        compare_texts(gpt2, tmp_path, said)
    else:
        compare_translations(marian, tmp_path, said, num_beams=4 if mode == "beams" else 1)


@pytest.mark.parametrize("said", MIXTURES[:2], ids=["ends", "repetitions"])
def test_rules_that_are_there_alone_are_compiled(said, marian, tmp_path):
    """And only these: in one program with all of them the texts are the same."""
    compare_translations(marian, tmp_path, said, num_beams=4)


def test_weights_in_bfloat16(marian, gpt2, tmp_path, one_program):
    """Stored so, computed in float32 on both sides."""
    for said in ({}, *MIXTURES):
        compare_translations(copy.deepcopy(marian).bfloat16(), tmp_path, said, num_beams=4)
        compare_translations(copy.deepcopy(marian).bfloat16(), tmp_path, said)
        compare_texts(copy.deepcopy(gpt2).bfloat16(), tmp_path, said)


def test_several_of_the_best_texts(marian, tmp_path):
    source = np.random.default_rng(1).integers(1, SIZE - 1, (5, 6))
    theirs, model, variables, settings = saved(
        marian, tmp_path, {"num_beams": 4, "num_return_sequences": 3}
    )
    options = {"return_dict_in_generate": True, "output_scores": True}
    found = theirs.generate(torch.from_numpy(source), **options)
    ours, scores = beam_search(model, variables, source, settings=settings)
    assert (
        ours == [until_end(row, (END,)) for row in found.sequences[:, 1:].tolist()]
        and len(ours) == 15
    )
    np.testing.assert_allclose(scores, found.sequences_scores.numpy(), rtol=1e-4)
    best, _ = beam_search(
        model,
        variables,
        source,
        settings=dataclasses.replace(settings, num_return_sequences=None),
        beams=4,
    )
    assert best == ours[::3]


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default:UserWarning")
def test_lengths_without_settings_are_transformers(marian, gpt2, tmp_path):
    """20 new tokens, and no more than the model has places."""
    assert (
        max(
            map(
                len,
                compare_translations(marian, tmp_path, {"max_length": None, "eos_token_id": None}),
            )
        )
        == 20
    )
    assert (
        max(map(len, compare_texts(gpt2, tmp_path, {"max_length": None, "eos_token_id": None})))
        == 20
    )


def test_texts_do_not_depend_on_padding(marian, gpt2, tmp_path, one_program):
    """With the settings that look at what is written, and at the source."""
    said = {
        "no_repeat_ngram_size": 2,
        "encoder_no_repeat_ngram_size": 2,
        "encoder_repetition_penalty": 1.4,
    }
    said |= {
        "repetition_penalty": 1.2,
        "bad_words_ids": [[3, 4], [5]],
        "sequence_bias": [[[0, 7], 1.0]],
    }
    _, model, variables, settings = saved(marian, tmp_path, said, num_beams=3)
    rng = np.random.default_rng(3)
    rows = [rng.integers(1, SIZE - 1, n) for n in (3, 6)]
    source, segments = np.zeros((2, 2, 6), np.int32)
    for i, row in enumerate(rows):
        source[i, : len(row)], segments[i, : len(row)] = row, 1
    together, _ = beam_search(model, variables, source, segments, settings=settings)
    assert together == [
        beam_search(model, variables, row[None], settings=settings)[0][0] for row in rows
    ]
    _, model, variables, settings = saved(gpt2, tmp_path, said)
    together = generate(model, variables, [row.tolist() for row in rows], settings=settings)
    for row, text in zip(rows, together, strict=True):
        alone = generate(model, variables, [row.tolist()], settings=settings)[0]
        assert alone[: len(text)] == text and len(text) >= 3


# draws


DRAWS = (
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_k": 1},
    {"top_k": 0, "top_p": 0.6},
    {"top_p": 0.9, "temperature": 1.5},
    {"min_p": 0.2},
    {"top_h": 0.4},
    {"top_h": 0.95, "top_k": 0},
    {"typical_p": 0.6},
    {"typical_p": 0.2, "top_k": 9},
    {"epsilon_cutoff": 0.05},
    {"eta_cutoff": 0.05},
    {
        "temperature": 1.7,
        "top_k": 12,
        "top_p": 0.9,
        "min_p": 0.02,
        "typical_p": 0.9,
        "eta_cutoff": 0.01,
    },
)


@pytest.mark.parametrize("said", DRAWS, ids=str)
@pytest.mark.parametrize("beams", [1, 4])
def test_what_may_be_drawn_is_transformers(said, beams, marian):
    """Of 120 tokens, some of them left out before."""
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(TEXTS, 120)) * 3).astype(np.float32)
    logits[:, 5:9] = -np.inf
    theirs = their_processors(
        marian, said | {"do_sample": True, "num_beams": beams}, 1, None, max_length=9
    )
    expected = theirs(torch.zeros((TEXTS, 1), dtype=int), torch.from_numpy(logits)).numpy()
    settings = hub.settings_from_transformers(ENDS | said | {"do_sample": True})
    found = np.asarray(warped(jnp.asarray(logits), decoding.sampling(settings, beams)))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.isinf(found).sum() > 4 * TEXTS or said == {"temperature": 0.7}


def test_beams_are_drawn_without_replacement(marian, tmp_path, monkeypatch):
    """The most probable text after one token: as often as its probability says, drawn among all
    pairs of two."""
    source = np.full((4000, 1), 4)
    said = {
        "do_sample": True,
        "num_beams": 2,
        "max_length": 2,
        "top_k": 3,
        "num_return_sequences": 2,
    }
    _, model, variables, settings = saved(marian, tmp_path, said)
    found, scores = beam_search(model, variables, source, settings=settings, seed=1)
    pairs = [
        tuple(sorted(text[0] for text in found[2 * i : 2 * i + 2])) for i in range(len(source))
    ]
    p = {text[0]: np.exp(score) for text, score in zip(found, scores, strict=True)}
    assert len(p) == 3 and abs(sum(p.values()) - 1) < 0.35
    total = sum(p.values())
    for a, b in {*pairs}:
        pa, pb = p[a] / total, p[b] / total
        expected = pa * pb / (1 - pa) + pb * pa / (1 - pb)
        assert (
            abs(pairs.count((a, b)) / len(pairs) - expected)
            < 4 * (expected * (1 - expected) / len(pairs)) ** 0.5
        )
    again, _ = beam_search(model, variables, source, settings=settings, seed=1)
    assert again == found != beam_search(model, variables, source, settings=settings, seed=2)[0]


def test_drawn_translations_and_texts(marian, gpt2, tmp_path):
    """As many as are asked for, of the tokens that may be drawn, by the seed."""
    said = {
        "do_sample": True,
        "temperature": 3.0,
        "num_return_sequences": 3,
        "suppress_tokens": [1, 2],
    }
    _, model, variables, settings = saved(marian, tmp_path, said, num_beams=1)
    source = np.full((2, 3), 4)
    texts, scores = beam_search(model, variables, source, settings=settings)
    assert len(texts) == len(scores) == 6 and len({*map(tuple, texts)}) > 3
    assert not {1, 2} & {token for text in texts for token in text}
    assert texts == beam_search(model, variables, source, settings=settings)[0]
    assert texts != beam_search(model, variables, source, settings=settings, seed=1)[0]
    _, model, variables, settings = saved(gpt2, tmp_path, said)
    texts = generate(model, variables, source.tolist(), settings=settings)
    assert len(texts) == 6 and len({*map(tuple, texts)}) > 3
    assert not {1, 2} & {token for text in texts for token in text}


# what does not fit


def test_searches_and_texts_that_do_not_fit(marian, gpt2, tmp_path):
    _, translator, variables, settings = saved(marian, tmp_path, {})
    _, language_model, _, _ = saved(gpt2, tmp_path, {})
    source = np.ones((1, 3), np.int32)
    config = decoding.GenerationConfig
    for model, source_, options, words in (
        (
            language_model,
            source,
            {"settings": settings},
            "a GPT2 has no encoder, and a beam search needs one",
        ),
        (
            translator,
            source.astype(np.int64) + 2**40,
            {"settings": settings},
            "a source has token 1099511627777, outside",
        ),
        (translator, source - 3, {"settings": settings}, "a source has token -2, outside"),
        (
            translator,
            source,
            {},
            "beams, max_len, bos and eos must all be given where no settings are",
        ),
        (translator, source, {"settings": config()}, "say with which token a text starts"),
        (
            translator,
            source,
            {"settings": settings, "beams": 16},
            "beams 16 .* at most half the vocabulary of 30",
        ),
        (
            translator,
            source,
            {"settings": config(start=1, suppress_tokens=[30])},
            "suppress_tokens has token 30",
        ),
        (
            translator,
            source,
            {"settings": config(start=1, num_return_sequences=2)},
            "num_return_sequences 2 is above",
        ),
        (
            translator,
            source,
            {"settings": config(start=1, exponential_decay_length_penalty=(1, 2.0))},
            "needs a token that ends a text",
        ),
    ):
        with pytest.raises(ValueError, match=words) as error:
            beam_search(model, variables, source_, **options)
        one_line(error)
    for model, options, words in (
        (translator, {"settings": settings}, "a Transformer continues no prompts"),
        (language_model, {}, "max_len is not given"),
        (
            language_model,
            {"settings": config(beams=2)},
            "num_beams 2: a language model writes greedily or draws",
        ),
        (
            language_model,
            {"settings": config(num_return_sequences=2)},
            "num_return_sequences 2 of greedy texts",
        ),
        (
            language_model,
            {"settings": config(max_length=3)},
            "a prompt of 3 tokens leaves nothing of max_len 3",
        ),
        (language_model, {"settings": config(forced_bos=30)}, "forced_bos has token 30"),
        (language_model, {"max_len": 9, "prompts": [[1, 2**40]]}, "token 1099511627776 is outside"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            generate(model, variables, options.pop("prompts", [[1, 2, 3]]), **options)
        one_line(error)
