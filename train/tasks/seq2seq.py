"""Translation: the next token of a target, given its source, by cross-entropy."""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from train.options.fields import limit
from train.task import Bundle, Setting, Task
from train.tasks import translate
from train.tasks.causal_lm import causal_lm, perplexity


@dataclass
class Seq2SeqOptions:
    """Options of the task. ``beams`` and what follows are of the translations by which a run is
    measured when it ends."""

    label_smoothing: float = field(default=0.0, metadata=limit(low=0, high=1))
    beams: int = field(default=4, metadata=limit(low=1, high=2**10))
    # scores are divided by length to this power
    length_penalty: float = field(default=1.0, metadata=limit(low=-100, high=100))
    # sacrebleu's; BLEU counts what it gives
    bleu_tokenizer: Literal["13a", "intl", "char", "zh", "none"] = "13a"


def _make(setting: Setting) -> Task:
    return Task(
        BUNDLE,
        train_objective=partial(causal_lm, label_smoothing=setting.options.label_smoothing),
        eval_objective=causal_lm,
        train_batch=lambda key, batch: batch,
        eval_batch=lambda batch: batch,
        inputs=("source", "tokens", "source_segments", "segments"),
        derive=perplexity,
        reports=(translate.REPORT,),
    )


BUNDLE = Bundle(
    "seq2seq",
    _make,
    outputs=("target_logits",),
    form="translation",
    options=Seq2SeqOptions,
    suits=("data.buckets",),
    unit="tokens",
    explains="translation",
    writes=translate.write,
)
