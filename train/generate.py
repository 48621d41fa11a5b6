"""Text or images from a trained model.

python -m train.generate --workdir=DIR --prompt="To be" [--temperature=0.8] [--top_k=40]
[--max_tokens=200] python -m train.generate --weights=DIR_OR_HUB_ID --prompt="To be" [--stop=TEXT]
python -m train.generate --workdir=DIR_OF_A_TRANSLATOR --prompt="A dog runs." [--beams=4]    (or <
FILE, line by line) python -m train.generate --weights=DIR_OR_HUB_ID_OF_A_MARIAN --prompt="A dog
runs."
   (--weights: with the settings of generation_config.json, over which flags go)
python -m train.generate --workdir=DIR_OF_AN_AUTOENCODER [--count=64] [--out=FILE.png]
"""

import argparse
import sys

from jaxmodels.decode import generate as generation
from jaxmodels.decode.settings import GenerationConfig
from train.config import ConfigError
from train.launch import cli
from train.launch.workdir import read_card, read_config
from train.records import files
from train.records.opening import for_this_machine
from train.records.restore import restore
from train.setup import build
from train.tasks import bundle_of
from train.tasks.by_weights import from_weights
from train.tasks.writing import DRAWING


def main(argv: list[str] | None = None) -> int:
    """Streams text to standard output, or writes a grid of images as a PNG file."""
    parser = argparse.ArgumentParser(
        prog="python -m train.generate",
        description="Text or images from a trained model.",
        allow_abbrev=False,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", type=files.given("--workdir"), help="workdir of a run")
    source.add_argument(
        "--weights",
        help="directory or Hugging Face hub id of a language model, or of Marian, and its "
        "tokenizer",
    )
    parser.add_argument(
        "--step", default="last", help='checkpoint: "last" (default), "best" or a number'
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed draws the same; default 0"
    )
    parser.add_argument("--count", type=int, help="texts (default 1), or images (default 64)")
    text = parser.add_argument_group("text")
    text.add_argument(
        "--prompt", default="", help="what the text begins with, or is to be translated"
    )
    said = "default: as the weights say"
    text.add_argument(
        "--max_tokens",
        type=int,
        help=f"tokens to write at most; {said}, or as many as the model takes",
    )
    text.add_argument(
        "--temperature",
        type=float,
        help=f"0 takes the most probable token; {said} (without do_sample: 0), or 1",
    )
    text.add_argument(
        "--top_k",
        type=int,
        help=f"draw from this many of the most probable tokens; {said}, or from all",
    )
    text.add_argument(
        "--top_p", type=float, help=f"draw from the most probable that reach this sum; {said}, or 1"
    )
    text.add_argument(
        "--repetition_penalty", type=float, help=f"above 1: against repetition; {said}, or 1"
    )
    text.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="a text ends before it; repeatable",
    )
    text.add_argument(
        "--tokenizer",
        type=files.given_text("--tokenizer"),
        help="with --weights: where the tokenizer lies, if not beside them",
    )
    text.add_argument(
        "--beams", type=int, help="of a translation; default: as the run or the weights say, or 1"
    )
    text.add_argument(
        "--length_penalty",
        type=float,
        help="of a translation; default: as the run or weights say, or 1",
    )
    images = parser.add_argument_group("images")
    images.add_argument(
        "--out",
        type=files.given("--out"),
        help="PNG file; default: samples/generated_STEP_seed_N.png in the workdir",
    )
    args = parser.parse_args(argv)
    if args.step not in ("last", "best") and not args.step.isdigit():
        parser.error(f"--step={args.step} is not last, best or a number")
    for name in ("count", "max_tokens", "beams"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name}={value} must be at least 1")
    if not 0 <= args.seed < 2**32:
        parser.error(f"--seed={args.seed} is not in 0 .. {2**32 - 1}")
    if args.out and args.out.suffix.lower() != ".png":
        parser.error(f"--out={args.out} is not a .png file")
    flags = {
        "beams": args.beams,
        "length_penalty": args.length_penalty,
        "max_new_tokens": args.max_tokens,
    }
    flags |= {name: getattr(args, name) for name in DRAWING}
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        generation.Sampling(**{name: value for name, value in given.items() if name in DRAWING})
        GenerationConfig(**given)
    except ValueError as e:
        parser.error(str(e))
    if args.count is not None:
        given["num_return_sequences"] = args.count
    if not all(args.stop):
        parser.error("--stop is empty: every text would end at once")
    if args.weights:
        return from_weights(args.weights, given, args)
    config = for_this_machine(read_config(args.workdir))
    writes = bundle_of(config).writes
    if writes is not None:
        run = build(config, card=read_card(args.workdir))
        return writes(run, restore(run, args.workdir, args.step), given, args)
    raise ConfigError(
        f"{args.workdir} is of a run with config.task = {config.task!r}, which writes "
        "and draws nothing; give the workdir of a language model, of a translator or of a "
        "variational autoencoder"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
