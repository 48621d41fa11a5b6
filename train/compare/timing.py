"""Time and memory of a case's training step and inference, by ``jaxmodels.bench.timing``.

All contenders start from the same weights, take the same batches in the same precision and step
with AdamW.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxmodels import originals, weights
from jaxmodels.bench.timing import (
    SETTINGS,
    Setting,
    Step,
    compare,
    our_infer,
    our_train,
    peak_of_third_step,
    resident,
    torch_infer,
    torch_train,
)
from jaxmodels.foreign.original import Case
from jaxmodels.nn.attention import exact_attention
from jaxmodels.nn.cpu import for_onednn
from jaxmodels.originals.batches import make_batch
from jaxmodels.originals.cases import inputs_of, make_model
from jaxmodels.parity.randomness import deterministic_torch
from jaxmodels.parity.sides import torch_batch
from jaxmodels.parity.subject import main_output
from jaxmodels.plan.chips import mfu
from jaxmodels.plan.flops import count_flops
from train.compare.optimizers import OPTIMIZERS, our_state, our_step, torch_optimizer
from train.optim import make_optimizer


def measure(
    case: Case,
    *,
    compile: bool,
    memory: bool,
    say: Callable[[str], None],
    seed: int = 0,
    setting: Setting = SETTINGS["cpu"],
) -> dict[str, Any]:
    """Times a case on both sides, and counts the FLOPs of our training step.

    jax has to be on the device of the setting.

    Args:
      compile: also time torch.compile; where it does not work, the reason is in the result.
      memory: also measure peak memory, in processes of their own.

    Returns:
      ``train`` and ``infer``: for each contender the median, smallest and largest time of a step.
      ``ratio_train``, ``ratio_infer``: PyTorch's best over ours, so above 1 we are ahead.
      ``compile_s``; ``peak_memory_mb``; ``flops`` of a training step of ours; ``mfu`` of each, of a
      known chip; ``items``: images, or tokens of the texts, of a batch.
    """
    batch = _batch(case, seed)
    result: dict[str, Any] = {
        "batch_size": case.timing_batch_size,
        "threads": torch.get_num_threads(),
        "compile_s": {},
    }
    result["items"] = case.timing_batch_size * max(1, case.length)
    setting.let_torch_be_fast()
    model = _model(case, setting)
    with deterministic_torch(seed):
        original = _original(model, case)
    tensors = {k: v.numpy() for k, v in original.tensors().items()}
    variables = weights.from_torch(
        model, tensors, image_shape=case.image_shape, format=original.format
    )
    setting.place(original.module)
    modes = {
        "infer": (
            partial(_torch_infer, original, case, batch, setting),
            partial(_our_infer, variables, model, case, batch),
        ),
        "train": (
            partial(_torch_train, original, model, case, batch, setting),
            partial(_our_train, variables, model, case, batch),
        ),
    }
    result |= compare(original.module, modes, compile=compile, say=say)
    tx = make_optimizer(OPTIMIZERS["adamw"], 1)
    state = jax.eval_shape(partial(our_state, tx=tx), variables)  # none is needed to count
    with exact_attention():  # a count does not see into a kernel
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
    """As :func:`inputs_of`, with None for segments: texts are whole, and both sides run without
    masks."""
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


def _torch_infer(original: Any, case: Case, batch: Any, setting: Setting, module: Any) -> Step:
    tensors = {k: setting.place(v) for k, v in torch_batch(batch).items()}
    return torch_infer(original, module, _given(tensors, case), setting)


def _torch_train(
    original: Any, model: Any, case: Case, batch: Any, setting: Setting, module: Any
) -> Step:
    options = {"fused": True} if setting.on_gpu else {}
    optimizer = torch_optimizer(original, model, case.image_shape, OPTIMIZERS["adamw"], **options)
    tensors = {k: setting.place(v) for k, v in torch_batch(batch).items()}
    return torch_train(original, module, _given(tensors, case), tensors, optimizer, setting)


def _our_infer(variables: Any, model: Any, case: Case, batch: Any) -> Step:
    def forward(variables, inputs):
        return main_output(model.apply(variables, *inputs, train=False))

    return our_infer(forward, variables, _given(batch, case))


def _our_train(variables: Any, model: Any, case: Case, batch: Any) -> Step:
    tx = make_optimizer(OPTIMIZERS["adamw"], 1)
    return our_train(_our_step(model, tx, case), our_state(variables, tx), batch)


def _peak_memory(case: Case, side: str, setting: Setting = SETTINGS["cpu"]) -> float | str:
    """MB at the peak of a training step, in a process of its own; or why it is not known."""
    command = [sys.executable, "-m", "train.compare.timing", side]
    done = subprocess.run(command, capture_output=True, input=pickle.dumps((case, setting)))
    lines = done.stdout.split()
    return (
        float(lines[-1])
        if done.returncode == 0 and lines
        else f"unknown: {done.stderr.decode().strip()[-200:]}"
    )


def _step_memory(case: Case, side: str, setting: Setting) -> float:
    """MB of a training step, above what the process had before there was a model."""
    before = resident("VmRSS")
    model = _model(case, setting)
    original = _original(model, case)
    batch = _batch(case, 0)
    if side == "torch":
        setting.place(original.module)
        step = _torch_train(original, model, case, batch, setting, original.module)
    else:
        shapes = weights.shapes(model, image_shape=case.image_shape)
        zeros = weights.nested({k: np.zeros(v.shape, v.dtype) for k, v in shapes.items()})
        del original
        step = _our_train(zeros, model, case, batch)
        del zeros
    return peak_of_third_step(step, side, setting, before)


if __name__ == "__main__":
    originals.torchvision()
    jnp.zeros(()).block_until_ready()  # memory of a backend that starts is not the model's
    case, setting = pickle.load(sys.stdin.buffer)
    # the flags are those of the process that started this one
    with for_onednn("onednn_custom_call=true" in os.environ.get("XLA_FLAGS", "")):
        print(_step_memory(case, sys.argv[1], setting))
