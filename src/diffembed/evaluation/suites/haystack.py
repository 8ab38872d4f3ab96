"""Passkey and Needle as LongEmbed defines them: one sentence hidden in a long text, one question that asks for it.

Read `make_passkey_task`. For each length there are N documents of that many tokens, each with a key sentence of its
own, and a query for some of them; the document that holds the answer must come first (Acc@1). LongEmbed (Zhu et al.
2024, arXiv 2404.12096) has 100 documents and 50 queries per length, 256 to 32,768 tokens. The sentences are our own and
the haystack is any text. This module knows nothing of encoders; a tokenizer arrives as a function.
"""

import random
import re
from collections.abc import Callable, Sequence

from diffembed.errors import ConfigError, InputError
from diffembed.evaluation.suites.needles import FACTS, FIRST_NAMES, LAST_NAMES, PLACES
from diffembed.evaluation.tasks import Task
from diffembed.records import Document, Query

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
"""Tokens per document; LongEmbed goes on to 16,384 and 32,768."""
MIN_TOKENS = 64
"""A shorter document could not hold a key sentence and some hay around it."""

TokenSpans = Callable[[str], Sequence[tuple[int, int]]]
"""Text -> (start, end) in characters of each of its tokens, special tokens left out."""

_CHARACTERS_PER_TOKEN = 8
"""Characters of hay that are tokenised at first for each token wanted; doubled where they turn out too few."""
_SENTENCE_END = re.compile(r"\n\n|(?<=[.!?])\s")


def word_spans(text: str) -> Sequence[tuple[int, int]]:
    """Spans of whitespace-separated words: the count of tokens where no model is compared."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def make_passkey_task(
    length: int, *, hay: str, token_spans: TokenSpans, num_documents: int = 100, num_queries: int = 50, seed: int = 0
) -> Task:
    """Documents of `length` tokens that each tell one person's five-digit pass key; queries name the person."""
    _check_counts(length, num_documents, num_queries, len(FIRST_NAMES) * len(LAST_NAMES))
    rng = random.Random(f"{seed}/passkey/{length}")
    people = rng.sample([f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES], num_documents)
    keys = rng.sample(range(10_000, 100_000), num_documents)
    pairs = [
        (
            f"The pass key of {person} is {key}. Keep it in mind: {key} is the pass key of {person}.",
            f"What is the pass key of {person}?",
        )
        for person, key in zip(people, keys, strict=True)
    ]
    return _make_task("passkey", length, pairs, num_queries, hay, token_spans, rng)


def make_needle_task(
    length: int, *, hay: str, token_spans: TokenSpans, num_documents: int = 100, num_queries: int = 50, seed: int = 0
) -> Task:
    """Documents of `length` tokens that each tell an invented fact of a place; queries ask for it in other words."""
    _check_counts(length, num_documents, num_queries, len(FACTS) * len(PLACES))
    rng = random.Random(f"{seed}/needle/{length}")
    facts = rng.sample(FACTS, len(FACTS))
    places = rng.sample(PLACES, len(PLACES))
    pairs = []
    for number in range(num_documents):
        # Every further round over the facts is shifted by one place, so that no (fact, place) pair comes twice.
        again, position = divmod(number, len(facts))
        fact, question = facts[position]
        place = places[(position + again) % len(places)]
        pairs.append((fact.format(place=place), question.format(place=place)))
    return _make_task("needle", length, pairs, num_queries, hay, token_spans, rng)


def _check_counts(length: int, num_documents: int, num_queries: int, most: int) -> None:
    if length < MIN_TOKENS:
        raise ConfigError(f"a haystack of {length} tokens is too short; use {MIN_TOKENS} or more")
    if not 2 <= num_documents <= most:
        raise ConfigError(f"num_documents is {num_documents}; it must be from 2 to {most}")
    if not 1 <= num_queries <= num_documents:
        raise ConfigError(f"num_queries is {num_queries}; it must be from 1 to num_documents ({num_documents})")


def _make_task(
    family: str,
    length: int,
    pairs: Sequence[tuple[str, str]],
    num_queries: int,
    hay: str,
    token_spans: TokenSpans,
    rng: random.Random,
) -> Task:
    num_documents = len(pairs)
    # Depths are spread evenly instead of drawn, so that a small draw also sees the start, the middle and the end.
    depths = [(number + 0.5) / num_documents for number in range(num_documents)]
    rng.shuffle(depths)
    offset = rng.random()
    name = f"{family}-{length}"
    corpus, queries, qrels = [], [], {}
    for number, ((key, question), depth) in enumerate(zip(pairs, depths, strict=True)):
        start = int(len(hay) * ((offset + number / num_documents) % 1))
        document_id = f"{name}-d{number:03}"
        corpus.append(Document(id=document_id, text=hide(key, hay, start, length, depth, token_spans)))
        if number < num_queries:
            query_id = f"{name}-q{number:03}"
            queries.append(Query(id=query_id, text=question))
            qrels[query_id] = {document_id: 1}
    return Task(
        name=name, family=family, length=length, corpus=corpus, queries=queries, qrels=qrels, measures=("Acc@1",)
    )


def hide(key: str, hay: str, start: int, length: int, depth: float, token_spans: TokenSpans) -> str:
    """Hay with `key` at the sentence end nearest `depth`: `length` tokens, or a few less where they cannot be met.

    start: character of the hay to begin near; the hay is a ring. depth: 0 is the beginning, 1 the end.
    """
    paragraph = hay.find("\n\n", start)
    start = paragraph + 2 if 0 <= paragraph < len(hay) - 2 else 0
    room = length - len(token_spans(key))
    for _ in range(8):
        body = _first_tokens(hay, start, room, token_spans)
        ends = [match.end() for match in _SENTENCE_END.finditer(body)]
        place = min([0, *ends, len(body)], key=lambda end: abs(end - depth * len(body)))
        text = " ".join(part for part in (body[:place].rstrip(), key, body[place:].strip()) if part)
        excess = len(token_spans(text)) - length
        if excess <= 0:
            return text
        room -= excess
    raise InputError(f"no text of {length} tokens could be cut; the tokenizer's spans do not fit its text")


def _first_tokens(hay: str, start: int, num_tokens: int, token_spans: TokenSpans) -> str:
    num_characters = num_tokens * _CHARACTERS_PER_TOKEN
    while True:
        text = _ring(hay, start, num_characters)
        spans = token_spans(text)
        if len(spans) >= num_tokens:
            return text[: spans[num_tokens - 1][1]]
        num_characters *= 2
        if num_characters > (1 << 30):
            raise InputError("the haystack text holds no tokens")


def _ring(hay: str, start: int, num_characters: int) -> str:
    text = hay[start : start + num_characters]
    while len(text) < num_characters:
        text += "\n\n" + hay[: num_characters - len(text)]
    return text
