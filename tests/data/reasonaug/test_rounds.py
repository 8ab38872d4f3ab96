"""Random knobs: the listed probabilities, the same on every machine, untouched by anything else; and reading a pair."""

import dataclasses
import os
import re
from collections import Counter
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from diffembed.data.files import read_rows
from diffembed.data.reasonaug.asking import CUT_SHORT, Answer, Asker, Retry
from diffembed.data.reasonaug.concepts import Domain
from diffembed.data.reasonaug.config import GenerationConfig
from diffembed.data.reasonaug.prompts import Prompts
from diffembed.data.reasonaug.rounds import Knobs, draw_knobs, make_rules, problem_messages, read_pair
from diffembed.data.reasonaug.rows import Kind, Pair

NUM_DRAWS = 4000
PROMPTS = Prompts.load()
MATH = Domain(name="math theorem", question_type="math", profile="math", difficulty=("exam one", "exam two"))
PAIR = Pair(id="c-1", concept_id="c", concept="Rope Rule", domain="math theorem", round=1, problem="", solution="")


class NoSource:
    """Never asked in these tests."""

    lost_pairs: frozenset[str] = frozenset()

    def answer(self, requests: Any) -> Any:
        raise AssertionError("asked")

    def has_stage(self, stage: str) -> bool:
        return True


ASK = Asker(source=NoSource(), prompts=PROMPTS, settings=GenerationConfig())


def draws(profile: str, domain: Domain, **changes: Any) -> list[Knobs]:
    chosen = dataclasses.replace(PROMPTS.profile(profile), **changes)
    return [draw_knobs(chosen, domain, seed=0, concept_id=f"c{number}", round_number=1) for number in range(NUM_DRAWS)]


def close(share: float, expected: float) -> bool:
    """Within four standard errors."""
    return abs(share - expected) <= 4 * sqrt(expected * (1 - expected) / NUM_DRAWS)


def test_math_knobs_have_the_papers_probabilities() -> None:
    found = draws("math", MATH)
    styles = Counter(knobs.style for knobs in found)
    assert close(styles["theoretical"] / NUM_DRAWS, 0.5)
    assert close(styles["real_world_no_proof"] / NUM_DRAWS, 0.25)
    assert close(styles["multiple_choice"] / NUM_DRAWS, 0.25)
    assert close(sum(bool(knobs.difficulty) for knobs in found) / NUM_DRAWS, 0.8)
    assert close(sum(knobs.difficulty == "exam one" for knobs in found) / NUM_DRAWS, 0.4)
    assert close(sum(knobs.is_several_steps for knobs in found) / NUM_DRAWS, 0.35)
    assert close(sum(knobs.is_several_concepts for knobs in found) / NUM_DRAWS, 0.15)
    assert close(sum(knobs.is_name_hidden for knobs in found) / NUM_DRAWS, 0.5)
    assert close(sum(knobs.is_short for knobs in found) / NUM_DRAWS, 0.4)
    assert not any(knobs.theme for knobs in found)


def test_coding_has_sixteen_themes_and_one_empty_slot() -> None:
    themes = Counter(knobs.theme for knobs in draws("coding", dataclasses.replace(MATH, profile="coding")))
    assert len(themes) == 17
    assert all(close(count / NUM_DRAWS, 1 / 17) for count in themes.values())


def test_physics_and_finance_are_real_world_half_of_the_time() -> None:
    styles = Counter(knobs.style for knobs in draws("applied", MATH))
    assert set(styles) == {"", "real_world"}
    assert close(styles["real_world"] / NUM_DRAWS, 0.5)


def test_one_probability_changes_no_other_knob() -> None:
    before, after = draws("math", MATH), draws("math", MATH, difficulty=0.1)
    assert [dataclasses.replace(knobs, difficulty="") for knobs in before] == [
        dataclasses.replace(knobs, difficulty="") for knobs in after
    ]
    assert before != after


def test_the_seed_decides() -> None:
    arguments: dict[str, Any] = {"concept_id": "rope-rule-1", "round_number": 3}
    profile = PROMPTS.profile("math")
    one = [draw_knobs(profile, MATH, seed=seed, **arguments) for seed in range(40)]
    assert one == [draw_knobs(profile, MATH, seed=seed, **arguments) for seed in range(40)]
    assert len(set(one)) > 10
    # Written down once: another machine or Python must draw the same.
    assert one[0] == Knobs(style="multiple_choice", difficulty="exam two", is_name_hidden=True, is_short=True)


