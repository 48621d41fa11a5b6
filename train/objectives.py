"""Former place of the losses, which lie in :mod:`train.tasks`, each in the file of its task."""

from train.step import Metric
from train.tasks.causal_lm import causal_lm
from train.tasks.classification import classification, confusion_counts
from train.tasks.contrastive import contrastive
from train.tasks.distillation import distillation
from train.tasks.elbo import elbo, importance_weighted_log_likelihood, log_likelihood
from train.tasks.masked_lm import masked_lm, masked_tokens, next_sentence
from train.tasks.multitask import labelled, multi_task, multi_task_loss
from train.tasks.regression import regression

__all__ = [
    "Metric",
    "causal_lm",
    "classification",
    "confusion_counts",
    "contrastive",
    "distillation",
    "elbo",
    "importance_weighted_log_likelihood",
    "labelled",
    "log_likelihood",
    "masked_lm",
    "masked_tokens",
    "multi_task",
    "multi_task_loss",
    "next_sentence",
    "regression",
]
