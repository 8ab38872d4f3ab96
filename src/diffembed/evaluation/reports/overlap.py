"""Two systems on one task beyond their means: shared hits, gold found by both, one or neither, where they differ most.

Read `compare_hits`. It takes stored results, so that nothing is encoded again. This module knows nothing of encoders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffembed.errors import ConfigError, InputError
from diffembed.evaluation.scoring import KEPT_HITS, TaskResult
from diffembed.evaluation.tasks import Task

TEXT_CHARACTERS = 300
"""Of a query or document that is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownHit:
    """One document in a side-by-side view."""

    document: str
    text: str
    """Its first characters."""
    is_gold: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryDifference:
    """One query with what each system put first."""

    query: str
    text: str
    a: float
    """Main measure of system a."""
    b: float
    a_hits: tuple[ShownHit, ...]
    b_hits: tuple[ShownHit, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """System a beside system b on one task."""

    task: str
    a: str
    b: str
    top_k: int
    overlap_fraction: float
    """Documents that both have among their first k, over k; mean over queries."""
    gold_both: int
    """Gold documents among the first k of both systems, summed over queries."""
    gold_only_a: int
    gold_only_b: int
    gold_neither: int
    queries_a: int
    """Queries with a gold document among the first k of system a (the paper's table 8 counts these)."""
    queries_b: int
    queries_both: int
    """Queries for which both systems found a gold document, the same or another."""
    num_queries: int
    most_different: tuple[QueryDifference, ...]
    """Queries by falling difference of the main measure, systems alternating where both have such queries."""


def compare_hits(
    task: Task, a: TaskResult, b: TaskResult, *, top_k: int = 10, num_shown: int = 10, side: str = "test"
) -> Overlap:
    """Counts of one retrieval task from two stored results.

    Raises InputError when the results are of other data, ConfigError when fewer than `top_k` hits were kept.
    """
    if not 1 <= top_k <= KEPT_HITS:
        raise ConfigError(f"top_k is {top_k}; results keep {KEPT_HITS} documents per query")
    if a.task != b.task or a.task_hash != b.task_hash:
        raise InputError(f"{a.label} was scored on {a.task} and {b.label} on {b.task} with other data; run both again")
    shared, counts, found = [], np.zeros(4, dtype=np.int64), np.zeros((2, len(task.queries)), dtype=np.bool_)
    for place, query in enumerate(task.queries):
        first_a, first_b = (set(list(result.hits[side].get(query.id, {}))[:top_k]) for result in (a, b))
        shared.append(len(first_a & first_b) / top_k)
        for document, grade in task.qrels[query.id].items():
            if grade > 0:
                # 0 neither, 1 only a, 2 only b, 3 both
                counts[(document in first_a) + 2 * (document in first_b)] += 1
                found[:, place] |= (document in first_a, document in first_b)
    return Overlap(
        task=task.name,
        a=a.label,
        b=b.label,
        top_k=top_k,
        overlap_fraction=float(np.mean(shared)),
        gold_both=int(counts[3]),
        gold_only_a=int(counts[1]),
        gold_only_b=int(counts[2]),
        gold_neither=int(counts[0]),
        queries_a=int(found[0].sum()),
        queries_b=int(found[1].sum()),
        queries_both=int(found.all(0).sum()),
        num_queries=len(task.queries),
        most_different=tuple(_most_different(task, a, b, num_shown, side)),
    )


def _most_different(task: Task, a: TaskResult, b: TaskResult, num_shown: int, side: str) -> list[QueryDifference]:
    values_a, values_b = a.per_query[a.main], b.per_query[b.main]
    # p-MRR has no value for a query whose instruction alters no document.
    difference = {key: values_a[key] - values_b[key] for key in values_a}
    better = sorted((key for key in difference if difference[key] > 0), key=lambda key: (-difference[key], key))
    worse = sorted((key for key in difference if difference[key] < 0), key=lambda key: (difference[key], key))
    chosen: list[str] = []
    for place in range(max(len(better), len(worse))):
        chosen.extend(keys[place] for keys in (better, worse) if place < len(keys))
    texts = {document.id: document.full_text for document in task.corpus}
    queries = {query.id: " ".join(filter(None, (query.text, query.instruction))) for query in task.queries}
    return [
        QueryDifference(
            query=key,
            text=queries[key][:TEXT_CHARACTERS],
            a=values_a[key],
            b=values_b[key],
            a_hits=_shown(a.hits[side].get(key, {}), texts, task.qrels[key]),
            b_hits=_shown(b.hits[side].get(key, {}), texts, task.qrels[key]),
        )
        for key in chosen[:num_shown]
    ]


def _shown(
    hits: Mapping[str, float], texts: Mapping[str, str], judged: Mapping[str, int], num_hits: int = 3
) -> tuple[ShownHit, ...]:
    first: Sequence[str] = list(hits)[:num_hits]
    return tuple(
        ShownHit(document=key, text=texts[key][:TEXT_CHARACTERS], is_gold=judged.get(key, 0) > 0) for key in first
    )
