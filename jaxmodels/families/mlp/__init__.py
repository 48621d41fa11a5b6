"""Multi-layer perceptron."""

from jaxmodels.families.family import Family
from jaxmodels.families.mlp.model import MLP, mlp
from jaxmodels.families.mlp.original import CASES, original
from jaxmodels.families.mlp.weights import FORMATS

PRESETS = {
    "mlp": mlp,
}

FAMILY = Family(
    MLP,
    PRESETS,
    inputs=("image", "row"),
    outputs=("logits",),
    formats=FORMATS,
    original=original,
    cases=CASES,
)
