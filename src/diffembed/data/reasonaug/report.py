"""The quality report of a run: what came through, what is doubtful about it, and how hard it is.

Read `make_report` first. `report_folder` makes it again from the stages on disk, also with an encoder as judge.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.data.reasonaug import quality, solution_check
from diffembed.data.reasonaug.ranking import BM25Ranker, EncoderRanker, Ranker
from diffembed.data.reasonaug.rows import GENERATED, Check, Concept, Dropped, Example, Pair, Triplet
from diffembed.data.reasonaug.stages import INDEX, StageOutcome, read_outcome
from diffembed.errors import InputError
from diffembed.records import Encoder

KINDS: Mapping[str, type[Any]] = {
    "concepts": Concept,
    "definitions": Concept,
    "problems": Pair,
    "question_check": Pair,
    "solution_check": Pair,
    "unique_pairs": Pair,
    "assembly": Example,
    "negatives": Triplet,
    "written_negatives": Triplet,
    "leakage": Triplet,
    "publish": Triplet,
}
"""Stage -> what its rows are, in the order of a run."""
OPTIONAL = ("written_negatives", "leakage")
NUM_EXAMPLES = 5
TOP_RANKS = (1, 5, 10)


def make_report(
    *,
    listed: Sequence[Concept],
    concepts: Sequence[Concept],
    pairs: Sequence[Pair],
    triplets: Sequence[Triplet],
    outcomes: Mapping[str, StageOutcome[Any]],
    rankers: Sequence[Ranker],
) -> dict[str, Any]:
    """The report as plain values.

    listed: the concepts asked about. concepts: those with a definition. pairs: those accepted, unique. outcomes: of
    every stage by name. rankers: by which difficulty and negatives are judged.
    """
    dropped = [each for outcome in outcomes.values() for each in outcome.dropped]
    return {
        "yield": _yield(listed, concepts, outcomes),
        "pairs_per_concept": _histogram(listed, outcomes),
        "rows": dict(sorted(Counter(row.task_type for row in triplets if row.negative_instance != GENERATED).items())),
        "rows_with_written_negatives": sum(row.negative_instance == GENERATED for row in triplets),
        "num_rows": len(triplets),
        "dropped": _reasons(dropped),
        "notes": {note: count for outcome in outcomes.values() for note, count in outcome.notes.items() if count},
        "cut_definitions": [concept.name for concept in concepts if concept.is_definition_cut],
        "verdict_on_unpublished_pair": sum(pair.question_check is Check.LOST for pair in pairs),
        "near_duplicates": _near_duplicates(pairs),
        "concept_named_in_problem": _share(pairs, quality.names_concept),
        "answer_in_problem": _share(pairs, quality.shows_answer),
        "difficulty": {ranker.name: _difficulty(concepts, pairs, ranker) for ranker in rankers},
        "negative_above_positive": {ranker.name: _above(triplets, ranker) for ranker in rankers},
    }


def report_folder(folder: Path | str, *, encoder: Encoder | None = None) -> dict[str, Any]:
    """The report of a run's folder, judged by BM25 and, if given, by an encoder.

    Raises InputError when the folder holds no run, or one that is not finished.
    """
    folder = Path(folder)
    try:
        files = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        language = json.loads((folder / "config.json").read_text(encoding="utf-8"))["language"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} holds no ReasonAug run (no {INDEX} or config.json)") from error
    outcomes: dict[str, StageOutcome[Any]] = {}
    for stage, kind in KINDS.items():
        if stage in files:
            outcomes[stage] = read_outcome(folder / "stages" / files[stage], kind)
        elif stage not in OPTIONAL:
            raise InputError(f"the run in {folder} has not reached the stage {stage}; run it again to finish it")
    rankers: list[Ranker] = [BM25Ranker(language)]
    if encoder is not None:
        rankers.append(EncoderRanker(encoder))
    return make_report(
        listed=outcomes["concepts"].rows,
        concepts=outcomes["definitions"].rows,
        pairs=outcomes["unique_pairs"].rows,
        triplets=outcomes["publish"].rows,
        outcomes=outcomes,
        rankers=rankers,
    )


def _yield(
    listed: Sequence[Concept], concepts: Sequence[Concept], outcomes: Mapping[str, StageOutcome[Any]]
) -> list[dict[str, Any]]:
    """Per domain, then over all: concepts, definitions, checked pairs, kept pairs, concepts with at least one."""
    domain_of = {concept.id: concept.domain for concept in listed}
    check = outcomes[solution_check.STAGE]
    kept = Counter(pair.domain for pair in check.rows)
    checked = kept + Counter(domain_of[each.id.rpartition("-")[0]] for each in check.dropped if each.is_answered)
    reached = Counter(domain_of[concept_id] for concept_id in {pair.concept_id for pair in check.rows})
    columns = {
        "concepts": Counter(domain_of.values()),
        "definitions": Counter(concept.domain for concept in concepts),
        "checked_pairs": checked,
        "kept_pairs": kept,
        "concepts_with_pairs": reached,
    }
    rows: list[dict[str, Any]] = [
        {"domain": domain, **{name: counts[domain] for name, counts in columns.items()}}
        for domain in columns["concepts"]
    ]
    return [*rows, {"domain": "all", **{name: counts.total() for name, counts in columns.items()}}]


def _histogram(listed: Sequence[Concept], outcomes: Mapping[str, StageOutcome[Any]]) -> dict[str, int]:
    """Number of kept pairs -> number of concepts with so many."""
    counts = Counter(pair.concept_id for pair in outcomes[solution_check.STAGE].rows)
    histogram = Counter(counts[concept.id] for concept in listed)
    return {str(number): histogram[number] for number in sorted(histogram)}


def _reasons(dropped: Sequence[Dropped]) -> dict[str, dict[str, int]]:
    reasons: dict[str, Counter[str]] = {}
    for each in dropped:
        reasons.setdefault(each.stage, Counter())[each.reason] += 1
    return {stage: dict(counter.most_common()) for stage, counter in reasons.items()}


def _near_duplicates(pairs: Sequence[Pair]) -> dict[str, Any]:
    found = quality.near_duplicates([pair.problem for pair in pairs])
    same = sum(pairs[first].concept_id == pairs[second].concept_id for first, second, _ in found)
    return {
        "within_concept": same,
        "across_concepts": len(found) - same,
        "problems": len({place for first, second, _ in found for place in (first, second)}),
        "examples": [
            {"first": pairs[first].id, "second": pairs[second].id, "overlap": round(overlap, 2)}
            for first, second, overlap in sorted(found, key=lambda each: -each[2])[:NUM_EXAMPLES]
        ],
    }


def _share(pairs: Sequence[Pair], test: Any) -> dict[str, Any]:
    found = [pair for pair in pairs if test(pair)]
    domains = Counter(pair.domain for pair in found)
    return {
        "problems": len(found),
        "fraction": round(len(found) / len(pairs), 4) if pairs else 0.0,
        "by_domain": dict(domains),
        "examples": [pair.id for pair in found[:NUM_EXAMPLES]],
    }


def _difficulty(concepts: Sequence[Concept], pairs: Sequence[Pair], ranker: Ranker) -> dict[str, Any]:
    """Rank of each problem's own definition among those of its domain; ties count against it."""
    ranks: list[int] = []
    per_domain: dict[str, dict[str, float]] = {}
    for domain in dict.fromkeys(pair.domain for pair in pairs):
        entries = [concept for concept in concepts if concept.domain == domain]
        places = {concept.id: place for place, concept in enumerate(entries)}
        own = [pair for pair in pairs if pair.domain == domain]
        scores_QN = ranker.scores(
            [pair.problem for pair in own], [f"{concept.name}\n{concept.definition}" for concept in entries]
        )
        targets_Q = scores_QN[np.arange(len(own)), [places[pair.concept_id] for pair in own]]
        found = (scores_QN >= targets_Q[:, None]).sum(axis=1).tolist()
        per_domain[domain] = _rank_summary(found)
        ranks += found
    return {"all": _rank_summary(ranks), **per_domain} if ranks else {}


