"""PyTorch formats of the LSTM classifier."""

from jaxmodels.families.lstm.model import LSTMClassifier
from jaxmodels.foreign.formats import TOKENS, Formats, Rules, Shape
from jaxmodels.foreign.rules import EMBEDDING, LINEAR, Rule, Tensor

LSTM_TENSORS = (  # of one direction
    ("weight_ih", "kernel_ih", "o i -> i o"),
    ("weight_hh", "kernel_hh", "o i -> i o"),
    ("bias_ih", "bias_ih", ""),
    ("bias_hh", "bias_hh", ""),
)


def _lstm(model: LSTMClassifier, shape: Shape) -> Rules:
    """Modules ``embedding``, ``lstm`` (all layers) and ``fc``."""
    layers = (
        Rule(
            "lstm",
            f"lstm_{i}",
            tuple(
                Tensor(f"{torch}_l{i}{way}", f"{ours}{way}", layout=layout)
                for way in ("", "_reverse")
                for torch, ours, layout in LSTM_TENSORS
            ),
        )
        for i in range(model.num_layers)
    )
    return (Rule("embedding", "token_embed", EMBEDDING), *layers, Rule("fc", "head", LINEAR))


FORMATS = Formats({"torch": _lstm}, **TOKENS)
