"""Paths of parameters, which are an interface: sharding, checkpoints, weights and pruning go by
them."""

import re
from typing import Any

import jax


def path_name(path: tuple[Any, ...]) -> str:
    """``params/dense_0/kernel`` of a key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def in_stack(path: str) -> bool:
    """Whether a parameter is of a layer of :func:`jaxmodels.nn.stack.run_stack`."""
    return re.search(r"(^|/)(blocks|block_\d+)/", path) is not None


def is_stacked(path: str) -> bool:
    """Whether a parameter is that of scanned layers, which ``nn.scan`` stacks along a first
    axis."""
    return "blocks" in path.split("/")
