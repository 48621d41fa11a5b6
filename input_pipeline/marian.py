"""Marian's tokenizer: a SentencePiece model cuts the sources, and ``vocab.json`` numbers the pieces
of both languages.

No single ``tokenizers.Tokenizer`` can do this. A piece of ``source.spm`` that ``vocab.json`` lacks
is unknown only after the text was cut. Text unknown to ``source.spm`` may be a piece of
``vocab.json``, from the other language. So the ``sentencepiece`` package cuts the texts, as in the
original: ``MarianTokenizer`` of transformers 5. That joins translations by ``source.spm`` too, so
``target.spm`` must be there and says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer

from input_pipeline import tokenizers
from input_pipeline.errors import DataError
from input_pipeline.sentencepiece_files import parse
from input_pipeline.tokenizer_reading import brief, file_in, read_bytes, read_numbers
from input_pipeline.tokenizer_settings import CLEANED, kind_of, read_settings
from input_pipeline.tokenizers import encode_all, load_tokenizer

FILES = ("source.spm", "target.spm", "vocab.json")


class Marian(NamedTuple):
    """A tokenizer that cuts sources and joins translations.

    ``model``: of SentencePiece; ``numbers``: of pieces; ``pieces``: by number; ``added``: tokens
    that are found in a text before it is cut; ``special``: those that are not written; ``unknown``,
    ``end``, ``pad``: numbers; ``cleaned``: whether no spaces are left before punctuation.
    """

    model: SentencePieceProcessor
    numbers: dict[str, int]
    pieces: dict[int, str]
    added: dict[str, AddedToken]
    special: frozenset[str]
    unknown: int
    end: int
    pad: int
    cleaned: bool


def load(path: Path) -> Tokenizer | Marian:
    """The tokenizer of a translator: Marian's where a directory has its files, else that of
    `load_tokenizer`.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    if path.is_dir() and kind_of(path)[0] in (None, "marian"):
        missing = [name for name in FILES if not file_in(path, name)]
        if not missing:
            return read_marian(path)
        others = any(file_in(path, name) for name in ("tokenizer.json", "merges.txt"))
        if not others and len(missing) < len(FILES):
            raise DataError(
                f"{path} lacks {' and '.join(missing)}: Marian's tokenizer is {', '.join(FILES)}, "
                "or a tokenizer.json"
            )
    return load_tokenizer(path)


def read_marian(directory: Path) -> Marian:
    """The tokenizer of a directory with ``source.spm``, ``target.spm`` and ``vocab.json``.

    Raises:
        DataError: one of them is damaged, or a setting beside them cannot be applied.
    """
    numbers = read_numbers(directory / FILES[2])
    settings = read_settings(directory, "marian")
    added = {token.content: token for token in settings.tokens if token.content in settings.numbers}
    known = numbers | settings.numbers
    # those that no file numbers follow; of their flags the original keeps none
    for token in settings.tokens:
        if token.content not in added:
            known.setdefault(token.content, len(known))
            added[token.content] = AddedToken(token.content, special=True)
    missing = [
        key
        for key in ("unk_token", "eos_token", "pad_token")
        if settings.names.get(key) not in known
    ]
    if missing or settings.names["unk_token"] not in numbers:
        name = missing[0] if missing else "unk_token"
        raise DataError(
            f"{directory / FILES[2]} has no number for {name} {brief(settings.names.get(name))}"
        )
    pieces = {number: token for token, number in known.items()}
    if len(pieces) < len(known):
        raise DataError(f"{directory}: an added token has the number of another token")
    special = settings.extra | {*settings.names.values()}
    unknown, end, pad = (
        known[settings.names[key]] for key in ("unk_token", "eos_token", "pad_token")
    )
    cleaned = bool(settings.config.get("clean_up_tokenization_spaces"))
    return Marian(
        _model(directory / FILES[0]), known, pieces, added, special, unknown, end, pad, cleaned
    )


def _model(file: Path) -> SentencePieceProcessor:
    parse(file)
    try:
        return SentencePieceProcessor(model_proto=read_bytes(file))
    except RuntimeError as error:
        raise DataError(f"{file} is no SentencePiece model: {brief(error)}") from error


def vocabulary_size(tokenizer: Tokenizer | Marian) -> int:
    """One more than the greatest number of a token."""
    return (
        max(tokenizer.pieces) + 1
        if isinstance(tokenizer, Marian)
        else tokenizers.vocabulary_size(tokenizer)
    )


def ends(tokenizer: Tokenizer | Marian, source: str) -> tuple[int, int]:
    """The tokens that a translation begins and ends with.

    Raises:
        DataError: see `input_pipeline.tokenizers.sentence_ends`.
    """
    if isinstance(tokenizer, Marian):
        return tokenizer.pad, tokenizer.end
    return tokenizers.sentence_ends(tokenizer, source)


def source_tokens(
    tokenizer: Tokenizer | Marian, texts: Sequence[str], *, source: str
) -> list[list[int]]:
    """Tokens of texts that are to be translated, without the end token.

    Raises:
        DataError: see `input_pipeline.tokenizers.encode`.
    """
    if isinstance(tokenizer, Marian):
        return [_encode(tokenizer, text) for text in texts]
    return [encoding.ids for encoding in encode_all(tokenizer, texts, special=False, source=source)]


def _encode(tokenizer: Marian, text: str) -> list[int]:
    found: list[str] = []
    for part in _parts(tokenizer, text):
        if part in tokenizer.added:
            found.append(part)
        elif part:
            code = re.match(r">>[\s\S]*?<<", part)  # the language to translate into
            found += [code[0]] if code else []
            found += tokenizer.model.encode(part[code.end() :] if code else part, out_type=str)
    return [tokenizer.numbers.get(piece, tokenizer.unknown) for piece in found]


def _parts(tokenizer: Marian, text: str) -> list[str]:
    """The text, cut where added tokens stand in it."""
    longest_first = sorted(tokenizer.added, key=len, reverse=True)
    parts = [
        part for part in re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if part
    ]
    for i, part in enumerate(parts):
        token = tokenizer.added.get(part)
        if token is None:
            continue
        before, behind = parts[i - 1] if i else "", parts[i + 1] if i + 1 < len(parts) else ""
        if token.rstrip and behind:
            parts[i + 1] = behind.lstrip()
        if token.lstrip and before:
            parts[i - 1] = before.rstrip()
        if token.single_word and before and before[-1] != " ":
            parts[i - 1 : i + 1] = [parts[i - 1] + part, ""]
        elif token.single_word and behind and behind[0] != " ":
            parts[i : i + 2] = ["", part + parts[i + 1]]
    return parts


def written(tokenizer: Tokenizer | Marian, tokens: Sequence[int]) -> str:
    """The text of a translation's tokens, without special ones."""
    if not isinstance(tokenizer, Marian):
        return tokenizer.decode(tokens)
    pieces = [tokenizer.pieces.get(token) or _beyond(tokenizer.model, token) for token in tokens]
    text = tokenizer.model.decode_pieces(
        [piece for piece in pieces if piece not in tokenizer.special]
    )
    text = text.replace("▁", " ").strip()
    for old, new in CLEANED if tokenizer.cleaned else ():
        text = text.replace(old, new)
    return text


def _beyond(model: SentencePieceProcessor, token: int) -> str:
    return model.id_to_piece(token) if token < len(model) else ""
