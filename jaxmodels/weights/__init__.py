"""Weights of PyTorch models for ours and back: ``from_torch``, ``to_torch``, ``load``, ``save``.

    model, variables = weights.load("google/vit-base-patch16-224")
    logits = model.apply(variables, images, train=False)
    weights.save("exported", model, variables, format="transformers")

Nothing here needs PyTorch. Every tensor is accounted for: one that is missing, left over, of
another shape or another type is an error that names it. The two directions are each other's
inverse, bit for bit.
"""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from jaxmodels.catalogue import formats_of
from jaxmodels.decode.hub import settings_of_files
from jaxmodels.decode.settings import GenerationConfig
from jaxmodels.foreign.formats import Shape
from jaxmodels.foreign.json_files import read_json_object, short
from jaxmodels.foreign.rules import Pair, WeightsError, module_pairs, resolve, to_theirs
from jaxmodels.nn.paths import path_name
from jaxmodels.weights.directory import (
    checked,
    config_for,
    described,
    generation_text,
    image_shape_of,
    read_config,
    require_plausible,
    tokens_are_guessed,
)
from jaxmodels.weights.files import (
    local_path,
    read_header,
    read_tensors,
    resolve_source,
    write_tensors,
)
from jaxmodels.weights.fitting import cut, fit, rules_of, say, values, with_images
from jaxmodels.weights.parts import parts_of, require_whole

Variables = dict[str, Any]


def from_torch(
    model: nn.Module,
    tensors: Mapping[str, np.ndarray],
    *,
    image_shape: Shape | None = None,
    format: str | None = None,
    skip: Sequence[str] = (),
    cast: bool = False,
) -> Variables:
    """Our variables, as NumPy arrays, from the tensors of a PyTorch state dict.

    Args:
      image_shape: (h, w, c) that the model takes; default: what the family's pretrained models
        take. Text has none.
      format: of the names, see ``formats``; default: the one that fits best.
      skip: patterns of whole path components, with wildcards (``"head"``, ``"stage_[34]_*"``);
        parameters below a match are left out of the result, and whatever there is for them in
        ``tensors`` is ignored. Patterns with dots name tensors that the model has no place for
        (``"vit.pooler"``). One that matches nothing is an error.
      cast: convert floating-point tensors of another type to the model's ``param_dtype``; without
        it they are an error. Batch counters that no tensor of the file has (as before PyTorch
        0.4.1) count as 0.

    Raises:
      WeightsError: tensors that are missing, left over, of another shape or of another type; the
        first few are named.
    """
    if isinstance(skip, str):
        raise TypeError(f"skip {skip!r} must be several patterns: ({skip!r},)")
    leaves, shape = _leaves(model, image_shape)
    found = fit(model, shape, leaves, tensors, format=format, skip=skip, cast=cast)
    say(found)
    return nested(values(found, tensors))


