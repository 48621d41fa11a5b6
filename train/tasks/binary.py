"""Scores of classifiers of two classes: label 1 is the positive one, and a probability is that of
label 1.

An interval is of 95%: Wilson's (1927) for proportions, DeLong's (1988) on the logit scale for the
area under the ROC curve, else the percentiles of a bootstrap over examples. A sample without
variation gets an exact bound instead: what happened n times of n has a probability of at least
0.025^(1/n) (Clopper & Pearson 1934). An interval speaks of other examples drawn as these were, for
this one trained model, and of nothing else.
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
    # rounding may pass 0 and 1
    return np.maximum(centre - half, 0) / total, np.minimum((centre + half) / total, 1)


def calibration(
    label: np.ndarray, probability: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In each of the bins the number of examples, that of positives, and the sum of the
    probabilities."""
    # (a, b], as scikit-learn's
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probability)
    count, positives, total = (
        np.bincount(bins, weights, BINS) for weights in (None, label, probability)
    )
    return count, positives, total


def calibration_error(label: np.ndarray, probability: np.ndarray) -> float:
    """Expected calibration error of the probability of label 1.

    ``sum_b n_b / n |positives_b / n_b - mean probability_b|`` over the bins (Guo et al. 2017,
    arXiv:1706.04599, equation 3, there for the probability of the predicted class).
    """
    _, positives, total = calibration(label, probability)
    return float(np.abs(positives - total).sum() / len(label))


def error_by_chance(probability: np.ndarray, rng: np.random.Generator) -> float:
    """What 95% of perfectly calibrated classifiers with these probabilities do not exceed in
    calibration error.

    Labels are drawn from the probabilities (consistency resampling, Bröcker & Smith 2007).
    """
    draws = [rng.random(len(probability)) < probability for _ in range(RESAMPLES)]
    return float(np.quantile([calibration_error(label, probability) for label in draws], 0.95))


def threshold_of(sensitivity: float, label: np.ndarray, probability: np.ndarray) -> float:
    """The highest threshold that at least this share of the positives reaches; there must be
    positives."""
    positives = np.sort(probability[label == 1])[::-1]
    # 19 of 20 are 0.95, but for rounding
    return float(positives[math.ceil(sensitivity * len(positives) - 1e-9) - 1])


def scores(
    label: np.ndarray, probability: np.ndarray, *, threshold: float = 0.5, seed: int = 0
) -> dict[str, Any]:
    """Scores as JSON values; a decision is positive where the probability is at least
    ``threshold``.

    Each score is there if it is defined itself: Brier's and the calibration error for any examples,
    average precision where there are positives, the area under the ROC curve where there are both
    classes. Sensitivity and specificity are shares of the positives and of the negatives; the
    predictive values hold only where positives are as frequent as here.

    The calibration error has no interval. It is above 0 by chance even for a perfectly calibrated
    classifier, and resampling adds as much again, so that a bootstrap's interval misses the truth.
    It is to be compared with ``by_chance``, see :func:`error_by_chance`.

    Args:
      label: 0 or 1 [n], n > 0; probability: [n], of label 1, finite.
      seed: of the resampling.

    Returns:
      ``threshold``; ``confusion``, counts by true class (row) and decision (column); of each score
      dict(value, low, high), or None where it is undefined; ``calibration_error``, dict(value,
      by_chance).
    """
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
    draws = rng.integers(0, size, (RESAMPLES, size))
    result["roc_auc"] = roc_auc(label, probability)
    result["average_precision"] = average_precision(label, probability, draws)
    result["brier"] = brier(label, probability, draws)
    error = {
        "value": calibration_error(label, probability),
        "by_chance": error_by_chance(probability, rng),
    }
    return {**result, "calibration_error": error}


