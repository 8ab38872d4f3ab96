"""Rows kept away from training: whole concepts held out by name, or drawn by seed for development.

Read `set_aside`. A value that is held out leaves as query, positive and negative, and so do its texts. Works on rows
that carry the label (`concept` in ReasonAug); knows nothing of models or measures.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from diffembed.data.files import read_rows
from diffembed.data.formats import Triplet, text_key
from diffembed.data.negatives import row_generator
from diffembed.errors import ConfigError, EmptyInputError, InputError
from diffembed.records import Document, Query

OPENING_CHARACTERS = 80
"""A text whose first so many characters open a held-out query is compared with it whole (a problem + its solution)."""


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """What an exclusion took out, by reason."""

    rows: Counter[str] = field(default_factory=Counter)
    negatives: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """Training rows and development rows that share no value of the label and no text."""

    train: list[Triplet]
    development: list[Triplet]
    values: tuple[str, ...]
    """Values of the label that were drawn for development, sorted."""
    dropped: Dropped
    """Rows and negatives that left training beyond the development rows themselves."""


@dataclass(frozen=True, kw_only=True)
class RetrievalSet:
    """Rows turned round into a corpus, its queries and their judgements."""

    documents: list[Document]
    queries: list[Query]
    qrels: dict[str, dict[str, int]]


def set_aside(triplets: Sequence[Triplet], *, num_values: int, seed: int, label: str = "concept") -> SetAside:
    """Draws `num_values` values of a label for development and clears the training rows of them.

    Raises ConfigError when the rows do not have more values than are to be drawn.
    """
    values = sorted({triplet.labels[label] for triplet in triplets if label in triplet.labels})
    if not 1 <= num_values < len(values):
        raise ConfigError(f"cannot set {num_values} of {len(values)} values of {label!r} aside; at least 1 must stay")
    order = row_generator(seed, label, "set aside").permutation(len(values))
    drawn = tuple(sorted(values[place] for place in order[:num_values]))
    development = [triplet for triplet in triplets if triplet.labels.get(label) in drawn]
    train, dropped = exclude_values(triplets, drawn, label)
    del dropped.rows[label]
    return SetAside(train=train, development=development, values=drawn, dropped=dropped)


def exclude_values(
    triplets: Sequence[Triplet], values: Collection[str], label: str = "concept"
) -> tuple[list[Triplet], Dropped]:
    """The rows without any trace of `values`, in order, and what was taken out.

    A row leaves when its label is one of the values, or its query or positive is one of their texts: a value itself,
    a text that it heads, a text of a row with that label, or such a query continued. A negative leaves likewise.
    """
    texts = _HeldOutTexts(values)
    for triplet in triplets:
        if triplet.labels.get(label) in values:
            texts.add(triplet)
    kept, dropped = [], Dropped()
    for triplet in triplets:
        if triplet.labels.get(label) in values:
            dropped.rows[label] += 1
        elif triplet.query in texts:
            dropped.rows["query"] += 1
        elif triplet.positive in texts:
            dropped.rows["positive"] += 1
        else:
            is_generated_against = triplet.labels.get(f"negative_{label}") in values
            left = tuple(text for text in triplet.negatives if not is_generated_against and text not in texts)
            if len(left) < len(triplet.negatives):
                dropped.negatives[label] += len(triplet.negatives) - len(left)
                triplet = replace(triplet, negatives=left)
            kept.append(triplet)
    return kept, dropped


def read_values(path: Path | str, label: str = "concept") -> frozenset[str]:
    """The values of one column of a row file, for example the held-out concepts."""
    values = set()
    for where, row in read_rows(path):
        value = row.get(label) if isinstance(row, dict) else None
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{where} has no {label!r}: {json.dumps(row, ensure_ascii=False)[:80]}")
        values.add(value)
    if not values:
        raise EmptyInputError(f"{path} names no {label}")
    return frozenset(values)


def make_retrieval_set(
    triplets: Iterable[Triplet], *, relevant_label: str | None = None, max_queries: int | None = None, seed: int = 0
) -> RetrievalSet:
    """A retrieval task from triplets: their positives are the corpus, their distinct queries the queries.

    Negatives stay out of the corpus: where training has seen them, "never seen" would give the positives away.
    relevant_label: documents of rows with the same value of this label are relevant too (other problems of a concept);
        None counts a query's own positives only.
    max_queries: a seeded sample of the queries; the corpus stays whole.
    A document that repeats its query whole is one the query may not retrieve.
    """
    documents: dict[str, Document] = {}
    queries: dict[tuple[str, str | None], Query] = {}
    positives: dict[str, set[str]] = {}
    values: dict[str, set[str]] = {}
    of_value: dict[str, set[str]] = {}
    for triplet in triplets:
        key = text_key(triplet.positive)
        document = documents.setdefault(key, Document(id=f"d{len(documents)}", text=triplet.positive))
        name = (text_key(triplet.query), triplet.instruction)
        query = queries.setdefault(
            name, Query(id=f"q{len(queries)}", text=triplet.query, instruction=triplet.instruction)
        )
        positives.setdefault(query.id, set()).add(document.id)
        if relevant_label is not None:
            if relevant_label not in triplet.labels:
                raise ConfigError(f"row {triplet.id} of {triplet.source} has no label {relevant_label!r}")
            value = triplet.labels[relevant_label]
            values.setdefault(query.id, set()).add(value)
            of_value.setdefault(value, set()).add(document.id)
    if not queries:
        raise EmptyInputError("no rows to make a retrieval set of")
    chosen = list(queries.values())
    if max_queries is not None and max_queries < len(chosen):
        places = row_generator(seed, "retrieval set").permutation(len(chosen))[:max_queries]
        chosen = [chosen[place] for place in sorted(places)]
    kept, qrels = [], {}
    for query in chosen:
        repeats = _repeats(query.text, documents)
        relevant = positives[query.id].union(*(of_value[value] for value in values.get(query.id, ()))) - repeats
        if relevant:
            kept.append(replace(query, excluded_ids=frozenset(repeats)))
            qrels[query.id] = dict.fromkeys(sorted(relevant, key=lambda name: int(name[1:])), 1)
    return RetrievalSet(documents=list(documents.values()), queries=kept, qrels=qrels)


def _repeats(query: str, documents: dict[str, Document]) -> set[str]:
    key = text_key(query)
    if len(key) < OPENING_CHARACTERS:
        return set()
    return {document.id for text, document in documents.items() if key in text}


class _HeldOutTexts:
    """The texts by which held-out values are recognised in rows that do not name them."""

    def __init__(self, values: Iterable[str]) -> None:
        self._names = {text_key(value) for value in values}
        self._texts: set[str] = set()
        self._queries: dict[str, list[str]] = {}

    def add(self, triplet: Triplet) -> None:
        query = text_key(triplet.query)
        self._texts.update((query, text_key(triplet.positive)))
        if len(query) >= OPENING_CHARACTERS:
            self._queries.setdefault(query[:OPENING_CHARACTERS], []).append(query)

    def __contains__(self, text: str) -> bool:
        key = text_key(text)
        if key in self._names or key in self._texts or text_key(text.partition("\n")[0]) in self._names:
            return True
        return any(key.startswith(query) for query in self._queries.get(key[:OPENING_CHARACTERS], ()))
