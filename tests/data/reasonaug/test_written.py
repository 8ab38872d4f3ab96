"""Negatives that a language model writes, around the ring of a concept's problems."""

import dataclasses
from typing import Any

import pytest

from diffembed.data.reasonaug.asking import Answer, Asker, Retry
from diffembed.data.reasonaug.concepts import Domain
from diffembed.data.reasonaug.config import GenerationConfig
from diffembed.data.reasonaug.prompts import Prompts
from diffembed.data.reasonaug.rows import GENERATED, Kind, Pair, Task, Triplet
from diffembed.data.reasonaug.written import read_negative, ring_rows, write_negatives

DOMAINS = {"rule": Domain(name="rule", question_type="rope", profile="open")}
INSTRUCTIONS = {("rule", task): f"find {task}" for task in Task}


class Source:
    """Writes the same negative for everybody."""

    lost_pairs: frozenset[str] = frozenset()

    def __init__(self, *, is_published: bool = True) -> None:
        self.is_published = is_published
        self.asked: list[Any] = []

    def answer(self, requests: Any) -> Any:
        self.asked += requests
        return [Answer(text="**Document**\nA tale of string.", is_whole=True) for _ in requests]

    def has_stage(self, stage: str) -> bool:
        return self.is_published


def make_pairs(*counts: int) -> list[Pair]:
    return [
        Pair(
            id=f"c{number}-{place}",
            concept_id=f"c{number}",
            concept=f"Rule {number}",
            domain="rule",
            round=place,
            problem=f"Problem {number}.{place}?",
            solution="",
            document=f"Document {number}.{place}",
        )
        for number, count in enumerate(counts)
        for place in range(1, count + 1)
    ]


def make_ask(source: Source) -> Asker:
    return Asker(source=source, prompts=Prompts.load(), settings=GenerationConfig())


def test_the_ring_closes_and_a_single_problem_has_none() -> None:
    """Bug: with one problem in a concept, the ring made the query its own positive."""
    rows = ring_rows(make_pairs(3, 1, 2))
    assert [(row.query, row.positive) for row in rows] == [
        ("Problem 0.1?", "Document 0.2"),
        ("Problem 0.2?", "Document 0.3"),
        ("Problem 0.3?", "Document 0.1"),
        ("Problem 2.1?", "Document 2.2"),
        ("Problem 2.2?", "Document 2.1"),
    ]


def test_written_negatives_are_marked_as_such() -> None:
    source = Source()
    rows = ring_rows(make_pairs(2))
    result = write_negatives(rows, DOMAINS, make_ask(source), instructions=INSTRUCTIONS)
    assert [(row.id, row.negative_instance, row.hard_negative_document) for row in result.rows] == [
        (0, GENERATED, "A tale of string."),
        (1, GENERATED, "A tale of string."),
    ]
    asked = source.asked[0].messages[-1]["content"]
    assert "Problem 0.1?" in asked
    assert "Document 0.2" in asked
    assert "Rule 0" in asked


def test_rows_that_were_not_published_are_counted() -> None:
    ask = make_ask(Source(is_published=False))
    assert write_negatives(ring_rows(make_pairs(3)), DOMAINS, ask, instructions=INSTRUCTIONS).rows == ()
    assert ask.notes == {"written_negatives: not published": 3}


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("A tale of string.", Kind.OPEN, "no Document tag"),
        ("**Document**\ndocument  0.2", Kind.OPEN, "negative repeats the positive or the query"),
        ("**Document**\nx = 1", Kind.CODING, "no code"),
    ],
)
def test_what_is_no_negative_is_asked_again(text: str, kind: Kind, reason: str) -> None:
    (row, _) = ring_rows(make_pairs(2))
    read = read_negative(row, Answer(text=text, is_whole=True), make_ask(Source()), kind, "find")
    assert isinstance(read, Retry)
    assert read.reason == reason


def test_code_comes_without_its_fence() -> None:
    (row, _) = ring_rows(make_pairs(2))
    answer = Answer(text="**Document**\n```python\nx = 1\n```", is_whole=True)
    read = read_negative(row, answer, make_ask(Source()), Kind.CODING, "find")
    assert isinstance(read, Triplet)
    assert read.hard_negative_document == "x = 1"
    assert dataclasses.astuple(read).count("") == 0
