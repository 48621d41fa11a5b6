"""Texts with labels, from raw files in their published formats to batches; masking; files that are
not right."""

import hashlib
import json
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tokenizers import Tokenizer

from input_pipeline import DataError, describe_text, make_loader
from input_pipeline.corpus import read_records
from input_pipeline.cropping import crop_text
from input_pipeline.datasets import raw
from input_pipeline.datasets.labelled import GLUE, SST2, LabelledBuilder
from input_pipeline.masking import mask_tokens
from input_pipeline.prepare import open_builder
from input_pipeline.text import text_features
from tests.test_text import write


def records_of(name, raw_dir, data_dir):
    """Split -> its examples, with text as str and labels by name."""
    builder = open_builder(name, raw_dir=raw_dir, data_dir=data_dir)
    names = getattr(builder.info.features["label"], "names", None)
    return {
        split: [
            {
                k: v.decode() if k != "label" else names[v] if names else float(v)
                for k, v in record.items()
            }
            for record in read_records(builder, split)
        ]
        for split in builder.info.splits
    }


def labelled(tmp_path, files, **options):
    """Card of local files with labels, and where they lie."""
    where = {"raw_dir": write(tmp_path / "raw", files), "data_dir": tmp_path / "data"}
    options = {"max_len": 8, "tokenizer": "words", "texts": ("text",), **options}
    return describe_text("text_labels", form="labels", **options, **where), where


# What GLUE's archives hold, columns and oddities included: CoLA has no header, MNLI's files differ
# in their columns, quotes are letters like others.
PAIR = 'He said "no.\tShe heard "no.'
GLUE_FILES = {
    "cola": {
        "train.tsv": 'gj04\t1\t\tThe "sailors rode.\ngj04\t0\t*\tThey drank the pub.\n',
        "dev.tsv": "gj04\t1\t\tThe weights made the rope stretch.\n",
    },
    "sst2": {
        "train.tsv": 'sentence\tlabel\nhide new secretions \t0\ncontains no "wit \t1\n',
        "dev.tsv": "sentence\tlabel\nit 's charming . \t1\n",
    },
    "mrpc": {
        name: "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n" + rows
        for name, rows in (
            ("train.tsv", f"1\t702876\t702977\t{PAIR}\n0\t2108705\t2108831\t{PAIR}\n"),
            ("dev.tsv", f"1\t1330381\t1330521\t{PAIR}\n"),
        )
    },
    "qqp": {
        name: "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n" + rows
        for name, rows in (
            (
                "train.tsv",
                f"133273\t213221\t213222\t{PAIR}\t0\n402555\t536040\t536041\t{PAIR}\t1\n",
            ),
            ("dev.tsv", f"201359\t303345\t303346\t{PAIR}\t1\n"),
        )
    },
    "mnli": {
        "train.tsv": "index\tpromptID\tpairID\tgenre\tb1\tb2\tp1\tp2\tsentence1\tsentence2\tlabel1\tgold_label\n"
        f"0\t31193\t31193n\tgovernment\t( b )\t( b )\t( p )\t( p )\t{PAIR}\tneutral\tneutral\n"
        "1\t101457\t101457e\tfiction\t( b )\t( b )\t( p )\t( p "
        f")\t{PAIR}\tcontradiction\tentailment\n",
        **{
            f"dev_{kind}.tsv": "index\tpromptID\tpairID\tgenre\tb1\tb2\tp1\tp2\tsentence1\tsentence2"
            "\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
            f"0\t63735\t63735n\tslate\t( b )\t( b )\t( p )\t( p )\t{PAIR}"
            + "\tneutral" * 5
            + f"\t{label}\n"
            for kind, label in (("matched", "contradiction"), ("mismatched", "entailment"))
        },
    },
    "qnli": {
        "train.tsv": f"index\tquestion\tsentence\tlabel\n0\t{PAIR}\tentailment\n1\t{PAIR}\tnot_entailment\n",
        "dev.tsv": f"index\tquestion\tsentence\tlabel\n0\t{PAIR}\tnot_entailment\n",
    },
    "rte": {
        "train.tsv": f"index\tsentence1\tsentence2\tlabel\n0\t{PAIR}\tnot_entailment\n1\t{PAIR}\tentailment\n",
        "dev.tsv": f"index\tsentence1\tsentence2\tlabel\n0\t{PAIR}\tentailment\n",
    },
    "stsb": {
        name: "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        + rows
        for name, rows in (
            ("train.tsv", f"0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\t{PAIR}\t5.000\n"),
            (
                "dev.tsv",
                "".join(f"0\tg\tf\ty\t1\tnone\tnone\t{PAIR}\t{s}\n" for s in ("0.0", "3.25")),
            ),
        )
    },
    "wnli": {
        "train.tsv": f"index\tsentence1\tsentence2\tlabel\n0\t{PAIR}\t1\n1\t{PAIR}\t0\n",
        "dev.tsv": f"index\tsentence1\tsentence2\tlabel\n0\t{PAIR}\t0\n",
    },
}
GLUE_LABELS = {
    "cola": {"train": ["acceptable", "unacceptable"], "validation": ["acceptable"]},
    "sst2": {"train": ["negative", "positive"], "validation": ["positive"]},
    "mrpc": {"train": ["equivalent", "not_equivalent"], "validation": ["equivalent"]},
    "qqp": {"train": ["not_duplicate", "duplicate"], "validation": ["duplicate"]},
    "mnli": {
        "train": ["neutral", "entailment"],
        "validation_matched": ["contradiction"],
        "validation_mismatched": ["entailment"],
    },
    "qnli": {"train": ["entailment", "not_entailment"], "validation": ["not_entailment"]},
    "rte": {"train": ["not_entailment", "entailment"], "validation": ["entailment"]},
    "stsb": {"train": [5.0], "validation": [0.0, 3.25]},
    "wnli": {"train": ["entailment", "not_entailment"], "validation": ["not_entailment"]},
}
GLUE_TEXTS = {
    "cola": ['The "sailors rode.', "They drank the pub."],
    "sst2": ["hide new secretions ", 'contains no "wit '],
}


