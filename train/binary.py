"""Scores of classifiers of two classes: label 1 is the positive one, and a probability is that of label 1.

An interval is of 95%: Wilson's (1927) for proportions, else the percentiles of a bootstrap over examples. It speaks of
other examples drawn as these were, for this one trained model, and of nothing else.
"""

import math
from typing import Any

import numpy as np

BINS = 10
"""Of equal width, for calibration."""

Numbers = np.ndarray | np.floating | int

RESAMPLES = 1000
QUANTILE = 1.959963984540054
"""Of the standard normal distribution, for 95%."""


def wilson(hits: Numbers, count: Numbers) -> tuple[Numbers, Numbers]:
    """Lower and upper end of Wilson's 95% interval of proportions hits / count, count > 0."""
    hits, count, z2 = np.asarray(hits, float), np.asarray(count, float), QUANTILE**2
    centre, total = hits + z2 / 2, count + z2
    half = QUANTILE * np.sqrt(hits * (count - hits) / count + z2 / 4)
    return np.maximum(centre - half, 0) / total, np.minimum((centre + half) / total, 1)  # rounding may pass 0 and 1


def calibration(label: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In each of the bins the number of examples, that of positives, and the sum of the probabilities."""
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probability)  # (a, b], as scikit-learn's
    count, positives, total = (np.bincount(bins, weights, BINS) for weights in (None, label, probability))
    return count, positives, total


def calibration_error(label: np.ndarray, probability: np.ndarray) -> float:
    """Expected calibration error of the probability of label 1.

    ``sum_b n_b / n |positives_b / n_b - mean probability_b|`` over the bins (Guo et al. 2017, arXiv:1706.04599,
    equation 3, there for the probability of the predicted class).
    """
    _, positives, total = calibration(label, probability)
    return float(np.abs(positives - total).sum() / len(label))


def error_by_chance(probability: np.ndarray, rng: np.random.Generator) -> float:
    """What 95% of perfectly calibrated classifiers with these probabilities do not exceed in calibration error.

    Labels are drawn from the probabilities (consistency resampling, Bröcker & Smith 2007).
    """
    draws = [rng.random(len(probability)) < probability for _ in range(RESAMPLES)]
    return float(np.quantile([calibration_error(label, probability) for label in draws], 0.95))


def threshold_of(sensitivity: float, label: np.ndarray, probability: np.ndarray) -> float:
    """The highest threshold that at least this share of the positives reaches; there must be positives."""
    positives = np.sort(probability[label == 1])[::-1]
    return float(positives[math.ceil(sensitivity * len(positives) - 1e-9) - 1])  # 19 of 20 are 0.95, but for rounding


def scores(label: np.ndarray, probability: np.ndarray, *, threshold: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """Scores as JSON values; a decision is positive where the probability is at least ``threshold``.

    Sensitivity and specificity are shares of the positives and of the negatives; the predictive values hold only where
    positives are as frequent as here. The bootstrap of a perfect score knows no other one: its interval is a point.

    The calibration error has no interval. It is above 0 by chance even for a perfectly calibrated classifier, and
    resampling adds as much again, so that a bootstrap's interval misses the truth. It is to be compared with
    ``by_chance``, see :func:`error_by_chance`.

    Args:
      label: 0 or 1 [n]; probability: [n], of label 1.
      seed: of the resampling.

    Returns:
      ``threshold``; ``confusion``, counts by true class (row) and decision (column); of each score dict(value, low,
      high), or None where it is undefined; ``calibration_error``, dict(value, by_chance).
    """
    from sklearn import metrics  # here: seconds, and most runs have no use for it

    rng, size = np.random.default_rng(seed), len(label)
    confusion = np.zeros((2, 2), int)
    np.add.at(confusion, (label, (probability >= threshold).astype(int)), 1)
    (tn, fp), (fn, tp) = confusion.tolist()
    proportions = {
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "positive_predictive_value": (tp, tp + fp),
        "negative_predictive_value": (tn, tn + fn),
    }
    result: dict[str, Any] = {"threshold": threshold, "confusion": confusion.tolist()}
    for name, (hits, count) in proportions.items():
        result[name] = _interval(hits / count, *wilson(hits, count)) if count else None
    others = {
        "roc_auc": metrics.roc_auc_score,
        "average_precision": metrics.average_precision_score,
        "brier": metrics.brier_score_loss,
    }
    draws = [rows for rows in rng.integers(0, size, (RESAMPLES, size)) if 0 < label[rows].sum() < size]
    for name, score in others.items():
        result[name] = None  # with one class alone there is nothing to rank
        if draws:
            found = [score(label[rows], probability[rows]) for rows in draws]
            result[name] = _interval(score(label, probability), *np.quantile(found, [0.025, 0.975]))
    error = {"value": calibration_error(label, probability), "by_chance": error_by_chance(probability, rng)}
    return {**result, "calibration_error": error}


def _interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": float(value), "low": float(low), "high": float(high)}


def table(result: dict[str, Any]) -> str:
    """What :func:`scores` gave, with ``positive``, the name of label 1, as aligned text."""
    (tn, fp), (fn, tp) = result["confusion"]
    name, error = result["positive"], result["calibration_error"]
    rows = [
        f"{name} at a probability of {result['threshold']:.4g} or more: {fn} of {fn + tp} {name} missed, "
        f"{fp} of {tn + fp} others called {name}",
        f"{'':<26} value  95% interval",
    ]
    for key, found in result.items():
        if isinstance(found, dict) and "low" in found:
            rows.append(f"{key:<25} {found['value']:6.4f}  {found['low']:.4f} to {found['high']:.4f}")
    rows.append(f"{'calibration_error':<25} {error['value']:6.4f}  by chance alone up to {error['by_chance']:.4f}")
    return "\n".join(rows)
