"""Inputs given to ``predict`` and ``explain``, read by the code that reads them for training."""

import numpy as np

from input_pipeline import DataSpec
from input_pipeline.features import Given
from train.config import Config
from train.launch import cli


def read(
    inputs: list[str], config: Config, card: DataSpec, invert: bool
) -> tuple[list[str], dict[str, np.ndarray], int]:
    """Names of examples that a person gives, their arrays as a batch as loaded has them, and how
    many are unreadable.

    Raises:
      DataError: the only text, or file of texts or rows, that is given cannot be read.
    """
    given = Given(cli.stdin_text, cli.stdin_lines, cli.warn, config.data.resize_size, invert)
    return card.read(inputs, given)
