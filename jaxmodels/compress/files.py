"""Compressed variables as safetensors, bit for bit there and back, verified by the digest that every file here carries.

Arrays are stored under their paths. One with so many zeros that it pays is stored as ``PATH:mask``, a bit for each
number (1: it is stored), ``PATH:values``, those whose bits are not all 0, in order, and ``PATH:shape``.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.compress.prune import PyTree
from jaxmodels.paths import path_name
from jaxmodels.weights.files import read_tensors, write_tensors
from jaxmodels.weights.rules import WeightsError


def save(path: str | Path, variables: PyTree) -> int:
    """Writes what ``model.apply`` takes, quantised or pruned or neither, to one file; returns its size in bytes.

    Raises:
      OSError: the disk is full or the directory not writable.
    """
    tensors = {}
    for key, x in jax.tree_util.tree_leaves_with_path(variables):
        name, x = path_name(key), np.asarray(x)
        words = np.ascontiguousarray(x).reshape(-1).view(f"u{x.itemsize}")
        kept = words != 0
        if x.size // 8 + kept.sum() * x.itemsize + 8 * x.ndim < x.nbytes:
            tensors[f"{name}:mask"], tensors[f"{name}:values"] = np.packbits(kept), x.reshape(-1)[kept]
            tensors[f"{name}:shape"] = np.asarray(x.shape, np.int64)
        else:
            tensors[name] = x
    write_tensors(path, tensors)
    return Path(path).stat().st_size


def load(path: str | Path) -> PyTree:
    """The variables that :func:`save` wrote, dense; quantised ones run within ``quantize.executing()``.

    Raises:
      WeightsError: missing, damaged, or not such a file.
    """
    tensors = read_tensors(path)
    variables: PyTree = {}
    try:
        for name in tensors:
            name, _, part = name.partition(":")
            if part in ("values", "shape"):
                continue
            x = tensors[name] if not part else _dense(*(tensors[f"{name}:{k}"] for k in ("mask", "values", "shape")))
            *modules, leaf = name.split("/")
            place = variables
            for module in modules:
                place = place.setdefault(module, {})
            place[leaf] = jnp.asarray(x)
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as e:
        raise WeightsError(f"{path} is not a file of compressed variables ({type(e).__name__}: {e})") from e
    return variables


def _dense(mask: np.ndarray, values: np.ndarray, shape: np.ndarray) -> np.ndarray:
    x = np.zeros(shape, values.dtype)
    x.reshape(-1)[np.unpackbits(mask, count=x.size).astype(bool)] = values
    return x
