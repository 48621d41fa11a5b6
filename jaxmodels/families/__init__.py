"""One folder for each architecture: its model, PyTorch formats, original and certificate."""

from jaxmodels.families import (
    alexnet,
    bert,
    cnn,
    convnext,
    fusion,
    googlenet,
    gpt2,
    inception,
    lstm,
    mlp,
    resnet,
    transformer,
    vae,
    vgg,
    vit,
)
from jaxmodels.families.family import Family

FAMILIES: dict[str, Family] = {
    "mlp": mlp.FAMILY,
    "cnn": cnn.FAMILY,
    "alexnet": alexnet.FAMILY,
    "vgg": vgg.FAMILY,
    "googlenet": googlenet.FAMILY,
    "inception": inception.FAMILY,
    "resnet": resnet.FAMILY,
    "convnext": convnext.FAMILY,
    "vae": vae.FAMILY,
    "vit": vit.FAMILY,
    "bert": bert.FAMILY,
    "gpt2": gpt2.FAMILY,
    "lstm": lstm.FAMILY,
    "transformer": transformer.FAMILY,
    "fusion": fusion.FAMILY,
    "dual_encoder": fusion.DUAL_ENCODER,
}

__all__ = ["FAMILIES", "Family"]
