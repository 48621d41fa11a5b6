"""Builders of texts, or pairs of texts, with a label: features ``text``, perhaps ``text_pair``, and
``label``."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.datasets import local, raw
from input_pipeline.datasets.builder import RawBuilder
from input_pipeline.errors import DataError, shortened

Record = dict[str, Any]
Splits = dict[str, list[Record]]


class LabelledBuilder(RawBuilder, skip_registration=True):
    """A builder of texts with labels."""

    VERSION = tfds.core.Version("1.0.0")
    HOMEPAGE = ""

    def label_names(self) -> list[str]:
        """Of the classes, in order."""
        raise NotImplementedError

    def label_feature(self) -> tfds.features.FeatureConnector:
        """Of a class, or of a number."""
        return tfds.features.ClassLabel(names=self.label_names())

    def text_features(self) -> tuple[str, ...]:
        """Names of the texts: one or two."""
        return ("text",)

    def records(self) -> Splits:
        """Of each split the texts and the name of the label, or the number, by feature."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        texts = {name: tfds.features.Text() for name in self.text_features()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=(type(self).__doc__ or "").splitlines()[0],
            features=tfds.features.FeaturesDict({**texts, "label": self.label_feature()}),
            homepage=self.HOMEPAGE,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {
            split: self._generate_examples(records) for split, records in self.records().items()
        }

    def _generate_examples(self, records: list[Record]) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(records)


class SST2(LabelledBuilder, skip_registration=True):
    """Stanford Sentiment Treebank, whole sentences, two classes (Socher et al. 2013): 6,920 / 872 /
    1,821.

    Sentences of films, negative or positive, without the neutral ones and without the phrases that
    GLUE's SST-2 adds.
    """

    name = "sst2"
    HOMEPAGE = "https://nlp.stanford.edu/sentiment/"
    _URL = "https://raw.githubusercontent.com/clairett/pytorch-sentiment-classification/master/data/SST2"
    RAW_FILES = (
        raw.RawFile(
            url=f"{_URL}/train.tsv",
            size=720_259,
            sha256="ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920",
            unpacked="train.tsv",
        ),
        raw.RawFile(
            url=f"{_URL}/dev.tsv",
            size=92_057,
            sha256="eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359",
            unpacked="dev.tsv",
        ),
        raw.RawFile(
            url=f"{_URL}/test.tsv",
            size=188_749,
            sha256="831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7",
            unpacked="test.tsv",
        ),
    )

    def label_names(self) -> list[str]:
        return ["negative", "positive"]

    def records(self) -> Splits:
        paths = self.raw_paths()
        for file in self.RAW_FILES:
            raw.verify(paths[file.unpacked], file)
        files = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
        names = self.label_names()
        return {
            split: [
                {"text": record["text"], "label": names[int(record["label"])]}
                for _, record in local.read_records(paths[file], ("text", "label"))
            ]
            for split, file in files.items()
        }


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """How a task of GLUE lies in its .tsv files.

    Attributes:
        directory: of its archive.
        texts: columns of the texts, by name, or by number where there are no names.
        label: column of the label.
        labels: what stands there, and the name of the class; empty: a number from 0 to ``highest``.
        validation: split and file.
        broken: rows without all columns are part of what is published; they are left out, and
          counted.
    """

    directory: str
    texts: tuple[str | int, ...]
    label: str | int
    labels: dict[str, str]
    validation: tuple[tuple[str, str], ...] = (("validation", "dev.tsv"),)
    broken: bool = False
    highest: float = 0.0

    def read_label(self, text: str) -> str | float:
        """Name of the class or number that stands in a file; raises ValueError."""
        if self.labels:
            if text not in self.labels:
                raise ValueError(
                    f"label {shortened(text)!r} is not one of {', '.join(self.labels)}"
                )
            return self.labels[text]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= self.highest:
            raise ValueError(
                f"label {shortened(text)!r} is not a number from 0 to {self.highest:g}"
            )
        return value


ENTAILMENT = {"entailment": "entailment", "not_entailment": "not_entailment"}
GLUE: dict[str, GlueTask] = {
    "cola": GlueTask("CoLA", (3,), 1, {"0": "unacceptable", "1": "acceptable"}),
    "sst2": GlueTask("SST-2", ("sentence",), "label", {"0": "negative", "1": "positive"}),
    "mrpc": GlueTask(
        "MRPC", ("#1 String", "#2 String"), "Quality", {"0": "not_equivalent", "1": "equivalent"}
    ),
    "qqp": GlueTask(
        "QQP",
        ("question1", "question2"),
        "is_duplicate",
        {"0": "not_duplicate", "1": "duplicate"},
        broken=True,
    ),
    "mnli": GlueTask(
        "MNLI",
        ("sentence1", "sentence2"),
        "gold_label",
        {"entailment": "entailment", "neutral": "neutral", "contradiction": "contradiction"},
        (
            ("validation_matched", "dev_matched.tsv"),
            ("validation_mismatched", "dev_mismatched.tsv"),
        ),
    ),
    "stsb": GlueTask("STS-B", ("sentence1", "sentence2"), "score", {}, highest=5.0),
    "qnli": GlueTask("QNLI", ("question", "sentence"), "label", ENTAILMENT),
    "rte": GlueTask("RTE", ("sentence1", "sentence2"), "label", ENTAILMENT),
    "wnli": GlueTask(
        "WNLI", ("sentence1", "sentence2"), "label", {"0": "not_entailment", "1": "entailment"}
    ),
}
"""Without test splits, whose labels are not published."""


