"""Stage 3: does each problem test its concept? If not, a better pair takes its place.

Read `check_questions` first. The question is a further turn of the conversation that made the pair.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from diffembed.data.reasonaug import parsing
from diffembed.data.reasonaug.asking import Answer, Asker, Reject, Retry, ask_rows, common_fault
from diffembed.data.reasonaug.concepts import Domain
from diffembed.data.reasonaug.prompts import Messages
from diffembed.data.reasonaug.rounds import TAGS, problem_messages
from diffembed.data.reasonaug.rows import Check, Dropped, Pair, StageResult

STAGE = "question_check"


def check_questions(
    pairs: Sequence[Pair], domains: Mapping[str, Domain], ask: Asker, *, seed: int, keep_lost: bool = True
) -> StageResult[Pair]:
    """The pairs, passed or replaced; when the stored answers lack this stage, marked as unpublished.

    seed: the one the pairs were asked for with.
    keep_lost: keep pairs that were replaced by others which the stored answers lack.
    """
    if not ask.source.has_stage(STAGE):
        return _unpublished(pairs, ask, keep_lost)

    def make_messages(pair: Pair) -> Messages:
        domain = domains[pair.domain]
        kind = ask.prompts.profile(domain.profile).kind
        asked = problem_messages(pair, domain, ask, seed=seed)
        said = f"**{TAGS[0]}**\n{pair.problem}\n\n**{TAGS[1]}**\n{pair.solution}"
        further = ask.prompts.messages(
            STAGE, kind, domain=domain.name, concept=pair.concept, language=ask.language_name
        )
        return [*asked, {"role": "assistant", "content": said}, further[-1]]

    return ask_rows(
        STAGE,
        pairs,
        ask,
        make_messages=make_messages,
        read=lambda pair, answer: read_check(pair, answer, ask),
        max_tokens=ask.settings.problem_max_tokens,
    )


def _unpublished(pairs: Sequence[Pair], ask: Asker, keep_lost: bool) -> StageResult[Pair]:
    lost = ask.source.lost_pairs
    ask.note(f"{STAGE}: not published", len(pairs))
    ask.note(f"{STAGE}: replaced by pairs not published (estimate)", sum(pair.id in lost for pair in pairs))
    kept, dropped = [], []
    for pair in pairs:
        if pair.id in lost and not keep_lost:
            dropped.append(Dropped(stage=STAGE, id=pair.id, reason="replaced by a pair not published"))
        else:
            check = Check.LOST if pair.id in lost else Check.UNPUBLISHED
            kept.append(dataclasses.replace(pair, question_check=check))
    return StageResult(rows=tuple(kept), dropped=tuple(dropped))


def read_check(pair: Pair, answer: Answer, ask: Asker) -> "Pair | Retry[Pair] | Reject":
    """The pair as it was, or the one that replaces it."""
    if (fault := common_fault(answer, ask)) is not None:
        return fault
    parts = parsing.sections(answer.text, TAGS)
    problem, solution = (parts.get(tag, "") for tag in TAGS)
    if problem and solution:
        return dataclasses.replace(pair, problem=problem, solution=solution, question_check=Check.REPLACED)
    said = parsing.verdict(answer.text)
    if said:
        return dataclasses.replace(pair, question_check=Check.PASSED)
    return Retry(reason="no verdict" if said is None and not parts else "no replacement", detail=answer.text[:80])
