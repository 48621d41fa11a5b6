"""Variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114).

Parity reference: ``pytorch/examples/vae`` (784-400-20, 20-400-784) for the MLP, and
``torch.nn.Conv2d`` and ``torch.nn.ConvTranspose2d`` (kernel 4, stride 2, padding 1) for the
convolutional one. Initial values are PyTorch's defaults. Deliberate differences: the noise is an
input, so that the model is a pure function of its inputs and a twin can be fed the same draws; the
decoder returns logits, not probabilities, so that the likelihood is exact however large they are;
images are flattened in the order height, width, channel.
"""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxmodels.nn.layers import (
    ACTIVATIONS,
    at_least_float32,
    conv,
    require_choice,
    require_positive,
    torch_bias,
    torch_uniform,
    zeros,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh


class VAEOutputs(NamedTuple):
    """What the objective needs, in float32 or wider."""

    # logits of the pixels (bernoulli) or their means (gaussian)
    reconstruction: Float[Array, "b h w c"]
    mean: Float[Array, "b latent"]  # of q(z | x)
    log_variance: Float[Array, "b latent"]  # of q(z | x)
    log_sigma: Float[Array, ""] | None  # of the pixels (gaussian)


@on_any_mesh
class VAE(nn.Module):
    """Encoder to a diagonal normal q(z | x), one reparametrised draw of z, decoder to p(x | z); the
    prior is N(0, 1).

    The Bernoulli likelihood takes pixels in [0, 1]; on greys it is no density, but it is what is
    commonly reported. The normal one has a single learned deviation for all pixels: fixed at 1 it
    is so flat on pixels in [0, 1] that z is hardly used, and one for each pixel makes the
    likelihood unbounded (Rybkin et al. 2021, arXiv:2006.13202).

    Attributes:
      image_shape: (height, width, channels).
      latent_size: size of z.
      kind: ``"mlp"``, or ``"conv"``: 4x4 convolutions with stride 2, and as many transposed ones in
        the decoder.
      hidden_sizes: width of each hidden layer of the MLP's encoder, first to last; the decoder's
        are the reverse.
      features: output channels of each convolution of the encoder, first to last; the decoder's are
        the reverse.
      likelihood: ``"bernoulli"`` (the decoder gives logits) or ``"gaussian"`` (means, and one
        learned ``log_sigma``).
      activation: of the hidden layers.
      dtype: compute dtype; param_dtype: storage dtype.
    """

    image_shape: tuple[int, ...]
    latent_size: int = 20
    kind: str = "mlp"
    hidden_sizes: tuple[int, ...] = (400,)
    features: tuple[int, ...] = (32, 64)
    likelihood: str = "bernoulli"
    activation: str = "relu"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Makes the layers that ``encode`` and ``decode`` share with ``__call__``.

        Raises:
          ValueError: a field that cannot be, or images that the convolutions cannot halve evenly.
        """
        require_choice("kind", self.kind, ("mlp", "conv"))
        require_choice("likelihood", self.likelihood, ("bernoulli", "gaussian"))
        require_choice("activation", self.activation, tuple(ACTIVATIONS))
        require_positive(
            latent_size=self.latent_size, hidden_sizes=self.hidden_sizes, features=self.features
        )
        if len(self.image_shape) != 3:
            raise ValueError(f"image_shape {self.image_shape} is not (height, width, channels)")
        height, width, channels = self.image_shape
        if self.kind == "mlp":
            sizes = (math.prod(self.image_shape), *self.hidden_sizes)
            encoded = sizes[-1]
            self.encoder_dense = [
                self._dense(n, m, f"encoder_dense_{i}") for i, (n, m) in enumerate(pairwise(sizes))
            ]
            sizes = (self.latent_size, *reversed(self.hidden_sizes))
            self.decoder_dense = [
                self._dense(n, m, f"decoder_dense_{i}") for i, (n, m) in enumerate(pairwise(sizes))
            ]
            self.decoder_out = self._dense(sizes[-1], math.prod(self.image_shape), "decoder_out")
        else:
            unit = 2 ** len(self.features)
            if height % unit or width % unit:
                raise ValueError(
                    f"image_shape {self.image_shape} cannot be halved {len(self.features)} times: "
                    f"height and width must be multiples of {unit}, or features {self.features} "
                    "fewer"
                )
            sizes = (channels, *self.features)
            self.map_shape = (height // unit, width // unit, sizes[-1])
            encoded = math.prod(self.map_shape)
            dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            self.encoder_conv = [
                conv(
                    m,
                    4,
                    stride=2,
                    padding=1,
                    bias_init=torch_bias(16 * n),
                    name=f"encoder_conv_{i}",
                    **dtypes,
                )
                for i, (n, m) in enumerate(pairwise(sizes))
            ]
            self.decoder_dense = [self._dense(self.latent_size, encoded, "decoder_dense_0")]
            self.decoder_conv = [
                # kernels are [h, w, out, in] and not flipped, as PyTorch's, whose fan_in is taken
                # from out; padding is that of the dilated map: kernel - 1 - PyTorch's padding
                nn.ConvTranspose(
                    n,
                    (4, 4),
                    strides=(2, 2),
                    padding=((2, 2), (2, 2)),
                    transpose_kernel=True,
                    kernel_init=torch_uniform,
                    bias_init=torch_bias(16 * n),
                    name=f"decoder_conv_{i}",
                    **dtypes,
                )
                for i, n in enumerate(reversed(sizes[:-1]))
            ]
        self.mean = self._dense(encoded, self.latent_size, "mean")
        self.log_variance = self._dense(encoded, self.latent_size, "log_variance")
        if self.likelihood == "gaussian":
            self.log_sigma = self.param("log_sigma", zeros, (), self.param_dtype)

    def __call__(
        self, image: Float[Array, "b h w c"], noise: Float[Array, "b latent"], *, train: bool
    ) -> VAEOutputs:
        """Encodes, draws ``z = mean + exp(log_variance / 2) * noise`` and decodes; nothing depends
        on ``train``.

        Args:
          noise: standard normal.

        Raises:
          ValueError: images or noise of another shape than the model's.
        """
        mean, log_variance = self.encode(image)
        if noise.shape != mean.shape:
            raise ValueError(
                f"noise of {noise.shape} is not of [images, latent_size] = {mean.shape}"
            )
        latent = mean + jnp.exp(0.5 * log_variance) * noise
        log_sigma = at_least_float32(self.log_sigma) if self.likelihood == "gaussian" else None
        return VAEOutputs(self.decode(latent), mean, log_variance, log_sigma)

    def encode(
        self, image: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b latent"], Float[Array, "b latent"]]:
        """Mean and log variance of q(z | x) for images of ``image_shape``."""
        if image.shape[1:] != self.image_shape:
            raise ValueError(
                f"images of {image.shape[1:]} are not of image_shape {self.image_shape}"
            )
        x, activation = image, ACTIVATIONS[self.activation]
        if self.kind == "conv":
            for layer in self.encoder_conv:
                x = constrain_batch(activation(layer(x)))
        x = rearrange(x, "b h w c -> b (h w c)")
        if self.kind == "mlp":
            for layer in self.encoder_dense:
                x = constrain_batch(activation(layer(x)))
        return at_least_float32(self.mean(x)), at_least_float32(self.log_variance(x))

    def decode(self, latent: Float[Array, "b latent"]) -> Float[Array, "b h w c"]:
        """Logits (bernoulli) or means (gaussian) of the pixels for draws of z."""
        x, activation = latent, ACTIVATIONS[self.activation]
        for layer in self.decoder_dense:
            x = constrain_batch(activation(layer(x)))
        if self.kind == "mlp":
            height, width, channels = self.image_shape
            x = rearrange(
                self.decoder_out(x), "b (h w c) -> b h w c", h=height, w=width, c=channels
            )
        else:
            height, width, channels = self.map_shape
            x = rearrange(x, "b (h w c) -> b h w c", h=height, w=width, c=channels)
            for i, layer in enumerate(self.decoder_conv):
                x = constrain_batch(layer(activation(x) if i else x))
        return at_least_float32(x)

    def _dense(self, inputs: int, outputs: int, name: str) -> nn.Dense:
        return nn.Dense(
            outputs,
            kernel_init=torch_uniform,
            bias_init=torch_bias(inputs),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )


def vae(**fields: Any) -> VAE:
    """Autoencoder of dense layers (Kingma & Welling 2014).

    Hidden layers of 400, 20 latent numbers, 652,824 parameters for 28x28 greys.
    """
    return VAE(**fields)


def vae_conv(*, kind: str = "conv", **fields: Any) -> VAE:
    """Convolutional autoencoder (Kingma & Welling 2014).

    Two convolutions to 20 latent numbers, 258,025 parameters for 28x28 greys.
    """
    return VAE(kind=kind, **fields)