@pytest.mark.parametrize("task", sorted(GLUE))
def test_glue_as_published(tmp_path, task):
    # in the directory of its name, as the archive unpacks, for one half; the directory itself for
    # the other
    inner = tmp_path / "raw" / GLUE[task].directory if task < "qnli" else tmp_path / "raw"
    inner.mkdir(parents=True)
    write(inner, GLUE_FILES[task])
    found = records_of(f"glue/{task}", tmp_path / "raw", tmp_path / "data")
    assert {
        split: [r["label"] for r in records] for split, records in found.items()
    } == GLUE_LABELS[task]
    if task in GLUE_TEXTS:
        assert [record["text"] for record in found["train"]] == GLUE_TEXTS[task]
        assert set(found["train"][0]) == {"text", "label"}
    else:
        for record in [r for records in found.values() for r in records]:
            assert (record["text"], record["text_pair"]) == tuple(PAIR.split("\t"))


def test_broken_rows_of_qqp_are_left_out_and_counted(tmp_path, capsys):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    files = {
        "train.tsv": header + "1\t2\t3\tWhat\n4\t5\t6\tWhy?\tHow?\t0\n7\t8\n",
        "dev.tsv": header + "1\t2\t3\ta\tb\t1\n",
    }
    found = records_of("glue/qqp", write(tmp_path / "raw", files), tmp_path / "data")
    assert found["train"] == [{"text": "Why?", "text_pair": "How?", "label": "not_duplicate"}]
    assert "train.tsv: 2 broken rows are left out, the first in line 2" in capsys.readouterr().err


def test_sst2_as_published(tmp_path, monkeypatch):
    files = {
        "train.tsv": "a stirring , funny tale\t1\napparently reassembled from the cutting-room floor\t0\n",
        "dev.tsv": 'one long string of "cliches\t0\n',
        "test.tsv": "no movement , no yuks\t0\n",
    }
    raw_dir = write(tmp_path / "raw", files)
    small = [
        raw.RawFile(
            f.url, len(text.encode()), hashlib.sha256(text.encode()).hexdigest(), f.unpacked
        )
        for f, text in zip(SST2.RAW_FILES, files.values(), strict=True)
    ]
    monkeypatch.setattr(SST2, "RAW_FILES", tuple(small))
    assert records_of("sst2", raw_dir, tmp_path / "data") == {
        "train": [
            {"text": "a stirring , funny tale", "label": "positive"},
            {"text": "apparently reassembled from the cutting-room floor", "label": "negative"},
        ],
        "validation": [{"text": 'one long string of "cliches', "label": "negative"}],
        "test": [{"text": "no movement , no yuks", "label": "negative"}],
    }


