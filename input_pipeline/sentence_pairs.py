"""Pairs of spans of a corpus, of which the second follows the first or not: what BERT is pretrained
on.

Devlin et al. 2019, section 3.1 and appendix A.2. A "sentence" is there any span of text; here its
ends are ends of words, not of sentences. Tokens are masked later, on the device
(input_pipeline/masking.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from input_pipeline.errors import DataError
from input_pipeline.tokenizers import require_tokens, vocabulary_size

SHORT = 0.1
"""Share of examples that are cut to a random length, so that short texts are known too."""
TRIES = 16
"""Documents that are drawn at most until one is as long as it should be."""


class SentencePairs:
    """``[CLS] a [SEP] b [SEP]``, with the interface of image examples; ``label`` is 0 where b
    follows a in the corpus.

    There are as many examples as it takes to see every token about once. Where each begins, where
    it is cut in two, and whether b is exchanged for a span of another document (one half) is drawn
    for each.

    Args:
        tokens: the stream, [n].
        starts: places in it where documents begin, ascending.
        tokenizer: with the tokens [CLS], [SEP] and [MASK].
        max_len: tokens in an example.
        source: name of the corpus, for messages.

    Raises:
        DataError: fewer than two documents of two tokens, ``max_len`` below 5, or no such tokens.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        starts: np.ndarray,
        tokenizer: Tokenizer,
        max_len: int,
        *,
        source: str,
    ):
        special = require_tokens(tokenizer, ("[CLS]", "[SEP]", "[MASK]"), source)
        self._begin, self._end = special["[CLS]"], special["[SEP]"]
        if max_len < 5:
            raise DataError(f"max_len {max_len} has no place for [CLS] a [SEP] b [SEP]: at least 5")
        self._tokens, self._max_len = tokens, max_len
        ends = np.append(starts[1:], len(tokens))
        long = ends - starts >= 2
        self._starts, self._ends = starts[long], ends[long]
        if not long.all():
            print(
                f"{source}: {(~long).sum():,} documents of fewer than two tokens are left out",
                file=sys.stderr,
            )
        self._until = np.cumsum(self._ends - self._starts)  # tokens of all documents up to each
        if len(self._starts) < 2:
            raise DataError(
                f"{source} has {len(self._starts)} document(s) of two tokens or more: at least 2 "
                "are needed"
            )
        names = tokenizer.get_vocab()
        self._inside = np.zeros(vocabulary_size(tokenizer), bool)  # of a word: no span begins there
        self._inside[[i for name, i in names.items() if name.startswith("##")]] = True

    def __len__(self) -> int:
        return -(-int(self._until[-1]) // (self._max_len - 3))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a batch."""
        return 12 * self._max_len + 8

    def batch(
        self, indices: np.ndarray, draws: Sequence[tuple[int, ...]] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns tokens, segments, types int32 [k, max_len]; label int32 [k]; weight float32 [k].

        Args:
            indices: of examples.
            draws: for each of what it is a function, besides its index; None: of the index alone.
        """
        shape = (len(indices), self._max_len)
        batch = {name: np.zeros(shape, np.int32) for name in ("tokens", "segments", "types")}
        label = np.zeros(len(indices), np.int32)
        for row, index in enumerate(indices.tolist()):
            rng = np.random.default_rng([index, *(draws[row] if draws else ())])
            first, second, label[row] = self._draw(index, rng)
            text = [self._begin, *first, self._end, *second, self._end]
            batch["tokens"][row, : len(text)], batch["segments"][row, : len(text)] = text, 1
            batch["types"][row, len(first) + 2 : len(text)] = 1
        return {**batch, "label": label, "weight": np.ones(len(indices), np.float32)}

    def _draw(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        room = self._max_len - 3
        if rng.random() < SHORT:
            room = int(rng.integers(2, room + 1))
        # where in all documents, laid end to end, this example begins
        place = index * (self._max_len - 3) + int(rng.integers(self._max_len - 3))
        document = min(int(np.searchsorted(self._until, place, "right")), len(self._until) - 1)
        offset = place - int(self._until[document - 1]) if document else place
        span = self._span(document, offset, room)
        cut = self._word(span, int(rng.integers(1, len(span))))
        if rng.random() < 0.5:
            return span[:cut], span[cut:], 0
        return span[:cut], self._elsewhere(document, len(span) - cut, rng), 1

    def _elsewhere(self, document: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """``count`` tokens of another document; fewer only if none of those drawn has so many.

        All that is not this document is equally likely, and the length does not give the label
        away.
        """
        begin, size = int(self._until[document - 1]) if document else 0, int(self._until[-1])
        length = int(self._ends[document] - self._starts[document])
        best = np.zeros(0, np.int64)
        for _ in range(TRIES):
            place = int(rng.integers(size - length))
            place += length if place >= begin else 0
            other = int(np.searchsorted(self._until, place, "right"))
            start, end = int(self._starts[other]), int(self._ends[other])
            first = min(
                place - (int(self._until[other - 1]) if other else 0) + start,
                max(start, end - count),
            )
            while first > start and self._inside[self._tokens[first]]:
                first -= 1
            found = np.asarray(self._tokens[first : min(first + count, end)])
            best = found if len(found) > len(best) else best
            if len(best) == count:
                break
        return best

    def _span(self, document: int, offset: int, room: int) -> np.ndarray:
        """Up to ``room`` tokens of a document about ``offset``: those at its ends too, if
        ``offset`` is near them."""
        start, end = int(self._starts[document]), int(self._ends[document])
        begin = max(start, min(start + offset - room // 2, end - room))
        span = np.asarray(self._tokens[begin : min(begin + room, end)])
        first = self._word(span, 0)
        return span[first:] if len(span) - first >= 2 else span

    def _word(self, span: np.ndarray, place: int) -> int:
        """The first place from ``place`` at which a word begins, or ``place`` if none does."""
        for i in range(place, len(span)):
            if not self._inside[span[i]]:
                return i
        return place
