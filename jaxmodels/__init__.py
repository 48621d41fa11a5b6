"""Functional JAX/Flax models, each proven equal to its PyTorch original."""

import dataclasses
import difflib
import importlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from flax.linen import Module

from jaxmodels.families.alexnet.model import AlexNet, alexnet
from jaxmodels.families.bert.model import (
    BERT,
    bert_base,
    bert_large,
    bert_tiny,
    minilm_l6,
    minilm_l12,
)
from jaxmodels.families.cnn.model import CNN
from jaxmodels.families.fusion.model import DualEncoder, Fusion, dual_encoder, fusion
from jaxmodels.families.googlenet.model import GoogLeNet
from jaxmodels.families.gpt2.model import (
    GPT2,
    gpt2_124m,
    gpt2_355m,
    gpt2_774m,
    gpt2_1558m,
    gpt2_tiny,
)
from jaxmodels.families.inception.model import InceptionV3
from jaxmodels.families.lstm.model import LSTMClassifier, bilstm, lstm
from jaxmodels.families.mlp.model import MLP
from jaxmodels.families.resnet.model import (
    ResNet,
    resnet18,
    resnet20,
    resnet34,
    resnet50,
    resnet56,
    resnet101,
    resnet152,
)
from jaxmodels.families.transformer.model import (
    Transformer,
    marian,
    transformer_base,
    transformer_big,
    transformer_tiny,
)
from jaxmodels.families.vae.model import VAE, vae, vae_conv
from jaxmodels.families.vgg.model import (
    VGG,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)
from jaxmodels.families.vit.model import (
    ViT,
    vit_b_16,
    vit_b_16_hf,
    vit_b_32,
    vit_h_14,
    vit_l_16,
    vit_l_32,
    vit_s_16,
    vit_ti_16,
)

__version__ = "0.1.0"

MODELS: dict[str, Callable[..., Module]] = {
    "mlp": partial(MLP),
    "cnn": partial(CNN),
    "alexnet": alexnet,
    "vgg11": vgg11,
    "vgg11_bn": vgg11_bn,
    "vgg13": vgg13,
    "vgg13_bn": vgg13_bn,
    "vgg16": vgg16,
    "vgg16_bn": vgg16_bn,
    "vgg19": vgg19,
    "vgg19_bn": vgg19_bn,
    "googlenet": partial(GoogLeNet),
    "inception_v3": partial(InceptionV3),
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "resnet20": resnet20,
    "resnet56": resnet56,
    "vae": vae,
    "vae_conv": vae_conv,
    "vit_ti_16": vit_ti_16,
    "vit_s_16": vit_s_16,
    "vit_b_16": vit_b_16,
    "vit_b_32": vit_b_32,
    "vit_l_16": vit_l_16,
    "vit_l_32": vit_l_32,
    "vit_h_14": vit_h_14,
    "vit_b_16_hf": vit_b_16_hf,
    "bert_tiny": bert_tiny,
    "bert_base": bert_base,
    "bert_large": bert_large,
    "minilm_l6": minilm_l6,
    "minilm_l12": minilm_l12,
    "gpt2_tiny": gpt2_tiny,
    "gpt2_124m": gpt2_124m,
    "gpt2_355m": gpt2_355m,
    "gpt2_774m": gpt2_774m,
    "gpt2_1558m": gpt2_1558m,
    "lstm": lstm,
    "bilstm": bilstm,
    "transformer_tiny": transformer_tiny,
    "transformer_base": transformer_base,
    "transformer_big": transformer_big,
    "marian": marian,
    "fusion": fusion,
    "dual_encoder": dual_encoder,
}


def list_models() -> list[str]:
    """Names that :func:`create` takes, in alphabetical order."""
    return sorted(MODELS)


def model_fields(name: str) -> dict[str, Any]:
    """The fields that ``create(name, ...)`` takes, with their annotated types.

    Raises:
      ValueError: unknown ``name``, with the nearest known one.
    """
    if name not in MODELS:
        raise ValueError(
            f"model {name!r} is not one of {', '.join(list_models())}{_nearest(name, MODELS)}"
        )
    hidden = ("parent", "name", "origin")  # linen's own, and what weights.load notes
    return {f.name: f.type for f in dataclasses.fields(MODELS[name].func) if f.name not in hidden}


def create(name: str, **fields) -> Module:
    """Builds the model ``name`` with its preset, ``fields`` overriding it:
    ``create("cnn", num_classes=10)``.

    Raises:
      ValueError: unknown ``name`` or field, with the nearest known one.
    """
    known = model_fields(name)
    for key in fields:
        if key not in known:
            raise ValueError(
                f"model {name!r} has no field {key!r}{_nearest(key, known)}; it has "
                f"{', '.join(known)}"
            )
    return MODELS[name](**fields)


_FORMER = {
    **{
        name: f"families.{name}.model"
        for name in (
            "mlp",
            "cnn",
            "alexnet",
            "vgg",
            "googlenet",
            "inception",
            "resnet",
            "vae",
            "vit",
            "bert",
            "gpt2",
            "lstm",
            "transformer",
            "fusion",
        )
    },
    **{name: f"nn.{name}" for name in ("attention", "layers", "stack", "cpu", "meshes", "paths")},
    **{name: f"adapt.{name}" for name in ("features", "frozen", "multitask")},
    **{name: f"decode.{name}" for name in ("beam", "generate")},
}
"""Module -> its place today: ``from jaxmodels.gpt2 import GPT2`` goes on working."""

for _name, _place in _FORMER.items():
    _module = importlib.import_module(f"{__name__}.{_place}")
    sys.modules[f"{__name__}.{_name}"] = _module
    globals().setdefault(_name, _module)  # a preset of that name stays


def _nearest(word: str, known) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


__all__ = [
    "BERT",
    "CNN",
    "GPT2",
    "MLP",
    "MODELS",
    "VAE",
    "VGG",
    "AlexNet",
    "DualEncoder",
    "Fusion",
    "GoogLeNet",
    "InceptionV3",
    "LSTMClassifier",
    "Module",
    "ResNet",
    "Transformer",
    "ViT",
    "create",
    "list_models",
    "model_fields",
]
