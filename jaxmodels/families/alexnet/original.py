"""torchvision's AlexNet, and its certificate."""

import itertools

from jaxmodels.families.alexnet.model import AlexNet
from jaxmodels.foreign.original import (
    Case,
    Original,
    Shape,
    require_defaults,
    torchvision,
    torchvision_source,
)


def original(model: AlexNet, shape: Shape) -> Original:
    """torchvision's AlexNet.

    Dropout and all, in training mode, with its own random initial values.

    Raises:
      OriginalError: there is none with these fields, or its library is not installed.
    """
    from torch import nn

    require_defaults(model, lrn=False)
    module = torchvision().AlexNet(num_classes=model.num_classes, dropout=model.dropout_rate)
    a, b, c, d, e = model.features
    if (shape[2], *model.features) != (3, 64, 192, 384, 256, 256):
        module.features[3], module.features[6] = (
            nn.Conv2d(a, b, 5, padding=2),
            nn.Conv2d(b, c, 3, padding=1),
        )
        module.features[8], module.features[10] = (
            nn.Conv2d(c, d, 3, padding=1),
            nn.Conv2d(d, e, 3, padding=1),
        )
        module.features[0] = nn.Conv2d(shape[2], a, 11, stride=4, padding=2)
    if model.stem == "small":
        module.features[0] = nn.Conv2d(shape[2], a, 5, padding=2)
    side, hidden = model.pooled_size, model.hidden_sizes
    if (side, e, hidden) != (6, 256, (4096, 4096)):
        module.avgpool = nn.AdaptiveAvgPool2d((side, side))
        layers: list[nn.Module] = []
        sizes = [e * side * side, *hidden]
        for n, m in itertools.pairwise(sizes):
            layers += [nn.Dropout(model.dropout_rate), nn.Linear(n, m), nn.ReLU()]
        module.classifier = nn.Sequential(*layers, nn.Linear(sizes[-1], model.num_classes))
    return Original(module, torchvision_source("alexnet"), "torchvision")


CASES = (Case("alexnet", (96, 64, 3)),)
