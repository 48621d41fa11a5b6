"""Models under ``jax.set_mesh`` of a plain ``jax.make_mesh``, whose axes are Explicit, and of one
with Auto axes."""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxmodels
from jaxmodels.adapt.multitask import LearnedWeights, MultiHead
from jaxmodels.decode.beam import beam_search
from jaxmodels.decode.generate import generate
from jaxmodels.explain.grad_cam import grad_cam
from jaxmodels.explain.gradients import integrated_gradients, token_embeddings, token_score
from jaxmodels.explain.logit_lens import logit_lens
from jaxmodels.nn.layers import TokenLogits
from jaxmodels.nn.meshes import constrain_batch, under_auto_axes
from tests.test_sharding import FAMILIES, SMALL, TASKS, batch_of, few_blocks, relative
from train import sharding
from train.config import OptimConfig
from train.optim import make_optimizer
from train.state import init_state
from train.step import eval_step, train_step
from train.tasks.causal_lm import causal_lm
from train.tasks.classification import classification

TYPES = {"explicit": {}, "auto": {"axis_types": (AxisType.Auto,)}}


def built(family):
    """A model, and its inputs for a batch of 16."""
    name, fields, objective, inputs = FAMILIES[family]
    known = jaxmodels.model_fields(name)
    fields = {
        k: v for k, v in {"vocab_size": 40, "num_classes": 10, "max_len": 16}.items() if k in known
    } | fields
    dtypes = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    model = jaxmodels.create(name, **fields, **dtypes)
    if objective is TASKS:
        model = LearnedWeights(MultiHead(model, {"digit": 10, "other": 4}, **dtypes), 2)
    batch = batch_of(
        objective, 16 if family in ("alexnet", "googlenet", "vae") else 8, np.random.default_rng(0)
    )
    return model, tuple(batch[k] for k in inputs)


def logits_of(outputs):
    """Outputs with the logits of tokens multiplied out."""
    is_tokens = lambda x: isinstance(x, TokenLogits)  # noqa: E731
    return jax.tree.map(lambda x: x.logits if is_tokens(x) else x, outputs, is_leaf=is_tokens)


def gradient(model, variables, *inputs):
    """Gradient of the mean square of all training outputs, the outputs in evaluation and the
    model's new state."""

    def loss(params):
        mutable = [k for k in variables if k != "params"]
        given = {**variables, "params": params}
        outputs, state = model.apply(
            given, *inputs, train=True, rngs={"dropout": jax.random.key(1)}, mutable=mutable
        )
        return sum(jnp.square(x).mean() for x in jax.tree.leaves(logits_of(outputs))), state

    found = jax.grad(loss, has_aux=True)(variables["params"])
    return found, logits_of(model.apply(variables, *inputs, train=False))


def made(model, *inputs):
    return model.init(
        {"params": jax.random.key(0), "dropout": jax.random.key(0)}, *inputs, train=False
    )


def on(mesh, tree, *spec):
    return jax.device_put(tree, NamedSharding(mesh, P(*spec)))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_initialises_and_trains_under_meshes_of_either_type(family, x64, monkeypatch):
    few_blocks(monkeypatch)
    model, inputs = built(family)
    variables = jax.device_get(jax.jit(partial(made, model))(*inputs))
    # zero at first are some kernels and biases, and nothing would reach what lies before them
    random = np.random.default_rng(1)
    variables["params"] = jax.tree.map(
        lambda x: x + 0.1 * random.normal(size=x.shape), variables["params"]
    )
    found = {}
    for kind, types in TYPES.items():
        mesh = jax.make_mesh((8,), ("data",), **types)
        with jax.set_mesh(mesh):
            split = on(mesh, inputs, "data")
            shapes = jax.eval_shape(partial(made, model), *split)
            found[kind] = jax.jit(partial(gradient, model))(variables, *split)
        assert jax.tree.structure(shapes) == jax.tree.structure(variables)
    # what has a row for each example lies as the examples do
    assert jax.typeof(jax.tree.leaves(found["explicit"][1])[0]).sharding.spec[0] == "data"
    # tests/test_sharding.py compares Auto axes with one device
    assert relative(jax.device_get(found["explicit"]), jax.device_get(found["auto"])) < 1e-10


