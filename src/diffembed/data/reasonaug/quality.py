"""What can be wrong with problems, measured on their texts alone.

Read `near_duplicates` first. Each function returns what it found and leaves judgement to the report.
"""

import re
from collections import Counter
from collections.abc import Sequence

from diffembed.data.formats import text_key
from diffembed.data.reasonaug import parsing
from diffembed.data.reasonaug.leakage import WORDS
from diffembed.data.reasonaug.rows import Pair

SHINGLE_WORDS = 5
MIN_OVERLAP = 0.6
"""Jaccard overlap of word 5-grams from which two problems count as near-duplicates; chosen because two texts of
one length then share three quarters of them."""
MAX_HOLDERS = 500
"""Shingles in more texts than this are boilerplate and pair nothing up."""
MIN_CODE_CHARACTERS = 20
MIN_SHARED_LINES = 3
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
BOXED = re.compile(r"\\boxed\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
OPTION = re.compile(r"^\W{0,4}[A-E][).:]", re.MULTILINE)


def near_duplicates(texts: Sequence[str]) -> list[tuple[int, int, float]]:
    """Pairs of places (lower first) whose texts overlap by at least `MIN_OVERLAP`, with the overlap."""
    shingles = [_shingles(text) for text in texts]
    holders: dict[tuple[str, ...], list[int]] = {}
    for place, own in enumerate(shingles):
        for shingle in own:
            holders.setdefault(shingle, []).append(place)
    found: list[tuple[int, int, float]] = []
    for place, own in enumerate(shingles):
        shared: Counter[int] = Counter()
        for shingle in own:
            if len(holders[shingle]) <= MAX_HOLDERS:
                shared.update(other for other in holders[shingle] if other > place)
        for other, count in shared.items():
            overlap = count / (len(own) + len(shingles[other]) - count)
            if overlap >= MIN_OVERLAP:
                found.append((place, other, overlap))
    return sorted(found)


def names_concept(pair: Pair) -> bool:
    """Whether the problem gives its concept away by name; what stands in brackets need not be repeated."""
    name = text_key(re.sub(r"\s*\([^)]*\)", "", pair.concept)) or text_key(pair.concept)
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text_key(pair.problem)) is not None


def shows_answer(pair: Pair) -> bool:
    """Whether the problem already holds the solution's final number, or several lines of its code.

    Numbers of a single digit and multiple-choice problems, which must list the answer, are not counted.
    """
    lines = set(_code_lines(pair.solution))
    if len(lines & set(_code_lines(pair.problem))) >= MIN_SHARED_LINES:
        return True
    if len(OPTION.findall(pair.problem)) >= MIN_SHARED_LINES or parsing.code_blocks(pair.solution):
        return False
    answer = final_number(pair.solution)
    return answer is not None and answer in {_plain(number) for number in NUMBER.findall(pair.problem)}


def final_number(solution: str) -> str | None:
    """The number a solution ends on: in its last box, else its last bold text, else its last line; None if a digit."""
    for source in (BOXED.findall(solution)[-1:], BOLD.findall(solution)[-1:], solution.strip().splitlines()[-1:]):
        if source and (numbers := NUMBER.findall(source[0])):
            number = _plain(numbers[-1])
            return number if len(re.sub(r"\D", "", number)) > 1 else None
    return None


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = WORDS.findall(text.casefold())
    return {tuple(words[start : start + SHINGLE_WORDS]) for start in range(max(1, len(words) - SHINGLE_WORDS + 1))}


def _code_lines(text: str) -> list[str]:
    return [
        line.strip()
        for block in parsing.code_blocks(text)
        for line in block.code.splitlines()
        if len(line.strip()) >= MIN_CODE_CHARACTERS
    ]


def _plain(number: str) -> str:
    """A number without thousands separators and trailing zeros, so that 1,200.0 and 1200 are one."""
    plain = number.replace(",", "")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain
