"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017), which share the IDX file format.

Names, versions and features are those of the stock TFDS builders, so that `tfds.data_source` reads
what this writes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.datasets import raw
from input_pipeline.datasets.builder import ArrayBuilder
from input_pipeline.errors import DataError

_SPLITS = {"train": ("train", 60_000), "test": ("t10k", 10_000)}  # split -> file prefix, examples


def parse_idx(content: bytes, source: Path | str, shape: tuple[int, ...]) -> np.ndarray:
    """Parses an IDX file of unsigned bytes.

    Args:
        content: the whole, decompressed file.
        source: its path, for messages.
        shape: the shape it must declare.

    Returns:
        uint8 array of shape `shape`.

    Raises:
        DataError: wrong magic number, dimensions or byte count.
    """
    header = 4 + 4 * len(shape)
    magic = bytes((0, 0, 8, len(shape)))  # 8: unsigned byte
    if len(content) >= 4 and content[:4] != magic:
        raise DataError(
            f"{source} is not an IDX file of {len(shape)} dimensions: magic {content[:4].hex()}, "
            f"expected {magic.hex()}"
        )
    if len(content) >= header:
        dims = tuple(np.frombuffer(content, ">u4", len(shape), 4).tolist())
        if dims != shape:
            raise DataError(f"{source} declares shape {dims}, expected {shape}")
    expected = header + math.prod(shape)
    if len(content) != expected:
        problem = "truncated" if len(content) < expected else "too long"
        raise DataError(
            f"{source} is {problem}: {len(content)} bytes (decompressed), expected {expected}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


class MNIST(ArrayBuilder, skip_registration=True):
    """Handwritten digits; image uint8 [28, 28, 1], label 0..9; 60,000 train and 10,000 test
    examples."""

    VERSION = tfds.core.Version("3.0.1")
    RAW_FILES = (
        raw.RawFile(
            "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz",
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-images-idx3-ubyte",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        raw.RawFile(
            "https://storage.googleapis.com/cvdf-datasets/mnist/train-labels-idx1-ubyte.gz",
            28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "train-labels-idx1-ubyte",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        raw.RawFile(
            "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-images-idx3-ubyte.gz",
            1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-images-idx3-ubyte",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        raw.RawFile(
            "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz",
            4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            "t10k-labels-idx1-ubyte",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    )
    DESCRIPTION = "The MNIST database of handwritten digits."
    HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"
    # none: the stock builder gives only the number of classes
    LABEL_NAMES: ClassVar[list[str]] = []

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(names=self.LABEL_NAMES)
                    if self.LABEL_NAMES
                    else tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
        )

    def _split_generators(self, dl_manager):
        paths = self.raw_paths()
        return {
            split: self._generate_examples(
                self._read(paths, f"{prefix}-images-idx3-ubyte", (count, 28, 28))[..., np.newaxis],
                label=self._read(paths, f"{prefix}-labels-idx1-ubyte", (count,)),
            )
            for split, (prefix, count) in _SPLITS.items()
        }

    def _read(self, paths: dict[str, Path], unpacked: str, shape: tuple[int, ...]) -> np.ndarray:
        path = paths[unpacked]
        (file,) = (file for file in self.RAW_FILES if file.unpacked == unpacked)
        content = raw.read_payload(path)
        values = parse_idx(content, path, shape)
        raw.verify_payload(path, content, file)
        return values


class FashionMNIST(MNIST, skip_registration=True):
    """Zalando's article images; image uint8 [28, 28, 1], label 0..9; 60,000 train and 10,000 test
    examples."""

    VERSION = tfds.core.Version("3.0.1")
    RAW_FILES = (
        raw.RawFile(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-images-idx3-ubyte",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        raw.RawFile(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
            29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "train-labels-idx1-ubyte",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        raw.RawFile(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-images-idx3-ubyte.gz",
            4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-images-idx3-ubyte",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        raw.RawFile(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz",
            5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            "t10k-labels-idx1-ubyte",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    )
    SYSTEM_DIR = Path("/usr/share/datasets/fashion-mnist")
    ADVICE = (
        "On Debian and Ubuntu, `apt-get install dataset-fashion-mnist` puts the files where they "
        "are found."
    )
    DESCRIPTION = "Fashion-MNIST: Zalando's article images, 28 x 28 grey pixels, 10 classes."
    HOMEPAGE = "https://github.com/zalandoresearch/fashion-mnist"
    LABEL_NAMES: ClassVar[list[str]] = [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ]
