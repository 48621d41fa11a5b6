"""The ``config.json`` of a directory of weights: read, compared with a given model, and written.

``config.json`` is transformers', with a section ``jaxmodels`` in those that are written here.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from jaxmodels.catalogue import (
    HEADS_WITHOUT_PLACE,
    HUB_FAMILIES,
    create,
    family_of,
    formats_of,
    model_class,
    preset_fields,
)
from jaxmodels.foreign.json_files import read_json_object, short
from jaxmodels.foreign.keys import (
    MAX_LAYERS,
    HubFamily,
    Shape,
    account,
    first_architecture,
)
from jaxmodels.foreign.rules import WeightsError
from jaxmodels.origin import Origin
from jaxmodels.weights.hub_config import (
    family_of_config,
    fields_from_transformers,
    hub_family,
)

DTYPES = ("dtype", "param_dtype")
"""Fields of every model that are types."""
NOT_SAVED = (*DTYPES, "parent", "name", "origin")
LABELS = ("id2label", "label2id")
MAX_SIZE, MAX_IMAGE = 2**25, 2**26
"""Limits of one whole number, and of all numbers of an image, in a section ``jaxmodels``."""


class Said(NamedTuple):
    """A directory's description of its model.

    Attributes:
      model: as it is described, or the one given; image_shape: empty if it says none; format: None
        if it says none.
      ours: it was written here; cls: the class of transformers that wrote it, if it says one.
    """

    model: nn.Module
    image_shape: Shape = ()
    format: str | None = None
    ours: bool = False
    cls: str | None = None


def read_config(directory: Path) -> dict[str, Any]:
    """The object of ``config.json``, without the section ``jaxmodels`` if transformers wrote the
    file since.

    Raises:
      WeightsError: see ``read_json_object``.
    """
    config = read_json_object(directory / "config.json")
    if "transformers_version" in config:  # which no export from here has
        config.pop("jaxmodels", None)
    return config


def described(directory: Path) -> Said:
    """The model that the ``config.json`` of a directory describes.

    Raises:
      WeightsError: it describes none, or one that we do not have; in one line that names the file.
    """
    path = directory / "config.json"
    config = read_config(directory)
    try:
        if "jaxmodels" in config:
            said = _of_section(config["jaxmodels"])
            _require_agreement(config, said)
        else:
            cls, fields, shape, format = fields_from_transformers(config)
            said = Said(cls(**fields), shape, format)
    except WeightsError as e:
        raise WeightsError(f"{path}: {e}") from e
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        raise WeightsError(
            f"{path} does not describe a model ({type(e).__name__}: {short(e, 200)})"
        ) from e
    model = _with_origin(said.model, directory, config, said.image_shape)
    return said._replace(model=model, ours="jaxmodels" in config, cls=first_architecture(config))


def checked(directory: Path, model: nn.Module, skip: Sequence[str]) -> Said:
    """The given model, where the ``config.json`` of a directory does not contradict it.

    It says nothing without ``jaxmodels`` and ``model_type`` (another library wrote it), and with a
    ``model_type`` to a class that transformers has not.

    Args:
      skip: what is not taken of the weights, see ``from_torch``; the head need not agree then.

    Raises:
      WeightsError: another class of model, or a field that no shape shows has another value; the
        message names both.
    """
    path = directory / "config.json"
    config = read_config(directory)
    family = hub_family(model)
    try:
        if "jaxmodels" in config:
            said = _of_section(config["jaxmodels"])
            _require_agreement(config, said)
            if type(said.model) is not type(model):
                raise WeightsError(_contradiction(type(said.model).__name__, type(model).__name__))
            silent, silent_head = (
                (family.silent, family.silent_head) if family else (_silent(model), ())
            )
            names = (*silent, *silent_head)
            fields, shape, format = (
                {name: getattr(said.model, name) for name in names},
                said.image_shape,
                said.format,
            )
        elif family is None or config.get("model_type") is None:
            return Said(model)
        else:
            theirs = family_of_config(config)
            if theirs is not family:
                raise WeightsError(
                    _contradiction(f"model type {config['model_type']!r}", type(model).__name__)
                )
            values = account(config, family)
            silent, silent_head = family.silent, family.silent_head
            fields, shape, format = family.fields(values), family.shape(values), family.format
        if not any(fnmatchcase("head", pattern.split("/")[0]) for pattern in skip):
            silent += silent_head
        _require_same(fields, model, silent)
    except WeightsError as e:
        way_out = "; or name the .safetensors file itself, to which no config.json speaks"
        raise WeightsError(f"{path}: {e}{way_out}") from e
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        raise WeightsError(
            f"{path} does not describe a model ({type(e).__name__}: {short(e, 200)})"
        ) from e
    return Said(_with_origin(model, directory, config, shape), shape, format, "jaxmodels" in config)


def config_for(model: nn.Module, shape: Shape, format: str) -> dict[str, Any]:
    """The ``config.json`` of an export: what the fields say, over what was read, and the section
    ``jaxmodels``."""
    family, said = hub_family(model), _read_before(model)
    config: dict[str, Any] = {}
    if format.startswith("transformers") and family is not None:
        written = family.write(model, shape)
        guesses = {} if said is not None and model.origin.tokens else family.guesses(model)
        config = guesses | (written if said is None else _merged(written, said, model, family))
    name, fields = _preset(model)
    dtypes = {
        k: jnp.dtype(getattr(model, k)).name
        for k in DTYPES
        if jnp.dtype(getattr(model, k)) != jnp.float32
    }
    section = {
        "model": name,
        "fields": fields,
        "image_shape": list(shape),
        "format": format,
    } | dtypes
    if config and said is not None and model.origin.tokens:
        section["tokens"] = "read"  # and not guessed, so that they can be believed
    return config | {"jaxmodels": section}


def tokens_are_guessed(config: Mapping[str, Any]) -> bool:
    """True if numbers of tokens in a ``config.json`` are guesses of an export: nothing was read
    before it."""
    section = config.get("jaxmodels")
    return section is not None and not (
        isinstance(section, dict) and section.get("tokens") == "read"
    )


def generation_text(model: nn.Module, format: str) -> str | None:
    """The ``generation_config.json`` of an export, None for none."""
    return (
        model.origin.generation
        if format.startswith("transformers") and _read_before(model) is not None
        else None
    )


def image_shape_of(model: nn.Module, variables: Mapping[str, Any]) -> Shape | None:
    """(h, w, c) of the images that variables are for, None where they do not say.

    Raises:
      WeightsError: not so many patches make a square, and nobody said how they lie.
    """
    return formats_of(model).image_shape_of(model, variables.get("params", {}))


def require_plausible(model: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Raises WeightsError for more layers than there are tensors, before a model of so many is
    traced."""
    layers = getattr(model, "num_layers", 0)
    if layers > len(tensors):
        raise WeightsError(
            f"the model has num_layers {layers:,}, and there are {len(tensors):,} tensors"
        )


