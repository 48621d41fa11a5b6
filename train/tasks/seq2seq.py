"""Translation: the next token of a target, given its source, by cross-entropy."""

from functools import partial

from input_pipeline import DataSpec
from jaxmodels import Module, Transformer
from train.options import Config
from train.task import Bundle, Task
from train.tasks import translate
from train.tasks.causal_lm import causal_lm, perplexity


def _make(config: Config, model: Module, card: DataSpec) -> Task:
    return Task(
        BUNDLE,
        train_objective=partial(causal_lm, label_smoothing=config.label_smoothing),
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
    models=(Transformer,),
    form="translation",
    options=("beam",),
    suits=("data.buckets",),
    unit="tokens",
    explains="translation",
    writes="translations",
)
