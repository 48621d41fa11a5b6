"""``python -m jaxmodels.weights convert IN.pth OUT.safetensors`` and
``... show FILE_OR_DIRECTORY``."""

import argparse
import sys

from jaxmodels.foreign.json_files import short
from jaxmodels.weights import WeightsError, read_tensors
from jaxmodels.weights.convert import convert
from jaxmodels.weights.files import local_path


def main(argv: list[str] | None = None) -> int:
    """The command line; errors are one line, exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxmodels.weights", description="Weights as safetensors."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser(
        "convert", help="a PyTorch pickle (.pth, .pt, .bin) to safetensors; needs PyTorch"
    )
    one.add_argument("source")
    one.add_argument("target")
    one.add_argument(
        "--key", help="under which the state dict is in the pickle, where it holds several"
    )
    two = commands.add_parser(
        "show", help="names, types and shapes of a safetensors file or directory"
    )
    two.add_argument("source")
    args = parser.parse_args(argv)
    try:
        if args.command == "convert":
            written = convert(local_path(args.source), local_path(args.target), args.key)
            for note in written.notes:
                print(note)
            print(f"wrote {written.count} tensors to {args.target}")
        else:
            tensors = read_tensors(args.source)
            for name, value in tensors.items():
                print(f"{name}  {value.dtype}  {'x'.join(map(str, value.shape)) or 'scalar'}")
            print(f"{len(tensors)} tensors, {sum(v.size for v in tensors.values()):,} numbers")
    except (WeightsError, OSError) as e:
        print(f"error: {short(e, 490)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
