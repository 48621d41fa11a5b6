"""The files that a model was read from, so that an export can say it again."""

from typing import NamedTuple


class Origin(NamedTuple):
    """The texts of a model's directory beyond its fields; a model carries them, and computes
    nothing by them.

    Attributes:
      config: text of its ``config.json``; generation: of its ``generation_config.json``, None if
        there was none.
      image_shape: (h, w, c) of the images; empty for text.
      tokens: the numbers of special tokens were read, and need not be guessed.
    """

    config: str
    generation: str | None = None
    image_shape: tuple[int, ...] = ()
    tokens: bool = True
