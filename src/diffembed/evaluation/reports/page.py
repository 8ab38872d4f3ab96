"""A comparison as one self-contained HTML page, light or dark as the reader's system is.

Read `render_report`. Everything a reader needs to doubt the numbers is on it: intervals, cut documents, tests, seed,
draw, versions and hashes. This module computes nothing but layout.
"""

import time
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from diffembed.evaluation.reports.comparison import Comparison, Difference, GroupScore, SystemOutcome
from diffembed.evaluation.reports.overlap import Overlap, ShownHit
from diffembed.evaluation.reports.plot import NUM_COLOURS, plot_by_length
from diffembed.evaluation.reports.table import TITLES
from diffembed.provenance import atomic_file

SIGNIFICANT = 0.05
ABOUT = {
    "stdlib": "Documentation retrieval. The query is the first paragraph of a docstring of Python's standard library, "
    "with the object's name taken out; its one right document is the rest of that docstring, among the rests of all "
    "others. Whoever wrote the docstring made the label; no model did.",
    "passkey": "LongEmbed's Passkey. Each document is library text with one sentence of the form "
    "“The pass key of Mira Novak is 48213” hidden in it; the query asks for the pass key of a person.",
    "needle": "LongEmbed's Needle. Each document is library text with one invented fact hidden in it, and the "
    "query asks for it in other words.",
}


def write_report(comparison: Comparison, path: Path | str) -> None:
    """Writes the page, whole or not at all."""
    page = render_report(comparison)
    with atomic_file(path) as part:
        part.write_text(page, encoding="utf-8")


