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
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from tokenizers import Tokenizer

from input_pipeline import marian
from input_pipeline.tokenizers import END_OF_TEXT, load_tokenizer
from jaxmodels import GPT2, Transformer, weights
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
from train.tasks.translate import write_translations
from train.tasks.writing import DRAWING, over, write_text


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


def from_weights(source: str, given: Mapping[str, Any], args: Any) -> int:
    """Text, or translations, by weights that are not of a run.

    Args:
      given: settings of the command line, which go over the directory's.
    """
    try:
        path = weights.resolve_source(source)
        model, variables = weights.load(path, cast=True)
        said = weights.generation_config(path)
    except weights.WeightsError as e:
        raise ConfigError(str(e) if str(source) in str(e) else f"--weights={source}: {e}") from e
    if not isinstance(model, GPT2 | Transformer):
        raise ConfigError(f"--weights={source} is a {type(model).__name__}, which writes no text")
    tokenizer = _tokenizer(Path(args.tokenizer or path), model)
    if isinstance(model, GPT2):
        end = _end_of_text(tokenizer, model.vocab_size)
        bos = end if said.bos is None or said.bos >= model.vocab_size else said.bos
        said = dataclasses.replace(said, bos=bos, stop=said.stop or (() if end is None else (end,)))
        return write_text(model, variables, tokenizer, over(said, given), args)
    if not model.share_embeddings:
        raise ConfigError(
            f"--weights={source} has a vocabulary for the source and another for the target "
            "(share_encoder_decoder_embeddings false), and one tokenizer is read; jaxmodels.beam "
            "translates tokens"
        )
    lengths = [*(n for n in (32, 64, 128, 256) if n < model.max_len), model.max_len]
    variables = jax.device_put(variables)
    return write_translations(model, variables, tokenizer, lengths, said, args, given=given)


def _tokenizer(path: Path, model: GPT2 | Transformer) -> Tokenizer | marian.Marian:
    """The tokenizer that lies there, if it suits the model."""
    found = marian.load(path) if isinstance(model, Transformer) else load_tokenizer(path)
    most = (
        model.vocab_size
        if isinstance(model, GPT2)
        else min(model.vocab_size, model.target_vocab_size or 2**31)
    )
    size = marian.vocabulary_size(found)
    if isinstance(model, GPT2) and size == most + 1 and _end_of_text(found, most) is None:
        # GPT-2's class adds it to vocabularies that end otherwise
        size -= END_OF_TEXT in found.get_vocab()
    if size > most:
        raise ConfigError(
            f"the tokenizer has {size} tokens and the weights are for {most}: they do not belong "
            "together; --tokenizer=PATH names another"
        )
    return found


def _end_of_text(tokenizer: Tokenizer, most: int) -> int | None:
    """The number of GPT-2's end token, if it is one of a model of so many."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    return None if end is None or end >= most else end


if __name__ == "__main__":
    sys.exit(cli.run(main))
