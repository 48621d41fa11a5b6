"""GoogLeNet."""

from jaxmodels.families.family import Family
from jaxmodels.families.googlenet.model import GoogLeNet, googlenet
from jaxmodels.families.googlenet.original import CASES, original
from jaxmodels.families.googlenet.weights import FORMATS

PRESETS = {
    "googlenet": googlenet,
}

FAMILY = Family(
    GoogLeNet,
    PRESETS,
    inputs=("image",),
    outputs=("logits",),
    formats=FORMATS,
    original=original,
    cases=CASES,
)
