"""Text input: tokenizers against transformers', corpora as data sets, windows and pairs of spans,
wrong files."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tokenizers import Tokenizer, models

from input_pipeline import DataError, describe_text, make_loader
from input_pipeline.__main__ import main
from input_pipeline.corpus import read_texts
from input_pipeline.prepare import open_builder
from input_pipeline.sentence_pairs import SentencePairs
from input_pipeline.tokenizers import (
    BERT_SPECIAL,
    END_OF_TEXT,
    characters_per_token,
    encode,
    load_tokenizer,
    special_tokens,
    stands_for_no_text,
    train_tokenizer,
)
from input_pipeline.windows import TokenWindows

ROOT = Path(__file__).parent.parent
TEXTS = [
    "The cat sat on the mat. The cat sat.\n",
    "A naïve café — 猫 sat on the mat 🐈!",
    "tabs\tand  spaces\n\n",
]


def write(directory, files):
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return directory


@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_nothing_is_lost(kind):
    tokenizer = train_tokenizer(kind, TEXTS, 300)
    for text in TEXTS:
        tokens = encode(tokenizer, text, source="x")
        assert tokenizer.decode(tokens.tolist()) == text
        assert characters_per_token(tokenizer)[tokens].sum() == len(text)
    assert tokenizer.to_str() == train_tokenizer(kind, TEXTS, 300).to_str()


def test_characters_are_one_token_each():
    tokenizer = train_tokenizer("characters", TEXTS, 2)
    assert tokenizer.get_vocab_size() == len(set("".join(TEXTS)))
    assert len(encode(tokenizer, TEXTS[1], source="x")) == len(TEXTS[1])
    with pytest.raises(
        DataError, match=r"x has 2 characters that the tokenizer does not know, such as 'Q', 'Z'"
    ):
        encode(tokenizer, "The ZQ cat", source="x")


def test_bpe_merges_what_is_frequent():
    tokenizer = train_tokenizer("bpe", TEXTS * 10, 300)
    assert tokenizer.get_vocab_size() == 300
    assert tokenizer.token_to_id(END_OF_TEXT) is not None
    assert len(encode(tokenizer, TEXTS[0], source="x")) < len(TEXTS[0]) / 2
    assert characters_per_token(tokenizer)[tokenizer.token_to_id(END_OF_TEXT)] == 0


def test_gpt2_and_bert_files_are_read_as_transformers_reads_them(tmp_path):
    from jaxmodels.foreign.original import transformers

    trained = train_tokenizer("bpe", TEXTS * 10, 300)
    model = json.loads(trained.to_str())["model"]
    vocabulary = json.dumps(model["vocab"], ensure_ascii=False)
    merges = "#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]) + "\n"
    write(tmp_path / "openai", {"encoder.json": vocabulary, "vocab.bpe": merges})
    write(tmp_path / "hub", {"vocab.json": vocabulary, "merges.txt": merges})
    theirs = transformers().GPT2Tokenizer.from_pretrained(tmp_path / "hub")
    for where in ("openai", "hub", "openai/encoder.json"):
        ours = load_tokenizer(tmp_path / where)
        for text in (*TEXTS, "new words, 123!"):
            assert encode(ours, text, source="x").tolist() == theirs(text)["input_ids"]
    words = train_tokenizer("wordpiece", TEXTS * 10, 120)
    ordered = sorted(words.get_vocab(), key=words.get_vocab().get)
    write(tmp_path / "bert", {"vocab.txt": "\n".join(ordered) + "\n"})
    theirs = transformers().BertTokenizer.from_pretrained(tmp_path / "bert")
    for tokenizer in (load_tokenizer(tmp_path / "bert"), words):
        for text in (*TEXTS, "Unseen wörds"):
            assert tokenizer.encode(text).ids == theirs(text)["input_ids"]
            assert tokenizer.encode(text, "a cat").ids == theirs(text, "a cat")["input_ids"]
            assert (
                tokenizer.encode(text, "a cat").type_ids == theirs(text, "a cat")["token_type_ids"]
            )
    trained.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).to_str() == trained.to_str()


def test_words_are_the_most_frequent_uncased():
    tokenizer = train_tokenizer("words", ["The cat, the CAT and the dog.", "the cat"], 7)
    assert set(tokenizer.get_vocab()) == {*BERT_SPECIAL, "the", "cat"}
    assert tokenizer.encode("THE bird cat").tokens == ["[CLS]", "the", "[UNK]", "cat", "[SEP]"]
    assert encode(tokenizer, "THE cat", source="x").tolist() == [
        tokenizer.token_to_id(t) for t in ("the", "cat")
    ]


def test_wordpiece_takes_the_longest_piece(tmp_path):
    write(
        tmp_path / "t",
        {"vocab.txt": "\n".join([*BERT_SPECIAL, "un", "una", "##ff", "##able", "##a"]) + "\n"},
    )
    for where in ("t", "t/vocab.txt"):
        tokenizer = load_tokenizer(tmp_path / where)
        assert tokenizer.encode("Unaffable").tokens == ["[CLS]", "una", "##ff", "##able", "[SEP]"]
        assert tokenizer.encode("unaffably").tokens == ["[CLS]", "[UNK]", "[SEP]"]
        assert special_tokens(tokenizer.to_str()) == (list(range(5)), 4)
        unknown = tokenizer.token_to_id("[UNK]")
        assert stands_for_no_text(tokenizer, unknown=False) == sorted({*range(5)} - {unknown})


def test_a_saved_tokenizer_brings_no_lengths_of_its_own(tmp_path):
    tokenizer = train_tokenizer("words", ["a b c d e f"], 60)
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(3)
    for name in ("tokenizer.json", "mine.json"):
        tokenizer.save(str(tmp_path / name))
        loaded = load_tokenizer(tmp_path / name)
        assert loaded.encode("a b c d").tokens == ["[CLS]", "a", "b", "c", "d", "[SEP]"]


@pytest.mark.parametrize("kind", ["words", "wordpiece"])
def test_special_tokens_are_those_without_text(kind):
    tokenizer = train_tokenizer(kind, ["a cat sat on the mat"], 60)
    assert special_tokens(tokenizer.to_str()) == (list(range(5)), 4)
    assert [tokenizer.id_to_token(i) for i in range(5)] == list(BERT_SPECIAL)


def test_tokenizers_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"no tokenizer at .*characters, words, bpe, wordpiece"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="holds no tokenizer that can be read"):
        load_tokenizer(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Thirty documents, and where they are prepared."""
    directory = tmp_path_factory.mktemp("text")
    lines = [
        json.dumps({"text": f"Document {i} says {'very ' * (i % 5)}little.\n"}) for i in range(30)
    ]
    raw_dir = write(directory / "raw", {"all.jsonl": "\n".join(lines) + "\n"})
    return {"raw_dir": str(raw_dir), "data_dir": str(directory / "data")}


