"""The lines that a run prints at its start."""

import importlib.metadata
import platform
from pathlib import Path

import jax

from jaxmodels.adapt.patterns import frozen_size
from train.compiling import attention_backend
from train.config import PruneConfig
from train.run import Run, parameter_count

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "numpy",
)


def header(run: Run, workdir: Path, start: int, origin: str) -> str:
    """Devices, mesh, precision, size, data and versions of a run, as aligned lines.

    Args:
      start: step from which it goes on.
      origin: where the parameters came from, empty for random ones.
    """
    config, card, device = run.config, run.card, jax.devices()[0]
    count, size = parameter_count(run)
    mesh = " x ".join(f"{name} {n}" for name, n in run.mesh.shape.items())
    precision = jax.config.jax_default_matmul_precision or f"{device.platform}'s default"
    stored = ", ".join(sorted({str(p.dtype) for p in jax.tree.leaves(run.shapes.params)}))
    optim, prune = config.optim, config.prune
    frozen = frozen_size(run.shapes.params, optim.freeze)
    attention = attention_backend(run.model, card, run.mesh)
    rows = {
        "devices": (
            f"{jax.device_count()} x {device.device_kind} ({device.platform}), "
            f"{jax.process_count()} processes"
        ),
        "mesh": mesh,
        "dtypes": (
            f"parameters {stored}, computation {config.dtype}, matrix products at {precision} "
            "precision"
        ),
        "model": (
            f"{config.model} {config.model_fields or ''}: {count:,} parameters, {size / 1e6:.2f} MB"
        ),
        "attention": "{}: {}".format(*attention) if attention else "",
        "data": card.summary(),
        "splits": f"trained on {config.data.train_split}, scored on {config.data.eval_split}",
        "optimiser": f"{optim.name}, {optim.schedule} from {optim.learning_rate:g}, "
        f"{config.steps:,} steps of {config.batch_size} examples "
        f"in {config.accumulate} micro-batch(es)"
        + (f", {config.steps_per_execution} in a call" if config.steps_per_execution > 1 else ""),
        "rates": ", ".join(f"{pattern} x {rate:g}" for pattern, rate in optim.rates.items()),
        "initial": origin,
        "frozen": f"{frozen:,} parameters: {', '.join(optim.freeze)}" if frozen else "",
        "teacher": f"{run.teacher.origin}, temperature {config.distill.temperature:g}"
        if run.teacher
        else "",
        "pruning": _pruning(prune) if prune.sparsity else "",
        "backend": (
            f"convolutions and matrix products by XLA:{device.platform}; augmentation on the device"
        ),
        "versions": f"python {platform.python_version()}, "
        + ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES),
        "workdir": f"{workdir}" + (f", going on from step {start}" if start else ""),
    }
    return "\n".join(f"{name:<10} {text}" for name, text in rows.items() if text)


def _pruning(prune: PruneConfig) -> str:
    what = f"{prune.sparsity:.0%} of kernels, {prune.scope}"
    if prune.method == "surgeon":
        return f"{what}, before step 0, by the surgeon on {prune.examples:,} examples"
    return f"{what}, steps {prune.begin_step} to {prune.end_step}"