@pytest.mark.parametrize("family", ["mlp", "gpt2"])
def test_explicit_meshes_without_jit(family, x64):
    model, inputs = built(family)
    inputs = jax.tree.map(jnp.asarray, inputs)
    variables = jax.tree.map(jnp.asarray, jax.device_get(made(model, *inputs)))
    expected = jax.device_get(gradient(model, variables, *inputs))
    mesh = jax.make_mesh((8,), ("data",))
    with jax.set_mesh(mesh):
        for place in ("data", None):
            given = on(mesh, inputs, place)
            assert relative(jax.device_get(made(model, *given)), variables) == 0
            assert relative(jax.device_get(gradient(model, variables, *given)), expected) < 1e-10


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_explicit_meshes_with_split_parameters(family, x64):
    """Over three axes, as ``train.sharding`` would split them; gradients lie as their parameters
    do.

    The layers of a transformer are gathered one by one. Other models meet XLA's fault that
    :func:`train.sharding.gather_fsdp` is for, under axes of either type.
    """
    model, inputs = built(family)
    variables = jax.device_get(jax.jit(partial(made, model))(*inputs))
    expected = jax.device_get(jax.jit(partial(gradient, model))(variables, *inputs))
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"))
    with jax.set_mesh(mesh):
        variables = jax.device_put(variables, sharding.shardings_of(variables, mesh))
        with sharding.gathering_layers():
            step = jax.jit(partial(gradient, model))
            found = step(variables, *on(mesh, inputs, ("data", "fsdp")))
    assert relative(jax.device_get(found), expected) < 1e-10
    (grads, _), _ = found
    same = jax.tree.map(
        lambda g, p: g.sharding.is_equivalent_to(p.sharding, p.ndim), grads, variables["params"]
    )
    assert all(jax.tree.leaves(same))
    assert any("fsdp" in str(g.sharding.spec) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(("family", "objective"), [("resnet", classification), ("gpt2", causal_lm)])
def test_steps_of_training_under_an_explicit_mesh(family, objective, x64):
    """:func:`train.step.train_step` and ``eval_step``, with this project's losses."""
    keys = FAMILIES[family][3]
    model, inputs = built(family)
    batch = batch_of(objective, 8, np.random.default_rng(0))
    batch = {k: batch[k] for k in {*keys, "label", "weight", "target"}}
    tx = make_optimizer(OptimConfig(name="sgd", momentum=0.9, schedule="constant"), 4)
    init = partial(init_state, model=model, tx=tx, inputs=inputs, ema=True)
    options = {"model": model, "objective": objective, "inputs": keys}

    def steps(state, batch):
        state, metrics = train_step(state, batch, tx=tx, accumulate=2, ema_decay=0.9, **options)
        return state, metrics, eval_step(state, batch, **options)

    expected = jax.device_get(jax.jit(steps)(jax.jit(init)(jax.random.key(0)), batch))
    mesh = jax.make_mesh((8,), ("data",))
    with jax.set_mesh(mesh):
        state = jax.jit(init)(jax.random.key(0))
        found = jax.jit(steps, donate_argnums=0)(state, on(mesh, batch, "data"))
    found, expected = (jax.tree.map(np.float64, jax.device_get(x)) for x in (found, expected))
    assert relative(found, expected) < 1e-9


def test_axes_of_several_types():
    """Only Auto axes are constrained; Explicit ones stay as the type says, and Manual ones are the
    caller's."""
    x = jnp.ones((8, 4, 6, 2))
    types = (AxisType.Explicit, AxisType.Auto)
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=types)
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: constrain_batch(x * 2, "heads"))(on(mesh, x, "data"))
        assert y.sharding.spec[:2] == ("data", "tensor")
        assert jax.typeof(y).sharding.spec[0] == "data"
    model = jaxmodels.create("mlp", num_classes=3, hidden_sizes=(8,))
    inputs = (jax.random.normal(jax.random.key(0), (16, 5)),)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        variables = made(model, *inputs)
        apply = jax.jit(
            jax.shard_map(
                partial(model.apply, train=False), in_specs=(P(), P("data")), out_specs=P("data")
            )
        )
        np.testing.assert_allclose(
            apply(variables, *inputs), model.apply(variables, *inputs, train=False), rtol=1e-5
        )


