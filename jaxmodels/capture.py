"""What every module of a model takes and gives, without a change to the model."""

from typing import Any

import jax
from flax import linen as nn


def capture(
    model: nn.Module, variables: Any, *inputs: Any, train: bool, rngs: Any = None
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """First inputs and outputs of all modules that take an array: ``{path: (input, output)}``.

    Of modules that are called several times the first call is kept; scanned layers come stacked along axis 0. Where a
    module returns a tuple, its first part is the output. Pure: it may be called under ``jit``.

    Args:
      inputs: of the model.
      rngs: as ``model.apply`` takes them.
    """

    def keep(call: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: nn.module.InterceptorContext):
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and args and isinstance(args[0], jax.Array):
            value = output[0] if isinstance(output, tuple) else output
            context.module.sow("intermediates", "captured", (args[0], value))
        return output

    collections = [c for c in variables if c != "params"] if train else []
    with nn.intercept_methods(keep):
        _, changed = model.apply(variables, *inputs, train=train, rngs=rngs, mutable=[*collections, "intermediates"])
    found = {}

    def walk(tree: Any, path: list[str]) -> None:
        for name, value in tree.items():
            if name == "captured":
                found["/".join(path)] = value[0]
            else:
                walk(value, [*path, name])

    walk(changed["intermediates"], [])
    return found
