"""Runs: files of workdirs, checkpoints, and overrides of a config."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from input_pipeline import DatasetCard
from input_pipeline.features import to_json
from jaxmodels.nn.paths import path_name
from tests.fuzz.mutations import Rng, json_mutated, mutated, pick
from tests.fuzz.oracle import Fault, Refused, put, refusing, require_same
from train import config as config_lib
from train import initial, setup
from train.checkpoint import Checkpoints
from train.config import CheckpointConfig, Config, DataConfig, OptimConfig
from train.launch.workdir import claimed, read_card, read_config, write_identity
from train.options.fields import literal
from train.plan import memory
from train.records.writers import Writers, read_records
from train.run import Run

DIGITS = Path(__file__).parent.parent.parent / "configs" / "digits_cnn.py"
CARD = DatasetCard(
    "digits", "1.0.0", {"train": 1438, "test": 359}, (8, 8, 1), 10, tuple("0123456789"), ""
)
STEPS = 12


def tiny() -> Config:
    """A small MLP on the digits."""
    return Config(
        model="mlp",
        model_fields={"hidden_sizes": (8,)},
        data=DataConfig(name="digits"),
        optim=OptimConfig(learning_rate=1e-2, ema_decay=0.9),
        checkpoint=CheckpointConfig(every=4),
        steps=STEPS,
        batch_size=64,
        eval_batch_size=64,
        eval_every=4,
        log_every=4,
    )


def prepare_workdirs(directory: Path) -> tuple[dict[str, bytes], list[str]]:
    """The text files of a run, and the lines of its metrics."""
    config = tiny()
    config_lib.check(config)
    write_identity(directory, config, CARD)
    writers = Writers(directory, start=0, evaluated=0, steps=STEPS)
    for step in range(1, STEPS + 1):
        writers.record(
            step, "train", {"loss": 1 / 3 / step, "accuracy": step / 13}, {"step_ms": 1.5 * step}
        )
        if step % 4 == 0:
            writers.record(
                step, "eval", {"loss": 0.7 / step}, {"examples_per_second": 100.0 * step}
            )
    writers.close()
    put(directory, "lock", b"0b7e9c1e-5d0c-4b43-8a3b-9f6b8a4d3f11\n")
    names = ("config.json", "dataset.json", "metrics.jsonl", "timings.jsonl", "lock")
    files = {name: (directory / name).read_bytes() for name in names}
    shutil.rmtree(directory / "tensorboard")
    lines = files["metrics.jsonl"].decode().splitlines()
    _require_config(directory, files["config.json"])
    _require_metrics(directory, files, "lock", lines)
    return files, lines


def workdirs(context: tuple[dict[str, bytes], list[str]], rng: Rng, place: Path) -> None:
    """A config and a card are what their JSON says; metrics that a resumed run keeps are those that
    were written."""
    files, lines = context
    name = pick(rng, sorted(files))
    content, other = files[name], files[pick(rng, sorted(files))]
    if name in ("config.json", "dataset.json") and rng.integers(2):
        changed = json_mutated(rng, content)
    elif name.endswith(".jsonl") and rng.integers(3) == 0:
        parts = content.split(b"\n")
        i = int(rng.integers(len(parts) - 1))
        changed = b"\n".join([*parts[:i], json_mutated(rng, parts[i]), *parts[i + 1 :]])
    else:
        changed = mutated(rng, content, other)
    for file, healthy in files.items():
        put(place, file, changed if file == name else healthy)
    if name == "config.json":
        _require_config(place, changed)
    elif name == "dataset.json":
        _require_card(place, changed)
    else:
        _require_metrics(place, {**files, name: changed}, name, lines)


def _require_config(place: Path, content: bytes) -> None:
    with refusing():
        found = read_config(place)
    said = json.loads(content)
    _require_section(
        json.loads(config_lib.to_json(found)),
        json.loads(config_lib.to_json(tiny())),
        said,
        "config",
    )


def _require_section(found: Any, healthy: Any, said: Any, path: str) -> None:
    """Every field is what the file says; one that it does not say has its default; none is there
    that is not."""
    defaults = json.loads(config_lib.to_json(Config()))
    for part in path.split(".")[1:]:
        defaults = defaults[part]
    for key, value in said.items():
        name = f"{path}.{key}"
        if isinstance(defaults.get(key), dict) and key not in (
            "rates",
            "weights",
            "model_fields",
            "init_parts",
        ):
            _require_section(found[key], healthy[key], value, name)
            continue
        read = found[key]
        if key == "model_fields" and "head" not in value:
            read = {k: v for k, v in read.items() if k != "head"}  # an objective's own
        if isinstance(read, list) and not isinstance(value, list):
            value = [value]
        require_same(read, value, name)
    for key in defaults.keys() - said.keys():
        require_same(found[key], defaults[key], f"{path}.{key}, which is not there")


def _require_card(place: Path, content: bytes) -> None:
    with refusing():
        found = read_card(place)
    said = json.loads(content)
    for key, value in json.loads(json.dumps(to_json(found))).items():
        if key in said:
            require_same(value, said[key], key)
    with refusing():
        setup.build(read_config(place), card=found)


def _require_metrics(place: Path, files: dict[str, bytes], changed: str, lines: list[str]) -> None:
    """Lines that are kept are lines that were written, and each that is as it was is kept."""
    with refusing():
        read_records(place / "metrics.jsonl")
        with claimed(place, tiny()):
            Writers(
                place, start=STEPS, evaluated=STEPS, steps=STEPS, warn=lambda text: None
            ).close()
    kept = (place / "metrics.jsonl").read_text().splitlines()
    strange = [line for line in kept if line not in lines]
    if strange and changed != "timings.jsonl":
        raise Fault(f"a line that was never written is kept: {strange[0][:200]}")
    if changed == "metrics.jsonl":
        whole = [
            line
            for line in files[changed].decode("utf-8", "replace").split("\n")[:-1]
            if line in lines
        ]
        lost = [line for line in whole if line not in kept]
        if lost:
            raise Fault(f"a line that is as it was is lost: {lost[0][:200]}")
    elif changed == "lock":
        require_same(kept, lines, "metrics")


def prepare_checkpoints(directory: Path) -> Any:
    """Two checkpoints of a small state."""
    run = setup.build(tiny(), card=CARD)
    state = initial.init(run)
    checkpoints = Checkpoints(directory / "checkpoints", keep_last=3)
    saved = {}
    for step in (3, 7):
        state = state.replace(
            step=jax.device_put(np.int32(step), state.step.sharding),
            params=jax.tree.map(lambda x, step=step: x + step, state.params),
        )
        saved[step] = _leaves(state)
        checkpoints.save(state, {"loader": None, "evaluated": step})
        checkpoints.wait()
    checkpoints.close()
    _require_state(run, directory / "checkpoints", saved)
    return run, directory / "checkpoints", saved


def checkpoints(context: Any, rng: Rng, place: Path) -> None:
    """A state that is restored is one that was saved, bit for bit, with what was saved beside
    it."""
    run, healthy, saved = context
    copy = place / "checkpoints"
    shutil.copytree(healthy, copy)
    files = sorted(p for p in copy.rglob("*") if p.is_file())
    path = pick(rng, files)
    content = path.read_bytes()
    if rng.integers(8) == 0:
        path.unlink()
    else:
        path.write_bytes(
            json_mutated(rng, content) if rng.integers(3) == 0 else mutated(rng, content)
        )
    _require_state(run, copy, saved)


def _require_state(run: Run, directory: Path, saved: dict[int, Any]) -> None:
    with refusing():
        opened = Checkpoints(directory)
        try:
            restored = opened.restore(run.shapes, warn=lambda text: None)
        finally:
            opened.close()
    if restored is None:
        raise Refused
    state, host = restored
    require_same(_leaves(state), saved.get(int(state.step)), f"arrays of step {int(state.step)}")
    require_same(
        host, {"loader": None, "evaluated": int(state.step)}, "what is saved beside the arrays"
    )


def _leaves(state: Any) -> dict[str, tuple[tuple[int, ...], bytes]]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {path_name(k): (np.shape(x), np.asarray(x).tobytes()) for k, x in leaves}


WORDS = (
    *(
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-1e400",
        "1e-300",
        "0",
        "-0.0",
        "-1",
        "1",
        "2",
        "7",
        "0.5",
        "1.5",
        "1e3",
        "True",
    ),
    *(
        "2147483647",
        "2147483648",
        "-2147483649",
        "1" + "0" * 18,
        "9" * 5000,
        "0x" + "f" * 5000,
        "1_000",
        "0b1",
        "1j",
    ),
    *(
        "None",
        "()",
        "[]",
        "{}",
        "(1,)",
        "(1, 2)",
        "(-1,)",
        "(0,)",
        "[nan]",
        "{'a': 1}",
        "{1: 2}",
        "{'a': [1]}",
    ),
    *(
        "",
        " ",
        "a",
        "'a'",
        '"',
        "\n",
        "train\n",
        "test\r",
        "train[",
        "train[:]",
        "train[:10%]",
        "train[:-1]",
        "train+test",
    ),
    *(
        "train[9999999999999999999:]",
        "train[:1e9%]",
        "train[50%:20%]",
        "\u0661\u0662",
        "\x00",
        "\x1b[2J",
        "\udcff",
        "\u2028",
    ),
    *(
        "../../x",
        "/",
        "~",
        "~nobody/x",
        "x" * 300,
        "y/" * 3000,
        "a" * 100_000,
        "(" * 5000,
        "[" * 99 + "]" * 99,
    ),
    *(
        "(" + "1," * 3000 + ")",
        "mlp",
        "cnn",
        "gpt2_tiny",
        "vit_ti_16",
        "gs://bucket/x",
        "adamw",
        "*",
        "head",
        "1if 2else 3",
    ),
)
"""Values of overrides."""


def prepare_overrides(directory: Path) -> list[str]:
    """The names of all fields."""

    def names(section: Any, path: str) -> Any:
        for f in dataclasses.fields(section):
            value = getattr(section, f.name)
            yield from (
                names(value, f"{path}{f.name}.")
                if dataclasses.is_dataclass(value)
                else [path + f.name]
            )

    fields = [
        f"model_fields.{name}"
        for name in ("hidden_size", "features", "dropout_rate", "pool", "num_classes", "x")
    ]
    more = [
        "optim.rates.head",
        "tasks.weights.label",
        "init_parts.image",
        "data.nothing",
        "",
        ".",
        "data",
        "a.b.c.d",
    ]
    return [*names(Config(), ""), *fields, *more]


def overrides(names: list[str], rng: Rng, place: Path) -> None:
    """What a field takes is what was written, and a model of it can be described, or is refused by
    its memory."""
    given = []
    for _ in range(int(rng.integers(1, 3))):
        word = pick(rng, WORDS)
        if rng.integers(4) == 0:
            word = mutated(rng, word.encode("utf-8", "surrogateescape")).decode(
                "utf-8", "surrogateescape"
            )
        given.append(f"{pick(rng, names)}={word}")
    with refusing():
        config = config_lib.load_config(DIGITS, given)
    last = {text.partition("=")[0]: text.partition("=")[2] for text in given}
    for name, word in last.items():
        _require_value(config, name, word)
    require_same(config_lib.from_json(config_lib.to_json(config)), config, "the config as JSON")
    if not config.tasks.labels:  # of other data than these
        with refusing():
            memory.require(setup.build(config, card=CARD))


def _require_value(config: Any, name: str, word: str) -> None:
    value: Any = config
    for part in name.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    said = literal(word)
    right = [word, said, [said], float(said) if isinstance(said, int) else said]
    found = list(value) if isinstance(value, tuple) else value
    if isinstance(said, list | tuple):
        right.append(list(said))
    if found not in right and found != [word] and not (isinstance(found, dict) and said == {}):
        raise Fault(f"config.{name} = {str(found)[:100]!r}, given {word[:100]!r}")
