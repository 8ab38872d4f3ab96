"""From scores to a run: the cut at k with excluded documents taken out first, and exact dense search.

Read `top_hits` first. Ties are ordered by document id, descending, as trec_eval orders them, so a run does not
depend on the order of the corpus. This module knows nothing of suites or files.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError, InputError
from diffembed.records import Query, Vectors

# Q = queries, N = documents, D = width of the vectors
SCORES_PER_BLOCK = 1 << 24
"""Scores held at once by `search_vectors`: 64 MB of float32."""


class DocumentOrder:
    """Ids of a corpus with what a deterministic cut needs: id -> position, and the tie-break order."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = list(ids)
        self.position = {key: place for place, key in enumerate(self.ids)}
        if len(self.position) != len(self.ids):
            seen: set[str] = set()
            duplicate = next(key for key in self.ids if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise InputError(f"document id {duplicate!r} occurs twice in the corpus")
        by_id = sorted(range(len(self.ids)), key=lambda place: self.ids[place], reverse=True)
        self.tie_rank_N = np.empty(len(self.ids), dtype=np.int64)
        self.tie_rank_N[by_id] = np.arange(len(self.ids))

    def positions(self, ids: Sequence[str], why: str) -> NDArray[np.int64]:
        """Positions of some ids; InputError names the first one the corpus does not hold."""
        unknown = next((key for key in ids if key not in self.position), None)
        if unknown is not None:
            raise InputError(f"{why} names document {unknown!r}, which is not in the corpus")
        return np.asarray([self.position[key] for key in ids], dtype=np.int64)


def top_hits(
    scores_N: NDArray[np.floating],
    order: DocumentOrder,
    query: Query,
    *,
    top_k: int,
    candidates: Sequence[str] | None = None,
    keep_zero: bool = True,
) -> dict[str, float]:
    """Document id -> score of the best `top_k` documents, best first.

    Documents in `query.excluded_ids` are removed before the cut, so k others take their place.
    candidates: rank only these. keep_zero=False drops scores of 0 (a lexical score of 0 is no match).
    Raises InputError for NaN scores.
    """
    if top_k < 1:
        raise ConfigError(f"top_k {top_k} is below 1")
    if candidates is None:
        places = np.arange(len(order.ids))
    else:
        places = order.positions(candidates, f"the candidate list of query {query.id!r}")
    picked = scores_N[places]
    if np.isnan(picked).any():
        bad = order.ids[int(places[int(np.argmax(np.isnan(picked)))])]
        raise InputError(f"the score of document {bad!r} for query {query.id!r} is NaN")
    is_allowed = np.ones(len(places), dtype=bool) if keep_zero else picked != 0
    if query.excluded_ids:
        excluded = [order.position[key] for key in query.excluded_ids if key in order.position]
        is_allowed &= ~np.isin(places, excluded)
    places, picked = places[is_allowed], picked[is_allowed]
    if len(places) > top_k:
        # Keep every document tied with the k-th; the sort below then cuts by id.
        threshold = np.partition(picked, len(picked) - top_k)[len(picked) - top_k]
        is_kept = picked >= threshold
        places, picked = places[is_kept], picked[is_kept]
    best_first = np.lexsort((order.tie_rank_N[places], -picked))[:top_k]
    return {order.ids[places[row]]: float(picked[row]) for row in best_first}


def search_vectors(
    query_vectors: Vectors,
    queries: Sequence[Query],
    document_vectors: Vectors,
    order: DocumentOrder,
    *,
    top_k: int = 1000,
    candidates: Mapping[str, Sequence[str]] | None = None,
    first_row_N: NDArray[np.int64] | None = None,
) -> dict[str, dict[str, float]]:
    """Run of exact cosine search.

    candidates: query id -> the only documents to rank for it; a query missing there raises InputError.
    first_row_N: where a document has several vectors, row of its first; its best vector counts.
    Raises InputError for vectors that are NaN, of another count or of another width.
    """
    queries_QD = _unit(query_vectors, [query.id for query in queries], "query")
    ids_N: Sequence[str] = order.ids
    if first_row_N is not None:
        ids_N = np.repeat(order.ids, np.diff(first_row_N, append=len(document_vectors))).tolist()
    documents_ND = _unit(document_vectors, ids_N, "document")
    if queries_QD.shape[1] != documents_ND.shape[1]:
        raise InputError(
            f"query vectors have dim {queries_QD.shape[1]} but document vectors have dim {documents_ND.shape[1]}"
        )
    run: dict[str, dict[str, float]] = {}
    block = max(1, SCORES_PER_BLOCK // max(1, len(documents_ND)))
    for start in range(0, len(queries), block):
        scores_QN = queries_QD[start : start + block] @ documents_ND.T
        if first_row_N is not None:
            scores_QN = np.maximum.reduceat(scores_QN, first_row_N, axis=1)
        for query, scores_N in zip(queries[start : start + block], scores_QN, strict=True):
            run[query.id] = top_hits(scores_N, order, query, top_k=top_k, candidates=_only(candidates, query))
    return run


def _only(candidates: Mapping[str, Sequence[str]] | None, query: Query) -> Sequence[str] | None:
    if candidates is None:
        return None
    if query.id not in candidates:
        raise InputError(f"query {query.id!r} has no candidate list")
    return candidates[query.id]


def _unit(vectors: Vectors, ids: Sequence[str], kind: str) -> Vectors:
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise InputError(f"{len(ids)} {kind} ids come with vectors of shape {vectors.shape}")
    length_N = np.linalg.norm(vectors, axis=1)
    is_bad = ~np.isfinite(length_N)
    if is_bad.any():
        raise InputError(f"the vector of {kind} {ids[int(np.argmax(is_bad))]!r} is NaN or infinite")
    # The zero vector (a text without a token) has cosine 0 with everything.
    return np.asarray(vectors / np.where(length_N > 0, length_N, 1)[:, None], dtype=np.float32)
