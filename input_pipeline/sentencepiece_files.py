"""Tokenizers from SentencePiece models (Kudo and Richardson 2018): T5's, ALBERT's, XLM-RoBERTa's
and Llama's.

The file is read by the message definitions that the ``sentencepiece`` package carries, and becomes
what transformers 5 makes of it (``SentencePieceExtractor`` and each class's ``__init__``), so
tokens are those of transformers; where they differ from the package's own, as for most settings in
the model's normaliser, transformers' count.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from input_pipeline.errors import DataError
from input_pipeline.tokenizer_reading import (
    MOST_TOKENS,
    brief,
    file_in,
    guarded,
    read_bytes,
    read_object,
)
from input_pipeline.tokenizer_settings import (
    Settings,
    add_tokens,
    clean_up,
    flag,
    read_settings,
    template,
)

FILES = {
    "t5": "spiece.model",
    "albert": "spiece.model",
    "xlm-roberta": "sentencepiece.bpe.model",
    "llama": "tokenizer.model",
}
"""The name that each kind's file has."""

_UNKNOWN = {"t5": 2, "albert": 1, "xlm-roberta": 3}
"""The number of the unknown token, which the classes fix."""


def find(directory: Path, wanted: str | None, kind: str | None) -> Path | None:
    """The SentencePiece model of a directory, or the file that is wanted if it is one."""
    if wanted is not None:
        return (
            directory / wanted
            if Path(wanted).suffix in (".model", ".spm") and (directory / wanted).exists()
            else None
        )
    names = (
        (FILES[kind],)
        if kind in FILES
        else (*dict.fromkeys(FILES.values()), "source.spm", "target.spm")
    )
    return next((file for file in (file_in(directory, name) for name in names) if file), None)


def read(file: Path, kind: str | None, name: str | None) -> Tokenizer:
    """The tokenizer of a SentencePiece model and of the settings beside it.

    Raises:
        DataError: it cannot be read, or is of a class that is not known here.
    """
    if kind == "marian" or file.suffix == ".spm":
        raise DataError(
            f"{file.parent} holds Marian's files, one model for sources and one for translations: "
            "train.generate --weights reads them; to train, give a tokenizer.json with the same "
            "vocabulary"
        )
    if kind not in FILES:
        said = (
            f"it is of {brief(name)}"
            if name
            else "no tokenizer_class in a tokenizer_config.json beside it says whose"
        )
        raise DataError(
            f"{file} is a SentencePiece model, and {said}: T5Tokenizer, AlbertTokenizer, "
            "XLMRobertaTokenizer and LlamaTokenizer are read; save others as a tokenizer.json"
        )
    model = parse(file)
    types = sentencepiece_model_pb2.ModelProto.SentencePiece
    added = [
        AddedToken(piece.piece, normalized=False, special=piece.type == types.CONTROL)
        for piece in model.pieces
        if piece.type in (types.CONTROL, types.USER_DEFINED)
    ]
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    extra = _sentinels(file.parent, pieces, added) if kind == "t5" else []
    settings = read_settings(file.parent, kind, model_tokens=[*added, *extra])
    tokenizer = (
        _llama(pieces, settings) if kind == "llama" else _unigram(kind, pieces, model, settings)
    )
    if kind == "albert":
        _frame(tokenizer, kind, settings)  # before tokens are added, as there
    add_tokens(tokenizer, settings)
    clean_up(tokenizer, settings)
    if kind != "albert":
        _frame(tokenizer, kind, settings)
    return tokenizer


def parse(file: Path) -> Any:
    """A SentencePiece model's message.

    Raises:
        DataError: the file cannot be read, or holds no pieces or too many.
    """
    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(read_bytes(file))
    except DecodeError as error:
        raise DataError(f"{file} is no SentencePiece model: {brief(error)}") from error
    if not 0 < len(model.pieces) < MOST_TOKENS:
        raise DataError(
            f"{file} holds {len(model.pieces):,} pieces: a SentencePiece model has 1 to "
            f"{MOST_TOKENS:,}"
        )
    return model


def _sentinels(
    directory: Path, pieces: list[tuple[str, float]], added: Sequence[AddedToken]
) -> list[str]:
    """T5's ``<extra_id_0>`` and so on, which are put behind the pieces."""
    file = file_in(directory, "tokenizer_config.json")
    count = (read_object(file) if file else {}).get("extra_ids", 100)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 10_000:
        raise DataError(f"{file}: extra_ids = {brief(count)} is not in 0 .. 10,000")
    there = sum("<extra_id_" in token.content for token in added)
    if there and count not in (0, there):
        raise DataError(
            f"{directory} has extra_ids = {count} and {there} such tokens in its SentencePiece "
            "model"
        )
    pieces += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(count))]
    return [] if there else [f"<extra_id_{i}>" for i in range(count)]


