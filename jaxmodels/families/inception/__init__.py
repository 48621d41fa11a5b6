"""Inception-v3."""

from jaxmodels.families.family import Family
from jaxmodels.families.inception.model import InceptionV3, inception_v3
from jaxmodels.families.inception.original import CASES, condition, original
from jaxmodels.families.inception.weights import FORMATS

PRESETS = {
    "inception_v3": inception_v3,
}

FAMILY = Family(
    InceptionV3,
    PRESETS,
    inputs=("image",),
    outputs=("logits",),
    formats=FORMATS,
    original=original,
    cases=CASES,
    condition=condition,
)
