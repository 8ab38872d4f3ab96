"""Reading definitions and the two checks; the bugs of the original pipeline are named where they are tested."""

import dataclasses
from typing import Any

import pytest

from diffembed.data.reasonaug.asking import CUT_SHORT, Answer, Asker, Reject, Retry
from diffembed.data.reasonaug.concepts import Domain
from diffembed.data.reasonaug.config import GenerationConfig
from diffembed.data.reasonaug.definitions import define, read_definition
from diffembed.data.reasonaug.prompts import Prompts
from diffembed.data.reasonaug.question_check import check_questions, read_check
from diffembed.data.reasonaug.rows import Check, Concept, Kind, Pair
from diffembed.data.reasonaug.solution_check import read_verdict

CONCEPT = Concept(id="c", name="Rope Rule", domain="rule")
DOMAINS = {"rule": Domain(name="rule", question_type="rope", profile="open")}
PAIR = Pair(
    id="c-1", concept_id="c", concept="Rope Rule", domain="rule", round=1, problem="How long?", solution="Two metres."
)


class Source:
    """Gives one answer to everything and remembers the requests."""

    def __init__(self, text: str = "YES", *, lacks: str = "", lost: frozenset[str] = frozenset()) -> None:
        self.text = text
        self.lacks = lacks
        self.lost_pairs = lost
        self.asked: list[Any] = []

    def answer(self, requests: Any) -> Any:
        self.asked += requests
        return [said(self.text) for _ in requests]

    def has_stage(self, stage: str) -> bool:
        return stage != self.lacks


def said(text: str, *, is_whole: bool = True) -> Answer:
    return Answer(text=text, is_whole=is_whole)


def make_ask(source: Source | None = None) -> Asker:
    return Asker(source=source or Source(), prompts=Prompts.load(), settings=GenerationConfig())


def test_a_definition_is_what_follows_its_tag() -> None:
    read = read_definition(CONCEPT, said("**Concept**\nRope Rule\n\n**Definition**\nA rule about rope."), make_ask())
    assert read == dataclasses.replace(CONCEPT, definition="A rule about rope.")
    untagged = read_definition(CONCEPT, said("A rule about rope."), make_ask())
    assert isinstance(untagged, Retry)
    assert untagged.reason == "no Definition tag"


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_definition_cut_in_its_code_is_noticed_and_keeps_its_prose(is_whole: bool) -> None:
    """Bug: definitions cut at 1,000 tokens went into the data as they were."""
    text = "**Definition**\nA tree that stays balanced.\n\n**Implementation Code**\n```python\nclass Tree:\n    def ins"
    read = read_definition(CONCEPT, said(text, is_whole=is_whole), make_ask())
    assert isinstance(read, Retry)
    assert read.reason == CUT_SHORT
    assert read.salvage == dataclasses.replace(
        CONCEPT, definition="A tree that stays balanced.", is_definition_cut=True
    )


def test_a_definition_cut_in_its_first_sentence_has_nothing_to_keep() -> None:
    read = read_definition(CONCEPT, said("**Definition**\nA tree that", is_whole=False), make_ask())
    assert isinstance(read, Retry)
    assert read.salvage is None


def test_a_definition_given_in_the_list_is_not_asked_for() -> None:
    source = Source("**Definition**\nAsked for.")
    given = dataclasses.replace(CONCEPT, id="g", definition="Given.")
    result = define([CONCEPT, given, dataclasses.replace(CONCEPT, id="h")], DOMAINS, make_ask(source))
    assert [concept.definition for concept in result.rows] == ["Asked for.", "Given.", "Asked for."]
    assert [request.row_id for request in source.asked] == ["c", "h"]


def test_the_question_check_continues_the_conversation_that_made_the_pair() -> None:
    source = Source("YES")
    (pair,) = check_questions([PAIR], DOMAINS, make_ask(source), seed=0).rows
    assert pair == dataclasses.replace(PAIR, question_check=Check.PASSED)
    roles = [turn["role"] for turn in source.asked[0].messages]
    assert roles == ["system", "user", "assistant", "user"]
    assert "Invent one rope problem" in source.asked[0].messages[1]["content"]
    assert source.asked[0].messages[2]["content"] == "**Problem**\nHow long?\n\n**Solution**\nTwo metres."


