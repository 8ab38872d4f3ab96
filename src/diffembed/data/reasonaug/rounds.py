"""Stage 2: several rounds of one problem and its solution per concept, varied by random knobs.

Read `draw_knobs` first. Each knob is drawn from the seed, the concept, the round and its own name, so nothing
else - another concept in the list, another probability - changes it.
"""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffembed.data.reasonaug import parsing
from diffembed.data.reasonaug.asking import Answer, Asker, Reject, Retry, ask_rows, common_fault
from diffembed.data.reasonaug.concepts import Domain
from diffembed.data.reasonaug.prompts import Messages, Profile, Prompts
from diffembed.data.reasonaug.rows import Concept, Kind, Pair, StageResult

STAGE = "problems"
TEMPLATE = "problem"
TAGS = ("Problem", "Solution")
NO_STYLE = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Knobs:
    """What was drawn for one problem; empty and False add no sentence."""

    theme: str = ""
    style: str = ""
    difficulty: str = ""
    is_several_steps: bool = False
    is_several_concepts: bool = False
    is_name_hidden: bool = False
    is_short: bool = False


def draw_knobs(profile: Profile, domain: Domain, *, seed: int, concept_id: str, round_number: int) -> Knobs:
    """The knobs of one problem; the same arguments give the same knobs on every machine."""

    def draw(knob: str) -> random.Random:
        return random.Random(f"{seed}/{concept_id}/{round_number}/{knob}")

    themes = domain.themes or profile.themes
    theme = draw("theme").choice(["", *themes]) if themes else ""
    style = ""
    if profile.styles:
        style = draw("style").choices(list(profile.styles), weights=list(profile.styles.values()))[0]
    difficulty = ""
    if domain.difficulty and draw("has difficulty").random() < profile.difficulty:
        difficulty = draw("difficulty").choice(domain.difficulty)
    is_several = draw("several").random() < profile.several
    is_several_concepts = is_several and draw("several concepts").random() < profile.several_concepts
    return Knobs(
        theme=theme,
        style="" if style == NO_STYLE else style,
        difficulty=difficulty,
        is_several_steps=is_several and not is_several_concepts,
        is_several_concepts=is_several_concepts,
        is_name_hidden=draw("hidden name").random() < profile.hidden_name,
        is_short=draw("short").random() < profile.short,
    )


def make_rules(prompts: Prompts, profile: Profile, knobs: Knobs, *, domain: str, concept: str) -> str:
    """The rules of one problem, a line each."""
    drawn = {
        "theme": bool(knobs.theme),
        knobs.style: bool(knobs.style),
        "difficulty": bool(knobs.difficulty),
        "multi_step": knobs.is_several_steps,
        "multi_concept": knobs.is_several_concepts,
        "hidden_name": knobs.is_name_hidden,
        "short": knobs.is_short,
    }
    names = [*profile.rules, *(name for name, is_drawn in drawn.items() if is_drawn)]
    return "\n".join(
        prompts.sentence(name, concept=concept, domain=domain, theme=knobs.theme, difficulty=knobs.difficulty)
        for name in names
    )


def problem_messages(pair: Pair, domain: Domain, ask: Asker, *, seed: int) -> Messages:
    """The conversation that asks for a pair; the question check continues it."""
    profile = ask.prompts.profile(domain.profile)
    knobs = draw_knobs(profile, domain, seed=seed, concept_id=pair.concept_id, round_number=pair.round)
    return ask.prompts.messages(
        TEMPLATE,
        profile.kind,
        question_type=domain.question_type,
        domain=domain.name,
        concept=pair.concept,
        rules=make_rules(ask.prompts, profile, knobs, domain=domain.name, concept=pair.concept),
        language=ask.language_name,
    )


def write_problems(
    concepts: Sequence[Concept], domains: Mapping[str, Domain], ask: Asker, *, seed: int
) -> StageResult[Pair]:
    """`generation.rounds` pairs per concept, in the order of the concepts."""
    blanks = [
        Pair(
            id=f"{concept.id}-{number}",
            concept_id=concept.id,
            concept=concept.name,
            domain=concept.domain,
            round=number,
            problem="",
            solution="",
        )
        for concept in concepts
        for number in range(1, ask.settings.rounds + 1)
    ]

    def read(pair: Pair, answer: Answer) -> "Pair | Retry[Pair] | Reject":
        return read_pair(pair, answer, ask, ask.prompts.profile(domains[pair.domain].profile).kind)

    return ask_rows(
        STAGE,
        blanks,
        ask,
        make_messages=lambda pair: problem_messages(pair, domains[pair.domain], ask, seed=seed),
        read=read,
        max_tokens=ask.settings.problem_max_tokens,
    )


def read_pair(pair: Pair, answer: Answer, ask: Asker, kind: Kind) -> "Pair | Retry[Pair] | Reject":
    """The pair with the problem and solution of an answer, or why there is none."""
    if (fault := common_fault(answer, ask)) is not None:
        return fault
    parts = parsing.sections(answer.text, TAGS)
    problem, solution = (parts.get(tag, "") for tag in TAGS)
    if problem and solution:
        return dataclasses.replace(pair, problem=problem, solution=solution)
    if not problem:
        return Retry(reason="no Problem tag", detail=answer.text[:80])
    blocks = parsing.code_blocks(problem)
    salvage = None
    if kind is Kind.CODING and blocks and (text := problem[: blocks[-1].start].strip()):
        code = f"```{blocks[-1].tag}\n{blocks[-1].code}\n```"
        salvage = dataclasses.replace(pair, problem=text, solution=code, is_salvaged=True)
    return Retry(reason="no Solution tag", detail=answer.text[-80:], salvage=salvage)