@pytest.mark.parametrize(
    "files",
    [
        {"train.tsv": "good\tpos\n\nbad\tneg\n", "valid.tsv": "fine\tpos\n"},
        {
            "train.tsv": "label\ttext\npos\tgood\nneg\tbad\n",
            "dev_1.tsv": "TEXT\tid\tlabel\nfine\t7\tpos\n",
        },
        {
            "train.jsonl": '{"text": "good", "label": "pos"}\n{"label": "neg", "text": "bad", "more": 1}\n',
            "val.tsv": "fine\tpos\n",
        },
        {
            "train_a.tsv": "good\tpos\n",
            "train_b.jsonl": '{"text": "bad", "label": "neg"}',
            "VAL.tsv": "fine\tpos",
        },
    ],
)
def test_local_labels_in_every_format(tmp_path, files):
    assert records_of("text_labels", write(tmp_path / "raw", files), tmp_path / "data") == {
        "train": [{"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"}],
        "validation": [{"text": "fine", "label": "pos"}],
    }


def test_one_file_of_labels_is_divided(tmp_path):
    lines = "".join(
        json.dumps({"text": f"t{i}", "text_pair": f"p{i}", "label": i % 3}) + "\n"
        for i in range(20)
    )
    raw_dir = write(tmp_path / "raw", {"mine.jsonl": lines})
    found = records_of("text_labels", raw_dir / "mine.jsonl", tmp_path / "data")
    rows = [{"text": f"t{i}", "text_pair": f"p{i}", "label": str(i % 3)} for i in range(20)]
    assert found == {"train": [*rows[:9], *rows[10:19]], "test": [rows[9], rows[19]]}
    (raw_dir / "mine.jsonl").write_text(lines.replace("t0", "other"))
    changed = records_of("text_labels", raw_dir / "mine.jsonl", tmp_path / "data")
    # not what was prepared from the file's earlier content
    assert changed["train"][0]["text"] == "other"


def test_texts_are_framed_cut_and_counted(tmp_path, capsys):
    text = "good film\tpos\nbad\tneg\nso good a film it is not bad\tpos\n"
    card, where = labelled(tmp_path, {"train.tsv": text}, max_len=6)
    assert card.label_names == ("neg", "pos") and card.num_classes == 2
    capsys.readouterr()
    (batch,) = make_loader("text_labels", "train", text=card, batch_size=4, train=False, **where)
    assert (
        "split 'train' of text_labels/1.0.0: 1 of 3 texts are cut to max_len 6 tokens"
        in capsys.readouterr().err
    )
    words = Tokenizer.from_str(card.kind("text").tokenizer).token_to_id
    wanted = ["[CLS] good film [SEP]", "[CLS] bad [SEP]", "[CLS] so good a film [SEP]", ""]
    for row, names in enumerate(map(str.split, wanted)):
        padding = [0] * (6 - len(names))
        assert batch["tokens"][row].tolist() == [*map(words, names), *padding]
        assert batch["segments"][row].tolist() == [1] * len(names) + padding
    assert batch["label"].tolist() == [1, 0, 1, 0] and batch["weight"].tolist() == [1, 1, 1, 0]
    assert not batch["types"].any()
    for name, (shape, dtype) in card.shapes(4, 6).items():
        assert batch[name].shape == shape and batch[name].dtype == dtype, name
    assert set(batch) == set(card.shapes(4, 6))