def _rank_summary(ranks: Sequence[int]) -> dict[str, float]:
    values = np.asarray(ranks)
    summary = {f"top_{top}": round(float((values <= top).mean()), 4) for top in TOP_RANKS}
    return {"problems": len(ranks), **summary, "median_rank": float(np.median(values))}


def _above(triplets: Sequence[Triplet], ranker: Ranker) -> dict[str, Any]:
    """Rows whose negative scores above their positive, and rows where the two tie, per task."""
    above: Counter[str] = Counter()
    tied: Counter[str] = Counter()
    total = Counter(_group(row) for row in triplets)
    for domain in dict.fromkeys(row.domain for row in triplets):
        own = [row for row in triplets if row.domain == domain]
        documents = list({row.positive_document: 0 for row in own} | {row.hard_negative_document: 0 for row in own})
        places = {text: place for place, text in enumerate(documents)}
        queries = list(dict.fromkeys(row.user_query for row in own))
        query_rows: dict[str, list[Triplet]] = {query: [] for query in queries}
        for row in own:
            query_rows[row.user_query].append(row)
        for start in range(0, len(queries), 256):
            block = queries[start : start + 256]
            for query, scores_N in zip(block, ranker.scores(block, documents), strict=True):
                for row in query_rows[query]:
                    lead = scores_N[places[row.hard_negative_document]] - scores_N[places[row.positive_document]]
                    above[_group(row)] += bool(lead > 0)
                    tied[_group(row)] += bool(lead == 0)
    return {
        group: {"rows": count, "above": above[group], "tied": tied[group], "fraction": round(above[group] / count, 4)}
        for group, count in sorted(total.items())
    }


def _group(row: Triplet) -> str:
    return f"{row.task_type} (written)" if row.negative_instance == GENERATED else row.task_type
