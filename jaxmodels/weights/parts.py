"""Parts that a model can do without: what a file does not have, or ``skip`` leaves out, is not
made."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn

from jaxmodels.catalogue import HEADS_WITHOUT_PLACE, formats_of
from jaxmodels.foreign.formats import Asked, Parts, skipped
from jaxmodels.foreign.rules import WeightsError
from jaxmodels.weights.files import Stated
from jaxmodels.weights.fitting import few


def parts_of(
    model: nn.Module,
    tensors: Mapping[str, Stated],
    skip: Sequence[str],
    *,
    foreign: bool,
    cls: str | None,
) -> Parts:
    """The described model without what the file does not have and without what ``skip`` leaves out.

    Args:
      tensors: names, shapes and types of the file.
      foreign: transformers wrote the file, whose classes have other parts than those of our fields
        say.
      cls: that class, if it is known.

    Raises:
      WeightsError: a class whose head there is not here, unless ``skip`` leaves it out.
    """
    patterns = HEADS_WITHOUT_PLACE.get(cls, ()) if foreign and cls is not None else ()
    strangers = [
        n for n in tensors if skipped(f"file/{n}", patterns) and not skipped(f"file/{n}", skip)
    ]
    if strangers:
        raise WeightsError(
            f"config.json is of {cls}, and {type(model).__name__} has no place for its "
            f"{few(strangers, 2)}; skip={(*skip, *patterns)} loads the rest"
        )
    return formats_of(model).parts(model, Asked(tensors, skip, foreign, cls))


def require_whole(model: nn.Module, leaves: Mapping[str, Any], skip: Sequence[str]) -> None:
    """Raises WeightsError if ``skip`` leaves out what a model that nobody passed cannot do
    without."""
    without = [path for path in leaves if skipped(path, skip)]
    if without:
        raise WeightsError(
            f"skip={tuple(skip)} leaves out {few(without, 2)}, without which "
            f"{type(model).__name__} does not run; pass model=jaxmodels.create(...) as well, and "
            "fill in what is missing from model.init"
        )
