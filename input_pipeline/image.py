"""Augmentation of image batches on the device: pure functions, to be called inside the jitted
training step.

Every random function draws batch-shaped numbers from its key, so the result depends on the key and
the global batch alone, not on how it is laid out over devices. Order in training: crop, flip, erase
on uint8; normalise; mixup.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8
from numpy.typing import DTypeLike

from input_pipeline.errors import DataError


def normalize(
    image: UInt8[Array, "b h w c"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b h w c"]:
    """Returns (image / 255 - mean) / std, computed in float32 and then cast.

    Args:
        image: pixels 0..255.
        mean: in units of the full range (0..1), one value or one per channel.
        std: likewise.
        dtype: of the result.

    Raises:
        DataError: mean or std has a length other than 1 or c.
    """
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, image.shape[-1]):
            raise DataError(
                f"{name} {values} must have 1 value or one for each of the {image.shape[-1]} "
                "channels"
            )
    # One multiplication and one addition per pixel.
    scale = 1.0 / (255.0 * jnp.array(std, jnp.float32))
    shift = jnp.array(mean, jnp.float32) / jnp.array(std, jnp.float32)
    return (image.astype(jnp.float32) * scale - shift).astype(dtype)


def pad_crop(
    key: PRNGKeyArray, image: UInt8[Array, "b h w c"], padding: int
) -> UInt8[Array, "b h w c"]:
    """Pads each side with `padding` zero pixels and cuts a window of the original size at a random
    place per image."""
    offset = jax.random.randint(key, (image.shape[0], 2), 0, 2 * padding + 1)  # [b, (y, x)]
    padded = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return jax.vmap(lambda x, yx: jax.lax.dynamic_slice(x, (yx[0], yx[1], 0), image.shape[1:]))(
        padded, offset
    )


def random_flip(key: PRNGKeyArray, image: UInt8[Array, "b h w c"]) -> UInt8[Array, "b h w c"]:
    """Mirrors each image left to right with probability 1/2."""
    flip = jax.random.bernoulli(key, 0.5, (image.shape[0], 1, 1, 1))
    return jnp.where(flip, image[:, :, ::-1], image)


def random_erasing(
    key: PRNGKeyArray,
    image: UInt8[Array, "b h w c"],
    probability: float,
    area: tuple[float, float] = (0.02, 0.33),
    aspect: tuple[float, float] = (0.3, 3.3),
) -> UInt8[Array, "b h w c"]:
    """Replaces a random rectangle of some images by uniform noise (Zhong et al. 2017, their variant
    RE-R).

    The height / width ratio is drawn log-uniformly, so that tall and wide are equally likely, and a
    side that would exceed the image is cut to it; the paper draws uniformly, and again until the
    rectangle fits.

    Args:
        key: random key.
        image: pixels 0..255.
        probability: that an image is erased, 0..1.
        area: smallest and largest share of the image's area to erase.
        aspect: smallest and largest height / width of the rectangle.
    """
    b, h, w, c = image.shape
    draw_key, noise_key, shift_key = jax.random.split(key, 3)
    draws = jax.random.uniform(draw_key, (5, b, 1, 1, 1))
    pixels = (area[0] + draws[0] * (area[1] - area[0])) * h * w
    ratio = aspect[0] * (aspect[1] / aspect[0]) ** draws[1]
    height = jnp.clip(jnp.round(jnp.sqrt(pixels * ratio)), 1, h)
    width = jnp.clip(jnp.round(jnp.sqrt(pixels / ratio)), 1, w)
    inside = _between(jnp.arange(h)[:, None, None], draws[2], height, h) & _between(
        jnp.arange(w)[None, :, None], draws[3], width, w
    )
    # One noise image, shifted by a random amount for each example: within an example as uniform as
    # independent noise, which would take longer to draw than all the rest.
    noise = jax.random.bits(noise_key, (1, h, w, c), jnp.uint8) + jax.random.bits(
        shift_key, (b, 1, 1, 1), jnp.uint8
    )
    return jnp.where(inside & (draws[4] < probability), noise, image)


def _between(
    index: Int[Array, "h w c"],
    draw: Float[Array, "b 1 1 1"],
    length: Float[Array, "b 1 1 1"],
    size: int,
) -> Bool[Array, "b h w c"]:
    """Tells which indices lie in a window of `length` whose place among all places in 0..size is
    `draw` in [0, 1)."""
    start = jnp.floor(draw * (size - length + 1))
    return (index >= start) & (index < start + length)


def augment(
    key: PRNGKeyArray,
    image: UInt8[Array, "b h w c"],
    *,
    crop_padding: int = 0,
    flip: bool = False,
    erasing: float = 0.0,
) -> UInt8[Array, "b h w c"]:
    """Applies `pad_crop`, `random_flip` and `random_erasing`, each only if switched on.

    Args:
        key: random key.
        image: pixels 0..255.
        crop_padding: zero pixels on each side before the random crop; 0 does not crop.
        flip: whether to mirror half of the images.
        erasing: probability of erasing a rectangle.
    """
    # Each part has its own key whether or not the others are on: switching one does not change the
    # others' draws.
    crop_key, flip_key, erase_key = jax.random.split(key, 3)
    if crop_padding:
        image = pad_crop(crop_key, image, crop_padding)
    if flip:
        image = random_flip(flip_key, image)
    if erasing:
        image = random_erasing(erase_key, image, erasing)
    return image


def mixup(
    key: PRNGKeyArray, image: Float[Array, "b h w c"], target: Float[Array, "b k"], alpha: float
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
    """Mixes each example with its neighbour in the (shuffled) batch, lambda ~ Beta(alpha, alpha)
    (Zhang et al. 2018).

    Args:
        key: random key; one lambda is drawn for the whole batch.
        image: normalised images.
        target: float32 class probabilities, such as one-hot labels.
        alpha: positive; larger mixes more evenly.

    Returns:
        lambda x + (1 - lambda) roll(x, 1) of images and targets; each row of targets keeps its sum.
    """
    weight = jax.random.beta(key, alpha, alpha)

    def mix(x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        return (weight * x + (1 - weight) * jnp.roll(x, 1, axis=0)).astype(x.dtype)

    return mix(image), mix(target)


def preprocess_train(
    key: PRNGKeyArray,
    batch: dict[str, Any],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    num_classes: int,
    crop_padding: int = 0,
    flip: bool = False,
    erasing: float = 0.0,
    mixup: float = 0.0,
    dtype: DTypeLike = jnp.float32,
) -> dict[str, Any]:
    """Turns a loader's batch into a training batch.

    Args:
        key: random key of this step.
        batch: dict with image uint8 [b, h, w, c] and, to be mixed, label int32 [b].
        mean: see `normalize`, as for `std` and `dtype`.
        std: see `normalize`.
        num_classes: size of the soft labels that mixup makes.
        crop_padding: see `augment`, as for `flip` and `erasing`.
        flip: see `augment`.
        erasing: see `augment`.
        mixup: alpha of mixup; 0 does not mix.
        dtype: of the image.

    Returns:
        The batch with `image` of `dtype` and, if mixup > 0, `label` float32 [b, num_classes];
        other entries as they were.
    """
    augment_key, mixup_key = jax.random.split(key)
    image = augment(
        augment_key, batch["image"], crop_padding=crop_padding, flip=flip, erasing=erasing
    )
    image = normalize(image, mean, std, dtype)
    if not mixup:
        return {**batch, "image": image}
    image, label = _mix_labels(mixup_key, image, batch["label"], num_classes, mixup)
    return {**batch, "image": image, "label": label}


def _mix_labels(
    key: PRNGKeyArray,
    image: Float[Array, "b h w c"],
    label: Int[Array, " b"],
    num_classes: int,
    alpha: float,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
    return mixup(key, image, jax.nn.one_hot(label, num_classes), alpha)


def preprocess_eval(
    batch: dict[str, Any],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: DTypeLike = jnp.float32,
) -> dict[str, Any]:
    """Returns the batch with `image` normalised (see `normalize`) and everything else as it was."""
    return {**batch, "image": normalize(batch["image"], mean, std, dtype)}
