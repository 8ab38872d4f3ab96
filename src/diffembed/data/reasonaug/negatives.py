"""Stage 6a: hard negatives found by a ranker - near the query, of the same domain, of another concept.

Read `find_negatives` first. Concepts ranked first are skipped: what looks most relevant often is. Every row computes
its candidates from its own texts alone, so nothing is carried from one concept to the next.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from diffembed.data.formats import text_key
from diffembed.data.reasonaug.ranking import Ranker
from diffembed.data.reasonaug.rows import Concept, Dropped, Example, Pair, StageResult, Task, Triplet

STAGE = "negatives"
QUERIES_PER_BLOCK = 256
SKIPPED_FEWER = "rows with fewer top concepts skipped, for want of others"
REUSED = "rows that reuse a negative of the same query, for want of others"


def find_negatives(
    examples: Sequence[Example],
    concepts: Sequence[Concept],
    pairs: Sequence[Pair],
    ranker: Ranker,
    *,
    skip_top: int,
    instructions: dict[tuple[str, Task], str],
    notes: dict[str, int],
) -> StageResult[Triplet]:
    """One triplet per row, in row order; a row whose domain has no other concept is dropped.

    instructions: (domain, task) -> text. notes: gains counts of compromises.
    """
    chosen: dict[str, tuple[str, str]] = {}
    for domain in dict.fromkeys(example.domain for example in examples):
        own = [example for example in examples if example.domain == domain]
        entries = [concept for concept in concepts if concept.domain == domain]
        names = [concept.name for concept in entries]
        definitions = [f"{concept.name}\n{concept.definition}" for concept in entries]
        to_concepts = [example for example in own if example.task is Task.P2I]
        shown = [frozenset({text_key(entry.name), text_key(entry.definition)}) for entry in entries]
        picks = _pick(to_concepts, definitions, shown, names, ranker, skip_top=skip_top, notes=notes)
        for example, place in picks:
            entry = entries[place]
            chosen[example.id] = (entry.name if example.is_positive_name else entry.definition, entry.name)
        found = [pair for pair in pairs if pair.domain == domain]
        to_documents = [example for example in own if example.task is not Task.P2I]
        texts = [pair.document for pair in found]
        shown = [frozenset({text_key(text)}) for text in texts]
        names = [pair.concept for pair in found]
        picks = _pick(to_documents, texts, shown, names, ranker, skip_top=skip_top, notes=notes)
        for example, place in picks:
            chosen[example.id] = (found[place].document, found[place].concept)
    rows: list[Triplet] = []
    dropped: list[Dropped] = []
    for example in examples:
        if example.id not in chosen:
            dropped.append(Dropped(stage=STAGE, id=example.id, reason="no other concept in the domain"))
            continue
        negative, concept = chosen[example.id]
        rows.append(
            Triplet(
                id=len(rows),
                domain=example.domain,
                instance=example.concept,
                task_type=example.task,
                task=instructions[example.domain, example.task],
                user_query=example.query,
                positive_document=example.positive,
                hard_negative_document=negative,
                negative_instance=concept,
            )
        )
    return StageResult(rows=tuple(rows), dropped=tuple(dropped))


def candidate_order(
    scores_N: NDArray[np.float32], concepts: Sequence[str], own: str, *, skip_top: int, num_needed: int
) -> tuple[list[int], bool]:
    """Places of the candidates, best first, and whether fewer concepts than `skip_top` were skipped.

    The best document of each other concept comes before any second one. Ties keep the order of the documents. The
    list stops at `num_needed`, or when there is no more.
    """
    num_others = len(set(concepts) - {own})
    skip = min(skip_top, max(0, num_others - 1))
    seen: dict[str, int] = {}
    ranked: list[tuple[int, int]] = []
    num_first = 0
    for place in np.argsort(-scores_N, kind="stable").tolist():
        concept = concepts[place]
        if concept == own:
            continue
        if concept not in seen:
            seen[concept] = 0 if len(seen) >= skip else -1
        if seen[concept] < 0:
            continue
        ranked.append((seen[concept], place))
        num_first += seen[concept] == 0
        seen[concept] += 1
        if num_first >= num_needed:
            break
    order = [place for _, place in sorted(ranked, key=lambda pair: pair[0])]
    return order[: max(num_needed, 1)], skip < skip_top


def _pick(
    examples: Sequence[Example],
    documents: Sequence[str],
    shown: Sequence[frozenset[str]],
    concepts: Sequence[str],
    ranker: Ranker,
    *,
    skip_top: int,
    notes: dict[str, int],
) -> Iterable[tuple[Example, int]]:
    """(row, place of its negative); rows that can have none are left out. shown: what a document may appear as."""
    if not examples or not documents:
        return
    by_query: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        by_query.setdefault((example.ranking_text, example.concept), []).append(example)
    groups = list(by_query.items())
    for start in range(0, len(groups), QUERIES_PER_BLOCK):
        block = groups[start : start + QUERIES_PER_BLOCK]
        scores_QN = ranker.scores([text for (text, _), _ in block], documents)
        for scores_N, ((_, own), rows) in zip(scores_QN, block, strict=True):
            # One spare candidate per row, should a text turn out to be the row's own.
            num_needed = 2 * (1 + max(row.slot for row in rows))
            order, is_fewer = candidate_order(scores_N, concepts, own, skip_top=skip_top, num_needed=num_needed)
            for row in rows:
                taken = {text_key(row.query), text_key(row.positive)}
                usable = [place for place in order if not shown[place] & taken]
                if not usable:
                    continue
                notes[SKIPPED_FEWER] = notes.get(SKIPPED_FEWER, 0) + is_fewer
                notes[REUSED] = notes.get(REUSED, 0) + (row.slot >= len(usable))
                yield row, usable[row.slot % len(usable)]
