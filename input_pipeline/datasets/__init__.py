"""TensorFlow-free TFDS builders of the built-in data sets."""

from __future__ import annotations

from input_pipeline.datasets.builder import ArrayBuilder
from input_pipeline.datasets.cifar import Cifar10, Cifar100
from input_pipeline.datasets.digits import Digits
from input_pipeline.datasets.mnist import MNIST, FashionMNIST

BUILTIN: dict[str, type[ArrayBuilder]] = {
    "digits": Digits,
    "mnist": MNIST,
    "fashion_mnist": FashionMNIST,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
}
