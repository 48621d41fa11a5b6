"""Sentence pairs from LibreOffice's help, which there is in dozens of languages: real parallel text
of a few megabytes.

python -m input_pipeline.help_pairs HELP OUT --source=en-US --target=zh-CN

HELP holds a directory for each language: Debian's packages libreoffice-help-en-us,
libreoffice-help-zh-cn, ... have it at usr/share/libreoffice/help (``apt-get download`` and
``dpkg -x`` get it without installing them). OUT gets train.tsv, valid.tsv and test.tsv for the data
set ``text_pairs``.
"""

from __future__ import annotations

import argparse
import html
import random
import re
import sys
from collections import Counter
from pathlib import Path

ELEMENT = re.compile(r'<(p|h[1-6]) id="((?:par|hd)_[^"]*)"[^>]*>(.*?)</\1>', re.DOTALL)
MOST_CHARACTERS = 200
HELD_OUT = 500  # pairs in each of valid and test

Pair = tuple[str, str]


def read_page(path: Path) -> tuple[dict[str, str], Counter[str]]:
    """Text of each element by its id, without ids that stand for several texts; and how many are
    skipped, by reason."""
    found: dict[str, set[str]] = {}
    skipped: Counter[str] = Counter()
    for _, name, inner in ELEMENT.findall(path.read_text(encoding="utf-8")):
        if "switchinline" in inner:
            skipped['with alternatives side by side ("Ctrl", "Command")'] += 1
            continue
        text = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<br\b[^>]*>", " ", inner)))
        found.setdefault(name, set()).add(" ".join(text.split()))
    one = {name: texts.pop() for name, texts in found.items() if len(texts) == 1}
    skipped["whose id stands for several texts"] += len(found) - len(one)
    return one, skipped


def page_pairs(source: Path, target: Path) -> tuple[list[Pair], Counter[str]]:
    """Elements of one page in both languages; not empty or long ones, nor what is the same, not
    being translated.

    And how many of the source's are skipped, by reason.
    """
    (ours, skipped), (theirs, _) = read_page(source), read_page(target)
    pairs = []
    for name, text in ours.items():
        other = theirs.get(name)
        if other is None:
            skipped["without a counterpart"] += 1
        elif not (text and other):
            skipped["without text"] += 1
        elif text == other:
            skipped["the same in both languages"] += 1
        elif max(len(text), len(other)) > MOST_CHARACTERS:
            skipped[f"longer than {MOST_CHARACTERS} characters"] += 1
        else:
            pairs.append((text, other))
    return pairs, skipped


def make_pairs(source: Path, target: Path) -> tuple[dict[str, list[Pair]], Counter[str]]:
    """Pairs of each split: pages are in one of them, and no source of valid or test is in train.

    And how many elements of the pages that both languages have are in none, by reason.
    """
    shuffle = random.Random(0).shuffle
    pages = sorted(
        path.relative_to(source)
        for path in source.rglob("*.html")
        if (target / path.relative_to(source)).is_file()
    )
    shuffle(pages)
    splits: dict[str, list[Pair]] = {"test": [], "valid": [], "train": []}
    seen: set[Pair] = set()
    skipped: Counter[str] = Counter()
    for page in pages:
        split = next((name for name in ("test", "valid") if len(splits[name]) < HELD_OUT), "train")
        pairs, reasons = page_pairs(source / page, target / page)
        new = [pair for pair in dict.fromkeys(pairs) if pair not in seen]
        skipped += reasons + Counter({"that are there already": len(pairs) - len(new)})
        seen.update(new)
        splits[split] += new
    held_out = {a for split in ("test", "valid") for a, _ in splits[split]}
    apart = [(a, b) for a, b in splits["train"] if a not in held_out]
    skipped["of training whose source is held out"] += len(splits["train"]) - len(apart)
    splits["train"] = apart
    for name, pairs in splits.items():
        shuffle(pairs)
        splits[name] = pairs if name == "train" else pairs[:HELD_OUT]
        skipped[f"held out beyond {HELD_OUT} of a split"] += len(pairs) - len(splits[name])
    return splits, +skipped


def main(argv: list[str] | None = None) -> int:
    """Writes the pairs."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.help_pairs", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("help", type=Path, metavar="HELP")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--source", default="en-US", help="a directory of HELP (en-US)")
    parser.add_argument("--target", default="zh-CN", help="another (zh-CN)")
    args = parser.parse_args(argv)
    there = sorted(path.name for path in args.help.glob("*") if path.is_dir())
    for language in (args.source, args.target):
        if language not in there:
            parser.error(
                f"{args.help} has no directory {language}; it has {', '.join(there) or 'none'}"
            )
    splits, skipped = make_pairs(args.help / args.source, args.help / args.target)
    if not splits["train"]:
        parser.error(f"{args.help} has too few pairs: {sum(map(len, splits.values()))}")
    args.out.mkdir(parents=True, exist_ok=True)
    for split, pairs in splits.items():
        text = "".join(f"{a}\t{b}\n" for a, b in pairs)
        (args.out / f"{split}.tsv").write_text(text, encoding="utf-8", newline="")
    print(
        f"{args.out}: " + ", ".join(f"{split} {len(pairs):,}" for split, pairs in splits.items()),
        file=sys.stderr,
    )
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.most_common())
    print(
        f"{skipped.total():,} elements are skipped" + (f": {reasons}" if reasons else ""),
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
