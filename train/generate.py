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
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from input_pipeline import marian
from input_pipeline.tokenizers import END_OF_TEXT, load_tokenizer
from jaxmodels import GPT2, Transformer, weights
from jaxmodels.decode import generate as generation
from jaxmodels.decode.settings import GenerationConfig, places, says_length
from train.config import Config, ConfigError
from train.launch import cli
from train.launch.workdir import read_card, read_config
from train.records import figures, files
from train.records.files import is_disk_full
from train.records.opening import for_this_machine
from train.records.restore import restore
from train.run import Run
from train.setup import build
from train.state import TrainState
from train.step import eval_variables
from train.tasks import bundle_of, pictures, translate

SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty")
"""Flags of how the next token is drawn."""


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
    flags |= {name: getattr(args, name) for name in SAMPLING}
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        generation.Sampling(**{name: value for name, value in given.items() if name in SAMPLING})
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
    if writes == "images":
        return draw_images(config, args)
    if writes == "text":
        run, state = _from_run(config, args)
        variables, tokenizer = (
            jax.device_get(eval_variables(state)),
            Tokenizer.from_str(run.card.kind("text").tokenizer),
        )
        end = tokenizer.token_to_id(END_OF_TEXT)
        settings = GenerationConfig(
            do_sample=True, top_k=0, bos=end, stop=() if end is None else (end,)
        )
        return write_text(run.model, variables, tokenizer, over(settings, given), args)
    if writes == "translations":
        run, state = _from_run(config, args)
        tokenizer, settings = (
            Tokenizer.from_str(run.card.kind("text").tokenizer),
            translate.settings_of(config.beam),
        )
        return write_translations(
            run.model,
            eval_variables(state),
            tokenizer,
            run.card.lengths,
            settings,
            args,
            given=given,
        )
    raise ConfigError(
        f"{args.workdir} is of a run with config.objective = {config.objective!r}, which writes "
        "and draws nothing; give the workdir of a language model, of a translator or of a "
        "variational autoencoder"
    )


def write_text(
    model: Any, variables: Any, tokenizer: Tokenizer, settings: GenerationConfig, args: Any
) -> int:
    """Streams one text, or prints several one after the other; says on standard error how fast it
    was."""
    prompt = _prompt(tokenizer, args.prompt, settings.bos)
    longest = (
        places(settings, len(prompt), model.max_len) if says_length(settings) else model.max_len
    )
    count, printed = settings.num_return_sequences or 1, 0
    given, held = len(tokenizer.decode(prompt)), max(map(len, args.stop), default=1) - 1

    # tokens that stand for no text, as </s>, are not found in one
    stop = [*settings.stop, *(i for i in map(tokenizer.token_to_id, args.stop) if i is not None)]

    def decoded(text: list[int]) -> tuple[str, bool]:  # as far as it goes, and whether it has ended
        whole = tokenizer.decode(prompt + text)
        ends = [i for i in (whole.find(words, given) for words in args.stop) if i >= 0]
        return whole[: min(ends, default=None)], bool(ends) or text[-1:] in (
            [token] for token in stop
        )

    def stream(texts: list[list[int]]) -> bool:
        nonlocal printed
        found = [decoded(text) for text in texts]
        whole, ended = found[0]
        # neither a character that is only half there nor what may be the beginning of a --stop
        if count == 1 and not whole.endswith("\ufffd"):
            there = len(whole) if ended else max(printed, len(whole) - held)
            print(whole[printed:there], end="", flush=True)
            printed = there
        return all(ended for _, ended in found)

    variables = jax.device_put(variables)
    prompts, settings = [prompt] * count, dataclasses.replace(settings, num_return_sequences=None)
    options = {"max_len": longest, "settings": settings, "stop": stop, "seed": args.seed}
    try:
        # the first few tokens compile what the others use
        generation.generate(model, variables, prompts, first_only=True, **options)
        start = time.perf_counter()
        texts = generation.generate(model, variables, prompts, on_tokens=stream, **options)
    except ValueError as e:
        raise ConfigError(
            f"{e}; this model takes {model.max_len} tokens, the prompt has {len(prompt)}"
        ) from e
    seconds = time.perf_counter() - start
    for i, text in enumerate(texts) if count > 1 else ():
        print(f"--- {i + 1}\n{decoded(text)[0]}")
    written = sum(map(len, texts))
    print(decoded(texts[0])[0][printed:] if count == 1 else "", flush=True)
    print(f"{written} tokens in {seconds:.2f} s: {written / seconds:.0f} tokens/s", file=sys.stderr)
    return 0


