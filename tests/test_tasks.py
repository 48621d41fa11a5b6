"""The bundles of tasks: their names and options, and reports that are measured, merged and said."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from jaxmodels import FAMILIES
from train.config import Config, load_config
from train.errors import Stopped
from train.evaluate import means_of, measured, scores
from train.options.fields import check_section
from train.passes import Evaluation
from train.state import TrainState
from train.tasks import TASKS, Report, bundle_named, bundle_of, fitting

STATE = TrainState(0, {}, {}, (), None, True)


def test_the_config_knows_every_task_by_its_name():
    for name, bundle in TASKS.items():
        assert bundle.name == name and bundle_named(name) is bundle


@pytest.mark.parametrize("name", TASKS)
def test_options_of_a_task_are_options_of_the_config(name):
    check_section(TASKS[name].options(), "config.options")
    for option in TASKS[name].suits:
        value = Config()
        for part in option.split("."):
            assert hasattr(value, part), option
            value = getattr(value, part)


def test_every_family_has_a_task_and_every_task_a_family():
    found = {name: fitting(family) for name, family in FAMILIES.items()}
    assert all(found.values()) and {task for tasks in found.values() for task in tasks} == {*TASKS}
    assert found["gpt2"] == ("causal_lm",) and found["transformer"] == ("seq2seq",)
    assert found["bert"] == ("masked_lm", "classification", "regression")
    assert found["cnn"] == ("classification", "regression") and found["vae"] == ("elbo",)


def test_a_family_that_does_not_say_what_it_gives_suits_every_task():
    unknown = dataclasses.replace(FAMILIES["cnn"], outputs=())
    assert fitting(unknown) == (*TASKS,)


def test_several_labels_are_shown_task_by_task():
    config = load_config("configs/digits_cnn.py")
    config.tasks.labels = ("band", "label")
    run = SimpleNamespace(config=config, card=SimpleNamespace(label_names=("no", "yes")))
    answer = {"label": np.array([0.25, 0.75]), "band": np.array([0.5, 0.125, 0.375])}
    found, line = bundle_of(config).show(run, answer, 2)
    assert line == "band: 0 0.5000  2 0.3750  label: yes 0.7500  no 0.2500"
    assert found["tasks"]["label"][0] == {"label": "yes", "probability": 0.75}


def run_with(*reports):
    bundle = SimpleNamespace(unit="examples")
    return SimpleNamespace(task=SimpleNamespace(bundle=bundle, reports=reports))


def test_reports_are_measured_merged_and_left_out_where_they_find_nothing():
    """Numbers of an end join the means after everything else; values of later reports come first."""
    run = run_with(
        Report("late", measure=lambda *given: {"late": 3.0}, means=lambda found: found),
        Report(
            "counted", count=lambda *given: None, values=lambda run, x: {"counted": int(x.sum())}
        ),
        Report("nothing", measure=lambda *given: None, values=lambda run, x: {"nothing": x}),
        Report("first", measure=lambda *given: 5, values=lambda run, x: {"first": x}),
        Report("drawn", draw=lambda run: None),
    )
    found = Evaluation({"loss": 1.0}, 7, {"counted": np.ones((2, 2), int)})
    findings = measured(run, STATE, "test", found)
    assert [report.name for report in findings] == ["late", "counted", "first", "drawn"]
    assert list(scores(run, found, findings).items()) == [
        ("loss", 1.0),
        ("examples", 7),
        ("first", 5),
        ("counted", 4),
        ("late", 3.0),
    ]
    assert means_of(found, findings) == {"loss": 1.0, "late": 3.0}


def test_a_signal_ends_the_reports():
    def stopped(run, state, split, stopping):
        assert stopping()
        raise Stopped

    with pytest.raises(Stopped):
        measured(
            run_with(Report("long", measure=stopped)),
            STATE,
            "test",
            Evaluation({}, 0, {}),
            stopping=lambda: True,
        )
