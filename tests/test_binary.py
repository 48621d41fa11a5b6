"""Scores of two classes against their definitions, written out, and against published numbers."""

import math
import warnings

import numpy as np
import pytest

from train.tasks import binary, figures


@pytest.fixture
def outcomes():
    """200 examples with ties among the probabilities."""
    rng = np.random.default_rng(0)
    probability = np.round(rng.beta(0.6, 0.9, 200), 2)
    return (rng.random(200) < 0.2 + 0.6 * probability).astype(np.int32), probability


def test_wilson_is_newcombes():
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81/263, 15/148, 0/20, 1/29."""
    for hits, count, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        np.testing.assert_allclose(binary.wilson(hits, count), (low, high), atol=5e-5)
    assert binary.wilson(20, 20)[1] == 1.0


def test_scores_are_their_definitions(outcomes):
    label, p = outcomes
    found = binary.scores(label, p, threshold=0.4)
    tp, fn = (p[label == 1] >= 0.4).sum(), (p[label == 1] < 0.4).sum()
    tn, fp = (p[label == 0] < 0.4).sum(), (p[label == 0] >= 0.4).sum()
    assert found["confusion"] == [[tn, fp], [fn, tp]]
    # a positive beside a negative: ranked higher, or a tie
    pairs = p[label == 1][:, None] - p[label == 0]
    precision_at = {t: label[p >= t].mean() for t in p}
    recall_at = {t: (p[label == 1] >= t).mean() for t in p}
    steps = np.array(sorted(set(p), reverse=True))
    recalls = np.array([0, *(recall_at[t] for t in steps)])
    expected = {
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "positive_predictive_value": tp / (tp + fp),
        "negative_predictive_value": tn / (tn + fn),
        "roc_auc": (pairs > 0).mean() + 0.5 * (pairs == 0).mean(),
        "average_precision": sum((recalls[1:] - recalls[:-1]) * [precision_at[t] for t in steps]),
        "brier": np.mean((p - label) ** 2),
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, rel=1e-12), name
        assert 0 <= found[name]["low"] < value < found[name]["high"] <= 1, name
    total = 0.0
    for k in range(10):  # (k / 10, (k + 1) / 10], and 0 in the first
        there = (p * 100 > 10 * k + 0.5) & (p * 100 < 10 * k + 10.5) | ((k == 0) & (p == 0))
        if there.any():
            total += there.mean() * abs(label[there].mean() - p[there].mean())
    assert found["calibration_error"]["value"] == pytest.approx(total, rel=1e-12)


def test_bootstrap_has_a_seed(outcomes, monkeypatch):
    monkeypatch.setattr(binary, "RESAMPLES", 20)
    assert binary.scores(*outcomes) == binary.scores(*outcomes) != binary.scores(*outcomes, seed=1)


def test_bootstrap_has_the_width_of_theory(outcomes):
    label, p = outcomes
    found = binary.scores(label, p)
    # a mean: its standard error is known; 1,000 draws know an end of the interval to about 5% of
    # its width
    error = (p - label) ** 2
    width = found["brier"]["high"] - found["brier"]["low"]
    assert width == pytest.approx(2 * 1.96 * error.std() / np.sqrt(len(p)), rel=0.12)
    # Hanley & McNeil 1982, whose formula is an approximation
    a, n1, n0 = found["roc_auc"]["value"], label.sum(), (1 - label).sum()
    variance = (
        a * (1 - a) + (n1 - 1) * (a / (2 - a) - a**2) + (n0 - 1) * (2 * a**2 / (1 + a) - a**2)
    )
    width = found["roc_auc"]["high"] - found["roc_auc"]["low"]
    assert width == pytest.approx(2 * 1.96 * np.sqrt(variance / (n1 * n0)), rel=0.25)


def test_the_calibrated_are_seldom_called_uncalibrated(monkeypatch):
    monkeypatch.setattr(binary, "RESAMPLES", 100)
    rng = np.random.default_rng(1)
    above = []
    for distort in (1.0, 0.3):
        z = rng.normal(0, 2, (20, 114))
        p, truth = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(-distort * z))
        errors = [
            binary.calibration_error(rng.random(114) < t, x) for t, x in zip(truth, p, strict=True)
        ]
        above.append(
            np.mean([e > binary.error_by_chance(x, rng) for e, x in zip(errors, p, strict=True)])
        )
    # 5% expected, of 20: more than 4 with probability 0.003
    assert above[0] <= 0.2 and above[1] >= 0.8


def test_threshold_of_a_sensitivity():
    label = np.array([1] * 20 + [0] * 5)
    p = np.concatenate([np.arange(1, 21) / 25, np.full(5, 0.9)])
    assert binary.threshold_of(0.95, label, p) == 2 / 25  # 19 of 20 reach it
    assert binary.threshold_of(0.951, label, p) == 1 / 25
    assert binary.threshold_of(1.0, label, p) == 1 / 25


def test_what_is_undefined_is_none_without_a_warning(tmp_path, plots):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = binary.scores(np.zeros(5, int), np.full(5, 0.1))
        figures.plot_two_classes(np.zeros(5, int), np.full(5, 0.1), tmp_path / "a.png", "test")
        figures.plot_two_classes(
            np.arange(3000) % 2, np.arange(3000) / 2999, tmp_path / "b.png", "$a$_$"
        )
    assert found["specificity"]["value"] == 1.0 and found["calibration_error"][
        "value"
    ] == pytest.approx(0.1)
    for name in ("sensitivity", "positive_predictive_value", "roc_auc", "average_precision"):
        assert found[name] is None
    assert "specificity" in binary.table({"positive": "yes", **found})


def test_a_perfect_classifier():
    label = np.array([0, 0, 0, 1, 1])
    found = binary.scores(label, label.astype(float))
    assert found["roc_auc"] == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 2)), "high": 1.0}
    assert found["average_precision"] == {
        "value": 1.0,
        "low": pytest.approx(2 / (2 + 1.96**2), rel=1e-4),
        "high": 1.0,
    }
    assert found["brier"] == {"value": 0.0, "low": 0.0, "high": pytest.approx(1 - 0.025 ** (1 / 5))}
    assert found["calibration_error"] == {"value": 0.0, "by_chance": 0.0}
    # Wilson's, at 2 of 2
    assert found["sensitivity"]["low"] == pytest.approx(2 / (2 + 1.96**2), rel=1e-4)


@pytest.mark.parametrize("one", [0, 1])
def test_scores_of_one_class_are_those_that_are_defined(one):
    label, p = np.full(20, one), np.linspace(0.1, 0.9, 20)
    found = binary.scores(label, p)
    assert found["brier"]["value"] == pytest.approx(np.mean((p - one) ** 2), rel=1e-12)
    assert found["brier"]["low"] < found["brier"]["value"] < found["brier"]["high"]
    assert found["roc_auc"] is None and found["calibration_error"]["value"] > 0
    ranked = found["average_precision"]
    assert ranked is None if one == 0 else ranked["value"] == 1.0 and ranked["low"] < 1
    assert (found["sensitivity"] is None) == (one == 0) and (found["specificity"] is None) == (
        one == 1
    )


def test_intervals_of_an_area_are_delongs():
    """Its variance by its definition: placements of each positive among the negatives, and the
    other way round."""
    rng = np.random.default_rng(3)
    label = (rng.random(60) < 0.4).astype(int)
    p = np.round(rng.beta(1 + 2 * label, 3 - 2 * label * 0.5), 1)  # with ties
    pairs = np.sign(p[label == 1][:, None] - p[label == 0]) / 2 + 0.5
    area = pairs.mean()
    variance = sum(np.var(pairs.mean(axis), ddof=1) / pairs.shape[1 - axis] for axis in (0, 1))
    half = 1.959964 * np.sqrt(variance) / (area * (1 - area))
    ends = [1 / (1 + np.exp(-(np.log(area / (1 - area)) + x))) for x in (-half, half)]
    found = binary.roc_auc(label, p)
    np.testing.assert_allclose(
        [found["value"], found["low"], found["high"]], [area, *ends], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("positives", "negatives", "distance"),
    [(5, 5, 1.8), (20, 20, 2.5), (42, 71, 3.9), (1, 30, 1.0), (100, 100, 0.5)],
)
def test_intervals_of_an_area_hold_the_true_one(positives, negatives, distance):
    """Two normal distributions, whose area is known; perfect samples, a third of the smallest,
    among them."""
    rng, true = np.random.default_rng(5), 0.5 * (1 + math.erf(distance / 2))
    label, held = np.repeat([1, 0], [positives, negatives]), 0
    for _ in range(400):
        found = binary.roc_auc(label, rng.normal(0, 1, len(label)) + distance * label)
        assert 0 <= found["low"] < found["high"] <= 1
        held += found["low"] <= true <= found["high"]
    assert held >= 0.92 * 400  # 95% are meant; the standard error of 400 is 0.011


@pytest.mark.parametrize("sizes", [(1, 1), (1, 7), (7, 1), (2, 2), (50, 3)])
def test_no_interval_of_an_area_is_a_point(sizes):
    label = np.repeat([1, 0], sizes)
    for p in (
        label.astype(float),
        1.0 - label,
        np.full(len(label), 0.3),
        np.arange(len(label)) % 3 / 3,
    ):
        found = binary.roc_auc(label, p)
        assert (
            0 <= found["low"] <= found["value"] <= found["high"] <= 1
            and found["low"] < found["high"]
        )
    assert binary.roc_auc(label, 1.0 - label)["high"] == pytest.approx(
        1 - 0.025 ** (1 / min(sizes))
    )
