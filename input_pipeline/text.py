"""What a data set of text is, and how it becomes batches of tokens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.cards import text_data
from input_pipeline.corpus import open_stream, read_records, split_name, text_of, trained_tokenizer
from input_pipeline.errors import DataError
from input_pipeline.examples import split_parts, task_sizes
from input_pipeline.features import DataSpec
from input_pipeline.prepare import open_builder
from input_pipeline.sentence_pairs import SentencePairs
from input_pipeline.sequences import LabelledTexts, Translations
from input_pipeline.tokenizers import (
    END_OF_TEXT,
    KINDS,
    characters_per_token,
    load_tokenizer,
    vocabulary_size,
)
from input_pipeline.windows import TokenWindows

Form = Literal["windows", "sentence_pairs", "labels", "numbers", "translation"]
"""How text is cut, and the label of whole texts: a class or a number."""

BUCKETED = ("labels", "numbers", "translation")
"""Forms of which a batch may hold examples of about the same length."""

TextExamples = TokenWindows | SentencePairs | LabelledTexts | Translations


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
) -> DataSpec:
    """Returns what a data set of text is, preparing it and training its tokenizer first if need
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
        isolate, buckets: see `Text`.
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
    return text_data(
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


def open_texts(
    builder: tfds.core.DatasetBuilder, split: str, spec: DataSpec, *, train: bool
) -> TextExamples:
    """The examples of a split such as "train" or "validation+test".

    Raises:
        DataError: unknown split, text or a tokenizer that does not suit, or too little of it.
    """
    split_parts(builder, split)
    text, source = spec.kind("text"), split_name(builder, split)
    tokenizer = text.opened_tokenizer(spec.name)
    if text.cut == "texts":
        classes = None if spec.kind("number") else spec.num_classes
        options = {"source": source, "complete": not spec.tasks, "classes": classes}
        return LabelledTexts(builder, split, tokenizer, text.texts, text.lengths, **options)
    if text.cut == "translation":
        return Translations(
            builder, split, tokenizer, text.texts, text.lengths, source=source, train=train
        )
    tokens, starts = open_stream(builder, split, tokenizer, text.texts[0])
    if text.cut == "sentence_pairs":
        return SentencePairs(tokens, starts, tokenizer, text.max_len, source=source)
    if len(tokens) < 2:
        raise DataError(f"{source} has {len(tokens)} token(s): at least 2 are needed")
    separated = tokenizer.token_to_id(END_OF_TEXT) is not None
    characters = characters_per_token(tokenizer)
    return TokenWindows(
        tokens, starts, text.max_len, characters, isolate=text.isolate, separated=separated
    )


def translation_texts(
    name: str,
    split: str,
    spec: DataSpec,
    *,
    data_dir: str | os.PathLike | None = None,
    raw_dir: str | os.PathLike | None = None,
) -> tuple[list[str], list[str]]:
    """Sources and targets of a split, as text.

    Args:
        name: of the data set; split: of it; data_dir, raw_dir: see `describe_text`.
        spec: which says what is source and what is target.
    """
    builder = open_builder(name, data_dir=data_dir, raw_dir=raw_dir)
    split_parts(builder, split)
    source, records = split_name(builder, split), enumerate(read_records(builder, split))
    pairs = [
        [text_of(record, text, i, source) for text in spec.kind("text").texts]
        for i, record in records
    ]
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
            hint = "; it is a number, for task regression" if number else ""
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