def test_rules_name_what_was_drawn_and_nothing_else() -> None:
    knobs = Knobs(style="multiple_choice", difficulty="exam one", is_several_concepts=True)
    lines = make_rules(PROMPTS, PROMPTS.profile("math"), knobs, domain="math theorem", concept="Rope Rule").splitlines()
    assert len(lines) == len(PROMPTS.profile("math").rules) + 3
    assert "Match the difficulty of exam one." in lines
    assert "It should need more than one math theorem to solve." in lines
    assert any("multiple-choice" in line for line in lines)
    assert sum("Rope Rule" in line for line in lines) == 2


def test_the_prompt_asks_for_both_tags() -> None:
    (system, user) = problem_messages(PAIR, MATH, ASK, seed=0)
    assert (system["role"], user["role"]) == ("system", "user")
    assert "**Problem**" in user["content"]
    assert "**Solution**" in user["content"]
    assert "Invent one math problem" in user["content"]


def answer(text: str, **changes: Any) -> Answer:
    return Answer(text=text, is_whole=True, **changes)


def test_a_pair_is_read() -> None:
    pair = read_pair(PAIR, answer("**Problem**\nHow long?\n**Solution**\nTwo."), ASK, Kind.NUMERIC)
    assert isinstance(pair, Pair)
    assert (pair.problem, pair.solution, pair.is_salvaged) == ("How long?", "Two.", False)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (answer("**Problem**\nHow long?"), "no Solution tag"),
        (answer("How long? Two."), "no Problem tag"),
        (answer(""), "empty answer"),
        (Answer(text="", is_whole=False), CUT_SHORT),
        (Answer(text="**Problem**\nHow long?\n**Solution**\nTw", is_whole=False), CUT_SHORT),
        (answer("**Problem**\nHow?\n**Solution**\n```python\ndef f("), CUT_SHORT),
        (answer("I'm sorry, I can't do that."), "refusal"),
        (answer("", refusal="content filter"), "refusal"),
        (answer("**Problem**\n" + "Wie lang ist das Seil, wenn es um den Baum und wieder zu dem Haus geht, und " * 3),
         "wrong language"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_asked_again(given: Answer, reason: str) -> None:
    reading = read_pair(PAIR, given, ASK, Kind.NUMERIC)
    assert isinstance(reading, Retry)
    assert reading.reason == reason
    assert reading.salvage is None


def test_code_without_a_tag_can_be_told_apart_from_its_problem() -> None:
    reading = read_pair(PAIR, answer("**Problem**\nAdd one.\n```python\nx += 1\n```"), ASK, Kind.CODING)
    assert isinstance(reading, Retry)
    assert reading.salvage == dataclasses.replace(
        PAIR, problem="Add one.", solution="```python\nx += 1\n```", is_salvaged=True
    )


@pytest.mark.skipif("DIFFEMBED_DATA" not in os.environ, reason="DIFFEMBED_DATA is not set")
def test_our_probabilities_are_those_of_the_published_requests() -> None:
    folder = Path(os.environ["DIFFEMBED_DATA"]) / "reasonaug_raw"
    prompts = [
        row["body"]["messages"][-1]["content"]
        for number in range(1, 9)
        for _, row in read_rows(folder / f"problem_solution_input_{number}.jsonl.zst")
    ]
    asks_math = [text for text in prompts if "one math problem" in text]
    asks_applied = [text for text in prompts if re.search("one (physics|finance) problem", text)]
    asks_code = [text for text in prompts if "one coding problem" in text]
    assert (len(asks_math), len(asks_applied), len(asks_code)) == (800, 880, 720)

    def share(texts: list[str], mark: str) -> float:
        return sum(mark in text for text in texts) / len(texts)

    math, applied = PROMPTS.profile("math"), PROMPTS.profile("applied")
    expected = [
        (share(asks_math, "as difficult as"), math.difficulty, 800),
        (share(asks_applied, "as difficult as"), applied.difficulty, 880),
        (share(asks_code, "as difficult as"), PROMPTS.profile("coding").difficulty, 720),
        (share(asks_math, "solution should not explicitly mention"), math.hidden_name, 800),
        (share(asks_math, "four sentences"), math.short, 800),
        (share(asks_math, "theoretical and mathematical"), 0.5, 800),
        (share(asks_applied, "real world"), 0.5, 880),
        (share(asks_math + asks_applied, "multiple steps"), math.several * (1 - math.several_concepts), 1680),
        (share(asks_code, "should be about") + share(asks_code, "theoretical coding"), 16 / 17, 720),
    ]
    for found, ours, number in expected:
        assert abs(found - ours) <= 4 * sqrt(ours * (1 - ours) / number), (found, ours)
