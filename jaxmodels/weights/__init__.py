"""Weights of PyTorch models for ours and back: ``from_torch``, ``to_torch``, ``load``, ``save``.

    model, variables = weights.load("google/vit-base-patch16-224")
    logits = model.apply(variables, images, train=False)
    weights.save("exported", model, variables, format="transformers")

Nothing here needs PyTorch. Every tensor is accounted for: one that is missing, left over, of another shape or another
type is an error that names it. The two directions are each other's inverse, bit for bit.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jaxmodels
from jaxmodels.paths import path_name
from jaxmodels.weights.families import Shape, family_of
from jaxmodels.weights.files import local_path, read_tensors, resolve_source, write_tensors
from jaxmodels.weights.hub_config import (
    GenerationConfig,
    fields_from_transformers,
    generation_from_transformers,
    transformers_config,
)
from jaxmodels.weights.rules import Pair, Rule, Source, WeightsError, module_pairs, resolve, to_ours, to_theirs

Variables = dict[str, Any]
DTYPES = ("dtype", "param_dtype")
"""Fields of every model that are types."""


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
      image_shape: (h, w, c) that the model takes; default: what the family's pretrained models take. Text has none.
      format: of the names, see ``formats``; default: the one that fits best.
      skip: patterns of whole path components, with wildcards (``"head"``, ``"stage_[34]_*"``); parameters below a
        match are left out of the result, and whatever there is for them in ``tensors`` is ignored. Patterns with dots
        name tensors that the model has no place for (``"vit.pooler"``). One that matches nothing is an error.
      cast: convert floating-point tensors of another type to the model's ``param_dtype``; without it they are an error.
        Batch counters that no tensor of the file has (as before PyTorch 0.4.1) count as 0.

    Raises:
      WeightsError: tensors that are missing, left over, of another shape or of another type; the first few are named.
    """
    if isinstance(skip, str):
        raise TypeError(f"skip {skip!r} must be several patterns: ({skip!r},)")
    leaves, shape = _leaves(model, image_shape)
    for old, new in family_of(model).renamed.items():
        tensors = {re.sub(old, new, n): value for n, value in tensors.items()}
    name = format or _best_format(model, shape, leaves, tensors)
    rules = _rules(model, name, shape)
    counted = any(n.endswith("num_batches_tracked") for n in tensors)
    result: dict[str, np.ndarray] = {}
    used: set[str] = set()
    known = [*leaves, *(f"{name}/{n.replace('.', '/')}" for n in tensors)]
    faults = [f"skip {p!r} matches nothing" for p in skip if not any(_skipped(path, [p]) for path in known)]
    for path, leaf in leaves.items():
        source = resolve(rules, path, leaf.shape)
        used.update(source.names)
        if _skipped(path, skip):
            continue
        if source.tensor.counter and not counted:
            result[path] = np.zeros(leaf.shape, np.int32)
            continue
        parts = []
        for torch_name in source.names:
            if torch_name not in tensors:
                faults.append(f"{torch_name} is missing")
                continue
            try:
                parts.append(_converted(source, np.asarray(tensors[torch_name]), leaf, torch_name, cast))
            except ValueError as e:
                faults.append(f"{torch_name} {e}")
        if len(parts) == len(source.names):
            result[path] = np.stack(parts) if source.stacked else parts[0]
    dotted = [p for p in skip if "." in p]
    way_out = "; it has a field tie_embeddings" if hasattr(model, "tie_embeddings") else ""
    family, ties = family_of(model), family_of(model).ties(model, name)
    for n in tensors:
        if n in used or _skipped(f"{name}.{n}", dotted) or re.fullmatch(family.constants, n):
            continue
        if n not in ties:
            faults.append(f"{n} is left over")
        elif ties[n] in tensors and not np.array_equal(tensors[n], tensors[ties[n]]):
            faults.append(f"{n} differs from {ties[n]}, to which the model ties it{way_out}")
    if faults:
        faults = list(dict.fromkeys(faults))  # one packed tensor may be wrong for several of ours
        more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise WeightsError(
            f"weights in {name} format do not fit {type(model).__name__}{_with_images(shape)}: "
            f"{'; '.join(faults[:5])}{more}"
        )
    return nested(result)


