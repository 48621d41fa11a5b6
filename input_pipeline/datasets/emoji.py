"""Emoji: pictures drawn from a colour font, with their Unicode names, by group."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.features
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageFont

from input_pipeline.datasets import local
from input_pipeline.datasets.builder import RawBuilder, encode_png
from input_pipeline.errors import DataError
from input_pipeline.files import lines_of, read_text

GROUPS = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)

GIVE_AWAY = frozenset(
    # what the groups are called
    "smiley smileys emotion people person body animal animals nature food drink travel place "
    "places activity activities object objects symbol symbols flag flags "
    # what only one of them is named with: kinds of people, and what Symbols, Smileys and People are
    # called in a row
    "man men woman women face button keycap sign mark skin tone light medium dark hair".split()
)
"""Words that are left out of ``text`` because they tell the group without telling what is seen."""

FONT, NAMES = "NotoColorEmoji.ttf", "emoji-test.txt"
SYSTEM_FILES = {
    FONT: Path("/usr/share/fonts/truetype/noto") / FONT,
    NAMES: Path("/usr/share/unicode/emoji") / NAMES,
}
_LINE = re.compile(r"([0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[\d.]+ (.+)")
_TONES = range(0x1F3FB, 0x1F400)
_VARIANTS = (0x2640, 0x2642, *range(0x1F9B0, 0x1F9B4))  # female, male; red, curly, white hair, bald
_JOINER, _PRESENTATION = 0x200D, 0xFE0F
_PERSON, _PEOPLE = 0x1F9D1, (0x1F468, 0x1F469, 0x1F9D1)
_PIXELS, _SIZE = 109, 64  # at which the font has its bitmaps; of the images


@dataclasses.dataclass(frozen=True)
class EmojiName:
    """One line of Unicode's emoji-test.txt: its characters, group, subgroup and CLDR short name."""

    emoji: str
    group: str
    subgroup: str
    name: str

    @property
    def text(self) -> str:
        """The name without the words of `GIVE_AWAY`; may be empty."""
        words = re.findall(r"\w+(?:['\u2019]\w+)*", self.name.lower())
        return " ".join(word for word in words if word not in GIVE_AWAY)

    @property
    def key(self) -> str:
        """What variants have in common: all but skin tone, hair, gender and presentation."""
        kept = [ord(c) for c in self.emoji if ord(c) not in _TONES and ord(c) != _PRESENTATION]
        kept = [_PERSON if c in _PEOPLE else c for c in kept]
        pairs = zip([0, *kept], kept, [*kept[1:], 0], strict=False)
        joined = [
            c
            for a, c, b in pairs
            if not (a == _JOINER and c in _VARIANTS) and not (c == _JOINER and b in _VARIANTS)
        ]
        return " ".join(f"{c:X}" for c in joined)

    @property
    def split(self) -> str:
        """Drawn from the key: seven tenths train, one tenth validation, two tenths test."""
        tenth = int(hashlib.sha256(self.key.encode()).hexdigest(), 16) % 10
        return "test" if tenth < 2 else "validation" if tenth < 3 else "train"


