"""Tables as people export them: each is read as it is meant, or one line names the file, the line
and the cell."""

import io
import sys

import numpy as np
import pytest

from input_pipeline import DataError, TableCard
from input_pipeline.files import read_text
from input_pipeline.table_file import read_table
from train.config import Config
from train.records import reading

COLUMNS = ("age", "height", "ratio")
CARD = TableCard("t", "1.0.0", {"train": 4}, COLUMNS, ("no", "yes"), (0.0,) * 3, (1.0,) * 3, ".")


def read(tmp_path, data, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_table(read_text(path), name, COLUMNS, "t")


@pytest.mark.parametrize(
    "text, rows",
    [
        ("age,height,ratio\n1,2,3\n", [[1, 2, 3]]),
        ("age,height,ratio\r\n1,2,3\r\n4,5,6", [[1, 2, 3], [4, 5, 6]]),
        ("\ufeffage,height,ratio\n1,2,3\n", [[1, 2, 3]]),  # as Excel's CSV UTF-8
        ('\ufeff"age","height","ratio"\n"1","2","3"\n', [[1, 2, 3]]),
        ("age\theight\tratio\n1\t2\t3\n", [[1, 2, 3]]),
        ("age;height;ratio\n1;2;3\n", [[1, 2, 3]]),  # as Excel's where the comma is decimal
        ("note,ratio,height,age\nhi,3,2,1\n", [[1, 2, 3]]),
        ("note,age,height,ratio\na\u2028b,1,2,3\n", [[1, 2, 3]]),
        ("note,age,height,ratio\na\x85b\x0cc\x1dd,1,2,3\n", [[1, 2, 3]]),
        (
            'note,age,height,ratio\n"two\nlines, and ""quotes""",1,2,3\nx,4,5,6\n',
            [[1, 2, 3], [4, 5, 6]],
        ),
        # nobody needs that which is there twice
        ("note,age,height,ratio,note\na,1,2,3,b\n", [[1, 2, 3]]),
        ("age,height,ratio\n\n1,2,3\n\n", [[1, 2, 3]]),
        ("age,height,ratio\n 1 ,-2e-3,+.5\n", [[1, -2e-3, 0.5]]),
        ("age,height,ratio\n3.4e38,1e-60,0\n", [[np.float32(3.4e38), 0, 0]]),
        ('"a;b;c",age,height,ratio\nx,1,2,3\n', [[1, 2, 3]]),
        ("note,age,height,ratio\n" + "x" * 131_072 + ",1,2,3\n", [[1, 2, 3]]),
    ],
)
def test_what_is_meant(tmp_path, text, rows):
    found = read(tmp_path, text)[1]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(rows, np.float32))


