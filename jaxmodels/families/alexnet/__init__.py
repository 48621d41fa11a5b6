"""AlexNet."""

from jaxmodels.families.alexnet.model import AlexNet, alexnet
from jaxmodels.families.alexnet.original import CASES, original
from jaxmodels.families.alexnet.weights import FORMATS
from jaxmodels.families.family import Family

PRESETS = {
    "alexnet": alexnet,
}

FAMILY = Family(
    AlexNet,
    PRESETS,
    inputs=("image",),
    outputs=("logits",),
    formats=FORMATS,
    original=original,
    cases=CASES,
)
