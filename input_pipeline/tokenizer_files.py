"""Tokenizers from published files: ``tokenizer.json``, BERT's ``vocab.txt``, GPT-2's vocabulary and
merges.

Each gives the tokens that transformers 5 gives for the directory. References: its
``BertTokenizer``, ``GPT2Tokenizer``, ``RobertaTokenizer`` and ``TokenizersBackend``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from input_pipeline import sentencepiece_files
from input_pipeline.errors import DataError
from input_pipeline.tokenizer_reading import brief, file_in, guarded, read_numbers, read_text
from input_pipeline.tokenizer_settings import (
    OWN_KEYS,
    Settings,
    add_tokens,
    clean_up,
    flag,
    kind_of,
    read_settings,
    template,
)

_PAIRS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
_ENDS = {
    "bert": ("cls_token", "sep_token"),
    "roberta": ("cls_token", "sep_token"),
    "gpt2": ("bos_token", "eos_token"),
}


def read_tokenizer(path: Path) -> Tokenizer | None:
    """The tokenizer of a file or a directory; None where there is none.

    Raises:
        DataError: it cannot be read, or something beside it cannot be applied.
    """
    directory = path if path.is_dir() else path.parent
    wanted = None if path.is_dir() else path.name
    if wanted in (None, "tokenizer.json") and file_in(directory, "tokenizer.json"):
        if wanted is None and file_in(directory, "tokenizer_config.json"):
            return _with_settings(directory / "tokenizer.json")
        return unpadded(directory / "tokenizer.json")
    if not path.exists():
        return None
    if wanted and path.suffix == ".json" and not any(wanted in pair for pair in _PAIRS):
        return unpadded(path)
    kind, name = kind_of(directory)
    found = sentencepiece_files.find(directory, wanted, kind)
    if found:
        return sentencepiece_files.read(found, kind, name)
    for pair in _PAIRS:
        if wanted in (None, *pair) and all(file_in(directory, part) for part in pair):
            _suits(directory, kind, name, ("gpt2", "roberta"), pair[0])
            return _read_bpe(directory, pair, kind or "gpt2")
    if wanted in (None, "vocab.txt") and file_in(directory, "vocab.txt"):
        _suits(directory, kind, name, ("bert",), "vocab.txt")
        return _read_wordpiece(directory)
    if wanted and path.is_file() and path.suffix == ".json":
        return unpadded(path)
    return None


def _suits(
    directory: Path, kind: str | None, name: str | None, kinds: tuple[str, ...], file: str
) -> None:
    if name is not None and kind not in kinds:
        raise DataError(
            f"{directory} is of {brief(name)}, and {file} is read as {' and '.join(kinds)} do: "
            "save this tokenizer as a tokenizer.json "
            "(AutoTokenizer.from_pretrained(...).save_pretrained)"
        )


def unpadded(file: Path) -> Tokenizer:
    """A ``tokenizer.json`` without what it was last padded and cut to: lengths are ours to say."""
    text = read_text(file)
    tokenizer = guarded(file, lambda: Tokenizer.from_str(text))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _read_bpe(directory: Path, pair: tuple[str, str], kind: str) -> Tokenizer:
    vocabulary, merges = (directory / name for name in pair)
    read_numbers(vocabulary)
    read_text(merges)
    settings = read_settings(directory, kind)
    tokenizer = Tokenizer(
        guarded(directory, lambda: models.BPE.from_file(str(vocabulary), str(merges)))
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = _parts(kind, settings)[1:]
    add_tokens(tokenizer, settings)
    _frame(tokenizer, kind, settings)
    return tokenizer


def _read_wordpiece(directory: Path) -> Tokenizer:
    file = directory / "vocab.txt"
    read_text(file)
    settings = read_settings(directory, "bert")
    unknown = settings.names.get("unk_token")
    if unknown is None:
        raise DataError(
            f"{settings.file} names no unk_token: write the token that stands for unknown words"
        )
    tokenizer = Tokenizer(
        guarded(file, lambda: models.WordPiece.from_file(str(file), unk_token=unknown))
    )
    config = dict(settings.config)
    if config.get("do_lower_case") is None:
        capital = next(
            (t for t in sorted(tokenizer.get_vocab()) if t != t.lower() and t[0] not in "[<"), None
        )
        if capital and settings.said:
            raise DataError(
                f"{file} has {brief(capital)}, and {settings.file.name} beside it says nothing of "
                "do_lower_case, without which transformers writes all texts in lower case: write "
                "true or false there"
            )
        config["do_lower_case"] = _is_uncased(tokenizer)
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = _parts(
        "bert", settings._replace(config=config)
    )
    # a special token that no file names and the vocabulary lacks would have a number for which no
    # model has a row
    add_tokens(tokenizer, settings, optional=[settings.names[key] for key in settings.defaults])
    clean_up(tokenizer, settings)
    _frame(tokenizer, "bert", settings)
    return tokenizer


def _is_uncased(tokenizer: Tokenizer) -> bool:
    return not any(
        token != token.lower() for token in tokenizer.get_vocab() if not token.startswith("[")
    )


def _parts(kind: str, settings: Settings) -> tuple[Any, Any, Any]:
    """The normaliser, the pre-tokenizer and the decoder that transformers' class makes."""
    if kind == "bert":
        case = flag(settings, "do_lower_case", True)
        options = {
            "lowercase": case,
            "strip_accents": flag(settings, "strip_accents", None),
            "handle_chinese_chars": flag(settings, "tokenize_chinese_chars", True),
        }
        return (
            normalizers.BertNormalizer(**options),
            pre_tokenizers.BertPreTokenizer(),
            decoders.WordPiece(),
        )
    prefix = flag(settings, "add_prefix_space", False)
    return None, pre_tokenizers.ByteLevel(add_prefix_space=prefix), decoders.ByteLevel()


