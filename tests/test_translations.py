"""Texts and their translations: from raw files to batches of few shapes."""

import gzip
import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer

from input_pipeline import DataError, describe_text, help_pairs, make_loader, translation_texts
from input_pipeline.corpus import read_records
from input_pipeline.datasets import raw
from input_pipeline.datasets.pairs import Multi30k
from input_pipeline.prepare import open_builder
from input_pipeline.sequences import Translations
from input_pipeline.text import open_texts
from input_pipeline.tokenizers import END_OF_TEXT
from tests.test_text import write

BUCKETS, LONGEST = (4, 8), 12


def records_of(name, raw_dir, data_dir):
    """Split -> its examples, with text as str."""
    builder = open_builder(name, raw_dir=raw_dir, data_dir=data_dir)
    return {
        split: [
            {k: v.decode() for k, v in record.items()} for record in read_records(builder, split)
        ]
        for split in builder.info.splits
    }


@pytest.fixture
def multi30k(tmp_path, monkeypatch):
    """Raw files of few sentences, one of them unpacked, in a builder that expects them."""
    files, directory = [], tmp_path / "raw"
    directory.mkdir()
    for file in Multi30k.RAW_FILES:
        split, language = file.unpacked.split(".")
        count = {"train": 3, "val": 2, "test_2016_flickr": 1}[split]
        # a line separator of Unicode, as some captions have, ends no line
        content = "".join(f"{language} {split} {i}\u2028ü\n" for i in range(count)).encode()
        packed = file.unpacked != "val.fr"
        (directory / (file.name if packed else file.unpacked)).write_bytes(
            gzip.compress(content) if packed else content
        )
        files.append(
            raw.RawFile(file.url, 0, "", file.unpacked, hashlib.sha256(content).hexdigest())
        )
    monkeypatch.setattr(Multi30k, "RAW_FILES", tuple(files))
    return {"raw_dir": directory, "data_dir": tmp_path / "data"}


def test_multi30k_as_published(multi30k):
    found = records_of("multi30k", **multi30k)
    for split, (file, count) in {
        "train": ("train", 3),
        "validation": ("val", 2),
        "test": ("test_2016_flickr", 1),
    }.items():
        rows = [
            {language: f"{language} {file} {i}\u2028ü" for language in ("de", "en", "fr")}
            for i in range(count)
        ]
        assert found[split] == rows


def test_multi30k_is_checked_and_asks_for_two_languages(multi30k):
    with pytest.raises(
        DataError, match=r"multi30k/1\.0\.0 has the texts .*must name two texts, source and target"
    ):
        describe_text("multi30k", form="translation", max_len=8, tokenizer="words", **multi30k)
    card = describe_text(
        "multi30k", form="translation", max_len=8, tokenizer="words", texts=("fr", "de"), **multi30k
    )
    sources, targets = translation_texts("multi30k", "validation", card, **multi30k)
    assert sources == [f"fr val {i}\u2028ü" for i in range(2)] and targets == [
        f"de val {i}\u2028ü" for i in range(2)
    ]
    (multi30k["raw_dir"] / "train.en.gz").write_bytes(gzip.compress(b"another\n"))
    elsewhere = {**multi30k, "data_dir": multi30k["data_dir"] / "other"}
    with pytest.raises(DataError, match=r"bad checksum: .*train\.en\.gz has sha256"):
        open_builder("multi30k", **elsewhere)


@pytest.mark.parametrize(
    "files",
    [
        {
            "train.en": "one\ntwo\n",
            "train.zh": "一\n二\u2028个\n",
            "dev.en": "three\n",
            "dev.zh": "三",
        },
        {"train.tsv": "one\t一\n\ntwo\t二\u2028个\n", "valid.tsv": "target\tsource\n三\tthree\n"},
        {
            "train.jsonl": '{"source": "one", "target": "一"}\n{"target": "二\u2028个", "source": "two"}\n',
            "val.tsv": "three\t三\n",
        },
    ],
)
# what Unicode has as a line separator ends no line
def test_local_pairs_in_every_format(tmp_path, files):
    found = records_of("text_pairs", write(tmp_path / "raw", files), tmp_path / "data")
    names = ("en", "zh") if "train.en" in files else ("source", "target")
    rows = [
        dict(zip(names, texts, strict=True))
        for texts in (("one", "一"), ("two", "二\u2028个"), ("three", "三"))
    ]
    assert found == {"train": rows[:2], "validation": rows[2:]}


