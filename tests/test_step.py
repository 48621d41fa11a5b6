"""The training step: accumulation, weights, randomness, guards."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodels
from train import batches, compiling, setup
from train.config import OptimConfig
from train.optim import make_optimizer
from train.state import init_state
from train.step import accumulated_gradients, eval_step, train_step
from train.tasks.classification import classification, confusion_counts

SHAPE, CLASSES = (6, 6, 2), 7


def make(dtype=jnp.float32, *, model="cnn", optim=None, ema=False, **fields):
    fields = {"features": (4, 8)} | fields if model == "cnn" else fields
    module = jaxmodels.create(model, num_classes=CLASSES, dtype=dtype, param_dtype=dtype, **fields)
    tx = make_optimizer(
        optim or OptimConfig(name="sgd", learning_rate=0.1, schedule="constant"), 100
    )
    image = jax.ShapeDtypeStruct((1, *SHAPE), dtype)
    init = partial(init_state, model=module, tx=tx, inputs=(image,), ema=ema)
    state = jax.jit(init)(jax.random.key(0))  # one program, not one for each operation
    return state, partial(train_step, model=module, tx=tx, objective=classification)


def make_batch(n, dtype=jnp.float32, seed=0, weight=None):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.normal(size=(n, *SHAPE)), dtype),
        "label": jnp.asarray(rng.integers(0, CLASSES, n), jnp.int32),
        "weight": jnp.ones(n, jnp.float32) if weight is None else jnp.asarray(weight, jnp.float32),
    }


def gradients(state, step, batch, **kwargs):
    grads, count, metrics, _ = jax.jit(
        partial(
            accumulated_gradients, model=step.keywords["model"], objective=classification, **kwargs
        )
    )(state.params, state.model_state, batch, jax.random.key(1))
    return jax.tree.map(lambda g: g / count, grads), metrics


def worst(a, b):
    """Largest relative difference over the leaves, by norm."""
    return max(
        float(np.linalg.norm(np.subtract(x, y)) / np.linalg.norm(y))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("k", [2, 4, 12])
def test_micro_batches_equal_one_batch(k, x64):
    state, step = make(jnp.float64)
    weight = np.r_[np.ones(17), np.zeros(7)]  # padding unevenly spread over the micro-batches
    batch = make_batch(24, jnp.float64, weight=weight)
    one, metrics = gradients(state, step, batch)
    many, many_metrics = gradients(state, step, batch, accumulate=k)
    assert worst(many, one) < 1e-12
    assert float(metrics["loss"][1]) == float(many_metrics["loss"][1]) == 17
    for name in metrics:
        np.testing.assert_allclose(many_metrics[name], metrics[name], rtol=1e-12)


def test_a_key_that_the_batch_lacks_is_an_error():
    state, step = make()
    with pytest.raises(KeyError, match="pixels"):
        step(state, make_batch(2), inputs=("pixels",))


def test_padding_changes_nothing(x64):
    state, step = make(jnp.float64)
    batch = make_batch(10, jnp.float64)
    padded = jax.tree.map(
        lambda x: jnp.concatenate([x, 3 * jnp.ones((6, *x.shape[1:]), x.dtype)]), batch
    )
    padded["weight"] = padded["weight"].at[10:].set(0)
    (a, ma), (b, mb) = gradients(state, step, batch), gradients(state, step, padded)
    assert worst(b, a) < 1e-13
    assert float(ma["loss"][1]) == float(mb["loss"][1]) == 10
    np.testing.assert_allclose(
        confusion_counts(jnp.eye(CLASSES)[padded["label"]], padded).sum(), 10
    )


def test_weights_scale_each_example(x64):
    state, step = make(jnp.float64)
    batch = make_batch(3, jnp.float64, weight=[1, 2, 0.5])
    singles = [
        gradients(state, step, jax.tree.map(lambda x, i=i: x[i : i + 1], batch))[0]
        for i in range(3)
    ]
    mean = jax.tree.map(lambda a, b, c: (1 * a + 2 * b + 0.5 * c) / 3.5, *singles)
    assert worst(gradients(state, step, batch)[0], mean) < 1e-12


def test_same_seed_same_run_other_seed_other_run():
    state, step = make(dropout_rate=0.5)
    step3, batch = jax.jit(partial(step, seed=3)), make_batch(16)

    def run(step):
        s = state
        for _ in range(3):
            s, _ = step(s, batch)
        return s.params

    a, b, c = run(step3), run(step3), run(jax.jit(partial(step, seed=4)))
    assert all(
        jnp.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
    assert not any(
        jnp.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(c), strict=True)
    )


def test_randomness_differs_from_step_to_step():
    keys = []
    state, step = make()
    for n in range(2):
        step(
            state.replace(step=jnp.int32(n)),
            make_batch(4),
            preprocess=lambda key, b: keys.append(key) or b,
        )
    assert not jnp.array_equal(jax.random.key_data(keys[0]), jax.random.key_data(keys[1]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_batch_changes_nothing_and_stops_everything(bad):
    adamw = OptimConfig(learning_rate=0.01, schedule="constant")
    state, step = make(ema=True, optim=adamw)
    step = jax.jit(partial(step, ema_decay=0.9))
    good = make_batch(8)
    state, metrics = step(state, good)
    assert bool(state.finite)
    broken = good | {"image": good["image"].at[3, 2, 2, 0].set(bad)}
    after, metrics = step(state, broken)
    assert not np.isfinite(metrics["loss"][0] * metrics["grad_norm"][0])
    later, _ = step(after, good)  # dispatched before the host could know
    for new in (after, later):
        assert not bool(new.finite)
        same = jax.tree.map(
            jnp.array_equal,
            new.replace(finite=state.finite, opt_state=None),
            state.replace(opt_state=None),
        )
        assert all(jax.tree.leaves(same))
    # as after a gradient of 0: who skips the batch can go on
    before, moments = (optax.tree.get(s.opt_state, "mu") for s in (state, after))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 0.9 * b, rtol=1e-6), moments, before)
    onwards, metrics = step(after.replace(finite=state.finite), good)
    assert bool(onwards.finite) and np.isfinite(metrics["update_norm"][0])


def test_moving_average():
    state, step = make(ema=True)
    step = jax.jit(partial(step, ema_decay=0.5))
    expected = state.params
    assert jax.tree.all(jax.tree.map(jnp.array_equal, state.eval_params, state.params))
    for t in range(12):
        state, _ = step(state, make_batch(8, seed=t))
        decay = min(0.5, (1 + t) / (10 + t))
        expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, expected, state.params)
    assert worst(state.ema_params, expected) < 1e-5
    assert state.eval_params is state.ema_params


def test_evaluation_uses_no_dropout_and_counts_classes():
    state, step = make(dropout_rate=0.9)
    batch = make_batch(32)
    module = step.keywords["model"]
    metrics, confusion = jax.jit(
        partial(eval_step, model=module, objective=classification, count=confusion_counts)
    )(state, batch)
    logits = module.apply({"params": state.params}, batch["image"], train=False)
    predicted = np.asarray(logits.argmax(-1))
    np.testing.assert_allclose(
        metrics["accuracy"][0], (predicted == np.asarray(batch["label"])).sum()
    )
    expected = np.zeros((CLASSES, CLASSES))
    np.add.at(expected, (np.asarray(batch["label"]), predicted), 1)
    np.testing.assert_array_equal(confusion, expected)


def test_classification_metrics_against_numpy():
    rng = np.random.default_rng(0)
    logits, label = (
        rng.normal(size=(50, 9)).astype(np.float32),
        rng.integers(0, 9, 50).astype(np.int32),
    )
    weight = rng.uniform(size=50).astype(np.float32)
    batch = {"label": jnp.asarray(label), "weight": jnp.asarray(weight)}
    found = classification(jnp.asarray(logits), batch, label_smoothing=0.1)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    smooth = 0.9 * np.eye(9)[label] + 0.1 / 9
    np.testing.assert_allclose(
        found["loss"][0], (weight * -(smooth * logp).sum(-1)).sum(), rtol=1e-5
    )
    top5 = (np.argsort(-logits, -1)[:, :5] == label[:, None]).any(-1)
    np.testing.assert_allclose(found["top5"][0], (weight * top5).sum(), rtol=1e-5)
    np.testing.assert_allclose(
        found["accuracy"][0], (weight * (logits.argmax(-1) == label)).sum(), rtol=1e-5
    )
    onehot = {**batch, "label": jax.nn.one_hot(batch["label"], 9)}
    mixed = classification(jnp.asarray(logits), onehot, label_smoothing=0.1)
    for name in found:
        np.testing.assert_allclose(mixed[name], found[name], rtol=1e-5)


def test_cross_entropy_is_finite_for_extreme_logits():
    logits = jnp.asarray([[1e4, -1e4], [-1e4, 1e4]])
    found = classification(logits, {"label": jnp.asarray([1, 1], jnp.int32), "weight": jnp.ones(2)})
    assert float(found["loss"][0]) == 2e4


def test_zero_gradient_step_shrinks_weights_and_leaves_biases():
    tx = make_optimizer(
        OptimConfig(name="adamw", learning_rate=0.1, schedule="constant", weight_decay=0.5), 10
    )
    params = {"kernel": jnp.full((3, 3), 2.0), "bias": jnp.full(3, 2.0)}
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    new = optax.apply_updates(params, updates)
    np.testing.assert_allclose(new["kernel"], 2.0 * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(new["bias"], params["bias"])


def test_mixed_labels_are_as_wide_as_the_logits(tiny):
    """A model may have more classes than the data, such as those of the weights it began with."""
    tiny.model_fields["num_classes"], tiny.data.mixup = 12, 0.2
    run = setup.build(tiny)
    _, metrics = jax.eval_shape(
        compiling.step_function(run), run.shapes, batches.batch_shapes(run, tiny.batch_size)[0]
    )
    assert metrics["loss"][0].shape == ()
