"""torchvision's and transformers' ViT, and their certificates."""

import functools

from jaxmodels.families.vit.model import ViT
from jaxmodels.families.vit.weights import HUB
from jaxmodels.foreign.original import (
    SDPA,
    Case,
    Original,
    OriginalError,
    Shape,
    cross_entropy,
    require_defaults,
    torchvision,
    torchvision_source,
    transformers,
    transformers_source,
)


def original(model: ViT, shape: Shape) -> Original:
    """torchvision's ViT, or transformers' with its epsilon 1e-12.

    Dropout and all, in training mode, with its own random initial values.

    Raises:
      OriginalError: there is none with these fields, or its library is not installed.
    """
    from torch import nn

    if shape[0] != shape[1]:
        raise OriginalError(f"the originals of ViT take square images, not {shape[0]}x{shape[1]}")
    require_defaults(model, pool="cls", position="learned", activation="gelu")
    if not model.num_classes:
        raise OriginalError(
            "a ViT without classes has an original, and no objective to compare it by"
        )
    if model.norm_eps == 1e-12:
        return _of_transformers(model, shape)
    module = torchvision().VisionTransformer(
        image_size=shape[0],
        patch_size=model.patch_size,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        hidden_dim=model.hidden_size,
        mlp_dim=model.mlp_dim,
        dropout=model.dropout_rate,
        attention_dropout=model.attention_dropout_rate,
        num_classes=model.num_classes,
        representation_size=model.representation_size or None,
        norm_layer=functools.partial(nn.LayerNorm, eps=model.norm_eps),
    )
    if shape[2] != 3:
        p = model.patch_size
        module.conv_proj = nn.Conv2d(shape[2], model.hidden_size, p, stride=p)
    return Original(module, torchvision_source("vision_transformer"), "torchvision")


def _of_transformers(model: ViT, shape: Shape) -> Original:
    """ViTForImageClassification."""
    config = transformers().ViTConfig(**HUB.config(model, shape))
    config._attn_implementation = SDPA
    return Original(
        transformers().ViTForImageClassification(config),
        transformers_source("ViTForImageClassification"),
        "transformers5",
        main=lambda outputs: outputs.logits,
        loss=lambda outputs, batch: cross_entropy(outputs.logits, batch),
    )


CASES = (
    Case("vit_ti_16", (64, 64, 3)),
    Case("vit_s_16", (64, 64, 3), fields={"scan": True}, note="scanned"),
    Case("vit_b_16", (64, 64, 3), fields={"scan": True}, note="scanned"),
    Case("vit_b_32", (64, 64, 3), fields={"scan": True}, note="scanned"),
    Case(
        "vit_l_16",
        (64, 64, 3),
        fields={"scan": True, "num_layers": 4},
        note="scanned, 4 of 24 layers",
    ),
    Case(
        "vit_l_32",
        (64, 64, 3),
        fields={"scan": True, "num_layers": 4},
        note="scanned, 4 of 24 layers",
    ),
    Case(
        "vit_h_14",
        (56, 56, 3),
        fields={"scan": True, "num_layers": 2},
        note="scanned, 2 of 32 layers",
    ),
    Case(
        "vit_b_16_hf",
        (64, 64, 3),
        fields={"scan": True, "remat": True},
        note="scanned, rematerialised",
    ),
)
