"""The sentences that passkey and needle tasks hide and ask, whatever place or person they are filled with.

Read `find_sentences`. Knows nothing of training.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from diffembed.evaluation.leakage import words
from diffembed.evaluation.suites.needles import FACTS

PASSKEY = "the pass key of"
"""Words that every sentence of a passkey task holds."""
ANY_PLACE = r"\w+(?: \w+)?"
"""Stands for the {place} of a fact or a question: one word or two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HiddenSentence:
    """One sentence before it is filled."""

    family: str
    """passkey or needle."""
    template: str
    """As it is written, with {place} in it."""
    pattern: str
    """Its words, whole, with `ANY_PLACE` among them."""


def find_sentences(joined: str) -> Iterator[HiddenSentence]:
    """Every hidden sentence that a text holds. joined: the words of the text (`leakage.words`), a space between two."""
    sentences, any_of_them = _sentences()
    # One look for all takes 0.1 s for a megabyte, one for each many times as long.
    if any_of_them.search(joined):
        yield from (sentence for sentence in sentences if re.search(sentence.pattern, joined))


@cache
def _sentences() -> tuple[tuple[HiddenSentence, ...], re.Pattern[str]]:
    """All of them, and a pattern that finds any."""
    templates = [("passkey", PASSKEY), *(("needle", template) for pair in FACTS for template in pair)]
    sentences = tuple(
        HiddenSentence(family=family, template=template, pattern=_pattern(template)) for family, template in templates
    )
    return sentences, re.compile("|".join(sentence.pattern for sentence in sentences))


def _pattern(template: str) -> str:
    parts = [" ".join(words(part)) for part in template.split("{place}")]
    return rf"\b{f' {ANY_PLACE} '.join(parts).strip()}\b"
