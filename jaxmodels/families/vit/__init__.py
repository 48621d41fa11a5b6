"""Vision Transformer."""

from jaxmodels.families.family import Family
from jaxmodels.families.vit.model import (
    ViT,
    vit_b_16,
    vit_b_16_hf,
    vit_b_32,
    vit_h_14,
    vit_l_16,
    vit_l_32,
    vit_s_16,
    vit_ti_16,
)
from jaxmodels.families.vit.original import CASES, original
from jaxmodels.families.vit.weights import FORMATS, HUB

PRESETS = {
    "vit_ti_16": vit_ti_16,
    "vit_s_16": vit_s_16,
    "vit_b_16": vit_b_16,
    "vit_b_32": vit_b_32,
    "vit_l_16": vit_l_16,
    "vit_l_32": vit_l_32,
    "vit_h_14": vit_h_14,
    "vit_b_16_hf": vit_b_16_hf,
}

FAMILY = Family(
    ViT,
    PRESETS,
    inputs=("image",),
    outputs=("logits",),
    formats=FORMATS,
    hub=HUB,
    original=original,
    cases=CASES,
)
