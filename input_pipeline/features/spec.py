"""A data set: its features, and what follows from all of them together."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from input_pipeline.features.feature import (
    Batch,
    Feature,
    Found,
    Given,
    Preparation,
    Shapes,
    readable,
)
from input_pipeline.features.labels import ClassLabels


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What is known of a data set before its examples are read.

    Attributes:
        name: as TFDS knows it.
        version: "major.minor.patch".
        splits: split name -> number of examples or documents.
        directory: where it lies on disk.
        features: inputs in the order in which a model takes them, then labels. The label that an
          objective reads is named "label".
    """

    name: str
    version: str
    splits: dict[str, int]
    directory: str
    features: dict[str, Feature]

    def kind(self, name: str) -> Any:
        """The first feature of a kind, such as "image"; None: there is none."""
        return next((f for f in self.features.values() if f.kind == name), None)

    def changed(self, kind: str, **fields: Any) -> DataSpec:
        """The same with other fields of the features of a kind."""
        features = {
            name: dataclasses.replace(f, **fields) if f.kind == kind else f
            for name, f in self.features.items()
        }
        return dataclasses.replace(self, features=features)

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """The features that a model reads."""
        return tuple(f for f in self.features.values() if f.arrays)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the inputs."""
        return tuple(f.kind for f in self.inputs)

    @property
    def label(self) -> Any:
        """The label; None: there is none."""
        return self.features.get("label")

    @property
    def num_classes(self) -> int:
        """Outputs of a model for the label: its classes or its numbers; 0 without a label."""
        return getattr(self.label, "num_classes", 0)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return getattr(self.label, "label_names", ())

    @property
    def tasks(self) -> dict[str, int]:
        """Number of classes of each of several labels."""
        several = self.kind("class_labels")
        return several.tasks if several else {}

    @property
    def fitted(self) -> bool:
        """Whether something in it was learned from the training split."""
        return any(f.fitted for f in self.inputs)

    @property
    def named(self) -> str:
        """What a person's input is called."""
        return self.inputs[0].named if len(self.inputs) == 1 else "example"

    @property
    def model_shape(self) -> tuple[int, ...]:
        """Shape of one example of the first input, as a model takes it; () where it varies."""
        return self.inputs[0].model_shape

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths that batches may have; (0,) where no input has any."""
        return next((f.lengths for f in self.inputs if f.lengths != (0,)), (0,))

    def shapes(self, size: int, length: int) -> Shapes:
        """Shape and type of every array of a batch of `size` examples, padded to `length`."""
        found: Shapes = {"weight": ((size,), np.float32)}
        for feature in self.features.values():
            found |= feature.shapes(size, length)
        if len(self.inputs) > 1:
            found["present"] = ((size, len(self.inputs)), np.bool_)
        return found

    def summary(self) -> str:
        """One line for the header of a run."""
        splits = ", ".join(f"{name} {count:,}" for name, count in self.splits.items())
        alone, label = len(self.inputs) == 1, self.label.summary() if self.label else ""
        parts = (f.summary(label, alone=alone) for f in self.inputs)
        return f"{self.name} {self.version}: {'; '.join((splits, *parts))}"

    def train_batch(self, key: PRNGKeyArray, batch: Batch, how: Preparation) -> Batch:
        """The batch as a model trains on it. Pure.

        The first feature draws from the key itself, so that a data set of one input draws the same
        numbers with other labels.
        """
        if how.hide_rate:
            hide_key, key = jax.random.split(key)
            present = hide_one(hide_key, batch["present"], how.hide_rate)
            batch = {**batch, "present": present}
        for i, feature in enumerate(self.features.values()):
            own = jax.random.fold_in(key, i) if i else key
            batch = feature.train_batch(own, batch, how)
        return batch

    def eval_batch(self, batch: Batch, how: Preparation) -> Batch:
        """The batch as a model is evaluated on it. Pure."""
        for feature in self.features.values():
            batch = feature.eval_batch(batch, how)
        return batch

    def read(self, words: list[str], given: Given) -> Found:
        """What a person gives, as a batch as loaded: names, arrays, and how many are unreadable.

        Labels are 0, which nobody looks at, and weights 1.

        Raises:
            DataError: the only text, or file of texts or rows, that is given cannot be read.
        """
        if len(self.inputs) == 1:
            names, arrays, broken = self.inputs[0].read(words, given, self.name)
        else:
            names, arrays, broken = self._read_several(words, given)
        shapes = self.shapes(len(names), self.lengths[-1])
        rest = {
            k: np.zeros(*v) if k != "weight" else np.ones(*v)
            for k, v in shapes.items()
            if k not in arrays
        }
        return names, arrays | rest, broken

    def _read_several(self, words: list[str], given: Given) -> Found:
        """Reads words with a tab between the inputs of an example; one or the other may be
        missing."""
        count = len(self.inputs)

        def split(word: str) -> list[str]:
            parts = word.split("\t", count - 1)
            return parts + [""] * (count - len(parts))

        def load(word: str) -> list[Any]:
            return [f.part(x, given) for f, x in zip(self.inputs, split(word), strict=True)]

        good, found, broken = readable(words, load, given.warn, several=True)
        arrays: dict[str, np.ndarray] = {}
        if good:
            for feature, parts in zip(self.inputs, zip(*found, strict=True), strict=True):
                arrays |= feature.stacked([*parts], given, self.name)
            there = [[bool(part.strip()) for part in split(word)] for word in good]
            arrays["present"] = np.array(there)
        return [" ".join(word.split("\t")).strip() for word in good], arrays, broken


def make_spec(
    name: str,
    version: str,
    splits: dict[str, int],
    directory: str,
    inputs: dict[str, Feature],
    label: Feature | None,
    tasks: dict[str, int],
) -> DataSpec:
    """A data set of inputs, a label or none, and the classes of each of several labels."""
    labels: dict[str, Feature] = {} if label is None else {"label": label}
    if tasks:
        labels["tasks"] = ClassLabels(tasks)
    return DataSpec(name, version, splits, directory, {**inputs, **labels})


def hide_one(key: PRNGKeyArray, present: Bool[Array, "b 2"], rate: float) -> Bool[Array, "b 2"]:
    """Hides one of the two inputs, drawn evenly, with probability `rate`; never the only one there
    is."""
    hide_key, which_key = jax.random.split(key)
    hidden = jax.random.bernoulli(hide_key, rate, present.shape[:1]) & present.all(1)
    which = jax.random.bernoulli(which_key, 0.5, present.shape[:1])
    return present & ~(hidden[:, None] & jnp.stack([which, ~which], 1))
