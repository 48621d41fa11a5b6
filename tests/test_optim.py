"""Schedules by their formula, and optimisers against PyTorch's, step by step."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from train.config import OptimConfig
from train.optim import decay_mask, make_optimizer, make_schedule


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cosine", lambda t: 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (t - 10) / 90))),
        ("linear", lambda t: 1 - 0.9 * (t - 10) / 90),
        ("rsqrt", lambda t: math.sqrt(10 / t)),
        ("constant", lambda t: 1.0),
    ],
)
def test_schedules(name, expected):
    config = OptimConfig(learning_rate=2.0, schedule=name, warmup_steps=10, end_factor=0.1)
    schedule = make_schedule(config, 100)
    for t in range(10):
        np.testing.assert_allclose(schedule(t), 2.0 * t / 10, rtol=1e-6)
    for t in (10, 11, 50, 99, 100):
        np.testing.assert_allclose(schedule(t), 2.0 * expected(t), rtol=1e-5)


PARAMS = {
    "kernel": np.random.default_rng(0).normal(size=(5, 4)),
    "bias": np.random.default_rng(1).normal(size=4),
}

TORCH = {
    "adamw": (
        OptimConfig(
            name="adamw",
            learning_rate=0.01,
            schedule="constant",
            weight_decay=0.1,
            b2=0.95,
            eps=1e-6,
        ),
        lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-6),
        0.1,
    ),
    "sgd": (
        OptimConfig(
            name="sgd", learning_rate=0.05, schedule="constant", weight_decay=0.1, momentum=0.8
        ),
        lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.8),
        0.1,
    ),
    "nesterov": (
        OptimConfig(
            name="sgd", learning_rate=0.05, schedule="constant", momentum=0.8, nesterov=True
        ),
        lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.8, nesterov=True),
        0.0,
    ),
    "adafactor-free clip": (
        OptimConfig(
            name="sgd", learning_rate=0.05, schedule="constant", momentum=0.0, clip_norm=0.5
        ),
        lambda groups: torch.optim.SGD(groups, lr=0.05),
        0.0,
    ),
}


@pytest.mark.parametrize("case", TORCH)
def test_optimisers_equal_pytorch(case, x64):
    config, make_torch, decay = TORCH[case]
    params = jax.tree.map(jnp.asarray, PARAMS)
    twins = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in PARAMS.items()}
    groups = [
        {"params": [twins["kernel"]], "weight_decay": decay},
        {"params": [twins["bias"]], "weight_decay": 0.0},
    ]
    optimiser, tx = make_torch(groups), make_optimizer(config, 100)
    state, rng = tx.init(params), np.random.default_rng(2)
    for _ in range(10):
        grads = {k: rng.normal(size=v.shape) for k, v in PARAMS.items()}
        updates, state = tx.update(jax.tree.map(jnp.asarray, grads), state, params)
        params = optax.apply_updates(params, updates)
        for k, p in twins.items():
            p.grad = torch.tensor(grads[k])
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(twins.values(), config.clip_norm)
        optimiser.step()
        for k in PARAMS:  # clip_grad_norm_ divides by (norm + 1e-6)
            np.testing.assert_allclose(
                params[k], twins[k].detach().numpy(), rtol=1e-5 if config.clip_norm else 1e-12
            )


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "adafactor"])
def test_every_optimiser_minimises(name):
    config = OptimConfig(name=name, learning_rate=0.03, schedule="linear", weight_decay=1e-4)
    tx, target = make_optimizer(config, 300), jax.random.normal(jax.random.key(0), (140, 130))
    params = {"kernel": jnp.zeros((140, 130))}  # wide enough that adafactor factors

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: ((p["kernel"] - target) ** 2).sum())(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = tx.init(params)
    losses = []
    for _ in range(300):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < 0.01 * losses[0]


def test_adafactor_memory_is_factored():
    tx = make_optimizer(OptimConfig(name="adafactor"), 10)
    state = tx.init({"kernel": jnp.zeros((256, 512))})
    assert sum(x.size for x in jax.tree.leaves(state)) < 256 + 512 + 10


def test_decay_mask():
    params = {
        "conv": {"kernel": jnp.zeros((3, 3, 1, 2)), "bias": jnp.zeros(2)},
        "scale": jnp.zeros(()),
    }
    assert decay_mask(params) == {"conv": {"kernel": True, "bias": False}, "scale": False}
