"""Parts that a model can do without: what a file does not have, or ``skip`` leaves out, is not
made."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flax import linen as nn

from jaxmodels.families.bert.model import BERT
from jaxmodels.families.transformer.model import Transformer
from jaxmodels.families.vit.model import ViT
from jaxmodels.weights.files import Stated
from jaxmodels.weights.fitting import few, skipped
from jaxmodels.weights.hub.keys import HEADS_WITHOUT_PLACE
from jaxmodels.weights.rules import WeightsError


class Parts(NamedTuple):
    """The parts of a described model that its directory has.

    Attributes:
      model: without the other parts.
      unused: names of tensors that go nowhere.
      without: paths that ``skip`` may name although the model has none of them.
    """

    model: nn.Module
    unused: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


class _Asked(NamedTuple):
    """A file's tensors, and what shall be left out of the model."""

    tensors: Mapping[str, Stated]
    skip: Sequence[str]
    foreign: bool
    cls: str | None = None

    def all(self, *modules: str) -> tuple[str, ...]:
        """Names of the tensors in modules of the file."""
        return tuple(n for n in self.tensors if any(f".{module}." in f".{n}" for module in modules))

    def names(self, *modules: str) -> tuple[str, ...]:
        """The same without those that are left out."""
        return tuple(n for n in self.all(*modules) if not skipped(f"file/{n}", self.skip))

    def left(self, module: str) -> bool:
        """True if a module of ours is left out."""
        return skipped(f"params/{module}", self.skip)


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
    find = PARTS.get(type(model))
    return Parts(model) if find is None else find(model, _Asked(tensors, skip, foreign, cls))


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


def _bert(model: BERT, asked: _Asked) -> Parts:
    pooler = bool(asked.names("pooler.dense")) and not asked.left("pooler")
    following = bool(asked.names("cls.seq_relationship")) and not asked.left("head_next")
    theirs, ours = BERT_HEADS[model.head]
    if asked.left(ours) or asked.left("head") or (asked.all(*theirs) and not asked.names(*theirs)):
        model = model.clone(head="none", pool="cls", next_sentence=True, tie_embeddings=True)
        unused = asked.all(*theirs)
    elif model.head == "pretraining":
        left = (
            asked.left("pooler")
            or asked.left("head_next")
            or (asked.all("cls.seq_relationship") and not following)
        )
        whole = asked.cls == "BertForPreTraining" and not left  # what it lacks is an error
        model = model.clone(next_sentence=model.next_sentence and (whole or (pooler and following)))
        unused = () if model.next_sentence else asked.all("cls.seq_relationship")
    else:
        unused = ()
    if model.head == "none":
        model = model.clone(pooler=model.pooler and pooler)
    if model.head in ("tokens", "spans") or not (model.pooler and model.next_sentence):
        unused += asked.all("pooler.dense")
    return Parts(model, unused, tuple(f"params/{name}" for name in BERT_PARTS))


def _vit(model: ViT, asked: _Asked) -> Parts:
    pooler = () if asked.left("dense") else asked.names("pooler.dense")
    unused: tuple[str, ...] = ()
    # an error, no other class
    lost = asked.cls == "ViTForImageClassification" and not asked.all("classifier")
    if asked.left("head") or (asked.foreign and not asked.names("classifier") and not lost):
        width = model.representation_size
        if asked.foreign:
            width = next(
                (asked.tensors[name].shape[0] for name in pooler if name.endswith(".weight")), 0
            )
        model = model.clone(num_classes=0, representation_size=0 if asked.left("dense") else width)
        unused = asked.all("classifier", "heads.head")
    if not model.representation_size:
        unused += asked.all("pooler.dense")
    return Parts(model, unused, ("params/head", "params/dense"))


def _transformer(model: Transformer, asked: _Asked) -> Parts:
    if not asked.foreign:
        return Parts(model)
    model = model.clone(
        logits_bias="final_logits_bias" in {name.rpartition(".")[2] for name in asked.tensors}
    )
    untied = not model.tie_embeddings
    if untied and not model.logits_bias and not asked.all("lm_head"):  # MarianModel has no logits
        model = model.clone(tie_embeddings=True)
    sides = [asked.names(f"{side}.embed_tokens") for side in ("encoder", "decoder")]
    # transformers 5 ties none of the three then
    if model.share_embeddings and untied and all(sides):
        return Parts(model.clone(share_embeddings=False), asked.all("shared"))
    return Parts(model)


BERT_PARTS = ("pooler", "head", "head_dense", "head_norm", "head_bias", "head_decoder", "head_next")
BERT_HEADS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "pretraining": (("cls.predictions", "cls.seq_relationship"), "head_dense"),
    "next_sentence": (("cls.seq_relationship",), "head_next"),
    "classification": (("classifier",), "head"),
    "choices": (("classifier",), "head"),
    "tokens": (("classifier",), "head"),
    "spans": (("qa_outputs",), "head"),
    "none": ((), "head"),
}
"""Modules of each head in a file, and the one here that stands for it."""
PARTS: Mapping[type[nn.Module], Callable[[Any, _Asked], Parts]] = {
    BERT: _bert,
    ViT: _vit,
    Transformer: _transformer,
}
