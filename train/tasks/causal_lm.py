"""Language modelling: the next token of a text, by cross-entropy."""

import math
from dataclasses import dataclass, field
from functools import partial

from jaxtyping import Array

from jaxmodels.nn.layers import TokenLogits
from train.options.fields import limit
from train.step import Metric
from train.task import Bundle, Setting, Task
from train.tasks import writing
from train.tasks.cross_entropy import token_cross_entropy


def causal_lm(
    outputs: TokenLogits,
    batch: dict[str, Array],
    *,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
) -> dict[str, Metric]:
    """Cross-entropy of the next token in nats and accuracy, as weighted sums over tokens.

    ``loss = sum_bl w_bl (-log softmax(logits_bl)_target_bl)``; ``cross_entropy`` is the loss
    without label smoothing. Where the batch says how many characters each token stands for,
    ``bits_per_character`` is ``cross_entropy / ln 2`` over their number.

    Args:
      batch: ``target`` int32 [b, l]; ``weight`` float [b, l], 0 for padding; ``characters`` float
        [b, l], optional.
      chunk: see :func:`train.tasks.cross_entropy.token_cross_entropy`.
    """
    weight = batch["weight"]
    loss, cross_entropy, correct = token_cross_entropy(
        outputs, batch["target"], weight, label_smoothing=label_smoothing, chunk=chunk
    )
    weight = weight.astype(loss.dtype)
    count = weight.sum()
    metrics = {
        "loss": (loss, count),
        "accuracy": (correct, count),
        "cross_entropy": (cross_entropy, count),
    }
    if "characters" in batch:
        characters = batch["characters"].astype(weight.dtype)
        metrics["bits_per_character"] = (cross_entropy / math.log(2), (characters * weight).sum())
    return metrics


def perplexity(means: dict[str, float]) -> dict[str, float]:
    """The perplexity that follows from the mean cross-entropy; at most that of 700 nats."""
    return {"perplexity": math.exp(min(means["cross_entropy"], 700.0))}


@dataclass
class CausalLMOptions:
    """Options of the task."""

    label_smoothing: float = field(default=0.0, metadata=limit(low=0, high=1))


def _make(setting: Setting) -> Task:
    return Task(
        BUNDLE,
        train_objective=partial(causal_lm, label_smoothing=setting.options.label_smoothing),
        eval_objective=causal_lm,
        train_batch=lambda key, batch: batch,
        eval_batch=lambda batch: batch,
        inputs=("tokens", "segments") if setting.card.kind("text").isolate else ("tokens",),
        derive=perplexity,
    )


BUNDLE = Bundle(
    "causal_lm",
    _make,
    outputs=("token_logits",),
    form="windows",
    options=CausalLMOptions,
    suits=("prune.method", "data.isolate_documents"),
    unit="tokens",
    explains="next token",
    writes=writing.write,
)