class Glue(LabelledBuilder, skip_registration=True):
    """A task of GLUE (Wang et al. 2019): --config.data.raw_dir is the directory of its .tsv files.

    The archives of gluebenchmark.com, unpacked; MRPC's as train.tsv and dev.tsv, as its scripts
    make them.
    """

    HOMEPAGE = "https://gluebenchmark.com"
    TASK: ClassVar[str] = ""

    @classmethod
    def content_key(cls, raw_dir: Path | None) -> str:
        return local.content_key([path for _, path in cls._files(raw_dir)])

    @classmethod
    def _files(cls, raw_dir: Path | None) -> list[tuple[str, Path]]:
        task, name = GLUE[cls.TASK], f"glue/{cls.TASK}"
        if raw_dir is None:
            raise DataError(
                f"{name} needs --config.data.raw_dir: the directory of {task.directory}'s .tsv "
                "files"
            )
        inner = raw_dir / task.directory
        directory = inner if inner.is_dir() else raw_dir
        files = [
            ("train", directory / "train.tsv"),
            *((split, directory / file) for split, file in task.validation),
        ]
        missing = [path.name for _, path in files if not path.is_file()]
        if missing:
            raise DataError(f"{name}: {directory} lacks {', '.join(missing)}")
        return files

    def label_names(self) -> list[str]:
        return list(GLUE[self.TASK].labels.values())

    def label_feature(self) -> tfds.features.FeatureConnector:
        return (
            super().label_feature() if GLUE[self.TASK].labels else tfds.features.Scalar(np.float32)
        )

    def text_features(self) -> tuple[str, ...]:
        return ("text", "text_pair")[: len(GLUE[self.TASK].texts)]

    def records(self) -> Splits:
        return {split: [*self._read(path)] for split, path in self._files(self._raw_dir)}

    def _read(self, path: Path) -> Iterator[Record]:
        task = GLUE[self.TASK]
        lines = local.read_lines(path)
        columns: list[Any] = [*task.texts, task.label]
        if isinstance(task.label, str):
            header = lines[0].split("\t")
            absent = [name for name in columns if name not in header]
            if absent:
                raise DataError(
                    f"{path}, line 1 names no column {absent[0]!r}; it has "
                    f"{shortened(', '.join(header), 150)}"
                )
            columns = [header.index(name) for name in columns]
        broken = []
        for number, line in enumerate(lines, 1):
            if number == 1 and isinstance(task.label, str):
                continue
            values = line.split("\t")
            if len(values) <= max(columns):
                if task.broken:
                    broken.append(number)
                    continue
                raise DataError(
                    f"{path}, line {number} has {len(values)} columns, not {max(columns) + 1} or "
                    "more"
                )
            *texts, label = (values[i] for i in columns)
            try:
                found = task.read_label(label)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from error
            yield dict(zip(self.text_features(), texts, strict=True)) | {"label": found}
        if broken:
            print(
                f"{path}: {len(broken)} broken rows are left out, the first in line {broken[0]}",
                file=sys.stderr,
            )


def _glue_builder(task: str) -> type[Glue]:
    members = {
        "TASK": task,
        "name": "glue",
        "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=task)],
        "__doc__": Glue.__doc__,
        "__module__": __name__,
    }
    return type(f"Glue{task.title()}", (Glue,), members, skip_registration=True)


GLUE_BUILDERS: dict[str, type[RawBuilder]] = {f"glue/{task}": _glue_builder(task) for task in GLUE}


class TextLabels(LabelledBuilder, skip_registration=True):
    """Your own labelled texts: --config.data.raw_dir is a .tsv or .jsonl file, or a directory of
    them.

    Columns of a .tsv file are text and label, or, after a line of names, text, text_pair and label
    in any order; lines of a .jsonl file ``{"text": "...", "label": "..."}``, perhaps with
    ``text_pair``. Files whose names begin with ``train``, ``valid`` (or ``val``, ``dev``) and
    ``test`` are those splits; otherwise every tenth line is in ``test``. Classes are the labels
    that the training files have, in alphabetical order.
    """

    SUFFIXES = (".tsv", ".jsonl")

    @classmethod
    def content_key(cls, raw_dir: Path | None) -> str:
        return local.content_key(local.find_files("text_labels", raw_dir, cls.SUFFIXES))

    def _files(self) -> dict[str, list[Path]]:
        return local.by_split(
            "text_labels", local.find_files("text_labels", self._raw_dir, self.SUFFIXES)
        )

    def text_features(self) -> tuple[str, ...]:
        """One, or two if any file names a second; then all must have it."""
        paths = [path for files in self._files().values() for path in files]
        return (
            ("text", "text_pair")
            if any(local.names_field(path, "text_pair") for path in paths)
            else ("text",)
        )

    def label_names(self) -> list[str]:
        files = self._files()
        fields = (*self.text_features(), "label")
        train = files.get("train", files.get("", []))
        names = {
            record["label"] for path in train for _, record in local.read_records(path, fields)
        }
        if not names:
            raise DataError(f"text_labels: {train[0]} has no examples")
        if len(names) < 2:
            raise DataError(
                f"text_labels: all texts of {train[0]} have the label {names.pop()!r}; at least "
                "two are needed"
            )
        return sorted(names)

    def records(self) -> Splits:
        fields, names = (*self.text_features(), "label"), self.label_names()
        splits: Splits = {}
        for split, files in self._files().items():
            for path in files:
                for number, record in local.read_records(path, fields):
                    if record["label"] not in names:
                        raise DataError(
                            f"{path}, line {number}: label {shortened(record['label'])!r} is not "
                            f"one of the training files': {shortened(', '.join(names), 150)}"
                        )
                    splits.setdefault(split, []).append(record)
        for split, files in self._files().items():
            if split not in splits:
                raise DataError(f"text_labels: {files[0]} has no examples")
        return local.divided("text_labels", splits[""]) if "" in splits else splits
