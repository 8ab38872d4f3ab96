"""One sentence hidden in a long text, one query that asks for it: passkey and needle, birthday and paraphrase.

Read `make_passkey_task`. For each length there are N documents of that many tokens, each with a key sentence of its
own, and a query for some of them; the document that holds the answer must come first (Acc@1). LongEmbed (Zhu et al.
2024, arXiv 2404.12096) has passkeys and needles, 100 documents and 50 queries per length, 256 to 32,768 tokens;
birthday and paraphrase are their like for development. The sentences are our own, or a similarity set's; the haystack
is any text. This module knows nothing of encoders; a tokenizer arrives as a function.
"""

import random
from collections.abc import Sequence

from diffembed.data.burying import TokenSpans, hide
from diffembed.errors import ConfigError
from diffembed.evaluation.suites.needles import (
    FACTS,
    FIRST_NAMES,
    LAST_NAMES,
    MONTHS,
    OTHER_FIRST_NAMES,
    OTHER_LAST_NAMES,
    PLACES,
)
from diffembed.evaluation.tasks import PairTask, Task
from diffembed.records import Document, Query

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
"""Tokens per document; LongEmbed goes on to 16,384 and 32,768."""
MIN_TOKENS = 64
"""A shorter document could not hold a key sentence and some hay around it."""
MIN_SCORE, MIN_WORDS = 4.0, 10
"""Of a pair whose sentences say the same (STS-B: 5 is equal, 4 differs in details), and say enough to be told apart."""


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


def make_birthday_task(
    length: int, *, hay: str, token_spans: TokenSpans, num_documents: int = 60, num_queries: int = 60, seed: int = 0
) -> Task:
    """Documents of `length` tokens that each tell when one person was born; queries name the person."""
    everybody = [f"{first} {last}" for first in OTHER_FIRST_NAMES for last in OTHER_LAST_NAMES]
    _check_counts(length, num_documents, num_queries, len(everybody))
    rng = random.Random(f"{seed}/birthday/{length}")
    pairs = [
        (
            f"{person} was born on {rng.randint(1, 28)} {rng.choice(MONTHS)} {rng.randint(1800, 1999)}.",
            f"On which day was {person} born?",
        )
        for person in rng.sample(everybody, num_documents)
    ]
    return _make_task("birthday", length, pairs, num_queries, hay, token_spans, rng)


def make_paraphrase_task(
    length: int,
    *,
    pairs: PairTask,
    hay: str,
    token_spans: TokenSpans,
    num_documents: int = 60,
    num_queries: int = 60,
    seed: int = 0,
) -> Task:
    """Documents of `length` tokens that each hold one sentence of a similar pair; the other sentence is the query.

    Pairs count that score at least `MIN_SCORE` and have `MIN_WORDS` words on either side; no sentence comes twice.
    """
    chosen: dict[str, str] = {}
    taken: set[str] = set()
    for key, question, score in zip(pairs.left, pairs.right, pairs.gold, strict=True):
        is_long = min(len(key.split()), len(question.split())) >= MIN_WORDS
        if score >= MIN_SCORE and is_long and key != question and taken.isdisjoint({key, question}):
            chosen[key] = question
            taken |= {key, question}
    _check_counts(length, num_documents, num_queries, len(chosen))
    rng = random.Random(f"{seed}/paraphrase/{length}")
    return _make_task(
        "paraphrase", length, rng.sample(list(chosen.items()), num_documents), num_queries, hay, token_spans, rng
    )


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
        start = _next_paragraph(hay, int(len(hay) * ((offset + number / num_documents) % 1)))
        document_id = f"{name}-d{number:03}"
        corpus.append(Document(id=document_id, text=hide(key, hay, start, length, depth, token_spans)))
        if number < num_queries:
            query_id = f"{name}-q{number:03}"
            queries.append(Query(id=query_id, text=question))
            qrels[query_id] = {document_id: 1}
    return Task(
        name=name, family=family, length=length, corpus=corpus, queries=queries, qrels=qrels, measures=("Acc@1",)
    )


def _next_paragraph(hay: str, start: int) -> int:
    """Behind the next blank line, so that documents share their hay where it has few; 0 behind the last."""
    paragraph = hay.find("\n\n", start)
    return paragraph + 2 if 0 <= paragraph < len(hay) - 2 else 0