def to_torch(
    model: nn.Module, variables: Variables, *, image_shape: Shape | None = None, format: str | None = None
) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch state dict from our variables: the inverse of :func:`from_torch`, bit for bit.

    Raises:
      WeightsError: variables that are missing, left over or of another shape.
    """
    leaves, shape = _leaves(model, image_shape)
    rules = _rules(model, format or next(iter(family_of(model).formats)), shape)
    given = {path: np.asarray(value) for path, value in _flat(variables).items()}
    faults = [f"{p} is missing" for p in leaves if p not in given]
    for path, value in given.items():
        if path not in leaves:
            faults.append(f"{path} is left over")
        elif value.shape != leaves[path].shape:
            faults.append(f"{path} has shape {value.shape}, not {leaves[path].shape}")
    if faults:
        raise WeightsError(f"variables do not fit {type(model).__name__}{_with_images(shape)}: {'; '.join(faults[:5])}")
    whole: dict[str, np.ndarray] = {}
    parts: dict[tuple[str, int], dict[int, np.ndarray]] = {}
    for path, value in given.items():
        source = resolve(rules, path, value.shape)
        for torch_name, one in zip(source.names, value if source.stacked else [value], strict=True):
            theirs = to_theirs(source.tensor, one)
            if source.tensor.part:
                parts.setdefault((torch_name, source.tensor.axis), {})[source.tensor.part[0]] = theirs
            else:
                whole[torch_name] = np.asarray(theirs, order="C")  # ascontiguousarray would give scalars an axis
    joined = {n: np.concatenate([found[i] for i in sorted(found)], axis) for (n, axis), found in parts.items()}
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
      source: a file; a directory that :func:`save` or transformers wrote; or the id of a Hugging Face hub repository
        (``"owner/name"``, ``"owner/name@revision"``).
      model: what the weights are for; may be left out if there is a ``config.json``.
      image_shape, format, skip, cast: see :func:`from_torch`.

    Raises:
      WeightsError: not found, damaged, or not fitting the model.
    """
    path = resolve_source(source)
    if path.is_dir() and (path / "config.json").exists():
        try:
            described, described_shape, described_format = _described(path / "config.json")
        except WeightsError:
            if model is None:  # with a model, the file of some other library says nothing
                raise
        else:
            model = model or described
            image_shape = image_shape or described_shape
            format = format or described_format
    if model is None:
        raise WeightsError(f"{source} has no config.json that describes a model; pass model=jaxmodels.create(...)")
    try:
        tensors = read_tensors(path)
        options = {"image_shape": image_shape, "format": format, "skip": skip, "cast": cast}
        return model, from_torch(model, tensors, **options)
    except WeightsError as e:
        raise WeightsError(str(e) if str(source) in str(e) else f"{source}: {e}") from e


def generation_config(source: str | Path) -> GenerationConfig:
    """What a directory of transformers, or a hub repository, says of how its model writes.

    Raises:
      WeightsError: not found, damaged, or asking for what there is not.
    """
    directory, said = resolve_source(source), {}
    for name in ("config.json", "generation_config.json"):  # the second goes over the first
        path = directory / name
        try:
            said |= json.loads(path.read_text()) if path.is_file() else {}
        except (OSError, ValueError, TypeError) as e:
            raise WeightsError(f"{path} is not an object of JSON ({' '.join(str(e).split())})") from e
    return generation_from_transformers(said)


def save(
    directory: str | Path,
    model: nn.Module,
    variables: Variables,
    *,
    image_shape: Shape | None = None,
    format: str | None = None,
) -> None:
    """Writes ``model.safetensors`` and ``config.json``.

    :func:`load` reads them with nothing else. In format ``torchvision``, ``load_state_dict`` of the torchvision model
    takes ``safetensors.torch.load_file(...)``; in format ``transformers`` the directory is one for ``from_pretrained``.
    """
    format = format or next(iter(family_of(model).formats))
    shape = _leaves(model, image_shape)[1]
    tensors = to_torch(model, variables, image_shape=shape, format=format)
    config = transformers_config(model, shape) if format.startswith("transformers") else {}
    name, fields = _preset(model)
    dtypes = {k: jnp.dtype(getattr(model, k)).name for k in DTYPES if jnp.dtype(getattr(model, k)) != jnp.float32}
    config["jaxmodels"] = {"model": name, "fields": fields, "image_shape": list(shape), "format": format} | dtypes
    directory = local_path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(directory / "model.safetensors", tensors)
    (directory / "model.safetensors.index.json").unlink(missing_ok=True)  # of files that stood here before
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def formats(model: nn.Module) -> tuple[str, ...]:
    """Names of the PyTorch formats that there are for a model, the preferred one first."""
    return tuple(family_of(model).formats)


def torch_modules(model: nn.Module, *, image_shape: Shape | None = None, format: str | None = None) -> dict[str, Pair]:
    """PyTorch module path -> our module, where they compute the same from the same weights."""
    leaves, shape = _leaves(model, image_shape)
    return module_pairs(_rules(model, format or formats(model)[0], shape), leaves)


def torch_names(
    model: nn.Module, *, image_shape: Shape | None = None, format: str | None = None
) -> dict[str, tuple[str, ...]]:
    """Our leaf path -> the names of the PyTorch tensors it is made of."""
    leaves, shape = _leaves(model, image_shape)
    rules = _rules(model, format or formats(model)[0], shape)
    return {path: resolve(rules, path, leaf.shape).names for path, leaf in leaves.items()}


