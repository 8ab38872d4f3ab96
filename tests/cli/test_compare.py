"""`diffembed compare`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from diffembed.cli.compare import DrawName
from diffembed.evaluation.demo.draws import DRAWS

Run = Callable[..., Any]


def test_the_draws_of_the_help_are_those_there_are() -> None:
    assert get_args(DrawName) == ("auto", *DRAWS)


def test_a_table_on_stdout_and_a_page_on_disk(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ran = run("compare", "bm25", "random", "--draw", "least", "--out", str(page))
    assert ran.code == 0
    assert ran.out.splitlines()[2].startswith("bm25") and "needle by length, chance 25.0" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "draw least" in ran.err and str(page) in ran.err
    assert "<svg" in page.read_text(encoding="utf-8")


def test_one_json_line_and_a_failed_system_is_exit_1(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ran = run("compare", "bm25", str(tmp_path / "nowhere"), "--draw", "least", "--json", "-o", str(page))
    assert ran.code == 1
    (row,) = ran.rows
    assert [system["system"] for system in row["systems"]] == ["bm25", str(tmp_path / "nowhere")]
    assert row["systems"][0]["scores"]["stdlib"]["num_queries"] == 20
    assert "is not a folder" in row["systems"][1]["error"] and page.exists()
    assert ran.err.splitlines()[-1] == f"diffembed: 1 of 2 systems failed: {tmp_path / 'nowhere'}"
    json.dumps(row, allow_nan=False)


def test_wrong_words_are_refused_before_anything_runs(run: Run, tmp_path: Path) -> None:
    assert run("compare", "bm25", "--draw", "half-a-pint").code == 2
    assert run("compare", "bm25", "--out", str(tmp_path / "page.txt")).code == 2
    assert run("compare", "bm25", "--budget-s", "0").code == 2
    typo = run("compare", "gema-3-270m")
    assert typo.code == 1 and "did you mean 'gemma-3-270m'" in typo.err
    twice = run("compare", "bm25", "bm25")
    assert twice.code == 2 and "bm25 is named twice" in twice.err
