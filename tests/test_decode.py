"""Decoding for training: crops and RandAugment against torchvision's on the same images."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from input_pipeline import DataError, Decoding
from input_pipeline.decode import OPERATIONS, SIGNED, crop_box, decode_image, fit, rand_augment
from jaxmodels import originals


def photograph(width=61, height=47, mode="RGB"):
    """Smooth colours with noise: no operation leaves it as it is."""
    rng = np.random.default_rng(0)
    slope = np.linspace(20, 200, height)[:, None, None] + np.linspace(0, 40, width)[:, None] * (
        1,
        -1,
        0.5,
    )
    return Image.fromarray(
        (slope + rng.normal(0, 8, (height, width, 3))).clip(0, 255).astype(np.uint8)
    ).convert(mode)


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.fixture(scope="module")
def torchvision():
    originals.torchvision()
    from torchvision import transforms

    return transforms


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_torchvisions(torchvision, name):
    theirs = torchvision.RandAugment()._augmentation_space(31, (47, 61))
    assert list(theirs) == list(OPERATIONS)
    values, signed = theirs[name]
    assert signed == (name in SIGNED)
    nearest = torchvision.InterpolationMode.NEAREST
    for mode, magnitude in itertools.product(("RGB", "L"), range(31)):
        image = photograph(mode=mode)
        size = float(values[magnitude]) if values.ndim else 0.0
        for sign in (1, -1) if signed else (1,):
            expected = pixels(
                torchvision.autoaugment._apply_op(image, name, sign * size, nearest, None)
            )
            found = pixels(OPERATIONS[name](image, sign * magnitude / 30))
            if magnitude == 30 and name != "Identity" and (mode, name) != ("L", "Color"):
                assert not np.array_equal(found, pixels(image))
            difference = np.abs(found - expected)
            if name.startswith(
                "Shear"
            ):  # theirs is the tangent of an arc tangent: pixels on an edge may fall beside it
                assert (difference > 0).mean() < 0.01
            elif name in ("Brightness", "Color", "Contrast", "Sharpness"):
                # their factor is float32, ours float64
                assert difference.max() <= 1  # where a product is whole or just below
            else:
                assert not difference.any(), (mode, sign * magnitude)


def test_random_augmentation_draws_all_operations_and_both_directions(monkeypatch):
    drawn = []
    for name in OPERATIONS:
        monkeypatch.setitem(
            OPERATIONS, name, lambda image, m, name=name: drawn.append((name, m)) or image
        )
    rand_augment(np.random.default_rng(0), photograph(), 2000, 0.5)
    assert len(drawn) == 2000
    assert {n for n, _ in drawn} == set(OPERATIONS)
    assert {n for n, m in drawn if m < 0} == set(SIGNED)
    assert {abs(m) for _, m in drawn} == {0.5}


def test_crops_are_distributed_as_torchvisions(torchvision):
    """Area, shape and place of 4,000 crops; the standard error of each mean is about 1/60 of the
    spread."""
    import torch

    size, area = (300, 200), (0.08, 1.0)
    rng = np.random.default_rng(0)
    ours = np.array([crop_box(rng, *size, area) for _ in range(4000)])
    image = torch.empty(3, size[1], size[0])
    torch.manual_seed(0)
    draws = [
        torchvision.RandomResizedCrop.get_params(image, area, [3 / 4, 4 / 3]) for _ in range(4000)
    ]
    theirs = np.array([(j, i, j + w, i + h) for i, j, h, w in draws])
    assert (
        (ours[:, :2] >= 0).all() and (ours[:, 2] <= size[0]).all() and (ours[:, 3] <= size[1]).all()
    )
    for f in (
        lambda b: (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]),
        lambda b: np.log((b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1])),
        lambda b: b[:, 0] + b[:, 2],
        lambda b: b[:, 1] + b[:, 3],
    ):
        a, b = f(ours), f(theirs)
        assert abs(a.mean() - b.mean()) < 5 * b.std() * (2 / 4000) ** 0.5
        assert 0.93 < a.std() / b.std() < 1.07


@pytest.mark.parametrize("size", [16, 90])
def test_crops_are_resized_as_torchvisions(torchvision, size):
    """Reduced and enlarged; no pixel outside the crop counts."""
    file = io.BytesIO()
    photograph(200, 150).save(file, "PNG")
    for seed in range(10):
        found = decode_image(
            file.getvalue(), 3, Decoding(size, crop_area=(0.1, 0.4)), np.random.default_rng(seed)
        )
        left, top, right, bottom = crop_box(np.random.default_rng(seed), 200, 150, (0.1, 0.4))
        whole = Image.open(io.BytesIO(file.getvalue()))
        expected = torchvision.functional.resized_crop(
            whole, top, left, bottom - top, right - left, [size, size]
        )
        np.testing.assert_array_equal(found, np.asarray(expected))


def test_broken_images_are_data_errors():
    file = io.BytesIO()
    photograph().save(file, "JPEG")
    for broken in (b"garbage", b"", file.getvalue()[:300]):
        with pytest.raises(DataError, match="not a readable image"):
            decode_image(broken, 3, Decoding(16))


def test_an_image_too_long_for_any_crop_gives_its_middle():
    assert crop_box(np.random.default_rng(0), 1000, 10, (0.9, 1.0)) == (493, 0, 506, 10)
    assert crop_box(np.random.default_rng(0), 10, 1000, (0.9, 1.0)) == (0, 493, 10, 506)


@pytest.mark.parametrize("resize", [24, 28])
def test_evaluation_is_torchvisions_resize_and_centre_crop(torchvision, resize):
    for image in (photograph(61, 47), photograph(47, 60), photograph(28, 28), photograph(24, 24)):
        theirs = torchvision.Compose([torchvision.Resize(resize), torchvision.CenterCrop(24)])(
            image
        )
        ours = fit(image, (24, 24), resize)
        np.testing.assert_array_equal(pixels(ours), pixels(theirs))


def test_only_training_decodes_at_random():
    file = io.BytesIO()
    photograph().save(file, "PNG")
    decoding = Decoding(16, 20, crop_area=(0.2, 0.4))
    plain = decode_image(file.getvalue(), 3, decoding)
    np.testing.assert_array_equal(plain, decode_image(file.getvalue(), 3, Decoding(16, 20)))
    first, again, other = (
        decode_image(file.getvalue(), 3, decoding, np.random.default_rng(s)) for s in (0, 0, 1)
    )
    assert first.shape == (16, 16, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(first, plain)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 0}, "image_size 0 must be at least 1"),
        (
            {"image_size": 8, "resize_size": 7},
            "resize_size 7 is for an image_size of at most that, not 8",
        ),
        ({"resize_size": 7}, "resize_size 7 is for an image_size"),
        ({"image_size": 8, "crop_area": (0.5,)}, "crop_area .* must be two shares"),
        ({"image_size": 8, "crop_area": (0.5, 0.4)}, "crop_area .* must be two shares"),
        ({"crop_area": (0.5, 1.0)}, "needs an image_size"),
        ({"randaugment_magnitude": 2.0}, "randaugment_magnitude 2.0 in 0..1"),
    ],
)
def test_impossible_settings(fields, message):
    with pytest.raises(DataError, match=message):
        Decoding(**fields)
