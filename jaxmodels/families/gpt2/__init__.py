"""GPT-2."""

from jaxmodels.families.family import Family
from jaxmodels.families.gpt2.model import (
    GPT2,
    gpt2_124m,
    gpt2_355m,
    gpt2_774m,
    gpt2_1558m,
    gpt2_tiny,
)
from jaxmodels.families.gpt2.original import CASES, original
from jaxmodels.families.gpt2.weights import FORMATS, HUB

PRESETS = {
    "gpt2_tiny": gpt2_tiny,
    "gpt2_124m": gpt2_124m,
    "gpt2_355m": gpt2_355m,
    "gpt2_774m": gpt2_774m,
    "gpt2_1558m": gpt2_1558m,
}

FAMILY = Family(
    GPT2,
    PRESETS,
    inputs=("text",),
    outputs=("token_logits",),
    formats=FORMATS,
    hub=HUB,
    original=original,
    cases=CASES,
)
