"""Scores that are no means over examples: of a confusion matrix, and correlations."""

import math

import numpy as np


def per_class(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and support of every class.

    Args:
      confusion: counts [classes, classes], true class by row, predicted class by column.

    Returns:
      Float arrays [classes]; a ratio whose denominator is 0 is 0, as in scikit-learn.
    """
    hit, predicted, support = np.diag(confusion), confusion.sum(0), confusion.sum(1)

    def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.divide(a, b, out=np.zeros(len(a)), where=b > 0)

    return {
        "precision": ratio(hit, predicted),
        "recall": ratio(hit, support),
        "f1": ratio(2 * hit, predicted + support),
        "support": support,
    }


def macro_f1(confusion: np.ndarray) -> float:
    """Mean F1 of the classes that occur or are predicted, as scikit-learn's: of the others there is
    none.

    Args:
      confusion: see :func:`per_class`.
    """
    there = confusion.sum(0) + confusion.sum(1) > 0
    return float(per_class(confusion.astype(np.float64))["f1"][there].mean())


def matthews(confusion: np.ndarray) -> float:
    """Matthews' correlation of true and predicted class, for any number of classes (Gorodkin 2004);
    0 if undefined.

    Args:
      confusion: see :func:`per_class`.
    """
    total, hit = confusion.sum(), np.trace(confusion)
    true, predicted = confusion.sum(1), confusion.sum(0)
    spread = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    return float((hit * total - true @ predicted) / math.sqrt(spread)) if spread > 0 else 0.0


def correlations(label: np.ndarray, output: np.ndarray) -> dict[str, float]:
    """Pearson's and Spearman's correlation of two series of numbers [n]; NaN where one of them is
    constant.

    Spearman's is Pearson's of the ranks, equal numbers having the mean of theirs.
    """
    from scipy.stats import rankdata  # here: a second, and most runs have no use for it

    def pearson(a: np.ndarray, b: np.ndarray) -> float:
        if not np.ptp(a) or not np.ptp(b):
            return math.nan
        a, b = (x.astype(np.float64) - x.mean(dtype=np.float64) for x in (a, b))
        # squares of tiny and of huge numbers stay in range
        a, b = (x / np.abs(x).max() for x in (a, b))
        return float(a @ b / math.sqrt((a @ a) * (b @ b)))

    return {
        "pearson": pearson(label, output),
        "spearman": pearson(rankdata(label), rankdata(output)),
    }
