"""Options without what they belong to are mistakes; a warm-up of the file keeps its share of fewer
steps."""

import dataclasses

import pytest

from train import config as config_lib
from train.config import Config, ConfigError, DistillConfig, PruneConfig, load_config
from train.options.dormant import default, dormant

DIGITS = "configs/digits_cnn.py"
OTHER = {  # field -> a value that is not the default
    "data.randaugment_magnitude": 0.5,
    "data.tokenizer": "words",
    "data.vocab_size": 100,
    "data.max_len": 16,
    "data.texts": ("a",),
    "optim.momentum": 0.5,
    "optim.nesterov": True,
    "prune.scope": "2:4",
    "prune.method": "surgeon",
    "prune.begin_step": 1,
    "prune.end_step": 5,
    "prune.every": 5,
    "prune.examples": 5,
    "distill.temperature": 1.0,
    "distill.alpha": 0.0,
    "distill.hidden": 1.0,
    "init_skip": ("head",),
}
SWITCHES = {
    "prune": "sparsity",
    "distill": "teacher",
}


@pytest.mark.parametrize("name", OTHER)
def test_an_option_without_its_switch_is_a_mistake(name):
    with pytest.raises(ConfigError) as e:
        load_config(DIGITS, [f"{name}={OTHER[name]}"])
    assert f"config.{name} = {OTHER[name]!r} has no effect without" in str(
        e.value
    ) and "\n" not in str(e.value)
    assert f"nearest: {default(Config(), name)!r}" in str(e.value)


def test_no_option_of_a_section_with_a_switch_escapes():
    sections = {
        "prune": PruneConfig,
        "distill": DistillConfig,
    }
    names = {
        f"{section}.{f.name}" for section, cls in sections.items() for f in dataclasses.fields(cls)
    }
    assert names - {f"{section}.{name}" for section, name in SWITCHES.items()} <= set(OTHER)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["optim.name=sgd", "optim.b2=0.9"], "optim.b2"),
        (["optim.name=lion", "optim.eps=0.1"], "optim.eps"),
        (["optim.name=sgd", "optim.momentum=0", "optim.nesterov=true"], "optim.nesterov"),
        (["optim.schedule=constant", "optim.end_factor=0.1"], "optim.end_factor"),
        (["prune.sparsity=0.5", "prune.examples=5"], "prune.examples"),
        (["prune.sparsity=0.5", "prune.every=5"], "prune.every"),
    ],
)
def test_what_another_choice_leaves_without_effect(flags, name):
    with pytest.raises(ConfigError, match=rf"config\.{name} = .* has no effect without"):
        load_config(DIGITS, flags)


@pytest.mark.parametrize(
    "flags",
    [
        ["prune.sparsity=0.5", "prune.scope=2:4"],
        ["prune.sparsity=0.5", "prune.end_step=50", "prune.every=5"],
        ["distill.teacher=x", "distill.hidden=1"],
        ["optim.name=sgd", "optim.nesterov=true"],
        ["init_from=x", "init_skip=head"],
        ["data.randaugment_layers=2", "data.randaugment_magnitude=0.9"],
        ["distill.hidden=0", "prune.scope=global"],
    ],
)
def test_options_with_their_switch(flags):
    load_config(DIGITS, flags)


def test_what_the_command_line_switches_off_is_no_mistake(tmp_path):
    file = tmp_path / "pruned.py"
    file.write_text(
        "from train.config import Config, PruneConfig, OptimConfig\n"
        "def get_config():\n"
        "    return Config(prune=PruneConfig(sparsity=0.5, scope='layer', end_step=50, every=5),\n"
        "                  optim=OptimConfig(b2=0.95, warmup_steps=100))\n"
    )
    config = load_config(file, ["prune.sparsity=0", "optim.name=sgd"])
    assert config.prune.scope == "layer" and dormant(config, text=False)
    # and a run goes on whichever of the two its workdir was begun with
    plain = load_config(
        file, ["prune.sparsity=0", "optim.name=sgd", "prune.scope=global", "prune.end_step=0"]
    )
    assert config_lib.differences(config, plain) == []
    assert config_lib.from_json(config_lib.to_json(config)) == config
    file.write_text(file.read_text().replace("sparsity=0.5, ", ""))
    with pytest.raises(ConfigError, match=r"config\.prune\.scope = 'layer' has no effect"):
        load_config(file)


@pytest.mark.parametrize(
    ("flags", "warmup", "words"),
    [
        (["steps=10"], 1, "config.optim.warmup_steps = 100 does not fit and is shortened to 1"),
        (["steps=1"], 0, "shortened to 0"),
        (["steps=100"], 5, "the same share of config.steps = 100 as 100 is of 2000"),
        (["steps=101"], 100, None),
        (["steps=10", "optim.warmup_steps=3"], 3, None),
    ],
)
def test_a_warm_up_of_the_file_keeps_its_share_of_fewer_steps(flags, warmup, words):
    said = []
    assert load_config(DIGITS, flags, say=said.append).optim.warmup_steps == warmup
    assert len(said) == (words is not None)
    assert all(words in line and "\n" not in line for line in said)


def test_a_warm_up_that_is_given_and_does_not_fit_is_a_mistake():
    with pytest.raises(
        ConfigError, match=r"config\.optim\.warmup_steps = 100 is not below config\.steps = 10"
    ):
        load_config(DIGITS, ["steps=10", "optim.warmup_steps=100"])
