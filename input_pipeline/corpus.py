"""A corpus as one stream of tokens, cut into windows: what causal language models train on.

The stream is the documents one after the other, each behind an end-of-text token where the tokenizer has one, and one
more at the end. It is made once, cached beside the data set, and mapped into memory, so that it may be larger than it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tokenizers import Tokenizer

from input_pipeline.errors import DataError
from input_pipeline.examples import split_parts
from input_pipeline.prepare import locked, open_builder
from input_pipeline.tokenizers import (
    END_OF_TEXT,
    KINDS,
    characters_per_token,
    encode,
    fingerprint,
    load_tokenizer,
    train_tokenizer,
)

_CHUNK = 256  # documents read at once
_CACHE_FORMAT = 1  # change with anything that changes tokens


@dataclasses.dataclass(frozen=True)
class TextCard:
    """What a corpus is, and how it is cut.

    Attributes:
        name: as TFDS knows it.
        version: "major.minor.patch".
        splits: split name -> number of documents.
        vocab_size: tokens are 0 .. vocab_size - 1.
        max_len: tokens in a window.
        tokenizer: JSON text of the tokenizer (``tokenizers.Tokenizer.from_str``).
        directory: where it lies on disk.
    """

    name: str
    version: str
    splits: dict[str, int]
    vocab_size: int
    max_len: int
    tokenizer: str
    directory: str

    def summary(self) -> str:
        """One line for the header of a run."""
        splits = ", ".join(f"{name} {count:,}" for name, count in self.splits.items())
        return f"{self.name} {self.version}: documents {splits}; {self.vocab_size:,} tokens, windows of {self.max_len}"


def describe_text(
    name: str,
    *,
    max_len: int,
    tokenizer: str = "bpe",
    vocab_size: int = 8192,
    train_split: str = "train",
    data_dir: str | os.PathLike | None = None,
    raw_dir: str | os.PathLike | None = None,
    require: Sequence[str] = (),
) -> TextCard:
    """Returns the card of a corpus, preparing it and training its tokenizer first if need be.

    Args:
        name: a built-in corpus, or a prepared TFDS data set with a feature ``text``.
        max_len: tokens in a window.
        tokenizer: of `tokenizers.KINDS`, trained on `train_split`; or a path, see `load_tokenizer`.
        vocab_size: of a tokenizer that is trained.
        train_split: TFDS split string.
        data_dir: TFDS root.
        raw_dir: raw files of a built-in corpus.
        require: TFDS split strings that must be there.

    Raises:
        DataError: the corpus or the tokenizer cannot be found, prepared or used.
    """
    builder = open_builder(name, data_dir=data_dir, raw_dir=raw_dir)
    _require_text(builder)
    for split in (train_split, *require):
        split_parts(builder, split)
    if tokenizer in KINDS:
        found = _trained(builder, tokenizer, vocab_size, train_split)
    else:
        found = load_tokenizer(tokenizer)
    return TextCard(
        name=name,
        version=str(builder.version),
        splits={split: info.num_examples for split, info in builder.info.splits.items()},
        vocab_size=found.get_vocab_size(),
        max_len=max_len,
        tokenizer=found.to_str(),
        directory=str(builder.data_dir),
    )


class TokenWindows:
    """Windows of ``max_len`` tokens and the tokens behind them, with the interface of image examples.

    In order, the windows of a split cover every target once; the last may be padded. Where draws are given, a window
    begins up to ``max_len - 1`` tokens later, at random, so that epochs differ.

    Args:
        tokens: the stream, [n].
        starts: places in it where documents begin, ascending.
        max_len: tokens in a window.
        characters: that begin in each token of the vocabulary.
        isolate: give the segment of each token, so that a document sees nothing of another; see `batch`.
        separated: whether documents begin with an end-of-text token. If not, and they are isolated, nothing predicts
            their first token.
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
        self._tokens, self._starts, self._max_len, self._characters = tokens, starts, max_len, characters
        self._isolate, self._separated = isolate, separated

    def __len__(self) -> int:
        return -(-(len(self._tokens) - 1) // self._max_len)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a batch."""
        return 20 * self._max_len

    def batch(self, indices: np.ndarray, draws: Sequence[tuple[int, ...]] | None = None) -> dict[str, np.ndarray]:
        """Returns tokens, target int32; weight, characters float32; and, isolated, segments int32: [k, max_len].

        Args:
            indices: of windows.
            draws: for each the (seed, number) of which its random shift is a function.
        """
        length = self._max_len
        begin = indices.astype(np.int64) * length
        if draws is not None:
            shift = np.array([_mixed(*draw) % length for draw in draws], np.int64)
            begin = np.clip(begin + shift, 0, max(0, len(self._tokens) - 1 - length))
        place = begin[:, None] + np.arange(length + 1)
        real = place < len(self._tokens)
        stream = self._tokens[np.minimum(place, len(self._tokens) - 1)].astype(np.int32) * real
        target, weight = stream[:, 1:], real[:, 1:].astype(np.float32)
        batch = {"tokens": stream[:, :-1] * real[:, 1:], "target": target, "weight": weight}
        if self._isolate:
            number = np.searchsorted(self._starts, place, "right")
            batch["segments"] = ((number - number[:, :1] + 1) * real)[:, :-1].astype(np.int32) * real[:, 1:]
            if not self._separated:
                weight[number[:, 1:] != number[:, :-1]] = 0
        batch["characters"] = self._characters[target]
        return batch


def _mixed(seed: int, number: int) -> int:
    """A hash of two numbers (the finaliser of splitmix64): cheaper than a generator for each window."""
    mask = 2**64 - 1
    z = (seed * 0x9E3779B97F4A7C15 + (number + 1) * 0xD1B54A32D192ED03) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def open_windows(builder: tfds.core.DatasetBuilder, split: str, card: TextCard, *, isolate: bool) -> TokenWindows:
    """The windows of a split such as "train" or "validation+test".

    Raises:
        DataError: unknown split, text that the tokenizer does not know, or fewer than two tokens.
    """
    tokenizer = Tokenizer.from_str(card.tokenizer)
    tokens, starts = _stream(builder, split, tokenizer)
    if len(tokens) < 2:
        raise DataError(
            f"split {split!r} of {builder.info.full_name} has {len(tokens)} token(s): at least 2 are needed"
        )
    separated = tokenizer.token_to_id(END_OF_TEXT) is not None
    characters = characters_per_token(tokenizer)
    return TokenWindows(tokens, starts, card.max_len, characters, isolate=isolate, separated=separated)


def is_text(builder: tfds.core.DatasetBuilder) -> bool:
    """Whether a data set is a corpus."""
    return isinstance(dict(builder.info.features.items()).get("text"), tfds.features.Text)


def _require_text(builder: tfds.core.DatasetBuilder) -> None:
    if not is_text(builder):
        features = dict(builder.info.features.items())
        raise DataError(f"{builder.info.full_name} needs a feature 'text'; it has {features}")


def read_documents(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[str]:
    """The documents of a split, in order."""
    source = builder.as_data_source(split=split)
    for start in range(0, len(source), _CHUNK):
        for record in source.__getitems__(list(range(start, min(start + _CHUNK, len(source))))):
            yield record["text"].decode()


def _cache(builder: tfds.core.DatasetBuilder, *identity: object) -> tuple[Path, Path]:
    """Root of the caches beside a prepared data set, and where in it something lies that has this identity."""
    names = {split for split in builder.info.splits}
    stats = [(p.name, p.stat()) for n in sorted(names) for p in map(Path, builder.info.splits[n].filepaths)]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    key = hashlib.sha256(repr((_CACHE_FORMAT, files, identity)).encode()).hexdigest()[:16]
    root = Path(builder.data_dir).parents[builder.info.full_name.count("/")] / ".jaxmodels_cache"
    return root, root / f"{builder.info.full_name.replace('/', '-')}-text-{key}"


def _trained(builder: tfds.core.DatasetBuilder, kind: str, vocab_size: int, split: str) -> Tokenizer:
    root, directory = _cache(builder, "tokenizer", kind, vocab_size, split)
    path = directory / "tokenizer.json"
    if path.is_file():
        return load_tokenizer(path)
    tokenizer = train_tokenizer(kind, read_documents(builder, split), vocab_size)
    try:
        root.mkdir(exist_ok=True)
        with locked(root, directory.name):
            directory.mkdir(exist_ok=True)
            part = path.with_suffix(f".tmp{os.getpid()}")
            tokenizer.save(str(part))
            part.replace(path)
    except OSError:
        pass  # Read-only or full: the cache only saves time.
    return tokenizer


def _stream(builder: tfds.core.DatasetBuilder, split: str, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a split and where its documents begin, from the cache or else made and, if possible, cached."""
    split_parts(builder, split)
    root, directory = _cache(builder, "tokens", split, fingerprint(tokenizer))
    found = _read_stream(directory)
    if found is not None:
        return found
    try:
        root.mkdir(exist_ok=True)
        with locked(root, directory.name):  # of several processes one encodes, the others find its result
            if _read_stream(directory) is None:
                temporary = directory.with_name(f"{directory.name}.tmp{os.getpid()}")
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
                try:
                    _write_stream(temporary, builder, split, tokenizer)
                    shutil.rmtree(directory, ignore_errors=True)  # an unsound one
                    temporary.rename(directory)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
        found = _read_stream(directory)
    except OSError:  # Read-only or full: the cache only saves time.
        pass
    if found is not None:
        return found
    parts = [*_encoded(builder, split, tokenizer)]
    return np.concatenate(parts), _starts([len(part) for part in parts], tokenizer)


def _encoded(builder: tfds.core.DatasetBuilder, split: str, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The stream document by document, and what stands at its end."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    separator = np.asarray([] if end is None else [end], np.int32)
    for i, text in enumerate(read_documents(builder, split)):
        source = f"document {i} of split {split!r} of {builder.info.full_name}"
        yield np.concatenate([separator, encode(tokenizer, text, source=source)])
    yield separator


def _starts(lengths: list[int], tokenizer: Tokenizer) -> np.ndarray:
    return np.cumsum([0, *lengths[:-1]]).astype(np.int64)[: None if tokenizer.token_to_id(END_OF_TEXT) else -1]


def _write_stream(directory: Path, builder: tfds.core.DatasetBuilder, split: str, tokenizer: Tokenizer) -> None:
    dtype = np.dtype(np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32)
    lengths = []
    with (directory / "tokens.bin").open("wb") as file:
        for part in _encoded(builder, split, tokenizer):
            file.write(part.astype(dtype).tobytes())
            lengths.append(len(part))
    np.save(directory / "starts.npy", _starts(lengths, tokenizer))
    (directory / "tokens.json").write_text(json.dumps({"dtype": dtype.name, "count": sum(lengths)}))


def _read_stream(directory: Path) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        meta = json.loads((directory / "tokens.json").read_text())
        dtype, count, path = np.dtype(meta["dtype"]), meta["count"], directory / "tokens.bin"
        if not count or path.stat().st_size != count * dtype.itemsize:
            return None
        return np.memmap(path, dtype, "r", shape=(count,)), np.load(directory / "starts.npy")
    except (OSError, ValueError, KeyError, TypeError):  # absent, truncated or damaged
        return None
