"""Equal layers behind each other: scanned or one by one, rematerialised or not, their parameters
made ready in turn."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

Prepare = Callable[[Any], Any]
"""Variables of one layer, ``{"params": ...}``, as they are stored -> as the layer uses them."""

_prepare: ContextVar[Prepare | None] = ContextVar("prepare", default=None)


@contextlib.contextmanager
def preparing_layers(prepare: Prepare | None) -> Iterator[None]:
    """While the context lasts, stacks that are traced prepare each layer's parameters right before
    it runs.

    It is for parameters that are split over devices and gathered for use: one layer's at a time, in
    the backward pass anew. The models know nothing of it. A step enters the context where it calls
    the model, inside ``jit``, and not around a function that is compiled already.

    Args:
      prepare: None leaves parameters as they are.
    """
    token = _prepare.set(prepare)
    try:
        yield
    finally:
        _prepare.reset(token)


def run_stack(
    parent: nn.Module,
    block: type[nn.Module],
    fields: Mapping[str, Any],
    x: Float[Array, "b n d"],
    *context: Any,
    num_layers: int,
    scan: bool,
    remat: bool,
) -> Float[Array, "b n d"]:
    """``num_layers`` blocks behind each other, as sub-modules of ``parent``, which calls this.

    Args:
      block: of one layer; fields: its own. It is called with ``x`` and ``context`` and returns the
        new x.
      scan: run the layers as one scanned layer: parameters are stacked along a first axis in
        ``blocks``, and compile time does not grow with depth. Else they are ``block_0``,
        ``block_1``, ...
      remat: recompute each layer's activations in the backward pass instead of keeping them.
    """
    prepare = _prepare.get()
    layer = _scannable(block) if scan else block
    if prepare is not None and not parent.is_initializing():
        layer = nn.map_variables(layer, "params", functools.partial(_prepared, prepare))
        # what is gathered is not kept for the backward pass
        layer = nn.remat(
            layer, prevent_cse=not scan, policy=None if remat else _keep_all_but_parameters
        )
    elif remat:
        layer = nn.remat(layer, prevent_cse=not scan)
    if not scan:
        for i in range(num_layers):
            x = layer(**fields, name=f"block_{i}")(x, *context)
        return _Output(name="stack")(x)
    layers = nn.scan(
        layer,
        variable_axes={"params": 0, "cache": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=num_layers,
    )
    return _Output(name="stack")(layers(**fields, name="blocks")(x, *context)[0])


class _Output(nn.Module):
    """What the last layer gives, where others can see it: inside rematerialisation nobody can."""

    @nn.compact
    def __call__(self, x):
        return x


@functools.cache
def _scannable(block: type[nn.Module]) -> type[nn.Module]:
    """A block with the signature that ``nn.scan`` wants."""

    class ScanBlock(block):
        def __call__(self, x, *context):
            return super().__call__(x, *context), None

    return ScanBlock


def _prepared(prepare: Prepare, variables: Any) -> Any:
    return jax.tree.map(lambda x: checkpoint_name(x, "prepared"), prepare(variables))


def _keep_all_but_parameters(primitive: Any, *inputs: Any, **parameters: Any) -> bool:
    """What the backward pass keeps: all but prepared parameters and, of at most two dimensions,
    their other dtypes."""
    if primitive.name == "convert_element_type" and inputs[0].ndim <= 2:
        return False
    return not (primitive.name == "name" and parameters["name"] == "prepared")
