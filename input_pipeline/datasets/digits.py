"""The UCI handwritten digits that scikit-learn bundles: 1,797 grey images of 8 x 8 pixels, no
download.

Kaynak 1995, "Methods of Combining Multiple Classifiers and Their Applications to Handwritten Digit
Recognition".
"""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.datasets.builder import ArrayBuilder


class Digits(ArrayBuilder, skip_registration=True):
    """Handwritten digits; image uint8 [8, 8, 1] (the original 0..16 scaled to 0..255), label 0..9.

    Example i goes to `test` (359 examples) if i % 5 == 4, else to `train` (1,438). As in the usual
    random split, the same writers appear in both.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="UCI handwritten digits (the copy bundled with scikit-learn), 8 x 8 "
            "pixels.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        # imports SciPy: seconds that only preparation should cost
        from sklearn.datasets import load_digits

        digits = load_digits()
        image = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
        test = np.arange(len(image)) % 5 == 4
        return {
            "train": self._generate_examples(image[~test], label=digits.target[~test]),
            "test": self._generate_examples(image[test], label=digits.target[test]),
        }
