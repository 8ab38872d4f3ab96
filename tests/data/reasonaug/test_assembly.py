"""Rows of the four tasks, counted by hand; the bugs of the original pipeline are named where they are tested."""

import dataclasses
from collections import Counter
from math import sqrt

from diffembed.data.reasonaug.assembly import assemble, unique_pairs
from diffembed.data.reasonaug.config import AssemblyConfig
from diffembed.data.reasonaug.rows import Concept, Example, Pair, Task


def make_concept(number: int) -> Concept:
    return Concept(id=f"c{number}", name=f"Rule {number}", domain="rule", definition=f"What rule {number} says.")


def make_pairs(number: int, count: int) -> list[Pair]:
    return [
        Pair(
            id=f"c{number}-{place}",
            concept_id=f"c{number}",
            concept=f"Rule {number}",
            domain="rule",
            round=place,
            problem=f"Problem {number}.{place}?",
            solution=f"Solution {number}.{place}.",
            document=f"Document {number}.{place}",
        )
        for place in range(1, count + 1)
    ]


def rows_of(*counts: int, config: AssemblyConfig | None = None, seed: int = 0) -> list[Example]:
    concepts = [make_concept(number) for number in range(len(counts))]
    pairs = [pair for number, count in enumerate(counts) for pair in make_pairs(number, count)]
    return list(assemble(concepts, pairs, config or AssemblyConfig(), seed=seed).rows)


def test_counts_per_concept_are_those_of_the_published_set() -> None:
    # n pairs give 2n p2i, n i2ps and min(20, n (n - 1)) ordered pairs of problems.
    tasks = Counter(row.task for row in rows_of(0, 1, 2, 5, 8))
    assert tasks[Task.P2I] == 2 * 16
    assert tasks[Task.I2PS] == 16
    assert tasks[Task.P2PS] + tasks[Task.PS2PS] == 0 + 2 + 20 + 20


def test_a_single_problem_is_never_its_own_positive() -> None:
    """Bug: with one problem in a concept, the ring made the query its own positive."""
    rows = rows_of(1)
    assert {row.task for row in rows} == {Task.P2I, Task.I2PS}
    assert all(row.query != row.positive for row in rows)


def test_no_problem_finds_its_own_document_and_no_pair_occurs_twice() -> None:
    rows = [row for row in rows_of(8) if row.task in (Task.P2PS, Task.PS2PS)]
    pairs = [(row.query.partition("?")[0].partition(" ")[2], row.positive.partition(" ")[2]) for row in rows]
    assert all(query != found for query, found in pairs)
    assert len(set(pairs)) == len(pairs) == 20


def test_shares_of_names_and_longer_queries_are_the_papers() -> None:
    rows = rows_of(*[8] * 150)
    names = [row.positive.startswith("Rule ") for row in rows if row.task is Task.P2I]
    pairs = [row for row in rows if row.task in (Task.P2PS, Task.PS2PS)]
    longer = [row for row in pairs if row.task is Task.PS2PS]
    solved = [row for row in longer if "Solution" in row.query]
    for count, total, expected in ((sum(names), len(names), 0.5), (len(longer), len(pairs), 0.25),
                                   (len(solved), len(longer), 0.6)):  # fmt: skip
        assert abs(count / total - expected) < 4 * sqrt(expected * (1 - expected) / total)
    assert all(row.is_positive_name == row.positive.startswith("Rule ") for row in rows if row.task is Task.P2I)


def test_queries_hold_what_their_task_says() -> None:
    rows = {task: [row for row in rows_of(8) if row.task is task] for task in Task}
    assert all(row.query.startswith("Problem") and "\n" not in row.query for row in rows[Task.P2PS])
    assert all(row.query.partition("\n")[2].startswith(("Solution", "Rule")) for row in rows[Task.PS2PS])
    assert {row.query for row in rows[Task.I2PS]} == {"Rule 0"}
    assert {row.ranking_text for row in rows[Task.I2PS]} == {"What rule 0 says."}
    assert [row.slot for row in rows[Task.I2PS]] == list(range(8))


def test_one_concept_does_not_change_another() -> None:
    alone = rows_of(0, 4)
    crowd = [row for row in rows_of(7, 4, 3) if row.concept == "Rule 1"]
    assert alone == crowd
    assert alone != rows_of(0, 4, seed=1)


def test_repeated_problems_are_dropped_within_their_concept_only() -> None:
    """Bug: problems that were dropped as duplicates stayed in the corpora of negatives."""
    first, second, third = make_pairs(0, 3)
    second = dataclasses.replace(second, problem="problem  0.1?")
    elsewhere = dataclasses.replace(make_pairs(1, 1)[0], problem=first.problem)
    result = unique_pairs([first, second, third, elsewhere])
    assert result.rows == (first, third, elsewhere)
    assert [(each.id, each.reason, each.detail) for each in result.dropped] == [("c0-2", "duplicate problem", "c0-1")]


def test_two_problems_with_one_document_are_no_pair() -> None:
    first, second = make_pairs(0, 2)
    result = assemble(
        [make_concept(0)], [first, dataclasses.replace(second, document=first.document)], AssemblyConfig(), seed=0
    )
    assert {row.task for row in result.rows} == {Task.P2I, Task.I2PS}


def test_a_definition_that_repeats_the_problem_is_no_positive() -> None:
    concept = dataclasses.replace(make_concept(0), definition="PROBLEM 0.1?")
    result = assemble([concept], make_pairs(0, 1), AssemblyConfig(p2i_name_fraction=0.0), seed=0)
    assert {row.task for row in result.rows} == {Task.I2PS}
    assert [each.reason for each in result.dropped] == ["positive is the query"] * 2
