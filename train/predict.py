"""Labels images, texts, images with a text, or rows of tables; a run with objective regression gives a number.

python -m train.predict --workdir=DIR FILES_OR_FOLDERS...
python -m train.predict --workdir=DIR_OF_A_TEXT_CLASSIFIER "a text" "another"    (or - < FILE, line by line)
python -m train.predict --workdir=DIR_OF_A_TABLE FILES.csv...    (or - < FILE)
python -m train.predict --workdir=DIR_OF_IMAGES_WITH_TEXTS $'FILE\ta text' FILE $'\ta text'    (either may be missing)
"""

import argparse
import contextlib
import csv
import difflib
import json
import math
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from input_pipeline import Card, DatasetCard, ImageTextCard, TableCard, TextCard, decode
from input_pipeline.text import text_arrays
from train import cli, files
from train.config import Config, ConfigError
from train.evaluate import for_this_machine, opened
from train.setup import build
from train.sharding import put_batch
from train.workdir import read_card, read_config

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def load_image(
    path: Path, shape: tuple[int, ...], *, resize_size: int | None = None, invert: bool = False
) -> np.ndarray:
    """Reads an image file as uint8 [h, w, c], as the data pipeline does: shorter side resized, centre cropped.

    Camera orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits.

    Raises:
      ValueError: missing, unreadable or broken file, in one line.
    """
    height, width, channels = shape
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                image = Image.fromarray((np.asarray(image, np.float64) / 257).clip(0, 255).round().astype(np.uint8))
            if image.has_transparency_data and channels < 4:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            image = decode.fit(image.convert(decode.MODES[channels]), (width, height), resize_size)
            pixels = np.asarray(image, np.uint8).reshape(height, width, channels)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise ValueError(f"{path}: not a readable image ({e or type(e).__name__})") from None
    return 255 - pixels if invert else pixels


def expand(paths: list[Path]) -> list[Path]:
    """Files as given, and of folders every file with an image suffix, by name."""
    found = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        else:
            found.append(path)
    return found


def main(argv: list[str] | None = None) -> int:
    """Prints each file, text or row with its labels and their probabilities.

    Exit code 1 if a file was unreadable; the rest are labelled.
    """
    parser = argparse.ArgumentParser(
        prog="python -m train.predict",
        description="Labels images, texts, images with a text, or rows of tables with a trained model.",
    )
    parser.add_argument("--workdir", type=files.given("--workdir"), required=True, help="workdir of a run")
    parser.add_argument("--step", default="last", help='checkpoint: "last" (default), "best" or a number')
    parser.add_argument(
        "--weights", type=files.given("--weights"), help="a file of train.compress, instead of a checkpoint"
    )
    parser.add_argument("--top", type=int, default=1, help="labels of each")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--invert", action="store_true", help="dark on light, for a model trained on light on dark")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE_OR_TEXT",
        help="images or folders of images; for a text classifier, texts (a tab between the two of a pair), or - for "
        "the lines of standard input; for one of images with a text, a file, a tab and a text, or one of them; for a "
        "classifier of a table, .csv or .tsv files with named columns, or -",
    )
    args = parser.parse_args(argv)
    if args.top < 1 or args.batch_size < 1:
        parser.error("--top and --batch_size must be at least 1")
    config, card = for_this_machine(read_config(args.workdir)), read_card(args.workdir)
    if config.objective not in ("classification", "regression"):
        raise ConfigError(
            f"{args.workdir} is of a run with config.objective = {config.objective!r}, which knows no labels; "
            "python -m train.generate --help says what it can draw"
        )
    kind = {TextCard: "text", TableCard: "row", ImageTextCard: "example", DatasetCard: "file"}[type(card)]
    names, arrays, broken = read(args.inputs, config, card, args.invert)
    if names:
        size = -(-args.batch_size // jax.device_count()) * jax.device_count()
        with contextlib.ExitStack() as stack:
            run, state = opened(build(config, card=card), args.workdir, args.step, args.weights, stack)
            step = run.compile_predict_step(size)
        for start in range(0, len(names), size):
            chunk = {k: x[start : start + size] for k, x in arrays.items()}
            padded = {k: np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1)) for k, x in chunk.items()}
            probabilities = jax.device_get(step(state, put_batch(padded, run.mesh)))
            for i, name in enumerate(names[start : start + size]):
                tasks = config.tasks.labels
                if config.objective == "regression":
                    value = float(probabilities[i, 0])
                    print(json.dumps({kind: name, "value": value}) if args.json else f"{name}  {value:.4f}")
                    continue
                row = {task: probabilities[task][i] for task in tasks} if tasks else probabilities[i]
                _print(kind, name, row, card.label_names, args.top, args.json)
    if broken:
        cli.warn(f"{broken} of {broken + len(names)} file(s) could not be read; {len(names)} labelled")
    return 1 if broken else 0


def read(inputs: list[str], config: Config, card: Card, invert: bool) -> tuple[list[str], dict[str, np.ndarray], int]:
    """Names of examples that a person gives, their arrays as a batch as loaded has them, and how many are unreadable.

    Labels are 0, which nobody looks at, and weights 1.
    """
    broken = 0
    if isinstance(card, TextCard):
        names, arrays = read_texts(inputs, card)
    elif isinstance(card, TableCard):
        names, arrays = read_rows(inputs, card)
    elif isinstance(card, ImageTextCard):
        names, arrays, broken = read_pairs(inputs, config, card, invert)
    else:
        names, arrays, broken = read_images([Path(x) for x in inputs], config, card, invert)
    shapes = card.shapes(len(names), card.lengths[-1])
    rest = {k: np.zeros(*v) if k != "weight" else np.ones(*v) for k, v in shapes.items() if k not in arrays}
    return names, arrays | rest, broken


