"""Encoder-decoder Transformer, and Marian."""

from jaxmodels.families.family import Family
from jaxmodels.families.transformer.model import (
    Transformer,
    marian,
    transformer_base,
    transformer_big,
    transformer_tiny,
)
from jaxmodels.families.transformer.original import CASES, original
from jaxmodels.families.transformer.weights import FORMATS, HUB

PRESETS = {
    "transformer_tiny": transformer_tiny,
    "transformer_base": transformer_base,
    "transformer_big": transformer_big,
    "marian": marian,
}

FAMILY = Family(
    Transformer,
    PRESETS,
    inputs=("source_target",),
    outputs=("target_logits",),
    formats=FORMATS,
    hub=HUB,
    original=original,
    cases=CASES,
)