def test_pairs_of_texts_have_types_and_the_longer_is_cut(tmp_path, capsys):
    lines = "text\ttext_pair\tlabel\na b\tc\t0\na\tb c d e f g h\t1\na b c d e f\tg\t1\n"
    card, where = labelled(tmp_path, {"train.tsv": lines}, texts=("text", "text_pair"))
    assert card.kind("text").texts == ("text", "text_pair")
    (batch,) = make_loader("text_labels", "train", text=card, batch_size=3, train=False, **where)
    assert "2 of 3 texts are cut to max_len 8 tokens" in capsys.readouterr().err
    words = Tokenizer.from_str(card.kind("text").tokenizer).token_to_id
    for row, (first, second) in enumerate([("a b", "c"), ("a", "b c d e"), ("a b c d", "g")]):
        a, b = ["[CLS]", *first.split(), "[SEP]"], [*second.split(), "[SEP]"]
        padding = [0] * (8 - len(a) - len(b))
        assert batch["tokens"][row].tolist() == [*map(words, a + b), *padding]
        assert batch["types"][row].tolist() == [0] * len(a) + [1] * len(b) + padding
        assert batch["segments"][row].tolist() == [1] * len(a + b) + padding


def test_the_order_of_texts_is_the_users(tmp_path):
    lines = "text\ttext_pair\tlabel\na\tb\t0\nc\td\t1\n"
    card, where = labelled(tmp_path, {"train.tsv": lines}, texts=("text_pair", "text"))
    (batch,) = make_loader("text_labels", "train", text=card, batch_size=2, train=False, **where)
    names = [
        Tokenizer.from_str(card.kind("text").tokenizer).id_to_token(i)
        for i in batch["tokens"][0].tolist()
    ]
    assert names[:5] == ["[CLS]", "b", "[SEP]", "a", "[SEP]"]


def test_labelled_texts_in_training_come_once_an_epoch(tmp_path):
    lines = "".join(f"w{i}\t{i % 2}\n" for i in range(10))
    card, where = labelled(tmp_path, {"train.tsv": lines})
    loader = make_loader(
        "text_labels", "train", text=card, batch_size=5, train=True, seed=3, **where
    )
    epochs = [
        np.concatenate([next(loader)["tokens"][:, 1] for _ in range(2)]).tolist() for _ in range(2)
    ]
    assert (
        len(set(epochs[0])) == 10
        and sorted(epochs[0]) == sorted(epochs[1])
        and epochs[0] != epochs[1]
    )


def test_batches_of_about_the_same_length(tmp_path):
    """Every text once, in a batch of the shortest length for the longest of it."""
    rng = np.random.default_rng(0)
    texts = [" ".join(["w"] * n) for n in rng.integers(1, 12, 50)]
    files = {"train.tsv": "".join(f"{text} n{i}\t{'ab'[i % 2]}\n" for i, text in enumerate(texts))}
    card, where = labelled(tmp_path, files, max_len=16, buckets=(6, 10))
    assert card.lengths == (6, 10, 16) and "padded to 6, 10, 16" in card.summary()
    tokenizer, seen = Tokenizer.from_str(card.kind("text").tokenizer), []
    for batch in make_loader("text_labels", "train", text=card, batch_size=8, train=False, **where):
        length = batch["tokens"].shape[1]
        assert {k: (v.shape, v.dtype) for k, v in batch.items()} == card.shapes(8, length)
        real = batch["weight"] > 0
        lengths = batch["segments"].sum(1)[real]
        assert all(max([0, *[n for n in (6, 10) if n < length]]) < n <= length for n in lengths)
        assert not batch["tokens"][~real].any() and not batch["segments"][~real].any()
        seen += [tokenizer.decode(row).split()[-1] for row in batch["tokens"][real]]
        assert [f"n{i}" for i in range(50) if "ab"[i % 2] == "a"] != seen
    assert sorted(seen) == sorted(f"n{i}" for i in range(50))
    stream = make_loader("text_labels", "train", text=card, batch_size=8, train=True, **where)
    assert {next(stream)["tokens"].shape for _ in range(20)} == {(8, 6), (8, 10), (8, 16)}