def read_pairs(
    words: list[str], config: Config, card: ImageTextCard, invert: bool
) -> tuple[list[str], dict[str, np.ndarray], int]:
    """Of an image file, a tab and a text each, or of one of them; unreadable files as :func:`read_images` has them."""
    pairs, images, broken = [], [], 0
    for word in words:
        file, _, text = word.partition("\t")
        try:
            images.append(
                read_image(Path(file), config, card, invert) if file else np.zeros(card.image_shape, np.uint8)
            )
            pairs.append((word, file, text))
        except ValueError as e:
            cli.warn(f"skipped {e}")
            broken += 1
    arrays = {}
    if pairs:
        _, arrays = read_texts([text for _, _, text in pairs], card.text)
        arrays["image"] = np.stack(images)
        arrays["present"] = np.array([[bool(file), bool(text.strip())] for _, file, text in pairs])
    return [" ".join(word.split("\t")).strip() for word, _, _ in pairs], arrays, broken


def read_image(path: Path, config: Config, card: DatasetCard | ImageTextCard, invert: bool) -> np.ndarray:
    """See :func:`load_image`; as a run reads it."""
    return load_image(path, card.image_shape, resize_size=config.data.resize_size, invert=invert)


def read_images(
    paths: list[Path], config: Config, card: DatasetCard, invert: bool
) -> tuple[list[str], dict[str, np.ndarray], int]:
    """Names of the files that can be read, their pixels, and the number of those that cannot, each with a warning."""
    files = expand(paths)
    if not files:
        raise ConfigError(f"no image files in {', '.join(map(str, paths))}; suffixes: {' '.join(sorted(SUFFIXES))}")
    images, good = [], []
    for path in files:
        try:
            images.append(read_image(path, config, card, invert))
            good.append(str(path))
        except ValueError as e:
            cli.warn(f"skipped {e}")
    return good, {"image": np.stack(images)} if images else {}, len(files) - len(good)


def read_texts(words: list[str], card: TextCard) -> tuple[list[str], dict[str, np.ndarray]]:
    """Texts as given, and their tokens; what is longer than the model takes is cut, with a warning."""
    texts = [text for word in words for text in (cli.stdin_lines() if word == "-" else [word])]
    rows = [tuple(text.split("\t")) if len(card.texts) > 1 else (text,) for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if len(row) != len(card.texts):
            raise ConfigError(f"{text!r} has {len(row)} part(s): {' and '.join(card.texts)} go with a tab in between")
    arrays, cut = text_arrays(rows, card)
    if cut:
        cli.warn(f"{cut} of {len(texts)} text(s) are longer than {card.max_len} tokens and are cut")
    return texts, arrays


def read_rows(paths: list[str], card: TableCard) -> tuple[list[str], dict[str, np.ndarray]]:
    """FILE:LINE and numbers of each row of files whose first line names the columns, in any order and among others.

    Raises:
      ConfigError: a file that cannot be read, a column that is missing, or what is not a number.
    """
    names, rows = [], []
    for path in paths:
        try:
            lines = cli.stdin_lines() if path == "-" else Path(path).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"{path} cannot be read: {e}") from e
        reader = csv.DictReader(lines, delimiter="\t" if "\t" in "".join(lines[:1]) else ",")
        there = reader.fieldnames or ()
        missing = [name for name in card.feature_names if name not in there]
        if missing:
            near = difflib.get_close_matches(missing[0], there, n=1)
            raise ConfigError(
                f"{path} lacks {len(missing)} of the {card.num_features} columns of {card.name}, first {missing[0]!r}"
                + (f"; it has {near[0]!r}" if near else "; its first line must name them, as dataset.json does")
            )
        for row in reader:
            names.append(f"{path}:{reader.line_num}")
            rows.append([_number(row[name], f"{names[-1]}, {name!r}") for name in card.feature_names])
    if not rows:
        raise ConfigError(f"no rows in {', '.join(paths)}")
    return names, {"features": np.array(rows, np.float32)}


def _number(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{where}: {text!r} is not a number")
    return value


def class_name(names: tuple[str, ...], number: int) -> str:
    """Of a class: its number where there are fewer names."""
    return names[number] if number < len(names) else str(number)


def _print(kind: str, name: str, probabilities: Any, names: tuple[str, ...], top: int, as_json: bool) -> None:
    """One line; of several tasks, whose probabilities come by name, only those of the task label have named classes."""

    def best(values: np.ndarray, names: tuple[str, ...]) -> list[dict[str, Any]]:
        order = np.argsort(-values, kind="stable")[:top]
        return [{"label": class_name(names, int(i)), "probability": float(values[i])} for i in order]

    def text(labels: list[dict[str, Any]]) -> str:
        return "  ".join(f"{x['label']} {x['probability']:.4f}" for x in labels)

    if isinstance(probabilities, dict):
        tasks = {task: best(x, names if task == "label" else ()) for task, x in probabilities.items()}
        found, line = {"tasks": tasks}, "  ".join(f"{task}: {text(labels)}" for task, labels in tasks.items())
    else:
        labels = best(probabilities, names)
        found, line = {"labels": labels}, text(labels)
    print(json.dumps({kind: name} | found) if as_json else f"{name}  {line}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
