"""Stage 6b: hard negatives that a language model writes: a similar story, another concept, of no use.

Read `write_negatives` first. Each problem of a concept is paired with the next one, the last with the first; a
concept with a single problem has no next one and yields no row.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from diffembed.data.formats import text_key
from diffembed.data.reasonaug import parsing
from diffembed.data.reasonaug.asking import Answer, Asker, Reject, Retry, ask_rows, common_fault
from diffembed.data.reasonaug.concepts import Domain
from diffembed.data.reasonaug.prompts import Messages
from diffembed.data.reasonaug.rows import GENERATED, Example, Kind, Pair, StageResult, Task, Triplet

STAGE = "written_negatives"
TEMPLATE = "negative"
TAG = "Document"


def ring_rows(pairs: Sequence[Pair]) -> tuple[Example, ...]:
    """A p2ps row from each problem to the next solved problem of its concept, around the ring."""
    by_concept: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_concept.setdefault(pair.concept_id, []).append(pair)
    return tuple(
        Example(
            id=f"{pair.id}/{STAGE}/{following.id}",
            task=Task.P2PS,
            domain=pair.domain,
            concept=pair.concept,
            query=pair.problem,
            positive=following.document,
            ranking_text=pair.problem,
            slot=0,
        )
        for own in by_concept.values()
        for pair, following in zip(own, [*own[1:], own[0]], strict=True)
        if text_key(pair.document) != text_key(following.document)
    )


def write_negatives(
    rows: Sequence[Example],
    domains: Mapping[str, Domain],
    ask: Asker,
    *,
    instructions: Mapping[tuple[str, Task], str],
) -> StageResult[Triplet]:
    """The ring rows with the negatives that were written; none when the stored answers lack this stage."""
    if not ask.source.has_stage(STAGE):
        ask.note(f"{STAGE}: not published", len(rows))
        return StageResult(rows=())

    def kind_of(row: Example) -> Kind:
        return ask.prompts.profile(domains[row.domain].profile).kind

    def make_messages(row: Example) -> Messages:
        return ask.prompts.messages(
            TEMPLATE,
            kind_of(row),
            domain=row.domain,
            concept=row.concept,
            question_type=domains[row.domain].question_type,
            query=row.query,
            positive=row.positive,
            language=ask.language_name,
        )

    def read(row: Example, answer: Answer) -> "Triplet | Retry[Triplet] | Reject":
        return read_negative(row, answer, ask, kind_of(row), instructions[row.domain, row.task])

    asked = ask_rows(
        STAGE, rows, ask, make_messages=make_messages, read=read, max_tokens=ask.settings.problem_max_tokens
    )
    numbered = tuple(dataclasses.replace(row, id=number) for number, row in enumerate(asked.rows))
    return StageResult(rows=numbered, dropped=asked.dropped)


def read_negative(
    row: Example, answer: Answer, ask: Asker, kind: Kind, instruction: str
) -> "Triplet | Retry[Triplet] | Reject":
    """The triplet with the document of an answer, or why there is none."""
    if (fault := common_fault(answer, ask)) is not None:
        return fault
    text = parsing.sections(answer.text, (TAG,)).get(TAG, "")
    if not text:
        return Retry(reason="no Document tag", detail=answer.text[:80])
    if kind is Kind.CODING:
        blocks = parsing.code_blocks(text)
        if not blocks:
            return Retry(reason="no code", detail=text[:80])
        text = blocks[0].code
    if text_key(text) in (text_key(row.positive), text_key(row.query)):
        return Retry(reason="negative repeats the positive or the query", detail=text[:80])
    return Triplet(
        id=0,
        domain=row.domain,
        instance=row.concept,
        task_type=row.task,
        task=instruction,
        user_query=row.query,
        positive_document=row.positive,
        hard_negative_document=text,
        negative_instance=GENERATED,
    )
