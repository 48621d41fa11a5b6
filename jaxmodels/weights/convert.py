"""PyTorch pickles to safetensors: finds the state dict in what training scripts save, and takes
wrappers' names off.

The only file of this package that imports PyTorch, and only when a pickle is converted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxmodels.foreign.rules import WeightsError
from jaxmodels.weights.files import write_tensors
from jaxmodels.weights.fitting import AVERAGED, WRAPPERS, few

CONTAINERS = (
    *(
        "state_dict",
        "model_state_dict",
        "model_state",
        "model",
        "module",
        "network",
        "net",
        "params",
        "weights",
    ),
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema"),
)
"""Keys under which training scripts save a state dict beside others, the first that is there
first."""
DEPTH = 4
"""Most levels of state dicts in state dicts."""


class Converted(NamedTuple):
    """The result of a conversion.

    Attributes:
      count: of the tensors; notes: what was chosen and what was taken off, a line each.
    """

    count: int
    notes: tuple[str, ...]


def convert(source: Path, target: Path, key: str | None = None) -> Converted:
    """Writes the tensors of a PyTorch pickle as safetensors.

    PyTorch reads it with ``weights_only=True``, which runs no code. A state dict under one of
    :data:`CONTAINERS` is found. Names lose what DataParallel, ``torch.compile`` and AveragedModel
    put before them (``module.``, ``_orig_mod.``); any other prefix stays, and
    :func:`jaxmodels.weights.load` takes it off by the model's names.

    Args:
      key: under which the state dict is, where there are several; ``a.b`` is one in another.

    Raises:
      WeightsError: PyTorch is not there, or the file is not a state dict.
    """
    try:
        import torch
    except ImportError as e:
        raise WeightsError("converting a pickle needs PyTorch: pip install torch") from e
    if not source.is_file():
        raise WeightsError(f"{source} is not a file")
    try:
        saved = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as e:  # unpickling fails in any way it likes
        raise WeightsError(
            f"{source} is not a file of weights alone ({' '.join(str(e).split())[:200]}); where it "
            "can be trusted, load it and save its state dict alone: torch.save(model.state_dict(), "
            "PATH)"
        ) from e
    state, notes = _chosen(source, saved, key) if key else _found(source, saved)
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{source} holds {type(state).__name__}, not a state dict")
    wrong = [str(k) for k, v in state.items() if not isinstance(v, torch.Tensor)]
    if wrong:
        inside = [str(k) for k, v in state.items() if isinstance(v, Mapping)]
        way_out = f"; --key={inside[0][:60]} takes what is in there" if inside else ""
        raise WeightsError(
            f"{source} holds other things than tensors: {few(wrong, room=200)}{way_out}"
        )
    plain, more = _unwrapped(source, {str(k): v for k, v in state.items()})
    write_tensors(target, {k: _array(torch, source, k, v) for k, v in plain.items()})
    return Converted(len(plain), (*notes, *more))


def _chosen(source: Path, saved: Any, key: str) -> tuple[Any, list[str]]:
    for part in key.split("."):
        if not isinstance(saved, Mapping) or part not in saved:
            there = (
                few([str(k) for k in saved], room=200)
                if isinstance(saved, Mapping)
                else type(saved).__name__
            )
            raise WeightsError(f"{source} has no {key!r}: there is {there}")
        saved = saved[part]
    return saved, []


def _found(source: Path, saved: Any) -> tuple[Any, list[str]]:
    """The state dict in what was saved, and a note of what it was chosen from."""
    path: list[str] = []
    notes = []
    for _ in range(DEPTH):
        inside = [
            key
            for key in CONTAINERS
            if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping)
        ]
        inside = [key for key in inside if saved[key]]
        if not inside:
            break
        path.append(inside[0])
        if len(inside) > 1:
            notes.append(
                f"took {'.'.join(path)} and not {', '.join(inside[1:])}; --key=NAME takes another"
            )
        saved = saved[inside[0]]
    return saved, notes


def _unwrapped(source: Path, state: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Names without wrappers, and a note of each kind of them."""
    taken: dict[str, None] = {}
    while True:
        rest = [name for name in state if name != AVERAGED]
        first = rest[0].partition(".")[0] if rest else ""
        if (
            not first
            or (first != "module" and first not in WRAPPERS)
            or not all(name.startswith(f"{first}.") for name in rest)
        ):
            break
        if AVERAGED in state:
            taken[AVERAGED] = None
        state = {name.removeprefix(f"{first}."): state[name] for name in rest}
        taken[f"{first}."] = None
    plain: dict[str, Any] = {}
    for name, value in state.items():
        parts = name.split(".")
        taken |= {f"{part}.": None for part in parts if part in WRAPPERS}
        short = ".".join(part for part in parts if part not in WRAPPERS)
        if short in plain:
            raise WeightsError(
                f"{source} has two tensors that are called {short[:100]!r} without their wrappers' "
                "names"
            )
        plain[short] = value
    return plain, [f"took off {', '.join(taken)}"] if taken else []


def _array(torch: Any, source: Path, name: str, tensor: Any) -> np.ndarray:
    """One tensor as NumPy's; a view of a few numbers that repeats them is not unfolded."""
    try:
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise TypeError(
                f"its shape {tuple(tensor.shape)} repeats the few numbers that are stored"
            )
        tensor = tensor.detach().contiguous()
        if tensor.dtype == torch.bfloat16:  # NumPy's bfloat16 is another library's
            return tensor.view(torch.int16).numpy().view("bfloat16")
        return tensor.numpy()
    except (TypeError, RuntimeError, NotImplementedError) as e:
        # types that NumPy lacks, sparse and quantised ones
        raise WeightsError(
            f"{source}: {name[:100]} cannot be written ({' '.join(str(e).split())[:150]})"
        ) from e
