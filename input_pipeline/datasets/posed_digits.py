"""Handwritten digits that are turned and moved: images with a number, or with several.

The digits are those that scikit-learn bundles (see `digits`). What is learned is how an image was
turned and moved, which is how scans are straightened.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from input_pipeline.datasets.builder import ArrayBuilder

SIDE, TURN, MOVE = 16, 45.0, 3.0
"""Pixels of a side, most degrees, most pixels."""


class TurnedDigits(ArrayBuilder, skip_registration=True):
    """Handwritten digits on 16 x 16 pixels, turned by -45 to 45 degrees, which are the label.

    Every digit of `digits` appears once, in its split there (1,438 and 359). The angles are drawn
    evenly, always the same.
    """

    VERSION = tfds.core.Version("1.0.0")
    NAMES: ClassVar[tuple[str, ...]] = ("degrees",)

    def _info(self) -> tfds.core.DatasetInfo:
        names = tfds.features.Documentation(desc=", ".join(self.NAMES))
        shape = () if len(self.NAMES) == 1 else (len(self.NAMES),)
        return tfds.core.DatasetInfo(
            builder=self,
            description="UCI handwritten digits (the copy bundled with scikit-learn), turned and "
            "moved.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIDE, SIDE, 1)),
                    "label": tfds.features.Tensor(shape=shape, dtype=np.float32, doc=names),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        # imports SciPy: seconds that only preparation should cost
        from sklearn.datasets import load_digits

        images = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
        most = np.array([TURN, MOVE, MOVE])
        drawn = np.random.default_rng(0).uniform(-most, most, (len(images), 3))
        drawn = drawn.astype(np.float32)[:, : len(self.NAMES)]
        turned = np.stack([posed(*pair) for pair in zip(images, drawn, strict=True)])
        label = drawn[:, 0] if len(self.NAMES) == 1 else drawn
        test = np.arange(len(images)) % 5 == 4
        return {
            "train": self._generate_examples(turned[~test], label=label[~test]),
            "test": self._generate_examples(turned[test], label=label[test]),
        }


class PosedDigits(TurnedDigits, skip_registration=True):
    """Handwritten digits on 16 x 16 pixels, turned by -45 to 45 degrees and moved by up to 3
    pixels to the right and down: three numbers.

    Splits and angles are those of `turned_digits`.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("degrees", "right", "down")


def posed(image: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Returns an image uint8 [8, 8] turned counter-clockwise and moved, uint8 [16, 16, 1].

    Args:
        image: of a digit.
        pose: degrees and, if there are three, pixels to the right and down.
    """
    canvas = PIL.Image.new("L", (SIDE, SIDE))
    canvas.paste(PIL.Image.fromarray(image), ((SIDE - 8) // 2, (SIDE - 8) // 2))
    right, down = (float(x) for x in pose[1:]) if len(pose) > 1 else (0.0, 0.0)
    found = canvas.rotate(float(pose[0]), PIL.Image.Resampling.BILINEAR, translate=(right, down))
    return np.asarray(found)[..., np.newaxis]
