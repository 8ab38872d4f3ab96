"""Stage 5: accepted pairs become rows of the four retrieval tasks, still without negatives.

Read `assemble` first. Problems that occur twice in a concept are dropped before anything is made from them, so they
are in no row and in no corpus that negatives come from.
"""

import random
from collections.abc import Iterator, Sequence

from diffembed.data.formats import text_key
from diffembed.data.reasonaug.config import AssemblyConfig
from diffembed.data.reasonaug.rows import Concept, Dropped, Example, Pair, StageResult, Task

STAGE = "assembly"


def unique_pairs(pairs: Sequence[Pair]) -> StageResult[Pair]:
    """The pairs whose problem is the first of its wording within the concept."""
    seen: dict[tuple[str, str], str] = {}
    kept, dropped = [], []
    for pair in pairs:
        first = seen.setdefault((pair.concept_id, text_key(pair.problem)), pair.id)
        if first == pair.id:
            kept.append(pair)
        else:
            dropped.append(Dropped(stage=STAGE, id=pair.id, reason="duplicate problem", detail=first))
    return StageResult(rows=tuple(kept), dropped=tuple(dropped))


def assemble(
    concepts: Sequence[Concept], pairs: Sequence[Pair], config: AssemblyConfig, *, seed: int
) -> StageResult[Example]:
    """Rows of all tasks, concept by concept in list order; rows whose positive is their query are dropped.

    Choices are drawn from the seed and the row's own name, never from a shared stream.
    """
    by_concept: dict[str, list[Pair]] = {concept.id: [] for concept in concepts}
    for pair in pairs:
        by_concept[pair.concept_id].append(pair)
    kept, dropped = [], []
    for concept in concepts:
        own = by_concept[concept.id]
        for row in (
            *_concept_rows(concept, own, config, seed),
            *_solution_rows(concept, own),
            *_problem_rows(concept, own, config, seed),
        ):
            if text_key(row.positive) == text_key(row.query):
                dropped.append(Dropped(stage=STAGE, id=row.id, reason="positive is the query"))
            else:
                kept.append(row)
    return StageResult(rows=tuple(kept), dropped=tuple(dropped))


def _concept_rows(concept: Concept, pairs: Sequence[Pair], config: AssemblyConfig, seed: int) -> Iterator[Example]:
    """p2i: from a problem to the concept it needs."""
    for pair in pairs:
        for number in range(config.p2i_rows):
            row_id = f"{pair.id}/{Task.P2I}/{number}"
            is_name = random.Random(f"{seed}/{row_id}").random() < config.p2i_name_fraction
            yield Example(
                id=row_id,
                task=Task.P2I,
                domain=concept.domain,
                concept=concept.name,
                query=pair.problem,
                positive=concept.name if is_name else concept.definition,
                is_positive_name=is_name,
                ranking_text=pair.problem,
                slot=number,
            )


def _solution_rows(concept: Concept, pairs: Sequence[Pair]) -> Iterator[Example]:
    """i2ps: from a concept to the solved problems that use it; negatives are looked for by its definition."""
    for number, pair in enumerate(pairs):
        yield Example(
            id=f"{pair.id}/{Task.I2PS}",
            task=Task.I2PS,
            domain=concept.domain,
            concept=concept.name,
            query=concept.name,
            positive=pair.document,
            ranking_text=concept.definition,
            slot=number,
        )


def _problem_rows(concept: Concept, pairs: Sequence[Pair], config: AssemblyConfig, seed: int) -> Iterator[Example]:
    """p2ps and ps2ps: from a problem to the other solved problems of its concept."""
    ordered = [
        (query, found) for query in pairs for found in pairs if text_key(query.document) != text_key(found.document)
    ]
    draw = random.Random(f"{seed}/{concept.id}/pairs")
    chosen = sorted(draw.sample(range(len(ordered)), min(config.max_problem_pairs, len(ordered))))
    slots: dict[str, int] = {}
    for place in chosen:
        query, found = ordered[place]
        draw = random.Random(f"{seed}/{query.id}/{found.id}")
        text, task = query.problem, Task.P2PS
        if draw.random() < config.ps2ps_fraction:
            task = Task.PS2PS
            more = query.solution if draw.random() < config.ps2ps_solution_fraction else concept.name
            text = f"{query.problem}\n{more}"
        slot = slots.get(query.id, 0)
        slots[query.id] = slot + 1
        yield Example(
            id=f"{query.id}/{task}/{found.id}",
            task=task,
            domain=concept.domain,
            concept=concept.name,
            query=text,
            positive=found.document,
            ranking_text=text,
            slot=slot,
        )
