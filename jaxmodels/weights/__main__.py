"""``python -m jaxmodels.weights convert IN.pth OUT.safetensors`` and ``... show FILE_OR_DIRECTORY``."""

import argparse
import sys
from pathlib import Path

import numpy as np

from jaxmodels.weights import WeightsError, read_tensors, write_tensors
from jaxmodels.weights.files import local_path


def convert(source: Path, target: Path) -> int:
    """Writes the tensors of a PyTorch pickle as safetensors; returns their number.

    PyTorch reads it with ``weights_only=True``, which runs no code. A state dict inside ``state_dict`` or ``model``, as
    training scripts save it, is found; ``module.`` in front of every name, left by DataParallel, is taken off.

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
        state = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as e:  # unpickling fails in any way it likes
        raise WeightsError(f"{source} is not a file of weights alone ({' '.join(str(e).split())[:200]})") from e
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{source} holds {type(state).__name__}, not a state dict")
    wrong = [str(k) for k, v in state.items() if not isinstance(v, torch.Tensor)]
    if wrong:
        raise WeightsError(f"{source} holds other things than tensors: {', '.join(wrong[:5])}")
    if all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
    write_tensors(target, {k: _array(torch, v) for k, v in state.items()})
    return len(state)


def _array(torch, tensor) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # NumPy's bfloat16 is another library's
        return tensor.view(torch.int16).numpy().view("bfloat16")
    return tensor.numpy()


def main(argv: list[str] | None = None) -> int:
    """The command line; errors are one line, exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m jaxmodels.weights", description="Weights as safetensors.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("convert", help="a PyTorch pickle (.pth, .pt, .bin) to safetensors; needs PyTorch")
    one.add_argument("source")
    one.add_argument("target")
    two = commands.add_parser("show", help="names, types and shapes of a safetensors file or directory")
    two.add_argument("source")
    args = parser.parse_args(argv)
    try:
        if args.command == "convert":
            count = convert(local_path(args.source), local_path(args.target))
            print(f"wrote {count} tensors to {args.target}")
        else:
            tensors = read_tensors(args.source)
            for name, value in tensors.items():
                print(f"{name}  {value.dtype}  {'x'.join(map(str, value.shape)) or 'scalar'}")
            print(f"{len(tensors)} tensors, {sum(v.size for v in tensors.values()):,} numbers")
    except (WeightsError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
