"""The harness of ``make fuzz`` itself: cases that can be had again, and faults that are seen."""

import time

import numpy as np
import pytest

from input_pipeline import DataError
from tests.fuzz import worker
from tests.fuzz.mutations import json_mutated, mutated
from tests.fuzz.oracle import Fault, Kind, Refused, refusing


def test_a_case_is_a_function_of_its_seed():
    content, text = bytes(range(200)), b'{"a": [1, {"b": "c"}], "d": null}'
    for case in range(50):
        one, other = (np.random.default_rng([0, case]) for _ in range(2))
        assert mutated(one, content, text) == mutated(other, content, text)
        assert json_mutated(one, text) == json_mutated(other, text)
    found = {mutated(np.random.default_rng(case), content) for case in range(100)}
    assert (
        len(found) > 80
        and len({json_mutated(np.random.default_rng(case), text) for case in range(100)}) > 50
    )


def _late(context, rng, place):
    time.sleep(0.2)


def _large(context, rng, place):
    np.ones(2**24)


def _unknown(context, rng, place):
    with refusing():
        raise KeyError("x")


def _long(context, rng, place):
    with refusing():
        raise DataError("x" * 501)


def _two_lines(context, rng, place):
    with refusing():
        raise DataError("a\nb")


def _changed(context, rng, place):
    raise Fault("other content")


def _refused(context, rng, place):
    (place / "file").write_text("x")
    with refusing():
        raise DataError("not a file")


@pytest.mark.parametrize(
    ("attempt", "result", "words"),
    [
        (_late, "fault", "accepted after 0.2 s"),
        (_large, "fault", "more memory"),
        (_unknown, "fault", "KeyError"),
        (_long, "fault", "an error of 501 characters in 1 lines"),
        (_two_lines, "fault", "in 2 lines"),
        (_changed, "fault", "other content"),
        (_refused, "refused", ""),
        (lambda context, rng, place: None, "accepted", ""),
    ],
)
def test_what_is_a_fault(attempt, result, words, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "SECONDS", 0.1)
    monkeypatch.setattr(worker, "BYTES", 2**26)
    found, what = worker._tried(
        Kind(lambda directory: None, attempt), None, np.random.default_rng(0), tmp_path
    )
    assert found == result and words in what
    assert not [*tmp_path.iterdir()]


def test_what_is_refused_is_no_fault():
    with pytest.raises(Refused), refusing():
        raise DataError("line 3 is no row")
