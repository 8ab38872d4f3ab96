"""The verbs around published diffusion models, on shapes and tiny networks."""

from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]


def test_plan_prints_the_7b_arithmetic(run: Run) -> None:
    ran = run("plan", "dream-7b", "--max-tokens", "4096", "--memory", "24GB")
    assert ran.code == 0 and "40,370,176 weights of rank 16" in ran.out
    assert "14.14 GB in bfloat16" in ran.out


def test_fill_restores_every_mask(run: Run) -> None:
    (row,) = run("fill", "a [MASK] b [MASK]", "--model", "tiny", "--attention", "bidirectional", "--json").rows
    assert [token["step"] for token in row["tokens"]] == [1, 2]
    assert run("fill", "a [MASK]", "--model", "tiny", "--attention", "causal").code == 2


def test_convert_lists_layouts_and_wants_two_names(run: Run, tmp_path: Any) -> None:
    assert "LLaDA-1.5" in run("convert", "--layouts").out
    assert run("convert", str(tmp_path)).code == 2
    assert "has no config.json" in run("convert", str(tmp_path), str(tmp_path / "out")).err


def test_export_compares_before_it_writes(run: Run, tmp_path: Any) -> None:
    pytest.importorskip("sentence_transformers")
    (row,) = run("export", "tiny", str(tmp_path / "out"), "--attention", "bidirectional", "--json").rows
    assert row["largest_difference"] < 1e-5 and (tmp_path / "out" / "README.md").is_file()
