"""Time and memory of a training step and of inference: PyTorch eager, torch.compile and ours, in
one run.

The three take turns, round after round, so that whatever else the machine does hits all of them;
the medians over the rounds are compared. All start from the same weights, take the same batches in
the same precision and step with AdamW.
"""

import contextlib
import ctypes
import gc
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxmodels import weights
from jaxmodels.nn.attention import exact_attention
from jaxmodels.plan.chips import mfu
from jaxmodels.plan.flops import count_flops
from train.compare import originals
from train.compare.cases import Case, inputs_of, make_model
from train.compare.certificate import (
    OPTIMIZERS,
    deterministic_torch,
    main_output,
    make_batch,
    our_state,
    our_step,
    torch_batch,
    torch_optimizer,
)
from train.optim import make_optimizer

ROUNDS = 15
ROUND_SECONDS = 0.2
"""A contender repeats its step within a round until this much time has passed."""
PAUSE_SECONDS = 0.05
"""Before each turn: for some 10 ms after its last call PyTorch's threads look for work, on cores
that others need."""


@dataclass(frozen=True)
class Setting:
    """Where both are timed, and in what precision.

    Attributes:
      device: PyTorch's name of it. On a GPU PyTorch gets what it is fast with: channels last, a
        fused optimiser, TF32.
      bfloat16: what is computed in it; parameters and optimiser stay float32. PyTorch does so by
        autocast.
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
        """Until PyTorch has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()


SETTINGS = {"cpu": Setting(), "gpu": Setting("cuda", bfloat16=True)}


def measure(
    case: Case,
    *,
    compile: bool,
    memory: bool,
    say: Callable[[str], None],
    seed: int = 0,
    setting: Setting = SETTINGS["cpu"],
) -> dict[str, Any]:
    """Times in seconds per step and ratios; PyTorch's best over ours, so above 1 we are ahead;
    FLOPs of a step.

    jax has to be on the device of the setting.

    Args:
      compile: also time torch.compile; where it does not work, the reason is in the result.
      memory: also measure peak memory, in processes of their own.

    Returns:
      ``train`` and ``infer``: for each contender the median, smallest and largest time of a step;
        ``ratio_train``,
      ``ratio_infer``; ``compile_s``; ``peak_memory_mb``; ``flops`` of a training step of ours;
      ``mfu`` of each, of a known chip; ``items``: images, or tokens of the texts, of a batch.
    """
    batch = _batch(case, seed)
    result: dict[str, Any] = {
        "batch_size": case.timing_batch_size,
        "threads": torch.get_num_threads(),
        "compile_s": {},
    }
    result["items"] = case.timing_batch_size * max(1, case.length)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = setting.on_gpu
    torch.backends.cudnn.benchmark = setting.on_gpu  # XLA tries the ways to convolve, too
    model = _model(case, setting)
    with deterministic_torch(seed):
        original = _original(model, case)
    tensors = {k: v.numpy() for k, v in original.tensors().items()}
    variables = weights.from_torch(
        model, tensors, image_shape=case.image_shape, format=original.format
    )
    setting.place(original.module)
    for mode, torch_of, ours_of in (
        ("infer", _torch_infer, _our_infer),
        ("train", _torch_train, _our_train),
    ):
        contenders = {"torch": torch_of(original, original.module, model, case, batch, setting)}
        if compile:
            say(f"torch.compile, {mode}")
            # the time to compile is measured, and what an earlier run has compiled is kept in two
            # places
            os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
            try:
                with tempfile.TemporaryDirectory() as folder:
                    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
                    # inductor sets it, once, to a folder in that one
                    os.environ.pop("TRITON_CACHE_DIR", None)
                    start = time.perf_counter()
                    step = torch_of(
                        original, torch.compile(original.module), model, case, batch, setting
                    )
                    step()
                    result["compile_s"][f"torch_compile_{mode}"] = time.perf_counter() - start
                    contenders["torch_compile"] = step
            except Exception as e:  # no C++ compiler, an operator it does not know: many kinds
                result["torch_compile_error"] = (
                    f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
                )
        say(f"timing, {mode}")
        start = time.perf_counter()
        contenders["ours"] = ours_of(variables, model, case, batch)
        contenders["ours"]()
        result["compile_s"][f"ours_{mode}"] = time.perf_counter() - start
        result[mode] = alternate(contenders)
        theirs = min(v["median"] for k, v in result[mode].items() if k != "ours")
        result[f"ratio_{mode}"] = theirs / result[mode]["ours"]["median"]
    tx = make_optimizer(OPTIMIZERS["adamw"], 1)
    state = jax.eval_shape(partial(our_state, tx=tx), variables)  # none is needed to count
    with exact_attention():  # what a kernel computes is not seen
        result["flops"] = count_flops(jax.make_jaxpr(_our_step(model, tx, case))(state, batch))
    kind = jax.devices()[0].device_kind
    result["mfu"] = {
        side: mfu(float(result["flops"]), v["median"], kind, 1)
        for side, v in result["train"].items()
    }
    if memory:
        say("peak memory")
        result["peak_memory_mb"] = {
            side: _peak_memory(case, side, setting) for side in ("torch", "ours")
        }
    return result


