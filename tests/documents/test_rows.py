"""Rows of every format give the same documents, and every complaint names its line."""

import io
import json
import sys
from datetime import date, time
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffembed.documents import read_rows
from diffembed.errors import ConfigError, EmptyInputError, InputError, UnknownNameError

ROWS = [
    ("a", "the first text"),
    ("b", 'quoted "text", with a comma\nand a line break'),
    ("7", "\u4f60\u597d \U0001f642"),
]


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    if path.suffix == ".parquet":
        ids, texts = zip(*rows, strict=True)
        pq.write_table(pa.table({"id": list(ids), "text": list(texts), "nested": [[1]] * len(ids)}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"_id": i, "text": t}) + "\n\n" for i, t in rows), encoding="utf-8")
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        quoted = [f"{i}{mark}" + '"' + t.replace('"', '""') + '"' for i, t in rows]
        path.write_text("\n".join([f"id{mark}text", *quoted]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same_ids_and_texts(tmp_path: Path, suffix: str) -> None:
    documents = list(read_rows(write(tmp_path / f"rows{suffix}", ROWS)))
    assert [(document.id, document.text) for document in documents] == ROWS
    assert all(document.source.endswith(f"rows{suffix}") for document in documents)


def test_txt_has_one_text_per_line_and_keeps_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffone\r\n\ntwo \x0b three\u2028four\n".encode())
    documents = list(read_rows(path))
    assert [document.text for document in documents] == ["one", "", "two \x0b three\u2028four"]
    assert [document.id for document in documents] == ["1", "2", "3"]


def test_standard_input_is_txt_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def standard_input(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    standard_input(b"one\ntwo")
    assert [document.text for document in read_rows("-")] == ["one", "two"]
    standard_input(b'{"text": "one"}')
    assert [document.text for document in read_rows("-", format="jsonl")] == ["one"]


def test_a_title_goes_in_front_and_whole_numbers_are_ids(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 12, "title": "Tides", "text": "They rise."}\n')
    (document,) = read_rows(path)
    assert (document.id, document.full_text) == ("12", "Tides They rise.")


def test_columns_can_be_chosen_and_the_only_other_one_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("key,body\nk1,hello\n")
    with pytest.raises(InputError, match="has no column 'text'; choose the text column among key, body"):
        list(read_rows(path))
    (document,) = read_rows(path, text_column="body", id_column="key")
    assert (document.id, document.text) == ("k1", "hello")
    path.write_text("id,body\nk1,hello\n")
    assert [document.text for document in read_rows(path)] == ["hello"]
    with pytest.raises(InputError, match="no column 'nope'; it has id, body"):
        list(read_rows(path, text_column="nope"))


def test_a_field_longer_than_the_limit_of_the_csv_module_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + "a" * 200_000 + "\n")
    assert [len(document.text) for document in read_rows(path)] == [200_000]


BAD_FILES = {
    "rows.jsonl": [
        (b'{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "id 'a' twice, in rows 1 and 2"),
        (b'{"text": "x"}\n{"text": \n', "rows.jsonl:2 is not JSON"),
        (b"[" * 100_000, "rows.jsonl:1 is not JSON"),
        (b'{"text": "x"}\n["y"]\n', "rows.jsonl:2 must be a JSON object with a text, got list"),
        (b'{"text": "x"}\n{"text": null}\n', "rows.jsonl:2 must have a string in 'text', got nothing"),
        (b'{"id": 1, "text": "x"}\n{"text": "y"}\n', "rows.jsonl:2 must have a string or a whole number in 'id'"),
        (b'{"id": true, "text": "x"}\n', "got bool 'True'"),
        (b'{"id": "\\ud800", "text": "x"}\n', "must have a string or a whole number in 'id'"),
        (b'{"text": "x"}\n{"text": "\xe9"}\n', "not UTF-8 text: byte 0xe9 at line 2"),
    ],
    "rows.csv": [
        (b"id,text\n1,x,y\n", "rows.csv:2 has 3 fields where the header has 2"),
        (b'id,text\n1,"x\n', "rows.csv:2 is not valid csv"),
        (b"text,text\n1,x\n", "names a column twice"),
    ],
    "rows.parquet": [(b"PAR1 but not really", "is not a parquet file, or it is cut short")],
    "rows.txt": [
        (b"one\ntwo\0\n", "not UTF-8 text: a NUL byte at line 2"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8 text: byte 0x89 at line 1"),
        ("utf sixteen".encode("utf-16"), "not UTF-8 text: byte 0xff at line 1"),
    ],
}


@pytest.mark.parametrize(("name", "data", "message"), [(n, d, m) for n, rows in BAD_FILES.items() for d, m in rows])
def test_what_cannot_be_used_is_named_with_its_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        list(read_rows(tmp_path / name))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data"), [("a.txt", b""), ("b.txt", b"\n \n"), ("c.jsonl", b"\n"), ("d.csv", b"id,text\n")]
)
def test_no_texts_are_an_error(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(EmptyInputError, match=r"has no texts|has only blank texts"):
        list(read_rows(tmp_path / name))


def test_a_parquet_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a parquet file, or it is cut short"):
        list(read_rows(path))


def test_what_is_no_row_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file or folder"):
        list(read_rows(tmp_path / "missing.txt"))
    with pytest.raises(InputError, match="is a folder; name one file"):
        list(read_rows(tmp_path))
    page = tmp_path / "page.html"
    page.write_text("x")
    with pytest.raises(InputError, match=r"cannot tell the format .* txt, jsonl, csv, tsv, parquet"):
        list(read_rows(page))
    with pytest.raises(UnknownNameError, match=r"no row format 'jsonn' .did you mean 'jsonl'"):
        list(read_rows(page, format="jsonn"))
    with pytest.raises(ConfigError, match="a txt file has no columns"):
        list(read_rows(page, format="txt", text_column="text"))


def test_a_row_of_several_lines_is_known_by_its_first(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('id,text\na,"one\ntwo\nthree"\n\nb,four\nc,"five\nsix",7\n', encoding="utf-8")
    bad: list[InputError] = []
    assert [(row.id, row.line) for row in read_rows(path, on_bad=bad.append)] == [("a", 2), ("b", 6)]
    assert f"{path}:7 has 3 fields" in str(bad[0])


def test_a_value_that_python_does_not_know_is_named(tmp_path: Path) -> None:
    beyond = pa.array([2**62], pa.int64()).cast(pa.timestamp("us"))
    pq.write_table(pa.table({"text": ["a"], "day": beyond}), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="holds a value that cannot be read"):
        list(read_rows(tmp_path / "rows.parquet"))


def test_other_columns_are_metadata(tmp_path: Path) -> None:
    row = {
        "id": "a",
        "title": "Tides",
        "text": "They rise.",
        "price": Decimal("2.50"),
        "day": date(2026, 11, 25),
        "at": time(12, 30),
        "stars": float("nan"),
        "blob": b"x",
        "none": None,
        "tags": ["x"],
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    (document,) = read_rows(tmp_path / "rows.parquet")
    assert document.metadata == {"price": 2.5, "day": "2026-11-25", "at": "12:30:00"}
