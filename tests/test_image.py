"""Augmentation on the device: each function against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import DataError, image

KEY = jax.random.key(0)


@pytest.fixture
def images() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(1, 256, (64, 12, 10, 3), np.uint8))


def test_normalize(images):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    expected = (np.asarray(images, np.float64) / 255 - mean) / std
    np.testing.assert_allclose(image.normalize(images, mean, std), expected, rtol=1e-6, atol=1e-6)
    one = image.normalize(images, (0.5,), (0.5,))
    np.testing.assert_allclose(
        one, np.asarray(images, np.float64) / 127.5 - 1, rtol=1e-6, atol=1e-6
    )
    assert image.normalize(images, mean, std, jnp.bfloat16).dtype == jnp.bfloat16
    with pytest.raises(
        DataError, match=r"mean \(0\.1, 0\.2\) must have 1 value or one for each of the 3 channels"
    ):
        image.normalize(images, (0.1, 0.2), std)


def test_pad_crop_is_a_slice_of_the_padded_image(images):
    cropped = np.asarray(image.pad_crop(KEY, images, 3))
    offset = np.asarray(jax.random.randint(KEY, (64, 2), 0, 7))
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)))
    for i, (y, x) in enumerate(offset):
        np.testing.assert_array_equal(cropped[i], padded[i, y : y + 12, x : x + 10])
    assert set(offset.ravel()) == set(range(7))  # every place occurs, the last one too


def test_flip_mirrors_some_and_undoes_itself(images):
    flipped = image.random_flip(KEY, images)
    mirrored = np.array(
        [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, images, strict=True)]
    )
    same = np.array([np.array_equal(a, b) for a, b in zip(flipped, images, strict=True)])
    assert (mirrored ^ same).all()
    assert 16 < mirrored.sum() < 48
    np.testing.assert_array_equal(image.random_flip(KEY, flipped), images)


def test_erasing_replaces_a_rectangle_within_the_bounds():
    black = jnp.zeros((512, 40, 30, 3), jnp.uint8)
    erased = np.asarray(image.random_erasing(KEY, black, 1.0)).any(axis=3)
    heights, widths = erased.any(axis=2).sum(axis=1), erased.any(axis=1).sum(axis=1)
    filled = erased.sum(axis=(1, 2)) / (heights * widths)
    assert filled.min() > 0.99  # solid, but for noise that happens to be black
    for sides, size in ((erased.any(axis=2), 40), (erased.any(axis=1), 30)):
        runs = np.diff(np.pad(sides, ((0, 0), (1, 1))).astype(int), axis=1)
        assert (np.abs(runs).sum(axis=1) == 2).all()  # one interval
        starts = runs.argmax(axis=1)
        assert starts.min() == 0
        assert (starts + sides.sum(axis=1)).max() == size  # reaches both ends
    share = heights * widths / (40 * 30)
    rounding = (heights + widths) / 2 / (40 * 30)  # each side is rounded by at most half a pixel
    assert (share <= 0.33 + rounding).all()
    assert (share >= 0.02 - rounding).all()
    assert share.max() > 0.28
    assert share.min() < 0.04
    assert 0.35 < (heights > widths).mean() < 0.65  # tall and wide alike


def test_erasing_probability_and_noise(images):
    many = jnp.tile(images, (16, 1, 1, 1))
    changed = np.asarray((image.random_erasing(KEY, many, 0.25) != many).any(axis=(1, 2, 3)))
    assert 0.2 < changed.mean() < 0.3
    np.testing.assert_array_equal(image.random_erasing(KEY, images, 0.0), images)
    # the whole image, h / w = 12 / 10
    noise = np.asarray(image.random_erasing(KEY, many, 1.0, (1.0, 1.0), (1.2, 1.2)))
    assert abs(noise.mean() - 127.5) < 2
    assert abs(noise.std() - 73.9) < 2
    assert len(np.unique(noise[0])) > 100


def test_mixup_is_one_convex_combination(images):
    x = image.normalize(images, (0.5,), (0.25,))
    target = jax.nn.one_hot(jnp.arange(64) % 10, 10)
    mixed, labels = image.mixup(KEY, x, target, 0.4)
    weight = float(labels[0, 0])  # example 0 is of class 0, its partner (63) of class 3
    assert 0 < weight < 1
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        labels, weight * target + (1 - weight) * np.roll(target, 1, axis=0), atol=1e-6
    )
    np.testing.assert_allclose(mixed, weight * x + (1 - weight) * np.roll(x, 1, axis=0), atol=1e-5)
    weights = [float(image.mixup(jax.random.key(i), x, target, 0.4)[1][0, 0]) for i in range(40)]
    assert len(set(weights)) == 40
    assert min(weights) < 0.2 < 0.8 < max(weights)


def test_train_preprocessing_without_options_is_eval_preprocessing(images):
    batch = {"image": images, "label": jnp.arange(64, dtype=jnp.int32) % 10, "weight": jnp.ones(64)}
    statistics = {"mean": (0.5,), "std": (0.25,)}
    train = image.preprocess_train(KEY, batch, **statistics, num_classes=10)
    evaluated = image.preprocess_eval(batch, **statistics)
    for key in batch:
        np.testing.assert_array_equal(train[key], evaluated[key])
    np.testing.assert_array_equal(train["label"], batch["label"])
    assert batch["image"].dtype == jnp.uint8


@pytest.mark.parametrize("mixup", [0.0, 0.2])
def test_train_preprocessing_depends_on_the_key_alone(images, mixup):
    batch = {"image": images, "label": jnp.arange(64, dtype=jnp.int32) % 10, "weight": jnp.ones(64)}

    def preprocess(key, batch):
        options = {
            "crop_padding": 2,
            "flip": True,
            "erasing": 0.5,
            "mixup": mixup,
            "dtype": jnp.bfloat16,
        }
        return image.preprocess_train(
            key, batch, mean=(0.5,), std=(0.25,), num_classes=10, **options
        )

    first, again, other = (jax.jit(preprocess)(key, batch) for key in (KEY, KEY, jax.random.key(1)))
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (np.asarray(first["image"]) != np.asarray(other["image"])).mean() > 0.5
    assert first["image"].dtype == jnp.bfloat16
    assert (first["label"].shape, first["label"].dtype) == (
        ((64, 10), jnp.float32) if mixup else ((64,), jnp.int32)
    )
    np.testing.assert_array_equal(first["weight"], batch["weight"])


def test_one_option_does_not_change_the_draws_of_another(images):
    cropped = image.augment(KEY, images, crop_padding=2)
    both = image.augment(KEY, images, crop_padding=2, flip=True)
    restored = [
        np.array_equal(a, b) or np.array_equal(a, b[:, ::-1])
        for a, b in zip(both, cropped, strict=True)
    ]
    assert all(restored)
    np.testing.assert_array_equal(image.augment(KEY, images), images)