def _require_same(fields: Mapping[str, Any], model: nn.Module, names: Sequence[str]) -> None:
    different = [name for name in names if name in fields and fields[name] != getattr(model, name)]
    if different:
        theirs, ours = (
            ", ".join(f"{name} {short(of(name))}" for name in different[:3])
            for of in (fields.__getitem__, lambda name: getattr(model, name))
        )
        raise WeightsError(f"{_contradiction(theirs, ours)}: give the model the file's values")


def _silent(model: nn.Module) -> tuple[str, ...]:
    try:
        return formats_of(model).silent
    except WeightsError:  # a model without a map, which is an error where its tensors are read
        return ()


def _contradiction(theirs: str, ours: str) -> str:
    return f"config.json says {theirs}, and the model given is {ours}"


def _require_agreement(config: Mapping[str, Any], said: Said) -> None:
    """Raises WeightsError where transformers' keys beside a section ``jaxmodels`` say something
    else."""
    family = (
        HUB_FAMILIES.get(config["model_type"])
        if isinstance(config.get("model_type"), str)
        else None
    )
    if family is None or family.cls is not type(said.model):
        return
    fields = family.fields(account(config, family))
    names = (*family.silent, *family.silent_head)
    different = [
        name for name in names if name in fields and fields[name] != getattr(said.model, name)
    ]
    for name in different:
        raise WeightsError(
            f"config.json contradicts itself: by its keys {name} is {short(fields[name])}, by its "
            f"section jaxmodels {short(getattr(said.model, name))}; take the section out, or "
            "change both"
        )


def _of_section(section: Any) -> Said:
    """The model of a section ``jaxmodels``, of sizes that can be."""
    if not isinstance(section, dict) or not isinstance(section.get("fields"), dict):
        raise WeightsError(
            "config.json has a section jaxmodels that does not describe a model; export it again"
        )
    shape = _value("image_shape", section["image_shape"])
    if (
        not isinstance(shape, tuple)
        or any(type(n) is not int or n < 1 for n in shape)
        or math.prod(shape) > MAX_IMAGE
    ):
        raise WeightsError(
            f"config.json has image_shape {short(section['image_shape'])}, which no images have"
        )
    fields = {name: _value(name, value) for name, value in section["fields"].items()}
    types = {f.name: f.type for f in dataclasses.fields(model_class(section["model"]))}
    for name, value in fields.items():
        wanted = types.get(name)
        if wanted in (int, float, str, bool) and type(value) not in (
            (int, float) if wanted is float else (wanted,)
        ):
            raise WeightsError(
                f"config.json has {name} {short(value)}; it must be of type {wanted.__name__}"
            )
    fields |= {k: jnp.dtype(section[k]) for k in DTYPES if k in section}
    model = create(section["model"], **fields)
    layers = getattr(model, "num_layers", 0) + sum(getattr(model, "stage_sizes", ()))
    if layers > MAX_LAYERS:
        raise WeightsError(f"config.json has a model of {layers:,} layers; at most {MAX_LAYERS:,}")
    table = getattr(model, "max_len", 0) * getattr(model, "hidden_size", 0)
    if table > 2 * MAX_SIZE:
        raise WeightsError(
            f"config.json has max_len {model.max_len:,} and hidden_size {model.hidden_size:,}: too "
            "large"
        )
    return Said(model, shape, section["format"])


