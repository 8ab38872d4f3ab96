"""Answers are on disk before they are used, survive a kill, and bound what may still be spent."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from diffembed.data.reasonaug.asking import Answer, Failure, Request
from diffembed.data.reasonaug.budget import Budget
from diffembed.data.reasonaug.config import BudgetConfig
from diffembed.data.reasonaug.store import AnswerStore, StoredSource, estimate_tokens
from diffembed.errors import InputError, ResourceError

FIRST = Request(
    stage="s", row_id="a", attempt=0, model="m", messages=[{"role": "user", "content": "how?"}], max_tokens=50
)
SECOND = dataclasses.replace(FIRST, row_id="b")


def body(text: str, **usage: int) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}


def test_an_answer_is_found_again_by_another_store(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "answers.jsonl")
    assert store.add(FIRST, body("ünë", prompt_tokens=7, completion_tokens=3)) == Answer(
        text="ünë", is_whole=True, prompt_tokens=7, completion_tokens=3
    )
    store.add(SECOND, "<html>")
    again = AnswerStore(tmp_path / "answers.jsonl")
    assert len(again) == 2
    assert again.find(FIRST.key) == store.find(FIRST.key)
    failure = again.find(SECOND.key)
    assert failure == Failure(reason="malformed JSON", detail="<html>", is_answered=True)
    assert (again.prompt_tokens, again.completion_tokens) == (store.prompt_tokens, store.completion_tokens)
    assert again.prompt_tokens > 7


def test_the_question_is_stored_beside_its_answer(tmp_path: Path) -> None:
    AnswerStore(tmp_path / "answers.jsonl").add(FIRST, body("x"))
    record = json.loads((tmp_path / "answers.jsonl").read_text())
    assert record["request"] == FIRST.body()
    assert (record["stage"], record["row_id"], record["attempt"]) == ("s", "a", 0)


def test_a_line_cut_by_a_kill_is_removed_and_the_next_answer_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerStore(path).add(FIRST, body("one"))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "torn')
    store = AnswerStore(path)
    assert path.read_bytes() == whole
    store.add(SECOND, body("two"))
    found = AnswerStore(path).find(SECOND.key)
    assert isinstance(found, Answer)
    assert found.text == "two"


def test_damage_elsewhere_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerStore(path).add(FIRST, body("one"))
    path.write_bytes(b"damaged\n" + path.read_bytes())
    with pytest.raises(InputError, match=r"answers.jsonl:1 is damaged; remove the line"):
        AnswerStore(path)


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        AnswerStore(tmp_path / "file" / "answers.jsonl").add(FIRST, body("x"))


def test_the_stored_source_never_invents(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "answers.jsonl")
    store.add(FIRST, body("one"))
    answer, failure = StoredSource(store).answer([FIRST, SECOND])
    assert isinstance(answer, Answer)
    assert failure == Failure(reason="no stored answer")


def test_missing_usage_is_estimated(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "answers.jsonl")
    store.add(FIRST, {"choices": [{"message": {"content": "x" * 400}}]})
    assert store.completion_tokens >= 100
    assert store.prompt_tokens >= estimate_tokens("how?")


def make_budget(folder: Path, **limits: float) -> Budget:
    return Budget(BudgetConfig(**limits), AnswerStore(folder / "answers.jsonl"))  # type: ignore[arg-type]


def test_a_request_is_held_back_while_others_in_flight_could_pass_the_limit(tmp_path: Path) -> None:
    worst = estimate_tokens(str(FIRST.messages)) + FIRST.max_tokens
    budget = make_budget(tmp_path, max_tokens=2 * worst - 1)
    assert budget.reserve(FIRST)
    assert not budget.reserve(SECOND)
    budget.release(FIRST)
    assert budget.reserve(SECOND)


def test_the_run_stops_when_nothing_in_flight_could_make_room(tmp_path: Path) -> None:
    budget = make_budget(tmp_path, max_tokens=100)
    budget.store.add(FIRST, body("x", prompt_tokens=60, completion_tokens=20))
    with pytest.raises(ResourceError, match=r"could pass budget.max_tokens=100 \(80 tokens are spent on 1 answers\)"):
        budget.reserve(SECOND)
    assert budget.spent() == {"prompt_tokens": 60, "completion_tokens": 20, "cost": None}


def test_cost_is_counted_in_the_prices_given(tmp_path: Path) -> None:
    budget = make_budget(tmp_path, max_cost=1.0, prompt_price=2.0, completion_price=10.0)
    budget.store.add(FIRST, body("x", prompt_tokens=100_000, completion_tokens=79_900))
    # 0.2 + 0.799 = 0.999; 50 completion tokens more are 0.0005, 150 are 0.0015.
    assert budget.spent()["cost"] == pytest.approx(0.999)
    assert budget.reserve(SECOND)
    budget.release(SECOND)
    with pytest.raises(ResourceError, match=r"budget\.max_cost=1 "):
        budget.reserve(dataclasses.replace(SECOND, max_tokens=150))
    with pytest.raises(ResourceError, match=r"budget\.max_cost"):
        budget.require([SECOND, FIRST, SECOND])