def card_of(prepared, **options):
    return describe_text(
        "text_files", max_len=16, **{"tokenizer": "bpe", "vocab_size": 300, **options}, **prepared
    )


def loader_of(prepared, card, split="train", **options):
    return make_loader(
        "text_files", split, text=card, **{"batch_size": 4, "train": False, **options}, **prepared
    )


def test_a_corpus_is_a_tfds_data_set(prepared):
    card = card_of(prepared)
    assert card.splits == {"train": 27, "test": 3}
    assert (
        card.kind("text").vocab_size
        == Tokenizer.from_str(card.kind("text").tokenizer).get_vocab_size()
        == 300
    )
    source = tfds.data_source(
        "text_files", data_dir=str(tfds.core.Path(card.directory).parents[1]), split="test"
    )
    assert [record["text"] for record in source] == [
        f"Document {i} says {'very ' * (i % 5)}little.\n".encode() for i in (9, 19, 29)
    ]


def test_evaluation_predicts_every_token_once(prepared):
    card = card_of(prepared)
    tokenizer = Tokenizer.from_str(card.kind("text").tokenizer)
    end = tokenizer.token_to_id(END_OF_TEXT)
    texts = [f"Document {i} says {'very ' * (i % 5)}little.\n" for i in (9, 19, 29)]
    stream = [token for text in texts for token in (end, *encode(tokenizer, text, source="x"))] + [
        end
    ]
    batches = list(loader_of(prepared, card, "test"))
    weight = np.concatenate([b["weight"] for b in batches])
    target, tokens = (
        np.concatenate([b[k] for b in batches])[weight > 0] for k in ("target", "tokens")
    )
    assert tokens.tolist() == stream[:-1]
    assert target.tolist() == stream[1:]
    assert not np.concatenate([b["tokens"] for b in batches])[weight == 0].any()
    characters = np.concatenate([b["characters"] for b in batches])[weight > 0]
    assert characters.sum() == sum(map(len, texts))


