"""ConvNeXt."""

from jaxmodels.families.convnext.model import (
    ConvNeXt,
    convnext_base,
    convnext_large,
    convnext_small,
    convnext_tiny,
)
from jaxmodels.families.convnext.original import CASES, condition, original
from jaxmodels.families.convnext.weights import FORMATS
from jaxmodels.families.family import Family

PRESETS = {
    "convnext_tiny": convnext_tiny,
    "convnext_small": convnext_small,
    "convnext_base": convnext_base,
    "convnext_large": convnext_large,
}

FAMILY = Family(
    ConvNeXt,
    PRESETS,
    inputs=("image",),
    outputs=("logits",),
    formats=FORMATS,
    original=original,
    cases=CASES,
    condition=condition,
)