def roc_auc(label: np.ndarray, probability: np.ndarray) -> dict[str, float] | None:
    """Area under the ROC curve A with its 95% interval; None unless there are both classes.

    A is the share of pairs of a positive and a negative in which the positive has the higher
    probability. A tie counts half. The interval is
    ``logit(A) +- 1.96 sqrt(variance) / (A (1 - A))`` taken back (Qin & Hotilovac 2008, Stat.
    Methods Med. Res. 17:207-221), with DeLong's variance (1988, Biometrics 44:837-845). DeLong's
    needs two examples of each class; with one, the variance is Hanley & McNeil's (1982, Radiology
    143:29-36).

    All pairs agree if A is 0 or 1, or if all probabilities are equal. Then the exact bound holds
    for how often a pair is so: ``min(positives, negatives)`` pairs share no example and are
    independent.
    """
    positive, negative = probability[label == 1], np.sort(probability[label == 0])
    if not positive.size or not negative.size:
        return None
    m, n = len(positive), len(negative)
    below = (np.searchsorted(negative, positive) + np.searchsorted(negative, positive, "right")) / 2
    positive = np.sort(positive)
    above = (
        m - (np.searchsorted(positive, negative) + np.searchsorted(positive, negative, "right")) / 2
    )
    area, least = float(below.sum() / (m * n)), always(min(m, n))
    if area in (0.0, 1.0):
        return _interval(area, *((least, 1.0) if area else (0.0, 1 - least)))
    if np.ptp(probability) == 0:
        return _interval(area, least / 2, 1 - least / 2)
    if min(m, n) > 1:
        variance = np.var(below / n, ddof=1) / m + np.var(above / m, ddof=1) / n
    else:
        one, two = area / (2 - area), 2 * area**2 / (1 + area)
        variance = area * (1 - area) + (m - 1) * (one - area**2) + (n - 1) * (two - area**2)
        variance /= m * n
    logit, half = math.log(area / (1 - area)), QUANTILE * math.sqrt(variance) / (area * (1 - area))
    return _interval(area, *(0.5 * (1 + math.tanh(x / 2)) for x in (logit - half, logit + half)))


def average_precision(
    label: np.ndarray, probability: np.ndarray, draws: np.ndarray
) -> dict[str, float] | None:
    """Precision averaged over the positives, as scikit-learn's, with its 95% interval; None without
    positives.

    Args:
      draws: numbers of examples [r, n], the resamples of the bootstrap; those without positives do
        not count.

    Where every positive is above every negative, as in all resamples then, the interval is Wilson's
    of as many hits as there are positives: an average over them, treated as a proportion (Boyd, Eng
    & Page 2013, ECML PKDD 8190:451-466).
    """
    # here: seconds, and most runs have no use for it
    from sklearn.metrics import average_precision_score

    positives = int(label.sum())
    if not positives:
        return None
    if positives == len(label) or probability[label == 1].min() > probability[label == 0].max():
        return _interval(1.0, *wilson(positives, positives))
    found = [
        average_precision_score(label[rows], probability[rows])
        for rows in draws
        if label[rows].any()
    ]
    return _interval(
        average_precision_score(label, probability), *np.quantile(found, [0.025, 0.975])
    )


def brier(label: np.ndarray, probability: np.ndarray, draws: np.ndarray) -> dict[str, float]:
    """Mean of ``(probability - label)^2`` (Brier 1950) with its 95% interval; of one class too.

    If all n squares are equal, the exact bound holds for how often a square is this one; the others
    are in [0, 1].

    Args:
      draws: numbers of examples [r, n], the resamples of the bootstrap.
    """
    squares = (probability - label) ** 2
    value = float(squares.mean())
    if np.ptp(squares) <= 1e-12:  # equal but for rounding
        least = always(len(squares))
        return _interval(value, least * value, min(least * value + 1 - least, 1.0))
    return _interval(value, *np.quantile(squares[draws].mean(1), [0.025, 0.975]))


def always(count: int) -> float:
    """The least probability of an event seen ``count`` times of ``count``: the exact 97.5% bound,
    one-sided."""
    return 0.025 ** (1 / count)


def _interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": float(value), "low": float(low), "high": float(high)}


def table(result: dict[str, Any]) -> str:
    """What :func:`scores` gave, with ``positive``, the name of label 1, as aligned text."""
    (tn, fp), (fn, tp) = result["confusion"]
    name, error = result["positive"], result["calibration_error"]
    rows = [
        f"{name} at a probability of {result['threshold']:.4g} or more: {fn} of {fn + tp} {name} "
        f"missed, {fp} of {tn + fp} others called {name}",
        f"{'':<26} value  95% interval",
    ]
    for key, found in result.items():
        if isinstance(found, dict) and "low" in found:
            rows.append(
                f"{key:<25} {found['value']:6.4f}  {found['low']:.4f} to {found['high']:.4f}"
            )
    rows.append(
        f"{'calibration_error':<25} {error['value']:6.4f}  by chance alone up to "
        f"{error['by_chance']:.4f}"
    )
    return "\n".join(rows)
