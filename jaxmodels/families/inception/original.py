"""torchvision's Inception-v3, and its certificate."""

from typing import Any

from jaxmodels.families.inception.model import InceptionV3
from jaxmodels.foreign.original import (
    Case,
    Original,
    Shape,
    torchvision,
    torchvision_source,
    with_auxiliary,
)


def original(model: InceptionV3, shape: Shape) -> Original:
    """torchvision's Inception-v3, with its own random initial values."""
    from torch import nn

    module = torchvision().Inception3(
        num_classes=model.num_classes,
        aux_logits=model.aux_heads,
        transform_input=model.transform_input,
        init_weights=True,
        dropout=model.dropout_rate,
    )
    if shape[2] != 3:
        module.Conv2d_1a_3x3.conv = nn.Conv2d(shape[2], 32, 3, stride=2, bias=False)
    return with_auxiliary(module, torchvision_source("inception_v3"))


def condition(module: Any) -> None:
    """Opens most units behind convolutions, in place.

    In long chains of convolution, norm and ReLU, norms after half-shut ReLUs make small differences
    grow.
    """
    for part in module.modules():
        if type(part).__name__ == "BasicConv2d":
            # torchvision has two; one's module hides behind a function
            part.bn.bias.add_(1)


CASES = (Case("inception_v3", (299, 299, 3), (299, 299, 3), batch_size=2, timing_batch_size=2),)
