"""Small convolutional network."""

from jaxmodels.families.cnn.model import CNN, cnn
from jaxmodels.families.cnn.original import CASES, original
from jaxmodels.families.cnn.weights import FORMATS
from jaxmodels.families.family import Family

PRESETS = {
    "cnn": cnn,
}

FAMILY = Family(
    CNN,
    PRESETS,
    inputs=("image",),
    outputs=("logits",),
    formats=FORMATS,
    original=original,
    cases=CASES,
)
