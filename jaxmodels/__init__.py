"""Functional JAX/Flax models, each proven equal to its PyTorch original."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from flax.linen import Module

from jaxmodels.catalogue import (
    MODELS,
    create,
    family_of,
    list_models,
    model_class,
    model_fields,
    preset_fields,
)
from jaxmodels.families import FAMILIES

__version__ = "0.1.0"

_CLASSES = {family.cls.__name__: family.cls for family in FAMILIES.values()}
globals().update(_CLASSES | MODELS)  # jaxmodels.ResNet, jaxmodels.resnet18

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Classes and presets of the families, which no type checker sees."""


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
    "weights.rules": "foreign.rules",
}
"""Module -> its place today: ``from jaxmodels.gpt2 import GPT2`` goes on working."""

for _name, _place in _FORMER.items():
    _module = importlib.import_module(f"{__name__}.{_place}")
    sys.modules[f"{__name__}.{_name}"] = _module
    if "." not in _name:
        globals().setdefault(_name, _module)  # a preset of that name stays

__all__ = [
    "FAMILIES",
    "MODELS",
    "Module",
    "create",
    "family_of",
    "list_models",
    "model_class",
    "model_fields",
    "preset_fields",
]
__all__ += _CLASSES
