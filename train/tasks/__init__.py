"""The objectives of runs: one file each, and helpers that several share.

The loop, ``evaluate``, ``predict``, ``generate``, ``explain`` and ``compress`` know none of them by
its name: they ask the bundle of a run.
"""

from input_pipeline import DataSpec
from jaxmodels import Module
from train.config import Config
from train.preprocessing import check_embeddings
from train.tasks import (
    causal_lm,
    classification,
    contrastive,
    elbo,
    masked_lm,
    multitask,
    regression,
    seq2seq,
)
from train.tasks.task import Bundle, Report, Task

TASKS: dict[str, Bundle] = {
    "causal_lm": causal_lm.BUNDLE,
    "masked_lm": masked_lm.BUNDLE,
    "seq2seq": seq2seq.BUNDLE,
    "classification": classification.BUNDLE,
    "regression": regression.BUNDLE,
    "contrastive": contrastive.BUNDLE,
    "elbo": elbo.BUNDLE,
}
"""``config.objective`` -> its bundle."""


def bundle_of(config: Config) -> Bundle:
    """The bundle that a config names, or that of several labels."""
    return multitask.BUNDLE if config.tasks.labels else TASKS[config.objective]


def make_task(config: Config, model: Module, card: DataSpec) -> Task:
    """The task of a run.

    Raises:
      ConfigError: the data do not suit the task, or the model has no place for their tokens.
    """
    check_embeddings(model, card)
    return bundle_of(config).make(config, model, card)


__all__ = ["TASKS", "Bundle", "Report", "Task", "bundle_of", "make_task"]
