"""Data sets of the usual pairings, by the values that are known of them."""

from __future__ import annotations

import dataclasses

from input_pipeline.features.image import Image
from input_pipeline.features.labels import ClassLabel, Number
from input_pipeline.features.row import Row
from input_pipeline.features.spec import DataSpec, make_spec
from input_pipeline.features.text import Text


def image_data(
    name: str,
    version: str,
    splits: dict[str, int],
    image_shape: tuple[int, int, int],
    num_classes: int,
    label_names: tuple[str, ...],
    directory: str,
    tasks: dict[str, int] | None = None,
) -> DataSpec:
    """Images with a class: the attributes of `Image`, `ClassLabel`, `ClassLabels`, `DataSpec`."""
    label = ClassLabel(num_classes, label_names)
    return make_spec(
        name, version, splits, directory, {"image": Image(image_shape)}, label, tasks or {}
    )


def table_data(
    name: str,
    version: str,
    splits: dict[str, int],
    feature_names: tuple[str, ...],
    label_names: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    directory: str,
    tasks: dict[str, int] | None = None,
) -> DataSpec:
    """Rows with a class: the attributes of `Row`, `ClassLabel`, `ClassLabels`, `DataSpec`."""
    row, label = Row(feature_names, mean, std), ClassLabel(len(label_names), label_names)
    return make_spec(name, version, splits, directory, {"row": row}, label, tasks or {})


def text_data(
    name: str,
    version: str,
    splits: dict[str, int],
    vocab_size: int,
    max_len: int,
    tokenizer: str,
    directory: str,
    form: str = "windows",
    texts: tuple[str, ...] = ("text",),
    label_names: tuple[str, ...] = (),
    isolate: bool = False,
    buckets: tuple[int, ...] = (),
    tasks: dict[str, int] | None = None,
) -> DataSpec:
    """Text: the attributes of `Text`, `ClassLabel`, `ClassLabels`, `DataSpec`.

    Args:
        form: "labels" or "numbers": whole texts with a class or a number; else of `Cut`.
    """
    cut = "texts" if form in ("labels", "numbers") else form
    text = Text(vocab_size, max_len, tokenizer, cut, texts, isolate, buckets)
    label = {"labels": ClassLabel(len(label_names), label_names), "numbers": Number()}.get(form)
    return make_spec(name, version, splits, directory, {"text": text}, label, tasks or {})


def image_text_data(image: DataSpec, text: DataSpec) -> DataSpec:
    """Images with a text each: one data set whose examples have both."""
    inputs = {"image": image.features["image"], "text": text.features["text"]}
    return dataclasses.replace(image, features={**inputs, **image.features})


DatasetCard, TableCard, TextCard = image_data, table_data, text_data
ImageTextCard = image_text_data
