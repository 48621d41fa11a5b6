"""Sums, per-class scores against scikit-learn, and records that survive kills."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from jaxmodels.plan.chips import mfu
from train.metrics import Sums
from train.records import strict_json
from train.records.writers import Writers, read_records
from train.tasks.scores import macro_f1, per_class


def test_sums_are_exact_over_unequal_batches():
    sums = Sums()
    sums.add({"loss": (6.0, 3.0), "accuracy": (1.0, 3.0)})
    sums.add({"loss": (4.0, 1.0), "accuracy": (1.0, 1.0)})
    assert sums.means() == {"loss": 2.5, "accuracy": 0.5}
    again = Sums(json.loads(json.dumps(sums.values)))
    assert again.means() == sums.means()
    assert math.isnan(Sums({"loss": (0.0, 0.0)}).means()["loss"])


def test_per_class_scores_equal_scikit_learn():
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 5, 300), rng.integers(0, 4, 300)  # class 4 is never predicted
    true[true == 2] = 1  # class 2 never occurs
    confusion = np.zeros((5, 5))
    np.add.at(confusion, (true, predicted), 1)
    found = per_class(confusion)
    expected = precision_recall_fscore_support(true, predicted, labels=range(5), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(found[name], values, rtol=1e-12, err_msg=name)
    assert macro_f1(confusion) == pytest.approx(
        f1_score(true, predicted, average="macro"), rel=1e-12
    )


def test_numbers_that_json_has_no_word_for_are_null():
    value = {
        "loss": math.nan,
        "per_class": [{"f1": math.inf}, 1, True, None, "NaN"],
        "pair": (0.1, -math.inf),
    }
    expected = {
        "loss": None,
        "per_class": [{"f1": None}, 1, True, None, "NaN"],
        "pair": [0.1, None],
    }
    assert json.loads(strict_json.dumps(value), parse_constant=pytest.fail) == expected


def test_mfu():
    assert mfu(197e12, 2.0, "TPU v5e", 1) == 0.5
    assert mfu(1e12, 1.0, "cpu", 1) is None


def test_records_after_a_kill_are_those_of_one_run(tmp_path):
    def write(start, steps, path=tmp_path):
        writers = Writers(path, start=start, evaluated=start, steps=10)
        for step in steps:
            writers.record(step, "train", {"loss": 1 / 3 / step}, {"step_ms": 1.0})
        writers.close()

    write(0, range(1, 8))
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('{"step": 8, "kind": "tr')  # cut off by a kill
    assert [r["step"] for r in read_records(tmp_path / "metrics.jsonl")] == list(range(1, 8))
    write(5, range(6, 11))
    (tmp_path / "other").mkdir()
    write(0, range(1, 11), tmp_path / "other")
    assert (tmp_path / "metrics.jsonl").read_bytes() == (
        tmp_path / "other" / "metrics.jsonl"
    ).read_bytes()
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize("quiet", [True, False])
def test_only_one_process_writes(tmp_path, quiet, capsys):
    writers = Writers(tmp_path, start=0, evaluated=0, steps=3, quiet=quiet)
    writers.record(1, "train", {"loss": 1.0}, {"step_ms": 2.0})
    writers.progress(1)
    writers.close()
    assert (list(tmp_path.iterdir()) == []) == quiet
    assert ("loss 1" in capsys.readouterr().out) == (not quiet)


@pytest.mark.parametrize(
    ("was", "became"), [('"train"', '"trqin"'), ('"step": 2,', '"step": 0,'), (": 2,", ": 7,")]
)
def test_a_record_of_another_kind_or_step_is_damaged(tmp_path, was, became):
    writers = Writers(tmp_path, start=0, evaluated=0, steps=10)
    for step in (2, 4, 6, 8):
        writers.record(step, "train", {"loss": 1 / step}, {"step_ms": 1.0})
    writers.close()
    path, said = tmp_path / "metrics.jsonl", []
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].replace(was, became), *lines[1:], ""]))
    Writers(tmp_path, start=8, evaluated=8, steps=10, warn=said.append).close()
    assert path.read_text().splitlines() == lines[1:] and "is damaged in line 1;" in said[0]


def test_a_last_record_without_its_timings_is_no_damage(tmp_path):
    """A kill came between the two."""
    for step in (1, 2):
        writers = Writers(tmp_path, start=step - 1, evaluated=0, steps=3)
        writers.record(step, "train", {"loss": 1 / step}, {"step_ms": 1.0})
        writers.close()
    timings = (tmp_path / "timings.jsonl").read_text().splitlines()
    (tmp_path / "timings.jsonl").write_text(timings[0] + "\n")
    Writers(tmp_path, start=2, evaluated=0, steps=3, warn=pytest.fail).close()
    assert [r["step"] for r in read_records(tmp_path / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize(("kept", "damaged"), [(3, None), (6, 2)])
def test_records_without_a_checksum_are_kept(tmp_path, kept, damaged):
    """A power cut took the end of ``timings.jsonl``, or a line of it is damaged; ``metrics.jsonl``
    is whole."""

    def write(start, end):
        writers = Writers(tmp_path, start=start, evaluated=start, steps=10, warn=lambda text: None)
        for step in range(start + 1, end + 1):
            writers.record(step, "train", {"loss": 1 / step}, {"step_ms": 1.0})
        writers.close()

    write(0, 6)
    timings = (tmp_path / "timings.jsonl").read_text().splitlines(keepends=True)
    if damaged is not None:
        timings[damaged] = "garbage\n"
    (tmp_path / "timings.jsonl").write_text("".join(timings[:kept]))
    for step in (7, 8):
        write(step - 1, step)
    assert [r["step"] for r in read_records(tmp_path / "metrics.jsonl")] == [*range(1, 9)]
