"""Mistakes in a config stop before any work, in one line with the field, the value and the nearest
right one."""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from input_pipeline import DatasetCard, ImageTextCard, TableCard, TextCard
from input_pipeline.tokenizers import train_tokenizer
from train import batches, compiling, setup
from train import config as config_lib
from train.__main__ import main
from train.checks import check_batch
from train.config import Config, ConfigError, from_json, load_config, to_json
from train.launch import cli
from train.run import parameter_count
from train.sharding import make_mesh
from train.tasks import bundle_named
from train.tasks.checks import reads_images, reads_text

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("[!_]*.py"))
SHAPES = {  # data set -> image shape, classes
    "digits": ((8, 8, 1), 10),
    "emoji": ((64, 64, 3), 9),
    "fashion_mnist": ((28, 28, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "imagenet2012": ((224, 224, 3), 1000),
}
COLUMNS = {"breast_cancer": 30}  # table -> numbers in a row
DIGITS = ROOT / "configs" / "digits_cnn.py"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_has_a_card_and_survives_json(path):
    config = load_config(path)
    assert from_json(to_json(config)) == config
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    for word in (
        "Command    python -m train --config=configs/" + path.name,
        "Data  ",
        "Measured  ",
    ):
        assert word in docstring, word


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_builds(path):
    """Model, optimiser and shapes of the very training step, without data: a card stands in for the
    data set's."""
    config = load_config(path)
    splits = {config.data.train_split.partition("[")[0]: 1000, config.data.eval_split: 100}
    card = None
    if columns := COLUMNS.get(config.data.name):
        names, numbers = tuple(map(str, range(columns))), (1.0,) * columns
        card = TableCard(
            config.data.name, "1.0.0", splits, names, ("no", "yes"), numbers, numbers, ""
        )
    elif reads_images(config):
        shape, classes = SHAPES[config.data.name]
        size = config.data.image_size
        shape = shape if size is None else (size, size, shape[-1])
        card = DatasetCard(
            config.data.name, "1.0.0", splits, shape, classes, tuple(map(str, range(classes))), ""
        )
    if reads_text(config):
        form = bundle_named(config.task).form
        text = TextCard(
            name=config.data.name,
            version="1.0.0",
            splits=splits,
            vocab_size=config.data.vocab_size,
            max_len=config.data.max_len,
            tokenizer=train_tokenizer("wordpiece", ["a word"], 20).to_str(),
            directory="",
            form=form,
            label_names=("no", "yes") if form == "labels" else (),
            buckets=(*config.data.buckets, config.data.max_len) if form == "translation" else (),
        )
        card = ImageTextCard(card, text) if card else text
    run = setup.build(config, card=card, devices=jax.devices()[:1])
    count, _ = parameter_count(run)
    assert count > 1000
    for batch in batches.batch_shapes(run, config.batch_size):
        state, metrics = jax.eval_shape(compiling.step_function(run), run.shapes, batch)
        assert metrics["loss"][0].shape == ()
        assert jax.tree.map(jnp.shape, state.params) == jax.tree.map(jnp.shape, run.shapes.params)


def test_overrides_are_read_by_annotation():
    words = {
        "optim.learning_rate": "3",
        "optim.clip_norm": "none",
        "data.mean": "[0.1, 0.2, 0.3]",
        "data.std": "(1,1,1)",
        "data.name": "123",
        "model_fields.features": "(8, 16)",
        "model_fields.hidden_size": "64",
        "optim.name": "sgd",
        "optim.nesterov": "true",
        "dtype": "bfloat16",
        "mesh.data": "-1",
        "steps": "2_000",
    }
    config = load_config(DIGITS, [f"{k}={v}" for k, v in words.items()])
    assert config.optim.learning_rate == 3.0 and isinstance(config.optim.learning_rate, float)
    assert config.optim.clip_norm is None
    assert config.data.mean == (0.1, 0.2, 0.3) and config.data.std == (1.0, 1.0, 1.0)
    assert config.data.name == "123"
    assert config.model_fields["features"] == (8, 16) and config.model_fields["hidden_size"] == 64
    assert config.optim.nesterov is True and config.dtype == "bfloat16" and config.steps == 2000


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.learning_rat=1", ["config.optim.learning_rat ", "'learning_rate'"]),
        ("optm.learning_rate=1", ["config.optm.learning_rate", "'optim'"]),
        ("stepps=5", ["config.stepps", "'steps'"]),
        ("model_fields.hiden_size=5", ["config.model_fields.hiden_size", "'hidden_size'"]),
        ("model_fields.hidden_size=big", ["config.model_fields.hidden_size", "'big'", "int"]),
        ("model_fields.dtype=float64", ["config.model_fields.dtype", "config.dtype"]),
        ("model=cn", ["config.model", "'cn'", "'cnn'"]),
        ("steps=ten", ["config.steps", "'ten'", "int"]),
        ("steps=1.5", ["config.steps", "1.5", "int", "2"]),
        ("steps=True", ["config.steps", "True", "int"]),
        ("steps=-5", ["config.steps", "-5", "nearest: 1"]),
        ("steps=0", ["config.steps", "nearest: 1"]),
        ("optim.learning_rate=fast", ["config.optim.learning_rate", "'fast'", "float"]),
        ("optim.learning_rate=nan", ["config.optim.learning_rate"]),
        ("optim.learning_rate=0", ["config.optim.learning_rate", "above 0"]),
        ("vae.beta=-1", ["config.vae.beta is config.options.beta now"]),
        ("optim.name=adamm", ["config.optim.name", "'adamm'", "'adamw'"]),
        ("optim.schedule=cosin", ["'cosin'", "'cosine'"]),
        ("optim.nesterov=2", ["config.optim.nesterov", "True or False"]),
        ("optim.b1=1.5", ["config.optim.b1", "below 1"]),
        ("optim.end_factor=1.5", ["config.optim.end_factor", "nearest: 1"]),
        ("optim.warmup_steps=5000", ["config.optim.warmup_steps", "5000", "config.steps"]),
        ("optim=adamw", ["config.optim", "section"]),
        ("dtype=float16", ["config.dtype", "'float16'"]),
        ("accumulate=3", ["config.batch_size = 128", "config.accumulate = 3", "126 or 129"]),
        (
            "steps_per_execution=3",
            ["config.steps = 2000", "config.steps_per_execution = 3", "1998 or 2001"],
        ),
        (
            "steps_per_execution=40",
            ["config.log_every = 50", "config.steps_per_execution = 40", "40 or 80"],
        ),
        ("mesh.data=0", ["config.mesh.data", "nearest: 1"]),
        ("mesh.fsdp=-1", ["config.mesh", "-1"]),
        ("mesh.sequence=2", ["config.mesh.sequence = 2", "'cnn'", "nearest: 1"]),
        ("data.std=0", ["config.data.std", "positive"]),
        ("data.mean=(0.1,0.2)", ["config.data.mean", "config.data.std"]),
        ("steps", ["--config.steps", "VALUE"]),
        ("steps={[]:1}", ["config.steps", "int"]),
        ("data=1", ["config.data", "section", "train_split"]),
        ("data.mean=(0.5,'x')", ["config.data.mean", "'x'"]),
        ("data.mean=(inf,)", ["config.data.mean"]),
        ("data.image_size=True", ["config.data.image_size", "True"]),
        ("model_fields.features=(True,)", ["config.model_fields.features"]),
        ("optim.b2=1", ["config.optim.b2", "below 1"]),
        ("optim.learning_rate=1" + 400 * "0", ["config.optim.learning_rate", "float"]),
        ("seed=4294967296", ["config.seed", "nearest: 4294967295"]),
        ("batch_size=1" + 30 * "0", ["config.batch_size", "at most"]),
    ],
)
def test_mistakes_are_named_in_one_line(override, words):
    with pytest.raises(ConfigError) as e:
        load_config(DIGITS, [override])
    assert "\n" not in str(e.value)
    for word in words:
        assert word in str(e.value), str(e.value)


