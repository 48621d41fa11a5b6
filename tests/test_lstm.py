"""LSTM text classifier: equality with ``torch.nn.LSTM`` over packed texts, padding, dropout,
dtypes, mistakes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodels
from jaxmodels import originals, weights
from jaxmodels.families.lstm.model import LSTM, _recurrence, _scan

SMALL = {"vocab_size": 13, "num_classes": 3, "embed_size": 6, "hidden_size": 5, "dropout_rate": 0.0}
WIDE = {"dtype": jnp.float64, "param_dtype": jnp.float64}
LENGTHS = (9, 1, 4, 9, 4)
STACKS = {
    "one": {},
    "two": {"num_layers": 2},
    "both ways": {"bidirectional": True},
    "two, both ways": {"num_layers": 2, "bidirectional": True},
}


def text(lengths=LENGTHS, seed=0):
    """Tokens, whose padding is not 0, and segments."""
    tokens = (
        np.random.default_rng(seed).integers(0, 13, (len(lengths), max(lengths))).astype(np.int32)
    )
    real = np.arange(max(lengths)) < np.asarray(lengths)[:, None]
    return jnp.asarray(tokens), jnp.asarray(real, jnp.int32)


def make(name="lstm", **fields):
    return jaxmodels.create(name, **{**SMALL, **fields})


def params_of(model, seed=0):
    return jax.jit(partial(model.init, train=False))(
        jax.random.key(seed), jnp.zeros((1, 2), jnp.int32)
    )


def apply(model, *args):
    return jax.jit(partial(model.apply, train=False))(*args)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("stack", STACKS)
def test_equals_pytorch(stack, padded, x64):
    """Logits, loss, and the gradient of every parameter in float64."""
    model = make(**STACKS[stack], **WIDE)
    module = originals.build(model, ()).module.double()
    tensors = {k: v.detach().numpy() for k, v in module.state_dict().items()}
    variables = weights.from_torch(model, tensors)
    tokens, segments = text() if padded else (text((9,) * 5)[0], None)
    label = np.asarray([0, 2, 1, 1, 0])
    theirs = module(
        *(None if x is None else torch.tensor(np.asarray(x)).long() for x in (tokens, segments))
    )
    torch_loss = torch.nn.functional.cross_entropy(theirs, torch.tensor(label))
    torch_loss.backward()

    @jax.jit
    def run(variables):
        def loss(variables):
            logits = model.apply(variables, tokens, segments, train=True)
            return -jax.nn.log_softmax(logits)[np.arange(5), label].mean(), logits

        return jax.value_and_grad(loss, has_aux=True)(variables)

    (loss, logits), gradients = run(variables)
    np.testing.assert_allclose(logits, theirs.detach(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(loss, torch_loss.item(), rtol=1e-10)
    expected = {k: v.grad.numpy() for k, v in module.named_parameters()}
    found = weights.to_torch(model, gradients)
    assert sorted(found) == sorted(expected)
    for name, gradient in expected.items():
        assert np.abs(gradient).max() > 1e-5, name
        np.testing.assert_allclose(found[name], gradient, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("stack", STACKS)
def test_a_batch_gives_what_its_texts_give_one_by_one(stack, x64):
    model = make(**STACKS[stack], **WIDE)
    variables, (tokens, segments) = params_of(model), text()
    whole = apply(model, variables, tokens, segments)
    for i, length in enumerate(LENGTHS):
        one = apply(model, variables, tokens[i : i + 1, :length])
        np.testing.assert_allclose(whole[i : i + 1], one, rtol=1e-12)


def test_padding_is_left_out_wherever_it_stands(x64):
    model = make("bilstm", **WIDE)
    variables = params_of(model)
    tokens = jnp.asarray([[4, 9, 2, 0, 0], [0, 4, 0, 9, 2]], jnp.int32)
    segments = jnp.asarray([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1]], jnp.int32)
    a, b = apply(model, variables, tokens, segments)
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_outputs_depend_on_the_tokens_before_and_after(x64):
    """By gradient: states of the first direction on the past, of the second on the future, none on
    padding."""
    layer = LSTM(2, True, **WIDE)
    x = jax.random.normal(jax.random.key(1), (1, 5, 3))
    real = jnp.asarray([[True, True, True, True, False]])
    variables = layer.init(jax.random.key(0), x, real)
    jacobians = jax.jit(jax.jacrev(lambda x: layer.apply(variables, x, real)))(x)
    # [1, 5, 4, 1, 5], [1, 4, 1, 5]
    states, final = (np.abs(np.asarray(j)).sum(-1) > 0 for j in jacobians)
    past = np.tril(np.ones((4, 4), bool))
    assert (states[0, :4, :2, 0, :4] == past[:, None]).all()
    assert (states[0, :4, 2:, 0, :4] == past.T[:, None]).all()
    assert (final[0, :, 0] == [True] * 4 + [False]).all()
    assert not states[..., 4].any()


def test_padding_has_no_gradient(x64):
    model = make("bilstm", **WIDE)
    variables = params_of(model)
    tokens, segments = (
        jnp.asarray([[1, 2, 12, 12]], jnp.int32),
        jnp.asarray([[1, 1, 0, 0]], jnp.int32),
    )
    gradients = jax.jit(jax.grad(lambda v: model.apply(v, tokens, segments, train=False).sum()))(
        variables
    )
    rows = np.abs(gradients["params"]["token_embed"]["embedding"]).sum(1) > 0
    assert rows.nonzero()[0].tolist() == [1, 2]


def test_a_text_of_padding_has_the_features_zero():
    model = make("bilstm")
    variables = params_of(model)
    tokens, segments = text((4, 2))
    logits = apply(model, variables, tokens, segments * jnp.asarray([[1], [0]]))
    np.testing.assert_array_equal(logits[1], variables["params"]["head"]["bias"])
    gradients = jax.jit(
        jax.grad(lambda v: model.apply(v, tokens, segments * 0, train=False).sum())
    )(variables)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_the_gradient_of_the_recurrence_is_that_of_the_scan(x64):
    """The one whose gradient of the kernel is one product, with and without padding."""
    for ways in ((), (2,)):  # one direction has no axis of its own
        keys = jax.random.split(jax.random.key(0), 6)
        inputs, kernel = (
            jax.random.normal(keys[0], (6, *ways, 3, 8)),
            jax.random.normal(keys[1], (*ways, 2, 8)),
        )
        bias = jax.random.normal(keys[2], (*ways, 8))
        weights = (
            jax.random.normal(keys[3], (6, *ways, 3, 2)),
            jax.random.normal(keys[4], (*ways, 3, 2)),
        )
        padded = jax.random.bernoulli(keys[5], 0.6, (6, *ways, 3, 1))
        for real in (None, padded):

            def gradients(recurrence, real=real, weights=weights, arguments=(inputs, kernel, bias)):
                def total(*arguments):
                    states, final = recurrence(*arguments, real)[:2]
                    return (states * weights[0]).sum() + (final * weights[1]).sum()

                return jax.jit(jax.grad(total, (0, 1, 2)))(*arguments)

            pairs = zip(gradients(_recurrence), gradients(partial(_scan, keep=False)), strict=True)
            for found, expected in pairs:
                assert np.abs(expected).max() > 0.1
                np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("stack", STACKS)
def test_dropout_stands_before_every_layer_and_the_classifier(stack):
    """In training only; each place is seen to draw by a mask of its own shape."""
    model = make(**STACKS[stack], dropout_rate=0.5)
    variables, (tokens, segments) = params_of(model), text()
    run = partial(model.apply, variables, tokens, segments)
    a, b = (run(train=True, rngs={"dropout": jax.random.key(i)}) for i in (1, 2))
    assert not jnp.array_equal(a, b)
    assert jnp.array_equal(
        run(train=False),
        model.clone(dropout_rate=0.0).apply(variables, tokens, segments, train=True),
    )
    jaxpr = jax.make_jaxpr(lambda key: run(train=True, rngs={"dropout": key}))(jax.random.key(0))
    width = 5 * (1 + model.bidirectional)
    drawn = list(random_shapes(jaxpr.jaxpr))
    assert drawn == [(5, 9, 6)] + [(5, 9, width)] * (model.num_layers - 1) + [(5, width)]


def random_shapes(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "random_bits":
            yield eqn.outvars[0].aval.shape
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            if hasattr(inner, "eqns"):
                yield from random_shapes(getattr(inner, "jaxpr", inner))


def test_cells_are_wide_in_bfloat16():
    arguments = [jnp.zeros(shape, jnp.bfloat16) for shape in ((4, 2, 12), (3, 12), (12,))]
    jaxpr = jax.make_jaxpr(partial(_scan, keep=False))(*arguments, None)
    (scan,) = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    assert {v.aval.dtype.name for v in scan.outvars if v.aval.shape == (2, 3)} == {
        "bfloat16",
        "float32",
    }
    gradients = jax.grad(lambda *x: _recurrence(*x, None)[0].astype(jnp.float32).sum(), (0, 1, 2))(
        *arguments
    )
    assert {g.dtype.name for g in gradients} == {"bfloat16"}


def test_bfloat16_is_near_float32():
    model = make("bilstm", hidden_size=32)
    variables, (tokens, segments) = params_of(model), text()
    wide = apply(model, variables, tokens, segments)
    narrow = model.clone(dtype=jnp.bfloat16).apply(variables, tokens, segments, train=False)
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, wide, atol=0.02)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"vocab_size": 0}, "vocab_size 0 must be at least 1"),
        ({"num_layers": 0}, "num_layers 0 must be at least 1"),
        ({"hidden_size": -1}, "hidden_size -1 must be at least 1"),
        ({"embed_size": 0}, "embed_size 0 must be at least 1"),
        ({"dropout_rate": 1.0}, r"dropout_rate 1\.0 must be at least 0 and below 1"),
    ],
)
def test_impossible_fields_say_so(fields, match):
    with pytest.raises(ValueError, match=match):
        params_of(make(**fields))


def test_a_text_needs_a_place():
    with pytest.raises(ValueError, match="length 0 must be at least 1"):
        make().init(jax.random.key(0), jnp.zeros((2, 0), jnp.int32), train=False)
