"""Builders of corpora: documents of plain text, one feature ``text``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from input_pipeline.datasets import raw
from input_pipeline.datasets.builder import RawBuilder
from input_pipeline.errors import DataError

Splits = dict[str, list[str]]


class TextBuilder(RawBuilder, skip_registration=True):
    """A builder of documents."""

    VERSION = tfds.core.Version("1.0.0")
    HOMEPAGE = ""

    def documents(self) -> Splits:
        """The documents of each split."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(type(self).__doc__ or "").splitlines()[0],
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            homepage=self.HOMEPAGE,
            disable_shuffling=True,  # neighbours in a stream of tokens
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(texts) for split, texts in self.documents().items()}

    def _generate_examples(self, texts: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, text in enumerate(texts):
            yield i, {"text": text}


class TinyShakespeare(TextBuilder, skip_registration=True):
    """Tiny Shakespeare: 40,000 lines of his plays, 1.1 million characters (Karpathy 2015).

    As in TFDS, ``train`` is the first 90%, and ``validation`` and ``test`` are halves of the rest, each one document;
    ``validation+test`` is what nanoGPT validates on.
    """

    HOMEPAGE = "https://github.com/karpathy/char-rnn"
    RAW_FILES = (
        raw.RawFile(
            url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            size=1_115_394,
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            unpacked="input.txt",
        ),
    )

    def documents(self) -> Splits:
        (path,) = self.raw_paths().values()
        raw.verify(path, self.RAW_FILES[0])
        text = path.read_text("ascii")
        train, rest = text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]
        return {"train": [train], "validation": [rest[: len(rest) // 2]], "test": [rest[len(rest) // 2 :]]}


class Pydoc(TextBuilder, skip_registration=True):
    """The language reference that Python itself carries (``pydoc_data.topics``): 0.5 to 0.7 MB of English.

    The last tenth of each topic is in ``test``. The text differs from one version of Python to the next.
    """

    HOMEPAGE = "https://docs.python.org/3/reference/"

    @classmethod
    def content_key(cls, raw_dir: Path | None) -> str:
        return _digest(cls._topics())

    @staticmethod
    def _topics() -> list[str]:
        from pydoc_data.topics import topics

        return [topics[name] for name in sorted(topics)]

    def documents(self) -> Splits:
        return _cut(self._topics())


class TextFiles(TextBuilder, skip_registration=True):
    """Your own text: --config.data.raw_dir is a .txt or .jsonl file, or a directory of them.

    A .txt file is one document; of a .jsonl file each line is one, ``{"text": "..."}``. Files whose names begin with
    ``train``, ``valid`` (or ``val``, ``dev``) and ``test`` are those splits. Otherwise every tenth document is in
    ``test``; of fewer than twenty, the last tenth of each.
    """

    NAMES = (("train", "train"), ("val", "validation"), ("dev", "validation"), ("test", "test"))

    @classmethod
    def content_key(cls, raw_dir: Path | None) -> str:
        return _digest([f"{path.name}\n{read_text(path)}" for path in cls._files(raw_dir)])

    @staticmethod
    def _files(raw_dir: Path | None) -> list[Path]:
        if raw_dir is None:
            raise DataError("text_files needs --config.data.raw_dir: a .txt or .jsonl file, or a directory of them")
        if not raw_dir.exists():
            raise DataError(f"text_files: raw_dir {raw_dir} does not exist")
        found = (
            [raw_dir] if raw_dir.is_file() else sorted(p for p in raw_dir.iterdir() if p.suffix in (".txt", ".jsonl"))
        )
        if not found:
            raise DataError(f"text_files: raw_dir {raw_dir} holds no .txt or .jsonl file")
        return found

    def documents(self) -> Splits:
        files = self._files(self._raw_dir)
        named = {
            path: next((s for start, s in self.NAMES if path.name.lower().startswith(start)), None) for path in files
        }
        if "train" not in named.values():
            return _divide([text for path in files for text in _texts(path)])
        strays = [path.name for path, split in named.items() if split is None]
        if strays:
            raise DataError(
                f"text_files: beside files named train..., what are {', '.join(strays[:3])}? Names begin with train, "
                "valid or test"
            )
        splits: Splits = {}
        for path, split in named.items():
            splits.setdefault(str(split), []).extend(_texts(path))
        return splits


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises `DataError` for an empty one, or one that is not UTF-8, with the place."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}; convert it with "
            f"iconv -f LATIN1 -t UTF-8, or whatever it is"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text


def _texts(path: Path) -> list[str]:
    text = read_text(path)
    if path.suffix != ".jsonl":
        return [text]
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f'{path}, line {number} is not {{"text": "..."}} ({type(error).__name__}: {error})'
            ) from error
        if not isinstance(found[-1], str) or not found[-1].strip():
            raise DataError(f"{path}, line {number}: its text is empty or no text")
    return found


def _divide(texts: list[str]) -> Splits:
    if len(texts) >= 20:
        return {"train": [t for i, t in enumerate(texts) if i % 10 != 9], "test": texts[9::10]}
    return _cut(texts)


def _cut(texts: list[str]) -> Splits:
    """The first nine tenths of each text, and the last."""
    cuts = [len(text) * 9 // 10 for text in texts]
    return {
        "train": [text[:cut] for text, cut in zip(texts, cuts, strict=True)],
        "test": [text[cut:] for text, cut in zip(texts, cuts, strict=True)],
    }


def _digest(texts: list[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}\n{text}".encode())
    return digest.hexdigest()[:16]