def test_one_file_of_pairs_is_divided(tmp_path):
    raw_dir = write(tmp_path / "raw", {"mine.tsv": "".join(f"s{i}\tt{i}\n" for i in range(20))})
    rows = [{"source": f"s{i}", "target": f"t{i}"} for i in range(20)]
    found = records_of("text_pairs", raw_dir / "mine.tsv", tmp_path / "data")
    assert found == {"train": [*rows[:9], *rows[10:19]], "test": [rows[9], rows[19]]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Pairs of (i, j) words for all i, j up to 12, the first word naming the pair; where they lie,
    and their texts."""
    directory = tmp_path_factory.mktemp("pairs")
    texts = [
        tuple(" ".join([f"{side}{i}x{j}", *["and"] * (n - 1)]) for side, n in (("s", i), ("t", j)))
        for i in range(1, 13)
        for j in range(1, 13)
    ]
    lines = "".join(
        json.dumps(dict(zip(("source", "target"), pair, strict=True))) + "\n" for pair in texts
    )
    raw_dir = write(directory / "raw", {"train.jsonl": lines})
    return {"raw_dir": raw_dir, "data_dir": directory / "data"}, texts


def card_of(where, **options):
    options = {
        "max_len": LONGEST,
        "tokenizer": "words",
        "texts": ("source", "target"),
        "buckets": BUCKETS,
        **options,
    }
    return describe_text("text_pairs", form="translation", **options, **where)


def need(pair):
    """Tokens that the longer side of a pair takes, with its end token."""
    return max(len(text.split()) for text in pair) + 1


def words_of(ids, tokenizer):
    return [tokenizer.id_to_token(i) for i in ids]


def test_every_pair_is_in_the_shortest_bucket_that_holds_it(prepared, capsys):
    where, texts = prepared
    card = card_of(where)
    assert card.lengths == (*BUCKETS, LONGEST)
    capsys.readouterr()
    examples = open_texts(open_builder("text_pairs", **where), "train", card, train=True)
    assert isinstance(examples, Translations)
    kept = [pair for pair in texts if need(pair) <= LONGEST]
    left_out = len(texts) - len(kept)
    assert left_out == 23 and len(examples) == len(kept)
    assert (
        f"{left_out} of {len(texts)} pairs are left out: above max_len {LONGEST} tokens"
        in capsys.readouterr().err
    )
    tokenizer = Tokenizer.from_str(card.kind("text").tokenizer)
    floor = 0
    for (length, indices), expected in zip(examples.buckets, card.lengths, strict=True):
        assert length == expected
        batch = examples.batch(indices, length=length)
        first = [
            tuple(words_of((s[0], t[0]), tokenizer))
            for s, t in zip(batch["source"], batch["target"], strict=True)
        ]
        wanted = [(s.split()[0], t.split()[0]) for s, t in kept if floor < need((s, t)) <= length]
        assert first == wanted
        floor = length


def test_evaluation_cuts_what_is_too_long_and_says_so(prepared, capsys):
    where, texts = prepared
    card = card_of(where)
    capsys.readouterr()
    batches = list(
        make_loader("text_pairs", "train", text=card, batch_size=16, train=False, **where)
    )
    assert (
        f"23 of {len(texts)} pairs are cut: above max_len {LONGEST} tokens"
        in capsys.readouterr().err
    )
    tokenizer = Tokenizer.from_str(card.kind("text").tokenizer)
    found = {}
    for batch in batches:
        for row in np.flatnonzero(batch["weight"].any(1)):
            target = batch["target"][row][batch["segments"][row] > 0]
            found[tokenizer.id_to_token(int(target[0]))] = words_of(target.tolist(), tokenizer)
        assert not any(values[~batch["weight"].any(1)].any() for values in batch.values())
    assert sum(int(batch["weight"].any(1).sum()) for batch in batches) == len(texts) == len(found)
    assert found == {t.split()[0]: [*t.split(), "[SEP]"][:LONGEST] for _, t in texts}


def test_the_decoder_is_given_what_comes_before(prepared):
    where, texts = prepared
    card = card_of(where)
    tokenizer = Tokenizer.from_str(card.kind("text").tokenizer)
    examples = open_texts(open_builder("text_pairs", **where), "train", card, train=True)
    kept = [pair for pair in texts if need(pair) <= LONGEST]
    batch = examples.batch(np.arange(len(kept)))
    assert {name: (a.shape, a.dtype.type) for name, a in batch.items()} == card.shapes(
        len(kept), LONGEST
    )
    for row, (source, target) in enumerate(kept):
        sides = {"source": [*source.split(), "[SEP]"], "target": [*target.split(), "[SEP]"]}
        sides["tokens"] = ["[CLS]", *target.split()]
        for name, words in sides.items():
            assert words_of(batch[name][row][: len(words)].tolist(), tokenizer) == words
            assert not batch[name][row][len(words) :].any()
        real = {"source_segments": len(sides["source"]), "segments": len(sides["target"])}
        for name, count in {**real, "weight": real["segments"]}.items():
            assert batch[name][row].tolist() == [1] * count + [0] * (LONGEST - count)
    shift = batch["segments"][:, 1:] > 0
    np.testing.assert_array_equal(batch["tokens"][:, 1:][shift], batch["target"][:, :-1][shift])


def test_without_frame_tokens_the_end_of_text_is_both(prepared):
    where, _ = prepared
    card = card_of(where, tokenizer="bpe", vocab_size=400, max_len=64, buckets=())
    assert card.lengths == (64,)
    end = Tokenizer.from_str(card.kind("text").tokenizer).token_to_id(END_OF_TEXT)
    batch = next(make_loader("text_pairs", "train", text=card, batch_size=32, train=False, **where))
    last = batch["segments"].sum(1) - 1
    assert last.min() > 0  # such a token with number 0 is not taken for padding
    assert (batch["tokens"][:, 0] == end).all() and (
        batch["target"][np.arange(32), last] == end
    ).all()
    source_last = batch["source_segments"].sum(1) - 1
    assert (batch["source"][np.arange(32), source_last] == end).all()
    np.testing.assert_array_equal(batch["weight"].sum(1), last + 1)


def train_batches(where, card, count, **options):
    options = {"batch_size": 8, "seed": 1, **options}
    loader = make_loader("text_pairs", "train", text=card, train=True, **options, **where)
    return [next(loader) for _ in range(count)]


def test_training_batches_have_few_shapes_and_miss_no_pair(prepared):
    where, texts = prepared
    card = card_of(where)
    kept = [pair for pair in texts if need(pair) <= LONGEST]
    epoch = -(-len(kept) // 8)
    batches = train_batches(where, card, 2 * epoch)
    orders = []
    for part in (batches[:epoch], batches[epoch:]):
        shapes = [batch["tokens"].shape for batch in part]
        # of 9, 40 and 72 pairs one each is left over to the next length; the last gets a batch
        # filled up with others
        assert Counter(shapes) == {(8, 4): 1, (8, 8): 5, (8, 12): 10}
        assert all(
            values.shape == batch["tokens"].shape for batch in part for values in batch.values()
        )
        first = [int(token) for batch in part for token in batch["source"][:, 0]]
        assert len(set(first)) == len(kept)
        orders.append((shapes, first))
        for batch in part:
            assert batch["weight"].any(1).all()
    (shapes, first), (later_shapes, later) = orders
    assert shapes != sorted(shapes) and shapes != later_shapes and first != later


def test_training_batches_are_a_function_of_seed_and_number(prepared):
    where, _ = prepared
    card = card_of(where)
    first, again, other = (train_batches(where, card, 20, seed=seed) for seed in (1, 1, 2))
    resumed = train_batches(where, card, 3, start_batch=16)
    halves = [train_batches(where, card, 16, process_index=i, process_count=2) for i in range(2)]
    for t, batch in enumerate(first):
        for name, values in batch.items():
            np.testing.assert_array_equal(values, again[t][name])
            if t < 16:
                np.testing.assert_array_equal(
                    values, np.concatenate([half[t][name] for half in halves])
                )
            elif t < 19:
                np.testing.assert_array_equal(values, resumed[t - 16][name])
    assert any(
        not np.array_equal(a["source"], b["source"]) for a, b in zip(first, other, strict=True)
    )


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"train.en": "one\ntwo\n", "train.de": "eins\n"},
            r"train\.de has 1 lines and .*train\.en has 2",
        ),
        ({"train.en": "one\n", "train.de": "eins\n", "dev.en": "two\n"}, r"dev\.de is missing"),
        (
            {"train.en": "one\n\nthree\n", "train.de": "eins\nzwei\ndrei\n"},
            r"train\.en, line 2 is empty",
        ),
        (
            {"train.en": "one\n", "train.de": "eins\n", "train.fr": "un\n"},
            r"files of 3 language\(s\), 'de', 'en', 'fr'",
        ),
        ({"train.en": "one\n"}, r"files of 1 language\(s\), 'en'"),
        ({"train.en": "one\n", "train.de": ""}, r"train\.de is empty"),
        (
            {"train.en": "one\n", "train.de": b"f\xfcnf\n"},
            r"train\.de is not UTF-8: byte 0xfc at offset 1",
        ),
        (
            {"train.tsv": "one\teins\ntwo zwei\n"},
            r"train\.tsv, line 2 has 1 columns, not 2: source, target",
        ),
        ({"train.tsv": "one\teins\ntwo\t \n"}, r"train\.tsv, line 2: its target is empty"),
        (
            {"train.jsonl": '{"source": "a", "target": "b"}\n["a", "b"]\n'},
            r"train\.jsonl, line 2 is not",
        ),
        ({"train.jsonl": '{"source": "a"}\n'}, r"train\.jsonl, line 1 is not .*KeyError: 'target'"),
    ],
)
def test_pairs_that_are_not_right(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        open_builder(
            "text_pairs", raw_dir=write(tmp_path / "raw", files), data_dir=tmp_path / "data"
        )


def test_what_translation_cannot_do(prepared):
    where, _ = prepared
    with pytest.raises(DataError, match=r"text_pairs/1\.0\.0 has no text 'en'; it has .*source"):
        card_of(where, texts=("en", "target"))
    with pytest.raises(DataError, match="must name two texts, source and target"):
        card_of(where, texts=("source",))
    with pytest.raises(DataError, match=r"has no split 'test'.*Splits: train"):
        card_of(where, require=("test",))
    builder = open_builder("text_pairs", **where)
    with pytest.raises(DataError, match=r"split 'train' .*needs a tokenizer with \[CLS\], \[SEP\]"):
        open_texts(builder, "train", card_of(where, tokenizer="characters"), train=True)
    with pytest.raises(DataError, match="has no pairs of at most max_len 1 tokens"):
        open_texts(builder, "train", card_of(where, max_len=1, buckets=()), train=True)


def test_pairs_from_help_pages(tmp_path, capsys, monkeypatch):
    """Elements of the same page and id; each page in one split; nothing of the held-out sources in
    training."""
    monkeypatch.setattr(help_pairs, "HELD_OUT", 3)
    for language, word in (("en-US", "open"), ("zh-CN", "打开")):
        (tmp_path / language / "sub").mkdir(parents=True)
        for page in range(9):
            text = "".join(
                f'<p id="par_id{i}" class="x">{word} &amp; <b>{page}</b><br/>{i}</p>\n<h1 '
                'id="other">title</h1>'
                for i in range(4)
            )
            same = '<p id="par_id8">untranslated</p><p id="par_id9"><span class="switchinline">a</span></p>'
            (tmp_path / language / "sub" / f"{page}.html").write_text(text + same, "utf-8")
    assert help_pairs.main([str(tmp_path), str(tmp_path / "pairs")]) == 0
    found = {
        name: (tmp_path / "pairs" / f"{name}.tsv").read_text("utf-8").splitlines()
        for name in ("train", "valid", "test")
    }
    assert {name: len(lines) for name, lines in found.items()} == {
        "train": 28,
        "valid": 3,
        "test": 3,
    }
    rows = [line.split("\t") for lines in found.values() for line in lines]
    assert all(source.replace("open", "打开") == target for source, target in rows)
    pages = [{line.split()[2] for line in lines} for lines in found.values()]
    assert not (pages[0] & pages[1] or pages[0] & pages[2] or pages[1] & pages[2])
    said = capsys.readouterr().err
    assert "test 3, valid 3, train 28" in said
    # of 6 elements on each of 9 pages; a page is held out whole, and 3 of its 4 pairs are taken
    assert said.endswith(
        '20 elements are skipped: 9 with alternatives side by side ("Ctrl", "Command"), '
        "9 the same in both languages, 2 held out beyond 3 of a split\n"
    )
    with pytest.raises(SystemExit):
        help_pairs.main([str(tmp_path), str(tmp_path / "pairs"), "--target=de"])
    assert "has no directory de; it has en-US, pairs, zh-CN" in capsys.readouterr().err
