"""LSTM text classifier."""

from jaxmodels.families.family import Family
from jaxmodels.families.lstm.model import LSTMClassifier, bilstm, lstm
from jaxmodels.families.lstm.original import CASES, original
from jaxmodels.families.lstm.weights import FORMATS

PRESETS = {
    "lstm": lstm,
    "bilstm": bilstm,
}

FAMILY = Family(
    LSTMClassifier,
    PRESETS,
    inputs=("text",),
    outputs=("logits",),
    formats=FORMATS,
    original=original,
    cases=CASES,
)
