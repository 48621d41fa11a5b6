"""Text generation: token for token as transformers writes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodels
from jaxmodels import originals, weights
from jaxmodels.decode import generate as generation
from jaxmodels.decode.generate import GREEDY, Sampling, generate, kept
from jaxmodels.decode.processors import Rules
from train.compare.certificate import randomise

PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6]]


def pair(vocab_size=53, **fields):
    """A model with random weights, and transformers' with the same."""
    fields = {
        "max_len": 40,
        "num_layers": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "mlp_dim": 48,
        **fields,
    }
    model = jaxmodels.create("gpt2_tiny", vocab_size=vocab_size, **fields)
    torch.manual_seed(0)
    original = originals.build(model, ())
    randomise(original.module)
    tensors = {k: v.numpy() for k, v in original.tensors().items()}
    twin = originals.transformers().GPT2LMHeadModel(original.module.config).eval()
    twin.load_state_dict(original.module.state_dict())
    return model, weights.from_torch(model, tensors), twin


@pytest.fixture(scope="module", params=[False, True], ids=["layers", "scan"])
def models(request):
    return pair(scan=request.param)


def theirs(twin, prompts, *, max_len, **options):
    """What transformers writes: prompts padded at the left."""
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, **options}
    with torch.no_grad():
        found = twin.generate(tokens, attention_mask=mask, max_length=max_len, **options)
    return found[:, longest:].tolist()


# all at once, and up to the multiple that the longest prompt reaches
@pytest.mark.parametrize("read", [64, 3])
def test_greedy_equals_transformers(models, read, monkeypatch):
    model, variables, twin = models
    monkeypatch.setattr(generation, "READ", read)
    ours = generate(model, variables, PROMPTS, max_len=40)
    assert ours == theirs(twin, PROMPTS, max_len=40)
    assert len({tuple(text) for text in ours}) == 3


def test_a_large_vocabulary_equals_transformers():
    """On CPUs its logits are computed otherwise where there are few rows."""
    model, variables, twin = pair(vocab_size=2**17)
    for prompts in (PROMPTS, PROMPTS[:1]):
        ours = generate(model, variables, prompts, max_len=20)
        assert ours == theirs(twin, prompts, max_len=20)
        assert len({tuple(text) for text in ours}) == len(prompts)


def test_a_batch_is_what_its_prompts_are_alone(models):
    model, variables, _ = models
    together = generate(model, variables, PROMPTS, max_len=30)
    for prompt, text in zip(PROMPTS, together, strict=True):
        alone = generate(model, variables, [prompt], max_len=30)[0]
        assert alone[: len(text)] == text


def test_stop_tokens_end_a_text(models):
    model, variables, twin = models
    free = generate(model, variables, PROMPTS, max_len=40)
    stop = free[0][3]
    ours = generate(model, variables, PROMPTS, max_len=40, stop=[stop])
    assert ours[0] == free[0][: free[0].index(stop) + 1]
    expected = theirs(twin, PROMPTS, max_len=40, eos_token_id=stop)
    for text, expect in zip(ours, expected, strict=True):
        assert text == expect[: len(text)]
        assert stop in text or text == expect


def test_repetition_penalty_equals_transformers(models):
    model, variables, twin = models
    prompt = [PROMPTS[0]]  # without padding: theirs counts the pad token as seen
    ours = generate(
        model,
        variables,
        prompt,
        max_len=40,
        sampling=Sampling(temperature=0.0, repetition_penalty=1.7),
    )
    assert ours == theirs(twin, prompt, max_len=40, repetition_penalty=1.7)
    assert ours != generate(model, variables, prompt, max_len=40)


@pytest.mark.parametrize(
    "options", [{"top_k": 5}, {"top_p": 0.6}, {"top_k": 20, "top_p": 0.7}, {"top_p": 1e-9}]
)
def test_what_is_left_out_equals_transformers(options):
    processors = originals.transformers().generation.logits_process
    logits = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32) * 2
    expected = torch.from_numpy(logits)
    if "top_k" in options:
        expected = processors.TopKLogitsWarper(options["top_k"])(None, expected)
    if "top_p" in options:
        expected = processors.TopPLogitsWarper(options["top_p"])(None, expected)
    np.testing.assert_array_equal(kept(jnp.asarray(logits), Sampling(**options)), expected.numpy())


