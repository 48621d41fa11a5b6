"""What a data set of text is, and how it becomes batches of tokens."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import tensorflow_datasets as tfds
from tokenizers import Tokenizer

from input_pipeline.cards import Shapes, label_shapes
from input_pipeline.corpus import open_stream, read_records, split_name, text_of, trained_tokenizer
from input_pipeline.errors import DataError, shortened
from input_pipeline.examples import split_parts, task_sizes
from input_pipeline.prepare import open_builder
from input_pipeline.sentence_pairs import SentencePairs
from input_pipeline.sequences import LabelledTexts, Ragged, Translations, framed
from input_pipeline.tokenizers import (
    END_OF_TEXT,
    KINDS,
    characters_per_token,
    load_tokenizer,
    vocabulary_size,
)
from input_pipeline.windows import TokenWindows

Form = Literal["windows", "sentence_pairs", "labels", "numbers", "translation"]
"""How text is cut: windows of a stream; pairs of spans that follow each other or not; texts with a
label; texts with a number as label; a text and its translation."""

BUCKETED = ("labels", "numbers", "translation")
"""Forms of which a batch may hold examples of about the same length."""

TextExamples = TokenWindows | SentencePairs | LabelledTexts | Translations


@dataclasses.dataclass(frozen=True)
class TextCard:
    """What a data set of text is, and how it is cut.

    Attributes:
        name: as TFDS knows it.
        version: "major.minor.patch".
        splits: split name -> number of documents or examples.
        vocab_size: tokens are 0 .. vocab_size - 1.
        max_len: tokens in an example.
        tokenizer: JSON text of the tokenizer (``tokenizers.Tokenizer.from_str``).
        directory: where it lies on disk.
        form: see `Form`.
        texts: features with the text or texts.
        label_names: of the classes; form labels.
        isolate: whether windows say to which document a token belongs.
        buckets: lengths to which labelled texts or translations are padded, ascending; the last is
          max_len.
        tasks: number of classes of each label that is a task, where there are several.
    """

    name: str
    version: str
    splits: dict[str, int]
    vocab_size: int
    max_len: int
    tokenizer: str
    directory: str
    form: Form = "windows"
    texts: tuple[str, ...] = ("text",)
    label_names: tuple[str, ...] = ()
    isolate: bool = False
    buckets: tuple[int, ...] = ()
    tasks: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def frame(self) -> int:
        """Number of tokens that stand around a text."""
        return Tokenizer.from_str(self.tokenizer).num_special_tokens_to_add(False)

    @property
    def num_classes(self) -> int:
        """Labels are 0 .. num_classes - 1; 1 where they are numbers, which a model has one output
        for."""
        return 1 if self.form == "numbers" else len(self.label_names)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths that batches may have."""
        return self.buckets or (self.max_len,)

    def shapes(self, size: int, length: int) -> Shapes:
        """Shape and type of every array of a batch of ``size`` examples, padded to ``length``."""
        tokens, weights = ((size, length), np.int32), ((size, length), np.float32)
        if self.form == "windows":
            found = {"tokens": tokens, "target": tokens, "weight": weights, "characters": weights}
            return found | ({"segments": tokens} if self.isolate else {})
        if self.form == "translation":
            names = ("source", "source_segments", "tokens", "segments", "target")
            return {**dict.fromkeys(names, tokens), "weight": weights}
        texts = dict.fromkeys(("tokens", "segments", "types"), tokens)
        numbers = {"label": ((size,), np.float32)} if self.form == "numbers" else {}
        return {**texts, **label_shapes(size, self.tasks), **numbers}

    def summary(self) -> str:
        """One line for the header of a run."""
        splits = ", ".join(f"{name} {count:,}" for name, count in self.splits.items())
        cut = {
            "windows": f"windows of {self.max_len}",
            "sentence_pairs": f"pairs of {self.max_len}",
            "labels": f"{self.num_classes} classes, padded to {', '.join(map(str, self.lengths))}",
            "numbers": f"a number each, padded to {', '.join(map(str, self.lengths))}",
            "translation": (
                f"{' to '.join(self.texts)}, padded to {', '.join(map(str, self.lengths))}"
            ),
        }[self.form]
        return f"{self.name} {self.version}: {splits}; {self.vocab_size:,} tokens, {cut}"


