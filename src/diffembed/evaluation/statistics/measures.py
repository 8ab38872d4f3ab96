"""What a ranking, a set of similarities or a set of labels is worth, query by query.

Read `evaluate_run` first. Measures are named as `ir-measures` names them (`nDCG@10`, `AP@1000`, `R@100`, `RR@10`)
and computed by it, with one name of our own: `Acc@k`, the share of queries with a relevant document in the
first k (`Success@k` there). nDCG has linear gains; tied scores are ordered by document id, descending, as
trec_eval does. This module knows nothing of encoders or files.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffembed.errors import EmptyInputError, InputError, MissingExtraError, UnknownNameError
from diffembed.records import Qrels, Run

MEASURE_EXAMPLES = ("nDCG@10", "AP@1000", "R@100", "RR@10", "P@10", "Acc@1")
_ACCURACY = re.compile(r"Acc@(\d+)")
_RECIPROCAL = re.compile(r"RR@(\d+)")

PerQuery = dict[str, float]
"""query id -> value of one measure."""


def evaluate_run(qrels: Qrels, run: Run, measures: Sequence[str]) -> dict[str, PerQuery]:
    """Value of each measure for each judged query: measure name -> query id -> value.

    A judged query that is absent from the run, or that has no relevant document, counts 0.
    Raises InputError when the run holds a query without judgements or a score that is not a number, and
    UnknownNameError for a measure that `ir-measures` does not know.
    """
    check_run(qrels, run)
    by_measure: dict[Any, list[str]] = {}
    for name in measures:
        by_measure.setdefault(_parse(name), []).append(name)
    values: dict[str, PerQuery] = {name: dict.fromkeys(qrels, 0.0) for name in measures}
    import ir_measures

    plain_qrels = {query: dict(documents) for query, documents in qrels.items()}
    plain_run = {query: {key: float(score) for key, score in hits.items()} for query, hits in run.items() if hits}
    if plain_run:
        for metric in ir_measures.iter_calc(list(by_measure), plain_qrels, plain_run):
            for name in by_measure[metric.measure]:
                values[name][metric.query_id] = _cut(name, float(metric.value))
    return values


def check_run(qrels: Qrels, run: Run) -> None:
    """Refuses a run whose means would be taken over the wrong queries or over scores that are not numbers."""
    if not qrels:
        raise EmptyInputError("the qrels hold no query; nothing can be measured")
    for query, hits in run.items():
        if query not in qrels:
            raise InputError(f"the run holds query {query!r}, which has no judgements in the qrels")
        scores = np.fromiter(hits.values(), dtype=np.float64, count=len(hits))
        if np.isnan(scores).any():
            bad = next(key for key, score in hits.items() if np.isnan(score))
            raise InputError(f"the score of document {bad!r} for query {query!r} is NaN")


def _parse(name: str) -> Any:
    try:
        import ir_measures
        import pytrec_eval  # noqa: F401  (the provider behind the measures; its absence would change tie-breaking)
    except ImportError as error:
        raise MissingExtraError.of("ir-measures with pytrec-eval-terrier", "eval") from error
    accuracy = _ACCURACY.fullmatch(name)
    # Behind RR@k stands another program, which orders ties the other way round: RR is computed whole, and cut here.
    plain = "RR" if _RECIPROCAL.fullmatch(name) else name
    try:
        return ir_measures.parse_measure(f"Success@{accuracy[1]}" if accuracy else plain)
    except (NameError, ValueError) as error:
        raise UnknownNameError.of("measure", name, MEASURE_EXAMPLES) from error


def _cut(name: str, value: float) -> float:
    """The value of `RR@k` from that of RR: 0 where the first relevant document stands behind rank k."""
    cut = _RECIPROCAL.fullmatch(name)
    return value if cut is None or round(1 / max(value, 1e-9)) <= int(cut[1]) else 0.0


def check_measures(names: Sequence[str]) -> None:
    """Raises UnknownNameError for the first name that `evaluate_run` could not compute."""
    for name in names:
        _parse(name)


def rank_of(hits: Mapping[str, float], document: str) -> int:
    """Rank of a document from 1, ties by id descending; one past the end when it was not retrieved."""
    if document not in hits:
        return len(hits) + 1
    place = (hits[document], document)
    return 1 + sum((score, key) > place for key, score in hits.items())


def altered_documents(og: Qrels, changed: Qrels) -> dict[str, list[str]]:
    """Query id -> the documents that the changed instruction turns from relevant to not relevant."""
    altered = {}
    for query, judged in og.items():
        after = changed.get(query, {})
        documents = [key for key, grade in judged.items() if grade > 0 and after.get(key, 0) <= 0]
        if documents:
            altered[query] = documents
    return altered


def p_mrr(og_run: Run, changed_run: Run, altered: Mapping[str, Sequence[str]]) -> PerQuery:
    """FollowIR's p-MRR of each query, in [-1, 1]; positive when the instruction was followed.

    For a document that stopped being relevant, with its rank under the original and under the changed instruction:
    og >= changed gives changed / og - 1, otherwise 1 - og / changed; mean over the documents of a query.
    Source: Weller et al. 2024 (arXiv 2403.15246); checked against mteb. A query absent from both runs counts 0.
    """
    if not altered:
        raise EmptyInputError("no document changes its relevance with the instruction; p-MRR is not defined")
    values = {}
    for query, documents in altered.items():
        before, after = og_run.get(query, {}), changed_run.get(query, {})
        changes = [_rank_change(rank_of(before, key), rank_of(after, key)) for key in documents]
        values[query] = float(np.mean(changes))
    return values


def _rank_change(og: int, changed: int) -> float:
    return changed / og - 1 if og >= changed else 1 - og / changed


def spearman(gold: ArrayLike, predicted: ArrayLike) -> float:
    """Spearman's rank correlation in [-1, 1], average ranks for ties.

    Raises InputError for NaN, unequal lengths, fewer than two items, or a side that is constant.
    """
    gold_N, predicted_N = np.asarray(gold, np.float64), np.asarray(predicted, np.float64)
    if gold_N.shape != predicted_N.shape or gold_N.ndim != 1 or len(gold_N) < 2:
        raise InputError(
            f"a correlation needs two lists of equal length >= 2; got shapes {gold_N.shape} and {predicted_N.shape}"
        )
    if np.isnan(gold_N).any() or np.isnan(predicted_N).any():
        raise InputError("a correlation needs numbers; one of the values is NaN")
    x_N, y_N = ranks(gold_N), ranks(predicted_N)
    x_N -= x_N.mean()
    y_N -= y_N.mean()
    scale = float(np.sqrt((x_N @ x_N) * (y_N @ y_N)))
    if scale == 0:
        raise InputError("the rank correlation is not defined: one side has the same value everywhere")
    return float(x_N @ y_N) / scale


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Rank of each value from 1, ascending; tied values share their average rank."""
    values_N = np.asarray(values)
    _, inverse, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared = last - (counts - 1) / 2
    return np.asarray(shared[inverse], dtype=np.float64)


