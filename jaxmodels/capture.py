"""What every module of a model takes and gives, and other values in their place, without a change
to the model."""

import contextlib
import difflib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
from flax import linen as nn


def capture(
    model: nn.Module, variables: Any, *inputs: Any, train: bool, rngs: Any = None
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """First inputs and outputs of all modules that take an array: ``{path: (input, output)}``.

    Of modules that are called several times the first call is kept; scanned layers come stacked
    along axis 0. Where a module returns a tuple, its first part is the output. Pure: it may be
    called under ``jit``.

    Args:
      inputs: of the model.
      rngs: as ``model.apply`` takes them.
    """

    def keep(
        call: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ):
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and args and isinstance(args[0], jax.Array):
            value = output[0] if isinstance(output, tuple) else output
            context.module.sow("intermediates", "captured", (args[0], value))
        return output

    collections = [c for c in variables if c != "params"] if train else []
    with nn.intercept_methods(keep):
        _, changed = model.apply(
            variables, *inputs, train=train, rngs=rngs, mutable=[*collections, "intermediates"]
        )
    found = {}

    def walk(tree: Any, path: list[str]) -> None:
        for name, value in tree.items():
            if name == "captured":
                found["/".join(path)] = value[0]
            else:
                walk(value, [*path, name])

    walk(changed["intermediates"], [])
    return found


def feature_maps(model: nn.Module, variables: Any, *inputs: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Outputs [b, h, w, c] of modules, in the order in which they finish; nothing is computed."""
    found: dict[str, jax.ShapeDtypeStruct] = {}

    def note(
        call: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ):
        output, module = call(*args, **kwargs), context.module
        # dropout makes no features, and that on attention weights [b, h, q, k] looks as if it did
        if (
            isinstance(output, jax.Array)
            and output.ndim == 4
            and not isinstance(module, nn.Dropout)
        ):
            found.setdefault(
                "/".join(module.path), jax.ShapeDtypeStruct(output.shape, output.dtype)
            )
        return output

    with nn.intercept_methods(note):
        jax.eval_shape(partial(model.apply, train=False), variables, *inputs)
    return found


@contextlib.contextmanager
def altering(
    path: str,
    *,
    input: Callable[[jax.Array], jax.Array] = lambda x: x,
    output: Callable[[jax.Array], jax.Array] = lambda y: y,
) -> Iterator[None]:
    """While the context lasts, the first call of the module at ``path`` takes ``input(x)`` and
    gives ``output(y)``.

    Raises:
      ValueError: at its end, if no such module was called; the nearest that was is named.
    """
    called: dict[str, None] = {}

    def alter(
        call: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ):
        name = "/".join(context.module.path)
        if context.method_name != "__call__" or name in called:
            return call(*args, **kwargs)
        called[name] = None
        return (
            output(call(input(args[0]), *args[1:], **kwargs))
            if name == path
            else call(*args, **kwargs)
        )

    with nn.intercept_methods(alter):
        yield
    if path not in called:
        raise ValueError(f"the model has no module {path!r}{nearest(path, called)}")


def nearest(path: str, known: Any) -> str:
    """``; did you mean 'conv_1'?``, or nothing where no path is near."""
    close = difflib.get_close_matches(path, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
