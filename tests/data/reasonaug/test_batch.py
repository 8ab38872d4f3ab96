"""OpenAI batch files: written once, read when their answers are there, asked anew where they are not."""

import json
from pathlib import Path
from typing import Any

import pytest

from diffembed.data.reasonaug.asking import Answer, Failure, Request
from diffembed.data.reasonaug.batch import BatchPending, BatchSource
from diffembed.data.reasonaug.budget import Budget
from diffembed.data.reasonaug.config import BudgetConfig, EndpointConfig
from diffembed.data.reasonaug.store import AnswerStore
from diffembed.errors import ResourceError

REQUESTS = [
    Request(
        stage="problems", row_id=name, attempt=0, model="m", messages=[{"role": "user", "content": name}], max_tokens=9
    )
    for name in "abc"
]


def make_source(folder: Path, *, batch_rows: int = 100, max_tokens: int | None = None) -> BatchSource:
    store = AnswerStore(folder / "answers.jsonl")
    budget = Budget(BudgetConfig(max_tokens=max_tokens), store)
    return BatchSource(EndpointConfig(batch_rows=batch_rows), folder / "batches", store, budget)


def output_row(key: str, text: str = "fine", status: int = 200) -> dict[str, Any]:
    body = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
    return {"id": "x", "custom_id": key, "response": {"status_code": status, "body": body}, "error": None}


def answer_file(path: Path, rows: list[Any]) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.with_name(path.name.replace("input", "output")).write_text("\n".join(lines) + "\n")


def pending(source: BatchSource, requests: list[Request] = REQUESTS) -> list[Path]:
    with pytest.raises(BatchPending) as waiting:
        source.answer(requests)
    return list(waiting.value.files)


def test_requests_are_written_in_the_batch_format_once(tmp_path: Path) -> None:
    (path,) = pending(make_source(tmp_path))
    assert path.name == "001-problems.input.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == [request.key for request in REQUESTS]
    assert all(len(row["custom_id"]) <= 64 for row in rows)
    assert rows[0] | {"custom_id": ""} == {
        "custom_id": "",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 9},
    }
    before = path.read_bytes()
    assert pending(make_source(tmp_path)) == [path]
    assert path.read_bytes() == before


def test_answers_are_read_in_whatever_order_and_then_stored(tmp_path: Path) -> None:
    (path,) = pending(make_source(tmp_path))
    answer_file(path, [output_row(request.key, request.row_id * 2) for request in reversed(REQUESTS)])
    answers = make_source(tmp_path).answer(REQUESTS)
    assert [each.text for each in answers if isinstance(each, Answer)] == ["aa", "bb", "cc"]
    path.unlink()
    assert make_source(tmp_path).answer(REQUESTS) == answers


def test_every_request_without_an_answer_is_a_failed_attempt(tmp_path: Path) -> None:
    (path,) = pending(make_source(tmp_path))
    answer_file(path, [output_row(REQUESTS[0].key, status=500), '{"custom_id": "torn', output_row(REQUESTS[2].key)])
    first, second, third = make_source(tmp_path).answer(REQUESTS)
    assert first == Failure(reason="HTTP 500", is_answered=True)
    assert second == Failure(reason="missing from the batch answers", is_answered=True)
    assert isinstance(third, Answer)


def test_an_answer_nobody_asked_for_is_left_alone(tmp_path: Path) -> None:
    (path,) = pending(make_source(tmp_path))
    answer_file(path, [output_row(request.key) for request in REQUESTS] + [output_row("stranger")])
    source = make_source(tmp_path)
    source.answer(REQUESTS)
    assert len(source.store) == 3


def test_large_batches_are_split_and_wait_for_every_part(tmp_path: Path) -> None:
    first, second = pending(make_source(tmp_path, batch_rows=2))
    assert len(first.read_text().splitlines()) == 2
    answer_file(first, [output_row(request.key) for request in REQUESTS[:2]])
    assert pending(make_source(tmp_path, batch_rows=2)) == [second]


def test_the_budget_is_checked_before_a_file_is_written(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"budget\.max_tokens=30"):
        make_source(tmp_path, max_tokens=30).answer(REQUESTS)
    assert not list(tmp_path.glob("batches/*"))
