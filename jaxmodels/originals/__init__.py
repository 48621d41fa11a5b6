"""The PyTorch originals of the library's own families, and the sizes at which both are compared.

Each family builds its own in ``jaxmodels/families/*/original.py``. torch is imported when the first
is built, and no sooner. Needs the extra ``compare``.
"""

from typing import Any

import jaxmodels
from jaxmodels.foreign.original import (
    SDPA,
    Original,
    OriginalError,
    Shape,
    torchvision,
    transformers,
)
from jaxmodels.foreign.rules import WeightsError

WHOLE_TEXTS = "sdpa_of_whole_texts"
"""SDPA registered under a second name, so that transformers builds no mask for it."""


def build(model: jaxmodels.Module, image_shape: Shape) -> Original:
    """The PyTorch original of a model, dropout and all, in training mode, with its own random
    initial values.

    Raises:
      OriginalError: there is no original with these fields, or its library is not installed.
    """
    name = type(model).__name__
    try:
        builder = jaxmodels.family_of(model).original
    except ValueError:
        builder = None
    if builder is None:
        raise OriginalError(f"{name} has no PyTorch original here")
    try:
        return builder(model, image_shape)
    except WeightsError as e:  # transformers' config has no place for a field
        raise OriginalError(f"{name} has no original with these fields: {e}") from e


def condition(module: Any) -> None:
    """Tames random values in the deepest networks, in place, where they would amplify rounding a
    thousandfold: each family does so to its own parts."""
    for family in jaxmodels.FAMILIES.values():
        family.condition(module)


def without_masks(module: Any) -> None:
    """Has a model of transformers take every text for whole, in place, so that PyTorch may use
    flash attention.

    Otherwise it makes a mask wherever it cannot see that there is no padding: with PyTorch before
    2.14 always under ``torch.compile``. Other models are left alone.
    """
    config = getattr(module, "config", None)
    if getattr(config, "_attn_implementation", None) == SDPA:
        library = transformers()
        attention = library.integrations.sdpa_attention.sdpa_attention_forward
        library.AttentionInterface.register(WHOLE_TEXTS, attention)
        config._attn_implementation = WHOLE_TEXTS


__all__ = [
    "SDPA",
    "WHOLE_TEXTS",
    "Original",
    "OriginalError",
    "build",
    "condition",
    "torchvision",
    "transformers",
    "without_masks",
]
