"""ResNet."""

from jaxmodels.families.family import Family
from jaxmodels.families.resnet.model import (
    ResNet,
    resnet18,
    resnet20,
    resnet34,
    resnet50,
    resnet56,
    resnet101,
    resnet152,
)
from jaxmodels.families.resnet.original import CASES, condition, original
from jaxmodels.families.resnet.weights import FORMATS

PRESETS = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "resnet20": resnet20,
    "resnet56": resnet56,
}

FAMILY = Family(
    ResNet,
    PRESETS,
    inputs=("image",),
    outputs=("logits",),
    formats=FORMATS,
    original=original,
    cases=CASES,
    condition=condition,
)
