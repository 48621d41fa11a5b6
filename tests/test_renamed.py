"""Fields of the config that were renamed: what was written with the old names still works."""

import json
from pathlib import Path

import pytest

from input_pipeline import DataError
from input_pipeline.own import own_data
from train.config import Config, ConfigError, differences, from_json, load_config, to_json
from train.options import renamed
from train.tasks import TASKS

FORMER = json.loads((Path(__file__).parent / "former_configs.json").read_text())
"""Config -> flags and ``config.json`` as they were before the fields were renamed."""


@pytest.mark.parametrize("name", FORMER)
def test_a_config_of_before_is_the_same_run(name, monkeypatch):
    """Its JSON, and its flags on the command line, give today's config."""
    monkeypatch.setattr("train.pretrained.find_spec", lambda package: None)  # a place of a machine
    before = from_json(json.dumps(FORMER[name]["config"]))
    flags = load_config(f"configs/{name}.py", FORMER[name]["overrides"])
    assert differences(before, flags) == [] and before == flags
    assert from_json(to_json(before)) == before
    assert "objective" not in to_json(before) and '"vae": {' not in to_json(before)


def test_the_examples_have_every_renamed_field_with_another_value_than_the_default():
    given = {flag.partition("=")[0] for one in FORMER.values() for flag in one["overrides"]}
    assert {*renamed.RENAMED} - {"beam.bleu_tokenizer"} <= given  # its config sets that one
    assert FORMER["transformer_pairs_en_zh"]["config"]["beam"]["bleu_tokenizer"] == "zh"


def test_every_renamed_option_exists_today():
    for old, (new, tasks) in renamed.RENAMED.items():
        for task in tasks:
            assert hasattr(TASKS[task].options(), new.removeprefix("options.")), old
        assert tasks or hasattr(Config(), new)


@pytest.mark.parametrize("key", [key for key, now in renamed.RENAMED.items() if now.tasks])
def test_an_old_option_of_another_task_changes_nothing_at_its_default(key):
    options = TASKS[renamed.RENAMED[key].tasks[0]].options()
    value = getattr(options, renamed.RENAMED[key].name.removeprefix("options."))
    assert load_config("configs/emoji_retrieval.py", [f"{key}={value}"]) == load_config(
        "configs/emoji_retrieval.py"
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("c.label_smoothing = 0.1", "label_smoothing = 0.1 does not exist; it is config.options."),
        ("c.objective = 'elbo'", "config.objective = 'elbo' does not exist; it is config.task now"),
        ("c.data.mask_rate = 0.2", "config.data.mask_rate = 0.2 does not exist; it is config.opti"),
        ("c.optim.learning_rat = 0.2", "config.optim.learning_rat = 0.2 does not exist; did you"),
        ("c.vae.beta = 2", "no 'vae' any more; write options.beta for vae.beta"),
        ("c.task = 3", "config.task = 3 is not of type str"),
    ],
)
def test_what_a_config_file_sets_is_a_field(tmp_path, line, words):
    file = tmp_path / "mine.py"
    file.write_text(
        f"from train.config import Config\ndef get_config():\n    c = Config()\n    {line}\n"
        "    return c\n"
    )
    with pytest.raises(ConfigError) as e:
        load_config(file)
    assert words in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("text", ["x = ", "raise NameError('x')", "raise SystemExit(3)"])
def test_a_module_of_ones_own_that_fails_is_one_line(tmp_path, monkeypatch, text):
    name = f"fails_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for flags in ([f"task={name}:TASK"], [f"model={name}:Model"]):
        with pytest.raises(ConfigError, match=r"\w+Error|SystemExit") as e:
            load_config("configs/digits_cnn.py", flags)
        assert "\n" not in str(e.value)
    with pytest.raises(DataError, match="cannot be imported"):
        own_data(f"{name}:DATA")


@pytest.mark.parametrize("key", [key for key, now in renamed.RENAMED.items() if now.tasks])
def test_an_old_option_of_another_task_names_the_new_one(key):
    new = renamed.RENAMED[key].name
    with pytest.raises(ConfigError) as e:
        load_config("configs/emoji_retrieval.py", [f"{key}=0.1"])
    assert f"config.{key} is config.{new} now" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Config(objective='elbo')", "no 'objective' any more; write task"),
        ("Config(label_smoothing=0.1)", "write options.label_smoothing"),
        ("Config(vae=1)", "write options.beta for vae.beta"),
        ("DataConfig(mask_rate=0.1)", "write options.mask_rate"),
    ],
)
def test_a_config_file_of_before_is_told_the_new_name(tmp_path, text, words):
    file = tmp_path / "old.py"
    file.write_text(f"from train.config import *\ndef get_config():\n    return {text}\n")
    with pytest.raises(ConfigError) as e:
        load_config(file)
    assert words in str(e.value) and "\n" not in str(e.value)
    file.write_text("from train.config import VAEConfig\n")
    with pytest.raises(ConfigError, match=r"VAEConfig is train\.tasks\.elbo\.ELBOOptions now"):
        load_config(file)


def test_damaged_sections_of_before_are_refused_by_name():
    values = FORMER["fashion_vae"]["config"]
    for change, name in (
        ({"vae": 3}, "config.vae"),
        ({"vae": values["vae"] | {"gamma": 1}}, "config.vae"),
        ({"vae": {"beta": "x", "importance_samples": 2}}, "config.options.beta"),
        ({"objective": "elb"}, "config.task = 'elb' is neither one of"),
    ):
        with pytest.raises(ConfigError, match=name):
            from_json(json.dumps(values | change))


def test_another_task_on_the_command_line_keeps_the_options_that_it_has_too():
    said = []
    flags = ["task=causal_lm", "model=gpt2_tiny", "model_fields={}", "data.buckets=()"]
    config = load_config("configs/transformer_pairs_en_zh.py", flags, say=said.append)
    assert config.options == TASKS["causal_lm"].options(label_smoothing=0.1)
    assert said == [
        "config.options.bleu_tokenizer = 'zh' is of task seq2seq and has no effect on causal_lm"
    ]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["task=clasification"], "nearest: 'classification'"),
        (["task=nowhere:TASK"], "cannot be imported (ModuleNotFoundError"),
        (["task=train.tasks:nothing"], "cannot be imported (AttributeError"),
        (["task=train.tasks:TASKS"], "is a dict, not a train.task.Bundle"),
        (["options.label_smooting=0.1"], "did you mean 'label_smoothing'?"),
        (["options.label_smoothing=2"], "config.options.label_smoothing = 2.0 must be at most 1"),
        (["vae.betta=2"], "config.vae is config.options now; did you mean 'beta'?"),
        (["vae=2"], "config.vae does not exist; config.vae is config.options now"),
        (["options=3"], "config.options is a section"),
        (["options.beta=3"], "config.options.beta does not exist"),
    ],
)
def test_wrong_tasks_and_options_are_one_line(flags, words):
    with pytest.raises(ConfigError) as e:
        load_config("configs/digits_cnn.py", flags)
    assert words in str(e.value) and "\n" not in str(e.value)


def test_options_of_another_task_in_a_config_file_are_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from train.config import Config\nfrom train.tasks.elbo import ELBOOptions\n"
        "def get_config():\n    return Config(options=ELBOOptions(beta=2.0))\n"
    )
    with pytest.raises(ConfigError, match=r"config\.options is a ELBOOptions, and those of"):
        load_config(file)