def render_report(comparison: Comparison) -> str:
    """The page as text."""
    css = files("diffembed.evaluation.reports").joinpath("page.css").read_text(encoding="utf-8")
    finished = [system for system in comparison.systems if system.error is None]
    sections = [
        _head(comparison, finished),
        _failures(comparison),
        _scores(comparison, finished),
        _plot(comparison, finished),
        _differences(comparison),
        _overlaps(comparison),
        _search(comparison),
        _tasks(comparison),
        _provenance(comparison, finished),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>diffembed compare</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(comparison: Comparison, finished: Sequence[SystemOutcome]) -> str:
    num_queries = sum(task.num_queries for task in comparison.tasks)
    draw = f"<p class=note>Draw {escape(comparison.draw)}; {escape(comparison.reason)}.</p>" if comparison.draw else ""
    return (
        f"<h1>{len(finished)} systems, {len(comparison.tasks)} tasks, {num_queries} queries</h1>\n"
        "<p class=lead>Every system read the same texts. Points of 100 with 95 % bootstrap intervals; "
        f"beside each score the share of documents that were not read to their end.</p>\n{draw}"
    )


def _failures(comparison: Comparison) -> str:
    return "\n".join(
        f'<div class="card failed"><strong>{escape(system.label)}</strong> failed: {escape(system.error or "")}</div>'
        for system in comparison.failed
    )


def _colour(place: int) -> str:
    return f"var(--s{place % NUM_COLOURS})"


def _name(system: SystemOutcome, place: int) -> str:
    model, _, rest = system.label.partition(":")
    below = f"<span>{escape(rest.replace(':', ', '))}</span>" if rest else ""
    return f'<i class=key style="background:{_colour(place)}"></i>{escape(model)}{below}'


def _scores(comparison: Comparison, finished: Sequence[SystemOutcome]) -> str:
    head = ["<th>system</th>"]
    best = {}
    for group in comparison.groups:
        scores = [by_group[group] for by_group in comparison.scores.values() if group in by_group]
        best[group] = max(score.interval.value for score in scores)
        mark = " *" if group in comparison.in_domain else ""
        head.append(f"<th>{escape(TITLES.get(group, group))}{mark}<br>{escape(scores[0].measure)}</th>")
    head += ["<th class=number>tokens/s</th>", "<th class=number>peak memory</th>"]
    rows = []
    for place, system in enumerate(finished):
        cells = [
            _score_cell(comparison.scores[system.label].get(group), best[group], _colour(place))
            for group in comparison.groups
        ]
        speed = "-" if system.tokens_per_s is None else f"{system.tokens_per_s:,.0f}"
        memory = "-" if system.peak_bytes is None else f"{system.peak_bytes / 1e6:,.0f} MB"
        rows.append(
            f"<tr><td class=system>{_name(system, place)}</td>{''.join(cells)}"
            f"<td class=number>{speed}</td><td class=number>{memory}</td></tr>"
        )
    shared = [system for system in finished if system.shares_pass_with]
    note = "* in-domain: training rows of the same kind exist. " if comparison.in_domain else ""
    note += "Speed is that of reading documents and queries, loading left out."
    if shared:
        note += f" {', '.join(system.label for system in shared)} came out of one forward pass."
    return (
        f"<h2>Scores</h2>\n<div class=scroll><table>\n<tr>{''.join(head)}</tr>\n"
        + "\n".join(rows)
        + f"\n</table></div>\n<p class=note>{escape(note)} Memory is the peak of the whole process.</p>"
    )


def _score_cell(score: GroupScore | None, best: float, colour: str) -> str:
    if score is None:
        return "<td>-</td>"
    value, low, high = (100 * part for part in (score.interval.value, score.interval.low, score.interval.high))
    is_best = " best" if score.interval.value == best else ""
    if score.truncated_fraction is None:
        cut = "<span class=cut>cut ?</span>"
    else:
        some = " some" if score.truncated_fraction else ""
        cut = f'<span class="cut{some}">cut {100 * score.truncated_fraction:.0f} %</span>'
    return (
        f'<td><span class="value{is_best}">{value:.1f}</span>{cut}'
        f'<div class=range><i style="left:{max(low, 0):.1f}%;width:{max(high, 0) - max(low, 0):.1f}%;'
        f'background:{colour}"></i><b style="left:{max(value, 0):.1f}%;background:{colour}"></b></div>'
        f"<span class=interval>{low:.1f} to {high:.1f}</span></td>"
    )


def _plot(comparison: Comparison, finished: Sequence[SystemOutcome]) -> str:
    svg = plot_by_length(comparison)
    if not svg:
        return ""
    legend = "".join(
        f'<li><i class=key style="background:{_colour(place)}"></i>{escape(system.label)}</li>'
        for place, system in enumerate(finished)
    )
    return (
        f"<h2>Accuracy by length</h2>\n<figure>\n<div class=scroll>{svg}</div>\n<ul class=legend>{legend}</ul>\n"
        "<figcaption class=note>Whiskers are 95 % Wilson intervals over the queries of one length. A hollow mark means "
        f"that documents were cut. Lengths in tokens of {escape(comparison.counted_by or 'the documents')}."
        "</figcaption>\n</figure>"
    )


def _differences(comparison: Comparison) -> str:
    if not comparison.differences:
        return ""
    groups = comparison.groups
    real = [one for one in comparison.differences if one.p_holm < SIGNIFICANT]
    rows = "\n".join(
        _difference_row(one) for one in sorted(real, key=lambda one: (groups.index(one.group), one.p_holm))
    )
    table = (
        "<div class=scroll><table class=dense><tr><th>task</th><th>higher</th><th>lower</th>"
        "<th class=number>difference</th><th class=number>95 % interval</th><th class=number>p (Holm)</th></tr>"
        f"\n{rows}\n</table></div>"
    )
    return (
        "<h2>Differences beyond chance</h2>\n<p>Every pair of systems was tested on every task with a paired "
        f"randomisation test, corrected by Holm within the task: {len(real)} of {len(comparison.differences)} pairs "
        f"differ at p &lt; {SIGNIFICANT}; the others may be equal.</p>\n{table if real else ''}"
    )


def _difference_row(one: Difference) -> str:
    interval = one.test.difference
    low, high = interval.low, interval.high
    higher, lower = one.a, one.b
    if interval.value < 0:
        higher, lower, low, high = one.b, one.a, -high, -low
    return (
        f"<tr><td>{escape(TITLES.get(one.group, one.group))}</td><td>{escape(higher)}</td><td>{escape(lower)}</td>"
        f"<td class=number>{100 * abs(interval.value):.1f}</td>"
        f"<td class=number>{100 * low:.1f} to {100 * high:.1f}</td><td class=number>{one.p_holm:.4f}</td></tr>"
    )


def _overlaps(comparison: Comparison) -> str:
    if not comparison.overlaps:
        return ""
    rows = "\n".join(
        f"<tr><td>{escape(one.task)}</td><td>{escape(one.a)}</td><td>{escape(one.b)}</td>"
        f"<td class=number>{100 * one.overlap_fraction:.0f} %</td><td class=number>{one.gold_both}</td>"
        f"<td class=number>{one.gold_only_a}</td><td class=number>{one.gold_only_b}</td>"
        f"<td class=number>{one.gold_neither}</td>"
        f"<td class=number>{one.queries_a} / {one.queries_b} / {one.queries_both} of {one.num_queries}</td></tr>"
        for one in comparison.overlaps
    )
    shown = "\n".join(_most_different(one) for one in comparison.overlaps if one.most_different)
    return (
        f"<h2>What they found</h2>\n<p>Among the first {comparison.overlaps[0].top_k} documents of each query: the "
        "share that both systems have, and the gold documents found by both, by one, by neither.</p>\n"
        "<div class=scroll><table class=dense><tr><th>task</th><th>a</th><th>b</th><th class=number>shared</th>"
        "<th class=number>gold, both</th><th class=number>only a</th><th class=number>only b</th>"
        "<th class=number>neither</th><th class=number>queries with gold, a / b / both</th></tr>"
        f"\n{rows}\n</table></div>\n<h2>Where they differ most</h2>\n{shown}"
    )


def _most_different(overlap: Overlap) -> str:
    head = f"{escape(overlap.task)}: {escape(overlap.a)} against {escape(overlap.b)}"
    rows = "\n".join(
        f"<tr><td>{escape(one.text)}</td><td>{_side(one.a, one.a_hits)}</td><td>{_side(one.b, one.b_hits)}</td></tr>"
        for one in overlap.most_different
    )
    return (
        f"<details><summary>{head}</summary><div class=scroll><table class=dense><tr><th>query</th>"
        f"<th>{escape(overlap.a)}</th><th>{escape(overlap.b)}</th></tr>\n{rows}\n</table></div></details>"
    )


def _side(value: float, hits: Sequence[ShownHit]) -> str:
    items = "".join(f"<li>{'<strong>gold</strong> ' if hit.is_gold else ''}{escape(hit.text)}</li>" for hit in hits)
    return f"{100 * value:.0f}<ol>{items}</ol>"


def _search(comparison: Comparison) -> str:
    search = comparison.search
    if search is None:
        return ""
    hits = "".join(
        f"<li><code>{escape(hit.document.id)}</code> {escape(hit.document.text)} "
        f"<span class=cut>{hit.score:.3f}</span></li>"
        for hit in search.hits
    )
    source = f"{escape(search.system)} over {search.num_documents:,} first paragraphs of the library."
    return (
        f"<h2>One search</h2>\n<div class=card><p class=question>{escape(search.question)}</p>"
        f"<ol class=hits>{hits}</ol><p class=note>{source}</p></div>"
    )


def _tasks(comparison: Comparison) -> str:
    items = []
    for group in comparison.groups:
        tasks = [task for task in comparison.tasks if task.group == group]
        sizes = ", ".join(sorted({f"{task.num_documents} documents and {task.num_queries} queries" for task in tasks}))
        lengths = [f"{task.length:,}" for task in tasks if task.length]
        each = f" at each of {', '.join(lengths)} tokens" if lengths else ""
        items.append(
            f"<dt>{escape(TITLES.get(group, group))}</dt><dd>{escape(ABOUT.get(group, ''))} {sizes}{each}. "
            f"<code>{' '.join(task.hash for task in tasks)}</code></dd>"
        )
    note = "<p class=note>The codes are hashes of all texts and labels.</p>"
    return f"<h2>The tasks</h2>\n<dl>{''.join(items)}</dl>\n{note}"


def _provenance(comparison: Comparison, finished: Sequence[SystemOutcome]) -> str:
    environment = comparison.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.get("versions", {}).items())
    facts = {
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{environment.get('processor')}, {environment.get('num_cores')} cores, {environment.get('system')}",
        "python": str(environment.get("python")),
        "libraries": versions,
        "seed": str(comparison.seed),
        "time": f"{comparison.seconds:.0f} s in all",
    }
    rows = [f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()]
    for system in finished:
        named = [f"{key} {value}" for key, value in system.facts.items()] + [f"loaded in {system.load_s:.1f} s"]
        rows.append(f"<dt>{escape(system.label)}</dt><dd>{escape(', '.join(named))}</dd>")
    return f"<h2>How it was measured</h2>\n<dl>{''.join(rows)}</dl>"
