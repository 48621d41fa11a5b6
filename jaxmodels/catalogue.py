"""The models there are, gathered from :data:`jaxmodels.families.FAMILIES`, and models of one's own.

A model of one's own is named ``"package.module:attribute"``. The attribute is a Linen module class,
a function that is annotated to return one, or a :class:`~jaxmodels.families.Family`:
``"package.module:FAMILY"`` if it has one preset, else ``"package.module:FAMILY.preset"``.
"""

import dataclasses
import difflib
import inspect
import pkgutil
import typing
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
_OWN: dict[type[Module], Family] = {}
"""Class -> family, of models of one's own that were asked for by their names."""


def list_models() -> list[str]:
    """Names that :func:`create` takes, in alphabetical order."""
    return sorted(MODELS)


def family_of(model: str | Module | type[Module]) -> Family:
    """The family of a model: of its name, of the model itself, or of its class.

    Raises:
      ValueError: an unknown name, with the nearest known one; a name of one's own that leads to no
        model; a class that is neither the library's nor one that was named before.
    """
    if isinstance(model, str):
        if ":" in model:
            return _own(model)[0]
        if model not in _OF_MODEL:
            raise ValueError(
                f"model {model!r} is not one of {', '.join(list_models())}{_nearest(model, MODELS)}"
            )
        return _OF_MODEL[model]
    cls = model if isinstance(model, type) else type(model)
    found = _OF_CLASS.get(cls) or _OWN.get(cls)
    if found is None:
        raise ValueError(f"{cls.__name__} is not a model of jaxmodels")
    return found


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
    fields = dataclasses.fields(model_class(name))
    types = {f.name: f.type for f in fields if f.name not in hidden}
    if any(isinstance(hint, str) for hint in types.values()):  # from __future__ import annotations
        types |= {k: v for k, v in typing.get_type_hints(model_class(name)).items() if k in types}
    return types


def preset_fields(name: str) -> dict[str, Any]:
    """The fields that a preset sets, with their values: the arguments of its function.

    Raises:
      ValueError: unknown ``name``, with the nearest known one.
    """
    parameters = inspect.signature(_preset(name)).parameters.values()
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
    return _preset(name)(**fields)


def formats_of(model: Module) -> Formats:
    """The PyTorch formats of a model. Raises WeightsError if its class has none."""
    family = _OF_CLASS.get(type(model)) or _OWN.get(type(model))
    if family is None or family.formats is None:
        raise WeightsError(f"{type(model).__name__} has no map to PyTorch's tensors")
    return family.formats


def _preset(name: str) -> Callable[..., Module]:
    return _own(name)[1] if ":" in name else MODELS[name]


def _own(name: str) -> tuple[Family, Callable[..., Module]]:
    """The family and the preset that a name of one's own leads to."""
    module, _, attribute = name.partition(":")
    first, _, rest = attribute.partition(".")
    try:
        found = pkgutil.resolve_name(f"{module}:{first}")
    except (Exception, SystemExit) as e:  # of code that is not the project's
        hint = "; is its folder in PYTHONPATH?" if isinstance(e, ModuleNotFoundError) else ""
        raise ValueError(
            f"model {name!r} is neither in jaxmodels.list_models() nor package.module:attribute "
            f"({type(e).__name__}: {e}{hint})"
        ) from e
    if isinstance(found, Family):
        presets = found.presets
        if (not rest and len(presets) > 1) or (rest and rest not in presets):
            raise ValueError(
                f"model {name!r} names no preset of this family; it has "
                + ", ".join(f"{module}:{first}.{preset}" for preset in presets)
            )
        family, preset = found, presets[rest] if rest else next(iter(presets.values()))
    elif isinstance(found, type) and issubclass(found, Module) and not rest:
        family, preset = Family(found, {name: found}, inputs=(), outputs=()), found
    else:
        cls = _returned(found) if not rest else None
        if cls is None:
            raise ValueError(
                f"model {name!r} is a {type(found).__name__}; a Linen module class, a function "
                "annotated to return one, or a jaxmodels.families.Family is needed"
            )
        family, preset = Family(cls, {name: found}, inputs=(), outputs=()), found
    # a class that stands in a Family keeps it, whichever of its names is asked for later
    if family.outputs or family.cls not in {**_OF_CLASS, **_OWN}:
        _OWN[family.cls] = family
    return family, preset


def _returned(function: Any) -> type[Module] | None:
    """The Linen module class that a function is annotated to return; None if there is none."""
    if not inspect.isfunction(function):
        return None
    cls = typing.get_type_hints(function).get("return")
    return cls if isinstance(cls, type) and issubclass(cls, Module) else None


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
