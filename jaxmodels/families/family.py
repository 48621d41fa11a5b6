"""The record of a family: all that the library knows of one architecture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flax import linen as nn

from jaxmodels.foreign.formats import Formats, Shape
from jaxmodels.foreign.keys import HubFamily
from jaxmodels.foreign.original import Case, Original


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
      cls: the class of its models.
      presets: functions that make a model, by the names that ``jaxmodels.create`` takes. Fields
        that a preset sets are keyword arguments with defaults; ``**fields`` are all others.
      inputs: kinds of input that a model can take: ``"image"``, ``"row"`` (of a table), ``"text"``,
        ``"image_text"`` (both at once), ``"source_target"`` (two texts). One of them at a time.
        () is for models of one's own of which nobody says it.
      outputs: kinds of output that its models have, by which a task chooses them. ``"logits"`` [b,
        classes], ``"token_logits"`` [b, l, vocabulary], ``"pretraining"`` (masked tokens and the
        next sentence), ``"vae"`` (reconstruction and q(z | x)), ``"pair"`` (an embedding of each
        modality). The first is that of the plain preset. () is for models of one's own of which
        nobody says it.
      formats: its PyTorch formats, None if it has none.
      hub: its ``config.json`` of transformers, None if transformers has no such model.
      original: a model and its image shape (h, w, c) to its PyTorch original, None if it has none.
      cases: of its certificates, at least one for each preset that has an original.
      condition: tames random values of an original, in place, where they would amplify rounding. It
        is given the modules of other families too, and leaves them alone.
    """

    cls: type[nn.Module]
    presets: Mapping[str, Callable[..., Any]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    formats: Formats | None = None
    hub: HubFamily | None = None
    original: Callable[[Any, Shape], Original] | None = None
    cases: tuple[Case, ...] = ()
    condition: Callable[[Any], None] = lambda module: None
