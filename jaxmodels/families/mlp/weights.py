"""PyTorch formats of the MLP."""

from jaxmodels.families.mlp.model import MLP
from jaxmodels.foreign.formats import Formats, Rules, Shape
from jaxmodels.foreign.rules import LINEAR, Rule, linear_after_flatten


def _mlp(model: MLP, shape: Shape) -> Rules:
    """``Sequential(Flatten, Linear, ReLU, ..., Linear)``: Linear i is module 1 + 2 i."""
    count = len(model.hidden_sizes)
    first = linear_after_flatten(*shape[:2]) if len(shape) == 3 else LINEAR
    names = [*(f"dense_{i}" for i in range(count)), "head"]
    return tuple(
        Rule(f"{1 + 2 * i}", name, first if i == 0 else LINEAR) for i, name in enumerate(names)
    )


FORMATS = Formats({"torch": _mlp}, None, silent=("activation",))
