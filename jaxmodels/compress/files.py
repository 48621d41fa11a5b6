"""Compressed variables as safetensors, bit for bit there and back, verified by the digest that
every file here carries.

Arrays are stored under their paths. One with so many zeros that it pays is stored as ``PATH:mask``,
a bit for each number (1: it is stored), ``PATH:values``, those whose bits are not all 0, in order,
and ``PATH:shape``.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.compress.prune import PyTree
from jaxmodels.foreign.rules import WeightsError
from jaxmodels.nn.paths import path_name
from jaxmodels.weights.files import Stated, read_header, read_tensors, write_tensors

PARTS = (":mask", ":values", ":shape")
MAX_AXES = 32


def save(path: str | Path, variables: PyTree) -> int:
    """Writes what ``model.apply`` takes, quantised or pruned or neither, to one file; returns its
    size in bytes.

    Raises:
      OSError: the disk is full or the directory not writable.
    """
    tensors = {}
    for key, x in jax.tree_util.tree_leaves_with_path(variables):
        name, x = path_name(key), np.asarray(x)
        words = np.ascontiguousarray(x).reshape(-1).view(f"u{x.itemsize}")
        kept = words != 0
        if x.size // 8 + kept.sum() * x.itemsize + 8 * x.ndim < x.nbytes:
            tensors[f"{name}:mask"], tensors[f"{name}:values"] = (
                np.packbits(kept),
                x.reshape(-1)[kept],
            )
            tensors[f"{name}:shape"] = np.asarray(x.shape, np.int64)
        else:
            tensors[name] = x
    write_tensors(path, tensors)
    return Path(path).stat().st_size


Shapes = dict[str, tuple[int, ...]]
"""Path of a variable -> its shape."""


def load(path: str | Path, *, check: Callable[[Shapes], None] = lambda shapes: None) -> PyTree:
    """The variables that :func:`save` wrote, dense; quantised ones run within
    ``quantize.executing()``.

    Args:
      check: told the shapes of all variables before any of them is made dense; may refuse them by
        an exception.

    Raises:
      WeightsError: missing, damaged, without its digest, or not such a file.
    """
    stated = read_header(path)
    tensors = read_tensors(path, signed=True)
    try:
        shapes = _shapes(stated, tensors)
    except (KeyError, ValueError, TypeError) as e:
        raise _unfit(path, e) from e
    check(shapes)
    variables: PyTree = {}
    try:
        for name in shapes:
            *modules, leaf = name.split("/")
            place = variables
            for module in modules:
                place = place.setdefault(module, {})
            if leaf in place:
                raise ValueError(f"{name[:60]!r} is an array and a module")
            place[leaf] = jnp.asarray(
                tensors[name] if name in tensors else _dense(shapes[name], name, tensors)
            )
    except (ValueError, IndexError, AttributeError, TypeError, MemoryError) as e:
        raise _unfit(path, e) from e
    return variables


def _unfit(path: str | Path, e: Exception) -> WeightsError:
    return WeightsError(
        f"{path} is not a file of compressed variables ({type(e).__name__}: {str(e)[:200]})"
    )


def _shapes(stated: Mapping[str, Stated], tensors: Mapping[str, np.ndarray]) -> Shapes:
    """Shapes of all variables of a file; ValueError or KeyError for parts of arrays that do not fit
    together."""
    parts = {name for name in stated if not _is_whole(name)}
    masked = sorted({name.partition(":")[0] for name in parts})
    unknown = sorted(parts - {name + part for name in masked for part in PARTS})
    if unknown:
        raise ValueError(f"{unknown[0][:60]!r} is no part of an array")
    shapes = {name: tensor.shape for name, tensor in stated.items() if _is_whole(name)}
    return shapes | {name: _dense_shape(name, tensors) for name in masked}


def _is_whole(name: str) -> bool:
    return ":" not in name


def _dense_shape(name: str, tensors: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Shape of a masked array, once mask, values and shape agree; ValueError if not."""
    mask, values, said = (tensors[name + part] for part in PARTS)
    types = mask.dtype, mask.ndim, values.ndim, said.dtype, said.ndim
    if types != (np.uint8, 1, 1, np.int64, 1) or said.size > MAX_AXES:
        raise ValueError(f"{name[:60]!r} has a mask, values or a shape of a wrong type")
    shape = tuple(map(int, said))
    size = math.prod(shape)
    if min(shape, default=0) < 0 or -(-size // 8) != mask.size:
        raise ValueError(
            f"{name[:60]!r} has shape {str(shape)[:60]}, and its mask has {mask.size} bytes"
        )
    kept = int(np.bitwise_count(mask).sum())
    if kept != values.size or (size % 8 and mask[-1] & (0xFF >> size % 8)):
        raise ValueError(f"{name[:60]!r} has {values.size} values, and its mask {kept}")
    return shape


def _dense(shape: tuple[int, ...], name: str, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    mask, values, _ = (tensors[name + part] for part in PARTS)
    x = np.zeros(shape, values.dtype)
    x.reshape(-1)[np.unpackbits(mask, count=x.size).astype(bool)] = values
    return x
