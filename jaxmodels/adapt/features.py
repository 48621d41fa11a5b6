"""What a classifier knows before it decides."""

from typing import Any, NamedTuple

import jax
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from jaxmodels.nn.meshes import on_any_mesh


class Features(NamedTuple):
    """Of each example as a whole: what its classifier takes; and of each of its places, if the
    model has some."""

    whole: Float[Array, "b d"]
    places: Float[Array, "b n e"] | None


class Encoded(NamedTuple):
    """Features of each token or patch [b, l, d], and of the whole through the pooler [b, d], None
    without a pooler."""

    hidden: Float[Array, "b l d"]
    pooled: Float[Array, "b d"] | None


def features(model: nn.Module, *inputs: Any, train: bool) -> Features:
    """Runs a classifier of this library without its ``head``, which then has no parameters either.

    ``whole`` is what the module named head would have taken; ``places`` is what the last layer with
    places gave: patches, points of the last feature map, or tokens. No change to the model is
    needed.

    Args:
      model: a sub-module of the module that calls this, or one that is being applied.
      inputs: of the model.

    Raises:
      ValueError: the model has no module named head.
    """
    places: list[jax.Array] = []
    whole: list[jax.Array] = []

    def without_head(
        call: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ):
        module = context.module
        if module.path[:-1] != model.path or module is model or context.method_name != "__call__":
            return call(*args, **kwargs)
        if module.name == "head":
            whole.append(args[0])
            return args[0]
        output = call(*args, **kwargs)
        value = output[0] if isinstance(output, tuple) else output
        if isinstance(value, jax.Array) and value.ndim in (3, 4):
            places.append(value if value.ndim == 3 else rearrange(value, "b h w c -> b (h w) c"))
        return output

    with nn.intercept_methods(without_head):
        model(*inputs, train=train)
    if len(whole) != 1:
        raise ValueError(_headless(model, len(whole)))
    return Features(whole[0], places[-1] if places else None)


class FeatureOutputs(NamedTuple):
    """What a classifier gives, and what its head took [b, d]."""

    outputs: Any
    features: Float[Array, "b d"]


@on_any_mesh
class WithFeatures(nn.Module):
    """A classifier that shows its features as well; its parameters keep their names.

    Attributes:
      model: the classifier.
    """

    model: nn.Module

    def setup(self):
        nn.share_scope(self, self.model)

    def __call__(self, *inputs: Any, train: bool) -> FeatureOutputs:
        """Outputs of the model with its features; ValueError if it has no module named head."""
        taken: list[jax.Array] = []

        def keep(
            call: Any,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            context: nn.module.InterceptorContext,
        ):
            if context.module.path == (*self.path, "head") and context.method_name == "__call__":
                taken.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(keep):
            outputs = self.model(*inputs, train=train)
        if len(taken) != 1:
            raise ValueError(_headless(self.model, len(taken)))
        return FeatureOutputs(outputs, taken[0])


def _headless(model: nn.Module, heads: int) -> str:
    nearest = (
        "" if not hasattr(model, "fusion") else "; nearest: fusion='concat', which has one for both"
    )
    return (
        f"{type(model).__name__} has {heads} modules named head; features are those under "
        f"one{nearest}"
    )