def test_a_split_without_labels_is_refused(tmp_path):
    class Hidden(LabelledBuilder, skip_registration=True):
        """Labels that were kept back, as in the test splits of benchmarks."""

        name = "hidden"

        def label_names(self):
            return ["no", "yes"]

        def records(self):
            return {
                "train": [{"text": "a", "label": "yes"}],
                "test": [{"text": "b", "label": -1}] * 3,
            }

    config = tfds.download.DownloadConfig(try_download_gcs=False)
    Hidden(data_dir=tmp_path, file_format="array_record").download_and_prepare(
        download_config=config
    )
    card = describe_text("hidden", form="labels", max_len=8, tokenizer="words", data_dir=tmp_path)
    options = {"text": card, "batch_size": 1, "train": False, "data_dir": tmp_path}
    assert next(make_loader("hidden", "train", **options))["label"].tolist() == [1]
    with pytest.raises(
        DataError, match=r"split 'test' of hidden/1\.0\.0 has 3 examples without a label"
    ):
        make_loader("hidden", "test", **options)


# Masking

ROWS, LENGTH, VOCABULARY, MASK = 400, 100, 1000, 4


@pytest.fixture(scope="module")
def masked():
    """Rows of ordinary tokens behind [CLS], before [SEP] and padding, and what became of them under
    two keys."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, VOCABULARY, (ROWS, LENGTH)).astype(np.int32)
    lengths = rng.integers(3, LENGTH + 1, ROWS)
    lengths[:200], lengths[200] = LENGTH, 2
    place = np.arange(LENGTH)
    tokens[:, 0] = 2
    tokens[place == lengths[:, None] - 1] = 3
    tokens[place >= lengths[:, None]] = 0
    maskable = tokens >= 5

    def run(seed):
        keys = jax.random.split(jax.random.key(seed), ROWS)
        mask = jax.vmap(
            lambda *row: mask_tokens(*row, rate=0.15, mask_token=MASK, vocab_size=VOCABULARY)
        )
        return tuple(
            map(np.asarray, jax.jit(mask)(keys, jnp.asarray(tokens), jnp.asarray(maskable)))
        )

    return tokens, maskable, run(1), run(1), run(2)


def test_masked_places(masked):
    tokens, maskable, (hidden, places, target, weight), _, _ = masked
    drawn = np.zeros(tokens.shape, int)
    np.add.at(drawn, (np.arange(ROWS)[:, None], places), weight.astype(int))
    assert drawn.max() == 1 and not drawn[~maskable].any()
    np.testing.assert_array_equal(hidden[drawn == 0], tokens[drawn == 0])
    np.testing.assert_array_equal(target, np.take_along_axis(tokens, places, 1))
    # 15% of what may be masked, rounded; one at least, none where there is nothing
    share = 0.15 * maskable.sum(1)
    wanted = np.where(maskable.any(1), np.maximum(1, share), 0)
    assert (np.abs(weight.sum(1) - wanted) <= 0.5 + 1e-5).all()
    assert maskable[200].sum() == 0 == weight[200].sum()
    assert places.shape == (ROWS, 15)
    # every place is as likely as another: of 200 full rows each has 200 * 15 / 98 on average
    counts = drawn[:200, 1:-1].sum(0)
    assert abs(counts.mean() - 200 * 15 / 98) < 0.5 and counts.min() > 8 and counts.max() < 60


def test_crops_are_spans_of_the_words():
    """Tokens 2 and 3 stand around 0 to 20 words, which are numbered from 10."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 21, 2000)
    lengths[:2] = 0, 1
    tokens, segments = np.zeros((2, 2000, 24), np.int32)
    for i, n in enumerate(lengths):
        tokens[i, : n + 2], segments[i, : n + 2] = [2, *range(10, 10 + n), 3], 1

    def cropped(rate):
        crop = jax.jit(jax.vmap(partial(crop_text, rate=rate)))
        keys = jax.random.split(jax.random.key(0), len(tokens))
        return map(
            np.asarray,
            crop(keys, jnp.asarray(tokens), jnp.asarray(segments), jnp.asarray(tokens >= 10)),
        )

    for whole, found in zip((tokens, segments), cropped(0.0), strict=True):
        np.testing.assert_array_equal(found, whole)
    shares, starts = [], []  # a start as a share of what it may be
    for row, there, n in zip(*cropped(1.0), lengths, strict=True):
        left = row[there > 0].tolist()
        kept = len(left) - 2
        assert not row[len(left) :].any() and there[: len(left)].all()
        assert left[0] == 2 and left[-1] == 3 and kept >= np.ceil(0.15 * n)
        assert left[1:-1] == [*range(left[1], left[1] + kept)] if kept else n == 0
        if n == 20:
            shares.append(kept / n)
        if kept < n:
            starts.append((left[1] - 10) / (n - kept))
    assert 0.15 <= min(shares) < 0.25 and max(shares) == 1 and abs(np.mean(shares) - 0.6) < 0.08
    assert min(starts) == 0 and max(starts) == 1 and abs(np.mean(starts) - 0.5) < 0.05
    half = next(iter(cropped(0.5)))
    assert abs((half != tokens).any(1)[lengths > 9].mean() - 0.5 * 0.95) < 0.06


