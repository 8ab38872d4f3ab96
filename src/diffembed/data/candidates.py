"""The documents that may become negatives, and which of them a row must never get.

Read `make_corpus`, then `rank_candidates`. Knows nothing of how scores are made, nor of files.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffembed.data.formats import Triplet, hash_texts, text_key
from diffembed.errors import ConfigError
from diffembed.records import Document

# N = documents

ANSWER = "answers the query in another row"
ITSELF = "is the query or its positive"
SAME_ID = "has the row's id"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Distinct texts (white space and case apart), first seen first."""

    texts: list[str]
    places: dict[str, int]
    """`text_key` -> position in `texts`."""
    answers: dict[tuple[str, str | None], set[int]]
    """(key of the query, instruction) -> its positives in all rows."""
    same_value: dict[str, set[int]]
    """Value of the chosen label -> positives of the rows that have it."""
    label: str | None
    ids: dict[str, int]
    """Id of a given document -> position."""

    @property
    def content_hash(self) -> str:
        """Of the texts, in order."""
        return hash_texts(*self.texts)

    def positive(self, triplet: Triplet) -> int:
        """Position of a row's positive."""
        return self.places[text_key(triplet.positive)]

    def forbidden(self, triplet: Triplet) -> dict[int, str]:
        """Position -> why the document there must not be a negative of the row."""
        found: dict[int, str] = {}
        if self.label is not None:
            found.update(dict.fromkeys(self.same_value[triplet.labels[self.label]], f"has the row's {self.label}"))
        query = text_key(triplet.query)
        found.update(dict.fromkeys(self.answers[query, triplet.instruction], ANSWER))
        if triplet.id in self.ids:
            found[self.ids[triplet.id]] = SAME_ID
        if query in self.places:
            found[self.places[query]] = ITSELF
        found[self.positive(triplet)] = ITSELF
        return found


def make_corpus(triplets: Sequence[Triplet], documents: Sequence[Document], label: str | None = None) -> Corpus:
    """The positives and negatives of the rows and the given documents, each text once.

    label: documents of rows with one value of it are answers to each other's queries. Raises ConfigError when a row
    lacks it.
    """
    corpus = Corpus(texts=[], places={}, answers={}, same_value={}, label=label, ids={})

    def place(text: str) -> int:
        key = text_key(text)
        if key not in corpus.places:
            corpus.places[key] = len(corpus.texts)
            corpus.texts.append(text)
        return corpus.places[key]

    for triplet in triplets:
        positive = place(triplet.positive)
        for negative in triplet.negatives:
            place(negative)
        corpus.answers.setdefault((text_key(triplet.query), triplet.instruction), set()).add(positive)
        if label is not None:
            if label not in triplet.labels:
                raise ConfigError(f"row {triplet.id} of {triplet.source} has no label {label!r}")
            corpus.same_value.setdefault(triplet.labels[label], set()).add(positive)
    for document in documents:
        if document.full_text.strip():
            corpus.ids[document.id] = place(document.full_text)
    return corpus


def rank_candidates(
    scores_N: NDArray[np.float32],
    forbidden: dict[int, str],
    ranks: tuple[int, int],
    rejected: Counter[str],
    *,
    is_lexical: bool,
) -> Iterator[tuple[int, int]]:
    """(rank, position) of the documents between two ranks, best first; ranks count from 1 without forbidden ones.

    rejected: counts the forbidden documents met on the way. is_lexical: a score of 0 means no word in common, and ends
    the ranking. Equal scores keep the order of the corpus.
    """
    rank = 0
    for position in _best(scores_N, ranks[1] + len(forbidden)).tolist():
        if is_lexical and scores_N[position] <= 0:
            return
        if position in forbidden:
            if forbidden[position] != ITSELF:
                rejected[forbidden[position]] += 1
            continue
        rank += 1
        if rank > ranks[1]:
            return
        if rank >= ranks[0]:
            yield rank, position


def _best(scores_N: NDArray[np.float32], num: int) -> NDArray[np.int64]:
    """Positions of the `num` highest scores, best first, ties by position."""
    if num < len(scores_N):
        limit = np.partition(scores_N, len(scores_N) - num)[len(scores_N) - num]
        above, equal = np.flatnonzero(scores_N > limit), np.flatnonzero(scores_N == limit)
        # Of the documents at the limit the first ones fill the window, whatever the partition did with them.
        chosen = np.concatenate([above, equal[: num - len(above)]])
    else:
        chosen = np.arange(len(scores_N))
    return chosen[np.lexsort((chosen, -scores_N[chosen]))][:num]
