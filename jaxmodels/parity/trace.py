"""Inputs and outputs of every layer, on both sides, and the first place where they differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import rearrange

from jaxmodels.foreign.rules import Pair, to_ours
from jaxmodels.parity.extra import torch

Traced = dict[str, tuple[np.ndarray, np.ndarray]]  # module -> (first input, output)


@dataclass(frozen=True)
class Difference:
    """How far one layer's input or output is from the original's, relative by norm.

    Attributes:
      torch, ours: module paths.
      what: ``"input"`` or ``"output"``.
      norm: of the original's.
    """

    torch: str
    ours: str
    what: str
    relative: float
    norm: float


def trace_torch(
    module: torch.nn.Module, names: list[str], inputs: Sequence[torch.Tensor]
) -> Traced:
    """Runs ``module`` and keeps first input and output of its parts, in the order of execution.

    Keeps the first call of a part that is called several times, as
    :func:`jaxmodels.capture.capture` does.

    Args:
      names: paths of the parts.
      inputs: of the module.
    """
    found: Traced = {}

    def hook_of(name):
        def hook(_, inputs, output):
            if isinstance(found[name], tuple):
                return
            # a copy was taken before the module ran: an in-place ReLU may have written over it
            # since
            output = output[0] if isinstance(output, tuple) else output
            found[name] = (found.pop(name), output.detach().clone().numpy())

        return hook

    def pre_hook_of(name):
        def pre_hook(_, inputs):
            if name not in found:
                found[name] = inputs[0].detach().clone().numpy()

        return pre_hook

    handles = []
    for name in names:
        part = module.get_submodule(name)
        handles += [
            part.register_forward_pre_hook(pre_hook_of(name)),
            part.register_forward_hook(hook_of(name)),
        ]
    try:
        module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: pair for name, pair in found.items() if isinstance(pair, tuple)}


def differences(pairs: dict[str, Pair], theirs: Traced, ours: dict[str, Any]) -> list[Difference]:
    """Differences of all paired layers, in the original's order of execution.

    Args:
      pairs: path of an original's module -> ours.
      theirs: of :func:`trace_torch`; ours: of :func:`jaxmodels.capture.capture`.
    """
    found = []
    for name, values in theirs.items():
        pair = pairs[name]
        if pair.module not in ours:
            continue
        mine = [v if pair.index is None else v[pair.index] for v in ours[pair.module]]
        for what, a, b in zip(("input", "output"), mine, values, strict=True):
            reference = _channels_last(b, pair, what)
            value = np.asarray(a)
            if reference.shape != value.shape == np.shape(b):
                reference = np.asarray(b)  # its map has channels last too
            if value.size != reference.size or value.shape[-1] != reference.shape[-1]:
                continue  # patches, cut out on one side only
            norm = float(np.linalg.norm(reference))
            relative = float(np.linalg.norm(value.reshape(reference.shape) - reference)) / max(
                norm, 1e-300
            )
            found.append(Difference(name, pair.module, what, relative, norm))
    return found


def first_divergence(found: list[Difference], limit: float) -> str | None:
    """One line on the first input or output beyond ``limit``, or None.

    A layer that gets the same and gives something else is at fault itself. If its input differs
    already, the fault lies between the layers that agree and it: an activation, a pool, a sum.
    """
    agreed = None
    for d in found:
        if not d.relative <= limit:  # also NaN
            if d.what == "output":
                return (
                    f"{d.ours} (PyTorch: {d.torch}): same input, output differs by {d.relative:.1e}"
                )
            after = f"; {agreed} before it agrees" if agreed else ""
            return (
                f"before {d.ours} (PyTorch: {d.torch}): its input differs by "
                f"{d.relative:.1e}{after}"
            )
        agreed = d.ours
    return None


def _channels_last(value: np.ndarray, pair: Pair, what: str) -> np.ndarray:
    value, layout = np.asarray(value), pair.weight.layout
    if value.ndim == 4:
        return rearrange(value, "b c h w -> b h w c")
    # PyTorch flattens maps channel first. The weight's layout says so, and reorders a batch as it
    # reorders rows
    if value.ndim == 2 and what == "input" and layout.startswith("o ("):
        return to_ours(pair.weight, value).T
    if value.ndim == 2 and what == "output" and layout.startswith("("):
        return to_ours(pair.weight, value.T)
    return value


def as_torch(value: np.ndarray) -> torch.Tensor:
    """A batch array as PyTorch takes it: images channel first."""
    if value.ndim == 4:
        return torch.from_numpy(np.ascontiguousarray(rearrange(value, "b h w c -> b c h w")))
    return torch.from_numpy(np.ascontiguousarray(value))
