"""The diabetes data that scikit-learn bundles: 442 patients, 10 numbers each, no download.

Efron, Hastie, Johnstone & Tibshirani 2004, "Least angle regression", Annals of Statistics 32,
407-499.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.datasets.builder import RawBuilder

COLUMNS = (
    *("age", "sex", "body mass index", "blood pressure", "total cholesterol", "LDL", "HDL"),
    *("total cholesterol / HDL", "log triglycerides", "glucose"),
)


class Diabetes(RawBuilder, skip_registration=True):
    """Ten measurements of a patient, features float32 [10]; the label, 25 to 346, is how far the
    disease has gone a year later.

    Patient i in scikit-learn's order goes to `validation` if i % 5 == 3, to `test` if i % 5 == 4,
    else to `train`: 266, 88 and 88 patients.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        # where a table says what its columns are: TFDS keeps the description with the feature
        names = tfds.features.Documentation(desc=", ".join(COLUMNS))
        label = tfds.features.Documentation(desc="progression")
        return tfds.core.DatasetInfo(
            builder=self,
            description="Diabetes patients (the copy bundled with scikit-learn): ten measurements "
            "and the progression of the disease one year later.",
            features=tfds.features.FeaturesDict(
                {
                    "features": tfds.features.Tensor(shape=(10,), dtype=np.float32, doc=names),
                    "label": tfds.features.Tensor(shape=(), dtype=np.float32, doc=label),
                }
            ),
            supervised_keys=("features", "label"),
            homepage="https://www4.stat.ncsu.edu/~boos/var.select/diabetes.html",
        )

    def _split_generators(self, dl_manager):
        # imports SciPy: seconds that only preparation should cost
        from sklearn.datasets import load_diabetes

        features, label = load_diabetes(return_X_y=True, scaled=False)
        number = np.arange(len(label))
        rows = {"train": number % 5 < 3, "validation": number % 5 == 3, "test": number % 5 == 4}
        return {
            split: self._generate_examples(features[at], label[at]) for split, at in rows.items()
        }

    def _generate_examples(
        self, features: np.ndarray, label: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, row in enumerate(features.astype(np.float32)):
            yield i, {"features": row, "label": np.float32(label[i])}
