"""Data for the training application: TFDS data sets without TensorFlow, Grain loaders, augmentation
on the device."""

from input_pipeline.cards import DatasetCard, ImageTextCard, TableCard, TextCard
from input_pipeline.decode import Decoding
from input_pipeline.errors import DataError
from input_pipeline.features import DataSpec
from input_pipeline.loader import describe, make_loader
from input_pipeline.own import DataSet, describe_own, is_own
from input_pipeline.text import describe_text, translation_texts

Card = DataSpec

__all__ = [
    "Card",
    "DataError",
    "DataSet",
    "DataSpec",
    "DatasetCard",
    "Decoding",
    "ImageTextCard",
    "TableCard",
    "TextCard",
    "describe",
    "describe_own",
    "describe_text",
    "is_own",
    "make_loader",
    "translation_texts",
]
