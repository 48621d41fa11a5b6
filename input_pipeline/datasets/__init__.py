"""TensorFlow-free TFDS builders of the built-in data sets."""

from __future__ import annotations

from input_pipeline.datasets.breast_cancer import BreastCancer
from input_pipeline.datasets.builder import RawBuilder
from input_pipeline.datasets.cifar import Cifar10, Cifar100
from input_pipeline.datasets.diabetes import Diabetes
from input_pipeline.datasets.digits import Digits
from input_pipeline.datasets.emoji import Emoji
from input_pipeline.datasets.labelled import GLUE_BUILDERS, SST2, TextLabels
from input_pipeline.datasets.mnist import MNIST, FashionMNIST
from input_pipeline.datasets.pairs import Multi30k, TextPairs
from input_pipeline.datasets.posed_digits import PosedDigits, TurnedDigits
from input_pipeline.datasets.text import Pydoc, TextFiles, TinyShakespeare

BUILTIN: dict[str, type[RawBuilder]] = {
    "digits": Digits,
    "turned_digits": TurnedDigits,
    "posed_digits": PosedDigits,
    "mnist": MNIST,
    "fashion_mnist": FashionMNIST,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "emoji": Emoji,
    "breast_cancer": BreastCancer,
    "diabetes": Diabetes,
    "pydoc": Pydoc,
    "tiny_shakespeare": TinyShakespeare,
    "text_files": TextFiles,
    "sst2": SST2,
    **GLUE_BUILDERS,
    "text_labels": TextLabels,
    "multi30k": Multi30k,
    "text_pairs": TextPairs,
}
