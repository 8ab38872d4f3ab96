"""Accuracy by length as inline SVG whose colours are the page's: it follows its light and dark scheme.

Read `plot_by_length`. Whiskers are Wilson intervals, because a bootstrap of eight equal answers has no width. This
module knows nothing of the page around it.
"""

import io
import re
from typing import Any

from diffembed.errors import MissingExtraError
from diffembed.evaluation.reports.comparison import Comparison, TaskOutcome

NUM_COLOURS = 6
"""Colours `--s0` to `--s5` of the page; further systems start again with other dashes."""
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))
MARKERS = "oDs^vP"
# Matplotlib writes plain hex colours; these stand for CSS variables until the text is final.
INK, MUTED, GRID, PAPER = "#a000f0", "#a000f1", "#a000f2", "#a000f3"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--rule", PAPER: "--paper"} | {
    f"#a00{place:03}": f"--s{place}" for place in range(NUM_COLOURS)
}


def wilson_interval(task: TaskOutcome) -> tuple[float, float]:
    """95 % interval of a share of right answers, in [0, 1]; other measures keep their bootstrap interval."""
    if not task.measure.startswith("Acc@") or not task.values:
        return task.interval.low, task.interval.high
    from scipy.stats import binomtest

    num_right = round(sum(task.values.values()))
    interval = binomtest(num_right, len(task.values)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def plot_by_length(comparison: Comparison) -> str:
    """One panel per family of tasks with lengths, as an `<svg>` element; empty where no task has a length."""
    families = [g for g in comparison.groups if any(task.length for task in comparison.tasks if task.group == g)]
    if not families:
        return ""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError.of("matplotlib", "eval") from error
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "diffembed",
        "font.size": 10,
        "font.family": "sans-serif",
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.6 * len(families) + 0.4, 3.7), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
        for axis, family in zip(axes, families, strict=True):
            _draw_family(axis, comparison, family)
        axes[0].set_ylabel(
            next(task.measure for s in comparison.systems for task in s.tasks if task.group == families[0])
        )
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _with_page_colours(drawing.getvalue())


def _draw_family(axis: Any, comparison: Comparison, family: str) -> None:
    lengths = sorted({task.length for task in comparison.tasks if task.group == family and task.length})
    systems = [system for system in comparison.systems if system.tasks]
    for place, system in enumerate(systems):
        by_length = {task.length: task for task in system.tasks if task.group == family}
        # Systems are set apart sideways so that whiskers of equal scores stay readable.
        shift = (place - (len(systems) - 1) / 2) * 0.5 / max(1, len(systems))
        _draw_system(axis, place, shift, [by_length[length] for length in lengths])
    size = next(task.num_documents for task in comparison.tasks if task.group == family)
    axis.axhline(100 / size, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    if axis.get_subplotspec().is_last_col():
        beside = axis.get_yaxis_transform()
        axis.text(1.01, 100 / size, "chance", color=MUTED, fontsize=8, va="center", transform=beside)
    axis.set_title(family, loc="left", fontsize=11, fontweight="bold")
    axis.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
    axis.set_xlim(-0.5, len(lengths) - 0.5)
    axis.set_ylim(-3, 103)
    axis.set_xlabel("tokens per document")
    axis.grid(axis="y", color=GRID, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _draw_system(axis: Any, place: int, shift: float, tasks: list[TaskOutcome]) -> None:
    colour = f"#a00{place % NUM_COLOURS:03}"
    xs = [position + shift for position in range(len(tasks))]
    ys = [100 * task.interval.value for task in tasks]
    axis.plot(xs, ys, color=colour, linewidth=1.6, linestyle=DASHES[place // NUM_COLOURS % len(DASHES)], zorder=3)
    for x, y, task in zip(xs, ys, tasks, strict=True):
        low, high = wilson_interval(task)
        axis.plot([x, x], [100 * low, 100 * high], color=colour, linewidth=1, alpha=0.45, zorder=2)
        face = PAPER if task.truncated_fraction else colour
        marker = MARKERS[place % len(MARKERS)]
        axis.plot(x, y, marker, color=colour, markerfacecolor=face, markersize=5.5, markeredgewidth=1.4, zorder=4)


def _with_page_colours(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    # The page sets the width; the view box keeps the proportions.
    return re.sub(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*"(?=[^<]*viewBox)', r"\1", svg, count=2)
