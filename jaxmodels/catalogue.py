"""The models there are, gathered from :data:`jaxmodels.families.FAMILIES`."""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from flax.linen import Module

from jaxmodels.families import FAMILIES, Family
from jaxmodels.foreign.formats import Formats
from jaxmodels.foreign.keys import HubFamily
from jaxmodels.foreign.rules import WeightsError

MODELS: dict[str, Callable[..., Module]] = {
    name: preset for family in FAMILIES.values() for name, preset in family.presets.items()
}
"""Name -> preset: a function of fields that makes the model."""

HUB_FAMILIES: dict[str, HubFamily] = {
    family.hub.model_type: family.hub for family in FAMILIES.values() if family.hub is not None
}
"""Families of transformers by ``model_type``."""
HEADS_WITHOUT_PLACE: dict[str, tuple[str, ...]] = {
    cls: patterns for hub in HUB_FAMILIES.values() for cls, patterns in hub.without_place.items()
}
"""Classes of transformers whose head there is not here, with patterns of its tensors."""
DECODERS: dict[str, str] = {
    cls: words for hub in HUB_FAMILIES.values() for cls, words in hub.decoders.items()
}
"""Classes of transformers of which nothing can be read, and what they are."""

_OF_MODEL = {name: family for family in FAMILIES.values() for name in family.presets}
_OF_CLASS = {family.cls: family for family in FAMILIES.values()}


def list_models() -> list[str]:
    """Names that :func:`create` takes, in alphabetical order."""
    return sorted(MODELS)


def family_of(model: str | Module | type[Module]) -> Family:
    """The family of a model: of its name, of the model itself, or of its class.

    Raises:
      ValueError: an unknown name, with the nearest known one; a class that is not the library's.
    """
    if isinstance(model, str):
        if model not in _OF_MODEL:
            raise ValueError(
                f"model {model!r} is not one of {', '.join(list_models())}{_nearest(model, MODELS)}"
            )
        return _OF_MODEL[model]
    cls = model if isinstance(model, type) else type(model)
    if cls not in _OF_CLASS:
        raise ValueError(f"{cls.__name__} is not a model of jaxmodels")
    return _OF_CLASS[cls]


def model_class(name: str) -> type[Module]:
    """The class of the models that ``create(name, ...)`` makes.

    Raises:
      ValueError: unknown ``name``, with the nearest known one.
    """
    return family_of(name).cls


def model_fields(name: str) -> dict[str, Any]:
    """The fields that ``create(name, ...)`` takes, with their annotated types.

    Raises:
      ValueError: unknown ``name``, with the nearest known one.
    """
    hidden = ("parent", "name", "origin")  # linen's own, and what weights.load notes
    return {f.name: f.type for f in dataclasses.fields(model_class(name)) if f.name not in hidden}


def preset_fields(name: str) -> dict[str, Any]:
    """The fields that a preset sets, with their values: the arguments of its function.

    Raises:
      ValueError: unknown ``name``, with the nearest known one.
    """
    parameters = inspect.signature(family_of(name).presets[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def create(name: str, **fields: Any) -> Module:
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


def formats_of(model: Module) -> Formats:
    """The PyTorch formats of a model. Raises WeightsError if its class has none."""
    family = _OF_CLASS.get(type(model))
    if family is None or family.formats is None:
        raise WeightsError(f"{type(model).__name__} has no map to PyTorch's tensors")
    return family.formats


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
