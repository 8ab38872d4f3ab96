"""`diffembed train` and `diffembed adapt`: fields, dry run, run, and what goes wrong in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffembed.embedding.embedder import Embedder

ROWS = [
    {"query": f"how many tokens are in text {n}", "positive": f"text {n} has {n} tokens", "negatives": [f"a mask {n}"]}
    for n in range(16)
]


@pytest.fixture
def train_file(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    config = {
        "model": {"name": "tiny", "attention": "bidirectional", "dtype": "float32"},
        "data": {"root": str(tmp_path), "sources": [{"kind": "rows", "path": "rows.jsonl"}]},
        "batch": {"rows": 4},
        "optimiser": {"warmup_steps": 1},
        "run": {"output": str(tmp_path / "run"), "schedule_steps": 2},
        "lora": {"rank": 2},
    }
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.fixture
def adapt_file(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("a token sees what stands before it\n" * 40, encoding="utf-8")
    (tmp_path / "held.txt").write_text("to embed a text its states are averaged\n" * 9, encoding="utf-8")
    config = {
        "model": {"name": "tiny", "dtype": "float32"},
        "text": {"files": [str(tmp_path / "text.txt")], "held_out": [str(tmp_path / "held.txt")], "row_tokens": 16},
        "batch": {"rows": 4, "micro_rows": 2},
        "optimiser": {"warmup_steps": 1},
        "run": {"output": str(tmp_path / "run"), "schedule_steps": 2},
    }
    path = tmp_path / "adapt.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.mark.parametrize(("verb", "field"), [("train", "loss.temperature"), ("adapt", "objective.t_min")])
def test_fields_are_listed_with_their_docstrings(run: Any, verb: str, field: str) -> None:
    shown = run(verb, "--fields")
    assert shown.code == 0 and f"{field} (number; default 0.0" in shown.out
    rows = {row["field"]: row for row in run(verb, "--fields", "--json").rows}
    assert rows[field]["meaning"].endswith(".") and rows["model.name"]["default"] == "required"


def test_training_prints_what_came_of_it(run: Any, train_file: Path, tmp_path: Path) -> None:
    (report,) = run("train", str(train_file), "--json").rows
    assert report["num_steps"] == 2 and report["model"] == str(tmp_path / "run/model")
    assert Embedder.load(report["model"], dtype="float32").encode_documents(["a"]).shape == (1, 32)
    assert "tokens per second" in run("train", str(train_file)).out


def test_adaptation_prints_what_came_of_it(run: Any, adapt_file: Path, tmp_path: Path) -> None:
    (report,) = run("adapt", str(adapt_file), "--json").rows
    assert report["num_steps"] == 2 and Embedder.load(report["model"]).attention == "bidirectional"


def test_dry_run_writes_nothing_and_knows_rows_tokens_steps_and_memory(
    run: Any, train_file: Path, adapt_file: Path, tmp_path: Path
) -> None:
    shown = run("train", str(train_file), "--dry-run", "--set", "run.stop_after_steps=1")
    assert shown.code == 0
    assert all(word in shown.out for word in ("16", "1 of a schedule of 2", "tokens", "a process: weights"))
    (plan,) = run("train", str(train_file), "--dry-run", "--json").rows
    assert (plan["num_rows"], plan["num_steps"], plan["num_trained"]) == (16, 2, 2048)
    (plan,) = run("adapt", str(adapt_file), "--dry-run", "--json").rows
    assert plan["num_rows"] > 10 and plan["peak_bytes"] > plan["memory_bytes"]["weights"] > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (["train"], "name a config file; its fields are listed by: diffembed train --fields"),
        (["train", "none.yaml"], "no config file none.yaml"),
        (["train", "FILE", "--set", "batch.rows"], "'batch.rows' sets nothing; write it as section.field=value"),
        (["train", "FILE", "--set", "batch.row=2"], "batch: no field 'row' (did you mean 'rows'?)"),
        (["train", "FILE", "--set", "loss.temperature=0"], "temperature is 0.0; it must be positive"),
        (["train", "FILE", "--processes", "2"], "--processes is for --dry-run"),
        (["train", "FILE", "--set", "batch.rows=64"], "fewer rows than a batch of 64"),
    ],
)
def test_mistakes_are_one_sentence(run: Any, train_file: Path, tokens: list[str], sentence: str) -> None:
    shown = run(*(str(train_file) if token == "FILE" else token for token in tokens))
    assert shown.code in (1, 2) and not shown.out
    assert sentence in shown.err and shown.err.count("\n") == 1
