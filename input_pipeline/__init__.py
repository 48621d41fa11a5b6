"""Data for the training application: TFDS data sets without TensorFlow, Grain loaders, augmentation
on the device."""

from input_pipeline.cards import DatasetCard
from input_pipeline.decode import Decoding
from input_pipeline.errors import DataError
from input_pipeline.image_text import ImageTextCard
from input_pipeline.loader import Card, describe, make_loader
from input_pipeline.table import TableCard
from input_pipeline.text import TextCard, describe_text, translation_texts

__all__ = [
    "Card",
    "DataError",
    "DatasetCard",
    "Decoding",
    "ImageTextCard",
    "TableCard",
    "TextCard",
    "describe",
    "describe_text",
    "make_loader",
    "translation_texts",
]
