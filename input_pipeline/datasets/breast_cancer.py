"""The Wisconsin diagnostic breast cancer data that scikit-learn bundles: 569 patients, 30 numbers
each, no download.

Street, Wolberg & Mangasarian 1993, "Nuclear feature extraction for breast tumor diagnosis", SPIE
1905, 861-870.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.datasets.builder import RawBuilder

_SHAPES = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
)
_SHAPES = (*_SHAPES, "symmetry", "fractal dimension")
COLUMNS = tuple(
    f(s) for f in ("mean {}".format, "{} error".format, "worst {}".format) for s in _SHAPES
)


class BreastCancer(RawBuilder, skip_registration=True):
    """Cell nuclei of breast masses; features float32 [30], label 0 benign (357 patients), 1
    malignant (212).

    scikit-learn has the labels the other way round; here malignant is the positive class, as in
    diagnosis. Of the patients of a class, in scikit-learn's order, number i goes to `validation` if
    i % 5 == 3, to `test` if i % 5 == 4, else to `train`: 343, 113 and 113 patients, of whom 128, 42
    and 42 have cancer.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        # where a table says what its columns are: TFDS keeps the description with the feature
        names = tfds.features.Documentation(desc=", ".join(COLUMNS))
        return tfds.core.DatasetInfo(
            builder=self,
            description="Wisconsin Diagnostic Breast Cancer (the copy bundled with scikit-learn): "
            "30 measurements of cell nuclei in a fine-needle aspirate of a breast mass.",
            features=tfds.features.FeaturesDict(
                {
                    "features": tfds.features.Tensor(shape=(30,), dtype=np.float32, doc=names),
                    "label": tfds.features.ClassLabel(names=["benign", "malignant"]),
                }
            ),
            supervised_keys=("features", "label"),
            homepage="https://archive.ics.uci.edu/dataset/17",
        )

    def _split_generators(self, dl_manager):
        # imports SciPy: seconds that only preparation should cost
        from sklearn.datasets import load_breast_cancer

        features, benign = load_breast_cancer(return_X_y=True)
        label = 1 - benign
        # within the class
        number = np.where(label == 1, np.cumsum(label), np.cumsum(1 - label)) - 1
        rows = {"train": number % 5 < 3, "validation": number % 5 == 3, "test": number % 5 == 4}
        return {
            split: self._generate_examples(features[at], label[at]) for split, at in rows.items()
        }

    def _generate_examples(
        self, features: np.ndarray, label: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, row in enumerate(features.astype(np.float32)):
            yield i, {"features": row, "label": int(label[i])}
