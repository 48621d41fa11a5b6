"""PyTorch formats of the VAE."""

import jax.numpy as jnp

from jaxmodels.families.vae.model import VAE
from jaxmodels.foreign.formats import Formats, Rules, Shape
from jaxmodels.foreign.rules import (
    CONV,
    CONV_TRANSPOSE,
    LINEAR,
    Rule,
    Tensor,
    linear_after_flatten,
    linear_before_unflatten,
)


def _vae(model: VAE, shape: Shape) -> Rules:
    """Module lists with our names; images and maps are flattened channel first."""
    height, width = shape[:2]
    if model.kind == "mlp":
        image = linear_after_flatten(height, width)
        encoder = tuple(
            Rule(f"encoder_dense.{i}", f"encoder_dense_{i}", LINEAR if i else image)
            for i in range(len(model.hidden_sizes))
        )
        decoder = (Rule("decoder_dense.{i}", "decoder_dense_{i}", LINEAR),)
        last, code = (
            (Rule("decoder_out", "decoder_out", linear_before_unflatten(height, width)),),
            LINEAR,
        )
    else:
        unit = 2 ** len(model.features)
        encoder = (Rule("encoder_conv.{i}", "encoder_conv_{i}", CONV),)
        first = linear_before_unflatten(height // unit, width // unit)
        decoder = (Rule("decoder_dense.0", "decoder_dense_0", first),)
        last = (Rule("decoder_conv.{i}", "decoder_conv_{i}", CONV_TRANSPOSE),)
        code = linear_after_flatten(height // unit, width // unit)
    heads = (Rule("mean", "mean", code), Rule("log_variance", "log_variance", code))
    return encoder + heads + decoder + last + (Rule("", "", (Tensor("log_sigma", "log_sigma"),)),)


FORMATS = Formats(
    {"torch": _vae},
    None,
    lambda model, shape: (jnp.zeros((1, *shape)), jnp.zeros((1, model.latent_size))),
    silent=("kind", "likelihood", "activation"),
)
