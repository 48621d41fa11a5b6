"""Texts of a person: words, files by the readers of training, standard input; and lines that are
wrong."""

import json
import os

import pytest

from input_pipeline import DataError
from input_pipeline.datasets.local import read_records
from input_pipeline.given import given_texts
from tests.test_text import write


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def given(*words, fields=("text",), stdin="", warned=None, **options):
    warn = pytest.fail if warned is None else warned.append
    return given_texts(words, fields, lambda: stdin.split("\n"), warn=warn, **options)


def test_words_are_texts(here):
    assert given("a text", "so so.", "x.y", "…\u2028…") == [
        ("a text",),
        ("so so.",),
        ("x.y",),
        ("…\u2028…",),
    ]
    assert given("a\tb", fields=("text", "pair")) == [("a", "b")]
    assert given("a\tb") == [("a\tb",)]
    assert given("-", "x", stdin="a\nb") == [("a",), ("b",), ("x",)]
    assert given("x" * 5000) == [("x" * 5000,)]  # too long for a path
    assert given("I wrote it into notes.txt") == [("I wrote it into notes.txt",)]


def test_files_are_read(here):
    write(here, {"a.txt": "\ufeffone\r\ntwo\u2028too\r\n", "b.tsv": "label\tText\nyes\tthree\n"})
    lines = [{"text": "four\nlines", "label": 1}, {"other": 1, "text": "five"}]
    write(
        here,
        {
            "c.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
            "d.tsv": "six\tno\nseven\tyes\n",
        },
    )
    expected = [
        ("one",),
        ("two\u2028too",),
        ("three",),
        ("four\nlines",),
        ("five",),
        ("six",),
        ("seven",),
    ]
    assert given("a.txt", "b.tsv", str(here / "c.jsonl"), "d.tsv") == expected
    assert given("a.txt", documents=True) == [("one\r\ntwo\u2028too\r\n",)]
    write(
        here,
        {
            "e.tsv": "a\tb\n",
            "f.tsv": "pair\ttext\nb\ta\n",
            "g.jsonl": '{"text": "a\\tx", "pair": "b"}',
            "h.txt": "a\tb",
        },
    )
    pairs = given("e.tsv", "f.tsv", "g.jsonl", "h.txt", fields=("text", "pair"))
    assert pairs == [("a", "b"), ("a", "b"), ("a\tx", "b"), ("a", "b")]


def test_a_path_is_never_a_text(here):
    write(here, {"image.png": b"\x89PNG", "good": "a text", "table.csv": "a,b"})
    (here / "folder").mkdir()
    os.mkfifo(here / "pipe.txt")
    for word, message in (
        (
            "image.png",
            r"image\.png is a file, and texts are read from \.txt, \.tsv, \.jsonl files and, line "
            r"by line",
        ),
        ("good", "good is a file, .*if this is a text, give it by: echo TEXT"),
        ("table.csv", r"table\.csv is a file"),
        ("folder", "folder is a directory"),
        ("pipe.txt", r"pipe\.txt is a pipe or a device"),
        ("/dev/zero", "/dev/zero is a pipe or a device"),
        ("misspelt.txt", r"misspelt\.txt: no such file; if this is a text, give it by"),
    ):
        with pytest.raises(DataError, match=message):
            given(word)
    assert given("-", stdin="good\nmisspelt.txt") == [("good",), ("misspelt.txt",)]


def test_empty_texts(here):
    for word in ("", " ", "\n"):
        with pytest.raises(DataError, match="its text is empty"):
            given(word)
    with pytest.raises(DataError, match="its pair is empty"):
        given("a\t", fields=("text", "pair"))
    with pytest.raises(DataError, match="standard input is empty"):
        given("-", stdin="\n")
    warned = []
    assert given("-", stdin="a\n\nb\n ", warned=warned) == [("a",), ("b",)]
    assert warned == ["standard input: 2 empty line(s) are passed over, the first is line 2"]


def test_another_number_of_texts(here):
    write(here, {"a.txt": "a\tb\nc\n"})
    with pytest.raises(
        DataError, match=r"a\.txt, line 2 has 1 part\(s\): text and pair go with a tab in between"
    ):
        given("a.txt", fields=("text", "pair"))


