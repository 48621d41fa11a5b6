"""The records of a PyTorch original and of its certificate's case, with what originals share.

torch, torchvision and transformers are imported inside functions alone: the library runs without
them, and the extra ``compare`` installs them.
"""

import contextlib
import functools
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]

SDPA = "sdpa"
"""Attention of transformers' models: their eager one takes its softmax in float32 whatever the
type."""


class OriginalError(ValueError):
    """A model has no original with its fields, or the original's library is not installed.

    The message is one line and meant for the user.
    """


def cross_entropy(logits: Any, batch: Mapping[str, Any]) -> Any:
    """Mean cross-entropy of logits [b, classes] and ``label`` [b]."""
    from torch.nn import functional as F

    return F.cross_entropy(logits, batch["label"])


def token_cross_entropy(logits: Any, batch: Mapping[str, Any]) -> Any:
    """Mean over the tokens that count, by ``weight`` [b, l]."""
    from torch.nn import functional as F

    losses = F.cross_entropy(logits.flatten(0, 1), batch["target"].flatten(), reduction="none")
    weight = batch["weight"].flatten()
    return (losses * weight).sum() / weight.sum()


@dataclass(frozen=True)
class Original:
    """A PyTorch model.

    Attributes:
      module: the ``torch.nn.Module``.
      source: library, version and model.
      format: of its state dict in ``jaxmodels.weights``.
      main: the module's outputs to the tensor that is compared (logits), laid out as ours.
      loss: (the module's outputs, batch) -> mean loss, as our objective defines it.
      tied: names in the state dict of tensors that it has under another name too; files leave them
        out.
    """

    module: Any
    source: str
    format: str
    main: Callable[[Any], Any] = lambda outputs: outputs
    loss: Callable[[Any, dict[str, Any]], Any] = cross_entropy
    tied: frozenset[str] = frozenset()

    def tensors(self) -> dict[str, Any]:
        """The state dict without what is tied; the tensors are the module's own."""
        return {k: v.detach() for k, v in self.module.state_dict().items() if k not in self.tied}

    def load(self, tensors: Mapping[str, Any]) -> None:
        """Sets everything to what :meth:`tensors` gave."""
        missing, left_over = self.module.load_state_dict(tensors, strict=False)
        if set(missing) != self.tied or left_over:
            raise KeyError(f"missing {missing}, left over {left_over}")


@dataclass(frozen=True)
class Case:
    """One comparison: the size at which a preset's certificate is made.

    Architectures are the full ones. Images are small and texts short: every layer is exercised all
    the same, and float64 on a CPU is slow. Images are not square, and large enough that the last
    map before a flattening is more than one pixel. A few classifiers, vocabularies and depths are
    cut where the full model's optimiser state would not fit a small machine, and the certificate
    says so. The number of parameters is always compared at full size.

    Attributes:
      model: preset.
      image_shape: (h, w, c) of the batches; empty for text.
      full_shape: (h, w, c) at which parameters are counted.
      length: of texts in tokens; 0 for images.
      fields: of the model, besides the number of classes.
      batch_size: of the float64 and float32 comparisons; timing_batch_size: of the timings.
      classes, full_classes: of the comparison and of the parameter count; for text the size of the
        vocabulary.
      objective: the name of the training objective: ``"classification"``, ``"elbo"``,
        ``"causal_lm"``, ``"masked_lm"`` or ``"seq2seq"``.
      note: how this is smaller than the full model.
      name: of the case, where a preset has several.
      full_fields: of the model whose parameters are counted, besides the number of classes.
    """

    model: str
    image_shape: Shape
    full_shape: Shape = (224, 224, 3)
    length: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 4
    timing_batch_size: int = 8
    classes: int = 10
    full_classes: int = 1000
    objective: str = "classification"
    note: str = ""
    name: str = ""
    full_fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name by which it is found."""
        return self.name or self.model


@functools.cache
def torchvision() -> Any:
    """The models of torchvision, with or without its compiled operators.

    Beside a CPU build of PyTorch those do not load, and declaring their shapes fails the import; no
    model needs them.
    """
    with _lenient_register_fake():
        try:
            import torchvision.models as models
        except ImportError as e:
            raise OriginalError(
                f"this comparison needs torchvision ({e}): pip install -e .[compare]"
            ) from e
    return models


@contextlib.contextmanager
def _lenient_register_fake() -> Iterator[None]:
    import torch

    register_fake = torch.library.register_fake

    def lenient(op, *args, **kwargs):
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return register_fake(op, *args, **kwargs)

    torch.library.register_fake = lenient
    try:
        yield
    finally:
        torch.library.register_fake = register_fake


@functools.cache
def transformers() -> Any:
    """The library of that name."""
    torchvision()  # it imports torchvision, if it is there
    try:
        import transformers
    except ImportError as e:
        raise OriginalError(
            f"this comparison needs transformers ({e}): pip install -e .[compare]"
        ) from e
    return transformers


def transformers_source(name: str) -> str:
    """The source of a model of transformers: library, version and class."""
    return f"transformers {transformers().__version__} {name}"


def torchvision_source(name: str) -> str:
    """The source of a model of torchvision: library, version and module."""
    return f"torchvision {importlib.metadata.version('torchvision')} {name}"


def with_auxiliary(module: Any, source: str) -> Original:
    """A classifier of the Inception family: in training a tuple, logits first; otherwise logits."""

    def main(outputs):
        return outputs[0] if isinstance(outputs, tuple) else outputs

    def loss(outputs, batch):
        auxiliary = outputs[1:] if isinstance(outputs, tuple) else ()
        losses = [cross_entropy(x, batch) for x in (main(outputs), *auxiliary)]
        return losses[0] + 0.3 * sum(losses[1:])

    return Original(module, source, "torchvision", main=main, loss=loss)


def require_defaults(model: Any, with_: str = "", **needed: Any) -> None:
    """Raises OriginalError for fields whose value the original does not have."""
    wrong = [
        f"{k}={getattr(model, k)!r} (it has {v!r})"
        for k, v in needed.items()
        if getattr(model, k) != v
    ]
    if wrong:
        raise OriginalError(
            f"the original of {type(model).__name__}{with_} has no {', '.join(wrong)}"
        )


def activation(name: str) -> Callable[[Any], Any]:
    """PyTorch's function of our name."""
    import torch
    from torch.nn import functional as F

    return {
        "relu": F.relu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "gelu": F.gelu,
        "silu": F.silu,
        "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    }[name]
