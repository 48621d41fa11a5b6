"""Text or images from a trained model.

python -m train.generate --workdir=DIR --prompt="To be" [--temperature=0.8] [--top_k=40] [--max_tokens=200]
python -m train.generate --weights=DIR_OR_HUB_ID --prompt="To be"
python -m train.generate --workdir=DIR_OF_A_TRANSLATOR --prompt="A dog runs." [--beams=4]    (or < FILE, line by line)
python -m train.generate --workdir=DIR_OF_AN_AUTOENCODER [--count=64] [--out=FILE.png]
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from input_pipeline.tokenizers import END_OF_TEXT, load_tokenizer, vocabulary_size
from jaxmodels import GPT2, weights
from jaxmodels import generate as generation
from train import cli, pictures, report, translate
from train.checkpoint import is_disk_full
from train.config import Config, ConfigError
from train.evaluate import for_this_machine, restore
from train.setup import Run, build
from train.state import TrainState
from train.step import eval_variables
from train.workdir import read_card, read_config


def main(argv: list[str] | None = None) -> int:
    """Streams text to standard output, or writes a grid of images as a PNG file."""
    parser = argparse.ArgumentParser(
        prog="python -m train.generate", description="Text or images from a trained model.", allow_abbrev=False
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", type=Path, help="workdir of a run")
    source.add_argument("--weights", help="directory or Hugging Face hub id of a language model and its tokenizer")
    parser.add_argument("--step", default="last", help='checkpoint: "last" (default), "best" or a number')
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same; default 0")
    parser.add_argument("--count", type=int, help="texts (default 1), or images (default 64)")
    text = parser.add_argument_group("text")
    text.add_argument("--prompt", default="", help="what the text begins with, or is to be translated")
    text.add_argument("--max_tokens", type=int, help="tokens to write at most; default: as many as the model takes")
    text.add_argument("--temperature", type=float, default=1.0, help="0 takes the most probable token; default 1")
    text.add_argument("--top_k", type=int, default=0, help="draw from this many of the most probable tokens")
    text.add_argument("--top_p", type=float, default=1.0, help="draw from the most probable that reach this sum")
    text.add_argument("--repetition_penalty", type=float, default=1.0, help="above 1: against repetition")
    text.add_argument("--tokenizer", help="with --weights: where the tokenizer lies, if not beside them")
    text.add_argument("--beams", type=int, help="of a translation; default: config.beam.beams of the run")
    text.add_argument("--length_penalty", type=float, help="of a translation; default: that of the run")
    images = parser.add_argument_group("images")
    images.add_argument("--out", type=Path, help="PNG file; default: samples/generated_STEP_seed_N.png in the workdir")
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
    try:
        sampling = generation.Sampling(args.repetition_penalty, args.temperature, args.top_k, args.top_p)
    except ValueError as e:
        parser.error(str(e))
    if args.weights:
        return write_text(*_from_weights(args.weights, args.tokenizer), sampling, args)
    config = for_this_machine(read_config(args.workdir))
    if config.objective == "elbo":
        return draw_images(config, args)
    if config.objective == "causal_lm":
        run, state = _from_run(config, args)
        variables = jax.device_get(eval_variables(state))
        return write_text(run.model, variables, Tokenizer.from_str(run.card.tokenizer), sampling, args)
    if config.objective == "seq2seq":
        return write_translations(config, args)
    raise ConfigError(
        f"{args.workdir} is of a run with config.objective = {config.objective!r}, which writes and draws nothing; "
        "give the workdir of a language model, of a translator or of a variational autoencoder"
    )


def write_text(model: Any, variables: Any, tokenizer: Tokenizer, sampling: generation.Sampling, args: Any) -> int:
    """Streams one text, or prints several one after the other; says on standard error how fast it was."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    prompt = _prompt(tokenizer, args.prompt, end)
    longest = model.max_len if args.max_tokens is None else min(model.max_len, len(prompt) + args.max_tokens)
    count, printed = args.count or 1, ""

    def stream(texts: list[list[int]]) -> None:
        nonlocal printed
        whole = tokenizer.decode(prompt + texts[0])
        if count == 1 and not whole.endswith("\ufffd"):  # a character that is only half there
            print(whole[len(printed) :], end="", flush=True)
            printed = whole

    variables = jax.device_put(variables)
    options = {"max_len": longest, "sampling": sampling, "stop": [] if end is None else [end]}
    try:
        # the first few tokens compile what the others use
        generation.generate(model, variables, [prompt] * count, seed=args.seed, first_only=True, **options)
        start = time.perf_counter()
        texts = generation.generate(model, variables, [prompt] * count, seed=args.seed, on_tokens=stream, **options)
    except ValueError as e:
        raise ConfigError(f"{e}; this model takes {model.max_len} tokens, the prompt has {len(prompt)}") from e
    seconds = time.perf_counter() - start
    for i, text in enumerate(texts) if count > 1 else ():
        print(f"--- {i + 1}\n{tokenizer.decode(prompt + text)}")
    written = sum(map(len, texts))
    print(tokenizer.decode(prompt + texts[0])[len(printed) :] if count == 1 else "", flush=True)
    print(f"{written} tokens in {seconds:.2f} s: {written / seconds:.0f} tokens/s", file=sys.stderr)
    return 0


