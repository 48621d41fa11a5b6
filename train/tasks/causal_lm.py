"""Language modelling: the next token of a text, by cross-entropy."""

import math
from functools import partial

from jaxtyping import Array

from input_pipeline import DataSpec
from jaxmodels import GPT2, Module
from jaxmodels.nn.layers import TokenLogits
from train.options import Config
from train.step import Metric
from train.task import Bundle, Task
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


def _make(config: Config, model: Module, card: DataSpec) -> Task:
    return Task(
        BUNDLE,
        train_objective=partial(causal_lm, label_smoothing=config.label_smoothing),
        eval_objective=causal_lm,
        train_batch=lambda key, batch: batch,
        eval_batch=lambda batch: batch,
        inputs=("tokens", "segments") if card.kind("text").isolate else ("tokens",),
        derive=perplexity,
    )


BUNDLE = Bundle(
    "causal_lm",
    _make,
    models=(GPT2,),
    form="windows",
    suits=("prune.method", "data.isolate_documents"),
    unit="tokens",
    explains="next token",
    writes="text",
)
