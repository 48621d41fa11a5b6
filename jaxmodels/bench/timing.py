"""Time and memory of a step: PyTorch eager, torch.compile and ours, in one run.

Contenders take turns, round after round, so that whatever else the machine does hits all of them.
The medians over the rounds are compared.
"""

import contextlib
import ctypes
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.parity.extra import torch
from jaxmodels.parity.subject import Original

ROUNDS = 15
ROUND_SECONDS = 0.2
"""A contender repeats its step within a round until this much time has passed."""
PAUSE_SECONDS = 0.05
"""Before each turn: for some 10 ms after its last call PyTorch's threads look for work, on cores
that others need."""

Step = Callable[[], None]
"""One step, which is over when it returns."""


@dataclass(frozen=True)
class Setting:
    """Device and precision of a timing, the same for both sides.

    Attributes:
      device: PyTorch's name of it. On a GPU PyTorch gets what it is fast with: channels last, a
        fused optimiser, TF32.
      bfloat16: compute in it; parameters and optimiser stay float32. PyTorch does so by autocast.
    """

    device: str = "cpu"
    bfloat16: bool = False

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16)

    def place(self, x: Any) -> Any:
        """A tensor or a module on the device."""
        images = isinstance(x, torch.nn.Module) or x.ndim == 4
        options = {"memory_format": torch.channels_last} if self.on_gpu and images else {}
        return x.to(self.device, **options)

    def wait(self) -> None:
        """Returns when PyTorch has done all that it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def let_torch_be_fast(self) -> None:
        """Sets this process's switches of PyTorch for the device."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.on_gpu
        torch.backends.cudnn.benchmark = self.on_gpu  # XLA tries the ways to convolve, too


SETTINGS = {"cpu": Setting(), "gpu": Setting("cuda", bfloat16=True)}


def compare(
    module: torch.nn.Module,
    modes: Mapping[str, tuple[Callable[[Any], Step], Callable[[], Step]]],
    *,
    compile: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Times both sides in each mode.

    Args:
      module: the original.
      modes: name -> (makes PyTorch's step from the module or the compiled module, makes ours).
      compile: also time torch.compile; where it does not work, the reason is in the result.
      say: told of each stage.

    Returns:
      For each mode the seconds of :func:`alternate`, and ``ratio_<mode>``: PyTorch's best over
      ours, so above 1 we are ahead. ``compile_s``: seconds to make and run the first step.
    """
    result: dict[str, Any] = {"compile_s": {}}
    for mode, (torch_of, ours_of) in modes.items():
        contenders = {"torch": torch_of(module)}
        if compile:
            say(f"torch.compile, {mode}")
            try:
                step, seconds = _compiled_by_torch(torch_of, module)
                result["compile_s"][f"torch_compile_{mode}"] = seconds
                contenders["torch_compile"] = step
            except Exception as e:  # no C++ compiler, an operator it does not know: many kinds
                result["torch_compile_error"] = (
                    f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
                )
        say(f"timing, {mode}")
        start = time.perf_counter()
        contenders["ours"] = ours_of()
        contenders["ours"]()
        result["compile_s"][f"ours_{mode}"] = time.perf_counter() - start
        result[mode] = alternate(contenders)
        theirs = min(v["median"] for k, v in result[mode].items() if k != "ours")
        result[f"ratio_{mode}"] = theirs / result[mode]["ours"]["median"]
    return result


def _compiled_by_torch(
    torch_of: Callable[[Any], Step], module: torch.nn.Module
) -> tuple[Step, float]:
    """The step of a module by torch.compile, and seconds until it has run once, without caches."""
    # programs of an earlier run are kept in two places
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        # inductor sets it, once, to a folder in that one
        os.environ.pop("TRITON_CACHE_DIR", None)
        start = time.perf_counter()
        step = torch_of(torch.compile(module))
        step()
        return step, time.perf_counter() - start


def alternate(contenders: dict[str, Step], *, rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """Seconds per call of each contender, taking turns; each round's order is turned by one.

    A turn begins with a pause and a call that is not timed, so that none pays for what another left
    behind.

    Returns:
      For each contender ``median``, ``min`` and ``max`` over the rounds.
    """
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            time.sleep(PAUSE_SECONDS)
            contenders[name]()
            start, calls = time.perf_counter(), 0
            while calls == 0 or time.perf_counter() - start < ROUND_SECONDS:
                contenders[name]()
                calls += 1
            times[name].append((time.perf_counter() - start) / calls)
    return {
        k: {"median": statistics.median(v), "min": min(v), "max": max(v)} for k, v in times.items()
    }


def torch_infer(
    original: Original, module: Any, inputs: Sequence[torch.Tensor | None], setting: Setting
) -> Step:
    """PyTorch's forward pass in evaluation mode.

    Args:
      module: the original's, or the same compiled.
      inputs: of the module, on the device.
    """

    def step() -> None:
        original.module.eval()
        with torch.inference_mode(), setting.autocast():
            module(*inputs)
        setting.wait()

    return step


def torch_train(
    original: Original,
    module: Any,
    inputs: Sequence[torch.Tensor | None],
    batch: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    setting: Setting,
) -> Step:
    """PyTorch's training step; ``batch``, on the device, is what its loss is given."""

    def step() -> None:
        original.module.train()
        optimizer.zero_grad()
        with setting.autocast():
            loss = original.loss(module(*inputs), batch)
        loss.backward()
        optimizer.step()
        setting.wait()

    return step


def our_infer(forward: Callable[..., Any], variables: Any, inputs: Sequence[Any]) -> Step:
    """Our ``forward(variables, inputs)``, compiled."""
    variables, inputs = jax.tree.map(jnp.asarray, (variables, inputs))
    compiled = jax.jit(forward).lower(variables, inputs).compile()
    return lambda: jax.block_until_ready(compiled(variables, inputs))


def our_train(train_step: Callable[..., Any], state: Any, batch: Any) -> Step:
    """Our ``train_step(state, batch) -> (state, metrics)``, compiled; it takes the state's
    buffers."""
    batch = jax.tree.map(jnp.asarray, batch)
    compiled = jax.jit(train_step, donate_argnums=0).lower(state, batch).compile()

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)

    return step


def peak_of_third_step(step: Step, side: str, setting: Setting, before: float) -> float:
    """MB at the peak of the third step, when compiling is over.

    On a CPU: resident memory above ``before``, see :func:`resident`. On a GPU: allocated memory, by
    PyTorch in the third step; by jax since it began, with XLA's trials of kernels, because nothing
    sets its count back.

    Args:
      side: ``"torch"`` or ``"ours"``.

    Raises:
      OSError: on a CPU, and not on Linux, whose kernel alone can be asked.
    """
    step()
    step()
    gc.collect()
    if setting.on_gpu:
        if side == "ours":
            return jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # memory that compiling has freed goes back to the system
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    step()
    return resident("VmHWM") - before


def resident(what: str) -> float:
    """MB of this process: ``"VmRSS"`` now, ``"VmHWM"`` at the peak.

    Raises:
      OSError: not on Linux.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024
