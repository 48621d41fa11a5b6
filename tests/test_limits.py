"""Absurd values of a config, and long ones, end in one short line before any work."""

import ast
import dataclasses
import typing
from pathlib import Path

import jax
import pytest

import jaxmodels
from input_pipeline import DatasetCard
from train import setup
from train.checks import SIZES
from train.config import Config, ConfigError, check, from_json, load_config
from train.launch import cli
from train.options.fields import LENGTH, LINE, one_line, shown
from train.plan import memory
from train.records import restore

DIGITS = Path(__file__).parent.parent / "configs" / "digits_cnn.py"

ABSURD = {
    "nan": "nan",
    "infinite": "1e400",
    "beyond float32": "1e-300",
    "2**31": "2147483648",
    "-2**63": "-9223372036854775808",
    "10**18": "1000000000000000000",
    "more digits than Python reads": "9" * 5000,
    "more digits than Python writes": "0x" + "f" * 5000,
    "deep": "[" * 5000 + "]" * 5000,
    "nested": "[" * 60 + "]" * 60,
    "long": "a" * 100_000,
    "long tuple": "(" + "1," * 1000 + ")",
    "lines": "train\nerror: all is lost\r\u2028\x1b[31m",
    "NUL": "a\0b",
    "no UTF-8": "\udcff",
    "digits of another script": "\u0661\u0662\u0663",
    "warned of by Python": "1if 2 else 3",
    "path too long": "/".join(["x" * 200] * 30),
    "name too long": "y" * 256,
}


def _fields(section=None, path=""):
    for f in dataclasses.fields(section or Config()):
        value = getattr(section or Config(), f.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{path}{f.name}.")
        else:
            yield path + f.name, value, typing.get_type_hints(type(section or Config()))[f.name]


@pytest.mark.parametrize("kind", ABSURD)
def test_no_field_takes_an_absurd_value(kind):
    for name, _, hint in _fields():
        try:
            config = load_config(DIGITS, [f"{name}={ABSURD[kind]}"])
        except ConfigError as e:
            assert len(f"error: {e}") <= 500 and str(e).isprintable(), name
            continue
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        value = value[0] if isinstance(value, tuple) else value
        if "str" in str(hint):  # a text, as it was given
            assert value == ABSURD[kind] and value.isprintable(), name
        else:  # no whole number but the seed may be as great as that
            assert kind in ("2**31", "-2**63", "10**18") and (
                "float" in str(hint) or name == "seed"
            ), name
            assert value == ast.literal_eval(ABSURD[kind]), name


def test_whole_numbers_of_models_have_limits():
    assert not {
        k for m in jaxmodels.list_models() for k, t in jaxmodels.model_fields(m).items() if t is int
    } - {*SIZES}
    for model in jaxmodels.list_models():
        for name, kind in jaxmodels.model_fields(model).items():
            if name not in SIZES:
                continue
            config = Config(model=model)
            value = SIZES[name] + 1
            config.model_fields[name] = value if kind is int else (value,)
            with pytest.raises(
                ConfigError,
                match=rf"{name} = {value} must be at most {SIZES[name]}|does not fit model",
            ):
                check(config)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("batch_size=2147483648", "config.batch_size = 2147483648 must be at most"),
        (
            "data.image_size=1000000000",
            "config.data.image_size = 1000000000 must be at most 8192; nearest: 8192",
        ),
        ("eval_batch_size=1000000000000", "config.eval_batch_size = 1000000000000 must be at most"),
        ("mesh.data=99999999999", "config.mesh.data = 99999999999 must be at most"),
        ("model_fields.hidden_size=1000000000000", "hidden_size = 1000000000000 must be at most"),
        ("model_fields.features=" + repr((8,) * (LENGTH + 1)), "has 513 values; at most 512"),
        (
            "data.eval_split=te\nst",
            r"config.data.eval_split = 'te\nst' has a character that cannot be printed, '\n'",
        ),
        ("optim.learning_rate=1e-60", "is beyond float32"),
        ("optim.rates.head=1e60", "is beyond float32"),
        ("data.texts=['a\\nb']", "has a character that cannot be printed"),
        ("model=" + "c" * 10_000, "config.model"),
        ("nothing" * 1000 + "=1", "does not exist"),
    ],
)
def test_absurd_values_are_named_in_one_line(override, words):
    with pytest.raises(ConfigError) as e:
        load_config(DIGITS, [override])
    assert words in str(e.value) and len(f"error: {e.value}") <= 500 and str(e.value).isprintable()


