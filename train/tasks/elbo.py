"""Variational autoencoders: the evidence lower bound (Kingma & Welling 2014, arXiv:1312.6114)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from input_pipeline import image
from jaxmodels.families.vae.model import VAEOutputs
from train.options.fields import ConfigError, limit
from train.state import TrainState
from train.step import Batch, Metric, Metrics, predict_step
from train.task import Bundle, Setting, Task, fixed_key, without_labels
from train.tasks import pictures
from train.tasks.averaged import averaged
from train.tasks.preprocessing import row_keys


def elbo(outputs: VAEOutputs, batch: dict[str, Array], *, beta: float = 1.0) -> dict[str, Metric]:
    """Negative evidence lower bound of a variational autoencoder in nats, as weighted sums over
    images.

    ``loss = sum_b w_b (-log p(x_b | z_b) + beta KL(q(z | x_b) || N(0, 1)))`` with one draw ``z_b``
    of q, and, for the diagonal normal q, ``KL = 1/2 sum_i (mean_i^2 + exp(v_i) - 1 - v_i)`` with v
    the log variance (Kingma & Welling 2014, appendix B). ``beta`` other than 1 is the beta-VAE
    (Higgins et al. 2017); ``elbo`` is the bound itself, with beta = 1 and higher being better,
    ``reconstruction`` is ``-log p(x | z)``.

    Args:
      batch: ``image`` as the model got it; ``weight`` float [b], 0 for padding.
    """
    mean, log_variance = outputs.mean, outputs.log_variance
    weight = batch["weight"].astype(mean.dtype)
    count = weight.sum()
    kl = 0.5 * (jnp.square(mean) + jnp.expm1(log_variance) - log_variance).sum(-1)  # [b]
    reconstruction = -log_likelihood(outputs, batch["image"])  # [b]
    values = {
        "loss": reconstruction + beta * kl,
        "elbo": -(reconstruction + kl),
        "reconstruction": reconstruction,
        "kl": kl,
    }
    return {name: ((value * weight).sum(), count) for name, value in values.items()}


def log_likelihood(outputs: VAEOutputs, image: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """log p(x | z) of each image: Bernoulli by logits, or normal where the model has a
    ``log_sigma``."""
    # one axis of values: XLA for CPUs sums over a last axis of one several times as slowly
    decoded = outputs.reconstruction.reshape(len(image), -1)
    image = image.reshape(len(image), -1).astype(decoded.dtype)
    if outputs.log_sigma is None:
        values = -optax.sigmoid_binary_cross_entropy(decoded, image)
    else:
        distance = (image - decoded) * jnp.exp(-outputs.log_sigma)
        values = -0.5 * jnp.square(distance) - outputs.log_sigma - 0.5 * math.log(2 * math.pi)
    return values.sum(1)


def importance_weighted_log_likelihood(
    forward: Callable[[Array, Array], VAEOutputs],
    image: Float[Array, "b h w c"],
    noise: Float[Array, "k b latent"],
) -> Float[Array, " b"]:
    """Estimates log p(x) of each image from k draws of z (Burda et al. 2016, arXiv:1509.00519,
    equation 8).

    ``log 1/k sum_k p(x, z_k) / q(z_k | x)``, in expectation a lower bound of log p(x) that rises
    with k; with one draw it is the ELBO with the Kullback-Leibler divergence taken at that draw.

    Args:
      forward: (image, noise [b, latent]) -> outputs; called for one k at a time, so memory is that
        of one.
      noise: standard normal.
    """

    def log_weight(noise: Float[Array, "b latent"]) -> Float[Array, " b"]:
        outputs = forward(image, noise)
        noise = noise.astype(outputs.mean.dtype)
        latent = outputs.mean + jnp.exp(0.5 * outputs.log_variance) * noise
        # log p(z) - log q(z | x); the constants cancel, and (z - mean) / deviation is the noise
        ratio = 0.5 * (jnp.square(noise) - jnp.square(latent) + outputs.log_variance).sum(-1)
        return log_likelihood(outputs, image) + ratio

    return jax.nn.logsumexp(jax.lax.map(log_weight, noise), axis=0) - math.log(len(noise))


@dataclass
class ELBOOptions:
    """Options of the task."""

    # weight of the Kullback-Leibler divergence in the loss
    beta: float = field(default=1.0, metadata=limit(low=0))
    # draws per image for log p(x) at the end
    importance_samples: int = field(default=64, metadata=limit(low=1, high=2**20))


def _make(setting: Setting) -> Task:
    model, data = setting.model, setting.data
    low, high = (
        [(x - m) / s for m, s in zip(data.mean, data.std, strict=True)] for x in (0.0, 1.0)
    )  # what black and white become
    if model.likelihood == "bernoulli" and (min(low) < 0 or max(high) > 1):
        raise ConfigError(
            f"config.data.mean = {data.mean} and config.data.std = {data.std} take pixels to "
            f"[{min(low):g}, {max(high):g}], and the Bernoulli likelihood is for [0, 1]; nearest: "
            "mean 0 and std 1, or config.model_fields.likelihood=gaussian"
        )

    def draw(key: PRNGKeyArray, batch: Batch) -> Float[Array, "b latent"]:
        return jax.random.normal(key, (len(batch["image"]), model.latent_size))

    def train_batch(key: PRNGKeyArray, batch: Batch) -> Batch:
        augment_key, noise_key = jax.random.split(key)
        pixels = image.augment(
            augment_key,
            batch["image"],
            crop_padding=data.crop_padding,
            flip=data.flip,
            erasing=data.erasing,
        )
        # float32 whatever the model computes in: these are also the targets
        return {
            **batch,
            "image": image.normalize(pixels, data.mean, data.std),
            "noise": draw(noise_key, batch),
        }

    def eval_batch(batch: Batch) -> Batch:
        """Noise is drawn from (seed, place in the batch), so every evaluation has the same, and so
        has every batch."""
        keys = row_keys(fixed_key(setting.seed, 0), len(batch["image"]))
        noise = jax.vmap(lambda key: jax.random.normal(key, (model.latent_size,)))(keys)
        return {
            **batch,
            "image": image.normalize(batch["image"], data.mean, data.std),
            "noise": noise,
        }

    def likelihood(state: TrainState, batch: Batch) -> Metrics:
        batch = eval_batch(batch)
        keys = jax.random.split(fixed_key(setting.seed, 1), setting.options.importance_samples)
        noise = jax.vmap(draw, (0, None))(keys, batch)
        forward = partial(predict_step, state, model=model)
        values = importance_weighted_log_likelihood(forward, batch["image"], noise)
        return {
            "importance_weighted_log_likelihood": (
                (values * batch["weight"]).sum(),
                batch["weight"].sum(),
            )
        }

    objective = partial(elbo, beta=setting.options.beta)
    return Task(
        BUNDLE,
        train_objective=objective,
        eval_objective=objective,
        train_batch=train_batch,
        eval_batch=eval_batch,
        inputs=("image", "noise"),
        reports=(pictures.REPORT, averaged("likelihood", likelihood)),
    )


BUNDLE = Bundle(
    "elbo",
    _make,
    outputs=("vae",),
    options=ELBOOptions,
    suits=("prune.method",),
    check=without_labels,
    score="elbo",
    lower_is_better=False,
    writes=pictures.write,
)
