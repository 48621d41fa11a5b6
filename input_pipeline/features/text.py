"""Texts: tokens of a tokenizer, and how text is cut into examples."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from tokenizers import Tokenizer

from input_pipeline.cropping import crop_text
from input_pipeline.errors import DataError, shortened
from input_pipeline.features.feature import (
    Batch,
    Feature,
    Found,
    Given,
    Preparation,
    Shapes,
    readable,
)
from input_pipeline.given import given_texts
from input_pipeline.sequences import Ragged, framed
from input_pipeline.tokenizers import stands_for_no_text, vocabulary_size

Cut = Literal["windows", "sentence_pairs", "texts", "translation"]
"""How text is cut: windows of a stream; pairs of spans that follow each other or not; whole texts;
a text and its translation."""


@dataclasses.dataclass(frozen=True)
class Text(Feature):
    """Text, and how it is cut.

    Attributes:
        vocab_size: tokens are 0 .. vocab_size - 1.
        max_len: tokens in an example.
        tokenizer: JSON text of the tokenizer (``tokenizers.Tokenizer.from_str``).
        cut: see `Cut`.
        texts: TFDS features with the text or texts.
        isolate: whether windows say to which document a token belongs.
        buckets: lengths to which whole texts or translations are padded, ascending; the last is
          max_len.
    """

    kind: ClassVar[str] = "text"
    arrays: ClassVar[tuple[str, ...]] = ("tokens", "segments", "types")
    unit: ClassVar[str] = "token"
    named: ClassVar[str] = "text"
    fitted: ClassVar[bool] = True

    vocab_size: int
    max_len: int
    tokenizer: str
    cut: Cut = "windows"
    texts: tuple[str, ...] = ("text",)
    isolate: bool = False
    buckets: tuple[int, ...] = ()

    @property
    def frame(self) -> int:
        """Number of tokens that stand around a text."""
        return Tokenizer.from_str(self.tokenizer).num_special_tokens_to_add(False)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths that batches may have."""
        return self.buckets or (self.max_len,)

    def shapes(self, size: int, length: int) -> Shapes:
        """See `Feature.shapes`; windows and translations have weights of tokens, and pairs of spans
        have a label."""
        tokens, weights = ((size, length), np.int32), ((size, length), np.float32)
        if self.cut == "windows":
            found = {"tokens": tokens, "target": tokens, "weight": weights, "characters": weights}
            return found | ({"segments": tokens} if self.isolate else {})
        if self.cut == "translation":
            names = ("source", "source_segments", "tokens", "segments", "target")
            return {**dict.fromkeys(names, tokens), "weight": weights}
        follows = {"label": ((size,), np.int32)} if self.cut == "sentence_pairs" else {}
        return dict.fromkeys(("tokens", "segments", "types"), tokens) | follows

    def summary(self, label: str, *, alone: bool) -> str:
        """See `Feature.summary`."""
        if not alone:
            return (
                f"{', '.join(self.texts)} with {self.vocab_size:,} tokens, padded to {self.max_len}"
            )
        padded = f"padded to {', '.join(map(str, self.lengths))}"
        cut = {
            "windows": f"windows of {self.max_len}",
            "sentence_pairs": f"pairs of {self.max_len}",
            "texts": f"{label}, {padded}",
            "translation": f"{' to '.join(self.texts)}, {padded}",
        }[self.cut]
        return f"{self.vocab_size:,} tokens, {cut}"

    def train_batch(self, key: PRNGKeyArray, batch: Batch, how: Preparation) -> Batch:
        """Crops texts at random, each by a key of its own, if asked to."""
        if not how.crop_text:
            return batch
        tokens, segments = batch["tokens"], batch["segments"]
        ordinary = np.ones(self.vocab_size, bool)
        special = stands_for_no_text(Tokenizer.from_str(self.tokenizer), unknown=False)
        ordinary[np.array(special, np.int32)] = False
        words = jnp.asarray(ordinary)[tokens] & (segments > 0)
        rows = jnp.arange(len(tokens), dtype=jnp.uint32)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        crop = jax.vmap(lambda *row: crop_text(*row, rate=how.crop_text))
        tokens, segments = crop(keys, tokens, segments, words)
        return {**batch, "tokens": tokens, "segments": segments}

    def read(self, words: list[str], given: Given, source: str) -> Found:
        """Reads texts (see `given_texts`); longer ones than the model takes are cut."""

        def texts(word: str) -> list[tuple[str, ...]]:
            return given_texts([word], self.texts, given.lines, warn=given.warn)

        _, found, broken = readable(words, texts, given.warn)
        rows = [parts for texts in found for parts in texts]
        arrays = self.stacked(rows, given, source) if rows else {}
        return ["\t".join(parts) for parts in rows], arrays, broken

    def part(self, word: str, given: Given) -> tuple[str, ...]:
        """The text itself."""
        return (word,)

    def stacked(
        self, parts: list[tuple[str, ...]], given: Given, source: str
    ) -> dict[str, np.ndarray]:
        """Tokens, segments and types [k, max_len]; warns of texts that are cut."""
        arrays, cut = self.padded(parts, source)
        if cut:
            given.warn(
                f"{cut} of {len(parts)} text(s) are longer than {self.max_len} tokens and are cut"
            )
        return arrays

    def padded(self, rows: list[tuple[str, ...]], source: str) -> tuple[dict[str, np.ndarray], int]:
        """Tokens, segments and types [k, max_len] of texts or pairs of texts, and how many were
        cut.

        Raises:
            DataError: text that the tokenizer does not know.
        """
        encodings = framed(self.opened_tokenizer(source), rows, self.max_len, source="the text")
        every = np.arange(len(encodings))
        tokens, segments = Ragged(e.ids for e in encodings).padded(every, self.max_len)
        types, _ = Ragged(e.type_ids for e in encodings).padded(every, self.max_len)
        arrays = {"tokens": tokens, "segments": segments, "types": types}
        return arrays, sum(bool(e.overflowing) for e in encodings)

    def opened_tokenizer(self, source: str) -> Tokenizer:
        """The tokenizer.

        Args:
            source: name of the data set, for messages.

        Raises:
            DataError: it cannot be read, or has tokens that a model of this vocabulary has no
              place for.
        """
        try:
            found = Tokenizer.from_str(self.tokenizer)
        except Exception as error:  # the library raises nothing narrower
            raise DataError(
                f"the tokenizer that the run keeps of {source} cannot be read ({shortened(error)})"
            ) from error
        if (size := vocabulary_size(found)) > self.vocab_size:
            raise DataError(
                f"the tokenizer that the run keeps of {source} has {size:,} tokens, and its "
                f"vocab_size is {self.vocab_size:,}: its dataset.json is damaged"
            )
        return found
