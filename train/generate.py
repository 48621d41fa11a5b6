"""Text or images from a trained model.

python -m train.generate --workdir=DIR --prompt="To be" [--temperature=0.8] [--top_k=40] [--max_tokens=200]
python -m train.generate --weights=DIR_OR_HUB_ID --prompt="To be" [--stop=TEXT]
python -m train.generate --workdir=DIR_OF_A_TRANSLATOR --prompt="A dog runs." [--beams=4]    (or < FILE, line by line)
python -m train.generate --weights=DIR_OR_HUB_ID_OF_A_MARIAN --prompt="A dog runs."
python -m train.generate --workdir=DIR_OF_AN_AUTOENCODER [--count=64] [--out=FILE.png]
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from input_pipeline.tokenizers import END_OF_TEXT, load_tokenizer, sentence_ends, vocabulary_size
from jaxmodels import GPT2, Transformer, weights
from jaxmodels import generate as generation
from train import cli, files, pictures, report, translate
from train.config import BeamConfig, Config, ConfigError
from train.evaluate import for_this_machine, restore
from train.files import is_disk_full
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
    source.add_argument("--workdir", type=files.given("--workdir"), help="workdir of a run")
    source.add_argument(
        "--weights", help="directory or Hugging Face hub id of a language model, or of Marian, and its tokenizer"
    )
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
    text.add_argument("--stop", action="append", default=[], metavar="TEXT", help="a text ends before it; repeatable")
    text.add_argument(
        "--tokenizer",
        type=files.given_text("--tokenizer"),
        help="with --weights: where the tokenizer lies, if not beside them",
    )
    text.add_argument("--beams", type=int, help="of a translation; default: as the run or the weights say")
    text.add_argument("--length_penalty", type=float, help="of a translation; default: as the run or the weights say")
    images = parser.add_argument_group("images")
    images.add_argument(
        "--out", type=files.given("--out"), help="PNG file; default: samples/generated_STEP_seed_N.png in the workdir"
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
    try:
        sampling = generation.Sampling(args.repetition_penalty, args.temperature, args.top_k, args.top_p)
    except ValueError as e:
        parser.error(str(e))
    if not all(args.stop):
        parser.error("--stop is empty: every text would end at once")
    if args.weights:
        return from_weights(args.weights, sampling, args)
    config = for_this_machine(read_config(args.workdir))
    if config.objective == "elbo":
        return draw_images(config, args)
    if config.objective == "causal_lm":
        run, state = _from_run(config, args)
        variables, tokenizer = jax.device_get(eval_variables(state)), Tokenizer.from_str(run.card.tokenizer)
        end = tokenizer.token_to_id(END_OF_TEXT)
        return write_text(run.model, variables, tokenizer, end, [] if end is None else [end], sampling, args)
    if config.objective == "seq2seq":
        run, state = _from_run(config, args)
        tokenizer, beam = Tokenizer.from_str(run.card.tokenizer), config.beam
        return write_translations(run.model, eval_variables(state), tokenizer, run.card.lengths, beam, args)
    raise ConfigError(
        f"{args.workdir} is of a run with config.objective = {config.objective!r}, which writes and draws nothing; "
        "give the workdir of a language model, of a translator or of a variational autoencoder"
    )


def write_text(
    model: Any,
    variables: Any,
    tokenizer: Tokenizer,
    start: int | None,
    stop: Sequence[int],
    sampling: generation.Sampling,
    args: Any,
) -> int:
    """Streams one text, or prints several one after the other; says on standard error how fast it was.

    Args:
      start: the token that a text without a prompt begins with; stop: tokens that end a text.
    """
    prompt = _prompt(tokenizer, args.prompt, start)
    longest = model.max_len if args.max_tokens is None else min(model.max_len, len(prompt) + args.max_tokens)
    count, printed = args.count or 1, 0
    given, held = len(tokenizer.decode(prompt)), max(map(len, args.stop), default=1) - 1

    # tokens that stand for no text, as </s>, are not found in one
    stop = [*stop, *(i for i in map(tokenizer.token_to_id, args.stop) if i is not None)]

    def decoded(text: list[int]) -> tuple[str, bool]:  # as far as it goes, and whether it has ended
        whole = tokenizer.decode(prompt + text)
        ends = [i for i in (whole.find(words, given) for words in args.stop) if i >= 0]
        return whole[: min(ends, default=None)], bool(ends) or text[-1:] in ([token] for token in stop)

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
    options = {"max_len": longest, "sampling": sampling, "stop": stop}
    try:
        # the first few tokens compile what the others use
        generation.generate(model, variables, [prompt] * count, seed=args.seed, first_only=True, **options)
        start = time.perf_counter()
        texts = generation.generate(model, variables, [prompt] * count, seed=args.seed, on_tokens=stream, **options)
    except ValueError as e:
        raise ConfigError(f"{e}; this model takes {model.max_len} tokens, the prompt has {len(prompt)}") from e
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
        raise ConfigError(f"--prompt={text!r} has characters that the tokenizer does not know") from e
    if tokens:
        return tokens
    if start is not None:
        return [start]
    try:
        return tokenizer.encode("\n", add_special_tokens=False).ids
    except Exception as e:
        raise ConfigError(
            "this tokenizer knows neither an end of text nor a new line to begin with: give --prompt"
        ) from e


def write_translations(
    model: Any,
    variables: Any,
    tokenizer: Tokenizer,
    lengths: Sequence[int],
    beam: BeamConfig,
    args: Any,
    **tokens: Any,
) -> int:
    """Prints the translation of the prompt, or of every line of standard input.

    Args: as of :func:`train.translate.translate`; ``tokens`` are its ``ends`` and ``forbidden``.
    """
    if args.stop:
        raise ConfigError(f"--stop={args.stop[0]} is for language models: a translation ends with its end token alone")
    beam = dataclasses.replace(beam)
    for name, value in (("beams", args.beams), ("length_penalty", args.length_penalty)):
        if value is not None:
            setattr(beam, name, value)
    sources = [args.prompt] if args.prompt else cli.stdin_lines()
    max_len = min(lengths[-1], (args.max_tokens or lengths[-1]) + 1)  # with the start token
    start = time.perf_counter()
    try:
        found = translate.translate(model, variables, tokenizer, sources, lengths, beam, max_len=max_len, **tokens)
    except ValueError as e:
        raise ConfigError(str(e)) from e
    print("\n".join(found))
    seconds = time.perf_counter() - start
    print(f"{len(found)} texts in {seconds:.2f} s, compilation included", file=sys.stderr)
    return 0


def _from_run(config: Config, args: Any) -> tuple[Run, TrainState]:
    run = build(config, card=read_card(args.workdir))
    return run, restore(run, args.workdir, args.step)


def from_weights(source: str, sampling: generation.Sampling, args: Any) -> int:
    """Text, or translations, by weights that are not of a run."""
    try:
        path = weights.resolve_source(source)
        model, variables = weights.load(path, cast=True)
        said = weights.generation_config(path)
    except weights.WeightsError as e:
        raise ConfigError(f"--weights={source}: {e}") from e
    if not isinstance(model, GPT2 | Transformer):
        raise ConfigError(f"--weights={source} is a {type(model).__name__}, which writes no text")
    tokenizer = _tokenizer(Path(args.tokenizer or path), model)
    if isinstance(model, GPT2):
        end = tokenizer.token_to_id(END_OF_TEXT)
        start, stop = said.start, said.stop or (() if end is None else (end,))
        start = end if start is None or start >= model.vocab_size else start
        return write_text(model, variables, tokenizer, start, stop, sampling, args)
    if not model.share_embeddings:
        raise ConfigError(
            f"--weights={source} has a vocabulary for the source and another for the target "
            "(share_encoder_decoder_embeddings false), and one tokenizer is read; jaxmodels.beam translates tokens"
        )
    if len(said.stop) > 1:
        raise ConfigError(f"--weights={source} has the end tokens {said.stop}; a translation ends with one")
    start, end = sentence_ends(tokenizer, f"--weights={source}")
    ends = (start if said.start is None else said.start, *(said.stop or (end,)))
    plain = BeamConfig()
    beam = BeamConfig(said.beams or plain.beams, said.length_penalty or plain.length_penalty)
    lengths = [*(n for n in (32, 64, 128, 256) if n < model.max_len), model.max_len]
    variables = jax.device_put(variables)
    return write_translations(model, variables, tokenizer, lengths, beam, args, ends=ends, forbidden=said.forbidden)


def _tokenizer(path: Path, model: GPT2 | Transformer) -> Tokenizer:
    """The tokenizer that lies there, if it suits the model."""
    if isinstance(model, Transformer) and path.is_dir() and not (path / "tokenizer.json").is_file():
        raise ConfigError(
            f"{path} holds no tokenizer.json, and SentencePiece files (source.spm, target.spm), as Marian's are, are "
            "not read: --tokenizer=FILE names a tokenizer.json with the same vocabulary, such as Xenova/opus-mt-en-de "
            "of the hub keeps for Helsinki-NLP/opus-mt-en-de"
        )
    found = load_tokenizer(path)
    most = model.vocab_size if isinstance(model, GPT2) else min(model.vocab_size, model.target_vocab_size or 2**31)
    if vocabulary_size(found) > most:
        raise ConfigError(
            f"the tokenizer has {vocabulary_size(found)} tokens and the weights are for {most}: they do not belong "
            "together; --tokenizer=PATH names another"
        )
    return found


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
