"""Builders of sentences in several languages: one text feature for each language."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from input_pipeline.datasets import local, raw
from input_pipeline.datasets.builder import RawBuilder
from input_pipeline.errors import DataError

Splits = dict[str, list[dict[str, str]]]


class PairBuilder(RawBuilder, skip_registration=True):
    """A builder of parallel sentences."""

    VERSION = tfds.core.Version("1.0.0")
    HOMEPAGE = ""

    def languages(self) -> tuple[str, ...]:
        """Names of the text features."""
        raise NotImplementedError

    def sentences(self) -> Splits:
        """The sentences of each split, by language."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(type(self).__doc__ or "").splitlines()[0],
            features=tfds.features.FeaturesDict(
                {name: tfds.features.Text() for name in self.languages()}
            ),
            homepage=self.HOMEPAGE,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(pairs) for split, pairs in self.sentences().items()}

    def _generate_examples(
        self, pairs: list[dict[str, str]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(pairs)


MULTI30K = (
    # file, bytes, SHA-256 of the file and of its content
    (
        "train.de",
        637044,
        "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
        "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    ),
    (
        "train.en",
        568929,
        "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
        "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    ),
    (
        "train.fr",
        604242,
        "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
        "5925a3c18f1587b6b54b87743106e6e8ab93618edb6f65d19eac0621f853a10d",
    ),
    (
        "val.de",
        24681,
        "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
        "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    ),
    (
        "val.en",
        21650,
        "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
        "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    ),
    (
        "val.fr",
        23001,
        "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
        "5304e444d842e962b2dda4d816b70b22a1765b15401642b7ca37a67477e708dc",
    ),
    (
        "test_2016_flickr.de",
        22890,
        "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
        "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
    ),
    (
        "test_2016_flickr.en",
        21077,
        "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
        "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    ),
    (
        "test_2016_flickr.fr",
        22310,
        "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
        "cb3160d69b002bb638e66cc7612fcd56cb0af82eadc9c142dedc438afb885ef6",
    ),
)


class Multi30k(PairBuilder, skip_registration=True):
    """Multi30k, task 1: captions of Flickr30k in English, German and French (Elliott et al. 2016,
    2017).

    29,000 / 1,014 / 1,000 sentences; ``test`` is test_2016_flickr.
    """

    HOMEPAGE = "https://github.com/multi30k/dataset"
    RAW_FILES = tuple(
        raw.RawFile(
            url=f"https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/{name}.gz",
            size=size,
            sha256=sha256,
            unpacked=name,
            payload_sha256=payload,
        )
        for name, size, sha256, payload in MULTI30K
    )

    def languages(self) -> tuple[str, ...]:
        return ("de", "en", "fr")

    def sentences(self) -> Splits:
        paths, found = self.raw_paths(), {}
        for file in self.RAW_FILES:
            content = raw.read_payload(paths[file.unpacked])
            raw.verify_payload(paths[file.unpacked], content, file)
            found[file.unpacked] = content.decode().removesuffix("\n").split("\n")
        files = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
        return {
            split: [
                dict(zip(self.languages(), texts, strict=True))
                for texts in zip(
                    *(found[f"{file}.{language}"] for language in self.languages()), strict=True
                )
            ]
            for split, file in files.items()
        }


class TextPairs(PairBuilder, skip_registration=True):
    """Your own parallel sentences: --config.data.raw_dir is a .tsv or .jsonl file, or a directory
    of files.

    Columns of a .tsv file are source and target (a line of names may give another order); lines of
    a .jsonl file ``{"source": "...", "target": "..."}``. Any other files are lines of one language
    each, which is what their names end with: ``train.en`` and ``train.zh``; both must have as many
    lines. Files whose names begin with ``train``, ``valid`` (or ``val``, ``dev``) and ``test`` are
    those splits; otherwise every tenth pair is in ``test``.
    """

    SUFFIXES = (".tsv", ".jsonl")

    @classmethod
    def content_key(cls, raw_dir: Path | None) -> str:
        return local.content_key(cls._all_files(raw_dir))

    @classmethod
    def _all_files(cls, raw_dir: Path | None) -> list[Path]:
        files = local.find_files("text_pairs", raw_dir, ())
        tables = [path for path in files if path.suffix in cls.SUFFIXES]
        return tables or files

    def _files(self) -> dict[str, list[Path]]:
        return local.by_split("text_pairs", self._all_files(self._raw_dir))

    def languages(self) -> tuple[str, ...]:
        files = self._all_files(self._raw_dir)
        if files[0].suffix in self.SUFFIXES:
            return ("source", "target")
        found = tuple(sorted({path.suffix.removeprefix(".") for path in files}))
        if len(found) != 2 or "" in found:
            raise DataError(
                f"text_pairs: {self._raw_dir} holds files of {len(found)} language(s), "
                f"{', '.join(map(repr, found))}; needed are two, such as train.en and train.zh, or "
                "a .tsv or .jsonl file"
            )
        return found

    def sentences(self) -> Splits:
        splits = {split: self._read(files) for split, files in self._files().items()}
        for split, files in self._files().items():
            if not splits[split]:
                raise DataError(f"text_pairs: {files[0]} has no pairs")
        return local.divided("text_pairs", splits[""]) if "" in splits else splits

    def _read(self, files: list[Path]) -> list[dict[str, str]]:
        if files[0].suffix in self.SUFFIXES:
            return [
                record
                for path in files
                for _, record in local.read_records(path, ("source", "target"))
            ]
        found = []
        for stem in sorted({path.with_suffix("") for path in files}):
            paths = [stem.with_name(f"{stem.name}.{language}") for language in self.languages()]
            for path in paths:
                if path not in files:
                    raise DataError(
                        f"text_pairs: {path} is missing; {files[0].parent} has {files[0].name}"
                    )
            lines = [local.read_lines(path) for path in paths]
            if len(lines[0]) != len(lines[1]):
                raise DataError(
                    f"text_pairs: {paths[0]} has {len(lines[0])} lines and {paths[1]} has "
                    f"{len(lines[1])}: they are no pairs"
                )
            for number, texts in enumerate(zip(*lines, strict=True), 1):
                if not all(text.strip() for text in texts):
                    empty = paths[0] if not texts[0].strip() else paths[1]
                    raise DataError(
                        f"{empty}, line {number} is empty, and its pair is not to be dropped in "
                        "silence"
                    )
                found.append(dict(zip(self.languages(), texts, strict=True)))
        return found
