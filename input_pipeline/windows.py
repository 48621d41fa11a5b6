"""A stream of tokens cut into windows: what causal language models train on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class TokenWindows:
    """Windows of ``max_len`` tokens and the tokens behind them, with the interface of image
    examples.

    In order, the windows of a split cover every target once; the last may be padded. Where draws
    are given, a window begins up to ``max_len - 1`` tokens later, at random, so that epochs differ.

    Args:
        tokens: the stream, [n].
        starts: places in it where documents begin, ascending.
        max_len: tokens in a window.
        characters: that begin in each token of the vocabulary.
        isolate: give the segment of each token, so that a document sees nothing of another; see
          `batch`.
        separated: whether documents begin with an end-of-text token. If not, and they are isolated,
            nothing predicts their first token.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        starts: np.ndarray,
        max_len: int,
        characters: np.ndarray,
        *,
        isolate: bool,
        separated: bool,
    ):
        self._tokens, self._starts, self._max_len, self._characters = (
            tokens,
            starts,
            max_len,
            characters,
        )
        self._isolate, self._separated = isolate, separated

    def __len__(self) -> int:
        return -(-(len(self._tokens) - 1) // self._max_len)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a batch."""
        return 20 * self._max_len

    def batch(
        self, indices: np.ndarray, draws: Sequence[tuple[int, ...]] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns tokens, target int32; weight, characters float32; and, isolated, segments int32:
        [k, max_len].

        Args:
            indices: of windows.
            draws: for each the (seed, number) of which its random shift is a function.
        """
        length = self._max_len
        begin = indices.astype(np.int64) * length
        if draws is not None:
            shift = np.array([mixed(*draw) % length for draw in draws], np.int64)
            begin = np.clip(begin + shift, 0, max(0, len(self._tokens) - 1 - length))
        place = begin[:, None] + np.arange(length + 1)
        real = place < len(self._tokens)
        stream = self._tokens[np.minimum(place, len(self._tokens) - 1)].astype(np.int32) * real
        target, weight = stream[:, 1:], real[:, 1:].astype(np.float32)
        batch = {"tokens": stream[:, :-1] * real[:, 1:], "target": target, "weight": weight}
        if self._isolate:
            number = np.searchsorted(self._starts, place, "right")
            batch["segments"] = ((number - number[:, :1] + 1) * real)[:, :-1].astype(
                np.int32
            ) * real[:, 1:]
            if not self._separated:
                weight[number[:, 1:] != number[:, :-1]] = 0
        batch["characters"] = self._characters[target]
        return batch


def mixed(seed: int, number: int) -> int:
    """A hash of two numbers (the finaliser of splitmix64): cheaper than a generator for each
    window."""
    mask = 2**64 - 1
    z = (seed * 0x9E3779B97F4A7C15 + (number + 1) * 0xD1B54A32D192ED03) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)
