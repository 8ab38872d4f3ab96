"""`diffembed reasonaug`: tables for people, JSON for machines, one sentence for mistakes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from diffembed.cli import main

WriteConfig = Callable[..., Path]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*tokens: str | Path) -> tuple[int, str, str]:
        code = main([str(token) for token in ("reasonaug", *tokens)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("verb", ["run", "replay", "report"])
def test_every_verb_has_an_example_and_json(call: Callable[..., tuple[int, str, str]], verb: str) -> None:
    code, out, _ = call(verb, "--help")
    assert code == 0
    assert f"diffembed reasonaug {verb}" in out.partition("For example:")[2]
    assert "--json" in out


def test_a_run_its_report_and_its_replay(
    call: Callable[..., tuple[int, str, str]], write_config: WriteConfig, tmp_path: Path
) -> None:
    config, out = write_config(), tmp_path / "out"
    code, table, progress = call("run", config, "--out", out)
    assert code == 0
    assert "kept pairs" in table
    assert "solution_check: 12/12 answers" in progress
    code, line, _ = call("run", config, "--out", out, "--json")
    num_rows = len((out / "triplets.jsonl").read_text().splitlines())
    assert (code, json.loads(line)) == (0, {"folder": str(out), "rows": num_rows, "pending": []})
    code, line, _ = call("report", out, "--json")
    assert (code, json.loads(line)) == (0, json.loads((out / "report.json").read_text()))
    assert call("report", out)[1] == table
    code, line, _ = call("replay", out, "--config", config, "--out", tmp_path / "again", "--json")
    assert code == 0
    assert json.loads(line)["num_rows"] == num_rows


def test_a_batch_run_says_what_it_waits_for(
    call: Callable[..., tuple[int, str, str]], write_config: WriteConfig, tmp_path: Path
) -> None:
    code, out, _ = call("run", write_config(answers="batch"), "--out", tmp_path / "out")
    assert code == 0
    assert "answers awaited as" in out
    assert "001-definitions.output.jsonl" in "".join(out.split())
    code, _, err = call("report", tmp_path / "out")
    assert code == 1
    assert "has not reached the stage definitions" in err


@pytest.mark.parametrize(
    ("settings", "code", "sentence"),
    [
        ({"sed": 1}, 1, "no setting 'sed' (did you mean 'seed'?)"),
        ({"language": "xx"}, 1, "no language 'xx'"),
        ({"endpoint": {"base_url": "localhost"}}, 2, "is no http address"),
        ({"negatives": {"skip_top": -1}}, 2, "skip_top is -1"),
        ({"leakage": {"against": ["missing.jsonl"]}}, 1, "missing.jsonl"),
        ({"tokenizer": "missing.json"}, 1, "is no tokenizer.json"),
    ],
)
def test_a_mistake_is_one_sentence(
    call: Callable[..., tuple[int, str, str]],
    write_config: WriteConfig,
    tmp_path: Path,
    settings: dict[str, object],
    code: int,
    sentence: str,
) -> None:
    found, out, err = call("run", write_config(**settings), "--out", tmp_path / "out")
    assert (found, out) == (code, "")
    assert err.count("\n") == 1
    assert sentence in err
