"""Rows are asked about until an answer can be used; what then is lost is counted, and too much of it stops the run."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from diffembed.data.reasonaug.asking import (
    CUT_SHORT,
    Answer,
    Asker,
    Failure,
    Reject,
    Request,
    Retry,
    ask_rows,
    read_body,
)
from diffembed.data.reasonaug.config import GenerationConfig
from diffembed.data.reasonaug.prompts import Prompts
from diffembed.data.reasonaug.rows import Concept, StageResult
from diffembed.errors import InputError

ROWS = [Concept(id=f"c{number}", name=f"Name {number}", domain="d") for number in range(4)]
PROMPTS = Prompts.load()


@dataclass
class Source:
    """Answers by a function of the request; remembers what it was asked."""

    reply: Callable[[Request], Answer | Failure]
    asked: list[Request] = field(default_factory=list)
    lost_pairs: frozenset[str] = frozenset()

    def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        self.asked += requests
        return [self.reply(request) for request in requests]

    def has_stage(self, stage: str) -> bool:
        return True


def said(text: str) -> Answer:
    return Answer(text=text, is_whole=True)


def read(row: Concept, answer: Answer) -> "Concept | Retry[Concept] | Reject":
    if answer.text == "bad":
        return Reject(reason="rejected")
    if answer.text.startswith("salvage "):
        return Retry(reason=CUT_SHORT, salvage=dataclasses.replace(row, definition=answer.text))
    if answer.text.startswith("fault"):
        return Retry(reason=answer.text)
    return dataclasses.replace(row, definition=answer.text)


def ask(source: Source, **settings: float) -> tuple[StageResult[Concept], Asker]:
    settings = {"max_fault_fraction": 1.0, **settings}
    asker = Asker(source=source, prompts=PROMPTS, settings=GenerationConfig(**settings))  # type: ignore[arg-type]
    result = ask_rows(
        "stage",
        ROWS,
        asker,
        make_messages=lambda row: [{"role": "user", "content": row.name}],
        read=read,
        max_tokens=100,
    )
    return result, asker


def test_rows_come_back_in_order_each_asked_once() -> None:
    source = Source(lambda request: said(f"about {request.row_id}"))
    result, _ = ask(source)
    assert [row.definition for row in result.rows] == ["about c0", "about c1", "about c2", "about c3"]
    assert len(source.asked) == 4
    assert result.dropped == ()


def test_an_unusable_answer_is_asked_again_and_a_rejection_is_not() -> None:
    def reply(request: Request) -> Answer:
        if request.row_id == "c1":
            return said("fault" if request.attempt == 0 else "better")
        return said("bad" if request.row_id == "c2" else "good")

    source = Source(reply)
    result, asker = ask(source)
    assert [row.definition for row in result.rows] == ["good", "better", "good"]
    assert [(each.id, each.reason) for each in result.dropped] == [("c2", "rejected")]
    assert [request.row_id for request in source.asked if request.attempt] == ["c1"]
    assert asker.notes == {"stage: asked again": 1}


def test_a_row_is_lost_after_the_last_attempt_with_its_last_reason() -> None:
    source = Source(lambda request: said(f"fault {request.attempt}" if request.row_id == "c3" else "good"))
    result, _ = ask(source, max_attempts=3)
    assert [(each.id, each.reason) for each in result.dropped] == [("c3", "fault 2")]
    assert len([request for request in source.asked if request.row_id == "c3"]) == 3


def test_an_answer_cut_short_gets_twice_the_tokens_at_most_four_times() -> None:
    source = Source(lambda request: said("salvage me") if request.row_id == "c0" else said("good"))
    result, asker = ask(source, max_attempts=4)
    assert [request.max_tokens for request in source.asked if request.row_id == "c0"] == [100, 200, 400, 400]
    assert result.rows[0].definition == "salvage me"
    assert asker.notes[f"stage: salvaged ({CUT_SHORT})"] == 1


def test_what_can_be_salvaged_survives_a_later_worse_answer() -> None:
    source = Source(lambda request: said("salvage me" if request.attempt == 0 else "fault"))
    result, _ = ask(source, max_attempts=2)
    assert {row.definition for row in result.rows} == {"salvage me"}
    silent = Source(lambda request: said("salvage me") if request.attempt == 0 else Failure(reason="HTTP 500"))
    result, _ = ask(silent, max_attempts=2)
    assert {row.definition for row in result.rows} == {"salvage me"}


def test_no_answer_drops_the_row_at_once_and_says_that_nobody_answered() -> None:
    source = Source(lambda request: Failure(reason="HTTP 500") if request.row_id == "c0" else said("good"))
    result, _ = ask(source)
    assert [(each.id, each.reason, each.is_answered) for each in result.dropped] == [("c0", "HTTP 500", False)]
    assert len(source.asked) == 4


def test_a_malformed_answer_counts_as_an_attempt() -> None:
    source = Source(lambda request: Failure(reason="malformed JSON", is_answered=True))
    result, _ = ask(source, max_attempts=2)
    assert {each.reason for each in result.dropped} == {"malformed JSON"}
    assert all(each.is_answered for each in result.dropped)
    assert len(source.asked) == 8


def test_too_many_lost_rows_stop_the_run_and_rejections_do_not_count() -> None:
    with pytest.raises(InputError, match=r"stage: 4 of 4 rows got no usable answer \(4 fault\)"):
        ask(Source(lambda request: said("fault")), max_fault_fraction=0.5)
    result, _ = ask(Source(lambda request: said("bad")), max_fault_fraction=0.0)
    assert len(result.dropped) == 4


def test_the_key_is_the_question_about_the_row() -> None:
    request = Request(
        stage="s", row_id="r", attempt=0, model="m", messages=[{"role": "user", "content": "x"}], max_tokens=9
    )
    assert request.key == dataclasses.replace(request).key
    for change in ({"row_id": "q"}, {"attempt": 1}, {"model": "n"}, {"temperature": 0.5}, {"max_tokens": 8}):
        assert dataclasses.replace(request, **change).key != request.key  # type: ignore[arg-type]
    assert request.body() == {"model": "m", "messages": request.messages, "max_tokens": 9}
    assert dataclasses.replace(request, temperature=0.0).body("max_completion_tokens") == {
        "model": "m",
        "messages": request.messages,
        "max_completion_tokens": 9,
        "temperature": 0.0,
    }


def body(**message: object) -> dict[str, object]:
    return {"choices": [{"message": {"content": "x", **message}, "finish_reason": "stop"}]}


def test_bodies_are_read() -> None:
    answer = read_body(
        body(content=" <think>no</think> yes ") | {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    )
    assert answer == Answer(text="yes", is_whole=True, prompt_tokens=3, completion_tokens=2)
    cut = read_body({"choices": [{"message": {"content": "x"}, "finish_reason": "length"}]})
    assert isinstance(cut, Answer)
    assert not cut.is_whole
    refused = read_body(body(content=None, refusal="no"))
    assert isinstance(refused, Answer)
    assert refused.refusal == "no"
    filtered = read_body({"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]})
    assert isinstance(filtered, Answer)
    assert filtered.refusal == "content filter"


@pytest.mark.parametrize("value", [None, [], "text", {}, {"choices": []}, {"choices": [{}]}, body(content=["x"])])
def test_what_is_no_completion_is_malformed(value: object) -> None:
    failure = read_body(value)
    assert isinstance(failure, Failure)
    assert failure.reason == "malformed answer"
    assert failure.is_answered
