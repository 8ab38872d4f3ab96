"""What comes back from an endpoint, and what happens when nothing or nonsense does."""

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffembed.data.reasonaug.asking import Answer, Failure, Request
from diffembed.data.reasonaug.budget import Budget
from diffembed.data.reasonaug.client import LiveSource
from diffembed.data.reasonaug.config import BudgetConfig, EndpointConfig
from diffembed.data.reasonaug.store import AnswerStore
from diffembed.errors import ConfigError, ResourceError


def make_request(name: str, max_tokens: int = 50) -> Request:
    messages = [{"role": "user", "content": f"reference entry of {name}"}]
    return Request(stage="s", row_id=name, attempt=0, model="m", messages=messages, max_tokens=max_tokens)


@pytest.fixture
def connect(server: Any, tmp_path: Path) -> Callable[..., LiveSource]:
    def make(budget: BudgetConfig | None = None, **settings: Any) -> LiveSource:
        store = AnswerStore(tmp_path / "answers.jsonl")
        config = EndpointConfig(**{"base_url": server.base_url, "max_retries": 3, **settings})
        return LiveSource(config, store, Budget(budget or BudgetConfig(), store))

    return make


def test_answers_keep_the_order_of_the_requests_and_are_never_asked_twice(server: Any, connect: Any) -> None:
    requests = [make_request(str(number)) for number in range(20)]
    first = connect(concurrency=5).answer(requests)
    assert all(isinstance(each, Answer) for each in first)
    assert len({each.text for each in first}) == 20
    source = connect()
    assert source.answer(requests) == first
    assert source.num_sent == 0
    assert len(server.requests) == 20


def test_no_more_requests_than_allowed_are_in_flight(server: Any, connect: Any) -> None:
    server.gate = threading.Event()
    flown: list[int] = []

    def open_gate() -> None:
        flown.append(len(server.requests))
        server.gate.set()

    timer = threading.Timer(0.5, open_gate)
    timer.start()
    connect(concurrency=3).answer([make_request(str(number)) for number in range(9)])
    timer.join()
    assert flown == [3]


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_a_passing_failure_is_tried_again(server: Any, connect: Any, reply: Any, status: int) -> None:
    server.script = lambda messages, seen: reply(status=status, raw=b"{}") if seen < 2 else None
    (answer,) = connect().answer([make_request("a")])
    assert isinstance(answer, Answer)
    assert len(server.requests) == 3


def test_a_lasting_failure_is_told_after_the_last_try(server: Any, connect: Any, reply: Any) -> None:
    server.script = lambda messages, seen: reply(status=500, raw=b'{"error": {"message": "out of order"}}')
    (failure,) = connect(max_retries=2).answer([make_request("a")])
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.is_answered) == ("HTTP 500", False)
    assert "out of order" in failure.detail
    assert len(server.requests) == 3


def test_a_connection_that_breaks_in_the_middle_of_an_answer_is_tried_again(
    server: Any, connect: Any, reply: Any, obey: Any
) -> None:
    server.script = lambda messages, seen: reply(text="long " * 50, is_dropped=True) if seen == 0 else None
    request = make_request("a")
    (answer,) = connect().answer([request])
    assert answer.text == obey(request.messages).text
    assert len(server.requests) == 2


@pytest.mark.parametrize("raw", [b"<html>busy</html>", b'{"choices": [', b"", b"[]", b'{"error": "no"}'])
def test_a_body_that_is_no_completion_is_stored_as_an_answer_of_no_use(
    server: Any, connect: Any, reply: Any, raw: bytes
) -> None:
    server.script = lambda messages, seen: reply(raw=raw)
    (failure,) = connect().answer([make_request("a")])
    assert isinstance(failure, Failure)
    assert failure.reason.startswith("malformed")
    assert failure.is_answered
    assert connect().answer([make_request("a")]) == [failure]
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "sentence"), [(401, "refuses the API key"), (404, "does not know the model")])
def test_a_refused_key_or_model_stops_at_once(
    server: Any, connect: Any, reply: Any, status: int, sentence: str
) -> None:
    server.script = lambda messages, seen: reply(status=status, raw=b"{}")
    with pytest.raises(ConfigError, match=sentence):
        connect(concurrency=1).answer([make_request(str(number)) for number in range(9)])
    assert len(server.requests) == 1


def test_a_bad_request_is_that_rows_failure_alone(server: Any, connect: Any, reply: Any) -> None:
    server.script = lambda messages, seen: reply(status=400, raw=b"{}") if "of b" in messages[-1]["content"] else None
    answers = connect().answer([make_request(name) for name in "abc"])
    assert [type(each) for each in answers] == [Answer, Failure, Answer]
    assert len(server.requests) == 3


def test_an_endpoint_that_fails_again_and_again_stops_the_run(server: Any, connect: Any, reply: Any) -> None:
    server.script = lambda messages, seen: (
        reply(status=400, raw=b"{}") if "of 0" not in messages[-1]["content"] else None
    )
    source = connect(concurrency=1, max_consecutive_failures=4)
    with pytest.raises(ResourceError, match=r"failed 4 requests in a row \(last: HTTP 400.*1 answers are stored"):
        source.answer([make_request(str(number)) for number in range(20)])
    assert len(server.requests) == 5


def test_nobody_listening_is_one_sentence(connect: Any) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    source = connect(base_url=f"http://127.0.0.1:{port}/v1", max_retries=0, max_consecutive_failures=1)
    with pytest.raises(ResourceError, match="connection failed"):
        source.answer([make_request("a")])
    with pytest.raises(ConfigError, match="is no http address"):
        connect(base_url="localhost:8000")


def test_the_budget_is_never_passed_and_what_was_answered_is_kept(server: Any, connect: Any) -> None:
    requests = [make_request(str(number), max_tokens=40) for number in range(30)]
    source = connect(BudgetConfig(max_tokens=400), concurrency=8)
    with pytest.raises(ResourceError, match="raise the limit and run the same command again"):
        source.answer(requests)
    spent = source.budget.spent()
    assert 0 < spent["prompt_tokens"] + spent["completion_tokens"] <= 400
    num_kept = len(source.store)
    assert 0 < num_kept == len(server.requests) < 30
    richer = connect(BudgetConfig(max_tokens=100_000))
    assert all(isinstance(each, Answer) for each in richer.answer(requests))
    assert len(server.requests) == 30
    assert richer.num_sent == 30 - num_kept


def test_a_running_event_loop_is_no_obstacle(connect: Any) -> None:
    async def notebook() -> Any:
        return connect().answer([make_request("a")])

    (answer,) = asyncio.run(notebook())
    assert isinstance(answer, Answer)


def test_progress_counts_stored_answers_too(connect: Any) -> None:
    connect().answer([make_request("a")])
    source = connect(concurrency=1)
    steps: list[tuple[str, int, int]] = []
    source.progress = lambda *step: steps.append(step)
    source.answer([make_request(name) for name in "abc"])
    assert steps == [("s", 2, 3), ("s", 3, 3)]


def test_the_key_is_sent_and_stored_nowhere(
    server: Any, connect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "very-secret")
    connect(api_key_env="MY_KEY").answer([make_request("a")])
    stored = (tmp_path / "answers.jsonl").read_text()
    assert "reference entry" in stored
    assert "very-secret" not in stored
