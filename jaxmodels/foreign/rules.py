"""Declarative maps between our variables and PyTorch's tensors, each used in both directions.

A rule says that one PyTorch module is one of ours, for instance
``Rule("layer{i}.{j}.conv1", "stage_{i}_block_{j}/conv_1", CONV)``. A placeholder stands for one
path component or a part of it. Its kind lists the module's tensors: names on both sides, the
layout, and whether ours is one of several parts of theirs. ``blocks[{i}]`` on our side means the
i-th slice along the first axis: what ``nn.scan`` has stacked.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from einops import EinopsError, rearrange


class WeightsError(ValueError):
    """Weights cannot be read or do not fit the model; the message is one line and meant for the
    user."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a module.

    Attributes:
      torch: name below the PyTorch module.
      ours: name below our module.
      collection: of Linen, ``params`` or ``batch_stats``.
      layout: einops pattern from theirs to ours; empty: as it stands. The other direction is the
        pattern reversed.
      sizes: axis lengths that the pattern needs.
      part: (i, n): ours is the i-th of n equal parts of theirs along ``axis``, before the layout.
      counter: an int64 scalar there, int32 here.
    """

    torch: str
    ours: str
    collection: str = "params"
    layout: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    part: tuple[int, int] | None = None
    axis: int = 0
    counter: bool = False


Kind = tuple[Tensor, ...]


@dataclass(frozen=True)
class Rule:
    """A PyTorch module path and ours, with placeholders, and the kind of module; ``""`` is the
    model itself."""

    torch: str
    ours: str
    kind: Kind


def linear(layout: str = "o i -> i o", **sizes: int) -> Kind:
    """``torch.nn.Linear``; ``layout`` also reorders inputs that were flattened from an image."""
    return (Tensor("weight", "kernel", layout=layout, sizes=sizes), Tensor("bias", "bias"))


def linear_before_unflatten(height: int, width: int) -> Kind:
    """A Linear whose result is read as a map: channel, height, width there; height, width, channel
    here."""
    sizes = {"h": height, "w": width}
    return (
        Tensor("weight", "kernel", layout="(c h w) i -> i (h w c)", sizes=sizes),
        Tensor("bias", "bias", layout="(c h w) -> (h w c)", sizes=sizes),
    )


def linear_after_flatten(height: int, width: int) -> Kind:
    """A Linear over a flattened map: channel, height, width there; height, width, channel here."""
    return linear("o (c h w) -> (h w c) o", h=height, w=width)


PARTS = ("query", "key", "value")


def packed_attention() -> Kind:
    """``torch.nn.MultiheadAttention``: query, key and value stacked in one tensor."""
    parts = []
    for i, name in enumerate(PARTS):
        parts += [
            Tensor("in_proj_weight", f"{name}/kernel", layout="o i -> i o", part=(i, 3)),
            Tensor("in_proj_bias", f"{name}/bias", part=(i, 3)),
        ]
    return (
        *parts,
        Tensor("out_proj.weight", "out/kernel", layout="o i -> i o"),
        Tensor("out_proj.bias", "out/bias"),
    )


def packed_attention_conv1d() -> Kind:
    """transformers' GPT2Attention: query, key and value side by side in a ``Conv1D``, whose weight
    is [in, out]."""
    parts = []
    for i, name in enumerate(PARTS):
        parts += [
            Tensor("c_attn.weight", f"{name}/kernel", part=(i, 3), axis=1),
            Tensor("c_attn.bias", f"{name}/bias", part=(i, 3)),
        ]
    return (*parts, Tensor("c_proj.weight", "out/kernel"), Tensor("c_proj.bias", "out/bias"))


ATTENTION_OUT = ("out_proj.weight", "c_proj.weight")
"""Of an attention that is one module on both sides."""

LINEAR = linear()
CONV1D = (Tensor("weight", "kernel"), Tensor("bias", "bias"))
EMBEDDING = (Tensor("weight", "embedding"),)
CONV = (Tensor("weight", "kernel", layout="o i h w -> h w i o"), Tensor("bias", "bias"))
CONV_TRANSPOSE = (Tensor("weight", "kernel", layout="i o h w -> h w o i"), Tensor("bias", "bias"))
LAYER_NORM = (Tensor("weight", "scale"), Tensor("bias", "bias"))
BATCH_NORM = (
    *LAYER_NORM,
    Tensor("running_mean", "mean", "batch_stats"),
    Tensor("running_var", "var", "batch_stats"),
    Tensor("num_batches_tracked", "count", "batch_stats", counter=True),
)


@dataclass(frozen=True)
class Source:
    """Where one of our leaves comes from: the tensors of ``names``, stacked if ``stacked``, as
    ``tensor`` says.

    ``modules`` are the PyTorch modules they belong to, one for each name; ``module`` is ours.
    """

    names: tuple[str, ...]
    modules: tuple[str, ...]
    module: str
    tensor: Tensor
    stacked: bool


def resolve(rules: Sequence[Rule], path: str, shape: tuple[int, ...]) -> Source:
    """The source of our leaf ``path`` (``params/stage_1_block_0/conv_1/kernel``) by the one rule
    that matches it.

    Raises:
      WeightsError: no rule matches: the format does not have what the model's fields ask for.
      LookupError: several rules match, a fault of the map.
    """
    found = []
    for rule in rules:
        stacked = re.search(r"\[\{(\w+)\}\]", rule.ours)
        ours = re.sub(r"\[\{\w+\}\]", "", rule.ours)
        for tensor in rule.kind:
            template = "/".join(part for part in (tensor.collection, ours, tensor.ours) if part)
            match = re.fullmatch(_pattern(template), path)
            if not match:
                continue
            values = match.groupdict()
            indices = [{stacked[1]: i} for i in range(shape[0])] if stacked else [{}]
            modules = tuple(rule.torch.format(**values, **index) for index in indices)
            names = tuple(
                f"{module}.{tensor.torch}" if module else tensor.torch for module in modules
            )
            module = ours.format(**values)
            if tensor.ours.count("/"):  # query/kernel: the module is query
                module = f"{module}/{tensor.ours.rpartition('/')[0]}"
            found.append(Source(names, modules, module, tensor, bool(stacked)))
    if not found:
        raise WeightsError(f"this format has no place for {path}")
    if len(found) > 1:
        raise LookupError(f"several rules match {path}: {[s.names[0] for s in found]}")
    return found[0]


@functools.cache
def _pattern(template: str) -> str:
    return re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(template))


def shape_of_theirs(tensor: Tensor, ours: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the whole PyTorch tensor that a leaf of shape ``ours`` (one slice, if stacked) is
    made of."""
    theirs = ours
    if tensor.layout:
        left, right = (
            [group.split() for group in _groups(side)] for side in tensor.layout.split("->")
        )
        lengths = {"1": 1, **tensor.sizes}
        for group, length in zip(right, ours, strict=True):
            for axis in group:
                if axis not in lengths:  # the one of its group that the pattern leaves open
                    lengths[axis] = length // math.prod(
                        lengths.get(other, 1) for other in group if other != axis
                    )
        theirs = tuple(math.prod(lengths[axis] for axis in group) for group in left)
    if not tensor.part:
        return theirs
    return tuple(n * tensor.part[1] if i == tensor.axis else n for i, n in enumerate(theirs))