def test_rows_are_named_by_the_line_they_begin_in(tmp_path):
    text = 'note,age,height,ratio\n"a\nb",1,2,3\n\n"c\r\nd",4,5,6\ne,7,8,9\n'
    assert read(tmp_path, text)[0] == [2, 5, 7]


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "age,height,ratio\n1,5,2,3\n",
            r"t\.csv:2 has 4 cells for 3 columns; a cell with a ',' in it must be quoted",
        ),
        (
            'age,height,ratio\n"1,5",2,3\n',
            r"t\.csv:2, 'age': '1,5' is not a number; a decimal point is needed",
        ),
        (
            "age;height;ratio\n1,5;2;3\n",
            r"t\.csv:2, 'age': '1,5' is not a number; a decimal point is needed",
        ),
        ("age,height,ratio\n1,2,3\n1,2\n", r"t\.csv:3 has 2 cells for 3 columns"),
        ("age,height,ratio\n1,2,3,\n", r"t\.csv:2 has 4 cells for 3 columns"),
        ("age,height,ratio,age\n1,2,3,9\n", r"t\.csv has the column 'age' 2 times; leave one"),
        (
            "age,height,ratio\n1e39,2,3\n",
            r"t\.csv:2, 'age': '1e39' is beyond what float32 has, 3\.403e\+38",
        ),
        ("age,height,ratio\n1,2,-1e400\n", r"t\.csv:2, 'ratio': '-1e400' is not a number"),
        ("age,height,ratio\n1,,3\n", r"t\.csv:2, 'height': '' is not a number"),
        ("age,height,ratio\n1,nan,3\n", r"t\.csv:2, 'height': 'nan' is not a number"),
        ("age,height,ratio\n1,inf,3\n", r"t\.csv:2, 'height': 'inf' is not a number"),
        ("age,height,ratio\n1,-Infinity,3\n", r"t\.csv:2, 'height': '-Infinity' is not a number"),
        ("age,height,ratio\n1,NA,3\n", r"t\.csv:2, 'height': 'NA' is not a number"),
        ("age,height,ratio\n1,1_000,3\n", r"t\.csv:2, 'height': '1_000' is not a number"),
        ("age,height,ratio\n1,0x10,3\n", r"t\.csv:2, 'height': '0x10' is not a number"),
        ("age,height,ratio\n1," + "9" * 100_000 + ",3\n", r"t\.csv:2, 'height': '9+\.\.\.9+' is"),
        (
            "age,height,ratio\n" + "x" * 131_073 + ",2,3\n",
            r"t\.csv:2 is no row .*field limit.*at most 131,072 charac",
        ),
        (
            'age,height,ratio\n1,2,3\n"4,5,6\n',
            r"t\.csv:3 is no row of a table \(unexpected end of data\)",
        ),
        (
            'age,height,ratio\n"1"x,2,3\n',
            r"t\.csv:2 is no row of a table \(',' expected after '\"'\)",
        ),
        (
            "1,2,3\n4,5,6\n",
            r"t\.csv lacks 3 of the 3 columns of t, first 'age'; its first line must name them",
        ),
        (
            "Age,height,ratio\n1,2,3\n",
            r"t\.csv lacks 1 of the 3 columns of t, first 'age'; it has 'Age'",
        ),
        ("age|height|ratio\n1|2|3\n", r"t\.csv lacks 3 of the 3 columns"),
        ("age,height,ratio\n", r"no rows in t\.csv: it has a line of names alone"),
        ("", r"t\.csv is empty"),
        ("\ufeff \n", r"t\.csv is empty"),
        (
            b"age,height,ratio\n1,2,\xe9\n",
            r"t\.csv is not UTF-8: byte 0xe9 at offset 21; convert it",
        ),
        (
            "age,height,ratio\n1,2,3\n".encode("utf-16"),
            r"t\.csv is not UTF-8: byte 0xff at offset 0",
        ),
        (
            "age,height,ratio\n1,2,3\n".encode("utf-16-le"),
            r"t\.csv has a NUL at offset 1: it is no text, or UTF-16",
        ),
        (b"age,height,ratio\n1,2\0,3\n", r"t\.csv has a NUL at offset 20"),
    ],
)
def test_one_line_otherwise(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, text)
    assert len(str(error.value)) <= 400 and "\n" not in str(error.value)


def test_flipped_bits_are_rows_or_one_line(tmp_path):
    """No exception but one, and no number that is not finite."""
    data, rng = (
        b'note,age,height,ratio\n"a ""b""",1.5,2e3,3\nx,4,5,6\n' * 3,
        np.random.default_rng(0),
    )
    for _ in range(300):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            broken[place] ^= 1 << rng.integers(8)
        try:
            assert np.isfinite(read(tmp_path, bytes(broken))[1]).all()
        except DataError as error:
            assert len(str(error)) <= 400


def test_a_file_that_cannot_be_read_ends_only_itself(tmp_path, capsys):
    (tmp_path / "good.csv").write_text("age,height,ratio\n1,2,3\n")
    (tmp_path / "bad.csv").write_text("age,height,ratio\n1,2,3\n1,2,x\n")
    names, arrays, broken = reading.read(
        [str(tmp_path / x) for x in ("bad.csv", "good.csv", "no.csv")], Config(), CARD, False
    )
    assert names == [f"{tmp_path / 'good.csv'}:2"] and broken == 2
    np.testing.assert_array_equal(arrays["features"], [[1, 2, 3]])
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"warning: skipped {tmp_path / 'bad.csv'}:3, 'ratio': 'x' is not a number",
        f"warning: skipped {tmp_path / 'no.csv'}: no such file",
    ]


def test_standard_input_is_read_as_a_file_is(monkeypatch):
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffage,height,ratio\r\n1,2,3\r\n".encode()))
    )
    names, arrays, _ = reading.read(["-"], Config(), CARD, False)
    assert names == ["-:2"] and arrays["features"].tolist() == [[1, 2, 3]]
    for data, message in (
        (b"\xff", "standard input is not UTF-8: byte 0xff"),
        (b"a\0", "standard input has a NUL at"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        with pytest.raises(ValueError, match=message):
            reading.read(["-"], Config(), CARD, False)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_a_text_without_rows_is_empty(text):
    with pytest.raises(DataError, match="- is empty"):
        read_table(text, "-", ("a", "b"), "a run")
