"""Stage 1: what each concept is.

Read `define` first: concepts in, the same concepts with a definition out. A definition given in the concept list is
kept; an answer that was cut short is noticed, asked again, and only its whole part is ever used.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from diffembed.data.reasonaug import parsing
from diffembed.data.reasonaug.asking import CUT_SHORT, Answer, Asker, Reject, Retry, ask_rows, common_fault
from diffembed.data.reasonaug.concepts import Domain
from diffembed.data.reasonaug.prompts import Messages
from diffembed.data.reasonaug.rows import Concept, StageResult

STAGE = "definitions"
TAG = "Definition"


def define(concepts: Sequence[Concept], domains: Mapping[str, Domain], ask: Asker) -> StageResult[Concept]:
    """The concepts with their definitions, in order; those without one are dropped."""

    def make_messages(concept: Concept) -> Messages:
        kind = ask.prompts.profile(domains[concept.domain].profile).kind
        return ask.prompts.messages(
            STAGE.removesuffix("s"), kind, domain=concept.domain, concept=concept.name, language=ask.language_name
        )

    asked = ask_rows(
        STAGE,
        [concept for concept in concepts if not concept.definition],
        ask,
        make_messages=make_messages,
        read=lambda concept, answer: read_definition(concept, answer, ask),
        max_tokens=ask.settings.definition_max_tokens,
    )
    defined = {concept.id: concept for concept in concepts if concept.definition}
    defined |= {concept.id: concept for concept in asked.rows}
    return StageResult(
        rows=tuple(defined[concept.id] for concept in concepts if concept.id in defined), dropped=asked.dropped
    )


def read_definition(concept: Concept, answer: Answer, ask: Asker) -> "Concept | Retry[Concept] | Reject":
    """The concept with the definition of an answer, or why there is none."""
    text = parsing.sections(answer.text, ("Concept", TAG)).get(TAG, "")
    fault = common_fault(answer, ask)
    if fault is not None:
        whole = parsing.whole_part(text) if fault.reason == CUT_SHORT and text else ""
        if not whole:
            return fault
        salvage = dataclasses.replace(concept, definition=whole, is_definition_cut=True)
        return dataclasses.replace(fault, salvage=salvage)
    if not text:
        return Retry(reason="no Definition tag", detail=answer.text[:80])
    return dataclasses.replace(concept, definition=text)