def _value(name: str, value: Any) -> Any:
    """A value of a field, lists as tuples, no number too large."""
    if isinstance(value, list):
        if len(value) > MAX_LAYERS:
            raise WeightsError(
                f"config.json has {len(value):,} numbers in {name}; at most {MAX_LAYERS:,}"
            )
        return tuple(_value(name, one) for one in value)
    if isinstance(value, int | float) and not abs(value) <= MAX_SIZE:  # NaN is not either
        raise WeightsError(f"config.json has {name} {short(value)}; at most {MAX_SIZE:,}")
    return value


def _with_origin(
    model: nn.Module, directory: Path, config: Mapping[str, Any], shape: Shape
) -> nn.Module:
    """The model with what was read, where its class keeps it; tokens that an export guessed are
    none of it."""
    family, section = hub_family(model), config.get("jaxmodels")
    if family is None:
        return model
    tokens = section is None or section.get("tokens") == "read"
    left_out = {"jaxmodels"} if tokens else {"jaxmodels", *family.guesses(model)}
    path, kept = (
        directory / "generation_config.json",
        {k: v for k, v in config.items() if k not in left_out},
    )
    generation = json.dumps(read_json_object(path), indent=2) if path.exists() else None
    return model.clone(origin=Origin(json.dumps(kept), generation, shape, tokens))


def _read_before(model: nn.Module) -> dict[str, Any] | None:
    """The config.json of transformers that a model was read from."""
    origin: Origin | None = getattr(model, "origin", None)
    found = {} if origin is None else json.loads(origin.config)
    return found if found.get("model_type") else None


def _merged(
    written: Mapping[str, Any], said: Mapping[str, Any], model: nn.Module, family: HubFamily
) -> dict[str, Any]:
    """Puts the model's fields over what was read; values that mean the same stay as they were."""
    values = account(said, family)
    kept = {
        key: value
        for key, value in said.items()
        if key not in {*family.aliases, "transformers_version"}
    }
    for key, value in written.items():
        setting = family.applied.get(key)
        if key in LABELS or key == "architectures":
            continue
        if key not in kept or setting is None or setting.read(value) != values[key]:
            kept[key] = value
    try:
        same = family.head(said, values)
    except WeightsError:
        same = None  # of another class, read in part
    classless = (same or {}).get("num_classes") == 0
    if (
        classless != (getattr(model, "num_classes", None) == 0)
        or first_architecture(said) in HEADS_WITHOUT_PLACE
    ):
        same = None  # a classifier without its classes, or a class that was read in part
    if (
        same is None
        or first_architecture(said) in HEADS_WITHOUT_PLACE
        or any(
            getattr(model, name) != value for name, value in same.items() if name != "num_classes"
        )
    ):
        kept["architectures"] = written["architectures"]
    kept.setdefault("architectures", written["architectures"])
    names = kept.get("id2label")
    if "id2label" in written and (same is None or names is None or len(names) != model.num_classes):
        kept |= {key: written[key] for key in LABELS}
        kept.pop("problem_type", None)
    if "id2label" in kept:
        kept.pop("num_labels", None)
    width = jnp.dtype(model.param_dtype).name
    return kept | {key: width for key in DTYPE_KEYS if key in kept}


DTYPE_KEYS = ("dtype", "torch_dtype")
"""transformers' names of the type of the stored tensors, of today and of before."""


def _preset(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """The preset that agrees with a model in the most fields, and the fields in which they differ
    (without dtypes)."""
    defaults = {f.name: f.default for f in dataclasses.fields(type(model))}
    given = {k: getattr(model, k) for k in defaults if k not in NOT_SAVED}
    presets = {name: defaults | preset_fields(name) for name in family_of(model).presets}
    different = {
        name: {k: v for k, v in given.items() if preset[k] != v} for name, preset in presets.items()
    }
    return min(different.items(), key=lambda found: len(found[1]))
