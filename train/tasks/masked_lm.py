"""BERT's pretraining: masked tokens and the next sentence (Devlin et al. 2019,
arXiv:1810.04805)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import jax
from jaxtyping import Array, PRNGKeyArray

from input_pipeline.masking import mask_tokens
from input_pipeline.tokenizers import special_tokens
from jaxmodels.adapt.multitask import WeightedOutputs
from jaxmodels.families.bert.model import PretrainingLogits
from train.options.fields import ConfigError, limit
from train.step import Batch, Metric
from train.task import Bundle, Setting, Task, fixed_key
from train.tasks.classification import classification
from train.tasks.cross_entropy import token_cross_entropy
from train.tasks.multitask import multi_task, multi_task_loss, share
from train.tasks.preprocessing import all_but, row_keys

PARTS = ("masked", "next")
"""Masked tokens, and whether the second text follows the first."""


def masked_lm(
    outputs: PretrainingLogits | WeightedOutputs,
    batch: dict[str, Array],
    *,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
    weights: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Metric]:
    """Cross-entropy of masked tokens plus that of the next sentence, in nats, with the accuracy of
    both.

    ``loss = sum_bk m_bk (-log softmax(logits_bk)_target_bk) / sum m - sum_b w_b log
    softmax(next_b)_label_b / sum
    w`` (Devlin et al. 2019, appendix A.2): :func:`multi_task` of :func:`masked_tokens` and
    :func:`next_sentence`.
    """
    tasks = {
        "masked": partial(masked_tokens, label_smoothing=label_smoothing, chunk=chunk),
        "next": next_sentence,
    }
    return multi_task(outputs, batch, tasks=tasks, weights=weights)


def masked_tokens(
    outputs: PretrainingLogits,
    batch: dict[str, Array],
    *,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
) -> dict[str, Metric]:
    """Cross-entropy of masked tokens in nats, and accuracy.

    Args:
      batch: ``masked_target`` int32 [b, k] and ``masked_weight`` float [b, k].
    """
    target, masked = batch["masked_target"], batch["masked_weight"]
    sums = token_cross_entropy(
        outputs.tokens, target, masked, label_smoothing=label_smoothing, chunk=chunk
    )
    count = masked.astype(sums.loss.dtype).sum()
    return {"loss": (sums.loss, count), "accuracy": (sums.correct, count)}


def next_sentence(outputs: PretrainingLogits, batch: dict[str, Array]) -> dict[str, Metric]:
    """Cross-entropy of whether the second text follows the first in nats, and accuracy.

    Args:
      batch: ``label`` int32 [b], 0 where it does; ``weight`` float [b], 0 for padding.
    """
    return classification(outputs.next_sentence, batch)


@dataclass
class MaskedLMOptions:
    """Options of the task."""

    # share of the tokens
    mask_rate: float = field(default=0.15, metadata=limit(above=0, below=1))
    label_smoothing: float = field(default=0.0, metadata=limit(low=0, high=1))


def _make(setting: Setting) -> Task:
    model, card = setting.model, setting.card
    if not getattr(model, "next_sentence", True):
        raise ConfigError(
            "config.model_fields.next_sentence = False, and task masked_lm learns the next "
            "sentence too: leave the field out"
        )
    special, mask_token = special_tokens(card.kind("text").tokenizer)
    ordinary = all_but(special, card)

    def masked(key: PRNGKeyArray, batch: Batch) -> Batch:
        mask = partial(
            mask_tokens,
            rate=setting.options.mask_rate,
            mask_token=mask_token,
            vocab_size=card.kind("text").vocab_size,
        )
        maskable = ordinary[batch["tokens"]] & (batch["segments"] > 0)
        found = jax.vmap(mask)(row_keys(key, len(maskable)), batch["tokens"], maskable)
        tokens, positions, target, weight = found
        weight = weight * batch["weight"][:, None]
        return {
            **batch,
            "tokens": tokens,
            "positions": positions,
            "masked_target": target,
            "masked_weight": weight,
            "share_masked": share(batch["weight"], weight),
        }

    weights = setting.tasks.weights
    return Task(
        BUNDLE,
        train_objective=partial(
            masked_lm, label_smoothing=setting.options.label_smoothing, weights=weights
        ),
        eval_objective=partial(masked_lm, weights=weights),
        train_batch=masked,
        eval_batch=partial(masked, fixed_key(setting.seed, 0)),
        inputs=("tokens", "segments", "types", "positions"),
        derive=lambda means: {"loss": multi_task_loss(means, PARTS, weights)},
    )


BUNDLE = Bundle(
    "masked_lm",
    _make,
    outputs=("pretraining",),
    head="pretraining",
    form="sentence_pairs",
    options=MaskedLMOptions,
    suits=("prune.method",),
    parts=PARTS,
)
