"""Text, or translations, by weights that are not of a run: ``train.generate --weights``."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from tokenizers import Tokenizer

from input_pipeline import marian
from input_pipeline.tokenizers import END_OF_TEXT, load_tokenizer
from jaxmodels import GPT2, Transformer, weights
from train.options.fields import ConfigError
from train.tasks.translate import write_translations
from train.tasks.writing import over, write_text


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
