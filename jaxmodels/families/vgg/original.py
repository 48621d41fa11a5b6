"""torchvision's VGG, and its certificates."""

from jaxmodels.families.vgg.model import VGG
from jaxmodels.foreign.original import Case, Original, Shape, torchvision, torchvision_source


def original(model: VGG, shape: Shape) -> Original:
    """torchvision's VGG, with its own random initial values."""
    from torch import nn

    vgg = torchvision().vgg
    plan: list[int | str] = []
    for blocks, features in zip(model.stage_sizes, model.stage_features, strict=True):
        plan += [features] * blocks + ["M"]
    features = vgg.make_layers(plan, batch_norm=model.batch_norm)
    if shape[2] != 3:
        features[0] = nn.Conv2d(shape[2], model.stage_features[0], 3, padding=1)
    module = vgg.VGG(features, num_classes=model.num_classes, dropout=model.dropout_rate)
    side, hidden = model.pooled_size, model.hidden_sizes
    if (side, model.stage_features[-1], hidden) != (7, 512, (4096, 4096)):
        module.avgpool = nn.AdaptiveAvgPool2d((side, side))
        sizes = [model.stage_features[-1] * side * side, *hidden]
        layers: list[nn.Module] = []
        for a, b in zip(sizes, hidden, strict=False):
            layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(model.dropout_rate)]
        module.classifier = nn.Sequential(*layers, nn.Linear(sizes[-1], model.num_classes))
        for layer in module.classifier:
            if isinstance(layer, nn.Linear):  # as torchvision does to its own
                nn.init.normal_(layer.weight, 0, 0.01)
                nn.init.zeros_(layer.bias)
    return Original(module, torchvision_source("vgg"), "torchvision")


CASES = tuple(
    Case(
        f"vgg{n}{bn}",
        (64, 32, 3),
        fields={"hidden_sizes": (512, 512)},
        note="dense layers of 512",
    )
    for n in (11, 13, 16, 19)
    for bn in ("", "_bn")
)
