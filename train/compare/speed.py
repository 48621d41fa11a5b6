"""What ``train.compare --speed-only`` measures of a case, and the tables and plots of the
results."""

import os
import platform
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxmodels.bench.timing import ROUNDS, SETTINGS, Setting, alternate
from jaxmodels.foreign.original import Case
from jaxmodels.parity.report import markdown
from train.compare.timing import measure
from train.config import ConfigError

PRODUCT_SIDES = {"cpu": 1024, "cuda": 8192}
"""Sides of the square matrices whose product gives the device's own rate."""


def prepare(device: str) -> None:
    """Puts jax on the device that both sides are timed on. Call it before jax is used.

    Raises:
      ConfigError: jax or PyTorch has no such device.
    """
    wanted = {"cpu": "cpu", "gpu": "cuda"}[device]
    os.environ["JAX_PLATFORMS"] = wanted  # of the processes that measure memory, too
    # PyTorch needs some of a GPU's memory as well
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_platforms", wanted)
    try:
        found = jax.default_backend()
    except (RuntimeError, AssertionError) as e:
        # the latter is jax's own, without a word, where nothing was tried
        reason = " ".join(str(e).split())[:200] or f"it has no plugin for {wanted}"
        raise ConfigError(
            f"--device={device}: jax has none ({reason}); pip install -e .[cuda]"
        ) from e
    if found != device:
        raise ConfigError(f"--device={device}, but jax is already on {found}")
    if device == "gpu" and not torch.cuda.is_available():
        raise ConfigError(
            f"--device=gpu: PyTorch {torch.__version__} sees no GPU: it needs a build for CUDA"
        )


def measure_one(
    case: Case, *, full: bool, seed: int, setting: Setting = SETTINGS["cpu"]
) -> dict[str, Any]:
    """Times a case, and compares our training step with the machine's own matrix product.

    Args:
      full: with torch.compile and memory.

    Returns:
      The result of :func:`train.compare.timing.measure`, and besides: ``model``;
      ``matmul_flops_per_s`` of a product of two square matrices of ``matmul_side``, by XLA in the
      same precision; ``share`` of that rate which our training step reaches; ``machine``;
      ``precision``.
    """
    found = measure(
        case, compile=full, memory=full, say=lambda text: None, seed=seed, setting=setting
    )
    precision, side = "bfloat16" if setting.bfloat16 else "float32", PRODUCT_SIDES[setting.device]
    a = jnp.ones((side, side), precision)
    product = jax.jit(jnp.matmul)
    seconds = alternate({"product": lambda: jax.block_until_ready(product(a, a))})["product"][
        "median"
    ]
    rate = 2 * side**3 / seconds
    share = found["flops"] / found["train"]["ours"]["median"] / rate
    about = {
        "matmul_flops_per_s": rate,
        "matmul_side": side,
        "share": share,
        "precision": precision,
    }
    return {"model": case.key, **found, **about, "machine": _machine()}


def _machine() -> dict[str, Any]:
    versions = {name: version(name) for name in ("jax", "jaxlib", "flax", "torch", "transformers")}
    gpu = {"gpu": jax.devices()[0].device_kind} if jax.default_backend() == "gpu" else {}
    return {
        **gpu,
        "platform": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        **versions,
    }


def table(found: list[dict[str, Any]]) -> str:
    """Ratios as a Markdown table of the columns that were measured.

    A ratio is PyTorch's time over ours, so above 1 we are ahead.
    """
    rows = [_cells(r) for r in found]
    columns = (
        [name for name in rows[0] if any(row[name] is not None for row in rows)] if rows else []
    )
    return markdown(columns, ([row[name] or "-" for name in columns] for row in rows))


