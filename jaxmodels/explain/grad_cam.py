"""Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) for convolutional networks."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxmodels.capture import altering, feature_maps, nearest
from jaxmodels.explain.gradients import logit
from jaxmodels.nn.layers import at_least_float32
from jaxmodels.nn.meshes import under_auto_axes


@partial(under_auto_axes, examples=2)
def grad_cam(
    model: nn.Module,
    variables: Any,
    images: Float[Array, "b h w c"],
    target: Int[Array, " b"],
    *rest: Any,
    layer: str | None = None,
    rectified: bool = True,
) -> Float[Array, "b h w"]:
    """``relu(sum over channels k of a_k A_k)``, ``a_k`` the mean over the map of the gradient of
    the target's logit.

    Args:
      images: preprocessed.
      target: class.
      rest: the other inputs of the model, in order.
      layer: path of the module whose output is A; default: the last that gives [b, h, w, c].
      rectified: A is the positive part of that output. The paper's maps are behind a ReLU, which is
        no module: without this, a convolution's map, which is mostly negative, is often nowhere
          positive in the sum.

    Returns:
      The map, bilinearly resized to the images, in float32 or wider.

    Raises:
      ValueError: no such layer (the nearest is named), or no layer that gives maps.
    """
    maps = feature_maps(model, variables, images, *rest)
    if not maps:
        raise ValueError(
            f"{type(model).__name__} has no feature maps [b, h, w, c]: Grad-CAM is for convolutions"
        )
    if layer is None:
        layer = list(maps)[-1]
    if layer not in maps:
        raise ValueError(
            f"{layer!r} gives no feature map{nearest(layer, maps)}; {', '.join(maps)} do"
        )

    def score(change: jax.Array) -> tuple[jax.Array, jax.Array]:
        kept = []

        def changed(features: jax.Array) -> jax.Array:
            kept.append(features)
            return features + change.astype(features.dtype)

        with altering(layer, output=changed):
            logits = model.apply(variables, images, *rest, train=False)
        return logit(logits, target).sum(), kept[0]

    zero = jnp.zeros(maps[layer].shape, jnp.promote_types(maps[layer].dtype, jnp.float32))
    gradient, features = jax.grad(score, has_aux=True)(zero)
    features = at_least_float32(nn.relu(features) if rectified else features)
    cam = nn.relu((gradient.mean((1, 2), keepdims=True) * features).sum(-1))
    return jax.image.resize(cam, images.shape[:3], "bilinear")
