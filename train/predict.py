"""Labels images, texts, images with a text, or rows of tables; a run with task regression
gives a number.

python -m train.predict --workdir=DIR FILES_OR_FOLDERS...
python -m train.predict --workdir=DIR_OF_A_TEXT_CLASSIFIER "a text" "another" FILE.txt    (or - <
FILE, line by line) python -m train.predict --workdir=DIR_OF_A_TABLE FILES.csv...    (or - < FILE)
python -m train.predict --workdir=DIR_OF_IMAGES_WITH_TEXTS $'FILE\ta text' FILE $'\ta text'
(either may be missing)

Files are read by the code that reads them for training. One that cannot be read is named on
standard error, and the others are labelled.
"""

import argparse
import contextlib
import json
import sys

import jax
import numpy as np

from input_pipeline.errors import shortened
from train import compiling
from train.config import ConfigError
from train.launch import cli
from train.records import files, opening
from train.records.reading import read
from train.setup import build
from train.sharding import put_batch
from train.tasks import bundle_of

EXIT_CODES = (
    "exit codes: 0 everything is labelled; 1 something could not be read, or the model's answer "
    "was no number, and the rest is labelled; 2 a mistake, and nothing is labelled"
)


def main(argv: list[str] | None = None) -> int:
    """Prints each file, text or row with its labels and their probabilities; returns one of
    `EXIT_CODES`."""
    parser = argparse.ArgumentParser(
        prog="python -m train.predict",
        description="Labels images, texts, images with a text, or rows of tables with a trained "
        "model.",
        epilog=EXIT_CODES,
    )
    opening.add_flags(parser, data=False)
    parser.add_argument(
        "--weights",
        type=files.given("--weights"),
        help="a file of train.compress, instead of a checkpoint",
    )
    parser.add_argument("--top", type=int, default=1, help="labels of each")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument(
        "--invert", action="store_true", help="dark on light, for a model trained on light on dark"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE_OR_TEXT",
        help="images or folders of images; for a text classifier, texts (a tab between the two of "
        "a pair), .txt, .tsv or .jsonl files of texts, or - for the lines of standard input; for "
        "one of images with a text, a file, a tab and a text, or one of them; for a classifier of "
        "a table, .csv or .tsv files with named columns, or -",
    )
    args = parser.parse_args(argv)
    if args.top < 1 or args.batch_size < 1:
        parser.error("--top and --batch_size must be at least 1")
    config, card = opening.read(args)
    show = bundle_of(config).show
    if show is None:
        raise ConfigError(
            f"{args.workdir} is of a run with config.task = {config.task!r}, which knows "
            "no labels; python -m train.generate --help says what it can draw"
        )
    kind = card.named
    names, arrays, broken = read(args.inputs, config, card, args.invert)
    unanswered = 0
    if names:
        size = (
            -(-min(args.batch_size, max(64, len(names))) // jax.device_count()) * jax.device_count()
        )
        with contextlib.ExitStack() as stack:
            run, state = opening.opened(
                build(config, card=card), args.workdir, args.step, args.weights, stack
            )
            step = compiling.compile_predict_step(run, size)
        for start in range(0, len(names), size):
            chunk = {k: x[start : start + size] for k, x in arrays.items()}
            padded = {
                k: np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1))
                for k, x in chunk.items()
            }
            answers = jax.device_get(step(state, put_batch(padded, run.mesh)))
            for i, name in enumerate(names[start : start + size]):
                answer = jax.tree.map(lambda x, i=i: x[i], answers)
                if not all(np.isfinite(x).all() for x in jax.tree.leaves(answer)):
                    cli.warn(f"skipped {shortened(name, 200)}: the model's answer is not a number")
                    unanswered += 1
                else:
                    found, line = show(run, answer, args.top)
                    print(
                        json.dumps({kind: name} | found) if args.json else f"{_shown(name)}  {line}"
                    )
    if broken:
        total = (
            f"{broken + len(names)} file(s)"
            if "image" in arrays
            else f"{len(args.inputs)} input(s)"
        )
        cli.warn(f"{broken} of {total} could not be read; {len(names)} labelled")
    return 1 if broken or unanswered else 0


def _shown(name: str) -> str:
    """A name that can be printed: that of a file need not be UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


if __name__ == "__main__":
    sys.exit(cli.run(main))
