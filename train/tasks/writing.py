"""Text that a language model writes: what ``train.generate`` does with one."""

import dataclasses
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
from tokenizers import Tokenizer

from input_pipeline.tokenizers import END_OF_TEXT
from jaxmodels.decode import generate as generation
from jaxmodels.decode.settings import GenerationConfig, places, says_length
from train.options.fields import ConfigError
from train.run import Run
from train.state import TrainState
from train.step import eval_variables

DRAWING = ("temperature", "top_k", "top_p", "repetition_penalty")
"""Flags of how the next token is drawn."""


def write(run: Run, state: TrainState, given: Mapping[str, Any], args: Any) -> int:
    """Writes with a run; see :func:`write_text`.

    Args:
      given: settings of the command line.
      args: its other flags.
    """
    tokenizer = Tokenizer.from_str(run.card.kind("text").tokenizer)
    end = tokenizer.token_to_id(END_OF_TEXT)
    settings = GenerationConfig(
        do_sample=True, top_k=0, bos=end, stop=() if end is None else (end,)
    )
    variables = jax.device_get(eval_variables(state))
    return write_text(run.model, variables, tokenizer, over(settings, given), args)


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
