"""`diffembed mine` as a user meets it."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROWS = [
    {"query": "green tea", "positive": "green tea grows in asia", "negatives": ["cups"]},
    {"query": "black coffee", "positive": "black coffee is bitter"},
    {"query": "broken"},
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def mined(path: Path) -> list[list[str]]:
    return [json.loads(line)["negatives"] for line in path.read_text().splitlines()]


def test_rows_and_a_corpus_become_rows_with_negatives(run: Callable, rows: Path, tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus.txt", tmp_path / "mined.jsonl"
    corpus.write_text("tea towels\nblack tea\n")
    ran = run("mine", str(rows), "--out", str(out), "--corpus", str(corpus), "--margin", "none")
    assert ran.code == 0, ran.err
    assert mined(out) == [["cups", "tea towels", "black tea"], ["black tea"]]
    assert "2 rows, 3 negatives mined" in ran.out
    assert "1 rows could not be used" in ran.out


def test_json_has_every_count(run: Callable, rows: Path, tmp_path: Path) -> None:
    ran = run("mine", str(rows), "--out", str(tmp_path / "mined.jsonl"), "--json", "--drop-own")
    (report,) = ran.rows
    assert report["num_rows"] == 2
    assert report["num_documents"] == 3
    assert report["rows"]["bad"] == {"missing field": 1}


def test_an_encoder_proposes_and_judges(run: Callable, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "mined.jsonl"
    ran = run("mine", str(rows), "--out", str(out), "--model", "tiny-llama", "--margin", "none", "--dtype", "float32")
    assert ran.code == 0, ran.err
    assert [len(found) for found in mined(out)] == [2, 2]


def test_rows_come_from_standard_input(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS[:2]).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    out = tmp_path / "mined.jsonl"
    assert run("mine", "-", "--out", str(out)).code == 0
    assert len(mined(out)) == 2


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--max-bad-rows", "0"], 1, "1 of 3 rows are bad (1 missing field)"),
        (["--min-rank", "0"], 2, "ranks must satisfy"),
        (["--proposers", "both"], 2, "needs an encoder"),
        (["--attention", "causal"], 2, "they need --model"),
        (["--proposers", "bm52"], 2, "bm52"),
    ],
)
def test_failures_are_one_sentence(run: Callable, rows: Path, tmp_path: Path, options, code, sentence) -> None:
    out = tmp_path / "mined.jsonl"
    ran = run("mine", str(rows), "--out", str(out), *options)
    assert (ran.code, ran.out) == (code, "")
    assert sentence in ran.err
    assert ran.err.count("\n") == 1
    assert not out.exists()


def test_an_output_that_exists_is_not_overwritten(run: Callable, rows: Path) -> None:
    before = rows.read_text()
    ran = run("mine", str(rows), "--out", str(rows))
    assert (ran.code, rows.read_text()) == (1, before)
    assert "already exists" in ran.err