def test_isolated_documents_have_segments_of_their_own(prepared):
    card = card_of(prepared, isolate=True)
    end = Tokenizer.from_str(card.kind("text").tokenizer).token_to_id(END_OF_TEXT)
    for batch in loader_of(prepared, card):
        real = batch["weight"] > 0
        assert (batch["segments"] > 0)[real].all() and not batch["segments"][~real].any()
        begins = np.diff(batch["segments"], axis=1) == 1
        np.testing.assert_array_equal(
            begins & real[:, 1:], (batch["tokens"][:, 1:] == end) & real[:, 1:]
        )


def test_without_a_separator_nothing_predicts_a_new_document():
    tokens, starts = np.array([1, 2, 3, 4, 5, 6, 7]), np.array([0, 3])
    windows = TokenWindows(tokens, starts, 6, np.ones(8, np.float32), isolate=True, separated=False)
    batch = windows.batch(np.array([0]))
    assert batch["segments"].tolist() == [[1, 1, 1, 2, 2, 2]]
    assert batch["weight"].tolist() == [[1, 1, 0, 1, 1, 1]]


def test_training_windows_are_a_function_of_seed_and_number(prepared):
    card = card_of(prepared)
    streams = [loader_of(prepared, card, train=True, seed=seed) for seed in (1, 1, 2)]
    a, b, c = ([next(stream)["tokens"] for _ in range(9)] for stream in streams)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    resumed = loader_of(prepared, card, train=True, seed=1, start_batch=5)
    np.testing.assert_array_equal(next(resumed)["tokens"], a[5])
    halves = [
        loader_of(prepared, card, train=True, seed=1, process_index=i, process_count=2)
        for i in range(2)
    ]
    np.testing.assert_array_equal(np.concatenate([next(half)["tokens"] for half in halves]), a[0])


def test_windows_cover_the_text_evenly():
    tokens = np.arange(1000)
    windows = TokenWindows(
        tokens, np.array([0]), 10, np.ones(1000, np.float32), isolate=False, separated=False
    )
    counts = Counter()
    for epoch in range(40):
        draws = [(0, epoch * len(windows) + i) for i in range(len(windows))]
        counts.update(windows.batch(np.arange(len(windows)), draws)["target"].ravel().tolist())
    inner = np.array([counts[i] for i in range(20, 980)])
    assert abs(inner.mean() - 40) < 1 and inner.min() >= 25 and inner.max() <= 60


def stream_of(documents, length):
    """Documents of ``length`` words, every word of the corpus another one; their tokens, starts,
    tokenizer."""
    names = [[f"w{d}x{i}" for i in range(length)] for d in range(documents)]
    tokenizer = train_tokenizer("words", [" ".join(words) for words in names], 10_000)
    tokens = np.concatenate([encode(tokenizer, " ".join(words), source="x") for words in names])
    return tokens, np.arange(documents) * length, tokenizer


def parts(batch, row, tokenizer):
    """Tokens of a and of b, by segments and types, once the frame around them is checked."""
    tokens, real, types = batch["tokens"][row], batch["segments"][row] > 0, batch["types"][row]
    begin, end = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    assert real[: real.sum()].all() and not tokens[~real].any() and not types[~real].any()
    a, b = tokens[real & (types == 0)].tolist(), tokens[real & (types == 1)].tolist()
    assert a[0] == begin and a[-1] == b[-1] == end and len(a) > 2 and len(b) > 1
    assert (np.diff(types[real]) >= 0).all()
    return a[1:-1], b[:-1]


