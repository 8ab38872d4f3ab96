"""What can be wrong with problems, found on small examples."""

import dataclasses
import random

import pytest

from diffembed.data.reasonaug.quality import MIN_OVERLAP, final_number, names_concept, near_duplicates, shows_answer
from diffembed.data.reasonaug.rows import Pair

PAIR = Pair(
    id="c-1", concept_id="c", concept="Rope Rule (for knots)", domain="d", round=1, problem="How long?", solution="2"
)


def test_near_duplicates_equal_the_overlap_of_all_pairs() -> None:
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abcdefgh", k=30)) for _ in range(12)]
    for place in range(6):
        words = texts[place].split()
        words[draw.randrange(30)] = "changed"
        texts.append(" ".join(words))

    def shingles(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}

    expected = {
        (first, second): len(shingles(texts[first]) & shingles(texts[second]))
        / len(shingles(texts[first]) | shingles(texts[second]))
        for first in range(len(texts))
        for second in range(first + 1, len(texts))
    }
    expected = {places: overlap for places, overlap in expected.items() if overlap >= MIN_OVERLAP}
    assert len(expected) == 6
    assert {(first, second): overlap for first, second, overlap in near_duplicates(texts)} == expected


def test_short_and_empty_texts_have_near_duplicates_too() -> None:
    assert near_duplicates(["How long?", "how long?", "", ""]) == [(0, 1, 1.0), (2, 3, 1.0)]


@pytest.mark.parametrize(
    ("problem", "is_named"),
    [
        ("Use the rope  rule.", True),
        ("Use the Rope Rule!", True),
        ("Use the tightrope rule.", False),
        ("Use the rope rules.", False),
        ("Use the rope.", False),
    ],
)
def test_a_problem_that_names_its_concept(problem: str, is_named: bool) -> None:
    assert names_concept(dataclasses.replace(PAIR, problem=problem)) is is_named


@pytest.mark.parametrize(
    ("solution", "number"),
    [
        (r"So \(x = 3\) and \boxed{1,200.50} m, **77**", "1200.5"),
        (r"\boxed{\frac{12}{35}}", "35"),
        ("It is **1287.4 C** in the end. 5", "1287.4"),
        ("First 10.\nThen 25 m.", "25"),
        ("The answer is 7.", None),
        ("None.", None),
        ("", None),
    ],
)
def test_the_number_a_solution_ends_on(solution: str, number: str | None) -> None:
    assert final_number(solution) == number


def test_a_problem_that_shows_its_answer() -> None:
    told = dataclasses.replace(PAIR, problem="Show that 1,200 m of rope are enough.", solution="**1200.0 m**")
    assert shows_answer(told)
    assert not shows_answer(dataclasses.replace(told, problem="How long is a rope of 120 knots?"))
    choice = dataclasses.replace(told, problem="How long?\nA) 1200\nB) 1300\nC) 1400")
    assert not shows_answer(choice)


def test_a_problem_that_holds_its_code() -> None:
    code = "```python\ndef measure(rope_length):\n    total = rope_length * 2\n    return total + rope_length\n```"
    pair = dataclasses.replace(PAIR, problem=f"Write this:\n{code}", solution=code)
    assert shows_answer(pair)
    assert not shows_answer(dataclasses.replace(pair, problem="Write this:\n```python\ndef measure(rope_length):\n```"))
