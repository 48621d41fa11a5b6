"""The choices before a run is explained: its task and class, the methods that suit its model, and
what stands for nothing in its inputs."""

import dataclasses
from collections.abc import Callable

import jax
from tokenizers import Tokenizer

from input_pipeline.tokenizers import encode
from jaxmodels.adapt.multitask import OneTask, unwrapped
from jaxmodels.capture import feature_maps
from train import batches
from train.config import ConfigError
from train.explain.methods import EXPLAINERS, GRADIENTS, REPLACEMENTS, Explained
from train.run import Run
from train.sharding import batch_shards
from train.tasks.names import class_name


def task_of(run: Run) -> str | None:
    """The one of several tasks that is explained."""
    return run.model.task if isinstance(run.model, OneTask) else None


def one_task(run: Run, given: str | None) -> Run:
    """A run with one of its tasks alone, the first unless another is given."""
    tasks = run.config.tasks.labels
    if given is not None and given not in tasks:
        raise ConfigError(
            f"--task={given} is none of this run's; there are {', '.join(tasks) or 'none'}"
        )
    if not tasks:
        return run
    task = given or tasks[0]
    return dataclasses.replace(run, model=OneTask(run.model, task, run.card.tasks[task]))


def shown_class(run: Run, number: int) -> str:
    """The name of a class, or of one of several numbers."""
    if run.task.bundle.explains == "number":
        return class_name(getattr(run.card.label, "names", ()), number)
    return class_name(run.card.label_names if task_of(run) in (None, "label") else (), number)


def wanted_of(run: Run, text: str | None) -> int:
    if text is None:
        return -1
    if run.task.bundle.explains == "next token":
        tokens = encode(
            Tokenizer.from_str(run.card.kind("text").tokenizer), text, source=f"--target={text!r}"
        )
        if not len(tokens):
            raise ConfigError("--target is empty: give the text of a token")
        return int(tokens[0])
    names = [shown_class(run, i) for i in range(run.model.num_classes)]
    if text in names:
        return names.index(text)
    if text.isdigit() and int(text) < len(names):
        return int(text)
    what = "number" if run.task.bundle.explains == "number" else "class"
    raise ConfigError(f"--target={text!r} is no {what}; there are {', '.join(names)}")


def explainers(run: Run) -> dict[str, Callable[..., Explained]]:
    """By what is taken apart: images, texts or rows."""
    card, model = run.card, unwrapped(run.model)
    kinds = card.kinds
    if len(kinds) > 1 and model.fusion in kinds:  # it sees that one alone
        kinds = (model.fusion,)
    return {kind: EXPLAINERS[kind] for kind in kinds}


def replacements(run: Run, given: str | None) -> dict[str, str]:
    """What stands for nothing in the images, texts or rows of a run."""
    there = {kind: list(REPLACEMENTS[kind]) for kind in explainers(run)}
    if "text" in there:
        tokenizer = Tokenizer.from_str(run.card.kind("text").tokenizer)
        there["text"] = [
            x for x in there["text"] if x == "drop" or tokenizer.token_to_id(x) is not None
        ]
    known = [x for kind in there.values() for x in kind]
    if given is not None and given not in known:
        raise ConfigError(f"--replace={given} does not suit this run; there are {', '.join(known)}")
    return {kind: given if given in suitable else suitable[0] for kind, suitable in there.items()}


def methods_of(run: Run, given: list[str] | None) -> tuple[str, ...]:
    """Methods that suit a run's model; of these the given ones, if any are."""
    model, task = run.model, run.config.task
    if run.task.bundle.explains is None:
        raise ConfigError(
            f"a run with config.task = {task!r} has no class, number or next token to explain; "
            "give the workdir of a classifier, a language model or a translator"
        )
    there = [*GRADIENTS]
    if "image" in explainers(run):
        variables = {"params": run.shapes.params, **run.shapes.model_state}
        shapes = batches.batch_shapes(run, batch_shards(run.mesh))[-1]
        batch = jax.eval_shape(run.task.eval_batch, shapes)
        there += (
            ["grad_cam"]
            if feature_maps(model, variables, *(batch[k] for k in run.task.inputs))
            else []
        )
    there += ["rollout", "attention"] if hasattr(unwrapped(model), "attention") else []
    there += ["logit_lens"] if run.task.bundle.explains == "next token" else []
    for method in given or ():
        if method not in there:
            raise ConfigError(
                f"--method={method} does not suit {type(model).__name__}; there are "
                f"{', '.join(there)}"
            )
    return tuple(m for m in there if given is None or m in given)
