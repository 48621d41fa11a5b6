"""A corpus as one stream of tokens, made once, cached beside the data set, and mapped into memory.

The stream is the documents one after the other, each behind an end-of-text token where the
tokenizer has one, and one more at the end. It may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tokenizers import Tokenizer

from input_pipeline.cache import array_of, checked, written
from input_pipeline.errors import DataError
from input_pipeline.examples import split_parts
from input_pipeline.prepare import locked
from input_pipeline.tokenizers import (
    END_OF_TEXT,
    encode,
    fingerprint,
    load_tokenizer,
    train_tokenizer,
    vocabulary_size,
)

_CHUNK = 256  # documents read at once
_CACHE_FORMAT = 3  # change with anything that changes tokens
_STREAM_FILES = ("tokens.json", "starts.npy", "tokens.bin")


def read_records(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[dict]:
    """The examples of a split as they are stored, in order; their images stay encoded."""
    features = builder.info.features.items()
    images = {
        name: tfds.decode.SkipDecoding()
        for name, f in features
        if isinstance(f, tfds.features.Image)
    }
    source = builder.as_data_source(split=split, decoders=images or None)
    for start in range(0, len(source), _CHUNK):
        yield from source.__getitems__(list(range(start, min(start + _CHUNK, len(source)))))


def text_of(record: dict[str, Any], feature: str, index: int, source: str) -> str:
    """The text of an example.

    Args:
        record: of `read_records`.
        feature: which holds the text.
        index: of the example; source: name of its split: for messages.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return record[feature].decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"example {index} of {source}: its {feature} is not UTF-8, byte "
            f"{error.object[error.start]:#04x} at offset {error.start}; prepare the data set from "
            "text that is"
        ) from error


def split_name(builder: tfds.core.DatasetBuilder, split: str) -> str:
    """A split, for messages."""
    return f"split {split!r} of {builder.info.full_name}"


def read_texts(
    builder: tfds.core.DatasetBuilder, split: str, features: Sequence[str] = ("text",)
) -> Iterator[str]:
    """The texts of a split, in order; of several features one after the other.

    Raises:
        DataError: a text that is not UTF-8.
    """
    for i, record in enumerate(read_records(builder, split)):
        for feature in features:
            yield text_of(record, feature, i, split_name(builder, split))


def _cache(builder: tfds.core.DatasetBuilder, *identity: object) -> tuple[Path, Path]:
    """Root of the caches beside a prepared data set, and where in it something lies that has this
    identity."""
    names = {split for split in builder.info.splits}
    stats = [
        (p.name, p.stat())
        for n in sorted(names)
        for p in map(Path, builder.info.splits[n].filepaths)
    ]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    key = hashlib.sha256(repr((_CACHE_FORMAT, files, identity)).encode()).hexdigest()[:16]
    root = Path(builder.data_dir).parents[builder.info.full_name.count("/")] / ".jaxmodels_cache"
    return root, root / f"{builder.info.full_name.replace('/', '-')}-text-{key}"


def trained_tokenizer(
    builder: tfds.core.DatasetBuilder,
    kind: str,
    vocab_size: int,
    split: str,
    features: Sequence[str] = ("text",),
) -> Tokenizer:
    """A tokenizer trained on the texts of a split, from the cache or else made and, if possible,
    cached."""
    root, directory = _cache(builder, "tokenizer", kind, vocab_size, split, *features)
    path, found = directory / "tokenizer.json", None
    if checked(directory, (path.name,)) is not None:
        return load_tokenizer(path)
    try:
        root.mkdir(exist_ok=True)
        # of several processes one trains, the others find its result
        with locked(root, directory.name):
            if checked(directory, (path.name,), say=False) is None:
                found = train_tokenizer(kind, read_texts(builder, split, features), vocab_size)
                with written(directory, (path.name,)) as temporary:
                    found.save(str(temporary / path.name))
            return load_tokenizer(path)
    except OSError:  # Read-only or full: the cache only saves time.
        return found or train_tokenizer(kind, read_texts(builder, split, features), vocab_size)


def open_stream(
    builder: tfds.core.DatasetBuilder, split: str, tokenizer: Tokenizer, feature: str = "text"
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a split and where its documents begin, from the cache or else made and, if
    possible, cached.

    Args:
        feature: which holds the text.

    Raises:
        DataError: unknown split, or text that the tokenizer does not know.
    """
    split_parts(builder, split)
    root, directory = _cache(builder, "tokens", split, fingerprint(tokenizer), feature)
    found = _read_stream(directory)
    if found is not None:
        return found
    try:
        root.mkdir(exist_ok=True)
        # of several processes one encodes, the others find its result
        with locked(root, directory.name):
            if _read_stream(directory, say=False) is None:
                with written(directory, _STREAM_FILES) as temporary:
                    _write_stream(temporary, builder, split, tokenizer, feature)
        found = _read_stream(directory)
    except OSError:  # Read-only or full: the cache only saves time.
        pass
    if found is not None:
        return found
    parts = [*_encoded(builder, split, tokenizer, feature)]
    return np.concatenate(parts), _starts([len(part) for part in parts], tokenizer)


def _encoded(
    builder: tfds.core.DatasetBuilder, split: str, tokenizer: Tokenizer, feature: str
) -> Iterator[np.ndarray]:
    """The stream document by document, and what stands at its end."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    separator = np.asarray([] if end is None else [end], np.int32)
    for i, text in enumerate(read_texts(builder, split, (feature,))):
        source = f"document {i} of {split_name(builder, split)}"
        yield np.concatenate([separator, encode(tokenizer, text, source=source)])
    yield separator


def _starts(lengths: list[int], tokenizer: Tokenizer) -> np.ndarray:
    starts = np.cumsum([0, *lengths[:-1]]).astype(np.int64)
    return starts[:-1] if tokenizer.token_to_id(END_OF_TEXT) is None else starts


def _write_stream(
    directory: Path,
    builder: tfds.core.DatasetBuilder,
    split: str,
    tokenizer: Tokenizer,
    feature: str,
) -> None:
    dtype = np.dtype(np.uint16 if vocabulary_size(tokenizer) <= 2**16 else np.uint32)
    lengths = []
    with (directory / "tokens.bin").open("wb") as file:
        for part in _encoded(builder, split, tokenizer, feature):
            file.write(part.astype(dtype).tobytes())
            lengths.append(len(part))
    np.save(directory / "starts.npy", _starts(lengths, tokenizer))
    (directory / "tokens.json").write_text(json.dumps({"dtype": dtype.name}))


def _read_stream(directory: Path, *, say: bool = True) -> tuple[np.ndarray, np.ndarray] | None:
    found = checked(directory, _STREAM_FILES, mapped=("tokens.bin",), say=say)
    if found is None:
        return None
    dtype = np.dtype(json.loads(found["tokens.json"].tobytes())["dtype"])
    return found["tokens.bin"].view(dtype), array_of(found["starts.npy"])
