"""Labels images, texts, images with a text, or rows of tables; a run with objective regression
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from input_pipeline import Card, DataError, DatasetCard, ImageTextCard, TableCard, TextCard, decode
from input_pipeline.errors import shortened
from input_pipeline.files import read_text
from input_pipeline.given import given_texts
from input_pipeline.image_file import opened as opened_image
from input_pipeline.table_file import read_table
from input_pipeline.text import text_arrays
from train import cli, files
from train.config import Config, ConfigError
from train.evaluate import for_this_machine, opened
from train.setup import build
from train.sharding import put_batch
from train.workdir import read_card, read_config

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}

EXIT_CODES = (
    "exit codes: 0 everything is labelled; 1 something could not be read, or the model's answer "
    "was no number, and the rest is labelled; 2 a mistake, and nothing is labelled"
)

T = TypeVar("T")


def load_image(
    path: Path,
    shape: tuple[int, ...],
    *,
    resize_size: int | None = None,
    invert: bool = False,
    notice: Callable[[str], None] = lambda text: None,
) -> np.ndarray:
    """Reads an image file as uint8 [h, w, c], as the data pipeline does: shorter side resized,
    centre cropped.

    Args:
      path: of the file.
      shape: (h, w, c).
      resize_size: see :class:`input_pipeline.Decoding`.
      invert: white becomes black.
      notice: see :func:`input_pipeline.image_file.opened`.

    Raises:
      DataError: missing, unreadable or broken file, in one line.
    """
    height, width, channels = shape
    try:
        with opened_image(path, channels, notice) as image:
            pixels = np.asarray(decode.fit(image, (width, height), resize_size), np.uint8)
    except DataError as e:
        raise DataError(f"{shortened(path, 200)}: {e}") from e
    pixels = pixels.reshape(height, width, channels)
    return 255 - pixels if invert else pixels


def expand(paths: list[Path]) -> list[Path]:
    """Files as given, and of folders everything with an image suffix that is no folder, by name."""
    found = []
    for path in paths:
        if _is_dir(path):
            found += sorted(
                p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not _is_dir(p)
            )
        else:
            found.append(path)
    return found


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long a name
        return False


def main(argv: list[str] | None = None) -> int:
    """Prints each file, text or row with its labels and their probabilities; returns one of
    `EXIT_CODES`."""
    parser = argparse.ArgumentParser(
        prog="python -m train.predict",
        description="Labels images, texts, images with a text, or rows of tables with a trained "
        "model.",
        epilog=EXIT_CODES,
    )
    parser.add_argument(
        "--workdir", type=files.given("--workdir"), required=True, help="workdir of a run"
    )
    parser.add_argument(
        "--step", default="last", help='checkpoint: "last" (default), "best" or a number'
    )
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
    config, card = for_this_machine(read_config(args.workdir)), read_card(args.workdir)
    if config.objective not in ("classification", "regression"):
        raise ConfigError(
            f"{args.workdir} is of a run with config.objective = {config.objective!r}, which knows "
            "no labels; python -m train.generate --help says what it can draw"
        )
    kind = {TextCard: "text", TableCard: "row", ImageTextCard: "example", DatasetCard: "file"}[
        type(card)
    ]
    names, arrays, broken = read(args.inputs, config, card, args.invert)
    unanswered = 0
    if names:
        size = (
            -(-min(args.batch_size, max(64, len(names))) // jax.device_count()) * jax.device_count()
        )
        with contextlib.ExitStack() as stack:
            run, state = opened(
                build(config, card=card), args.workdir, args.step, args.weights, stack
            )
            step = run.compile_predict_step(size)
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
                elif config.objective == "regression":
                    value = float(answer[0])
                    print(
                        json.dumps({kind: name, "value": value})
                        if args.json
                        else f"{_shown(name)}  {value:.4f}"
                    )
                else:
                    row = {task: answer[task] for task in config.tasks.labels} or answer
                    _print(kind, name, row, card.label_names, args.top, args.json)
    if broken:
        total = (
            f"{broken + len(names)} file(s)"
            if "image" in arrays
            else f"{len(args.inputs)} input(s)"
        )
        cli.warn(f"{broken} of {total} could not be read; {len(names)} labelled")
    return 1 if broken or unanswered else 0


def read(
    inputs: list[str], config: Config, card: Card, invert: bool
) -> tuple[list[str], dict[str, np.ndarray], int]:
    """Names of examples that a person gives, their arrays as a batch as loaded has them, and how
    many are unreadable.

    Labels are 0, which nobody looks at, and weights 1.

    Raises:
      DataError: the only text, or file of texts or rows, that is given cannot be read.
    """
    broken = 0
    if isinstance(card, TextCard):
        names, arrays, broken = read_texts(inputs, card)
    elif isinstance(card, TableCard):
        names, arrays, broken = read_rows(inputs, card)
    elif isinstance(card, ImageTextCard):
        names, arrays, broken = read_pairs(inputs, config, card, invert)
    else:
        names, arrays, broken = read_images([Path(x) for x in inputs], config, card, invert)
    shapes = card.shapes(len(names), card.lengths[-1])
    rest = {
        k: np.zeros(*v) if k != "weight" else np.ones(*v)
        for k, v in shapes.items()
        if k not in arrays
    }
    return names, arrays | rest, broken


def _readable(
    inputs: Sequence[T], load: Callable[[T], Any], *, several: bool = False
) -> tuple[list[T], list[Any], int]:
    """Those that can be read, what they hold, and the number of those that cannot, each with a
    warning.

    Args:
      inputs: what the user gave.
      load: of one of them; raises DataError.
      several: one that is given alone is warned of, too, and raises no error.
    """
    if len(inputs) == 1 and not several:
        return [*inputs], [load(inputs[0])], 0
    good, found = [], []
    for one in inputs:
        try:
            found.append(load(one))
            good.append(one)
        except DataError as e:
            cli.warn(f"skipped {e}")
    return good, found, len(inputs) - len(good)


def read_pairs(
    words: list[str], config: Config, card: ImageTextCard, invert: bool
) -> tuple[list[str], dict[str, np.ndarray], int]:
    """Of an image file, a tab and a text each, or of one of them; unreadable files as
    :func:`read_images` has them."""

    def image(word: str) -> np.ndarray:
        file = word.partition("\t")[0]
        return (
            read_image(Path(file), config, card, invert)
            if file
            else np.zeros(card.image_shape, np.uint8)
        )

    good, images, broken = _readable(words, image, several=True)
    arrays = {}
    if good:
        pairs = [word.partition("\t")[::2] for word in good]
        arrays = _text_arrays([(text,) for _, text in pairs], card.text)
        arrays["image"] = np.stack(images)
        arrays["present"] = np.array([[bool(file), bool(text.strip())] for file, text in pairs])
    return [" ".join(word.split("\t")).strip() for word in good], arrays, broken


def read_image(
    path: Path, config: Config, card: DatasetCard | ImageTextCard, invert: bool
) -> np.ndarray:
    """See :func:`load_image`; as a run reads it."""

    def notice(text: str) -> None:
        cli.warn(f"{shortened(path, 200)} {text}")

    return load_image(
        path, card.image_shape, resize_size=config.data.resize_size, invert=invert, notice=notice
    )


def read_images(
    paths: list[Path], config: Config, card: DatasetCard, invert: bool
) -> tuple[list[str], dict[str, np.ndarray], int]:
    """Names of the files that can be read, their pixels, and the number of those that cannot, each
    with a warning."""
    files = expand(paths)
    if not files:
        raise ConfigError(
            f"no image files in {shortened(', '.join(map(str, paths)), 200)}; suffixes: "
            f"{' '.join(sorted(SUFFIXES))}"
        )
    good, images, broken = _readable(
        files, lambda path: read_image(path, config, card, invert), several=True
    )
    return [*map(str, good)], {"image": np.stack(images)} if images else {}, broken


def read_texts(words: list[str], card: TextCard) -> tuple[list[str], dict[str, np.ndarray], int]:
    """Texts as given (see :func:`given_texts`), their tokens, and how many words are no texts and
    no files of texts.

    Longer texts than the model takes are cut.
    """

    def texts(word: str) -> list[tuple[str, ...]]:
        return given_texts([word], card.texts, cli.stdin_lines, warn=cli.warn)

    _, found, broken = _readable(words, texts)
    rows = [parts for texts in found for parts in texts]
    return ["\t".join(parts) for parts in rows], _text_arrays(rows, card) if rows else {}, broken


def _text_arrays(texts: list[tuple[str, ...]], card: TextCard) -> dict[str, np.ndarray]:
    arrays, cut = text_arrays(texts, card)
    if cut:
        cli.warn(f"{cut} of {len(texts)} text(s) are longer than {card.max_len} tokens and are cut")
    return arrays


def read_rows(paths: list[str], card: TableCard) -> tuple[list[str], dict[str, np.ndarray], int]:
    """FILE:LINE and numbers of each row of files that can be read (see :func:`read_table`), and how
    many cannot."""

    def table(path: str) -> tuple[list[int], np.ndarray]:
        text = cli.stdin_text() if path == "-" else read_text(Path(path))
        return read_table(text, shortened(path, 200), card.feature_names, card.name)

    good, tables, broken = _readable(paths, table)
    names = [
        f"{path}:{line}" for path, (lines, _) in zip(good, tables, strict=True) for line in lines
    ]
    return (
        names,
        {"features": np.concatenate([rows for _, rows in tables])} if tables else {},
        broken,
    )


def class_name(names: tuple[str, ...], number: int) -> str:
    """Of a class: its number where there are fewer names."""
    return names[number] if number < len(names) else str(number)


def _shown(name: str) -> str:
    """A name that can be printed: that of a file need not be UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _print(
    kind: str, name: str, probabilities: Any, names: tuple[str, ...], top: int, as_json: bool
) -> None:
    """One line; of several tasks, whose probabilities come by name, only those of the task label
    have named classes."""

    def best(values: np.ndarray, names: tuple[str, ...]) -> list[dict[str, Any]]:
        order = np.argsort(-values, kind="stable")[:top]
        return [
            {"label": class_name(names, int(i)), "probability": float(values[i])} for i in order
        ]

    def text(labels: list[dict[str, Any]]) -> str:
        return "  ".join(f"{x['label']} {x['probability']:.4f}" for x in labels)

    if isinstance(probabilities, dict):
        tasks = {
            task: best(x, names if task == "label" else ()) for task, x in probabilities.items()
        }
        found, line = (
            {"tasks": tasks},
            "  ".join(f"{task}: {text(labels)}" for task, labels in tasks.items()),
        )
    else:
        labels = best(probabilities, names)
        found, line = {"labels": labels}, text(labels)
    print(json.dumps({kind: name} | found) if as_json else f"{_shown(name)}  {line}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