def test_eighty_ten_ten(masked):
    _, _, (hidden, places, target, weight), _, _ = masked
    became = np.take_along_axis(hidden, places, 1)[weight > 0]
    target, count = target[weight > 0], int(weight.sum())
    assert count > 4000
    random = became[(became != MASK) & (became != target)]
    for found, share in ((became == MASK, 0.8), (became == target, 0.1), (random, 0.1)):
        number = len(found) if found is random else found.sum()
        assert abs(number / count - share) < 4 * (share * (1 - share) / count) ** 0.5
    # from the whole vocabulary
    assert abs(random.mean() - VOCABULARY / 2) < 4 * VOCABULARY / 12**0.5 / len(random) ** 0.5
    assert random.min() >= 0 and random.max() < VOCABULARY


def test_masking_is_a_function_of_the_key(masked):
    _, _, first, again, other = masked
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first[0][:200] != other[0][:200]).any(1).all()
    # nor do rows share their draws
    assert len({tuple(row) for row in first[1][:200].tolist()}) == 200


# What is not right


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train.tsv": ""}, r"train\.tsv is empty"),
        ({"train.tsv": b"caf\xe9\tpos\n"}, r"train\.tsv is not UTF-8: byte 0xe9 at offset 3"),
        (
            {"a.tsv": "good\tpos\nbad\n"},
            r"a\.tsv, line 2 has 1 columns, not 2: text, label, separated by tabs",
        ),
        ({"a.tsv": "good\tpos\nbad\tneg\tmore\n"}, r"a\.tsv, line 2 has 3 columns, not 2"),
        ({"a.tsv": "good\tpos\n\n \tneg\n"}, r"a\.tsv, line 3: its text is empty"),
        ({"a.tsv": "good\tpos\n\t\nbad\tneg\n"}, r"a\.tsv, line 2: its text is empty"),
        ({"a.tsv": "good\tpos\nfine\tpos\n"}, r"have the label 'pos'; at least two"),
        (
            {"a.jsonl": '{"text": "a", "label": "x"}\n{"text": "b"}\n'},
            r"a\.jsonl, line 2 is not .*KeyError: 'label'",
        ),
        (
            {"a.jsonl": '{"text": "a", "label": "x"}\n{"text": \n'},
            r"a\.jsonl, line 2 is not .*JSONDecodeError",
        ),
        (
            {"a.jsonl": '{"text": "a", "label": null}\n'},
            r"a\.jsonl, line 1: its label is empty or no text",
        ),
        (
            {"train.tsv": "good\tpos\nbad\tneg\n", "test.tsv": "so\tpos\nodd\tneutral\n"},
            r"test\.tsv, line 2: label 'neutral' is not one of the training files': neg, pos",
        ),
        ({"train.tsv": "good\tpos\nbad\tneg\n", "mine.tsv": "so\tpos\n"}, r"what are mine\.tsv\?"),
        ({"a.csv": "good,pos\n"}, r"holds no \.tsv or \.jsonl file"),
        ({"train.tsv": "text\tlabel\n"}, r"train\.tsv has no examples"),
        (
            {"train.tsv": "good\tpos\nbad\tneg\n", "test.tsv": "text\tlabel\n"},
            r"test\.tsv has no examples",
        ),
        ({"valid.tsv": "good\tpos\nbad\tneg\n"}, r"beside valid\.tsv there is no file named train"),
        (
            {
                "a.jsonl": '{"text": "a", "label": "x"}\n{"text": "a", "text_pair": "b", "label": "x"}\n'
            },
            r"a\.jsonl, line 1 is not .*text_pair.*KeyError: 'text_pair'",
        ),
        (
            {"a.jsonl": '{"text": "a\\ud83d", "label": "x"}\n'},
            r"a\.jsonl, line 1: its text has half a? ?.*surrogate",
        ),
        (
            {"a.tsv": "sentence\tlabel\ngood\tpos\n"},
            r"a\.tsv, line 1 names the columns sentence, label, not text, label",
        ),
        (
            {"a.tsv": "good\tpos\nbad\tneg\n"},
            r"text_labels: 2 examples are too few to set every tenth aside",
        ),
    ],
)
def test_labels_that_are_not_right(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        open_builder(
            "text_labels", raw_dir=write(tmp_path / "raw", files), data_dir=tmp_path / "data"
        )


RTE = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n"


@pytest.mark.parametrize(
    ("task", "files", "words"),
    [
        ("rte", {"train.tsv": RTE}, r"glue/rte: .* lacks dev\.tsv"),
        ("mnli", {"train.tsv": RTE}, r"glue/mnli: .* lacks dev_matched\.tsv, dev_mismatched\.tsv"),
        (
            "rte",
            {"train.tsv": RTE + "1\ta\tb\tmaybe\n"},
            r"train\.tsv, line 3: label 'maybe' is not one of entailment",
        ),
        ("rte", {"train.tsv": RTE + "1\ta\n"}, r"train\.tsv, line 3 has 2 columns, not 4"),
        (
            "qnli",
            {"train.tsv": RTE},
            r"train\.tsv, line 1 names no column 'question'; it has index, sentence1",
        ),
        *(
            (
                "stsb",
                {"train.tsv": f"sentence1\tsentence2\tscore\na\tb\t{x}\n"},
                f"line 2: label '{x}' is not a number from",
            )
            for x in ("5.1", "-1", "nan", "high", "")
        ),
        (
            "cola",
            {"train.tsv": "gj04\t1\t\ta\ngj04\t2\t\tb\n"},
            r"train\.tsv, line 2: label '2' is not one of 0, 1",
        ),
    ],
)
def test_glue_files_that_are_not_right(tmp_path, task, files, words):
    if "lacks" not in words:
        files = {**files, "dev.tsv": RTE}
    with pytest.raises(DataError, match=words):
        open_builder(
            f"glue/{task}", raw_dir=write(tmp_path / "raw", files), data_dir=tmp_path / "data"
        )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("glue/mrpc", r"needs --config\.data\.raw_dir: the directory of MRPC's \.tsv files"),
        ("text_labels", r"needs --config\.data\.raw_dir: a \.tsv or \.jsonl file, or a directory"),
        ("text_pairs", r"needs --config\.data\.raw_dir: a text file, or a directory"),
    ],
)
def test_no_raw_dir_says_what_it_is_for(tmp_path, name, words):
    with pytest.raises(DataError, match=words):
        open_builder(name, data_dir=tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sst2", r"sst2: raw_dir .* lacks train\.tsv.*dev\.tsv.*test\.tsv"),
        ("multi30k", r"multi30k: raw_dir .* lacks train\.de\.gz \(or train\.de\), train\.en\.gz"),
        ("glue/rte", r"glue/rte: .* lacks train\.tsv, dev\.tsv"),
        ("text_labels", r"holds no \.tsv or \.jsonl file"),
        ("text_pairs", r"holds no text file"),
    ],
)
def test_an_empty_raw_dir_says_what_belongs_there(tmp_path, name, words):
    with pytest.raises(DataError, match=words):
        open_builder(name, raw_dir=write(tmp_path / "raw", {}), data_dir=tmp_path / "data")
    if name.startswith("text_"):
        with pytest.raises(DataError, match=r"raw_dir .*nowhere does not exist"):
            open_builder(name, raw_dir=tmp_path / "nowhere", data_dir=tmp_path / "data")