def to_torch(
    model: nn.Module,
    variables: Variables,
    *,
    image_shape: Shape | None = None,
    format: str | None = None,
) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch state dict from our variables: the inverse of :func:`from_torch`,
    bit for bit.

    Raises:
      WeightsError: variables that are missing, left over or of another shape.
    """
    leaves, shape = _leaves(model, image_shape)
    rules = rules_of(model, format or next(iter(formats_of(model).formats)), shape)
    given = {path: np.asarray(value) for path, value in _flat(variables).items()}
    faults = [f"{p} is missing" for p in leaves if p not in given]
    for path, value in given.items():
        if path not in leaves:
            faults.append(f"{path} is left over")
        elif value.shape != leaves[path].shape:
            faults.append(f"{path} has shape {value.shape}, not {leaves[path].shape}")
    if faults:
        raise WeightsError(
            f"variables do not fit {type(model).__name__}{with_images(shape)}: "
            f"{'; '.join(faults[:5])}"
        )
    whole: dict[str, np.ndarray] = {}
    parts: dict[tuple[str, int], dict[int, np.ndarray]] = {}
    for path, value in given.items():
        source = resolve(rules, path, value.shape)
        for torch_name, one in zip(source.names, value if source.stacked else [value], strict=True):
            theirs = to_theirs(source.tensor, one)
            if source.tensor.part:
                parts.setdefault((torch_name, source.tensor.axis), {})[source.tensor.part[0]] = (
                    theirs
                )
            else:
                # ascontiguousarray would give scalars an axis
                whole[torch_name] = np.asarray(theirs, order="C")
    joined = {
        n: np.concatenate([found[i] for i in sorted(found)], axis)
        for (n, axis), found in parts.items()
    }
    return whole | joined


def load(
    source: str | Path,
    model: nn.Module | None = None,
    *,
    image_shape: Shape | None = None,
    format: str | None = None,
    skip: Sequence[str] = (),
    cast: bool = False,
) -> tuple[nn.Module, Variables]:
    """A model and its variables (NumPy arrays) from safetensors.

    Args:
      source: a file; a directory that :func:`save` or transformers wrote; or the id of a Hugging
        Face hub repository (``"owner/name"``, ``"owner/name@revision"``).
      model: what the weights are for; may be left out if there is a ``config.json``.
      image_shape, format, skip, cast: see :func:`from_torch`. With ``model``, what ``skip`` leaves
        out is not among the variables, and is to be filled in from ``model.init``; without it, the
        model is one that does without.

    Raises:
      WeightsError: not found, damaged, or not fitting the model.
    """
    if isinstance(skip, str):
        raise TypeError(f"skip {skip!r} must be several patterns: ({skip!r},)")
    path, given, said = resolve_source(source), model, None
    try:
        if path.is_dir() and (path / "config.json").exists():
            said = described(path) if model is None else checked(path, model, skip)
            model, image_shape, format = (
                said.model,
                image_shape or said.image_shape or None,
                format or said.format,
            )
        if model is None:
            raise WeightsError(
                "it has no config.json that describes a model; pass model=jaxmodels.create(...)"
            )
        stated, unused, without = read_header(path), (), ()
        if given is None and said is not None:
            model, unused, without = parts_of(
                model, stated, skip, foreign=not said.ours, cls=said.cls
            )
            _require_possible(model, image_shape, stated)
        leaves, shape = _leaves(model, image_shape)
        options = {"format": format, "skip": (*skip, *unused), "cast": cast, "skippable": without}
        found = fit(model, shape, leaves, stated, **options)
        if given is None:
            require_whole(model, leaves, skip)
        say(found, str(source), () if skip else unused)
        tensors = read_tensors(path, signed=said is not None and said.ours)
        return model, nested(values(found, tensors))
    except WeightsError as e:
        raise WeightsError(cut(str(e) if str(source) in str(e) else f"{source}: {e}", 500)) from e


def generation_config(source: str | Path) -> GenerationConfig:
    """What a directory of transformers, or a hub repository, says of how its model writes.

    Raises:
      WeightsError: not found, damaged, or with settings that are refused; see
        :mod:`jaxmodels.decode.hub`.
    """
    directory = resolve_source(source)
    if not directory.is_dir():
        raise WeightsError(f"{directory} is a file; settings lie in the directory around it")
    path = directory / "generation_config.json"
    generation = read_json_object(path) if path.exists() else None
    config = read_config(directory) if (directory / "config.json").exists() else None
    if config is not None and tokens_are_guessed(config):
        config = {"vocab_size": config.get("vocab_size")}
    try:
        return settings_of_files(config, generation)
    except ValueError as e:
        raise WeightsError(f"{directory}/{e}") from e


def save(
    directory: str | Path,
    model: nn.Module,
    variables: Variables,
    *,
    image_shape: Shape | None = None,
    format: str | None = None,
) -> None:
    """Writes ``model.safetensors`` and ``config.json``.

    In format ``transformers``, a model that :func:`load` read from a directory of transformers
    keeps what that said beyond its fields: labels, numbers of tokens, ``generation_config.json``.
    Its fields go over it.

    :func:`load` reads them with nothing else. In format ``torchvision``, ``load_state_dict`` of the
    torchvision model takes ``safetensors.torch.load_file(...)``; in format ``transformers`` the
    directory is one for ``from_pretrained``.
    """
    format = format or next(iter(formats_of(model).formats))
    shape = _leaves(model, image_shape or image_shape_of(model, variables))[1]
    tensors = to_torch(model, variables, image_shape=shape, format=format)
    config = config_for(model, shape, format)
    directory = local_path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(directory / "model.safetensors", tensors)
    # of files that stood here before
    (directory / "model.safetensors.index.json").unlink(missing_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = generation_text(model, format)
    if generation is not None:
        (directory / "generation_config.json").write_text(generation + "\n")


def formats(model: nn.Module) -> tuple[str, ...]:
    """Names of the PyTorch formats that there are for a model, the preferred one first."""
    return tuple(formats_of(model).formats)


def torch_modules(
    model: nn.Module, *, image_shape: Shape | None = None, format: str | None = None
) -> dict[str, Pair]:
    """PyTorch module path -> our module, where they compute the same from the same weights."""
    leaves, shape = _leaves(model, image_shape)
    return module_pairs(rules_of(model, format or formats(model)[0], shape), leaves)


def torch_names(
    model: nn.Module, *, image_shape: Shape | None = None, format: str | None = None
) -> dict[str, tuple[str, ...]]:
    """Our leaf path -> the names of the PyTorch tensors it is made of."""
    leaves, shape = _leaves(model, image_shape)
    rules = rules_of(model, format or formats(model)[0], shape)
    return {path: resolve(rules, path, leaf.shape).names for path, leaf in leaves.items()}


def shapes(
    model: nn.Module, *, image_shape: Shape | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and type of every variable by its path (``params/head/kernel``)."""
    return _leaves(model, image_shape)[0]