def _frame(tokenizer: Tokenizer, kind: str, settings: Settings) -> None:
    """The tokens around a text and between two."""
    ends = [
        (settings.names.get(key), tokenizer.token_to_id(settings.names.get(key, "")))
        for key in _ENDS[kind]
    ]
    if kind == "gpt2":
        wanted = [flag(settings, key, False) for key in ("add_bos_token", "add_eos_token")]
        begin, end = (
            end if want and end[0] else None for want, end in zip(wanted, ends, strict=True)
        )
        if begin or end:
            tokenizer.post_processor = template(begin, end)
    elif None in (number for _, number in ends):
        pass  # as of a vocabulary without these tokens
    elif kind == "bert":
        tokenizer.post_processor = processors.BertProcessing(*reversed(ends))
    else:
        prefix = bool(flag(settings, "add_prefix_space", False))
        tokenizer.post_processor = processors.RobertaProcessing(
            *reversed(ends), add_prefix_space=prefix
        )


def _with_settings(file: Path) -> Tokenizer:
    """A ``tokenizer.json`` beside which a ``tokenizer_config.json`` lies.

    The classes of BERT, GPT-2 and RoBERTa take the vocabulary from it and make the rest anew. A
    part that they make otherwise is made so if the settings ask for it, and refused where the
    settings say nothing.
    """
    tokenizer = unpadded(file)
    written = json.loads(tokenizer.to_str())
    said, name = kind_of(file.parent)
    kind = said if said in _ENDS else None
    settings = read_settings(file.parent, kind, written["added_tokens"])
    if kind is None:
        _agrees(written, said, name, settings, file)
    else:
        anew = json.dumps(
            {**written, **_changes(written, kind, settings, file), "added_tokens": []}
        )
        tokenizer = guarded(file, lambda: Tokenizer.from_str(anew))
    add_tokens(tokenizer, settings)
    clean_up(tokenizer, settings)
    if kind in ("bert", "roberta"):
        before = _frames(tokenizer), tokenizer.post_processor
        _frame(tokenizer, kind, settings)
        if _frames(tokenizer) == before[0]:
            tokenizer.post_processor = before[1]
    return tokenizer


_GENERIC = ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend", None)
"""Classes that take a ``tokenizer.json`` as it is, whatever the settings."""


def _agrees(
    written: dict[str, Any], kind: str | None, name: str | None, settings: Settings, file: Path
) -> None:
    """Refuses settings of other classes that a ``tokenizer.json`` does not show; it is taken as it
    is."""
    text = {part: json.dumps(written[part]) for part in ("normalizer", "pre_tokenizer")}
    prefixed = '"Prepend"' in text["normalizer"] or (
        '"Metaspace"' in text["pre_tokenizer"]
        and '"prepend_scheme": "never"' not in text["pre_tokenizer"]
    )
    shown = {
        "do_lower_case": '"Lowercase"' in text["normalizer"],
        "keep_accents": '"StripAccents"' not in text["normalizer"],
        "add_prefix_space": prefixed,
    }
    keys = OWN_KEYS[kind] if kind else set() if name in _GENERIC else {"do_lower_case"}
    for key in keys & shown.keys():
        if flag(settings, key, shown[key]) != shown[key]:
            raise DataError(
                f"{file} contradicts {settings.file.name}, which has {key} = "
                f"{settings.config[key]}; give tokenizer.json itself, which is then read alone"
            )


_CAUSES = {
    "normalizer": ("do_lower_case", "strip_accents", "tokenize_chinese_chars"),
    "pre_tokenizer": ("add_prefix_space",),
    "decoder": (),
    "model": (),
}
"""Parts of a tokenizer and the keys that say how transformers makes them."""


def _changes(written: dict[str, Any], kind: str, settings: Settings, file: Path) -> dict[str, Any]:
    """Parts of a ``tokenizer.json`` that transformers' class puts others in the place of, and
    these."""
    made = Tokenizer(models.WordPiece(unk_token="") if kind == "bert" else models.BPE())
    made.normalizer, made.pre_tokenizer, made.decoder = _parts(kind, settings)
    theirs = json.loads(made.to_str())
    changes: dict[str, Any] = {}
    for part, keys in _CAUSES.items():
        found, wanted = _essence(written[part]), _essence(theirs[part])
        if found == wanted:
            continue
        if not any(key in OWN_KEYS[kind] and settings.config.get(key) is not None for key in keys):
            raise DataError(
                f"{file} contradicts {settings.file.name}: its {part.replace('_', '-')} is "
                f"{brief(found)}, and the class that is named there makes {brief(wanted)}; give "
                "tokenizer.json itself, which is then read alone"
            )
        changes[part] = theirs[part]
    if kind == "bert":
        changes["model"] = {**written["model"], "unk_token": settings.names.get("unk_token")}
    return changes


def _essence(part: Any) -> Any:
    """A part of a tokenizer's JSON without what changes no token, or is compared elsewhere."""
    if not isinstance(part, dict):
        return part
    left_out = ("vocab", "merges", "trim_offsets", "unk_token")
    return {
        key: value for key, value in part.items() if key not in left_out and value not in ("", None)
    }


def _frames(tokenizer: Tokenizer) -> list[list[int]]:
    one, two = tokenizer.encode(""), tokenizer.encode("", "")
    return [one.ids, one.type_ids, two.ids, two.type_ids]
