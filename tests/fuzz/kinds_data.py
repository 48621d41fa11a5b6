"""Data: tokenizers, images, tables and lines of text."""

import csv
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from input_pipeline import Decoding, TableCard
from input_pipeline.datasets.local import read_records
from input_pipeline.decode import decode_image
from input_pipeline.features.image import load_image
from input_pipeline.tokenizers import encode, load_tokenizer, train_tokenizer
from tests.fuzz.mutations import Rng, json_mutated, mutated, pick
from tests.fuzz.oracle import Fault, Refused, put, refusing, require_same
from train.config import Config
from train.records import reading

TEXTS = (
    "The cat sat on the mat.",
    "Žlutý kůň, 12 times: naïve café",
    "a  b\tc\nd",
    "[MASK] <|endoftext|>",
    "猫 cat",
)

Directory = dict[str, bytes]
"""Name of a file -> its content."""


def prepare_tokenizers(directory: Path) -> list[Directory]:
    """Directories as transformers' own tokenizers come: with ``tokenizer.json``, and with older
    files alone."""
    words = [text for text in TEXTS for _ in range(3)]
    bpe, pieces = (
        json.loads(train_tokenizer(kind, words, 400).to_str()) for kind in ("bpe", "wordpiece")
    )
    vocabulary, merges = bpe["model"]["vocab"], bpe["model"]["merges"]
    lines = [" ".join(pair) if isinstance(pair, list) else pair for pair in merges]
    gpt2 = {
        "vocab.json": json.dumps(vocabulary).encode(),
        "merges.txt": ("#version: 0.2\n" + "\n".join(lines) + "\n").encode(),
        "tokenizer_config.json": b'{"tokenizer_class": "GPT2Tokenizer", "model_max_length": 64}',
        "added_tokens.json": json.dumps({"<extra>": len(vocabulary)}).encode(),
    }
    bert = {
        "vocab.txt": (
            "\n".join(sorted(pieces["model"]["vocab"], key=pieces["model"]["vocab"].get)) + "\n"
        ).encode(),
        "tokenizer_config.json": b'{"tokenizer_class": "BertTokenizer", "do_lower_case": false, "strip_accents": true}',
        "special_tokens_map.json": b'{"unk_token": "[UNK]", "sep_token": "[SEP]", "cls_token": "[CLS]"}',
    }
    found = [{"tokenizer.json": json.dumps(one).encode()} for one in (bpe, pieces)] + [
        gpt2,
        bert,
        _sentencepiece(),
    ]
    for i, files in enumerate(found):
        place = directory / str(i)
        place.mkdir()
        for name, content in files.items():
            put(place, name, content)
        _require_tokens(place, load_tokenizer(place))
    return found


def _sentencepiece() -> Directory:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
    )
    return {
        "spiece.model": model.getvalue(),
        "tokenizer_config.json": b'{"tokenizer_class": "T5Tokenizer"}',
    }


def tokenizers(context: list[Directory], rng: Rng, place: Path) -> None:
    """Texts have the tokens that transformers gives them by the same files."""
    chosen = pick(rng, context)
    name = pick(rng, sorted(chosen))
    content = chosen[name]
    other = pick(rng, [files[x] for files in context for x in files])
    structured = name.endswith(".json") and rng.integers(2)
    changed = json_mutated(rng, content) if structured else mutated(rng, content, other)
    for file, healthy in chosen.items():
        put(place, file, changed if file == name else healthy)
    with refusing():
        tokenizer = load_tokenizer(place)
    _require_tokens(place, tokenizer)


def _require_tokens(place: Path, tokenizer: Tokenizer) -> None:
    found = []
    for text in TEXTS:
        with refusing():
            found.append(encode(tokenizer, text, source="the text").tolist())
    try:
        if (place / "tokenizer.json").exists():
            theirs = Tokenizer.from_file(str(place / "tokenizer.json"))
            theirs.no_padding()
            theirs.no_truncation()
            expected = [theirs.encode(text, add_special_tokens=False).ids for text in TEXTS]
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = AutoTokenizer.from_pretrained(place)
            expected = [theirs.encode(text, add_special_tokens=False) for text in TEXTS]
    except Exception:  # they take less
        return
    require_same(found, expected, "tokens")