def _prompt(tokenizer: Tokenizer, text: str, end: int | None) -> list[int]:
    try:
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
    except Exception as e:  # characters that it does not know
        raise ConfigError(f"--prompt={text!r} has characters that the tokenizer does not know") from e
    if tokens:
        return tokens
    if end is not None:
        return [end]
    try:
        return tokenizer.encode("\n", add_special_tokens=False).ids
    except Exception as e:
        raise ConfigError(
            "this tokenizer knows neither an end of text nor a new line to begin with: give --prompt"
        ) from e


def write_translations(config: Config, args: Any) -> int:
    """Prints the translation of the prompt, or of every line of standard input."""
    run, state = _from_run(config, args)
    beam = dataclasses.replace(config.beam)
    for name, value in (("beams", args.beams), ("length_penalty", args.length_penalty)):
        if value is not None:
            setattr(beam, name, value)
    sources = [args.prompt] if args.prompt else cli.stdin_lines()
    tokenizer, start = Tokenizer.from_str(run.card.tokenizer), time.perf_counter()
    try:
        found = translate.translate(run.model, eval_variables(state), tokenizer, sources, run.card.lengths, beam)
    except ValueError as e:
        raise ConfigError(str(e)) from e
    print("\n".join(found))
    seconds = time.perf_counter() - start
    print(f"{len(found)} texts in {seconds:.2f} s, compilation included", file=sys.stderr)
    return 0


def _from_run(config: Config, args: Any) -> tuple[Run, TrainState]:
    run = build(config, card=read_card(args.workdir))
    return run, restore(run, args.workdir, args.step)


def _from_weights(source: str, tokenizer: str | None) -> tuple[Any, Any, Tokenizer]:
    try:
        model, variables = weights.load(source, cast=True)
        found = load_tokenizer(tokenizer or weights.resolve_source(source))
    except weights.WeightsError as e:
        raise ConfigError(f"--weights={source}: {e}") from e
    if not isinstance(model, GPT2):
        raise ConfigError(f"--weights={source} is a {type(model).__name__}, which continues no text")
    if vocabulary_size(found) > model.vocab_size:
        raise ConfigError(
            f"the tokenizer has {vocabulary_size(found)} tokens and the weights are for {model.vocab_size}: they do "
            "not belong together; --tokenizer=PATH names another"
        )
    return model, variables, found


def draw_images(config: Config, args: Any) -> int:
    """Writes a grid of samples as a PNG file."""
    run, state = _from_run(config, args)
    count = args.count or pictures.SAMPLES
    pixels = jax.jit(lambda state: pictures.grid(pictures.samples(run, state, args.seed, count)))(state)
    out = args.out or args.workdir / "samples" / f"generated_{int(state.step)}_seed_{args.seed}.png"
    try:
        report.write_png(out, np.asarray(pixels))
    except OSError as e:
        if is_disk_full(e):
            raise
        raise ConfigError(f"{out} cannot be written: {e.strerror}; give another --out=FILE.png") from e
    print(f"wrote {out}: {count} samples of step {int(state.step)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