def v_measure(gold: Sequence[str], clusters: Sequence[int]) -> float:
    """Harmonic mean of homogeneity and completeness, in [0, 1]. Source: Rosenberg and Hirschberg 2007."""
    _check_labels(gold, clusters)
    classes = np.unique(np.asarray(gold), return_inverse=True)[1]
    groups = np.unique(np.asarray(clusters), return_inverse=True)[1]
    joint = np.zeros((classes.max() + 1, groups.max() + 1))
    np.add.at(joint, (classes, groups), 1)
    joint /= joint.sum()
    class_entropy, group_entropy = _entropy(joint.sum(1)), _entropy(joint.sum(0))
    mutual = class_entropy + group_entropy - _entropy(joint.ravel())
    homogeneity = mutual / class_entropy if class_entropy else 1.0
    completeness = mutual / group_entropy if group_entropy else 1.0
    total = homogeneity + completeness
    return float(2 * homogeneity * completeness / total) if total else 0.0


def _entropy(share: NDArray[np.float64]) -> float:
    positive = share[share > 0]
    return float(-(positive * np.log(positive)).sum())


def _check_labels(gold: Sequence[object], predicted: Sequence[object]) -> None:
    if not gold:
        raise EmptyInputError("there are no labels to compare")
    if len(gold) != len(predicted):
        raise InputError(f"{len(gold)} labels are compared with {len(predicted)} predictions")
