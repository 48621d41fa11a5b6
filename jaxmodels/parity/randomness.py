"""Random weights and statistics: zeros and ones, which modules begin with, agree with anything."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from jaxmodels.parity.extra import torch


def randomise(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor] = (),
    *,
    condition: Callable[[torch.nn.Module], None] = lambda module: None,
) -> None:
    """Sets every parameter and running statistic to random values that keep activations alive.

    Args:
      inputs: a batch, around whose statistics the running ones are drawn. Without it they are drawn
        around 0 and 1.
      condition: tames the parameters of some architectures, in place, before there are statistics.
    """
    batch_norm = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    norms = (*batch_norm, torch.nn.LayerNorm)
    scales = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, norms)}
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name in scales:
                value.copy_(1 + 0.2 * torch.randn_like(value))
            elif value.ndim >= 2 and "embed" not in name and "token" not in name:
                value.copy_(torch.randn_like(value) * (1.5 / value[0].numel()) ** 0.5)
            else:
                value.copy_(0.1 * torch.randn_like(value))
        condition(module)
        batch_norms = [part for part in module.modules() if isinstance(part, batch_norm)]
        if batch_norms and inputs:
            momentum = batch_norms[0].momentum
            for norm in batch_norms:
                norm.momentum = 1.0  # the statistics of the next batch alone
            module.train()(*inputs)
            for norm in batch_norms:
                norm.momentum = momentum
        for norm in batch_norms:
            norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= 0.5 + torch.rand_like(norm.running_var)
            norm.num_batches_tracked.fill_(3)


@contextlib.contextmanager
def deterministic_torch(seed: int) -> Iterator[None]:
    """Seeds PyTorch's generator, and gives it back as it was."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