def test_a_replacement_takes_the_place_of_the_pair() -> None:
    read = read_check(PAIR, said("No.\n**Problem**\nHow thick?\n**Solution**\nAn inch."), make_ask())
    assert read == dataclasses.replace(PAIR, problem="How thick?", solution="An inch.", question_check=Check.REPLACED)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("NO", "no replacement"), ("NO\n**Problem**\nHow thick?", "no replacement"), ("It depends.", "no verdict")],
)
def test_a_question_check_without_outcome_is_asked_again(text: str, reason: str) -> None:
    read = read_check(PAIR, said(text), make_ask())
    assert isinstance(read, Retry)
    assert read.reason == reason


def test_pairs_whose_replacement_was_not_published_are_marked_or_dropped() -> None:
    other = dataclasses.replace(PAIR, id="c-2")
    ask = make_ask(Source(lacks="question_check", lost=frozenset({"c-2"})))
    kept = check_questions([PAIR, other], DOMAINS, ask, seed=0)
    assert [pair.question_check for pair in kept.rows] == [Check.UNPUBLISHED, Check.LOST]
    assert ask.notes["question_check: not published"] == 2
    fewer = check_questions([PAIR, other], DOMAINS, ask, seed=0, keep_lost=False)
    assert [pair.id for pair in fewer.rows] == ["c-1"]
    assert [(each.id, each.reason) for each in fewer.dropped] == [("c-2", "replaced by a pair not published")]


@pytest.mark.parametrize("text", ["YES", "**Yes**, it is.", "Yes"])
def test_an_accepted_solution_shows_problem_and_solution(text: str) -> None:
    pair = read_verdict(PAIR, said(text), make_ask(), Kind.OPEN)
    assert isinstance(pair, Pair)
    assert pair.document == "How long?\nTwo metres."
    assert pair.solution_check is Check.PASSED


@pytest.mark.parametrize("text", ["NO", "no.", "No, it is wrong.", "**No.**", "**Response:** NO"])
@pytest.mark.parametrize("kind", [Kind.OPEN, Kind.CODING])
def test_a_rejected_solution_is_not_asked_about_again(text: str, kind: Kind) -> None:
    """Bug: the branch for `no.` could not be reached after the one for `no`."""
    assert read_verdict(PAIR, said(text), make_ask(), kind) == Reject(reason="solution rejected", detail=text)


def test_code_is_the_document_without_what_is_said_around_it() -> None:
    text = (
        'YES, this is right.\n```python\ndef f():\n    """How long?"""\n    return 2\n```\nIt is quick.\n```\nf()\n```'
    )
    pair = read_verdict(PAIR, said(text), make_ask(), Kind.CODING)
    assert isinstance(pair, Pair)
    assert pair.document == 'def f():\n    """How long?"""\n    return 2'


def test_code_without_a_yes_is_accepted_and_counted_and_a_no_with_code_is_rejected() -> None:
    ask = make_ask()
    block = "```python\ndef f():\n    return 2\n```"
    assert isinstance(read_verdict(PAIR, said(f"The solution is fine.\n{block}"), ask, Kind.CODING), Pair)
    assert ask.notes == {"solution_check: accepted by code without a yes": 1}
    assert isinstance(read_verdict(PAIR, said(f"NO. Better:\n{block}"), ask, Kind.CODING), Reject)


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("It seems so.", Kind.OPEN, "no verdict"),
        ("YES", Kind.CODING, "accepted without code"),
        ("YES\n```java\nint f();\n```", Kind.CODING, "accepted without code"),
        ("It seems so.", Kind.CODING, "no verdict"),
        ("YES\n```python\ndef f(", Kind.CODING, CUT_SHORT),
    ],
)
def test_a_verdict_without_outcome_is_asked_for_again(text: str, kind: Kind, reason: str) -> None:
    read = read_verdict(PAIR, said(text), make_ask(), kind)
    assert isinstance(read, Retry)
    assert read.reason == reason
