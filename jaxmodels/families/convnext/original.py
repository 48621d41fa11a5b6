"""torchvision's ConvNeXt, and its certificates."""

from typing import Any

from jaxmodels.families.convnext.model import ConvNeXt
from jaxmodels.foreign.original import (
    Case,
    Original,
    Shape,
    torchvision,
    torchvision_source,
)


def original(model: ConvNeXt, shape: Shape) -> Original:
    """torchvision's ConvNeXt.

    Stochastic depth and all, in training mode, with its own random initial values.

    Raises:
      OriginalError: torchvision is not installed.
    """
    library = torchvision().convnext
    from torch import nn

    following = (*model.stage_features[1:], None)
    module = library.ConvNeXt(
        [
            library.CNBlockConfig(features, out, blocks)
            for features, out, blocks in zip(
                model.stage_features, following, model.stage_sizes, strict=True
            )
        ],
        # theirs divides by the number of blocks but one
        stochastic_depth_prob=model.depth_dropout_rate,
        layer_scale=model.layer_scale,
        num_classes=model.num_classes,
    )
    side = model.patch_size
    if (shape[2], side) != (3, 4):
        stem = nn.Conv2d(shape[2], model.stage_features[0], side, stride=side)
        nn.init.trunc_normal_(stem.weight, std=0.02)
        nn.init.zeros_(stem.bias)
        module.features[0][0] = stem
    return Original(module, torchvision_source("convnext"), "torchvision")


def condition(module: Any) -> None:
    """Gives residual branches less weight beside their shortcut, in place."""
    for part in module.modules():
        if type(part).__name__ == "CNBlock":
            part.layer_scale.mul_(0.3)


CASES = (
    Case("convnext_tiny", (64, 96, 3)),
    Case("convnext_small", (64, 96, 3)),
    *(
        Case(
            name,
            (64, 96, 3),
            fields={"stage_sizes": (3, 3, 3, 3)},
            batch_size=2,
            note="12 of 36 blocks",
        )
        for name in ("convnext_base", "convnext_large")
    ),
)
