"""``python -m train.compare.decoding``: time of greedy text by GPT-2, transformers' ``generate``
and ours, see :mod:`jaxmodels.bench.decoding`.

Prints ratios of the medians, and the share of tokens that are equal.
"""

import argparse
import json
import sys
from typing import Any

import jaxmodels
from jaxmodels.bench import decoding
from train.launch import cli
from train.records import files
from train.records.files import write_atomically


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
    longest = jaxmodels.create(args.model, vocab_size=decoding.VOCABULARY).max_len
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
        results.append(decoding.measure(args.model, batch_size=size, **options))
        print(line(results[-1]), flush=True)
        if args.json:
            write_atomically(args.json, json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
