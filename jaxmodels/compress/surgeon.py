"""Second-order pruning: which weights go is told by what the layer computes, and those that stay
make up for them.

Optimal Brain Surgeon (Hassibi & Stork 1993) for each layer's outputs, as in Frantar & Alistarh
2022, "Optimal Brain Compression" (arXiv:2208.11580) and SparseGPT (arXiv:2301.00774). Deliberate
differences: weights go in a few rounds instead of one at a time, and after each round those of an
output that stay are solved anew together, exactly.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg  # jax needs it too
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Float

from jaxmodels.capture import capture
from jaxmodels.compress.prune import Select, masks, prunable
from jaxmodels.nn.paths import is_stacked

MAX_INPUTS = 8192
"""Of a kernel: the products of all pairs of its inputs must fit in memory, and the equations be
solved in time."""


class Calibration(NamedTuple):
    """A batch of examples whose activations count.

    Attributes:
      inputs: of the model, in order.
      weight: 1, or 0 for what is padding: of each example, or of each token of a text.
    """

    inputs: tuple[Any, ...]
    weight: Float[Array, " b"] | Float[Array, "b l"]


def prune_kernel(
    kernel: Float[np.ndarray, "i o"],
    gram: Float[np.ndarray, "i i"],
    sparsity: float,
    *,
    damping: float = 0.01,
) -> Float[np.ndarray, "i o"]:
    """A kernel with ``sparsity`` of its weights 0 and the others such that its outputs change
    little.

    Of each output, with S the inputs that stay, ``w_S = inv(H_SS) (H w0)_S`` minimises
    ``(w - w0)^T H (w - w0)``. Those of all outputs go whose removal costs least,
    ``w_k^2 / inv(H_SS)_kk``; H is ``gram`` with ``damping`` times its mean diagonal added to its
    diagonal. All in float64.

    Args:
      gram: ``X^T X`` of the layer's inputs X [n, i].
      sparsity: share that goes, in [0, 1).
    """
    first = np.asarray(kernel, np.float64)
    inputs, outputs = first.shape
    h = np.array(gram, np.float64)
    # of inputs that are all 0, magnitude decides
    h[np.diag_indices(inputs)] += damping * h.trace() / inputs if h.any() else 1.0
    wanted = h @ first
    w, stays = first, np.ones(first.shape, bool)
    variance = np.repeat(np.diag(np.linalg.inv(h))[:, None], outputs, 1)
    counts = [round(share * first.size) for share in _rounds(sparsity, inputs)]
    if not counts[-1]:
        return kernel
    for count in counts:
        # what has gone costs less than anything that stays, so that it goes again
        cost = np.where(stays, w**2 / variance, -1.0).ravel()
        stays = np.ones(first.size, bool)
        stays[np.argpartition(cost, count - 1)[:count]] = False
        stays = stays.reshape(first.shape)
        w = np.zeros(first.shape)
        for j in range(outputs):
            (s,) = stays[:, j].nonzero()
            if len(s) == 0:
                continue
            factor = scipy.linalg.cholesky(h[np.ix_(s, s)], lower=True, check_finite=False)
            w[s, j] = scipy.linalg.cho_solve((factor, True), wanted[s, j], check_finite=False)
            if count != counts[-1]:
                variance[s, j] = np.diag(scipy.linalg.lapack.dpotri(factor, lower=1)[0])
    return w.astype(kernel.dtype)


def _rounds(sparsity: float, inputs: int) -> list[float]:
    """Sparsity after each round: first a half, then what stays shrinks by the same factor each
    time."""
    if sparsity <= 0.5:
        return [sparsity]
    rounds = 2 if inputs > 1000 else 4  # each solves a system of equations for each output
    return [*(1 - np.geomspace(0.5, 1 - sparsity, rounds))[:-1], sparsity]


def prune_model(
    model: nn.Module,
    variables: Any,
    batches: Sequence[Calibration],
    sparsity: float,
    *,
    scope: str = "global",
    damping: float = 0.01,
    select: Select = prunable,
) -> Any:
    """``variables`` with :func:`prune_kernel` done to each selected kernel.

    Layers are taken in the order in which they run, block by block: a block's inputs are those that
    the pruned blocks before it give. Dense layers and convolutions, whose inputs are the patches,
    can be pruned, scanned ones too. A module that is called several times is pruned for its first
    call.

    Args:
      variables: what ``model.apply`` takes, on one device or on the host.
      batches: best of what the model was trained on; a few thousand examples.
      sparsity: share of the selected weights that goes, in [0, 1).
      scope: ``"global"``: as many of each kernel and scanned layer as magnitude would take of it if
        it pruned all of them together: errors of different layers cannot be compared; ``"layer"``:
          the same share of each.

    Raises:
      ValueError: a selected kernel cannot be pruned so.
    """
    variables = jax.device_put(variables)
    layers = _layers(model, variables, batches[0])
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    chosen = [path for path in params if select(path)]
    if not chosen:
        raise ValueError("there is no kernel to prune")
    for path in chosen:
        _require_supported(path, params[path], layers)
    wanted = {path: layer for path, layer in layers.items() if f"{path}/kernel" in chosen}
    stays = traverse_util.flatten_dict(
        masks(variables["params"], sparsity, scope=scope, select=select), sep="/"
    )
    for group in _groups(wanted, params):
        grams = jax.jit(partial(_grams, model=model, group=tuple(group), layers=wanted))
        total = [0.0] * len(group)
        for batch in batches:
            found = jax.device_get(grams(variables, batch))
            total = [a + b.astype(np.float64) for a, b in zip(total, found, strict=True)]
        for (path, index), gram in zip(group, total, strict=True):
            whole, at = np.array(params[f"{path}/kernel"]), ... if index is None else index
            share = 1 - float(np.asarray(stays[f"{path}/kernel"])[at].mean())
            new = prune_kernel(whole[at].reshape(-1, whole.shape[-1]), gram, share, damping=damping)
            whole[at] = new.reshape(whole[at].shape)
            params[f"{path}/kernel"] = jnp.asarray(whole)
        variables = {**variables, "params": traverse_util.unflatten_dict(params, sep="/")}
    return variables


def _layers(model: nn.Module, variables: Any, batch: Calibration) -> dict[str, nn.Dense | nn.Conv]:
    """Dense layers and convolutions that run in evaluation, by path, in the order in which they
    do."""
    found: dict[str, nn.Dense | nn.Conv] = {}

    def note(
        call: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ):
        module = context.module
        if context.method_name == "__call__" and isinstance(module, nn.Dense | nn.Conv):
            found.setdefault("/".join(module.path), module.clone(parent=None, name=None))
        return call(*args, **kwargs)

    def run(variables: Any, inputs: tuple[Any, ...]) -> dict[str, jax.Array]:
        with nn.intercept_methods(note):
            seen = capture(model, variables, *inputs, train=False)
        return {path: x for path, (x, _) in seen.items()}

    seen = jax.eval_shape(run, variables, batch.inputs)
    return {path: layer for path, layer in found.items() if path in seen}


def _require_supported(path: str, kernel: Any, layers: dict[str, nn.Dense | nn.Conv]) -> None:
    instead = "; nearest: prune by magnitude, which takes every kernel"
    layer = layers.get(path.removesuffix("/kernel"))
    if layer is None:
        what = (
            "is of no dense layer or convolution that can be seen when the model runs in evaluation"
        )
        raise ValueError(f"{path} {what} (recurrence, rematerialisation){instead}")
    if isinstance(layer, nn.Conv) and layer.feature_group_count != 1:
        raise ValueError(
            f"{path} is of a convolution in {layer.feature_group_count} groups{instead}"
        )
    inputs = math.prod(kernel.shape[1 if is_stacked(path) else 0 : -1])
    if inputs > MAX_INPUTS:
        raise ValueError(
            f"{path} has {inputs} inputs, above the {MAX_INPUTS} that can be solved for{instead}"
        )


Unit = tuple[str, int | None]
"""Path of a layer and, if it is scanned, which of the stacked ones."""


def _groups(layers: dict[str, Any], params: dict[str, Any]) -> list[list[Unit]]:
    """Layers that see the same state of the model: those of one block, that is, under the same
    first numbered name."""
    found: dict[tuple[Any, ...], list[Unit]] = {}
    for path in layers:
        parts = path.split("/")
        numbered = (
            i for i, part in enumerate(parts) if part == "blocks" or any(map(str.isdigit, part))
        )
        block = tuple(parts[: next(numbered, len(parts)) + 1])
        for index in range(len(params[f"{path}/kernel"])) if is_stacked(path) else (None,):
            found.setdefault((block, index), []).append((path, index))
    return [*found.values()]


def _grams(
    variables: Any,
    batch: Calibration,
    *,
    model: nn.Module,
    group: tuple[Unit, ...],
    layers: dict[str, Any],
) -> list[Float[Array, "i i"]]:
    """``X^T X`` of each layer's inputs; what runs only behind the group is not computed under
    ``jit``."""
    seen = capture(model, variables, *batch.inputs, train=False)
    found = []
    for path, index in group:
        x = seen[path][0] if index is None else seen[path][0][index]
        x = _patches(layers[path], x.astype(jnp.float32))
        weight = batch.weight
        if weight.ndim == 2 and x.shape[:2] != weight.shape:
            weight = weight.max(1)  # not of tokens: the example's
        weight = weight.reshape(*weight.shape, *(1,) * (x.ndim - weight.ndim))
        rows, weighted = (v.reshape(-1, x.shape[-1]) for v in (x, x * weight))
        found.append(jnp.matmul(weighted.T, rows, precision=jax.lax.Precision.HIGHEST))
    return found


def _patches(layer: nn.Dense | nn.Conv, x: Float[Array, "b ... c"]) -> Float[Array, "b ... i"]:
    """What a kernel is multiplied with: of a convolution by itself, with a kernel that takes each
    input once."""
    if isinstance(layer, nn.Dense):
        return x
    inputs = math.prod(layer.kernel_size) * x.shape[-1]
    kernel = jnp.eye(inputs).reshape(*layer.kernel_size, x.shape[-1], inputs)
    taking = layer.clone(
        features=inputs, use_bias=False, dtype=jnp.float32, precision=jax.lax.Precision.HIGHEST
    )
    return taking.apply({"params": {"kernel": kernel}}, x)
