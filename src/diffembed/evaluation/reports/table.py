"""A comparison on the terminal, in 80 columns.

Read `print_comparison`. Three groups stand side by side; more follow below. This module computes nothing.
"""

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from diffembed.evaluation.reports.comparison import Comparison, GroupScore, Search, SystemOutcome, TaskOutcome

GROUPS_PER_TABLE = 3
NAME_WIDTH = 19
"""With cells of 14, speed of 5 and memory of 4 columns, three groups fill 80."""
TITLES = {"stdlib": "library docs", "passkey": "passkey", "needle": "needle"}
"""Readable names of the groups of the standard-library comparison; others are shown as they are."""


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Scores with intervals and cuts, accuracy by length, the closing search, then what went wrong, on stdout."""
    console = console or Console(highlight=False)
    if console.is_terminal:
        _print_parts(comparison, console)
        return
    # Into a file or a pipe without the blanks that fill a column.
    with console.capture() as captured:
        _print_parts(comparison, console)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _print_parts(comparison: Comparison, console: Console) -> None:
    groups = comparison.groups
    for start in range(0, len(groups), GROUPS_PER_TABLE):
        console.print(_score_table(comparison, groups[start : start + GROUPS_PER_TABLE]))
    console.print(Text(_caption(comparison), style="dim"))
    for group in groups:
        if any(task.length for task in comparison.tasks if task.group == group):
            console.print()
            console.print(_length_table(comparison, group))
    if comparison.search is not None:
        _print_search(comparison.search, console)
    for system in comparison.failed:
        console.print(Text(f"\n{system.label} failed: {system.error}", style="red"))


def _print_search(search: Search, console: Console) -> None:
    console.print(Text(f"\nsearch of {search.num_documents:,} library summaries by {search.system}", style="bold"))
    console.print(Text(f"  {search.question}", style="italic"))
    for hit in search.hits:
        console.print(Text(f"{hit.score:6.3f}  ").append(hit.document.id, style="cyan"))
        console.print(Padding(Text(hit.document.text), (0, 0, 0, 8)))


def _score_table(comparison: Comparison, groups: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, collapse_padding=True, show_edge=False)
    table.add_column("system", max_width=NAME_WIDTH, overflow="fold")
    for group in groups:
        measure = next(scores[group].measure for scores in comparison.scores.values() if group in scores)
        mark = " *" if group in comparison.in_domain else ""
        table.add_column(f"{TITLES.get(group, group)}{mark}\n{measure}", no_wrap=True)
    table.add_column("tok\n/s", justify="right", no_wrap=True)
    table.add_column("peak\nGB", justify="right", no_wrap=True)
    best = {
        group: max(scores[group].interval.value for scores in comparison.scores.values() if group in scores)
        for group in groups
    }
    for system in comparison.systems:
        if system.error is not None:
            continue
        cells = [_cell(comparison.scores[system.label].get(group), best[group]) for group in groups]
        table.add_row(_name(system), *cells, _speed(system), _gigabytes(system), end_section=True)
    return table


def _name(system: SystemOutcome) -> Text:
    """The model on one line, attention and pooling below; a long name goes on in the next line after a hyphen."""
    model, _, rest = system.label.partition(":")
    lines = textwrap.wrap(model, NAME_WIDTH) or [""]
    below = rest.replace(":", ", ")
    return Text("\n".join(lines)).append(f"\n{below}" if below or len(lines) == 1 else "", style="dim")


def _cell(score: GroupScore | None, best: float) -> Text:
    if score is None:
        return Text("    -\n", style="dim")
    interval = score.interval
    value = Text(f"{100 * interval.value:5.1f}", style="bold" if interval.value == best else "")
    cut = "cut ?" if score.truncated_fraction is None else f"cut {100 * score.truncated_fraction:.0f}%"
    value.append(f" {cut}", style="yellow" if score.truncated_fraction else "dim")
    return value.append(f"\n{100 * interval.low:5.1f}-{100 * interval.high:.1f}", style="dim")


def _speed(system: SystemOutcome) -> str:
    speed = system.tokens_per_s
    if speed is None:
        return "-"
    if speed < 10_000:
        return f"{speed:,.0f}"
    return f"{speed / 1e3:.0f}k" if speed < 1e6 else f"{speed / 1e6:.1f}M"


def _gigabytes(system: SystemOutcome) -> str:
    return "-" if system.peak_bytes is None else f"{system.peak_bytes / 1e9:.2f}"


def _caption(comparison: Comparison) -> str:
    counts = {
        group: sum(task.num_queries for task in comparison.tasks if task.group == group) for group in comparison.groups
    }
    queries = ", ".join(f"{TITLES.get(group, group)} {count}" for group, count in counts.items())
    lines = [
        f"Points of 100, 95 % bootstrap interval below; cut = documents not read to their end. Queries: {queries}."
    ]
    if any(
        score.interval.low == score.interval.high for scores in comparison.scores.values() for score in scores.values()
    ):
        lines.append("An interval without width: all queries gave the same value, which is no certainty.")
    if comparison.in_domain:
        lines.append("* in-domain: training rows of the same kind exist.")
    if comparison.draw:
        lengths = f" Lengths in tokens of {comparison.counted_by}." if comparison.counted_by else ""
        lines.append(f"Draw {comparison.draw}; {comparison.reason}.{lengths}")
    lines.append(f"Seed {comparison.seed}, {comparison.seconds:.0f} s in all.")
    return "\n".join(lines)


def _length_table(comparison: Comparison, group: str) -> Table:
    lengths = sorted({task.length for task in comparison.tasks if task.group == group and task.length})
    size = next(task.num_documents for task in comparison.tasks if task.group == group)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(f"{TITLES.get(group, group)} by length, chance {100 / size:.1f}", no_wrap=True)
    for length in lengths:
        table.add_column(f"{length}", justify="right")
    for system in comparison.systems:
        by_length = {task.length: task for task in system.tasks if task.group == group}
        if by_length:
            table.add_row(system.label, *(_length_cell(by_length[length]) for length in lengths))
    return table


def _length_cell(task: TaskOutcome) -> Text:
    return Text(f"{100 * task.interval.value:.0f}", style="yellow" if task.truncated_fraction else "")