def describe_text(
    name: str,
    *,
    max_len: int,
    form: Form = "windows",
    tokenizer: str = "bpe",
    vocab_size: int = 8192,
    train_split: str = "train",
    texts: Sequence[str] = (),
    isolate: bool = False,
    buckets: Sequence[int] = (),
    data_dir: str | os.PathLike | None = None,
    raw_dir: str | os.PathLike | None = None,
    labels: Sequence[str] = (),
    require: Sequence[str] = (),
) -> TextCard:
    """Returns the card of a data set of text, preparing it and training its tokenizer first if need
    be.

    Args:
        name: a built-in data set, or a prepared TFDS data set whose features suit ``form``.
        max_len: tokens in an example.
        form: see `Form`.
        tokenizer: of `tokenizers.KINDS`, trained on `train_split`; or a path, see `load_tokenizer`.
        vocab_size: of a tokenizer that is trained.
        train_split: TFDS split string.
        texts: features that hold the text, or the text and its pair, or source and target; empty:
          those there are.
        isolate, buckets: see `TextCard`.
        data_dir: TFDS root.
        raw_dir: raw files of a built-in data set.
        labels: features that are class labels, each a task.
        require: TFDS split strings that must be there.

    Raises:
        DataError: the data set or the tokenizer cannot be found, prepared or used.
    """
    builder = open_builder(name, data_dir=data_dir, raw_dir=raw_dir)
    features = _features(builder, form, texts)
    for split in (train_split, *require):
        split_parts(builder, split)
    if tokenizer in KINDS:
        found = trained_tokenizer(builder, tokenizer, vocab_size, train_split, features)
    else:
        found = load_tokenizer(tokenizer)
    return TextCard(
        name=name,
        version=str(builder.version),
        splits={split: info.num_examples for split, info in builder.info.splits.items()},
        vocab_size=vocabulary_size(found),
        max_len=max_len,
        tokenizer=found.to_str(),
        directory=str(builder.data_dir),
        form=form,
        texts=features,
        label_names=tuple(builder.info.features["label"].names) if form == "labels" else (),
        isolate=isolate,
        buckets=tuple(sorted({*buckets, max_len})) if form in BUCKETED and buckets else (),
        tasks=task_sizes(builder, labels),
    )


def tokenizer_of(card: TextCard) -> Tokenizer:
    """The tokenizer of a card.

    Raises:
        DataError: it cannot be read, or has tokens that a model of the card's vocabulary has no
          place for.
    """
    try:
        found = Tokenizer.from_str(card.tokenizer)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(
            f"the tokenizer that the run keeps of {card.name} cannot be read ({shortened(error)})"
        ) from error
    if (size := vocabulary_size(found)) > card.vocab_size:
        raise DataError(
            f"the tokenizer that the run keeps of {card.name} has {size:,} tokens, and its "
            f"vocab_size is {card.vocab_size:,}: its dataset.json is damaged"
        )
    return found