def test_draws_follow_the_distribution():
    logits = jnp.log(jnp.asarray([[0.5, 0.3, 0.2]]))
    draw = jax.vmap(lambda key: generation.draw(key, logits, None, Sampling(temperature=0.5))[0])
    drawn = np.bincount(draw(jax.random.split(jax.random.key(0), 20_000)), minlength=3) / 20_000
    expected = np.array([0.25, 0.09, 0.04]) / 0.38
    np.testing.assert_allclose(drawn, expected, atol=0.015)


@pytest.mark.parametrize("temperature", [1e-39, 1e-38, 2e-30])
def test_the_lowest_temperatures_take_the_largest(temperature):
    logits = jnp.asarray([[-1e9, 200.0, 199.0], [3.0, -jnp.inf, 1.0]])
    found = generation.draw(jax.random.key(0), logits, None, Sampling(temperature=temperature))
    assert found.tolist() == [1, 0]


def test_seeds_decide_and_chunks_do_not(models, monkeypatch):
    model, variables, _ = models
    options = {"max_len": 32, "sampling": Sampling(temperature=1.5)}
    first = generate(model, variables, PROMPTS, seed=1, **options)
    assert first != generate(model, variables, PROMPTS, seed=2, **options)
    monkeypatch.setattr(generation, "CHUNK", 3)
    seen = []
    assert generate(model, variables, PROMPTS, seed=1, on_tokens=seen.append, **options) == first
    assert [len(texts[0]) for texts in seen] == [*range(1, 27, 3), 27]


def test_a_text_may_end_with_its_first_token(models):
    model, variables, _ = models
    whole = generate(model, variables, PROMPTS, max_len=40)
    first = [text[:1] for text in whole]
    assert generate(model, variables, PROMPTS, max_len=6) == first
    assert (
        generate(model, variables, PROMPTS, max_len=40, stop=[token for (token,) in first]) == first
    )
    seen = []
    assert (
        generate(
            model, variables, PROMPTS, max_len=40, on_tokens=lambda texts: not seen.append(texts)
        )
        == first
    )
    assert seen == [first]
    few = generate(model, variables, PROMPTS, max_len=40, first_only=True)
    assert few == [text[: 1 + generation.CHUNK] for text in whole]


def test_one_compilation_whatever_the_lengths(models):
    model, variables, _ = models
    programs = generation._read, generation._begin, generation._write
    generate(model, variables, PROMPTS, max_len=24)
    before = [program._cache_size() for program in programs]
    generate(model, variables, [[1] * 9, [2] * 4, [3] * 7], max_len=24)
    assert [program._cache_size() for program in programs] == before


def test_the_first_token_does_not_copy_the_cache(models):
    model, variables, _ = models
    tokens, segments = np.ones((2, 3, 24), np.int32)
    text, logits = generation._read(variables, tokens, segments, 9, model=model, length=24)
    generation._begin(
        text, logits, jax.random.key(0), jnp.zeros(0, jnp.int32), Rules(), sampling=GREEDY
    )
    assert all(array.is_deleted() for array in jax.tree.leaves(text.cache))


@pytest.mark.parametrize(
    ("prompts", "max_len", "words"),
    [
        ([], 9, "has no tokens"),
        ([[1], []], 9, "has no tokens"),
        ([[1]], 41, "max_len 41 is above the model's max_len 40"),
        ([[1] * 9], 9, "a prompt of 9 tokens leaves nothing of max_len 9"),
        ([[1, 53]], 9, "token 53 is outside the model's vocabulary of 53"),
        ([[1], [2, -1]], 9, "token -1 is outside the model's vocabulary of 53"),
    ],
)
def test_prompts_that_do_not_fit(models, prompts, max_len, words):
    with pytest.raises(ValueError, match=words):
        generate(models[0], models[1], prompts, max_len=max_len, sampling=GREEDY)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"top_k": -1}, "top_k -1"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0"),
        *(
            ({name: float("nan")}, f"{name} nan")
            for name in ("temperature", "repetition_penalty", "top_p", "min_p")
        ),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"repetition_penalty": 1e-39}, "repetition_penalty 1e-39"),
    ],
)
def test_impossible_sampling(options, words):
    with pytest.raises(ValueError, match=words):
        Sampling(**options)
