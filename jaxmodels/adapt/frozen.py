"""Running a part of a model as in evaluation while the rest trains."""

import inspect
from collections.abc import Set
from contextlib import AbstractContextManager
from typing import Any

from flax import linen as nn


def evaluating(modules: Set[str]) -> AbstractContextManager[None]:
    """While the context lasts, the modules at these paths and all inside them run as in evaluation.

    It is what ``eval()`` of a sub-module is in PyTorch: batch norm uses its running statistics and
    leaves them alone, dropout does nothing. To that end they get ``train=False`` whatever is
    passed.

    Args:
      modules: paths of sub-modules, such as ``stage_1_block_0/bn_1``.
    """

    def intercept(
        call: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ):
        path = context.module.path
        if not any("/".join(path[: i + 1]) in modules for i in range(len(path))):
            return call(*args, **kwargs)
        # scanned blocks have their mode as a field, which it was made from
        if isinstance(context.module, nn.Dropout):
            return args[0]
        bound = inspect.signature(context.orig_method).bind(*args, **kwargs)
        if "train" in bound.arguments:
            bound.arguments["train"] = False
        return call(*bound.args, **bound.kwargs)

    return nn.intercept_methods(intercept)
