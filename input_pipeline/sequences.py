"""Texts with a label, and texts with their translation, as tokens in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tokenizers import Encoding, Tokenizer

from input_pipeline.corpus import read_records, text_of
from input_pipeline.errors import DataError
from input_pipeline.ids import check_labels
from input_pipeline.tokenizers import encode_all, sentence_ends

_CHUNK = 4096  # texts encoded at once


class Ragged:
    """Rows of integers of different lengths, in one array."""

    def __init__(self, rows: Iterable[Sequence[int]]):
        arrays = [np.asarray(row, np.int32) for row in rows]
        self.lengths = np.array([len(row) for row in arrays], np.int64)
        self._ends = np.cumsum(self.lengths)
        self._values = np.concatenate(arrays) if arrays else np.zeros(0, np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, indices: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows with zeros behind them, and where they are real: int32 [k, length]."""
        places = np.arange(length)
        real = places < self.lengths[indices, None]
        begins = (self._ends - self.lengths)[indices, None]
        values = self._values[np.minimum(begins + places, max(0, len(self._values) - 1))]
        return values * real, real.astype(np.int32)


def by_length(lengths: np.ndarray, buckets: tuple[int, ...]) -> list[tuple[int, np.ndarray]]:
    """For each bucket the examples that it is the shortest for."""
    need = np.searchsorted(buckets, lengths)
    return [(length, np.flatnonzero(need == i)) for i, length in enumerate(buckets)]


class LabelledTexts:
    """Texts, or pairs of texts, framed by the tokenizer, with the interface of image examples and
    ``buckets``.

    Args:
        builder: of the data set; split: of it.
        tokenizer: of the texts.
        texts: one or two features.
        lengths: to which batches are padded, ascending. What is longer than the last is cut, and
          how many are is said.
        source: name of the split, for messages.
        complete: whether every example must have a label.
        classes: labels are 0 .. classes - 1; None: they are numbers.

    Attributes:
        buckets: for each length the examples that take it, shorter ones left to shorter lengths.

    Raises:
        DataError: no examples, an example without a label or of no class, text that the tokenizer
            does not know, or that is not UTF-8.
    """

    def __init__(
        self,
        builder: tfds.core.DatasetBuilder,
        split: str,
        tokenizer: Tokenizer,
        texts: tuple[str, ...],
        lengths: tuple[int, ...],
        *,
        source: str,
        complete: bool = True,
        classes: int | None = None,
    ):
        self._lengths, max_len, cut = lengths, lengths[-1], 0
        dtype = np.float32 if classes is None else np.int32
        labels: list[np.generic] = []
        tokens: list[list[int]] = []
        types: list[list[int]] = []
        for records in _chunks(read_records(builder, split)):
            rows = [
                tuple(text_of(record, text, i, source) for text in texts)
                for i, record in enumerate(records, len(labels))
            ]
            for encoding in framed(tokenizer, rows, max_len, source=source):
                tokens.append(encoding.ids)
                types.append(encoding.type_ids)
                cut += bool(encoding.overflowing)
            labels += [record["label"] for record in records]
        if not labels:
            raise DataError(f"{source} has no examples")
        if classes is not None:
            check_labels(np.array(labels), classes, source, complete=complete)
        if not np.isfinite(labels).all():
            raise DataError(
                f"{source} has {np.sum(~np.isfinite(labels))} examples whose label is NaN or Inf"
            )
        if cut:
            print(
                f"{source}: {cut:,} of {len(labels):,} texts are cut to max_len {max_len} tokens",
                file=sys.stderr,
            )
        self._tokens, self._types, self._labels = (
            Ragged(tokens),
            Ragged(types),
            np.array(labels, dtype),
        )
        self.buckets = by_length(self._tokens.lengths, lengths)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a batch."""
        return 12 * self._lengths[-1] + 8

    def batch(
        self,
        indices: np.ndarray,
        draws: Sequence[tuple[int, ...]] | None = None,
        *,
        length: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Returns tokens, segments, types int32 [k, length]; label int32 or float32 [k]; weight
        float32 [k]."""
        length = length or self._lengths[-1]
        tokens, segments = self._tokens.padded(indices, length)
        types, _ = self._types.padded(indices, length)
        weight = np.ones(len(indices), np.float32)
        return {
            "tokens": tokens,
            "segments": segments,
            "types": types,
            "label": self._labels[indices],
            "weight": weight,
        }


