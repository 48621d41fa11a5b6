"""Prepares a data set and shows what it is: `python -m input_pipeline NAME`."""

from __future__ import annotations

import argparse
import collections
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import tensorflow_datasets as tfds

from input_pipeline.corpus import read_records, split_name, text_of
from input_pipeline.datasets import BUILTIN
from input_pipeline.decode import Decoding
from input_pipeline.errors import DataError, shortened
from input_pipeline.examples import ArrayExamples, RecordExamples, open_examples
from input_pipeline.ids import check_labels
from input_pipeline.loader import describe, make_loader
from input_pipeline.own import describe_own, is_own
from input_pipeline.prepare import open_builder
from input_pipeline.table import TableExamples, describe_table, vector_feature
from input_pipeline.text import text_features

_EXAMPLES, _CLASSES = 10, 20  # columns and rows of the sample sheet
_TILE, _LABEL_WIDTH = 64, 112  # pixels
_BEGINNING = 60  # characters


def sample_sheet(
    examples: ArrayExamples | RecordExamples, label_names: tuple[str, ...]
) -> PIL.Image.Image:
    """Draws the first examples of each class, one class a row (at most 20), the label's name at the
    left."""
    rows = range(min(len(label_names), _CLASSES))
    sheet = PIL.Image.new("RGB", (_LABEL_WIDTH + _EXAMPLES * _TILE, len(rows) * _TILE), "white")
    draw = PIL.ImageDraw.Draw(sheet)
    labels = examples.labels()
    for row in rows:
        draw.text((4, row * _TILE + _TILE // 2 - 6), label_names[row][:18], fill="black")
        indices = np.flatnonzero(labels == row)[:_EXAMPLES]
        for column, pixels in enumerate(examples.gather(indices)[0]):
            tile = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert(
                "RGB"
            )
            resample = (
                PIL.Image.Resampling.NEAREST
                if max(tile.size) < _TILE
                else PIL.Image.Resampling.BILINEAR
            )
            sheet.paste(
                tile.resize((_TILE - 2, _TILE - 2), resample),
                (_LABEL_WIDTH + column * _TILE, row * _TILE),
            )
    return sheet


def images_per_second(args: argparse.Namespace, split: str) -> float:
    """Returns the median speed of the training loader at batch 256 over five runs of about a
    second."""
    dirs = {"data_dir": args.data_dir, "raw_dir": args.raw_dir}
    loader = make_loader(
        args.name, split, batch_size=256, train=True, decoding=Decoding(args.image_size), **dirs
    )
    next(loader)
    speeds = []
    for _ in range(5):
        batches, start = 0, time.perf_counter()
        while time.perf_counter() - start < 1:
            next(loader)
            batches += 1
        speeds.append(256 * batches / (time.perf_counter() - start))
    loader.close()
    return statistics.median(speeds)


def show_text(builder: tfds.core.DatasetBuilder, names: tuple[str, ...]) -> None:
    """Prints the splits of a data set of text, their labels if there are, and how each begins."""
    print(f"{builder.info.full_name}: {', '.join(names)}\nin {builder.data_dir}")
    label = dict(builder.info.features.items()).get("label")
    for split in builder.info.splits:
        labels: list[float] = []
        examples = characters = 0
        first: dict[str, str] = {}
        for record in read_records(builder, split):
            texts = {
                name: text_of(record, name, examples, split_name(builder, split)) for name in names
            }
            first = first or texts
            examples, characters = examples + 1, characters + sum(map(len, texts.values()))
            if label is not None:
                labels.append(float(record["label"]))
        if isinstance(label, tfds.features.ClassLabel):
            check_labels(np.array(labels), label.num_classes, split_name(builder, split))
            counts = collections.Counter(labels)
            said = ", ".join(
                f"{label.int2str(int(i))} {n:,}" for i, n in sorted(counts.items()) if i >= 0
            )
        else:
            said = (
                f"labels {min(labels):g} to {max(labels):g}, mean {np.mean(labels):.4g}"
                if labels
                else ""
            )
        print(
            f"{split}: {examples:,} texts, {characters:,} characters"
            + (f"; {said}" if said else "")
        )
        for name, text in first.items():
            print(f"  {name} begins {text[:_BEGINNING]!r}")


def _range(labels: np.ndarray) -> str:
    return f"labels {labels.min():g} to {labels.max():g}, mean {labels.mean():.4g}"


def show_table(builder: tfds.core.DatasetBuilder, name: str) -> None:
    """Prints the splits of a table with their labels, and its columns with mean and deviation over
    the first split."""
    first = next(iter(builder.info.splits))
    card = describe_table(builder, name, first)
    print(f"{card.summary()}\nin {card.directory}")
    for split in card.splits:
        labels = TableExamples(builder, split).label
        if card.kind("number"):
            print(f"{split}: {len(labels):,} rows; {_range(labels)}")
            continue
        counts = np.bincount(labels, minlength=card.num_classes)
        classes = ", ".join(
            f"{label} {n:,}" for label, n in zip(card.label_names, counts, strict=True)
        )
        print(f"{split}: {counts.sum():,} rows; {classes}")
    row = card.kind("row")
    for column, mean, std in zip(row.feature_names, row.mean, row.std, strict=True):
        print(f"  {column:<24} {mean:.4g} +- {std:.4g} in {first}")


def show(args: argparse.Namespace) -> None:
    """Prints what a data set is, and writes its sample sheet."""
    if is_own(args.name):
        spec = describe_own(args.name)
        print(spec.summary())
        for key, (shape, dtype) in spec.shapes(1, spec.lengths[-1]).items():
            print(f"  {key:<24} {np.dtype(dtype)} {list(shape[1:])}")
        return
    builder = open_builder(args.name, data_dir=args.data_dir, raw_dir=args.raw_dir)
    if texts := text_features(builder):
        show_text(builder, texts)
        return
    if vector_feature(builder) is not None:
        show_table(builder, args.name)
        return
    decoding = Decoding(args.image_size)
    card = describe(args.name, data_dir=args.data_dir, raw_dir=args.raw_dir, decoding=decoding)
    shape = " x ".join(map(str, card.kind("image").image_shape))
    print(
        f"{card.name} {card.version}: images {shape} uint8, {card.num_classes} classes\nin "
        f"{card.directory}"
    )
    splits = {
        split: open_examples(builder, split, decoding, in_memory_bytes=2**31)
        for split in card.splits
    }
    for split, examples in splits.items():
        counts = collections.Counter(examples.labels().tolist())
        per_class = ", ".join(
            f"{card.label_names[label]} {counts[label]}" for label in range(card.num_classes)
        )
        print(f"{split}: {len(examples):,} examples; {per_class}")
    first = "train" if "train" in splits else next(iter(splits))
    file_name = f"{args.name.replace('/', '-').replace(':', '-')}_sheet.png"
    path = Path(
        args.sheet or (file_name if os.access(".", os.W_OK) else Path(card.directory) / file_name)
    )
    try:
        sample_sheet(splits[first], card.label_names).save(path)
    except (OSError, ValueError) as error:  # ValueError: unknown file extension
        raise DataError(
            f"cannot write the sample sheet {path} ({error}): name another file with "
            "--sheet=FILE.png"
        ) from error
    print(f"samples: {path.resolve()}")
    if args.bench:
        print(f"loader: {images_per_second(args, first):,.0f} images/s at batch 256")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    listing = "\n".join(
        f"  {name:14} {(builder.__doc__ or '').splitlines()[0]}"
        for name, builder in BUILTIN.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline",
        description="Prepares a data set and shows its splits, labels and samples, or columns, or "
        "how its text begins.",
        epilog=f"built-in data sets:\n{listing}\nAny set that TFDS has prepared in DATA_DIR works "
        "by its name, too.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "name",
        nargs="?",
        help="a built-in data set, name[/config][:version] of a prepared one, or "
        "package.module:attribute of your own",
    )
    parser.add_argument(
        "--data_dir", help="TFDS root (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)"
    )
    parser.add_argument(
        "--raw_dir", help="directory with the raw files (default: usual places, then download)"
    )
    parser.add_argument("--image_size", type=int, help="resize to this many pixels square")
    parser.add_argument(
        "--sheet", help="where to write the sample sheet (default: ./NAME_sheet.png)"
    )
    parser.add_argument("--bench", action="store_true", help="measure the loader's speed")
    args = parser.parse_args(argv)
    if args.name is None:
        parser.print_help()
        return 0
    # of odd metadata, and of sizes that are refused anyway
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        show(args)
    except DataError as error:
        print(f"error: {shortened(error, 490)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
