"""The finished rows and their card."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffembed.data.reasonaug.publish import FIELDS, finish_rows, write_data_set
from diffembed.data.reasonaug.rows import Triplet
from diffembed.data.reasonaug.tokens import TokenCounter
from diffembed.errors import EmptyInputError, InputError

ROW = Triplet(
    id=9,
    domain="rule",
    instance="Rope Rule",
    task_type="p2i",
    task="find the rule",
    user_query="How long is the rope?",
    positive_document="Rope Rule",
    hard_negative_document="String Rule",
    negative_instance="String Rule",
)
FACTS: dict[str, Any] = {"name": "Ropes", "language": "en", "model": "m", "seed": 3, "notes": {"asked again": 1234}}


def test_rows_are_numbered_and_repeated_ones_dropped() -> None:
    other = dataclasses.replace(ROW, hard_negative_document="Knot Rule")
    result = finish_rows([ROW, other, dataclasses.replace(ROW, id=11), dataclasses.replace(ROW, positive_document=" ")])
    assert [row.id for row in result.rows] == [0, 1]
    assert [(each.id, each.reason) for each in result.dropped] == [("11", "repeated row"), ("9", "empty value")]


def test_the_file_has_nine_keys_and_no_null(tmp_path: Path) -> None:
    write_data_set(tmp_path, [ROW], facts=FACTS, tokens=TokenCounter())
    (line,) = (tmp_path / "triplets.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(line)
    assert list(row) == [name for name, _ in FIELDS]
    assert len(row) == 9
    assert None not in row.values()


def test_the_card_counts_rows_and_tokens(tmp_path: Path) -> None:
    rows = [ROW, dataclasses.replace(ROW, task_type="p2ps", instance="Knot Rule", user_query="rope " * 40)]
    write_data_set(tmp_path, rows, facts=FACTS, tokens=TokenCounter())
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---")[1])
    assert header["size_categories"] == ["n<1K"]
    assert header["configs"] == [{"config_name": "default", "data_files": "triplets.jsonl"}]
    assert "| rule | 2 | 1 | 1 | 2 |" in card
    # find the rule how long is the rope ? = 9 tokens; find the rule + 40 = 43.
    assert "| query with instruction | 26.0 | 26 | 41 | 43 |" in card
    assert "- asked again: 1,234" in card


def test_nothing_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(EmptyInputError, match=r"no row came through; .*dropped\.jsonl says why"):
        write_data_set(tmp_path, [], facts=FACTS, tokens=TokenCounter())


def test_a_tokenizer_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json is no tokenizer\.json"):
        TokenCounter(path)
    assert TokenCounter().describe([]) == {"mean": 0.0, "median": 0, "p95": 0, "max": 0}
    assert TokenCounter().describe(["rope " * 3000])["max"] == 3000