def open_texts(
    builder: tfds.core.DatasetBuilder, split: str, card: TextCard, *, train: bool
) -> TextExamples:
    """The examples of a split such as "train" or "validation+test".

    Raises:
        DataError: unknown split, text or a tokenizer that does not suit, or too little of it.
    """
    split_parts(builder, split)
    tokenizer, source = tokenizer_of(card), split_name(builder, split)
    if card.form in ("labels", "numbers"):
        classes = None if card.form == "numbers" else card.num_classes
        options = {"source": source, "complete": not card.tasks, "classes": classes}
        return LabelledTexts(builder, split, tokenizer, card.texts, card.lengths, **options)
    if card.form == "translation":
        return Translations(
            builder, split, tokenizer, card.texts, card.lengths, source=source, train=train
        )
    tokens, starts = open_stream(builder, split, tokenizer, card.texts[0])
    if card.form == "sentence_pairs":
        return SentencePairs(tokens, starts, tokenizer, card.max_len, source=source)
    if len(tokens) < 2:
        raise DataError(f"{source} has {len(tokens)} token(s): at least 2 are needed")
    separated = tokenizer.token_to_id(END_OF_TEXT) is not None
    characters = characters_per_token(tokenizer)
    return TokenWindows(
        tokens, starts, card.max_len, characters, isolate=card.isolate, separated=separated
    )


def text_arrays(
    rows: Sequence[tuple[str, ...]], card: TextCard
) -> tuple[dict[str, np.ndarray], int]:
    """Tokens, segments and types [k, max_len] of texts or pairs of texts, and how many were cut.

    Raises:
        DataError: text that the tokenizer does not know.
    """
    encodings = framed(tokenizer_of(card), rows, card.max_len, source="the text")
    every = np.arange(len(encodings))
    tokens, segments = Ragged(e.ids for e in encodings).padded(every, card.max_len)
    types, _ = Ragged(e.type_ids for e in encodings).padded(every, card.max_len)
    return {"tokens": tokens, "segments": segments, "types": types}, sum(
        bool(e.overflowing) for e in encodings
    )


def translation_texts(
    name: str,
    split: str,
    card: TextCard,
    *,
    data_dir: str | os.PathLike | None = None,
    raw_dir: str | os.PathLike | None = None,
) -> tuple[list[str], list[str]]:
    """Sources and targets of a split, as text.

    Args:
        name: of the data set; split: of it; data_dir, raw_dir: see `describe_text`.
        card: which says what is source and what is target.
    """
    builder = open_builder(name, data_dir=data_dir, raw_dir=raw_dir)
    split_parts(builder, split)
    source, records = split_name(builder, split), enumerate(read_records(builder, split))
    pairs = [[text_of(record, text, i, source) for text in card.texts] for i, record in records]
    sources, targets = zip(*pairs, strict=True)
    return list(sources), list(targets)


def text_features(builder: tfds.core.DatasetBuilder) -> tuple[str, ...]:
    """Names of the features that are text, in alphabetical order: TFDS has none."""
    features = builder.info.features.items()
    return tuple(
        sorted(name for name, feature in features if isinstance(feature, tfds.features.Text))
    )


def _features(
    builder: tfds.core.DatasetBuilder, form: Form, texts: Sequence[str]
) -> tuple[str, ...]:
    """The features with the text that ``form`` needs."""
    name, there = builder.info.full_name, text_features(builder)
    for text in texts:
        if text not in there:
            raise DataError(f"{name} has no text {text!r}; it has {', '.join(there) or 'none'}")
    if form in ("labels", "numbers"):
        features = dict(builder.info.features.items())
        label = features.get("label")
        number = isinstance(label, tfds.features.Scalar) and np.issubdtype(
            label.np_dtype, np.floating
        )
        if form == "labels" and not isinstance(label, tfds.features.ClassLabel):
            hint = "; it is a number, for objective regression" if number else ""
            raise DataError(
                f"{name} has no feature 'label' that is a ClassLabel{hint}; it has {features}"
            )
        if form == "numbers" and not number:
            raise DataError(
                f"{name} has no feature 'label' that is a floating-point number; it has {features}"
            )
        wanted, most = "one or two texts", 2
    elif form == "translation":
        wanted, most = "two texts, source and target", 2
    else:
        wanted, most = "one text", 1
    found = tuple(texts) or (("text",) if most == 1 and "text" in there else there)
    if not found or len(found) > most or (form == "translation" and len(found) != 2):
        raise DataError(
            f"{name} has the texts {', '.join(there) or 'none'}; data.texts must name {wanted} of "
            "them"
        )
    return found
