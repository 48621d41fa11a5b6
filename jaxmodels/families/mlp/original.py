"""The MLP in ``torch.nn``, and its certificate."""

import functools
import math

from jaxmodels.families.mlp.model import MLP
from jaxmodels.foreign.original import Case, Original, Shape


def original(model: MLP, shape: Shape) -> Original:
    """The same layers in ``torch.nn``, with its own random initial values."""
    from torch import nn

    modules = {
        "relu": nn.ReLU,
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "gelu_tanh": functools.partial(nn.GELU, approximate="tanh"),
    }
    sizes = [math.prod(shape), *model.hidden_sizes]
    layers: list[nn.Module] = [nn.Flatten()]
    for i, size in enumerate(model.hidden_sizes):
        activation = modules[model.activation]()
        if model.dropout_rate:  # one module, so that the numbers of the others stay
            activation = nn.Sequential(activation, nn.Dropout(model.dropout_rate))
        layers += [nn.Linear(sizes[i], size), activation]
    return Original(
        nn.Sequential(*layers, nn.Linear(sizes[-1], model.num_classes)), "torch.nn", "torch"
    )


CASES = (
    Case("mlp", (28, 28, 1), (28, 28, 1), batch_size=16, timing_batch_size=128, full_classes=10),
)
