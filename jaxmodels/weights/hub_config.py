"""``config.json`` of transformers: what it says of a model, and what we write for it to read."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from jaxmodels.catalogue import DECODERS, HUB_FAMILIES
from jaxmodels.foreign.json_files import short
from jaxmodels.foreign.keys import HubFamily, Shape, account, first_architecture
from jaxmodels.foreign.rules import WeightsError

Described = tuple[type[nn.Module], dict[str, Any], Shape, str | None]
"""Our class, its fields, the image shape (empty for text) and the format, None where files have one
of several."""


def hub_family(model: nn.Module) -> HubFamily | None:
    """The family of transformers that describes a model, None if it has no such class."""
    return next((family for family in HUB_FAMILIES.values() if family.cls is type(model)), None)


def family_of_config(config: Mapping[str, Any]) -> HubFamily:
    """The family that a ``config.json`` is of.

    Raises:
      WeightsError: a model type, or a class, that we do not have.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in HUB_FAMILIES:
        raise WeightsError(
            f"config.json is of model type {short(kind)}; there is a map for "
            f"{', '.join(HUB_FAMILIES)}"
        )
    name = first_architecture(config)
    if name in DECODERS:
        raise WeightsError(
            f"config.json is of {name}, {DECODERS[name]}, and there is no such model here"
        )
    return HUB_FAMILIES[kind]


def fields_from_transformers(config: Mapping[str, Any]) -> Described:
    """The model that a ``config.json`` of transformers describes.

    Raises:
      WeightsError: a model type, or a setting, that we do not have.
    """
    family = family_of_config(config)
    values = account(config, family)
    fields = family.fields(values) | family.head(config, values)
    return family.cls, fields, family.shape(values), family.format


def transformers_config(model: nn.Module, shape: Shape) -> dict[str, Any]:
    """``config.json`` with which transformers loads what is exported in its format, by the model's
    fields alone."""
    family = hub_family(model)
    if family is None:
        raise WeightsError(f"transformers has no class for {type(model).__name__}")
    return family.config(model, shape)


__all__ = [
    "HUB_FAMILIES",
    "family_of_config",
    "fields_from_transformers",
    "hub_family",
    "transformers_config",
]
