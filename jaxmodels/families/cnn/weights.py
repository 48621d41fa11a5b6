"""PyTorch formats of the CNN."""

from jaxmodels.families.cnn.model import CNN
from jaxmodels.foreign.formats import Formats, Rules, Shape
from jaxmodels.foreign.rules import CONV, LINEAR, Rule, linear_after_flatten


def _cnn(model: CNN, shape: Shape) -> Rules:
    """Modules ``convs.i``, ``dense`` (optional) and ``head``; the flattening is channel first."""
    pools = {"none": 0, "last": 1, "each": len(model.features)}[model.pool]
    first = linear_after_flatten(shape[0] // 2**pools, shape[1] // 2**pools)
    rules = (
        Rule("convs.{i}", "conv_{i}", CONV),
        Rule("head", "head", LINEAR if model.hidden_size else first),
    )
    return (*rules, Rule("dense", "dense", first)) if model.hidden_size else rules


FORMATS = Formats({"torch": _cnn}, None, silent=("pool",))