def _prompt(tokenizer: Tokenizer, text: str, start: int | None) -> list[int]:
    try:
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
    except Exception as e:  # characters that it does not know
        raise ConfigError(
            f"--prompt={text!r} has characters that the tokenizer does not know"
        ) from e
    if tokens:
        return tokens
    if start is not None:
        return [start]
    try:
        return tokenizer.encode("\n", add_special_tokens=False).ids
    except Exception as e:
        raise ConfigError(
            "this tokenizer knows neither an end of text nor a new line to begin with: give "
            "--prompt"
        ) from e


def write_translations(
    model: Any,
    variables: Any,
    tokenizer: Tokenizer | marian.Marian,
    lengths: Sequence[int],
    settings: GenerationConfig,
    args: Any,
    *,
    given: Mapping[str, Any],
) -> int:
    """Prints the translation of the prompt, or of every line of standard input.

    Args: as of :func:`train.tasks.translate.translate`; ``given`` goes over the settings.
    """
    if args.stop:
        raise ConfigError(
            f"--stop={args.stop[0]} is for language models: a translation ends with its end token "
            "alone"
        )
    settings = over(settings, given)
    sources = [args.prompt] if args.prompt else cli.stdin_lines()
    start = time.perf_counter()
    try:
        found = translate.translate(
            model, variables, tokenizer, sources, lengths, settings, seed=args.seed
        )
    except ValueError as e:
        raise ConfigError(str(e)) from e
    print("\n".join(found))
    seconds = time.perf_counter() - start
    print(f"{len(found)} texts in {seconds:.2f} s, compilation included", file=sys.stderr)
    return 0


def _from_run(config: Config, args: Any) -> tuple[Run, TrainState]:
    run = build(config, card=read_card(args.workdir))
    return run, restore(run, args.workdir, args.step)


def over(said: GenerationConfig, given: Mapping[str, Any]) -> GenerationConfig:
    """Settings of a directory, or of a run, with the flags of the command line over them.

    A flag of the draws asks for draws, which --temperature=0 does not. Where neither says
    ``top_k``, a draw by flags is from all tokens.
    """
    try:
        found = dataclasses.replace(said, **given)
    except ValueError as e:
        raise ConfigError(str(e)) from e
    if given.get("temperature") == 0:
        return dataclasses.replace(found, do_sample=False)
    if {"temperature", "top_k", "top_p"} & {*given} and not said.do_sample:
        return dataclasses.replace(
            found, do_sample=True, top_k=0 if found.top_k is None else found.top_k
        )
    return found


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


def draw_images(config: Config, args: Any) -> int:
    """Writes a grid of samples as a PNG file."""
    run, state = _from_run(config, args)
    count = args.count or pictures.SAMPLES
    pixels = jax.jit(lambda state: pictures.grid(pictures.samples(run, state, args.seed, count)))(
        state
    )
    out = args.out or args.workdir / "samples" / f"generated_{int(state.step)}_seed_{args.seed}.png"
    try:
        figures.write_png(out, np.asarray(pixels))
    except OSError as e:
        if is_disk_full(e):
            raise
        raise ConfigError(
            f"{out} cannot be written: {e.strerror}; give another --out=FILE.png"
        ) from e
    print(f"wrote {out}: {count} samples of step {int(state.step)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
