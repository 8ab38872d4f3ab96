"""What the primary tests say of the paper's claims, in words that follow from the numbers by fixed rules.

Read `judge`. An advantage holds where every test of its skill lies above zero and stays significant after Holm, and
fails where one lies below; parity holds where every interval stays above minus the margin, and fails where one lies
below it. A loss that may be smaller than the margin is called a loss. Nothing here reads more into an interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from diffembed.study.findings import Findings, SkillTest

CLAIMS = {
    "long": "embedders from diffusion models are better on long documents",
    "reasoning": "embedders from diffusion models are better where retrieval needs reasoning",
    "instruction": "embedders from diffusion models follow instructions better",
    "general": "embedders from diffusion models are no worse on general tasks",
}
"""Skill -> what arXiv 2505.15045 reports of it."""
NO_WORSE = ("general",)
"""Skills on which the paper claims parity, not an advantage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One claim, judged."""

    skill: str
    claim: str
    verdict: str
    reasons: tuple[str, ...]
    """One sentence per test."""


def judge(findings: Findings) -> list[Verdict]:
    """A verdict per skill of the primary family."""
    family = findings.plan.primary
    verdicts = []
    for skill in family.skills:
        tests = [test for test in findings.primary if test.skill == skill]
        absent = [control for other, control in findings.untested if other == skill]
        parity = skill in NO_WORSE
        readings = [_read(test, parity=parity, margin=family.margin, level=family.level) for test in tests]
        claim = CLAIMS.get(skill, f"{family.subject} is better on {skill}")
        reasons = [_sentence(test, reading, family.margin) for test, reading in zip(tests, readings, strict=True)]
        reasons += [f"against {control} there is no result yet" for control in absent]
        verdicts.append(
            Verdict(skill=skill, claim=claim, verdict=_sum_up(readings, bool(absent)), reasons=tuple(reasons))
        )
    return verdicts


def _read(test: SkillTest, *, parity: bool, margin: float, level: float) -> str:
    """holds, fails, behind (parity alone: a loss, perhaps within the margin) or open."""
    interval = test.comparison.difference
    assert test.p_holm is not None
    is_real = test.p_holm < 1 - level
    if parity:
        if interval.low > -margin:
            return "holds"
        if interval.high < -margin:
            return "fails"
        return "behind" if is_real and interval.high < 0 else "open"
    if is_real and interval.low > 0:
        return "holds"
    return "fails" if is_real and interval.high < 0 else "open"


def _sum_up(readings: Sequence[str], is_incomplete: bool) -> str:
    if not readings:
        return "is not tested yet"
    held, failed = readings.count("holds"), readings.count("fails")
    rest = "undecided"
    if "behind" in readings:
        rest = "behind, or undecided" if "open" in readings else "behind, by how much is undecided"
    if failed:
        verdict = (
            "does not hold here: the result is against it" if not held else "holds against some, fails against others"
        )
    elif held == len(readings):
        verdict = "holds here"
    elif held:
        verdict = f"holds in part: the other comparisons are {rest}"
    else:
        verdict = f"is not shown here: the comparisons are {rest}"
    return f"{verdict} (so far)" if is_incomplete else verdict


def _sentence(test: SkillTest, reading: str, margin: float) -> str:
    interval = test.comparison.difference
    low, high = 100 * interval.low, 100 * interval.high
    words = {
        "holds": "which supports it",
        "fails": "which speaks against it",
        "behind": f"which is a loss; whether by more than {100 * margin:.1f} points is undecided",
        "open": f"which allows anything from {_points(low)} to {_points(high)}",
    }[reading]
    caution = f"; {test.caution}" if test.caution else ""
    return (
        f"against {test.b}: {100 * interval.value:+.1f} points ({low:+.1f} to {high:+.1f}, "
        f"Holm p {p_text(test.p_holm)}), {words}{caution}"
    )


def _points(value: float) -> str:
    return f"{abs(value):.1f} points {'behind' if value < 0 else 'ahead'}"


def p_text(p_value: float | None) -> str:
    """A p-value for people."""
    if p_value is None:
        return "-"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
