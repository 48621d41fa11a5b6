"""The record of a family's PyTorch formats, and rules that several families share.

Names of formats: ``torchvision`` and ``transformers`` are the state dicts of those libraries, the
latter as it lies on disk and on the hub. ``transformers5`` is how transformers 5 has it in memory.
``transformers_base`` has no prefix of the model with a head, as OpenAI's files on the hub.
``torch`` is a plain ``torch.nn`` model as one would write it, described at its rules. ``cifar`` has
the names of akamaster/pytorch_resnet_cifar10.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxmodels.adapt.patterns import matches_any
from jaxmodels.foreign.rules import (
    BATCH_NORM,
    CONV,
    LINEAR,
    Rule,
    linear_after_flatten,
)

Shape = tuple[int, ...]
Rules = tuple[Rule, ...]


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


class Asked(NamedTuple):
    """A file's tensors (shapes and types by name), and what shall be left out of the model.

    Attributes:
      foreign: transformers wrote the file; cls: its class, if that is known.
    """

    tensors: Mapping[str, Any]
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


@dataclass(frozen=True)
class Formats:
    """How a family's weights meet PyTorch.

    Attributes:
      formats: by name, the preferred first: functions of a model and its image shape (h, w, c) to
        rules.
      image_shape: the images of the pretrained models; None where there is nothing to assume.
      inputs: a model and its image shape to an example of what it is called with, one example long.
      constants: tensors that hold a constant, which some files have. By the regular expression of
        their names: a function that recognises the tensor, and the constant in words.
      unread: a model to a regular expression of tensors that the original has and never computes
        with.
      ties: a model and a format to the names that tensors have a second time, with the first. A
        file may have them, and they must be equal then; they are not written.
      renamed: regular expression of a part of a name, as some files have it, to what it is today.
      silent: fields that no shape shows. A family of transformers names them in its ``HubFamily``.
      parts: a described model and what is asked of its file to the parts that the file has.
      image_shape_of: a model and its parameters to the images they are for, None if they do not
        say.
    """

    formats: Mapping[str, Callable[[Any, Shape], Rules]]
    image_shape: Shape | None = (224, 224, 3)
    inputs: Callable[[Any, Shape], tuple[jax.Array, ...]] = lambda model, shape: (
        jnp.zeros((1, *shape)),
    )
    constants: Mapping[str, tuple[Callable[[np.ndarray], bool], str]] = field(default_factory=dict)
    unread: Callable[[Any], str] = lambda model: ""
    ties: Callable[[Any, str], Mapping[str, str]] = lambda model, format: {}
    renamed: Mapping[str, str] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    parts: Callable[[Any, Asked], Parts] = lambda model, asked: Parts(model)
    image_shape_of: Callable[[Any, Mapping[str, Any]], Shape | None] = lambda model, params: None


TOKENS: Mapping[str, Any] = {
    "image_shape": (),
    "inputs": lambda model, shape: (jnp.zeros((1, 1), jnp.int32),),
}
"""Fields of :class:`Formats` for families that read text: no weight depends on a shape."""


def skipped(path: str, patterns: Sequence[str]) -> bool:
    """True if a pattern matches the first components of a path behind its collection (or
    format)."""
    _, _, inside = path.replace(".", "/").partition("/")
    return matches_any([pattern.replace(".", "/") for pattern in patterns], inside)


def dense_layers(model: Any, places: list[int], *, offset: int) -> Rules:
    """Dense layers at ``classifier.N``; the head stands ``offset`` behind the last hidden one.

    The first takes a flattened map of ``model.pooled_size``.
    """
    last = places[-1] + offset if places else 0
    first = linear_after_flatten(model.pooled_size, model.pooled_size)
    names = [*(f"dense_{i}" for i in range(len(places))), "head"]
    kinds = [first] + [LINEAR] * len(places)
    return tuple(
        Rule(f"classifier.{n}", name, kind)
        for n, name, kind in zip([*places, last], names, kinds, strict=True)
    )


def conv_bn(torch: str, ours: str) -> Rules:
    """torchvision's BasicConv2d."""
    return Rule(f"{torch}.conv", f"{ours}/conv", CONV), Rule(
        f"{torch}.bn", f"{ours}/bn", BATCH_NORM
    )


def renamed(rules: Rules, names: Mapping[str, str]) -> Rules:
    """Rules with parts of PyTorch's names replaced, in order."""
    found = []
    for rule in rules:
        torch = rule.torch
        for old, new in names.items():
            torch = torch.replace(old, new)
        found.append(Rule(torch, rule.ours, rule.kind))
    return tuple(found)


def block_name(model: Any) -> str:
    """Our path of block ``{i}`` of a Transformer: a slice of a stack with ``model.scan``."""
    return "blocks[{i}]" if model.scan else "block_{i}"
