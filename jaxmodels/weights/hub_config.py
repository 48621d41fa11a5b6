"""``config.json`` of transformers: what it says of a model, and what we write for it to read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import linen as nn

from jaxmodels.weights.hub import bert, gpt2, marian, vit
from jaxmodels.weights.hub.bert import BERT_CLASSES
from jaxmodels.weights.hub.keys import DECODERS, HubFamily, Shape, account, first_architecture
from jaxmodels.weights.json_files import short
from jaxmodels.weights.rules import WeightsError

Described = tuple[type[nn.Module], dict[str, Any], Shape, str | None]
"""Our class, its fields, the image shape (empty for text) and the format, None where files have one of several."""

HUB_FAMILIES: dict[str, HubFamily] = {
    "vit": vit.FAMILY,
    "bert": bert.FAMILY,
    "gpt2": gpt2.FAMILY,
    "marian": marian.FAMILY,
}
"""By ``model_type``."""


def hub_family(model: nn.Module) -> HubFamily | None:
    """How transformers describes a model, None if it has no such class."""
    return next((family for family in HUB_FAMILIES.values() if family.cls is type(model)), None)


def family_of_config(config: Mapping[str, Any]) -> HubFamily:
    """The family that a ``config.json`` is of.

    Raises:
      WeightsError: a model type, or a class, that we do not have.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in HUB_FAMILIES:
        raise WeightsError(f"config.json is of model type {short(kind)}; there is a map for {', '.join(HUB_FAMILIES)}")
    name = first_architecture(config)
    if name in DECODERS:
        raise WeightsError(f"config.json is of {name}, {DECODERS[name]}, and there is no such model here")
    return HUB_FAMILIES[kind]


def fields_from_transformers(config: Mapping[str, Any]) -> Described:
    """What a ``config.json`` of transformers describes.

    Raises:
      WeightsError: a model type, or a setting, that we do not have.
    """
    family = family_of_config(config)
    values = account(config, family)
    fields = family.fields(values) | family.head(config, values)
    return family.cls, fields, family.shape(values), family.format


def transformers_config(model: nn.Module, shape: Shape) -> dict[str, Any]:
    """``config.json`` with which transformers loads what is exported in its format, by the model's fields alone."""
    family = hub_family(model)
    if family is None:
        raise WeightsError(f"transformers has no class for {type(model).__name__}")
    return family.write(model, shape) | family.guesses(model)


class GenerationConfig(NamedTuple):
    """What a directory says of how its model writes; None and () where it says nothing.

    Attributes:
      start: the token that a decoder, or a text without a prompt, begins with.
      stop: tokens that end a text; forbidden: tokens that are never written.
      beams, length_penalty: of a beam search.
    """

    start: int | None = None
    stop: tuple[int, ...] = ()
    forbidden: tuple[int, ...] = ()
    beams: int | None = None
    length_penalty: float | None = None


def generation_from_transformers(config: Mapping[str, Any]) -> GenerationConfig:
    """What ``config.json``, with ``generation_config.json`` over it, says; see :class:`GenerationConfig`.

    What :func:`jaxmodels.weights.save` wrote says nothing: it knows no tokenizer, and its numbers of tokens are those
    that the originals of the family have.

    Raises:
      WeightsError: tokens that are forbidden in a row only.
    """
    if "jaxmodels" in config:
        return GenerationConfig()
    stop, words = config.get("eos_token_id"), config.get("bad_words_ids") or ()
    if any(len(word) != 1 for word in words):
        raise WeightsError(
            f"bad_words_ids {words} forbid several tokens in a row, and single ones can be forbidden here: take the "
            "others out of generation_config.json"
        )
    start = config.get("decoder_start_token_id")
    return GenerationConfig(
        start=config.get("bos_token_id") if start is None else start,
        stop=() if stop is None else (stop,) if isinstance(stop, int) else tuple(stop),
        forbidden=tuple(word[0] for word in words),
        beams=config.get("num_beams"),
        length_penalty=config.get("length_penalty"),
    )


__all__ = [
    "BERT_CLASSES",
    "HUB_FAMILIES",
    "GenerationConfig",
    "family_of_config",
    "fields_from_transformers",
    "generation_from_transformers",
    "hub_family",
    "transformers_config",
]