def _cells(result: dict[str, Any]) -> dict[str, str | None]:
    memory, ours = result.get("peak_memory_mb", {}), result["train"]["ours"]
    known = memory and all(isinstance(x, float) for x in memory.values())
    theirs = result["compile_s"].get("torch_compile_train")
    numbers = {}
    for mode in ("train", "infer"):
        numbers[mode] = result[f"ratio_{mode}"]
        eager = result[mode]["torch"]["median"] / result[mode]["ours"]["median"]
        numbers[f"{mode}, eager"] = eager if "torch_compile" in result[mode] else None
    numbers["share of product"] = result["share"]
    numbers["MFU"] = result.get("mfu", {}).get("ours")
    numbers["memory"] = memory["torch"] / memory["ours"] if known else None
    numbers["compiling"] = None if theirs is None else theirs / result["compile_s"]["ours_train"]
    cells = {k: None if x is None else f"{x:.2f}" for k, x in numbers.items()}
    for mode in ("train", "infer"):
        cells[mode] = f"**{cells[mode]}**" if _behind(numbers[mode]) else cells[mode]
    rate = f"{result['items'] / ours['median']:,.0f}" if "items" in result else None
    spread = f"{(ours['max'] - ours['min']) / ours['median']:.0%}"
    size = {"model": f"`{result['model']}`", "batch": str(result["batch_size"])}
    return {**size, **cells, "items per second": rate, "spread": spread}


def _behind(ratio: float) -> bool:
    return round(ratio, 2) < 1


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """The ratios of training and inference of each model, on a logarithmic scale."""
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = range(len(found))
    for i, mode in enumerate(("train", "infer")):
        bars = [r[f"ratio_{mode}"] for r in found]
        axes.barh(
            [y + 0.2 * (2 * i - 1) for y in places], [b - 1 for b in bars], 0.4, left=1, label=mode
        )
    axes.axvline(1, color="black", lw=1)
    axes.set_yticks(places, [r["model"] for r in found])
    axes.invert_yaxis()
    axes.set_xscale("log")
    ticks = (0.25, 0.5, 1, 2, 4)
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_xticks((), minor=True)
    axes.set(xlabel="PyTorch's time / ours", title="above 1 we are ahead")
    axes.grid(alpha=0.3, axis="x")
    axes.legend()
    figure.savefig(path, dpi=110)


def page(found: list[dict[str, Any]], *, plot: str) -> str:
    """The text of ``docs/benchmarks.md``: the table, how it was measured, and where we lose.

    Args:
      plot: name of the plot's file.
    """
    machine = found[0]["machine"]
    about = ", ".join(f"{k} {v}" for k, v in machine.items())
    rate = statistics.median(r["matmul_flops_per_s"] for r in found)
    ratios = {
        f"`{r['model']}` {mode}": r[f"ratio_{mode}"] for r in found for mode in ("train", "infer")
    }
    behind = [f"{name} {ratio:.2f}" for name, ratio in ratios.items() if _behind(ratio)]
    side, precision = found[0].get("matmul_side", 1024), found[0].get("precision", "float32")
    how = (
        " (PyTorch by autocast, with a fused optimiser and images channels last)"
        if "gpu" in machine
        else ""
    )
    chip = "; *MFU* is its share of the chip's 16-bit peak" if "gpu" in machine else ""
    command = (
        "python -m train.compare --all --speed-only --device=gpu"
        if "gpu" in machine
        else "make bench"
    )
    compiled = any("torch_compile" in r["train"] for r in found)
    theirs = "PyTorch's best of eager and torch.compile" if compiled else "PyTorch (eager)"
    return f"""# Benchmarks

Written by `{command}`. {theirs} and ours take turns in one process, round after round, each after
a pause, from the same weights, on the same batches, in {precision} with AdamW{how};
of each the median of {ROUNDS} rounds counts. Numbers are PyTorch's time over ours: above 1 we are
ahead. *Share of product* is the rate of the training step's products and convolutions over that of
a product of two matrices of {side} x {side}{chip};
*items per second* are the images or tokens that we train on; *spread* is the slowest less the
fastest round of our training step over the median; where torch.compile was timed too, *memory* is
PyTorch's peak of a training step (eager) over ours, with what XLA's compiler leaves behind, and
*compiling* its time to compile one over ours. Sizes: `jaxmodels/bench/sizes.py`; `_2x` is twice.
Where we are behind, and why: [speed.md](speed.md).

{about}; the product of {side} x {side} at {rate / 1e9:.0f} GFLOP/s (median)

{table(found)}
Behind: {", ".join(behind) or "nowhere"}.

![PyTorch's time over ours]({plot})
"""