def test_models_within_a_model_have_limits_too():
    fields = {"image_fields": {"features": (8, 10**9)}, "text_fields": {"num_layers": 10**9}}
    for key, value in fields.items():
        config = Config(model="fusion", model_fields={key: value})
        with pytest.raises(ConfigError, match=rf"config.model_fields.{key}.*must be at most"):
            check(config)


def test_a_state_or_a_batch_larger_than_the_memory_is_refused():
    card = DatasetCard(
        "digits", "1.0.0", {"train": 1438, "test": 359}, (8, 8, 1), 10, tuple("0123456789"), ""
    )
    device = jax.devices()[:1]
    for fields, words in (
        ({"model_fields": {"hidden_sizes": (2**20, 2**20)}}, "the state of config.model = 'mlp'"),
        (
            {"batch_size": 2**20, "steps_per_execution": 10_000},
            "what config.batch_size = 1048576 loads at once",
        ),
        ({}, ""),
    ):
        run = setup.build(Config(model="mlp", **fields), card=card, devices=device)
        if not words:
            memory.require(run)
            continue
        with pytest.raises(ConfigError) as e:
            memory.require(run)
        assert words in str(e.value) and "GiB" in str(e.value)


def test_a_program_larger_than_the_memory_is_refused(monkeypatch):
    compiled = (
        jax.jit(lambda x: (x[:, None] * x).sum(), compiler_options={})
        .lower(jax.numpy.zeros(1000))
        .compile()
    )
    assert memory.fitting(compiled, "it") is compiled
    monkeypatch.setattr(memory, "host_bytes", lambda: 1000)
    with pytest.raises(
        ConfigError, match=r"it takes 0\.0 GiB, and the memory of each device is 0\.0 GiB"
    ):
        memory.fitting(compiled, "it")


def test_lines_are_short_and_printable():
    assert one_line("a\n  b\r\nc\x1b[31m\0\u2028d") == "a b c\\x1b[31m\\x00 d"
    long = one_line("x" * 10**6 + "; the way out")
    assert len(long) == LINE and long.startswith("xxx") and long.endswith("; the way out")
    assert (
        shown("a" * 10**6) == "'" + "a" * 61 + " ... " + "a" * 32 + "'"
        and len(shown("a" * 10**6)) == 100
    )
    assert shown(16**5000).startswith("<int of 20,001 bits>")
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "<list, nested too deeply>"
    assert shown((1, 2)) == "(1, 2)"


def test_errors_and_warnings_are_one_short_line(capsys):
    def fails():
        raise ConfigError("first\nsecond" + "x" * 10_000 + "; the way out")

    assert cli.run(fails) == 2
    cli.warn("a\nb" * 5000)
    error, warning = capsys.readouterr().err.splitlines()
    assert (
        error.startswith("error: first second")
        and error.endswith("; the way out")
        and len(error) <= 500
    )
    assert warning.startswith("warning: a ba b") and len(warning) <= 500


def test_deep_json_of_a_config_is_one_line():
    with pytest.raises(ConfigError, match="nested too deeply"):
        from_json("[" * 200_000)


@pytest.mark.parametrize(
    "step", ["\u00b2", "\u0663", "9" * 5000, "-1", "1.5", "", "x" * 100_000, "last\n"]
)
def test_steps_are_numbers_that_a_step_may_have(step):
    with pytest.raises(ConfigError, match="is not last, best or the number of a step"):
        restore._step_number(step)