def _batch(case: Case, seed: int) -> dict[str, Any]:
    return make_batch(case, np.float32, seed, size=case.timing_batch_size, padded=False)


def _inputs(case: Case) -> tuple[str | None, ...]:
    """As :func:`inputs_of`: texts are whole, and neither side is given what would say so, to run
    without masks."""
    return tuple(None if k.endswith("segments") else k for k in inputs_of(case))


def _given(batch: dict[str, Any], case: Case) -> list[Any]:
    return [None if k is None else batch[k] for k in _inputs(case)]


def _our_step(model: Any, tx: Any, case: Case) -> Callable[..., Any]:
    return partial(our_step(model, tx, case), inputs=_inputs(case))


def _model(case: Case, setting: Setting) -> Any:
    model = make_model(case, jnp.float32)
    return model.clone(dtype=jnp.dtype(jnp.bfloat16)) if setting.bfloat16 else model


def _original(model: Any, case: Case) -> originals.Original:
    original = originals.build(model, case.image_shape)
    originals.without_masks(original.module)  # the texts that are timed are whole
    return original


def alternate(
    contenders: dict[str, Callable[[], None]], *, rounds: int = ROUNDS
) -> dict[str, dict[str, float]]:
    """Seconds per call of each contender, taking turns; each round's order is turned by one.

    A turn begins with a pause and a call that is not timed, so that none pays for what another left
    behind.
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


def _torch_infer(
    original: Any, module: Any, model: Any, case: Case, batch: Any, setting: Setting
) -> Callable[[], None]:
    inputs = _given({k: setting.place(v) for k, v in torch_batch(batch).items()}, case)

    def step() -> None:
        original.module.eval()
        with torch.inference_mode(), setting.autocast():
            module(*inputs)
        setting.wait()

    return step


def _torch_train(
    original: Any, module: Any, model: Any, case: Case, batch: Any, setting: Setting
) -> Callable[[], None]:
    options = {"fused": True} if setting.on_gpu else {}
    optimizer = torch_optimizer(original, model, case, OPTIMIZERS["adamw"], **options)
    tensors = {k: setting.place(v) for k, v in torch_batch(batch).items()}
    inputs = _given(tensors, case)

    def step() -> None:
        original.module.train()
        optimizer.zero_grad()
        with setting.autocast():
            loss = original.loss(module(*inputs), tensors)
        loss.backward()
        optimizer.step()
        setting.wait()

    return step


def _our_infer(variables: Any, model: Any, case: Case, batch: Any) -> Callable[[], None]:
    variables, inputs = jax.tree.map(jnp.asarray, (variables, _given(batch, case)))
    compiled = jax.jit(lambda v, inputs: main_output(model.apply(v, *inputs, train=False))).lower(
        variables, inputs
    )
    compiled = compiled.compile()
    return lambda: jax.block_until_ready(compiled(variables, inputs))


def _our_train(variables: Any, model: Any, case: Case, batch: Any) -> Callable[[], None]:
    tx = make_optimizer(OPTIMIZERS["adamw"], 1)
    state, batch = our_state(variables, tx), jax.tree.map(jnp.asarray, batch)
    compiled = jax.jit(_our_step(model, tx, case), donate_argnums=0).lower(state, batch).compile()

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)

    return step


def _peak_memory(case: Case, side: str, setting: Setting = SETTINGS["cpu"]) -> float | str:
    """Memory at the peak of a training step, in MB, in a process of its own; or why it is not
    known.

    Resident memory, or of a GPU what was allocated.
    """
    command = [sys.executable, "-m", "train.compare.timing", side]
    done = subprocess.run(command, capture_output=True, input=pickle.dumps((case, setting)))
    lines = done.stdout.split()
    return (
        float(lines[-1])
        if done.returncode == 0 and lines
        else f"unknown: {done.stderr.decode().strip()[-200:]}"
    )


def _step_memory(case: Case, side: str, setting: Setting) -> float:
    """MB above what the process had before there was a model, at the peak of the third step:
    compiling is over then.

    Of a GPU: what was allocated at the peak, by PyTorch of the third step, by jax since it began,
    with XLA's trials of kernels, because nothing sets its count back.

    Raises:
      OSError: not on Linux, whose kernel alone can be asked.
    """
    before = _resident("VmRSS")
    model = _model(case, setting)
    original = _original(model, case)
    batch = _batch(case, 0)
    if side == "torch":
        setting.place(original.module)
        step = _torch_train(original, original.module, model, case, batch, setting)
    else:
        shapes = weights.shapes(model, image_shape=case.image_shape)
        zeros = weights.nested({k: np.zeros(v.shape, v.dtype) for k, v in shapes.items()})
        del original
        step = _our_train(zeros, model, case, batch)
        del zeros
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
        ctypes.CDLL(None).malloc_trim(0)  # what compiling has freed goes back to the system
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    step()
    return _resident("VmHWM") - before


def _resident(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


if __name__ == "__main__":
    originals.torchvision()
    jnp.zeros(()).block_until_ready()  # what starting a backend takes is not the model's
    case, setting = pickle.load(sys.stdin.buffer)
    print(_step_memory(case, sys.argv[1], setting))