def _unigram(
    kind: str, pieces: list[tuple[str, float]], model: Any, settings: Settings
) -> Tokenizer:
    if kind == "xlm-roberta":
        first = ("bos_token", "pad_token", "eos_token", "unk_token")
        pieces = (
            [(_name(settings, key), 0.0) for key in first]
            + pieces[3:]
            + [(_name(settings, "mask_token"), 0.0)]
        )
    file = settings.file.parent
    tokenizer = guarded(
        file, lambda: Tokenizer(models.Unigram(pieces, _UNKNOWN[kind], byte_fallback=False))
    )
    steps: list[Any] = []
    if kind == "albert":
        steps += [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not flag(settings, "keep_accents", False):
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        if flag(settings, "do_lower_case", True):
            steps.append(normalizers.Lowercase())
    charsmap = model.normalizer_spec.precompiled_charsmap
    if charsmap:
        steps.append(guarded(file, lambda: _checked(normalizers.Precompiled(charsmap))))
    if kind == "albert":
        tokenizer.normalizer = normalizers.Sequence(steps)
    elif steps:
        tokenizer.normalizer = steps[0]
    prefix = "always" if kind == "t5" or flag(settings, "add_prefix_space", True) else "never"
    space = {"replacement": "▁", "prepend_scheme": prefix}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**space)]
    )
    tokenizer.decoder = decoders.Metaspace(**space)
    return tokenizer


def _checked(normalizer: normalizers.Precompiled) -> normalizers.Precompiled:
    """A damaged table is found here, not while texts are read."""
    normalizer.normalize_str("".join(chr(i) for i in range(1, 0x30000) if not 0xD800 <= i < 0xE000))
    return normalizer


def _llama(pieces: list[tuple[str, float]], settings: Settings) -> Tokenizer:
    """Byte-pair merges of the pieces in the order of their numbers, with bytes for unknown
    characters."""
    vocabulary = {piece: i for i, (piece, _) in enumerate(pieces)}
    merges: list[tuple[str, str]] = []
    for piece in vocabulary:
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        known = [(a, b) for a, b in pairs if a in vocabulary and b in vocabulary]
        merges += sorted(known, key=lambda pair: (len(pair[0]), len(pair[1])))
    make = functools.partial(models.BPE, vocabulary, merges, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(guarded(settings.file.parent, make))
    prefix = flag(settings, "add_prefix_space", True)
    scheme = ("always" if flag(settings, "legacy", False) else "first") if prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="▁", prepend_scheme=scheme, split=False
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(
        [*steps, decoders.Strip(content=" ", left=1)] if prefix else steps
    )
    return tokenizer


def _name(settings: Settings, key: str) -> str:
    if key not in settings.names:
        raise DataError(f"{settings.file}: {key} is null, and the class needs one")
    return settings.names[key]


def _frame(tokenizer: Tokenizer, kind: str, settings: Settings) -> None:
    """The tokens around a text and between two."""

    def ends(*keys: str) -> list[tuple[str, int]]:
        found = [
            (name, tokenizer.token_to_id(name)) for name in (_name(settings, key) for key in keys)
        ]
        if None in (number for _, number in found):
            raise DataError(
                f"{settings.file.parent} has {brief(found)}: the vocabulary lacks one of these "
                "tokens"
            )
        return found

    if kind == "t5":
        end = ("</s>", ends("eos_token")[0][1])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[end]
        )
    elif kind == "albert":
        numbers = [number for _, number in ends("cls_token", "sep_token")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[*zip(("[CLS]", "[SEP]"), numbers, strict=True)],
        )
    elif kind == "xlm-roberta":
        (bos, _), (eos, _) = around = ends("bos_token", "eos_token")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A", eos],
            pair=[bos, "$A", eos, eos, "$B", eos],
            special_tokens=[*dict(around).items()],
        )
    else:
        keys = ("bos_token", "eos_token")
        wanted = [
            flag(settings, f"add_{key}", False) and settings.names.get(key) is not None
            for key in keys
        ]
        begin, end = (
            ends(key)[0] if want else None for want, key in zip(wanted, keys, strict=True)
        )
        if begin or end:
            tokenizer.post_processor = template(begin, end)