def shapes(model: nn.Module, *, image_shape: Shape | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and type of every variable by its path (``params/head/kernel``)."""
    return _leaves(model, image_shape)[0]


def _converted(source: Source, value: np.ndarray, leaf: Any, name: str, cast: bool) -> np.ndarray:
    """One tensor in our layout and type; ValueError says what is wrong with it, to follow its name."""
    ours = to_ours(source.tensor, value)
    expected = leaf.shape[1:] if source.stacked else leaf.shape
    if ours.shape != expected:
        theirs = to_theirs(source.tensor, np.broadcast_to(np.zeros((), np.int8), expected)).shape
        if source.tensor.part:
            theirs = tuple(n * source.tensor.part[1] if i == source.tensor.axis else n for i, n in enumerate(theirs))
        raise ValueError(f"has shape {value.shape}, the model has {theirs}")
    if ours.dtype != leaf.dtype:
        floating = jnp.issubdtype(ours.dtype, jnp.floating) and jnp.issubdtype(leaf.dtype, jnp.floating)
        if not (cast and floating):
            way_out = f"; pass cast=True to convert it to {leaf.dtype}" if floating else ""
            raise ValueError(f"is {ours.dtype}, the model has {leaf.dtype}{way_out}")
        ours = ours.astype(leaf.dtype)
    return ours


def _with_images(shape: Shape) -> str:
    return f" with images {shape}" if shape else ""


def _leaves(model: nn.Module, image_shape: Shape | None) -> tuple[dict[str, jax.ShapeDtypeStruct], Shape]:
    """Shapes and types of all variables by path, and the image shape they are for."""
    shape = image_shape or getattr(model, "image_shape", None) or family_of(model).image_shape
    if shape is None:
        raise WeightsError(f"{type(model).__name__} needs image_shape=(height, width, channels)")
    return _flat(_abstract(model, tuple(shape))), tuple(shape)


@cache
def _abstract(model: nn.Module, shape: Shape) -> Variables:
    """The variables as ShapeDtypeStructs; tracing a deep model takes longer than converting its weights."""
    wide = jnp.dtype(getattr(model, "param_dtype", jnp.float32)) == jnp.float64
    with jax.enable_x64(wide):
        inputs = family_of(model).inputs(model, shape)
        return jax.eval_shape(partial(model.init, train=False), jax.random.key(0), *inputs)


def _rules(model: nn.Module, format: str, shape: Shape) -> tuple[Rule, ...]:
    known = family_of(model).formats
    if format not in known:
        raise WeightsError(f"{type(model).__name__} has no format {format!r}; there are {', '.join(known)}")
    return known[format](model, shape)


def _best_format(model: nn.Module, shape: Shape, leaves: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    """The format most of whose names are there."""

    def hits(format: str) -> int:
        rules = _rules(model, format, shape)
        try:
            return sum(n in tensors for path, leaf in leaves.items() for n in resolve(rules, path, leaf.shape).names)
        except WeightsError:
            return -1

    return max(family_of(model).formats, key=hits)


def _skipped(path: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern matches the first components of a path behind its collection (or format)."""
    components = path.replace(".", "/").split("/")[1:]
    wanted = [pattern.replace(".", "/").split("/") for pattern in patterns]
    return any(len(w) <= len(components) and all(map(fnmatchcase, components, w)) for w in wanted)


def _described(path: Path) -> tuple[nn.Module, Shape, str | None]:
    """Model, image shape and format that a ``config.json`` describes."""
    try:
        config = json.loads(path.read_text())
        ours = config.get("jaxmodels")
        if ours is not None:
            fields = {k: tuple(v) if isinstance(v, list) else v for k, v in ours["fields"].items()}
            fields |= {k: jnp.dtype(ours[k]) for k in DTYPES if k in ours}
            return jaxmodels.create(ours["model"], **fields), tuple(ours["image_shape"]), ours["format"]
        cls, fields, shape, format = fields_from_transformers(config)
        return cls(**fields), shape, format
    except WeightsError as e:
        raise WeightsError(f"{path}: {e}") from e
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise WeightsError(f"{path} does not describe a model ({type(e).__name__}: {' '.join(str(e).split())})") from e


def _preset(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """The preset that agrees with a model in the most fields, and the fields in which they differ (without dtypes)."""
    defaults = {f.name: f.default for f in dataclasses.fields(type(model))}
    given = {k: getattr(model, k) for k in defaults if k not in (*DTYPES, "parent", "name")}
    best: tuple[str, dict[str, Any]] | None = None
    for name, preset in jaxmodels.MODELS.items():
        if preset.func is type(model):
            different = {k: v for k, v in given.items() if (defaults | preset.keywords)[k] != v}
            if best is None or len(different) < len(best[1]):
                best = (name, different)
    if best is None:
        raise WeightsError(f"{type(model).__name__} is not a model of jaxmodels")
    return best


def _flat(tree: Variables) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def nested(flat: Mapping[str, Any]) -> Variables:
    """Variables as nested dicts from leaves by path."""
    tree: Variables = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


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