def test_half_of_the_pairs_follow_each_other():
    tokens, starts, tokenizer = stream_of(20, 50)
    place = {token: divmod(i, 50) for i, token in enumerate(tokens.tolist())}
    pairs = SentencePairs(tokens, starts, tokenizer, 19, source="x")
    assert len(pairs) == -(-1000 // 16)
    count = 2000
    batch = pairs.batch(np.arange(count) % len(pairs), [(0, i) for i in range(count)])
    others, seen, short = set(), set(), 0
    for row in range(count):
        a, b = ([place[token] for token in part] for part in parts(batch, row, tokenizer))
        for part in (a, b):  # a span: neighbours in one document
            assert part == [(part[0][0], part[0][1] + i) for i in range(len(part))]
        follows = b[0] == (a[-1][0], a[-1][1] + 1)
        assert batch["label"][row] == (0 if follows else 1)
        assert follows or a[0][0] != b[0][0]  # else from another document
        others |= set() if follows else {b[0][0]}
        seen |= {*a, *b}
        short += len(a) + len(b) < 16
    assert abs(batch["label"].mean() - 0.5) < 4 * 0.5 / count**0.5
    assert len(others) == 20 and len(seen) > 0.99 * len(tokens)
    # one in ten gets one of fifteen lengths, of which one is not short
    assert abs(short / count - 0.1 * 14 / 15) < 4 * (0.1 / count) ** 0.5


def test_pairs_are_a_function_of_index_and_draw():
    tokens, starts, tokenizer = stream_of(6, 30)
    pairs = SentencePairs(tokens, starts, tokenizer, 12, source="x")
    indices = np.arange(len(pairs))
    draws = [(7, i) for i in indices.tolist()]
    first, again, other = (
        pairs.batch(indices, draws),
        pairs.batch(indices, draws),
        pairs.batch(indices, draws[::-1]),
    )
    seeded = pairs.batch(indices, [(8, i) for i in indices.tolist()])
    backwards = pairs.batch(indices[::-1], draws[::-1])  # what else is in the batch does not matter
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
        np.testing.assert_array_equal(values, backwards[name][::-1])
    for changed in (other, seeded):
        assert (changed["tokens"] != first["tokens"]).any(axis=1).mean() > 0.5
    fixed = [pairs.batch(indices)["tokens"] for _ in range(2)]  # evaluation has no draws
    np.testing.assert_array_equal(*fixed)


def test_spans_begin_with_words(tmp_path):
    write(
        tmp_path / "t",
        {"vocab.txt": "\n".join([*BERT_SPECIAL, *"abcdef", *(f"##{c}" for c in "abcdef")])},
    )
    tokenizer = load_tokenizer(tmp_path / "t")
    rng = np.random.default_rng(0)
    texts = [" ".join("".join(rng.choice([*"abcdef"], 2)) for _ in range(40)) for _ in range(10)]
    encoded = [encode(tokenizer, text, source="x") for text in texts]
    assert all(len(tokens) == 80 for tokens in encoded)  # each word is two tokens
    pairs = SentencePairs(np.concatenate(encoded), np.arange(10) * 80, tokenizer, 32, source="x")
    batch = pairs.batch(np.arange(600) % len(pairs), [(0, i) for i in range(600)])
    begins = [
        part[0] for row in range(600) for part in parts(batch, row, tokenizer) if len(part) >= 3
    ]
    assert len(begins) > 900
    assert not any(tokenizer.id_to_token(token).startswith("##") for token in begins)


def test_pairs_from_the_loader(tmp_path):
    lines = "".join(
        json.dumps({"text": f"one{i} two{i} three{i} four{i} five{i} six{i}"}) + "\n"
        for i in range(40)
    )
    where = {
        "raw_dir": write(tmp_path / "raw", {"all.jsonl": lines}),
        "data_dir": tmp_path / "data",
    }
    card = describe_text(
        "text_files", form="sentence_pairs", max_len=9, tokenizer="words", vocab_size=400, **where
    )

    def batches(count, **options):
        options = {"batch_size": 8, "train": True, "seed": 1, **options}
        loader = make_loader("text_files", "train", text=card, **options, **where)
        return [next(loader) for _ in range(count)]

    first = batches(6)
    assert {name: (a.shape, a.dtype.type) for name, a in first[0].items()} == card.shapes(8, 9)
    (resumed,), (other,) = batches(1, start_batch=5), batches(1, seed=2)
    halves = [batches(1, process_index=i, process_count=2)[0] for i in range(2)]
    for name in first[0]:
        np.testing.assert_array_equal(resumed[name], first[5][name])
        np.testing.assert_array_equal(
            np.concatenate([half[name] for half in halves]), first[0][name]
        )
    assert not np.array_equal(other["tokens"], first[0]["tokens"])


def test_damaged_caches_are_made_again(prepared, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(prepared["data_dir"], data_dir)
    here = {**prepared, "data_dir": str(data_dir)}
    card = card_of(here)
    first = next(loader_of(here, card))
    for path in data_dir.glob("**/.jaxmodels_cache/*/tokens.bin"):
        path.write_bytes(path.read_bytes()[:-3])
    np.testing.assert_array_equal(next(loader_of(here, card))["tokens"], first["tokens"])


def test_the_command_shows_how_a_corpus_begins(prepared, capsys):
    assert main(["text_files", *(f"--{k}={v}" for k, v in prepared.items())]) == 0
    out = capsys.readouterr().out
    assert "train: 27 texts, " in out and "text begins 'Document 0 says little.\\n'" in out


def test_other_processes_train_the_same_word_pieces():
    code = (
        "from input_pipeline.tokenizers import fingerprint, train_tokenizer\n"
        "from pydoc_data.topics import topics\n"
        "print(fingerprint(train_tokenizer('wordpiece', [topics['for'], topics['while'], "
        "topics['if']], 200)))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(found) == 1 and len(found.pop()) > 10


def test_a_cased_vocabulary_stays_so(tmp_path):
    names = [*BERT_SPECIAL, "Hello", "hello", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(names) + "\n")
    assert load_tokenizer(tmp_path).encode("Hello hellos", add_special_tokens=False).tokens == [
        "Hello",
        "hello",
        "##s",
    ]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert load_tokenizer(tmp_path).encode("Hello", add_special_tokens=False).tokens == ["hello"]


def test_the_length_of_a_pair_says_nothing_of_its_label():
    """Also where documents are short: else a model would learn to count."""
    names = {name: i for i, name in enumerate([*BERT_SPECIAL, *map(str, range(50))])}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="[UNK]"))
    rng = np.random.default_rng(0)
    lengths = rng.geometric(1 / 40, 300) + 1
    tokens = rng.integers(5, 55, lengths.sum())
    pairs = SentencePairs(tokens, np.cumsum([0, *lengths[:-1]]), tokenizer, 64, source="x")
    batches = [
        pairs.batch(np.arange(len(pairs)), [(seed, i) for i in range(len(pairs))])
        for seed in range(10)
    ]
    label = np.concatenate([batch["label"] for batch in batches])
    size = np.concatenate([batch["segments"].sum(1) for batch in batches])
    assert 0.45 < label.mean() < 0.55
    best = max(np.mean((size >= bound) == (label == 0)) for bound in range(5, 65))
    assert best < 0.55  # of the best rule by length; by chance 0.5


def test_a_stream_of_another_feature_than_text(tmp_path):
    where = {"raw_dir": write(tmp_path / "raw", {"train.tsv": "abc\tdef\n", "test.tsv": "a\td\n"})}
    where["data_dir"] = tmp_path / "data"
    found = {}
    for text in ("source", "target"):
        card = describe_text(
            "text_pairs", texts=(text,), max_len=2, tokenizer="characters", **where
        )
        batch = next(
            iter(make_loader("text_pairs", "train", text=card, batch_size=1, train=False, **where))
        )
        tokens = [*batch["tokens"][0], batch["target"][0, -1]]
        found[text] = "".join(
            map(Tokenizer.from_str(card.kind("text").tokenizer).id_to_token, tokens)
        )
    assert found == {"source": "abc", "target": "def"}


def test_python_carries_a_corpus(tmp_path):
    card = describe_text("pydoc", max_len=8, tokenizer="characters", data_dir=tmp_path)
    builder = open_builder("pydoc", data_dir=tmp_path)
    whole = [sum(map(len, read_texts(builder, split))) for split in ("train", "test")]
    assert sum(whole) > 300_000 and 0.09 < whole[1] / sum(whole) < 0.11
    assert card.splits["train"] == card.splits["test"] > 50


def test_files_named_as_splits(tmp_path):
    raw_dir = write(
        tmp_path / "raw",
        {"train.txt": "abc " * 50, "valid.txt": "bcd " * 20, "test_1.txt": "cba " * 20},
    )
    card = describe_text(
        "text_files", max_len=8, tokenizer="characters", raw_dir=raw_dir, data_dir=tmp_path / "data"
    )
    assert card.splits == {"train": 1, "validation": 1, "test": 1}
    (raw_dir / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"what are notes\.txt\?"):
        describe_text("text_files", max_len=8, raw_dir=raw_dir, data_dir=tmp_path / "data")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.txt": ""}, r"a\.txt is empty"),
        ({"a.txt": b"good \xff bad"}, r"a\.txt is not UTF-8: byte 0xff at offset 5"),
        ({"a.jsonl": '{"text": "x"}\n{"txt": "y"}\n'}, r"a\.jsonl, line 2 is not"),
        ({"a.jsonl": '{"text": "x"}\n\nnot json\n'}, r"a\.jsonl, line 3 is not"),
        ({"a.jsonl": '{"text": "x"}\n{"text": " "}\n'}, r"a\.jsonl, line 2: its text is empty"),
        ({"a.csv": "x"}, r"holds no \.txt or \.jsonl file"),
    ],
)
def test_files_that_are_not_right(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        describe_text(
            "text_files",
            max_len=8,
            raw_dir=write(tmp_path / "raw", files),
            data_dir=tmp_path / "data",
        )


def test_tiny_shakespeare_is_checked_byte_by_byte(tmp_path):
    raw_dir = write(tmp_path / "raw", {"input.txt": "First Citizen:\n"})
    with pytest.raises(DataError, match=r"input\.txt has 15 bytes, expected 1115394"):
        describe_text("tiny_shakespeare", max_len=8, raw_dir=raw_dir, data_dir=tmp_path / "data")


def test_images_are_no_text(tmp_path):
    open_builder("digits", data_dir=tmp_path)
    with pytest.raises(
        DataError, match=r"digits/1\.0\.0 has the texts none; data\.texts must name one text"
    ):
        describe_text("digits", max_len=8, data_dir=tmp_path)


@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_pairs_and_masks_need_their_tokens(kind):
    tokenizer = train_tokenizer(kind, ["a b c"], 300)
    with pytest.raises(
        DataError, match=r"corpus x needs a tokenizer with \[CLS\], \[SEP\], \[MASK\]"
    ):
        SentencePairs(np.arange(8) % 4, np.array([0, 4]), tokenizer, 16, source="corpus x")
    with pytest.raises(
        DataError, match=r"masked language modelling needs a tokenizer with \[MASK\]"
    ):
        special_tokens(tokenizer.to_str())


def test_pairs_need_documents_and_room():
    tokens, starts, tokenizer = stream_of(3, 10)
    with pytest.raises(DataError, match=r"max_len 4 has no place for .*at least 5"):
        SentencePairs(tokens, starts, tokenizer, 4, source="x")
    with pytest.raises(DataError, match=r"corpus x has 1 document\(s\) of two tokens or more"):
        SentencePairs(tokens[:11], np.array([0, 10]), tokenizer, 16, source="corpus x")