def test_places_of_what_leaves():
    """An argument that comes back is the same; a changed first argument and rows of examples lie as
    they did."""
    mesh = jax.make_mesh((8,), ("data",))
    with jax.set_mesh(mesh):
        state, x = (
            on(mesh, {"a": jnp.ones((8, 2)), "b": jnp.ones(8)}, "data"),
            on(mesh, jnp.ones((16, 3)), "data"),
        )

        def function(state, x):
            assert jax.sharding.get_abstract_mesh().explicit_axes == ()
            return x, {k: v + 1 for k, v in state.items()}, x.sum(1), x.sum(0), 3.0

        same, changed, rows, rest, number = under_auto_axes(function, changed="[1]")(state, x)
        places = [
            jax.typeof(v).sharding.spec[0] for v in (same, changed["a"], changed["b"], rows, rest)
        ]
        assert places == ["data", "data", "data", "data", None]
        assert number == 3.0
        (gradient,) = jax.tree.leaves(
            jax.grad(
                lambda p: sum(
                    v.sum() for v in under_auto_axes(lambda p, x: (p, p * 2), changed="[1]")(p, x)
                )
            )(np.ones((2, 2)))
        )
        np.testing.assert_array_equal(gradient, 3.0)


def texts(tokens):
    gpt2 = jaxmodels.create("gpt2_tiny", vocab_size=40, max_len=16, **SMALL)
    variables = gpt2.init(jax.random.key(0), tokens, train=False)
    return generate(gpt2, variables, [[1, 2, 3], [4, 5]], max_len=9)


def lens(tokens):
    gpt2 = jaxmodels.create("gpt2_tiny", vocab_size=40, max_len=16, **SMALL)
    return logit_lens(gpt2, gpt2.init(jax.random.key(0), tokens, train=False), tokens)


def parts(tokens):
    bert = jaxmodels.create("bert_tiny", vocab_size=40, max_len=16, head="classification", **SMALL)
    variables = bert.init(jax.random.key(0), tokens, train=False)
    score, embedded = (
        token_score(bert, variables, (tokens,), tokens[:, 0] % 2),
        token_embeddings(bert, variables, tokens),
    )
    return integrated_gradients(score, embedded, jnp.zeros_like(embedded), steps=2).values


def heat(tokens):
    cnn = jaxmodels.create("cnn", num_classes=4, features=(8, 8))
    image = jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
    variables = cnn.init(jax.random.key(0), image, train=False)
    return grad_cam(cnn, variables, image, tokens[:, 0] % 4)


def translations(tokens):
    translator = jaxmodels.create(
        "transformer_tiny", vocab_size=40, max_len=16, **SMALL | {"num_layers": 1}
    )
    variables = translator.init(jax.random.key(0), tokens, tokens, train=False)
    return beam_search(translator, variables, np.asarray(tokens), beams=2, max_len=6, bos=0, eos=1)[
        0
    ]


@pytest.mark.parametrize("tool", [texts, lens, parts, heat, translations])
def test_tools_under_an_explicit_mesh(tool):
    """Text generation, explanations and beam search, for models of one seed."""
    tokens, found = np.random.default_rng(0).integers(0, 40, (8, 6)), []
    for mesh in (None, jax.make_mesh((8,), ("data",))):
        with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
            found.append(jax.device_get(tool(jnp.asarray(tokens, jnp.int32))))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), *found)
