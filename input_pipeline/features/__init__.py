"""Features: one file for each kind of input or label, and the data set that they make up."""

from input_pipeline.features.feature import Feature, Given, Preparation, Shapes
from input_pipeline.features.image import Image
from input_pipeline.features.labels import ClassLabel, ClassLabels, Number
from input_pipeline.features.row import Row
from input_pipeline.features.spec import DataSpec
from input_pipeline.features.text import Text
from input_pipeline.features.written import from_json, to_json

__all__ = [
    "ClassLabel",
    "ClassLabels",
    "DataSpec",
    "Feature",
    "Given",
    "Image",
    "Number",
    "Preparation",
    "Row",
    "Shapes",
    "Text",
    "from_json",
    "to_json",
]