def test_missing_or_wrong_config_files(tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean .*digits_cnn\.py"):
        load_config(ROOT / "configs" / "digit_cnn.py")
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def get_config():\n    return 3\n")
    with pytest.raises(ConfigError, match="returned int"):
        load_config(wrong)
    wrong.write_text("def get_config(:\n")
    with pytest.raises(ConfigError, match="SyntaxError"):
        load_config(wrong)
    wrong.write_text(
        "from train.config import Config\ndef get_config():\n    return Config(stepz=3)\n"
    )
    with pytest.raises(ConfigError, match="stepz"):
        load_config(wrong)


def test_batches_must_split_over_the_mesh():
    config = Config(batch_size=100)
    with pytest.raises(ConfigError, match=r"config\.batch_size = 100 .* = 8; nearest: 96 or 104"):
        check_batch(config, 8)
    with pytest.raises(ConfigError, match=r"config\.eval_batch_size = 12 "):
        check_batch(Config(batch_size=8, eval_batch_size=12), 8)
    with pytest.raises(ConfigError, match=r"accumulate = 4; nearest: 32"):
        check_batch(Config(batch_size=16, accumulate=4), 8)


def test_meshes_that_do_not_fit_the_devices():
    with pytest.raises(
        ConfigError, match=r"data -1 x fsdp 3 x sequence 1 x tensor 1 does not fit 8"
    ):
        make_mesh(config_lib.MeshConfig(fsdp=3))
    with pytest.raises(ConfigError, match="8 device"):
        make_mesh(config_lib.MeshConfig(data=2, fsdp=2))


@pytest.mark.parametrize(
    ("model", "fields", "words"),
    [
        ("mlp", {"hidden_sizes": (-5,)}, "hidden_sizes (-5,) must be at least 1"),
        ("mlp", {"hidden_sizes": (8, 0)}, "hidden_sizes (8, 0) must be at least 1"),
        ("cnn", {"dropout_rate": 2.0}, "dropout_rate 2.0 must be at least 0 and below 1"),
        ("cnn", {"pool": "each", "features": (4, 4, 4, 4, 4)}, "2x2 pool"),
        ("cnn", {"num_classes": 3}, "num_classes = 3 is below the 10 classes"),
    ],
)
def test_sizes_that_no_model_can_have(model, fields, words):
    card = DatasetCard(
        "digits", "1.0.0", {"train": 1438, "test": 359}, (8, 8, 1), 10, tuple("0123456789"), ""
    )
    with pytest.raises(ConfigError) as e:
        setup.build(Config(model=model, model_fields=fields, eval_batch_size=128), card=card)
    assert words in str(e.value)


def test_differences_leave_out_what_may_change():
    a = Config()
    b = Config(
        seed=3,
        mesh=config_lib.MeshConfig(fsdp=2),
        data=config_lib.DataConfig(raw_dir="x", flip=True),
    )
    assert config_lib.differences(a, b) == [
        "config.data.flip: False -> True",
        "config.seed: 0 -> 3",
    ]


def test_every_field_is_read_by_someone():
    """An option that nothing reads is a lie; reading is an attribute access outside config.py."""
    read = set()
    for path in (ROOT / "train").rglob("*.py"):
        if path.name != "config.py":
            read |= {
                n.attr
                for n in ast.walk(ast.parse(path.read_text()))
                if isinstance(n, ast.Attribute)
            }

    def fields(cls):
        for f in dataclasses.fields(cls):
            kind = (
                config_lib.__dict__.get(
                    f.type if isinstance(f.type, str) else f.type.__name__, None
                )
                if isinstance(f.type, type | str)
                else None
            )
            yield from fields(kind) if dataclasses.is_dataclass(kind) else [f.name]

    assert not sorted(set(fields(Config)) - read)


def run(*args):
    return subprocess.run(
        [sys.executable, "-m", "train", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_command_line(tmp_path, capsys):
    """One mistake in a process of its own; what else is printed, here."""
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [f"configs/{p.name}" for p in CONFIGS]
    assert all(len(line.split()) > 3 for line in listed)
    with pytest.raises(SystemExit) as helped:
        main(["--help"])
    assert helped.value.code == 0
    printed = capsys.readouterr().out
    assert "--workdir" in printed and "train.evaluate" in printed
    flags = [f"--config={DIGITS}", f"--workdir={tmp_path / 'w'}"]
    result = run(*flags, "--config.step=3")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert "did you mean 'steps'" in result.stderr
    for args, word in (
        ([*flags, "--wrkdir=x"], "did you mean --workdir"),
        ([flags[0]], "--workdir=DIR is missing"),
        ([flags[1]], "--config=FILE is missing"),
    ):
        with pytest.raises(ConfigError, match=word) as mistake:
            main(args)
        assert cli.explain(mistake.value)[1] == 2 and "\n" not in str(mistake.value)
    assert not (tmp_path / "w").exists(), "a mistake must stop before any work"


def test_several_steps_in_a_call_need_batches_of_one_length():
    config = Config(
        model="lstm",
        steps_per_execution=2,
        data=config_lib.DataConfig(name="sst2", buckets=(8, 16), max_len=32),
    )
    with pytest.raises(ConfigError, match=r"steps_per_execution = 2 needs batches of one length"):
        config_lib.check(config)
    config.data.buckets = ()
    config_lib.check(config)
