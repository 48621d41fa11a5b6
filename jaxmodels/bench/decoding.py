"""Time of greedy text by GPT-2: transformers' ``generate`` and ours.

Both have the same random weights and the same prompts in float32, and take turns.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmodels
from jaxmodels import originals, weights
from jaxmodels.bench.timing import alternate
from jaxmodels.decode.generate import generate
from jaxmodels.foreign.original import transformers
from jaxmodels.parity.extra import torch
from jaxmodels.parity.randomness import deterministic_torch

VOCABULARY = 50_257
"""Size of GPT-2's vocabulary, whatever the preset."""


def measure(
    name: str, *, batch_size: int, prompt: int, tokens: int, rounds: int, seed: int
) -> dict[str, Any]:
    """Seconds to the first token of ``batch_size`` prompts of ``prompt`` tokens, and for each of
    ``tokens`` more.

    Returns:
      ``first`` and ``all``: seconds of each side, see :func:`jaxmodels.bench.timing.alternate`.
      ``ratio_first``, ``ratio_token``, and ``ratio`` of all: transformers' time over ours.
      ``equal``: share of the tokens that both write.
    """
    model = jaxmodels.create(name, vocab_size=VOCABULARY)
    with deterministic_torch(seed):
        original = originals.build(model, ())
        theirs = transformers().GPT2LMHeadModel(original.module.config)
        theirs.load_state_dict(original.module.state_dict())
        prompts = np.random.default_rng(seed).integers(0, model.vocab_size, (batch_size, prompt))
    tensors = {k: v.numpy() for k, v in original.tensors().items()}
    variables = jax.tree.map(
        jnp.asarray, weights.from_torch(model, tensors, format=original.format)
    )
    theirs.eval()
    inputs, options = (
        torch.from_numpy(prompts),
        {"do_sample": False, "eos_token_id": None, "pad_token_id": 0},
    )

    def by_transformers(count: int) -> np.ndarray:
        found = theirs.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=count, **options
        )
        return found[:, prompt:].numpy()

    def by_us(count: int) -> np.ndarray:
        return np.array(generate(model, variables, prompts.tolist(), max_len=prompt + count))

    equal = float((by_transformers(tokens + 1) == by_us(tokens + 1)).mean())
    found: dict[str, Any] = {
        "model": name,
        "batch_size": batch_size,
        "prompt": prompt,
        "tokens": tokens,
        "equal": equal,
    }
    for key, count in (("first", 1), ("all", tokens + 1)):
        sides = {"torch": partial(by_transformers, count), "ours": partial(by_us, count)}
        found[key] = alternate(sides, rounds=rounds)
    first, whole = (
        [found[key][side]["median"] for side in ("torch", "ours")] for key in ("first", "all")
    )
    found |= {"ratio_first": first[0] / first[1], "ratio": whole[0] / whole[1]}
    return found | {"ratio_token": (whole[0] - first[0]) / (whole[1] - first[1])}
