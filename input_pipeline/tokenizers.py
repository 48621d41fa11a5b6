"""Tokenizers, all of them Hugging Face's ``tokenizers.Tokenizer``: trained on a corpus, or from
published files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import (
    Encoding,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from input_pipeline.errors import DataError
from input_pipeline.tokenizer_files import read_tokenizer
from input_pipeline.tokenizer_reading import MOST_TOKENS
from input_pipeline.tokenizer_settings import uncleaned

END_OF_TEXT = "<|endoftext|>"
"""Stands before each document, where the tokenizer has it."""

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

KINDS = ("characters", "words", "bpe", "wordpiece")
"""What can be trained: one token for each character seen; the most frequent words, uncased;
byte-level BPE as GPT-2's (Radford et al. 2019, section 2.2); WordPiece as BERT's (Devlin et al.
2019, section 3), uncased."""


def train_tokenizer(kind: str, texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of one of ``KINDS``, trained on texts; the same texts give the same tokenizer.

    Args:
        kind: of `KINDS`.
        texts: documents.
        vocab_size: tokens, special ones included; a small corpus may give fewer. Characters have no
          say in it.
    """
    if kind == "characters":
        seen = sorted(set().union(*map(set, texts)))
        tokenizer = Tokenizer(
            models.WordLevel({character: i for i, character in enumerate(seen)}, unk_token="")
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
    elif kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        _byte_level(tokenizer)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        special = [END_OF_TEXT]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=alphabet,
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
    elif kind == "words":
        tokenizer = _uncased(models.WordLevel(unk_token="[UNK]"))
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=list(BERT_SPECIAL), show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        _frame_pairs(tokenizer)
    else:
        tokenizer = _uncased(models.WordPiece(_word_pieces(texts, vocab_size), unk_token="[UNK]"))
        tokenizer.add_special_tokens(list(BERT_SPECIAL))
        _frame_pairs(tokenizer)
    return tokenizer


def _word_pieces(texts: Iterable[str], vocab_size: int) -> dict[str, int]:
    """A vocabulary of WordPiece.

    The library numbers the characters inside words in the order of a hash table, which differs from
    process to process; so they are given to it in order, as if they were special.
    """
    words: Counter[str] = Counter()
    tokenizer = _uncased(models.WordPiece(unk_token="[UNK]"))
    for text in texts:
        words.update(
            w
            for w, _ in tokenizer.pre_tokenizer.pre_tokenize_str(
                tokenizer.normalizer.normalize_str(text)
            )
        )
    inside = sorted({f"##{character}" for word in words for character in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*BERT_SPECIAL, *inside], show_progress=False
    )
    # without the characters as special tokens in the way: they are in the trainer alone
    counted = (word for word, count in sorted(words.items()) for _ in range(count))
    tokenizer.train_from_iterator(counted, trainer)
    return tokenizer.get_vocab()


def load_tokenizer(path: str | Path) -> Tokenizer:
    """A tokenizer from published files, with what those beside them say: see `tokenizer_files`.

    Args:
        path: a ``tokenizer.json``, GPT-2's ``encoder.json`` and ``vocab.bpe`` or ``vocab.json`` and
            ``merges.txt``, BERT's ``vocab.txt``, a SentencePiece model; or a directory that holds
            them.

    Raises:
        DataError: none of them is there, it cannot be read, or a setting beside it cannot be
          applied.
    """
    path = Path(path).expanduser()
    found = read_tokenizer(path)
    if found is None:
        raise DataError(
            f"no tokenizer at {path}: give a tokenizer.json, a directory with encoder.json and "
            f"vocab.bpe or with vocab.txt, a SentencePiece model, or one of {', '.join(KINDS)} to "
            "train one"
        )
    size = vocabulary_size(found)
    if not size:
        raise DataError(f"{path} holds a tokenizer without tokens")
    if size > MOST_TOKENS:
        raise DataError(
            f"{path} has a token with the number {size - 1:,}: numbers of tokens are below "
            f"{MOST_TOKENS:,}"
        )
    return found


def _byte_level(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()


def _uncased(model: models.WordPiece | models.WordLevel) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _frame_pairs(tokenizer: Tokenizer) -> None:
    """``[CLS] a [SEP]`` and ``[CLS] a [SEP] b [SEP]``, with types 0 and 1."""
    known = {token: tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]")}
    if None not in known.values():
        tokenizer.post_processor = processors.BertProcessing(
            ("[SEP]", known["[SEP]"]), ("[CLS]", known["[CLS]"])
        )


def require_tokens(tokenizer: Tokenizer, names: Sequence[str], source: str) -> dict[str, int]:
    """Number of each named token.

    Raises:
        DataError: the tokenizer lacks one.
    """
    found = {name: tokenizer.token_to_id(name) for name in names}
    missing = [name for name, i in found.items() if i is None]
    if missing:
        raise DataError(
            f"{source} needs a tokenizer with {', '.join(missing)}, such as data.tokenizer = "
            "'wordpiece'"
        )
    return {name: i for name, i in found.items() if i is not None}


def special_tokens(tokenizer: str) -> tuple[list[int], int]:
    """Numbers of the tokens that stand for no text, and of [MASK].

    Args:
        tokenizer: its JSON text.

    Raises:
        DataError: it has no [MASK].
    """
    found = Tokenizer.from_str(tokenizer)
    mask = require_tokens(found, ("[MASK]",), "masked language modelling")["[MASK]"]
    return stands_for_no_text(found), mask


def stands_for_no_text(tokenizer: Tokenizer, *, unknown: bool = True) -> list[int]:
    """Numbers of the tokens that do, ascending; ``unknown``: with the token that stands for unknown
    words."""
    left_out = None if unknown else getattr(tokenizer.model, "unk_token", None)
    decoder = tokenizer.get_added_tokens_decoder()
    return sorted(i for i, token in decoder.items() if token.special and token.content != left_out)


def sentence_ends(tokenizer: Tokenizer, source: str) -> tuple[int, int]:
    """The tokens before and behind a sentence.

    What the tokenizer frames a text with ([CLS] and [SEP] of BERT's, <s> and </s> of BART's); where
    it has only one behind it (</s> of T5's and Marian's), <pad> is before it, with which these
    begin to write, or else the same. A tokenizer that frames nothing: twice the end-of-text token,
    or tokens with these names.

    Raises:
        DataError: the tokenizer has none of them.
    """
    before, behind = _frame(tokenizer)
    if behind:
        start = before[-1] if before else tokenizer.token_to_id("<pad>")
        return behind[0] if start is None else start, behind[0]
    for names in ((END_OF_TEXT, END_OF_TEXT), ("[CLS]", "[SEP]"), ("<s>", "</s>")):
        start, end = map(tokenizer.token_to_id, names)
        if start is not None and end is not None:
            return start, end
    found = require_tokens(tokenizer, ("[CLS]", "[SEP]"), source)
    return found["[CLS]"], found["[SEP]"]


def _frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and behind a text."""
    alone = tokenizer.encode("")
    if not alone.ids:
        return [], []
    around = tokenizer.encode(alone.tokens[0])  # a text that it knows; those around it are masked
    inside = [i for i, added in enumerate(around.special_tokens_mask) if not added]
    return around.ids[: inside[0]], around.ids[inside[-1] + 1 :]


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the greatest number of a token: there may be gaps."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def fingerprint(tokenizer: Tokenizer) -> str:
    """The same for tokenizers that do the same with texts."""
    return hashlib.sha256(uncleaned(tokenizer).to_str().encode()).hexdigest()[:16]


def characters_per_token(tokenizer: Tokenizer) -> np.ndarray:
    """How many characters begin in each token, float32 [vocabulary]; special tokens stand for none.

    A byte-level token may hold a part of a character only; it counts where its first byte is, so
    sums are exact.
    """
    size = vocabulary_size(tokenizer)
    special = {*stands_for_no_text(tokenizer)}
    counts = np.zeros(size, np.float32)
    byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)
    first = {letter for letter, byte in _letters_of_bytes().items() if byte & 0xC0 != 0x80}
    for token, i in tokenizer.get_vocab().items():
        if i not in special:
            text = token.removeprefix("##")
            counts[i] = sum(letter in first for letter in text) if byte_level else len(text)
    return counts


def _letters_of_bytes() -> dict[str, int]:
    """The printable letter that byte-level BPE writes for each byte (GPT-2's ``bytes_to_unicode``),
    turned round."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }


def encode_all(
    tokenizer: Tokenizer, texts: Sequence[str | tuple[str, str]], *, special: bool, source: str
) -> list[Encoding]:
    """Encodings of texts or of pairs of texts; ``special``: with the tokens that frame them.

    Raises:
        DataError: see `encode`.
    """
    try:
        return tokenizer.encode_batch(list(texts), add_special_tokens=special)
    except Exception:
        for text in texts:
            for part in (text,) if isinstance(text, str) else text:
                encode(tokenizer, part, source=source)  # says what is wrong
        raise


def encode(tokenizer: Tokenizer, text: str, *, source: str) -> np.ndarray:
    """Tokens of a text without special ones, int32 [n].

    Raises:
        DataError: characters that the tokenizer does not know and has no token for; the first few
          are named.
    """
    try:
        return np.asarray(tokenizer.encode(text, add_special_tokens=False).ids, np.int32)
    except Exception as error:  # of a WordLevel model: its unknown token is not in the vocabulary
        vocabulary = tokenizer.get_vocab()
        unknown = sorted({character for character in text if character not in vocabulary})
        if not unknown:
            raise
        raise DataError(
            f"{source} has {len(unknown)} characters that the tokenizer does not know, such as "
            f"{', '.join(map(repr, unknown[:5]))}: train it on text that has them, or use "
            "tokenizer 'bpe', which knows all there are"
        ) from error
