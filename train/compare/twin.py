"""``python -m train.compare.twin --workdir=DIR``: trains the PyTorch original as a run of ours was,
then compares.

The original starts from the same initial values and sees the same batches, augmentation and noise,
with PyTorch's own optimiser. Losses agree at first and then part, because rounding differs and
training is chaotic; scores should not part further than those of two seeds. The weights come back
into our model for the evaluation.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import torch

from jaxmodels import originals, weights
from jaxmodels.foreign.original import Case
from jaxmodels.originals.cases import inputs_of
from jaxmodels.parity.randomness import deterministic_torch
from jaxmodels.parity.sides import torch_batch, torch_loss
from train import batches, compiling, initial
from train.compare.optimizers import torch_optimizer
from train.config import Config, ConfigError
from train.evaluate import evaluate, final_means
from train.launch import cli
from train.launch.workdir import read_config
from train.optim import make_schedule
from train.records import files
from train.records.files import write_atomically
from train.records.opening import for_this_machine
from train.setup import build


def train_twin(config: Config, *, say: Callable[[str], None] = print) -> dict[str, float]:
    """Scores on ``data.eval_split`` of the original after the training that ``config`` describes.

    Raises:
      ConfigError: the config asks for what the original is not trained with here.
      OriginalError: its model has no original.
    """
    require_plain(config)
    run = build(config)
    if run.card.kinds != ("image",):
        raise ConfigError(f"the PyTorch twin is trained on images, and {config.data.name} has none")
    shape, model = run.card.model_shape, run.model
    case = Case(config.model, shape, classes=run.card.num_classes, objective=config.task)
    state = initial.init(run)
    with deterministic_torch(config.seed):
        original = originals.build(model, shape)
        begun = jax.device_get({"params": state.params, **state.model_state})
        tensors = weights.to_torch(model, begun, image_shape=shape, format=original.format)
        original.load({k: torch.from_numpy(np.array(v)) for k, v in tensors.items()})
        original.module.train()
        optimizer = torch_optimizer(original, model, shape, config.optim)
        schedule, prepare = (
            jax.jit(make_schedule(config.optim, config.steps)),
            jax.jit(_prepare(run)),
        )
        start, total = time.perf_counter(), 0.0
        with contextlib.closing(batches.loader(run, config.data.train_split, train=True)) as loader:
            for step in range(config.steps):
                batch = prepare(np.uint32(step), next(loader))
                # copies: PyTorch wants to write
                batch = torch_batch({k: np.array(v) for k, v in batch.items()})
                for group in optimizer.param_groups:
                    group["lr"] = float(schedule(step))
                optimizer.zero_grad()
                loss = torch_loss(original, inputs_of(case), batch)
                loss.backward()
                if config.optim.clip_norm:
                    torch.nn.utils.clip_grad_norm_(
                        original.module.parameters(), config.optim.clip_norm
                    )
                optimizer.step()
                total += loss.item()
                if (step + 1) % config.log_every == 0:
                    mean, total = total / config.log_every, 0.0
                    say(
                        f"PyTorch step {step + 1:>6}  loss {mean:.4g}  "
                        f"{time.perf_counter() - start:.0f} s"
                    )
        trained = {k: v.numpy() for k, v in original.tensors().items()}
    variables = weights.from_torch(model, trained, image_shape=shape, format=original.format)
    params = variables.pop("params")
    new = state.replace(params=params, model_state=variables)
    state = jax.device_put(new, jax.tree.map(lambda x: x.sharding, state))
    found = evaluate(run, compiling.compile_eval_step(run), state, config.data.eval_split)
    extra = final_means(run, state, config.data.eval_split)
    assert found is not None and extra is not None
    return found.means | extra


def _prepare(run: Any) -> Callable[[Any, Any], Any]:
    """(step, batch as loaded) -> the batch that :func:`train.step.train_step` makes of it."""

    def prepare(step, batch):
        key, _ = jax.random.split(jax.random.fold_in(jax.random.key(run.config.seed), step))
        return run.task.train_batch(key, batch)

    return prepare


FOLLOWED = frozenset(
    {
        *(
            "model",
            "model_fields",
            "task",
            "seed",
            "steps",
            "batch_size",
            "log_every",
            "eval_batch_size",
        ),
        *(f"data.{name}" for name in ("name", "train_split", "eval_split", "data_dir", "raw_dir")),
        *(
            f"data.{name}"
            for name in ("image_size", "resize_size", "crop_area", "mean", "std", "crop_padding")
        ),
        *(
            f"data.{name}"
            for name in ("flip", "erasing", "randaugment_layers", "randaugment_magnitude")
        ),
        *(
            f"optim.{name}"
            for name in ("name", "learning_rate", "schedule", "warmup_steps", "end_factor")
        ),
        *(
            f"optim.{name}"
            for name in ("weight_decay", "clip_norm", "b1", "b2", "eps", "momentum", "nesterov")
        ),
        "options.importance_samples",
    }
)
"""Fields of a config by which the twin is trained, or its weights are evaluated."""

HARMLESS = {
    "mesh": "devices of ours; losses do not depend on them",
    "checkpoint": "what is kept",
    "processes": "how they find each other",
    "eval_every": "evaluations change nothing",
    "steps_per_execution": "of one call to the device",
    "init_skip": "of init_from",
    "init_parts": "of models that have no original",
    **{
        f"data.{name}": "of texts"
        for name in (
            "tokenizer",
            "vocab_size",
            "max_len",
            "isolate_documents",
            "texts",
            "buckets",
        )
    },
    **{f"data.{name}": "of texts" for name in ("crop_text", "hide_rate")},
}
"""Fields and sections of a config that change nothing here, with the reason."""


def require_plain(config: Config) -> None:
    """Raises ConfigError for options that the twin is not trained with, unless they are off."""
    plain = Config(task=config.task, options=type(config.options)())
    wrong = [
        f"config.{name} = {value!r}"
        for (name, value), (_, default) in zip(_leaves(config), _leaves(plain), strict=True)
        if not {name, name.partition(".")[0]} & (FOLLOWED | {*HARMLESS}) and value != default
    ]
    if config.optim.name not in ("adamw", "sgd"):
        wrong.append(f"config.optim.name = {config.optim.name!r}")
    if wrong:
        raise ConfigError(f"the PyTorch twin is not trained with {', '.join(wrong)}"[:500])


def _leaves(section: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{path}{field.name}.")
        else:
            yield f"{path}{field.name}", value


def main(argv: list[str] | None = None) -> int:
    """Trains the twin of a finished run and prints the scores of both."""
    parser = argparse.ArgumentParser(
        prog="python -m train.compare.twin",
        description="Trains the PyTorch original as a finished run was. Needs pip install -e "
        ".[compare]",
    )
    parser.add_argument(
        "--workdir", type=files.given("--workdir"), required=True, help="workdir of a finished run"
    )
    parser.add_argument("--json", type=files.given("--json"), help="write both scores here")
    args = parser.parse_args(argv)
    if args.json and not args.json.parent.is_dir():  # known now, not after the training
        parser.error(f"the folder of {args.json} does not exist")
    config = for_this_machine(read_config(args.workdir))
    summary = args.workdir / "summary.json"
    if not summary.exists():
        raise ConfigError(
            f"{args.workdir} is not finished: run the same python -m train command again first"
        )
    ours = json.loads(summary.read_text())["test"]
    theirs = train_twin(config, say=lambda text: print(text, file=sys.stderr, flush=True))
    rows = {name: {"ours": ours[name], "pytorch": value} for name, value in theirs.items()}
    for name, row in rows.items():
        print(f"{name:<36} ours {row['ours']:.6g}  PyTorch {row['pytorch']:.6g}")
    if args.json:
        write_atomically(args.json, json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, long=True))
