"""The encoder-decoder: parity with torch.nn.Transformer, masks by gradient, the cache,
transformers' beam search."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import PartitionSpec as P

import jaxmodels
from jaxmodels import originals, weights
from jaxmodels.decode import beam
from jaxmodels.decode.beam import beam_search
from jaxmodels.families.transformer.model import sine_positions
from train.compare.certificate import randomise
from train.config import MeshConfig
from train.sharding import make_mesh, spec_of

SMALL = {
    "vocab_size": 31,
    "max_len": 16,
    "num_layers": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "mlp_dim": 48,
}
WIDE = {"dtype": jnp.float64, "param_dtype": jnp.float64}
SOURCES, TARGETS = (7, 3, 5, 1), (4, 6, 1, 5)  # lengths
NO_DROPOUT = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0, "activation_dropout_rate": 0.0}


def texts(lengths, seed=0, vocabulary=31):
    """Tokens and segments, padded at the right."""
    segments = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int32)
    tokens = (
        np.random.default_rng(seed).integers(1, vocabulary - 1, segments.shape).astype(np.int32)
    )
    return jnp.asarray(tokens * segments), jnp.asarray(segments)


def inputs():
    (source, source_segments), (target, target_segments) = texts(SOURCES), texts(TARGETS, seed=1)
    return source, target, source_segments, target_segments


def pair(name="transformer_tiny", **fields):
    """A model with random weights, and its original with the same."""
    model = jaxmodels.create(name, **SMALL | fields)
    torch.manual_seed(0)
    original = originals.build(model, ())
    if model.param_dtype == jnp.float64:
        original.module.double()
    randomise(original.module)
    tensors = {k: v.numpy() for k, v in original.tensors().items()}
    return (
        model,
        jax.tree.map(jnp.asarray, weights.from_torch(model, tensors, format=original.format)),
        original,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"norm_first": True, "scan": True},
        {"norm_first": True, "remat": True, "activation": "gelu"},
        {
            "final_norm": False,
            "scan": True,
            "remat": True,
            "position": "sine_halves",
            "scale_embedding": False,
        },
        {"share_embeddings": False, "target_vocab_size": 37, "logits_bias": True},
        {
            "share_embeddings": False,
            "tie_embeddings": False,
            "activation": "silu",
            "norm_eps": 1e-3,
        },
        {"tie_embeddings": False},
    ],
    ids=str,
)
def test_equals_torch_nn_transformer(x64, fields):
    model, variables, original = pair(**fields, **WIDE, **NO_DROPOUT)
    given = inputs()
    real = np.asarray(given[3])[..., None]
    weight = (
        np.random.default_rng(2).normal(size=(*real.shape[:2], model.target_vocab_size or 31))
        * real
    )

    def loss(variables):
        logits = model.apply(variables, *given, train=True).logits
        return (logits * weight).sum(), logits

    (value, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
    module = original.module
    found = module(*(torch.from_numpy(np.array(x)).long() for x in given))
    theirs = (found * torch.from_numpy(weight)).sum()
    theirs.backward()
    np.testing.assert_allclose(logits * real, found.detach().numpy() * real, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-10)
    named = {k: v.grad.numpy() for k, v in module.named_parameters()}
    expected = weights.from_torch(model, named, format=original.format)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), grads, expected
    )
    # a LayerNorm alone has a policy
    text = str(jax.make_jaxpr(lambda v: jax.grad(lambda v: loss(v)[0])(v))(variables))
    assert ("scan[" in text, "policy=None" in text) == (model.scan, model.remat)


def depends(model, variables, given):
    """[target place, token of the vocabulary]: on which embeddings the first text's outputs depend,
    by gradient."""

    def hidden(table):
        params = variables["params"] | {"token_embed": {"embedding": table}}
        return model.apply({"params": params}, *given, train=False).hidden[0]

    jacobian = jax.jit(jax.jacobian(hidden))(variables["params"]["token_embed"]["embedding"])
    return np.abs(jacobian).sum((1, 3)) > 0


@pytest.mark.parametrize("scan", [False, True])
def test_nothing_is_seen_of_later_tokens_nor_of_padding_nor_of_other_pairs(scan):
    """Every place has a token of its own, so that embeddings are places: sources from 0, targets
    from 10."""
    model, variables, _ = pair(scan=scan, tie_embeddings=False)
    source, target = jnp.arange(7, dtype=jnp.int32)[None], jnp.arange(10, 16, dtype=jnp.int32)[None]
    source_segments = jnp.asarray([[1, 1, 1, 2, 2, 0, 0]], jnp.int32)
    target_segments = jnp.asarray([[1, 1, 2, 2, 2, 0]], jnp.int32)
    found = depends(model, variables, (source, target, source_segments, target_segments))
    own = np.asarray(target_segments)[0][:, None]
    real = np.asarray(target_segments)[0] > 0
    assert (found[real, :7] == (own == np.asarray(source_segments))[real]).all()
    assert (found[real, 10:16] == np.tril(own == np.asarray(target_segments))[real]).all()
    assert not found[real, 16:].any()
    alone = depends(model, variables, (source, target))
    assert alone[:, :7].all()
    assert (alone[:, 10:16] == np.tril(np.ones((6, 6), bool))).all()


@pytest.mark.parametrize(
    "fields", [{}, {"norm_first": True, "scan": True}, {"position": "sine_halves"}], ids=str
)
def test_a_padded_batch_is_what_its_texts_are_alone(fields):
    model, variables, _ = pair(**fields)
    source, target, *segments = inputs()
    apply = jax.jit(partial(model.apply, train=False))
    together = apply(variables, source, target, *segments).logits
    for i, (n, m) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        alone = apply(variables, source[i : i + 1, :n], target[i : i + 1, :m]).logits
        np.testing.assert_allclose(together[i, :m], alone[0], rtol=1e-4, atol=2e-5)


def test_packed_pairs_are_what_they_are_alone():
    model, variables, _ = pair()
    source, target, *_ = inputs()
    packed = [
        jnp.concatenate([x[0, :n], x[1, :m]])[None]
        for x, (n, m) in ((source, SOURCES[:2]), (target, TARGETS[:2]))
    ]
    segments = [jnp.asarray([[1] * n + [2] * m], jnp.int32) for n, m in (SOURCES[:2], TARGETS[:2])]
    apply = jax.jit(partial(model.apply, train=False))
    together = apply(variables, *packed, *segments).logits[0]
    for i, part in ((0, together[: TARGETS[0]]), (1, together[TARGETS[0] :])):
        n, m = SOURCES[i], TARGETS[i]
        alone = apply(variables, source[i : i + 1, :n], target[i : i + 1, :m]).logits[0]
        np.testing.assert_allclose(part, alone, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("backend", ["xla", "splash"])
def test_backends_agree_and_padding_is_never_nan(backend):
    model, variables, _ = pair(num_layers=1, dropout_rate=0.0, attention_dropout_rate=0.0)
    source, target, source_segments, target_segments = inputs()
    real = np.asarray(target_segments).copy()
    real[3] = 0
    # a row that only fills up
    given = (source, target, source_segments.at[3].set(0), target_segments.at[3].set(0))

    @partial(jax.jit, static_argnums=1)
    @jax.value_and_grad
    def loss(variables, attention):
        logits = model.clone(attention=attention).apply(variables, *given, train=False).logits
        return jnp.square(logits * real[..., None]).sum()

    value, grads = loss(variables, backend)
    expected, expected_grads = loss(variables, "einsum")
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    # those of key biases are 0
    size = max(float(jnp.linalg.norm(g)) for g in jax.tree.leaves(expected_grads))
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        assert jnp.linalg.norm(a - b) <= 1e-4 * jnp.linalg.norm(b) + 1e-6 * size


@pytest.mark.parametrize("scan", [False, True])
def test_a_cache_gives_what_the_whole_text_does(scan):
    model, variables, _ = pair(scan=scan)
    source, target, source_segments, target_segments = inputs()
    given = (source, target, source_segments, target_segments)
    whole = jax.jit(partial(model.apply, train=False))(variables, *given).logits
    memory = jax.jit(partial(model.apply, method="encode"))(variables, source, source_segments)
    decode = jax.jit(partial(model.apply, method="decode", mutable=["cache"]))
    cache, parts = {}, []
    for start, stop in ((0, 2), (2, 3), (3, 6)):
        given = (
            target[:, start:stop],
            memory,
            source_segments,
            target_segments,
            jnp.asarray(start),
        )
        part, changed = decode(variables | cache, *given)
        # the sources' keys and values are there by now
        cache, memory = dict(changed), memory * jnp.nan
        parts.append(part.logits)
    real = np.asarray(target_segments) > 0
    np.testing.assert_allclose(
        np.concatenate(parts, 1)[real], np.asarray(whole)[real], rtol=1e-4, atol=2e-5
    )


@pytest.mark.parametrize("rate", NO_DROPOUT)
@pytest.mark.parametrize("scan", [False, True])
def test_every_dropout_is_on_in_training_only(rate, scan):
    model, variables, _ = pair(scan=scan, **NO_DROPOUT | {rate: 0.5})
    source, target, *segments = inputs()

    @partial(jax.jit, static_argnums=(1, 2))
    def run(seed, train, method, *args):
        rngs = {"dropout": jax.random.key(seed)} if train else {}
        return model.apply(variables, *args, train=train, rngs=rngs, method=method)

    memory = run(0, False, "encode", source, segments[0])
    for method, args in (
        ("encode", (source, segments[0])),
        ("decode", (target, memory, *segments)),
    ):
        a, b, c = (jax.tree.leaves(run(seed, True, method, *args))[0] for seed in (1, 1, 2))
        assert jnp.array_equal(a, b)
        assert not jnp.array_equal(a, c)
        a, b = (jax.tree.leaves(run(0, False, method, *args))[0] for _ in range(2))
        assert jnp.array_equal(a, b)


def test_positions_equal_marians():
    library = originals.transformers()
    theirs = library.models.marian.modeling_marian.MarianSinusoidalPositionalEmbedding(40, 12)
    table = sine_positions(40, 12, halves=True)
    np.testing.assert_array_equal(table.astype(np.float32), theirs.create_weight().numpy())
    turns = sine_positions(40, 12, halves=False)
    np.testing.assert_array_equal(turns.reshape(40, 6, 2), table.reshape(40, 2, 6).swapaxes(1, 2))
    np.testing.assert_allclose(
        turns[3, 4:6], [np.sin(3 / 10_000 ** (4 / 12)), np.cos(3 / 10_000 ** (4 / 12))]
    )


def test_scanned_stacks_are_split_as_their_layers():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    for name in ("attention", "cross_attention"):
        assert spec_of(f"params/decoder/blocks/{name}/query/kernel", (6, 64, 64), mesh) == P(
            None, "fsdp", "tensor"
        )
        assert spec_of(f"params/decoder/block_0/{name}/out/kernel", (64, 64), mesh) == P(
            "tensor", "fsdp"
        )


@pytest.mark.parametrize(
    ("fields", "lengths", "words"),
    [
        ({}, (17, 3), "a source of 17 tokens is longer than max_len 16"),
        ({}, (3, 17), "a target of 17 tokens is longer than max_len 16"),
        ({"num_heads": 3}, (3, 3), "hidden_size 32 is not divisible by num_heads 3"),
        ({"hidden_size": 9, "num_heads": 3}, (3, 3), "hidden_size 9 is odd"),
        ({"position": "learned"}, (3, 3), "position 'learned' is not one of sine, sine_halves"),
        ({"activation": "mish"}, (3, 3), "activation 'mish'"),
        ({"activation_dropout_rate": 1.0}, (3, 3), r"activation_dropout_rate 1\.0"),
        (
            {"target_vocab_size": 7},
            (3, 3),
            "target_vocab_size 7 is not vocab_size 31: set share_embeddings to False",
        ),
        ({"target_vocab_size": -1}, (3, 3), "target_vocab_size -1 must be at least 0"),
        ({"num_layers": 0}, (3, 3), "num_layers 0"),
    ],
)
def test_what_does_not_fit(fields, lengths, words):
    model = jaxmodels.create("transformer_tiny", **SMALL | fields)
    source, target = (jnp.zeros((1, n), jnp.int32) for n in lengths)
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda: model.init(jax.random.key(0), source, target, train=False))


def test_a_cache_needs_the_length_of_the_text():
    model, variables, _ = pair(num_layers=1)
    with pytest.raises(ValueError, match="start needs the target_segments of the whole text"):
        memory = jnp.zeros((1, 3, 32))
        model.apply(
            variables,
            jnp.zeros((1, 1), jnp.int32),
            memory,
            start=jnp.zeros((), jnp.int32),
            method="decode",
        )


START, END, MAX_LEN = 30, 0, 14  # of Marian's vocabulary: the padding token is the last


def translators(bias, **fields):
    """A Marian with random weights, and transformers' with the same; ``bias`` makes the end more
    probable."""
    model, _, original = pair("marian", **fields)
    with torch.no_grad():
        original.module.final_logits_bias[0, END] += bias
    library = originals.transformers()
    twin = library.MarianMTModel(original.module.config).eval()
    # it has its table of positions
    twin.load_state_dict(original.module.state_dict(), strict=False)
    twin.generation_config = library.GenerationConfig(
        pad_token_id=START, eos_token_id=END, decoder_start_token_id=START
    )
    return (
        model,
        weights.from_torch(model, {k: v.numpy() for k, v in original.tensors().items()}),
        twin,
    )


# biases with which texts end at several lengths
@pytest.fixture(
    scope="module",
    params=[
        {"bias": 0.0, "share_embeddings": False, "tie_embeddings": False},
        {"bias": 3.0, "scan": True},
    ],
    ids=["layers", "scan"],
)
def translator(request):
    return translators(**request.param)


def theirs(twin, source, segments, *, max_len=MAX_LEN, **options):
    """Texts as ours are given, and their scores."""
    with torch.no_grad():
        found = twin.generate(
            torch.from_numpy(np.array(source)).long(),
            attention_mask=torch.from_numpy(np.array(segments)),
            max_length=max_len,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
    rows = found.sequences[:, 1:].tolist()
    cut = [row[: row.index(END) + 1] if END in row else row for row in rows]
    return cut, getattr(found, "sequences_scores", None)


def ours(model, variables, source, segments, *, beams, max_len=MAX_LEN, **options):
    return beam_search(
        model,
        variables,
        source,
        segments,
        beams=beams,
        max_len=max_len,
        bos=START,
        eos=END,
        **options,
    )


def test_beam_search_equals_transformers(translator):
    """Token for token and score for score, with texts that end at once, late and never."""
    model, variables, twin = translator
    source, segments = texts(SOURCES)
    lengths = set()
    for beams, penalty in itertools.product((1, 2, 4), (-1.0, 0.0, 0.6, 1.0, 2.0)):
        found, scores = ours(
            model, variables, source, segments, beams=beams, length_penalty=penalty
        )
        options = {"length_penalty": penalty, "early_stopping": False} if beams > 1 else {}
        expected, expected_scores = theirs(twin, source, segments, num_beams=beams, **options)
        assert found == expected
        assert all(text[-1] == END or len(text) == MAX_LEN - 1 for text in found)
        if beams > 1:
            np.testing.assert_allclose(scores, expected_scores.numpy(), rtol=1e-4)
        lengths.update((len(text), text[-1] == END) for text in found)
    assert {(1, True), (MAX_LEN - 1, False)} <= lengths and len(lengths) >= 4


def test_other_lengths_and_forbidden_tokens_equal_transformers():
    model, variables, twin = translators(0.0)
    source, segments = texts((4, 6), seed=5)
    for beams in (1, 3):
        free = ours(model, variables, source, segments, beams=beams, max_len=6)[0]
        assert free == theirs(twin, source, segments, num_beams=beams, max_len=6)[0]
        word = free[0][0]
        found = ours(model, variables, source, segments, beams=beams, max_len=6, forbidden=[word])[
            0
        ]
        options = {"bad_words_ids": [[word]], "num_beams": beams, "max_len": 6}
        assert found == theirs(twin, source, segments, **options)[0]
        assert word not in found[0]


def test_a_search_does_not_depend_on_what_it_is_padded_with(translator):
    model, variables, _ = translator
    source, segments = texts(SOURCES)
    together = ours(model, variables, source, segments, beams=4)
    for i, n in enumerate(SOURCES[:2]):
        text, score = (x[0] for x in ours(model, variables, source[i : i + 1, :n], None, beams=4))
        assert text == together[0][i]
        np.testing.assert_allclose(score, together[1][i], rtol=1e-4)


def test_scores_are_of_the_texts(translator):
    """By the whole model, without cache: the mean log probability."""
    model, variables, _ = translator
    source, segments = texts(SOURCES)
    found, scores = ours(model, variables, source, segments, beams=4, length_penalty=1.0)
    for i, text in enumerate(found):
        target = jnp.asarray([[START, *text[:-1]]], jnp.int32)
        logits = model.apply(
            variables, source[i : i + 1], target, segments[i : i + 1], train=False
        ).logits[0]
        logp = jax.nn.log_softmax(logits)[jnp.arange(len(text)), jnp.asarray(text)]
        np.testing.assert_allclose(scores[i], logp.mean(), rtol=1e-4)


def test_one_compilation_whatever_the_penalty_and_the_sources(translator):
    model, variables, _ = translator
    ours(model, variables, *texts(SOURCES), beams=2)
    before = beam._search._cache_size()
    ours(model, variables, *texts((2, 7, 4, 6), seed=3), beams=2, length_penalty=0.3)
    assert beam._search._cache_size() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_len": 17}, "max_len 17 must be at least 2, and at most the model's max_len 16"),
        ({"max_len": 1}, "max_len 1"),
        ({"beams": 0}, "beams 0 must be at least 1"),
        ({"beams": 16}, "at most half the vocabulary of 31"),
        ({"forbidden": [31]}, "token 31 is outside the model's vocabulary of 31"),
        (
            {"source": np.full((1, 3), 31, np.int32)},
            "a source has token 31, outside the model's vocabulary of 31",
        ),
    ],
)
def test_searches_that_do_not_fit(options, words):
    model = jaxmodels.create("marian", **SMALL)
    source = options.pop("source", np.ones((1, 3), np.int32))
    with pytest.raises(ValueError, match=words):
        ours(model, {}, source, None, **{"beams": 2} | options)
