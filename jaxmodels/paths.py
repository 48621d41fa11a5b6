"""Paths of parameters, which are an interface: sharding, checkpoints, weights and pruning go by them."""

from typing import Any

import jax


def path_name(path: tuple[Any, ...]) -> str:
    """``params/dense_0/kernel`` of a key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_stacked(path: str) -> bool:
    """Whether a parameter is that of scanned layers, which ``nn.scan`` stacks along a first axis."""
    return "blocks" in path.split("/")
