"""Both sides of a comparison, run on one batch: logits, loss, gradients and batch statistics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.nn.paths import path_name
from jaxmodels.parity.extra import torch
from jaxmodels.parity.subject import Batch, Original, Ours
from jaxmodels.parity.trace import as_torch


@dataclass
class Side:
    """The results of one framework for one batch, as NumPy, parameters by the names of our leaves.

    Attributes:
      logits: in evaluation mode, 0 at padding.
      grads: of the mean loss, in training mode.
      stats: batch statistics after the step.
    """

    logits: np.ndarray
    loss: float
    grads: dict[str, np.ndarray]
    stats: dict[str, np.ndarray]


def torch_side(original: Original, ours: Ours, inputs: Sequence[str], batch: Batch) -> Side:
    """Runs the original; it leaves the statistics of its norms changed."""
    module = original.module
    tensors = torch_batch(batch)
    module.eval()
    with torch.no_grad():
        logits = original.main(module(*(tensors[k] for k in inputs))).numpy()
    module.train()
    module.zero_grad()
    loss = torch_loss(original, inputs, tensors)
    loss.backward()
    grads = {k: v.grad.numpy() for k, v in module.named_parameters()}
    named = {k: v.clone().numpy() for k, v in original.tensors().items()} | grads
    leaves = flat(ours.to_ours(named))
    module.zero_grad()
    return Side(counted(logits, batch), loss.item(), *_split(leaves))


def our_side(ours: Ours, inputs: Sequence[str]) -> Callable[[Any, Batch], Side]:
    """A function of variables and a batch, compiled once."""

    @jax.jit
    def run(variables, batch):
        (loss, count), grads, state = ours.gradients(variables, batch)
        logits = ours.main(ours.model.apply(variables, *(batch[k] for k in inputs), train=False))
        return logits, loss / count, {"params": grads, **state}

    def side(variables: Any, batch: Batch) -> Side:
        logits, loss, leaves = jax.device_get(run(*jax.tree.map(jnp.asarray, (variables, batch))))
        return Side(counted(logits, batch), float(loss), *_split(flat(leaves)))

    return side


def torch_batch(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch as PyTorch takes it: images channel first, labels and tokens int64."""
    return {
        k: torch.from_numpy(v).long() if v.dtype == np.int32 else as_torch(v)
        for k, v in batch.items()
    }


def torch_loss(
    original: Original, inputs: Sequence[str], batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Mean loss of the original for a batch of :func:`torch_batch`."""
    return original.loss(original.module(*(batch[k] for k in inputs)), batch)


def counted(logits: np.ndarray, batch: Batch) -> np.ndarray:
    """Logits with 0 at padding, where the two sides may differ."""
    for name in ("masked_weight", "weight"):
        if name in batch and logits.ndim == 3 and batch[name].shape == logits.shape[:2]:
            return logits * (batch[name] > 0)[..., None]
    return logits


def flat(tree: Any) -> dict[str, np.ndarray]:
    """Leaves of a tree as NumPy, by path."""
    return {
        path_name(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _split(leaves: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    grads = {k: v for k, v in leaves.items() if k.startswith("params/")}
    return grads, {k: v for k, v in leaves.items() if k.startswith("batch_stats/")}