def _groups(side: str) -> list[str]:
    """Axes of one side of a pattern, each as the names that it is made of."""
    return [whole or single for whole, single in re.findall(r"\(([^)]*)\)|(\S+)", side)]


def shape_fault(tensor: Tensor, shape: tuple[int, ...], ours: tuple[int, ...]) -> str | None:
    """Why a PyTorch tensor of ``shape`` does not give a leaf of shape ``ours``, to follow its name;
    None if it does."""
    wanted = shape_of_theirs(tensor, ours)
    if shape == wanted:
        return None
    if tensor.part and (len(shape) <= tensor.axis or shape[tensor.axis] % tensor.part[1]):
        return f"has shape {shape}, not {tensor.part[1]} equal parts"
    if tensor.layout and len(shape) != len(wanted):
        return f"has shape {shape}, which is not {tensor.layout.split('->')[0].strip()}"
    return f"has shape {shape}, the model has {wanted}"


def to_ours(tensor: Tensor, value: np.ndarray) -> np.ndarray:
    """One PyTorch tensor as ours: the part, then the layout. Raises ValueError if its shape does
    not allow it."""
    if tensor.counter:
        if value.shape != () or value.dtype != np.int64 or not 0 <= value < 2**31:
            raise ValueError(f"is {value.dtype} {value.shape}, not an int64 count below 2^31")
        return value.astype(np.int32)
    if tensor.part:
        i, n = tensor.part
        if value.ndim <= tensor.axis or value.shape[tensor.axis] % n:
            raise ValueError(f"has shape {value.shape}, not {n} equal parts")
        value = np.split(value, n, axis=tensor.axis)[i]
    if not tensor.layout:
        return value
    try:
        return rearrange(value, tensor.layout, **tensor.sizes)
    except EinopsError as e:  # its message has several lines
        raise ValueError(
            f"has shape {value.shape}, which is not {tensor.layout.split('->')[0].strip()}"
        ) from e


def to_theirs(tensor: Tensor, value: np.ndarray) -> np.ndarray:
    """One of our leaves (one slice, if stacked) as PyTorch's tensor, or as its part."""
    if tensor.counter:
        return value.astype(np.int64)
    if not tensor.layout:
        return value
    theirs, ours = (side.strip() for side in tensor.layout.split("->"))
    return rearrange(value, f"{ours} -> {theirs}", **tensor.sizes)


@dataclass(frozen=True)
class Pair:
    """A PyTorch module and ours that compute the same from the same weights.

    Attributes:
      module: path of ours.
      index: along the scanned axis, or None.
      weight: the tensor called ``weight``; its layout says how inputs that were flattened are
        ordered.
    """

    module: str
    index: int | None
    weight: Tensor


def module_pairs(rules: Sequence[Rule], leaves: Mapping[str, Any]) -> dict[str, Pair]:
    """PyTorch module -> our module, for the modules that are one on both sides."""
    pairs = {}
    for path, leaf in leaves.items():
        source = resolve(rules, path, leaf.shape)
        for i, module in enumerate(source.modules):
            index = i if source.stacked else None
            if module and source.tensor.torch == "weight":
                pairs[module] = Pair(source.module, index, source.tensor)
            elif source.tensor.torch in ATTENTION_OUT:
                pairs[module] = Pair(source.module.rpartition("/")[0], index, source.tensor)
    return pairs