def prepare_images(directory: Path) -> list[tuple[str, bytes]]:
    """Small files of all formats and kinds of pixels."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (12, 9, 4), np.uint8)
    rgba, rgb, grey = (
        Image.fromarray(colour),
        Image.fromarray(colour[..., :3]),
        Image.fromarray(colour[..., 0]),
    )
    palette = rgb.quantize(16)
    sixteen = Image.fromarray(colour[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []

    def add(image: Image.Image, kind: str, **options: Any) -> None:
        file = io.BytesIO()
        image.save(file, kind, **options)
        found.append((kind.lower(), file.getvalue()))

    for image in (rgba, rgb, grey, palette, sixteen, rgba.convert("LA"), grey.convert("1")):
        add(image, "PNG")
    add(palette, "PNG", transparency=3)
    add(rgb, "PNG", exif=exif)
    for image in (rgb, grey, rgb.convert("CMYK")):
        add(image, "JPEG", quality=90)
    add(rgb, "JPEG", exif=exif, progressive=True)
    add(palette, "GIF")
    add(palette, "GIF", save_all=True, append_images=[palette.rotate(90)], transparency=2)
    add(rgb, "BMP")
    add(palette, "BMP")
    for image in (rgb, grey, sixteen, rgba):
        add(image, "TIFF", compression="tiff_lzw")
    add(Image.fromarray(colour[..., 0].astype(np.float32) / 255), "TIFF")
    add(rgb, "WEBP", lossless=True)
    add(rgba, "WEBP")
    add(rgb, "PPM")
    for _, content in found:
        _require_pixels(directory / "healthy", content, pick(rng, (1, 3, 4)))
    return found


def images(context: list[tuple[str, bytes]], rng: Rng, place: Path) -> None:
    """Training and prediction read the same pixels, and they are those that Pillow decodes."""
    (_, content), (_, other) = pick(rng, context), pick(rng, context)
    _require_pixels(place / "image", mutated(rng, content, other), pick(rng, (1, 3, 4)))


def _require_pixels(path: Path, content: bytes, channels: int) -> None:
    path.write_bytes(content)
    with warnings.catch_warnings(), refusing():
        warnings.simplefilter("ignore")
        trained = decode_image(content, channels, Decoding())
    height, width = trained.shape[:2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predicted = load_image(path, (height, width, channels))
        expected = _pixels(content, channels)
    if not np.array_equal(trained, predicted):
        raise Fault("training and prediction read other pixels")
    if expected.shape != trained.shape or not np.array_equal(expected, trained):
        raise Fault(f"accepted with changed pixels: {trained.shape}, right {expected.shape}")


def _pixels(content: bytes, channels: int) -> np.ndarray:
    """By Pillow's own functions: upright, grey of 16 bits and floating point scaled, on white."""
    image = Image.open(io.BytesIO(content))
    few_bits = image.format == "PNG" and image.tile and {"L;2": 85, "L;4": 17}.get(image.tile[0][3])
    key = image.info.get("transparency")
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:
        pass  # as it lies, then
    if few_bits and key is not None:
        image.info["transparency"] = key * few_bits
    if image.mode == "F":
        image = Image.fromarray(np.rint(np.asarray(image) * np.float32(255)).astype(np.uint8))
    elif image.mode.startswith("I"):
        numbers = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((numbers + 128) // 257).astype(np.uint8))
        if isinstance(key, int):
            image.putalpha(Image.fromarray(np.where(numbers == key, 0, 255).astype(np.uint8)))
    if image.mode == "LAB":
        image = image.convert("RGB")
    if image.has_transparency_data and channels < 4:
        image = image.convert("RGBA")
        image = Image.composite(
            image.convert("RGB"), Image.new("RGB", image.size, "white"), image.getchannel("A")
        )
    pixels = np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


COLUMNS = ("height", "width", "depth of it")
CARD = TableCard("table", "1.0.0", {"train": 3}, COLUMNS, ("no", "yes"), (0.0,) * 3, (1.0,) * 3, "")


def prepare_rows(directory: Path) -> list[tuple[str, bytes]]:
    """A CSV file and others by tabs and semicolons; lines of JSON and of texts by tabs."""
    rows = [
        ["id", *COLUMNS, "note"],
        ["1", "0.5", "-1e3", "7", "plain"],
        ["2", "3", " 4.25", ".5", 'a "quoted, one"\nx'],
    ]
    rows += [[str(i), str(i / 8), str(-i), f"{i}e-2", "n"] for i in range(3, 9)]
    found = []
    for suffix, separator in (("csv", ","), ("csv", ";"), ("csv", "\t")):
        file = io.StringIO(newline="")
        csv.writer(file, delimiter=separator).writerows(rows)
        found.append((suffix, file.getvalue().encode()))
    found.append(("csv", b"\xef\xbb\xbf" + found[0][1]))
    labelled = [
        {"text": f"text {i}, é\u2028{i}", "label": "ab"[i % 2], "more": i} for i in range(6)
    ]
    found.append(
        (
            "jsonl",
            "".join(
                json.dumps(x, ensure_ascii=bool(i % 2)) + "\n" for i, x in enumerate(labelled)
            ).encode(),
        )
    )
    found.append(("tsv", "".join(f"{x['text']}\t{x['label']}\n" for x in labelled).encode()))
    found.append(
        (
            "tsv",
            ("text\tlabel\n" + "".join(f"{x['text']}\t{x['label']}\n" for x in labelled)).encode(),
        )
    )
    for suffix, content in found:
        _require_rows(put(directory, f"healthy.{suffix}", content), content)
    return found


def rows(context: list[tuple[str, bytes]], rng: Rng, place: Path) -> None:
    """Numbers and texts are those of the csv and json modules; a row that is none is refused."""
    suffix, content = pick(rng, context)
    other = pick(rng, [x for kind, x in context if kind == suffix])
    if suffix == "jsonl" and rng.integers(2):
        lines = content.split(b"\n")
        i = int(rng.integers(len(lines) - 1))
        changed = b"\n".join([*lines[:i], json_mutated(rng, lines[i]), *lines[i + 1 :]])
    else:
        changed = mutated(rng, content, other)
    _require_rows(put(place, f"train.{suffix}", changed), changed)


def _require_rows(path: Path, content: bytes) -> None:
    if path.suffix == ".csv":
        with refusing():
            _, arrays, *broken = reading.read([str(path)], Config(), CARD, False)
        if broken and broken[0]:
            raise Refused
        expected = _numbers(content.decode("utf-8-sig"))
        if not np.isfinite(arrays["features"]).all() or not np.array_equal(
            arrays["features"], expected
        ):
            require_same(arrays["features"].tolist(), expected.tolist(), "numbers")
        return
    with refusing():
        found = [record for _, record in read_records(path, ("text", "label"))]
    text = content.decode("utf-8-sig").replace("\r\n", "\n")
    lines = [line for line in text.split("\n") if line.strip() or "\t" in line]
    if path.suffix == ".jsonl":
        expected = [{k: json.loads(line)[k] for k in ("text", "label")} for line in lines]
        expected = [{k: str(v) if type(v) is int else v for k, v in x.items()} for x in expected]
    else:
        cells = [line.split("\t") for line in lines]
        order = ["text", "label"]
        if (
            cells
            and text.startswith(lines[0])
            and set(order) <= {x.strip().lower() for x in cells[0]}
        ):
            order = [x.strip().lower() for x in cells.pop(0)]
        expected = [{k: x[order.index(k)] for k in ("text", "label")} for x in cells]
    require_same(found, [x | {"label": x["label"].strip()} for x in expected], "records")


def _numbers(text: str) -> np.ndarray:
    """Numbers of the named columns, with the separator that gives all of them."""
    for separator in ",\t;":
        table = [
            row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row
        ]
        if set(COLUMNS) <= set(table[0]):
            places = [table[0].index(name) for name in COLUMNS]
            return np.array([[float(row[i]) for i in places] for row in table[1:]], np.float32)
    raise Fault("accepted without its columns")
