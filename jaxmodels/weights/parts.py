"""Parts that a model can do without: what a file does not have, or ``skip`` leaves out, is not made."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flax import linen as nn

from jaxmodels.bert import BERT
from jaxmodels.transformer import Transformer
from jaxmodels.vit import ViT
from jaxmodels.weights.files import Stated
from jaxmodels.weights.fitting import few, skipped
from jaxmodels.weights.rules import WeightsError

logger = logging.getLogger("jaxmodels.weights")


class Parts(NamedTuple):
    """What a directory has of the model that its ``config.json`` describes.

    Attributes:
      model: without the other parts.
      unused: names of tensors that the described class of transformers does not use.
    """

    model: nn.Module
    unused: tuple[str, ...] = ()


class _Question(NamedTuple):
    """A file's names, and what shall be left out of the model."""

    tensors: Mapping[str, Stated]
    skip: Sequence[str]
    foreign: bool  # written by transformers, whose classes have other parts than those of our fields

    def names(self, *ends: str) -> tuple[str, ...]:
        return tuple(n for n in self.tensors if any(f".{n}".endswith(f".{end}") for end in ends))

    def left(self, module: str) -> bool:
        return skipped(f"params/{module}", self.skip)


def parts_of(model: nn.Module, tensors: Mapping[str, Stated], skip: Sequence[str], *, foreign: bool) -> Parts:
    """The described model without what the file does not have and without what ``skip`` leaves out.

    Args:
      tensors: names, shapes and types of the file.
      foreign: the directory is one of transformers, and was not written here.
    """
    find = PARTS.get(type(model))
    if find is None:
        return Parts(model)
    found = find(model, _Question(tensors, skip, foreign))
    if found.unused:
        logger.warning("passed over, because the class of config.json does not use them: %s", few(found.unused))
    return found


def require_whole(model: nn.Module, leaves: Mapping[str, Any], skip: Sequence[str]) -> None:
    """Raises WeightsError if ``skip`` leaves out what a model that nobody passed cannot do without."""
    without = [path for path in leaves if skipped(path, skip)]
    if without:
        raise WeightsError(
            f"skip={tuple(skip)} leaves out {few(without, 2)}, without which {type(model).__name__} does not run; pass "
            "model=jaxmodels.create(...) as well, and fill in what is missing from model.init"
        )


def _bert(model: BERT, asked: _Question) -> Parts:
    pooler, following = (
        asked.names("pooler.dense.weight", "pooler.dense.bias"),
        asked.names("cls.seq_relationship.weight"),
    )
    has_pooler = bool(pooler) and not asked.left("pooler")
    head = "head_dense" if model.head == "pretraining" else "head_next" if model.head == "next_sentence" else "head"
    if model.head == "none" or asked.left(head):
        whole = model.clone(head="none", pool="cls", next_sentence=True, tie_embeddings=True)
        return Parts(whole.clone(pooler=model.pooler and has_pooler))
    if model.head == "pretraining":
        both = model.next_sentence and has_pooler and bool(following) and not asked.left("head_next")
        model = model.clone(next_sentence=both)
        has_pooler = has_pooler and not both
    elif model.head not in ("tokens", "spans"):
        has_pooler = False
    return Parts(model, pooler if has_pooler and asked.foreign else ())


def _vit(model: ViT, asked: _Question) -> Parts:
    pooler = asked.names("pooler.dense.weight", "pooler.dense.bias")
    if (asked.foreign and not asked.names("classifier.weight")) or asked.left("head"):
        model = model.clone(num_classes=0)
        sizes = [asked.tensors[name].shape[0] for name in pooler if name.endswith("weight")] if asked.foreign else []
        size = sizes[0] if sizes else model.representation_size
        return Parts(model.clone(representation_size=0 if asked.left("dense") else size))
    return Parts(model, pooler if asked.foreign else ())


def _transformer(model: Transformer, asked: _Question) -> Parts:
    if not asked.foreign:
        return Parts(model)
    model = model.clone(logits_bias=bool(asked.names("final_logits_bias")))
    sides = [asked.names(f"{side}.embed_tokens.weight") for side in ("encoder", "decoder")]
    if model.share_embeddings and not model.tie_embeddings and all(sides):  # transformers 5 ties none of the three then
        return Parts(model.clone(share_embeddings=False), asked.names("shared.weight"))
    return Parts(model)


PARTS: Mapping[type[nn.Module], Callable[[Any, _Question], Parts]] = {BERT: _bert, ViT: _vit, Transformer: _transformer}