def test_words_that_are_not_utf8(here):
    with pytest.raises(DataError, match=r"caf\\udce9: its text is not UTF-8"):
        given(os.fsdecode(b"caf\xe9"))


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "name, text, message",
    [
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": "a", "text": "b"}\n',
            r"line 2 is not .*the key 'text' is there twice",
        ),
        ("a.jsonl", '{"text": "\\ud800"}\n', "line 1: its text has half of a surrogate pair"),
        ("a.jsonl", '{"text": ' + DEEP, "line 1 is nested too deeply"),
        ("a.jsonl", '{"text": "a", "more": ' + DEEP, "line 1 is nested too deeply"),
        ("a.jsonl", '{"text": NaN}\n', "line 1: its text is empty or no text"),
        ("a.jsonl", '{"text": ["a"]}\n', "line 1: its text is empty or no text"),
        ("a.jsonl", '{"text": true}\n', "line 1: its text is empty or no text"),
        ("a.jsonl", '{"text": ' + "9" * 5000 + "}\n", r"line 1 is not .*Exceeds the limit"),
        ("a.jsonl", '{"text": "a\x00b"}\n', "has a NUL at offset 11"),
        ("a.jsonl", '["text"]\n', r"line 1 is not \{\"text\": \"\.\.\.\"\} \(TypeError"),
        ("a.jsonl", '{"text": "a"}{"text": "b"}\n', r"line 1 is not .*Extra data"),
        ("a.jsonl", '{"label": "a"}\n', r"line 1 is not .*KeyError: 'text'"),
        ("a.jsonl", '{"text": "a\n', r"line 1 is not .*Unterminated string"),
        ("a.jsonl", b'{"text": "\xff"}\n', "is not UTF-8: byte 0xff at offset 10"),
        ("a.jsonl", "", r"a\.jsonl is empty"),
        ("a.tsv", "text\ttext\nx\ty\n", "line 1 names the column 'text' 2 times"),
        ("a.tsv", "a\tb\tc\n", "line 1 has 3 columns, not 1: text, separated by tabs"),
        ("a.tsv", "a\tb\nc\n", "line 2 has 1 columns, not 2"),
        ("a.tsv", " \tb\n", "line 1: its text is empty or no text"),
        ("a.txt", b"a\xe9", "is not UTF-8: byte 0xe9 at offset 1"),
        ("a.txt", "a".encode("utf-16-le"), "has a NUL at offset 1"),
    ],
)
def test_wrong_files_are_one_line(here, name, text, message):
    """For a person's texts as for training: it is the same reader."""
    write(here, {name: text})
    with pytest.raises(DataError, match=message) as error:
        given(name)
    assert len(str(error.value)) <= 400 and "\n" not in str(error.value)
    if name.endswith(".jsonl"):
        with pytest.raises(DataError, match=message):
            list(read_records(here / name, ("text",)))


def test_training_reads_crlf_u2028_and_a_mark_as_they_are_meant(here):
    write(here, {"a.tsv": "\ufefftext\tlabel\r\na\u2028b\tyes\r\n\r\nc\x85d\tno\r\n"})
    found = [record for _, record in read_records(here / "a.tsv", ("text", "label"))]
    assert found == [{"text": "a\u2028b", "label": "yes"}, {"text": "c\x85d", "label": "no"}]
    write(
        here,
        {
            "a.jsonl": '\ufeff{"text": "a\u2028b", "label": 1}\r\n{"text": "\\u0000c", "label": "2"}\r\n'
        },
    )
    found = [record for _, record in read_records(here / "a.jsonl", ("text", "label"))]
    assert found == [{"text": "a\u2028b", "label": "1"}, {"text": "\0c", "label": "2"}]
    # a label is left out for predictions alone
    with pytest.raises(DataError, match="line 1 has 2 columns, not 1"):
        write(here, {"b.tsv": "a\tyes\n"})
        list(read_records(here / "b.tsv", ("text",)))
