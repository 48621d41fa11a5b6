"""Settings beside a vocabulary: ``tokenizer_config.json``, ``special_tokens_map.json``,
``added_tokens.json``.

Every key is applied, known to change no token, or refused by name. The order of adding tokens, and
which file goes over which, are transformers' (``PreTrainedTokenizerBase._from_pretrained`` and
``TokenizersBackend.__init__``, version 5).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, processors

from input_pipeline.errors import DataError
from input_pipeline.tokenizer_reading import MOST_TOKENS, brief, file_in, read_object

CLASSES = {
    "BertTokenizer": "bert",
    "DistilBertTokenizer": "bert",
    "ElectraTokenizer": "bert",
    "MobileBertTokenizer": "bert",
    "GPT2Tokenizer": "gpt2",
    "RobertaTokenizer": "roberta",
    "BartTokenizer": "roberta",
    "MarianTokenizer": "marian",
    "T5Tokenizer": "t5",
    "AlbertTokenizer": "albert",
    "XLMRobertaTokenizer": "xlm-roberta",
    "LlamaTokenizer": "llama",
}
"""Tokenizer classes of transformers (with or without ``Fast`` behind), and the kind that reads
their files here."""

MODEL_TYPES = {
    **dict.fromkeys(
        ("bert", "distilbert", "electra", "mobilebert", "convbert", "ernie", "layoutlm"), "bert"
    ),
    **dict.fromkeys(
        ("megatron-bert", "nomic_bert", "squeezebert", "visual_bert", "retribert"), "bert"
    ),
    **dict.fromkeys(("gpt2", "gpt_neo", "gptj", "codegen", "opt"), "gpt2"),
    **dict.fromkeys(
        ("roberta", "bart", "ibert", "longformer", "data2vec-text", "roberta-prelayernorm"),
        "roberta",
    ),
    **dict.fromkeys(("t5", "mt5", "switch_transformers"), "t5"),
    **dict.fromkeys(("xlm-roberta", "xmod"), "xlm-roberta"),
    **{"marian": "marian", "albert": "albert", "llama": "llama"},
}
"""``model_type`` of ``config.json``, which decides where no tokenizer class is named."""

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_BERT = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
DEFAULTS: dict[str, dict[str, str]] = {
    "bert": _BERT,
    "gpt2": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "marian": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "t5": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "albert": {
        **_BERT,
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    },
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}
"""Special tokens of each kind where no file names others."""

OWN_KEYS: dict[str, set[str]] = {
    "bert": {"do_lower_case", "strip_accents", "tokenize_chinese_chars"},
    "gpt2": {"add_prefix_space", "add_bos_token", "add_eos_token"},
    "roberta": {"add_prefix_space"},
    "marian": {
        "separate_vocabs",
        "source_lang",
        "target_lang",
        "sp_model_kwargs",
        "target_vocab_file",
    },
    "t5": {"extra_ids"},
    "albert": {"do_lower_case", "keep_accents", "add_prefix_space"},
    "xlm-roberta": {"add_prefix_space"},
    "llama": {"add_prefix_space", "add_bos_token", "add_eos_token", "legacy"},
}
"""Keys that a kind applies, beside the special tokens."""

_APPLIED = {*NAMED, "additional_special_tokens", "extra_special_tokens", "added_tokens_decoder"}

_HARMLESS = {
    # which class reads the files: see `kind_of`
    *("tokenizer_class", "auto_map", "processor_class", "backend", "use_fast", "from_slow"),
    # lengths and padding, which callers say themselves
    *(
        "model_max_length",
        "max_len",
        "max_length",
        "padding_side",
        "truncation_side",
        "truncation",
        "padding",
    ),
    *(
        "truncation_strategy",
        "stride",
        "pad_to_multiple_of",
        "pad_token_type_id",
        "pad_to_max_length",
    ),
    # numbers of the model, which do not reach the tokenizer
    *(
        "vocab_size",
        "model_type",
        "architectures",
        "max_position_embeddings",
        "task_specific_params",
        "language",
    ),
    # how the files were fetched, and where they once lay
    *(
        "cache_dir",
        "revision",
        "subfolder",
        "trust_remote_code",
        "use_auth_token",
        "_from_auto",
        "tokenizers_version",
    ),
    *(
        "name_or_path",
        "special_tokens_map_file",
        "tokenizer_file",
        "vocab_file",
        "merges_file",
        "is_local",
    ),
    *(
        "local_files_only",
        "full_tokenizer_file",
        "fast_tokenizer_files",
        "device_map",
        "files_loaded",
    ),
    # messages of a chat, which are not written here
    *(
        "chat_template",
        "response_template",
        "response_schema",
        "chat_control_tokens",
        "use_default_system_prompt",
    ),
    # what is returned beside the tokens, and what is printed
    *(
        "model_input_names",
        "return_tensors",
        "mask_padding_with_zero",
        "trim_offsets",
        "return_token_type_ids",
        "verbose",
        "init_inputs",
        "source",
        "target",
    ),
    # the decoders of `tokenizers` know one way with bytes that are no UTF-8
    "errors",
    # byte-level BPE is not cleaned up; the others: see `clean_up`
    *("clean_up_tokenization_spaces", "tokenizer_version", "transformers_version"),
}

_REFUSED_UNLESS: dict[str, tuple[object, ...]] = {
    "do_basic_tokenize": (None, True),
    "never_split": (None, []),
    "wordpieces_prefix": (None, "##"),
    "split_special_tokens": (None, False),
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": (None, False),
    "sp_model_kwargs": (None, {}),
    "separate_vocabs": (None, False),
    "add_bos_token": (None, False),
    "add_eos_token": (None, False),
    "add_prefix_space": (None,),
    "do_lower_case": (None,),
    "strip_accents": (None,),
    "tokenize_chinese_chars": (None, True),
    "keep_accents": (None,),
    "legacy": (None, False, True),
    "spaces_between_special_tokens": (None, True, False),
    "model_specific_special_tokens": (None, {}),
    "source_lang": (None,),
    "target_lang": (None,),
}
"""Keys that would change tokens and that a kind does not apply, with the values that change
nothing."""


class Settings(NamedTuple):
    """Settings of a tokenizer, from the files of its directory.

    ``config``: the keys of ``tokenizer_config.json``, empty where there is none; ``said``: whether
    there is one; ``tokens``: those to be added, in order; ``numbers``: of some of them, as a file
    says; ``names``: the special tokens by their keys (``eos_token``); ``extra``: those without a
    key; ``defaults``: keys of ``names`` that no file says.
    """

    config: dict[str, Any]
    said: bool
    tokens: list[AddedToken]
    numbers: dict[str, int]
    names: dict[str, str]
    extra: frozenset[str]
    defaults: frozenset[str]
    file: Path


def kind_of(directory: Path) -> tuple[str | None, str | None]:
    """The kind of tokenizer that a directory says it holds, and the name it says; None and None
    where it says nothing.

    The class in ``tokenizer_config.json`` goes over that in ``config.json``, and this over
    ``model_type``. The kind of a class that is not known here is None.

    Raises:
        DataError: one of these files cannot be read.
    """
    config, model = (file_in(directory, name) for name in ("tokenizer_config.json", "config.json"))
    for file, key in (
        (config, "tokenizer_class"),
        (model, "tokenizer_class"),
        (model, "model_type"),
    ):
        name = read_object(file).get(key) if file else None
        if name is not None:
            if not isinstance(name, str):
                raise DataError(f"{file}: {key} = {brief(name)} is not a name")
            table = MODEL_TYPES if key == "model_type" else CLASSES
            return table.get(name if key == "model_type" else name.removesuffix("Fast")), name
    return None, None


def read_settings(
    directory: Path,
    kind: str | None,
    json_tokens: Sequence[Mapping[str, Any]] | None = None,
    model_tokens: Sequence[AddedToken | str] | None = None,
) -> Settings:
    """Settings from the files beside a vocabulary.

    Args:
        directory: which holds them.
        kind: one of the values of `CLASSES`; None: the class that takes ``tokenizer.json`` as it
          is.
        json_tokens: ``added_tokens`` of the ``tokenizer.json`` that is the vocabulary, if one is.
        model_tokens: control and user-defined symbols of the SentencePiece model that is the
          vocabulary, if one is.

    Raises:
        DataError: a file cannot be read, or a key has a value that cannot be applied.
    """
    file = file_in(directory, "tokenizer_config.json")
    config = read_object(file) if file else {}
    file = file or directory / "tokenizer_config.json"
    if kind is not None and json_tokens is None:
        _account(config, kind, file)
    elif config.get("split_special_tokens"):
        raise DataError(_refusal(file, "split_special_tokens", config["split_special_tokens"]))
    said = dict(config)
    if said.get("additional_special_tokens") is not None and not said.get("extra_special_tokens"):
        said["extra_special_tokens"] = said.pop("additional_special_tokens")
    others = {
        key: said[key]
        for key in said
        if key.endswith("_token") and key not in NAMED and _is_token(said[key])
    }
    if isinstance(said.get("extra_special_tokens"), dict):
        others |= said.pop("extra_special_tokens")
    numbered: dict[int, AddedToken] = {}
    if isinstance(said.get("added_tokens_decoder"), dict):
        for number, value in said["added_tokens_decoder"].items():
            numbered[_number(number, file)] = _token(value, file, "added_tokens_decoder")
    else:
        if said.get("added_tokens_decoder") is not None:
            raise DataError(_refusal(file, "added_tokens_decoder", said["added_tokens_decoder"]))
        numbered |= _legacy(directory, said, others, json_tokens or ())
    if model_tokens is not None:
        said["additional_special_tokens"] = [*model_tokens]
    if "extra_special_tokens" not in said:
        said["extra_special_tokens"] = said.get("additional_special_tokens")
    written = {token.content: token for token in numbered.values()}
    defaults = DEFAULTS.get(kind or "", {})
    names: dict[str, AddedToken | str] = {}
    for key in NAMED:
        value = said.get(key, defaults.get(key)) if key in said else defaults.get(key)
        if value is not None:
            token = _token(value, file, key) if not isinstance(value, str) else value
            names[key] = written.get(str(getattr(token, "content", token)), token)
    for key, value in others.items():
        names[key] = _token(value, file, key) if not isinstance(value, str) else value
    extra = said.get("extra_special_tokens")
    if extra is not None and not isinstance(extra, list):
        raise DataError(_refusal(file, "additional_special_tokens", extra))
    every = [
        value if isinstance(value, str) else _token(value, file, "special tokens")
        for value in extra or ()
    ]
    by_name = {
        key: value if isinstance(value, str) else value.content for key, value in names.items()
    }
    there = {*written, *(token["content"] for token in json_tokens or () if kind is None)}
    tokens = _in_order(
        [numbered[i] for i in sorted(numbered)],
        [*names.values(), *every],
        there,
        {*by_name.values()},
    )
    unsaid = frozenset(key for key in NAMED if key in by_name and key not in said)
    contents = frozenset(str(getattr(token, "content", token)) for token in every)
    numbers = {token.content: i for i, token in numbered.items()}
    return Settings(config, bool(config), tokens, numbers, by_name, contents, unsaid, file)


def _account(config: Mapping[str, Any], kind: str, file: Path) -> None:
    """Refuses what would be passed over."""
    for key, value in config.items():
        if key in _APPLIED or key in _HARMLESS or (key.endswith("_token") and _is_token(value)):
            continue
        if key in OWN_KEYS[kind] and key not in ("sp_model_kwargs", "separate_vocabs"):
            continue
        if kind == "albert" and key in ("add_bos_token", "add_eos_token"):
            # either, whatever its value, takes [CLS] and [SEP] away there
            raise DataError(_refusal(file, key, value))
        if key not in _REFUSED_UNLESS and value is None:
            continue
        if key not in _REFUSED_UNLESS or not any(
            value is x or value == x for x in _REFUSED_UNLESS[key]
        ):
            raise DataError(_refusal(file, key, value))


def _refusal(file: Path, key: str, value: object) -> str:
    return (
        f"{file}: {brief(key)} = {brief(value)} is not applied, and could change tokens: remove "
        "it, or save the tokenizer as one tokenizer.json "
        "(AutoTokenizer.from_pretrained(...).save_pretrained) and give that file"
    )


def _is_token(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, dict) and value.get("__type") == "AddedToken"
    )


def _token(value: object, file: Path, key: str) -> AddedToken:
    if isinstance(value, AddedToken):
        return value
    if isinstance(value, str):
        return AddedToken(value, special=True)
    flags = {"lstrip", "rstrip", "single_word", "normalized", "special"}
    if isinstance(value, dict):
        given = {k: v for k, v in value.items() if k not in ("__type", "id")}
        known = given.keys() <= {"content", *flags} and isinstance(given.get("content"), str)
        if known and all(isinstance(given[k], bool) for k in given.keys() & flags):
            return AddedToken(**given)
    raise DataError(
        f"{file}: {key} has {brief(value)}, which is no token: a text, or content and its flags, "
        "is needed"
    )


def _special(value: object, file: Path, key: str) -> AddedToken:
    return _token({**value, "special": True} if isinstance(value, dict) else value, file, key)


def _number(value: object, file: Path) -> int:
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        number = int(value)
    except ValueError:
        raise DataError(f"{file}: {brief(value)} is not the number of a token") from None
    if not 0 <= number < MOST_TOKENS:
        raise DataError(
            f"{file}: the number {brief(number)} of a token is not in 0 .. {MOST_TOKENS - 1:,}"
        )
    return number


def _legacy(
    directory: Path,
    said: dict[str, Any],
    others: dict[str, Any],
    json_tokens: Iterable[Mapping[str, Any]],
) -> dict[int, AddedToken]:
    """Tokens by number of the files that count where ``added_tokens_decoder`` is not given; changes
    ``said``."""
    numbered: dict[int, AddedToken] = {}
    file = file_in(directory, "special_tokens_map.json")
    for key, value in (read_object(file) if file else {}).items():
        if key in ("additional_special_tokens", "extra_special_tokens"):
            if isinstance(value, dict) and key == "extra_special_tokens":
                others |= value
                continue
            if not isinstance(value, list):
                raise DataError(_refusal(file, key, value))
            listed = [
                _special(token, file, key) if isinstance(token, dict) else token for token in value
            ]
            if key == "additional_special_tokens":
                said[key] = listed
            else:
                before = said.get("extra_special_tokens") or []
                said["extra_special_tokens"] = [
                    *before,
                    *(token for token in listed if token not in before),
                ]
        elif key in NAMED or key.endswith("_token"):
            if value is not None and not isinstance(value, str | dict):
                raise DataError(_refusal(file, key, value))
            found = _special(value, file, key) if isinstance(value, dict) else value
            if key in NAMED:
                said[key] = found
            elif found is not None:
                others[key] = found
        else:
            raise DataError(_refusal(file, key, value))
    special = {str(getattr(said[key], "content", said[key])) for key in NAMED if said.get(key)}
    # here, as in transformers: those of `additional_special_tokens` in this file come too late to
    # count in the next one
    special |= {str(getattr(x, "content", x)) for x in said.get("extra_special_tokens") or ()}
    file = file_in(directory, "added_tokens.json")
    for content, number in (read_object(file) if file else {}).items():
        is_special = content in special
        numbered[_number(number, file)] = AddedToken(
            content, normalized=not is_special, special=is_special
        )
    for value in json_tokens:
        numbered[_number(value.get("id"), directory / "tokenizer.json")] = _token(
            dict(value), directory / "tokenizer.json", "added_tokens"
        )
    return numbered


def _in_order(
    numbered: Sequence[AddedToken],
    special: Sequence[AddedToken | str],
    there: set[str],
    named: set[str],
) -> list[AddedToken]:
    """First those with numbers, then the special ones not yet ``there``; one with other flags goes
    over an earlier."""
    found: list[AddedToken | str] = [*numbered]
    for value in special:
        if str(getattr(value, "content", value)) not in there and value not in found:
            found.append(value)
    tokens = [
        AddedToken(value, special=True) if isinstance(value, str) else value for value in found
    ]
    return [
        _flagged(token, special=token.special or token.content in named)
        for token in tokens
        if token.content
    ]


def _flagged(token: AddedToken, **flags: bool) -> AddedToken:
    names = ("lstrip", "rstrip", "single_word", "normalized", "special")
    return AddedToken(token.content, **({name: getattr(token, name) for name in names} | flags))


def add_tokens(tokenizer: Tokenizer, settings: Settings, *, optional: Iterable[str] = ()) -> None:
    """Adds what the settings say; those in ``optional`` only if the vocabulary has them, or some
    other token is new.

    Raises:
        DataError: a token would have another number than a file says, or two tokens one.
    """
    unknown = {
        token.content for token in settings.tokens if tokenizer.token_to_id(token.content) is None
    }
    left_out = unknown if unknown <= {*optional} - settings.numbers.keys() else set()
    # then the order of matching says nothing
    alone = len({token.content for token in settings.tokens}) == 1
    for token in settings.tokens:
        if token.content not in left_out:
            plain = alone and token.special and tokenizer.normalizer is None
            tokenizer.add_tokens([_flagged(token, normalized=False) if plain else token])
    for content, number in settings.numbers.items():
        found = tokenizer.token_to_id(content)
        if found != number and content:
            raise DataError(
                f"{settings.file.parent} gives the added token {brief(content)} the number "
                f"{number}, and behind this vocabulary it has {found}: numbers of added tokens "
                "must follow the vocabulary's without a gap"
            )


CLEANED = (
    *((f" {mark}", mark) for mark in ".?!,"),
    (" ' ", "'"),
    *((f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re")),
)
"""Replacements in decoded texts, in order, where they are cleaned up."""


def clean_up(tokenizer: Tokenizer, settings: Settings) -> None:
    """Has decoded texts cleaned up where ``clean_up_tokenization_spaces`` asks for it; byte-level
    BPE never is."""
    value = settings.config.get("clean_up_tokenization_spaces")
    if value and tokenizer.decoder is not None and not isinstance(tokenizer.model, models.BPE):
        replaced = [decoders.Replace(old, new) for old, new in CLEANED]
        tokenizer.decoder = decoders.Sequence([tokenizer.decoder, decoders.Fuse(), *replaced])


def uncleaned(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer as it was before `clean_up`, which has no say in what texts become."""
    written = json.loads(tokenizer.to_str())
    steps = (written["decoder"] or {}).get("decoders", ())
    replaced = [step.get("content") for step in steps[2:]]
    if replaced != [new for _, new in CLEANED]:
        return tokenizer
    return Tokenizer.from_str(json.dumps(written | {"decoder": steps[0]}))


def flag(settings: Settings, key: str, default: bool | None) -> bool | None:
    """A key of ``tokenizer_config.json`` that is true or false, or its default where it is null or
    absent.

    Raises:
        DataError: it is something else.
    """
    value = settings.config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise DataError(f"{settings.file}: {key} = {brief(value)} is neither true nor false")
    return value


def template(
    begin: tuple[str, int] | None, end: tuple[str, int] | None
) -> processors.TemplateProcessing:
    """Puts a token before, and one behind, each of one or two texts."""

    def around(text: str, kind: int) -> list[str]:
        return [f"{x}:{kind}" for x in (begin and begin[0], text, end and end[0]) if x]

    return processors.TemplateProcessing(
        single=around("$A", 0),
        pair=[*around("$A", 0), *around("$B", 1)],
        special_tokens=[*{token for token in (begin, end) if token}],
    )