class Translations:
    """A text and its translation, with the interface of image examples and ``buckets``.

    The decoder is given a begin token and the translation, and is to give the translation and an
    end token; the source ends with one too; which they are says `tokenizers.sentence_ends`.

    Args:
        builder: of the data set; split: of it.
        tokenizer: of both texts.
        texts: features of source and target.
        lengths: to which batches are padded, ascending.
        source: name of the split, for messages.
        train: leave out pairs that are longer than the last length; otherwise they are cut. How
          many is said.

    Attributes:
        buckets: for each length the examples that take it, shorter ones left to shorter lengths.

    Raises:
        DataError: no examples, no end token, text that the tokenizer does not know, or that is not
          UTF-8.
    """

    def __init__(
        self,
        builder: tfds.core.DatasetBuilder,
        split: str,
        tokenizer: Tokenizer,
        texts: tuple[str, ...],
        lengths: tuple[int, ...],
        *,
        source: str,
        train: bool,
    ):
        begin, end = sentence_ends(tokenizer, source)
        longest, total, longer = lengths[-1], 0, 0
        sides: tuple[list[list[int]], list[list[int]]] = ([], [])
        for records in _chunks(read_records(builder, split)):
            columns = [
                [text_of(record, text, i, source) for i, record in enumerate(records, total)]
                for text in texts
            ]
            found = [
                encode_all(tokenizer, column, special=False, source=source) for column in columns
            ]
            for first, second in zip(*found, strict=True):
                total += 1
                pair = [*first.ids, end], [*second.ids, end]
                if max(map(len, pair)) > longest:
                    longer += 1
                    if train:
                        continue
                for side, tokens in zip(sides, pair, strict=True):
                    side.append(tokens[:longest])
        if longer:
            what = "left out" if train else "cut"
            print(
                f"{source}: {longer:,} of {total:,} pairs are {what}: above max_len {longest} "
                "tokens",
                file=sys.stderr,
            )
        if not sides[0]:
            raise DataError(f"{source} has no pairs of at most max_len {longest} tokens")
        self._source, self._target = map(Ragged, sides)
        self._begin, self._lengths = begin, lengths
        self.buckets = by_length(np.maximum(self._source.lengths, self._target.lengths), lengths)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a batch."""
        return 24 * self._lengths[-1]

    def batch(
        self,
        indices: np.ndarray,
        draws: Sequence[tuple[int, ...]] | None = None,
        *,
        length: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Returns source, source_segments, tokens, segments, target int32 and weight float32: [k,
        length]."""
        length = length or self._lengths[-1]
        source, source_segments = self._source.padded(indices, length)
        target, segments = self._target.padded(indices, length)
        tokens = (
            np.concatenate(
                [np.full((len(indices), 1), self._begin, np.int32), target[:, :-1]], axis=1
            )
            * segments
        )
        weight = segments.astype(np.float32)
        return {
            "source": source,
            "source_segments": source_segments,
            "tokens": tokens,
            "segments": segments,
            "target": target,
            "weight": weight,
        }


def _chunks(records: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def framed(
    tokenizer: Tokenizer, rows: Sequence[tuple[str, ...]], max_len: int, *, source: str
) -> list[Encoding]:
    """Encodings of texts, or of pairs of texts, with the tokens that frame them, cut to
    ``max_len``."""
    texts = max(map(len, rows), default=1)
    frame = tokenizer.num_special_tokens_to_add(texts > 1)
    if texts > 1 and not frame:
        raise DataError(
            f"{source} has pairs of texts, and the tokenizer puts nothing between them; "
            "'wordpiece' does"
        )
    if max_len < frame + texts:
        raise DataError(f"max_len {max_len} has no place for a text: {frame} tokens frame it")
    tokenizer.enable_truncation(max_len)
    return encode_all(
        tokenizer, [row[0] if len(row) == 1 else row for row in rows], special=True, source=source
    )