def test_published_files_are_checked(tmp_path):
    names = ("train.tsv", "dev.tsv", "test.tsv")
    raw_dir = write(tmp_path / "raw", dict.fromkeys(names, "fine\t1\n"))
    with pytest.raises(DataError, match=r"train\.tsv has 7 bytes, expected 720259"):
        open_builder("sst2", raw_dir=raw_dir, data_dir=tmp_path / "data")


def test_names_that_are_not_there(tmp_path):
    files = {"train.tsv": "good\tpos\nbad\tneg\n"}
    card, where = labelled(tmp_path, files)
    with pytest.raises(DataError, match=r"text_labels/1\.0\.0 has no text 'sentence'; it has text"):
        labelled(tmp_path, files, texts=("sentence",))
    with pytest.raises(
        DataError, match=r"text_labels/1\.0\.0 has no split 'validation'.*Splits: train"
    ):
        labelled(tmp_path, files, require=("validation",))
    with pytest.raises(DataError, match=r"has no split 'dev'.*Splits: train"):
        make_loader("text_labels", "dev", text=card, batch_size=1, train=False, **where)
    with pytest.raises(DataError, match="unknown data set 'glue/sstb', did you mean"):
        describe_text("glue/sstb", form="labels", max_len=8, data_dir=tmp_path / "data")


