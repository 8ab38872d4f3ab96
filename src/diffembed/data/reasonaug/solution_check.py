"""Stage 4: is each solution right, and does it use its concept? Only those that pass go on.

Read `check_solutions` first. The question is a fresh conversation. For coding problems the answer brings the cleaned
code whose docstring restates the problem; that code is the document which retrieval should find.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from diffembed.data.reasonaug import parsing
from diffembed.data.reasonaug.asking import Answer, Asker, Reject, Retry, ask_rows, common_fault
from diffembed.data.reasonaug.concepts import Domain
from diffembed.data.reasonaug.prompts import Messages
from diffembed.data.reasonaug.rows import Check, Kind, Pair, StageResult

STAGE = "solution_check"
CODE_TAGS = ("python", "python3", "py")


def check_solutions(pairs: Sequence[Pair], domains: Mapping[str, Domain], ask: Asker) -> StageResult[Pair]:
    """The pairs whose solution was accepted, with their documents."""

    def kind_of(pair: Pair) -> Kind:
        return ask.prompts.profile(domains[pair.domain].profile).kind

    def make_messages(pair: Pair) -> Messages:
        return ask.prompts.messages(
            STAGE,
            kind_of(pair),
            domain=pair.domain,
            concept=pair.concept,
            problem=pair.problem,
            solution=pair.solution,
            language=ask.language_name,
        )

    return ask_rows(
        STAGE,
        pairs,
        ask,
        make_messages=make_messages,
        read=lambda pair, answer: read_verdict(pair, answer, ask, kind_of(pair)),
        max_tokens=ask.settings.problem_max_tokens,
    )


def read_verdict(pair: Pair, answer: Answer, ask: Asker, kind: Kind) -> "Pair | Retry[Pair] | Reject":
    """The accepted pair with its document, or why it is not accepted.

    A coding pair is accepted when the first fenced block is Python and the answer does not begin with no, as the
    published data was made; those without a plain yes are counted in the report.
    """
    if (fault := common_fault(answer, ask, is_prose=False)) is not None:
        return fault
    said = parsing.verdict(answer.text)
    if kind is not Kind.CODING:
        if said is None:
            return Retry(reason="no verdict", detail=answer.text[:80])
        if not said:
            return Reject(reason="solution rejected", detail=answer.text[:80])
        return dataclasses.replace(pair, document=f"{pair.problem}\n{pair.solution}", solution_check=Check.PASSED)
    if said is False:
        return Reject(reason="solution rejected", detail=answer.text[:80])
    blocks = parsing.code_blocks(answer.text)
    if blocks and blocks[0].tag in CODE_TAGS and blocks[0].code.strip():
        if said is None:
            ask.note(f"{STAGE}: accepted by code without a yes")
        return dataclasses.replace(pair, document=blocks[0].code, solution_check=Check.PASSED)
    return Retry(reason="no verdict" if said is None else "accepted without code", detail=answer.text[:80])