class Emoji(RawBuilder, skip_registration=True):
    """Emoji as a colour font draws them, 64 x 64 pixels on white, with their Unicode names; no
    download.

    ``label`` is the Unicode group (9), ``subgroup`` the subgroup, ``name`` the CLDR short name,
    ``text`` the same without the words that give the group away (`GIVE_AWAY`): what is left may be
    nothing. Emoji that differ in skin tone, hair or gender alone are always in the same split,
    which is drawn from what they have in common.

    --config.data.raw_dir names a directory with NotoColorEmoji.ttf and Unicode's emoji-test.txt.
    Debian's packages fonts-noto-color-emoji and unicode-data are found by themselves.
    """

    VERSION = tfds.core.Version("1.0.0")
    ADVICE: ClassVar[str] = "On Debian and Ubuntu: apt install fonts-noto-color-emoji unicode-data"

    @classmethod
    def content_key(cls, raw_dir: Path | None) -> str:
        return local.content_key([*cls._files(raw_dir).values()])

    @classmethod
    def _files(cls, raw_dir: Path | None) -> dict[str, Path]:
        files = SYSTEM_FILES if raw_dir is None else {name: raw_dir / name for name in SYSTEM_FILES}
        missing = [str(path) for path in files.values() if not path.is_file()]
        if missing:
            raise DataError(
                f"emoji needs {' and '.join(SYSTEM_FILES)}: there is no "
                f"{' and no '.join(missing)}. {cls.ADVICE}; elsewhere put them in a directory and "
                "name it with --config.data.raw_dir"
            )
        return files

    def _info(self) -> tfds.core.DatasetInfo:
        names = read_names(self._files(self._raw_dir)[NAMES])
        return tfds.core.DatasetInfo(
            builder=self,
            description="Emoji drawn from a colour font, with their Unicode names and groups.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(_SIZE, _SIZE, 3)),
                    "emoji": tfds.features.Text(),
                    "name": tfds.features.Text(),
                    "text": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=GROUPS),
                    "subgroup": tfds.features.ClassLabel(
                        names=list(dict.fromkeys(n.subgroup for n in names))
                    ),
                }
            ),
            homepage="https://unicode.org/reports/tr51/",
        )

    def _split_generators(self, dl_manager):
        files = self._files(self._raw_dir)
        draw = Drawing(files[FONT])
        names = read_names(files[NAMES])
        drawn = [(name, draw(name.emoji)) for name in names]
        missing = [name.name for name, image in drawn if image is None]
        if missing:
            print(
                f"{files[FONT]} lacks {len(missing)} of {len(names)} emoji, which are left out: "
                f"{', '.join(missing[:3])}, ...",
                file=sys.stderr,
            )
        found = [(name, image) for name, image in drawn if image is not None]
        splits = {
            s: [pair for pair in found if pair[0].split == s]
            for s in ("train", "validation", "test")
        }
        for split, pairs in splits.items():
            if not pairs:
                raise DataError(
                    f"emoji: {files[FONT]} and {files[NAMES]} leave nothing for split {split!r}"
                )
        return {split: self._generate_examples(pairs) for split, pairs in splits.items()}

    def _generate_examples(
        self, pairs: list[tuple[EmojiName, np.ndarray]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (name, image) in enumerate(pairs):
            yield (
                i,
                {
                    "image": encode_png(image),
                    "emoji": name.emoji,
                    "name": name.name,
                    "text": name.text,
                    "label": name.group,
                    "subgroup": name.subgroup,
                },
            )


def read_names(path: Path) -> list[EmojiName]:
    """The fully qualified emoji of Unicode's emoji-test.txt, in its order; components (bare skin
    tones) are no emoji.

    Raises:
        DataError: there are none, a group that is unknown, or a file that is not UTF-8.
    """
    group = subgroup = ""
    found = []
    for line in lines_of(read_text(path)):
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ").strip()
        elif line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ").strip()
        elif match := _LINE.match(line):
            if group not in GROUPS:
                raise DataError(
                    f"{path}: {match[2]!r} is in a group {group!r} that is none of "
                    f"{', '.join(GROUPS)}"
                )
            emoji = "".join(chr(int(code, 16)) for code in match[1].split())
            found.append(EmojiName(emoji, group, subgroup, match[2].strip()))
    if not found:
        raise DataError(f"{path} names no emoji: is it Unicode's emoji-test.txt?")
    return found


class Drawing:
    """Draws emoji with the bitmaps of a colour font.

    Args:
        path: of the font.

    Raises:
        DataError: no such font, or Pillow cannot join the characters of an emoji.
    """

    def __init__(self, path: Path):
        if not PIL.features.check("raqm"):
            raise DataError(
                "emoji of several characters need Pillow with raqm, which needs the library "
                "fribidi: on Debian and Ubuntu, apt install libfribidi0"
            )
        try:
            self._font = ImageFont.truetype(str(path), _PIXELS, layout_engine=ImageFont.Layout.RAQM)
        except OSError as error:
            raise DataError(
                f"{path} is not a font with bitmaps of {_PIXELS} pixels ({error})"
            ) from error
        self._advance = self._font.getlength("\N{GRINNING FACE}")
        # no character: what the font draws for one that it lacks
        self._nothing = self._draw("\U0010ffff")

    def __call__(self, emoji: str) -> np.ndarray | None:
        """Returns uint8 [64, 64, 3], black on white where the font has no colours; None where it
        lacks the emoji."""
        # of a sequence that the font does not have the parts are drawn side by side
        if self._font.getlength(emoji) > 1.5 * self._advance:
            return None
        pixels = self._draw(emoji)
        return None if (pixels == 255).all() or (pixels == self._nothing).all() else pixels

    def _draw(self, text: str) -> np.ndarray:
        left, top, right, bottom = self._font.getbbox(text)
        size = max(1, int(max(right - left, bottom - top)))
        image = Image.new("RGBA", (size, size), "white")
        origin = ((size - right - left) / 2, (size - bottom - top) / 2)
        ImageDraw.Draw(image).text(origin, text, "black", font=self._font, embedded_color=True)
        return np.asarray(image.convert("RGB").resize((_SIZE, _SIZE), Image.Resampling.LANCZOS))
