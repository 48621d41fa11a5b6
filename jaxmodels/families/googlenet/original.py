"""torchvision's GoogLeNet, and its certificate."""

from jaxmodels.families.googlenet.model import GoogLeNet
from jaxmodels.foreign.original import (
    Case,
    Original,
    Shape,
    require_defaults,
    torchvision,
    torchvision_source,
    with_auxiliary,
)


def original(model: GoogLeNet, shape: Shape) -> Original:
    """torchvision's GoogLeNet.

    Dropout and all, in training mode, with its own random initial values.

    Raises:
      OriginalError: there is none with these fields, or its library is not installed.
    """
    from torch import nn

    require_defaults(model, stem="imagenet")
    module = torchvision().GoogLeNet(
        num_classes=model.num_classes,
        aux_logits=model.aux_heads,
        transform_input=model.transform_input,
        init_weights=True,
        dropout=model.dropout_rate,
        dropout_aux=model.aux_dropout_rate,
    )
    if shape[2] != 3:
        module.conv1.conv = nn.Conv2d(shape[2], 64, 7, stride=2, padding=3, bias=False)
    return with_auxiliary(module, torchvision_source("googlenet"))


CASES = (Case("googlenet", (64, 64, 3)),)
