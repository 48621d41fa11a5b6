"""BERT and MiniLM."""

from jaxmodels.families.bert.model import (
    BERT,
    bert_base,
    bert_large,
    bert_tiny,
    minilm_l6,
    minilm_l12,
)
from jaxmodels.families.bert.original import CASES, original
from jaxmodels.families.bert.weights import FORMATS, HUB
from jaxmodels.families.family import Family

PRESETS = {
    "bert_tiny": bert_tiny,
    "bert_base": bert_base,
    "bert_large": bert_large,
    "minilm_l6": minilm_l6,
    "minilm_l12": minilm_l12,
}

FAMILY = Family(
    BERT,
    PRESETS,
    inputs=("text",),
    outputs=("pretraining", "logits"),
    formats=FORMATS,
    hub=HUB,
    original=original,
    cases=CASES,
)
