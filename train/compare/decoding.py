"""``python -m train.compare.decoding``: time of greedy text by GPT-2, transformers' ``generate``
and ours.

Both have the same random weights and the same prompts in float32, and take turns. Prints ratios of
the medians, and the share of tokens that are equal.
"""

import argparse
import json
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxmodels
from jaxmodels import weights
from jaxmodels.decode.generate import generate
from jaxmodels.parity.randomness import deterministic_torch
from jaxmodels.parity.timing import alternate
from train import files
from train.compare import originals
from train.files import write_atomically
from train.launch import cli

VOCABULARY = 50_257
"""Size of GPT-2's vocabulary, whatever the preset."""


def measure(
    name: str, *, batch_size: int, prompt: int, tokens: int, rounds: int, seed: int
) -> dict[str, Any]:
    """Seconds to the first token of ``batch_size`` prompts of ``prompt`` tokens, and for each of
    ``tokens`` more.

    Returns:
      ``first`` and ``all``: seconds of each side, see :func:`jaxmodels.parity.timing.alternate`.
      ``ratio_first``, ``ratio_token``, and ``ratio`` of all: transformers' time over ours.
      ``equal``: share of the tokens that both write.
    """
    model = jaxmodels.create(name, vocab_size=VOCABULARY)
    with deterministic_torch(seed):
        original = originals.build(model, ())
        theirs = originals.transformers().GPT2LMHeadModel(original.module.config)
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


def line(found: dict[str, Any]) -> str:
    """The ratios in one line."""
    return (
        f"{found['model']}  batch {found['batch_size']}  transformers' time over ours: first of "
        f"{found['prompt']} {found['ratio_first']:.2f}  each of {found['tokens']} tokens "
        f"{found['ratio_token']:.2f}  all {found['ratio']:.2f}  equal tokens {found['equal']:.1%}"
    )


def main(argv: list[str] | None = None) -> int:
    """Prints a line for each batch size."""
    parser = argparse.ArgumentParser(
        prog="python -m train.compare.decoding",
        description="Greedy text by transformers' generate and ours. Needs pip install -e "
        ".[compare]",
    )
    parser.add_argument("--model", default="gpt2_124m", help="a preset of GPT-2; default gpt2_124m")
    parser.add_argument(
        "--batch_size", type=int, action="append", help="repeatable; default: 1 and 32"
    )
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt; default 64")
    parser.add_argument(
        "--tokens", type=int, default=64, help="that are written after the first; default 64"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--json", type=files.given("--json"), help="write what was measured here, as a list"
    )
    args = parser.parse_args(argv)
    if min(args.prompt, args.tokens, args.rounds, *(args.batch_size or [1])) < 1:
        parser.error("--batch_size, --prompt, --tokens and --rounds must be at least 1")
    known = [preset for preset in jaxmodels.list_models() if preset.startswith("gpt2")]
    if args.model not in known:
        parser.error(f"--model={args.model} is not one of {', '.join(known)}")
    longest = jaxmodels.create(args.model, vocab_size=VOCABULARY).max_len
    if args.prompt + args.tokens + 1 > longest:
        parser.error(
            f"--prompt={args.prompt} and {args.tokens + 1} tokens are more than the model's "
            f"{longest}"
        )
    results = []
    for size in args.batch_size or (1, 32):
        options = {
            "prompt": args.prompt,
            "tokens": args.tokens,
            "rounds": args.rounds,
            "seed": args.seed,
        }
        results.append(measure(args.model, batch_size=size, **options))
        print(line(results[-1]), flush=True)
        if args.json:
            write_atomically(args.json, json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