def test_the_order_of_texts_does_not_depend_on_tfds(tmp_path):
    """Which reads them from a map without order: a pair must not be another way round in another
    process."""
    files = {"train.tsv": "text\ttext_pair\tlabel\ngood\tfine\tpos\nbad\tworse\tneg\n"}
    builder = open_builder(
        "text_labels", raw_dir=write(tmp_path / "raw", files), data_dir=tmp_path / "data"
    )

    info = SimpleNamespace(features=dict(sorted(builder.info.features.items(), reverse=True)))
    turned = object.__new__(type("Turned", (type(builder),), {"info": info}))
    assert text_features(turned) == text_features(builder) == ("text", "text_pair")


def test_lines_and_labels_are_stripped(tmp_path):
    files = {"train.tsv": "good\tpos\r\nbad\tneg \r\nfine\tpos\r\n"}
    found = records_of("text_labels", write(tmp_path / "raw", files), tmp_path / "data")["train"]
    assert [record["label"] for record in found] == ["pos", "neg", "pos"]


def test_a_length_without_a_place_for_text_is_refused(tmp_path):
    card, where = labelled(tmp_path, {"train.tsv": "good\tpos\nbad\tneg\n"}, max_len=2)
    with pytest.raises(DataError, match="max_len 2 has no place for a text: 2 tokens frame it"):
        make_loader("text_labels", "train", text=card, batch_size=1, train=False, **where)


def test_a_pair_without_anything_between_is_refused(tmp_path):
    files = {"train.tsv": "text\ttext_pair\tlabel\ngood\tfine\tpos\nbad\tworse\tneg\n"}
    card, where = labelled(tmp_path, files, texts=("text", "text_pair"), tokenizer="bpe")
    with pytest.raises(
        DataError, match="has pairs of texts, and the tokenizer puts nothing between them"
    ):
        make_loader("text_labels", "train", text=card, batch_size=1, train=False, **where)


def test_texts_without_a_label_are_refused(tmp_path):
    where = {
        "raw_dir": write(tmp_path / "raw", {"train.txt": "a b", "test.txt": "b"}),
        "data_dir": tmp_path / "data",
    }
    with pytest.raises(
        DataError, match=r"text_files/1\.0\.0 has no feature 'label' that is a ClassLabel"
    ):
        describe_text("text_files", form="labels", max_len=8, tokenizer="words", **where)


def test_unknown_characters_of_labelled_texts_are_named(tmp_path):
    files = {"train.tsv": "good\tpos\nbad\tneg\n", "test.tsv": "god\tpos\nq\u00fcod\tneg\n"}
    card, where = labelled(tmp_path, files, tokenizer="characters")
    with pytest.raises(
        DataError,
        match=r"split 'test' .* has 2 characters that the tokenizer does not know.*'q', 'ü'",
    ):
        make_loader("text_labels", "test", text=card, batch_size=1, train=False, **where)
