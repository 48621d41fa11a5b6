"""A `DataSpec` as JSON, and back.

Two forms are read. The flat form has a fixed list of keys for images, rows or texts. Images with
texts have one of each. A data set that the flat form can express is written so; any other is
written as features by name.
"""

from __future__ import annotations

import dataclasses
import pkgutil
import typing
from collections.abc import Callable
from typing import Any, Literal

from input_pipeline.features.feature import Feature
from input_pipeline.features.image import Image
from input_pipeline.features.labels import ClassLabel, ClassLabels, Number
from input_pipeline.features.row import Row
from input_pipeline.features.spec import DataSpec, make_spec
from input_pipeline.features.text import Text

KINDS: dict[str, Any] = {c.kind: c for c in (Image, Text, Row, ClassLabel, ClassLabels, Number)}
"""Kind -> class of the feature."""

_SET = {"name": str, "version": str, "splits": dict[str, int], "directory": str}

_FLAT = {
    "image": ("name version splits image_shape num_classes label_names directory tasks").split(),
    "row": ("name version splits feature_names label_names mean std directory tasks").split(),
    "text": (
        "name version splits vocab_size max_len tokenizer directory form texts label_names isolate "
        "buckets tasks"
    ).split(),
}
"""Kind -> keys of the flat form, in order."""

_DEFAULTS = {
    "image": {"tasks": {}},
    "row": {"tasks": {}},
    "text": {
        **{"form": "windows", "texts": ("text",), "label_names": (), "isolate": False},
        **{"buckets": (), "tasks": {}},
    },
}

Require = Callable[[str, Any, Any], None]
"""(name, value, type): raises `ValueError` unless the value is of the type."""


def to_json(spec: DataSpec) -> dict[str, Any]:
    """What a file keeps of a data set: JSON's types alone, but for tuples."""
    names = (*spec.kinds, *(name for name in ("label", "tasks") if name in spec.features))
    plain = names == (*spec.features,) and all(
        KINDS.get(f.kind) is type(f) for f in spec.features.values()
    )
    classes = spec.label is not None and spec.label.kind == "class_label"
    if plain and spec.kinds in (("image",), ("row",)) and classes:
        return _flat(spec, spec.kinds[0])
    number = spec.label == Number()
    if plain and spec.kinds == ("text",) and (spec.label is None or classes or number):
        return _flat(spec, "text")
    if plain and spec.kinds == ("image", "text") and classes:
        return {kind: _flat(spec, kind) for kind in spec.kinds}
    features = {
        name: {"kind": _kind(feature), **dataclasses.asdict(feature)}
        for name, feature in spec.features.items()
    }
    return {**{key: getattr(spec, key) for key in _SET}, "features": features}


def from_json(values: Any, require: Require) -> DataSpec:
    """The data set that a file keeps.

    Args:
        values: see `to_json`.
        require: checks each value.

    Raises:
        ValueError, TypeError, AttributeError: something is missing, unknown or of another type.
    """
    if "features" in values:
        return _new(values, require)
    if "image" in values:
        image, text = (_old(values[kind], kind, require) for kind in ("image", "text"))
        inputs = {kind: one.features[kind] for kind, one in (("image", image), ("text", text))}
        return dataclasses.replace(image, features={**inputs, **image.features})
    kinds = {"tokenizer": "text", "feature_names": "row"}
    return _old(values, next((k for key, k in kinds.items() if key in values), "image"), require)


def _flat(spec: DataSpec, kind: str) -> dict[str, Any]:
    found = {
        **{key: getattr(spec, key) for key in (*_SET, "label_names", "num_classes", "tasks")},
        **dataclasses.asdict(spec.kind(kind)),
    }
    if kind == "text":
        found["form"] = _form(found["cut"], spec.label)
    return {key: found[key] for key in _FLAT[kind]}


def _form(cut: str, label: Feature | None) -> str:
    if cut != "texts":
        return cut
    return "numbers" if isinstance(label, Number) else "labels"


def _old(values: Any, kind: str, require: Require) -> DataSpec:
    if unknown := [key for key in values.keys() if key not in _FLAT[kind]]:
        raise TypeError(f"{unknown[0]!r} is unknown")
    found = {**_DEFAULTS[kind], **{key: _tuple(value) for key, value in values.items()}}
    if missing := [key for key in _FLAT[kind] if key not in found]:
        raise TypeError(f"{missing[0]!r} is missing")
    forms = Literal["windows", "sentence_pairs", "labels", "numbers", "translation"]
    hints = {**_SET, "tasks": dict[str, int], "form": forms}
    hints |= {**typing.get_type_hints(KINDS[kind]), **typing.get_type_hints(ClassLabel)}
    for key in _FLAT[kind]:
        require(key, found[key], hints[key])
    if kind == "text":
        found["cut"] = {"labels": "texts", "numbers": "texts"}.get(found["form"], found["form"])
    cls = KINDS[kind]
    own = cls(**{f.name: found[f.name] for f in dataclasses.fields(cls)})
    names = found["label_names"]
    if found.get("form", "labels") == "labels":
        label = ClassLabel(found.get("num_classes", len(names)), names)
    else:
        label = Number() if found["form"] == "numbers" else None
    return make_spec(*(found[key] for key in _SET), {kind: own}, label, found["tasks"])


def _new(values: Any, require: Require) -> DataSpec:
    for key, hint in _SET.items():
        require(key, values[key], hint)
    features = {}
    for name, fields in values["features"].items():
        cls = _class(name, fields["kind"])
        found = {key: _tuple(value) for key, value in fields.items() if key != "kind"}
        features[name] = cls(**found)
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            require(field.name, getattr(features[name], field.name), hints[field.name])
    return DataSpec(*(values[key] for key in _SET), features)


def _kind(feature: Feature) -> str:
    """The kind of a feature; of one's own, where its class is: `package.module:Class`."""
    cls = type(feature)
    own = KINDS.get(feature.kind) is not cls
    return f"{cls.__module__}:{cls.__qualname__}" if own else feature.kind


def _class(name: str, kind: Any) -> Any:
    """The class of the features of a kind."""
    found = KINDS.get(kind)
    if found is None and isinstance(kind, str) and ":" in kind:
        try:
            found = pkgutil.resolve_name(kind)
        except (Exception, SystemExit) as error:  # of code that is not the project's
            raise ValueError(f"{name} is a {kind}, which cannot be imported: {error}") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found) and hasattr(found, "kind")):
        raise ValueError(f"{name} is of the unknown kind {kind!r}")
    return found


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
