"""Magnitude pruning (Han et al. 2015, arXiv:1506.02626): masks of the smallest weights, as
functions of parameters.

Kernels are laid out input, output, so a group of inputs of one output lies along the last axis but
one. Scanned models stack their layers in ``blocks`` along a first axis; each is a layer of its own
here.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.nn.paths import is_stacked, path_name

PyTree = Any
Select = Callable[[str], bool]
"""Path of a parameter, such as ``stage_1_block_0/conv_1/kernel`` -> whether it counts."""

SCOPES = ("global", "layer", "2:4")


def prunable(path: str) -> bool:
    """Kernels of matrix products, convolutions and recurrences; not embeddings, norms, biases, nor
    what is in a head.

    The head is left dense because it is small and decides everything: Gale et al. 2019
    (arXiv:1902.09574, section 5) prune the last layer less too. Transposed convolutions
    (``decoder_conv_*``) have their kernels the other way round.
    """
    *modules, name = path.split("/")
    if any(module.startswith(("head", "decoder_conv_")) for module in modules):
        return False
    return re.fullmatch(r"kernel(_ih|_hh)?(_reverse)?(_int8)?", name) is not None


def masks(
    params: PyTree,
    sparsity: float | Float[Array, ""],
    *,
    scope: str = "global",
    select: Select = prunable,
) -> PyTree:
    """Which weights stay: the largest by magnitude. Weights that are equal at the threshold go
    together.

    Args:
      params: None stands for what is left alone.
      sparsity: share of the selected weights that goes, in [0, 1); of scope 2:4 it only says
        whether any go.
      scope: ``"global"``: of all selected weights together; ``"layer"``: of each kernel and each
        scanned layer; ``"2:4"``: of every 4 consecutive inputs of an output the 2 smaller ones
        (Mishra et al. 2021, arXiv:2104.08378). A kernel with a number of inputs that is not
        divisible by 4 stays dense.

    Returns:
      A tree like ``params``: bool arrays, and None in the place of what is not selected or stays
        dense.

    Raises:
      ValueError: no such scope, or nothing in ``params`` can be pruned.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope {scope!r} is not one of {', '.join(SCOPES)}")

    def chosen(path: Any, x: Array) -> bool:
        return select(path_name(path)) and (scope != "2:4" or x.shape[-2] % 4 == 0)

    kernels = [x for path, x in jax.tree_util.tree_leaves_with_path(params) if chosen(path, x)]
    if not kernels:
        dense = " with a number of inputs divisible by 4" if scope == "2:4" else ""
        raise ValueError(f"there is no kernel{dense} to prune")
    if scope == "global":
        threshold = _threshold(kernels, _count(sparsity, sum(x.size for x in kernels)))

    def mask(path: Any, x: Array) -> Array | None:
        if not chosen(path, x):
            return None
        if scope == "global":
            return _bits(x) > threshold
        one = _two_of_four if scope == "2:4" else _of_one_layer
        return (jax.vmap(one, (0, None)) if is_stacked(path_name(path)) else one)(x, sparsity)

    return jax.tree_util.tree_map_with_path(mask, params)


def nonzero(params: PyTree, *, select: Select = prunable) -> PyTree:
    """Masks (see :func:`masks`) of what is not 0: they keep what was pruned elsewhere as it is."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x != 0 if select(path_name(path)) else None, params
    )


def apply_masks(params: PyTree, masks: PyTree) -> PyTree:
    """``params`` with 0 where a mask is False."""
    return jax.tree.map(lambda x, mask: x if mask is None else jnp.where(mask, x, 0), params, masks)


def prune(
    params: PyTree, sparsity: float, *, scope: str = "global", select: Select = prunable
) -> PyTree:
    """One-shot pruning: ``params`` with 0 in the place of the smallest weights; see
    :func:`masks`."""
    return apply_masks(params, masks(params, sparsity, scope=scope, select=select))


def sparsity(params: PyTree, *, select: Select = prunable) -> float:
    """Share of the selected weights that are exactly 0; 0 if there are none."""
    kernels = [
        x for path, x in jax.tree_util.tree_leaves_with_path(params) if select(path_name(path))
    ]
    zeros = sum(int((x == 0).sum()) for x in kernels)
    return zeros / max(1, sum(x.size for x in kernels))


def gradual(
    step: int | Int[Array, ""], *, sparsity: float, begin: int, end: int
) -> Float[Array, ""]:
    """Sparsity at a step of Zhu & Gupta 2017 (arXiv:1710.01878), equation 1, from 0.

    ``sparsity (1 - (1 - (step - begin) / (end - begin))^3)`` between ``begin`` and ``end``; 0
    before, constant after.
    """
    left = 1 - (jnp.asarray(step, jnp.float32) - begin) / max(1, end - begin)
    return jnp.where(step >= end, sparsity, sparsity * (1 - jnp.clip(left, 0, 1) ** 3))


def _count(share: float | Float[Array, ""], size: int) -> Array:
    return jnp.round(share * size).astype(jnp.int32)


def _bits(x: Array) -> Int[Array, "..."]:
    """Magnitudes as integers in the same order: the bits of a float that is not negative."""
    return jax.lax.bitcast_convert_type(jnp.abs(x).astype(jnp.float32), jnp.int32)


def _threshold(kernels: list[Array], count: Int[Array, ""]) -> Int[Array, ""]:
    """Bits of the ``count``-th smallest magnitude, -1 for none.

    Found bit by bit from the highest, by counting: nothing is sorted, and on a mesh only the counts
    are exchanged.
    """

    def body(i: Array, found: Array) -> Array:
        candidate = found | (1 << (30 - i))
        below = sum((_bits(x) < candidate).sum(dtype=jnp.int32) for x in kernels)
        return jnp.where(below < count, candidate, found)

    return jnp.where(count > 0, jax.lax.fori_loop(0, 31, body, jnp.int32(0)), -1)


def _of_one_layer(x: Array, sparsity: float | Array) -> Bool[Array, "..."]:
    return _bits(x) > _threshold([x], _count(sparsity, x.size))


def _two_of_four(x: Array, sparsity: float | Array) -> Bool[Array, "..."]:
    groups = rearrange(_bits(x), "... (g n) o -> ... g n o", n=4)
    rank = groups.argsort(-2).argsort(-2)
    return rearrange(rank >= 2, "... g n o -> ... (g n) o") | (sparsity == 0)
