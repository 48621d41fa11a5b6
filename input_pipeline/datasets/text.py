"""Builders of corpora: documents of plain text, one feature ``text``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from input_pipeline.datasets import local, raw
from input_pipeline.datasets.builder import RawBuilder
from input_pipeline.datasets.local import digest
from input_pipeline.files import read_text

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

    As in TFDS, ``train`` is the first 90%, and ``validation`` and ``test`` are halves of the rest,
    each one document; ``validation+test`` is what nanoGPT validates on.
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
        return {
            "train": [train],
            "validation": [rest[: len(rest) // 2]],
            "test": [rest[len(rest) // 2 :]],
        }


class Pydoc(TextBuilder, skip_registration=True):
    """The language reference that Python itself carries (``pydoc_data.topics``): 0.5 to 0.7 MB of
    English.

    The last tenth of each topic is in ``test``. The text differs from one version of Python to the
    next.
    """

    HOMEPAGE = "https://docs.python.org/3/reference/"

    @classmethod
    def content_key(cls, raw_dir: Path | None) -> str:
        return digest(cls._topics())

    @staticmethod
    def _topics() -> list[str]:
        from pydoc_data.topics import topics

        return [topics[name] for name in sorted(topics)]

    def documents(self) -> Splits:
        return _cut(self._topics())


class TextFiles(TextBuilder, skip_registration=True):
    """Your own text: --config.data.raw_dir is a .txt or .jsonl file, or a directory of them.

    A .txt file is one document; of a .jsonl file each line is one, ``{"text": "..."}``. Files whose
    names begin with ``train``, ``valid`` (or ``val``, ``dev``) and ``test`` are those splits.
    Otherwise every tenth document is in ``test``; of fewer than twenty, the last tenth of each.
    """

    @classmethod
    def content_key(cls, raw_dir: Path | None) -> str:
        return local.content_key(local.find_files("text_files", raw_dir, (".txt", ".jsonl")))

    def documents(self) -> Splits:
        splits = local.by_split(
            "text_files", local.find_files("text_files", self._raw_dir, (".txt", ".jsonl"))
        )
        texts = {
            split: [text for path in files for text in _texts(path)]
            for split, files in splits.items()
        }
        return _divide(texts[""]) if "" in texts else texts


def _texts(path: Path) -> list[str]:
    if path.suffix != ".jsonl":
        return [read_text(path)]
    return [record["text"] for _, record in local.read_records(path, ("text",))]


def _divide(texts: list[str]) -> Splits:
    return local.divided("text_files", texts) if len(texts) >= 20 else _cut(texts)


def _cut(texts: list[str]) -> Splits:
    """The first nine tenths of each text, and the last."""
    cuts = [len(text) * 9 // 10 for text in texts]
    return {
        "train": [text[:cut] for text, cut in zip(texts, cuts, strict=True)],
        "test": [text[cut:] for text, cut in zip(texts, cuts, strict=True)],
    }