def _require_possible(
    model: nn.Module, image_shape: Shape | None, tensors: Mapping[str, Any]
) -> None:
    """Raises WeightsError unless a model that a file describes can be, and has about the size of
    its tensors."""
    require_plausible(model, tensors)
    try:
        leaves = _leaves(model, image_shape)[0]
    except (ValueError, TypeError, ZeroDivisionError, OverflowError, MemoryError) as e:
        raise WeightsError(
            f"config.json does not describe a model ({type(e).__name__}: {short(e, 200)})"
        ) from e
    wanted, there = (sum(math.prod(x.shape) for x in of.values()) for of in (leaves, tensors))
    if wanted > 4 * there + 2**24:
        raise WeightsError(
            f"config.json describes a model of {wanted:,} numbers, and the files have {there:,}"
        )


def _leaves(
    model: nn.Module, image_shape: Shape | None
) -> tuple[dict[str, jax.ShapeDtypeStruct], Shape]:
    """Shapes and types of all variables by path, and the image shape they are for."""
    origin = getattr(model, "origin", None)
    read = origin.image_shape if origin else ()
    shape = (
        image_shape or getattr(model, "image_shape", None) or read or formats_of(model).image_shape
    )
    if shape is None:
        raise WeightsError(f"{type(model).__name__} needs image_shape=(height, width, channels)")
    return _flat(_abstract(model, tuple(shape))), tuple(shape)


@cache
def _abstract(model: nn.Module, shape: Shape) -> Variables:
    """The variables as ShapeDtypeStructs; tracing a deep model takes longer than converting its
    weights."""
    wide = jnp.dtype(getattr(model, "param_dtype", jnp.float32)) == jnp.float64
    with jax.enable_x64(wide):
        inputs = jax.eval_shape(partial(formats_of(model).inputs, model, shape))
        return jax.eval_shape(partial(model.init, train=False), jax.random.key(0), *inputs)


def _flat(tree: Variables) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def nested(flat: Mapping[str, Any]) -> Variables:
    """Variables as nested dicts from leaves by path."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


__all__ = [
    "GenerationConfig",
    "WeightsError",
    "formats",
    "from_torch",
    "generation_config",
    "load",
    "nested",
    "read_tensors",
    "resolve_source",
    "save",
    "shapes",
    "to_torch",
    "torch_modules",
    "torch_names",
    "write_tensors",
]
