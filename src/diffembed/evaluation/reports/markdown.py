"""A comparison as a Markdown page: tasks down, systems across, then the tests; no texts of the data.

Read `render_markdown`. This module computes nothing.
"""

from pathlib import Path

from diffembed.evaluation.reports.comparison import Comparison, Difference, GroupScore
from diffembed.provenance import atomic_file


def write_markdown(comparison: Comparison, path: Path | str, *, command: str) -> None:
    """Writes the page, whole or not at all."""
    with atomic_file(path) as part:
        part.write_text(render_markdown(comparison, command=command), encoding="utf-8")


def render_markdown(comparison: Comparison, *, command: str) -> str:
    """A page with one heading. command: how to make it again."""
    finished = [system for system in comparison.systems if system.error is None]
    environment = comparison.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.get("versions", {}).items())
    lines = [
        f"# Results: {comparison.draw or 'given tasks'}",
        "",
        f"`{command}`",
        "",
        "Points of 100 with 95 % bootstrap intervals over queries; `cut` is the share of documents that were not read "
        "to their end. Bold is the highest value of a row, whether or not the tests below tell it from the others.",
        "",
        "| task | measure | queries | " + " | ".join(system.label for system in finished) + " |",
        "|---" * (3 + len(finished)) + "|",
    ]
    for group in comparison.groups:
        scores = {system.label: comparison.scores[system.label].get(group) for system in finished}
        known = [score for score in scores.values() if score is not None]
        best = max(score.interval.value for score in known)
        cells = " | ".join(_cell(score, best) for score in scores.values())
        num_queries = max(score.num_queries for score in known) or _num_items(comparison, group)
        mark = " \\*" if group in comparison.in_domain else ""
        lines.append(f"| {group}{mark} | {known[0].measure} | {num_queries:,} | {cells} |")
    if comparison.in_domain:
        lines += ["", "\\* in-domain: training rows of the same kind exist."]
    lines += ["", *_tests(comparison), ""]
    machine = f"{environment.get('processor')}, {environment.get('num_cores')} cores"
    lines.append(f"Seed {comparison.seed}; {machine}; {versions}.")
    return "\n".join(lines) + "\n"


def _cell(score: GroupScore | None, best: float) -> str:
    if score is None:
        return "-"
    value, low, high = (100 * part for part in (score.interval.value, score.interval.low, score.interval.high))
    shown = f"**{value:.1f}**" if score.interval.value == best else f"{value:.1f}"
    cut = f", cut {100 * score.truncated_fraction:.0f} %" if score.truncated_fraction else ""
    return f"{shown} ({low:.1f} to {high:.1f}{cut})"


def _num_items(comparison: Comparison, group: str) -> int:
    return sum(task.num_queries for task in comparison.tasks if task.group == group)


def _tests(comparison: Comparison) -> list[str]:
    """One line per task with every pair that differs beyond chance."""
    if not comparison.differences:
        return []
    lines = ["Paired randomisation tests, Holm-corrected within the task; `a > b` where p < 0.05:", ""]
    for group in comparison.groups:
        of_group = [one for one in comparison.differences if one.group == group]
        real = [_pair(one) for one in of_group if one.p_holm < 0.05]
        if of_group:
            lines.append(f"- {group}: {'; '.join(real) if real else 'no pair'} ({len(of_group)} pairs tested)")
    return lines


def _pair(one: Difference) -> str:
    interval = one.test.difference
    if interval.value >= 0:
        return (
            f"{one.a} > {one.b} by {100 * interval.value:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
        )
    return f"{one.b} > {one.a} by {-100 * interval.value:.1f} ({-100 * interval.high:.1f} to {-100 * interval.low:.1f})"
