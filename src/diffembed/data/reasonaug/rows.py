"""The rows that pass from stage to stage, and why a row is left behind.

Read `Pair` first. Rows are flat, frozen and JSON-ready, so that a stage's output is one line per row.
This module knows nothing of prompts, models or files.
"""

import json
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Generic, TypeVar

from diffembed.provenance import hash_text

R = TypeVar("R")

GENERATED = "GENERATED"
"""`negative_instance` of a negative that a language model wrote."""


class Kind(StrEnum):
    """What a solution is: Python code, a number reached by steps, or reasoned prose."""

    CODING = "coding"
    NUMERIC = "numeric"
    OPEN = "open"


class Task(StrEnum):
    """The four retrieval tasks: p = problem, i = concept (instance), s = solution."""

    P2I = "p2i"
    I2PS = "i2ps"
    P2PS = "p2ps"
    PS2PS = "ps2ps"


class Check(StrEnum):
    """Outcome of a check by the language model."""

    PENDING = "pending"
    PASSED = "passed"
    REPLACED = "replaced"
    UNPUBLISHED = "unpublished"
    """Replay only: the answer exists, but was not published."""
    LOST = "replaced, not published"
    """Replay only: the pair was replaced and only the pair before was published; its verdict is about the other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Concept:
    """One concept of a domain, with its definition once stage 1 has it."""

    id: str
    """Made from the domain and the name, so it survives edits elsewhere in the list."""
    name: str
    domain: str
    definition: str = ""
    is_definition_cut: bool = False
    """The answer was cut short; only its whole part was kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One problem with its solution."""

    id: str
    """Concept id, a dash, the round."""
    concept_id: str
    concept: str
    domain: str
    round: int
    problem: str
    solution: str
    document: str = ""
    """What retrieval should find: code for coding problems, else problem and solution; set by the solution check."""
    question_check: Check = Check.PENDING
    solution_check: Check = Check.PENDING
    is_salvaged: bool = False
    """The answer lacked a tag and no better one came; the parts were told apart by other marks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A training row before it has a negative."""

    id: str
    task: Task
    domain: str
    concept: str
    query: str
    positive: str
    is_positive_name: bool = False
    """p2i: the positive is the concept's name, so its negative is a name too."""
    ranking_text: str
    """Text by which negatives are looked for."""
    slot: int
    """Number of the candidate this row takes among those of the same ranking text, from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Triplet:
    """The published row: nine keys, none of them null."""

    id: int
    domain: str
    instance: str
    task_type: str
    task: str
    """Instruction of the query."""
    user_query: str
    positive_document: str
    hard_negative_document: str
    negative_instance: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A row that went no further."""

    stage: str
    id: str
    reason: str
    """Short and countable: one of a few per stage."""
    detail: str = ""
    is_answered: bool = True
    """False when nobody answered: the endpoint failed, or a stored set lacks the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult(Generic[R]):
    """What a stage returns."""

    rows: tuple[R, ...]
    dropped: tuple[Dropped, ...] = ()


def row_line(row: Any) -> str:
    """The JSON line of a row."""
    return json.dumps({name: getattr(row, name) for name in row.__slots__}, ensure_ascii=False)


def read_row(kind: type[R], values: dict[str, Any]) -> R:
    """The row of a JSON line."""
    choices = _choices(typing.cast(Any, kind))
    return kind(**{name: choices[name](value) if name in choices else value for name, value in values.items()})


@cache
def _choices(kind: Any) -> dict[str, type[StrEnum]]:
    """The fields that hold one of a set of words, which JSON keeps as plain text."""
    types = typing.get_type_hints(kind)
    return {name: each for name, each in types.items() if isinstance(each, type) and issubclass(each, StrEnum)}


def hash_rows(rows: Sequence[Any]) -> str:
    """Hash of the rows in order; the address of whatever is made from them."""
    return hash_text("\n".join(row_line(row) for row in rows))
