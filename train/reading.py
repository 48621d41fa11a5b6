"""Inputs given to ``predict`` and ``explain``, read by the code that reads them for training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from input_pipeline import Card, DataError, DatasetCard, ImageTextCard, TableCard, TextCard, decode
from input_pipeline.errors import shortened
from input_pipeline.files import read_text
from input_pipeline.given import given_texts
from input_pipeline.image_file import opened as opened_image
from input_pipeline.table_file import read_table
from input_pipeline.text import text_arrays
from train import cli
from train.config import Config, ConfigError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}

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
