"""Parameters that patterns choose: those that stay frozen, and those with a rate of their own.

A pattern is compared with a parameter's path, component by component from the first: ``block_*``
chooses everything in every block, ``head/kernel`` one array. Frozen parameters are kept out of
everything: :func:`split` leaves ``None`` in their place, which is no leaf to jax, so they get no
gradient, no optimiser state and no update.
"""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from flax import traverse_util

from jaxmodels.nn.paths import path_name


def matches(pattern: str, path: str) -> bool:
    """Whether the components of ``pattern`` match the first components of ``path``
    (``head/kernel``)."""
    wanted, parts = pattern.split("/"), path.split("/")
    return len(wanted) <= len(parts) and all(map(fnmatch.fnmatchcase, parts, wanted))


def matches_any(patterns: Iterable[str], path: str) -> bool:
    """Whether one of the patterns matches."""
    return any(matches(p, path) for p in patterns)


def split(tree: Any, freeze: Sequence[str]) -> tuple[Any, Any]:
    """What trains and what is frozen of a tree shaped like the parameters; None stands for the
    leaves of the other."""

    def part(frozen: bool) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, x: x if matches_any(freeze, path_name(path)) == frozen else None, tree
        )

    return part(False), part(True)


def merge(tree: Any, rest: Any) -> Any:
    """``tree`` with the leaves of ``rest`` where it has None."""
    return jax.tree.map(lambda a, b: b if a is None else a, tree, rest, is_leaf=lambda x: x is None)


def frozen_modules(params: Any, freeze: Sequence[str]) -> set[str]:
    """Paths of the modules that have parameters and all of them frozen."""
    frozen, training = set[str](), set[str]()
    for path in traverse_util.flatten_dict(params, sep="/"):
        parts = path.split("/")
        (frozen if matches_any(freeze, path) else training).update(
            "/".join(parts[:i]) for i in range(len(parts))
        )
    return frozen - training


def rate_of(rates: Mapping[str, float], path: str) -> float:
    """Factor of the learning rate of one parameter: that of the first pattern that matches, else
    1."""
    return next((rate for pattern, rate in rates.items() if matches(pattern, path)), 1.0)


def frozen_size(params: Any, freeze: Sequence[str]) -> int:
    """Number of frozen parameters."""
    return sum(x.size for x in jax.tree.leaves(split(params, freeze)[1]))
