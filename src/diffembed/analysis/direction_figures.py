"""The direction table and the attention measurement as figures.

Read `draw_directions` and `draw_attention`. This module computes nothing but layout.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.analysis.attention_mass import BANDS, AttentionMass
from diffembed.analysis.direction import TRAINED, DirectionRow
from diffembed.errors import MissingExtraError
from diffembed.provenance import atomic_file

BAND_COLOURS = ("#0b4f6c", "#2f7f9d", "#8cc1d3", "#8a8a8a", "#f3c48b", "#dd8a3c", "#a3480f")
"""Past in blue, future in orange, darker with distance."""


def draw_directions(rows: Sequence[DirectionRow], path: Path | str) -> None:
    """One panel per task: the score of every way to run the network, with its interval."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    num_ways = max(sum(row.task == task for row in rows) for task in tasks)
    figure = _figure(4.2 * len(tasks) + 1.6, 0.42 * num_ways + 1.2)
    axes = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axis, task in zip(axes, tasks, strict=True):
        of_task = [row for row in rows if row.task == task]
        for place, row in enumerate(of_task):
            colour = "#1c1b19" if row.variant == TRAINED else "#dd8a3c" if row.variant[0] == "a" else "#2f7f9d"
            value, low, high = (100 * part for part in (row.score.value, row.score.low, row.score.high))
            axis.plot([low, high], [place, place], color=colour, alpha=0.4, linewidth=3, solid_capstyle="butt")
            axis.plot(value, place, "o", color=colour, markersize=6)
        axis.axvline(100 * of_task[0].score.value, color="#1c1b19", linewidth=0.8, linestyle=(0, (2, 3)))
        axis.set_yticks(range(len(of_task)), [row.variant for row in of_task])
        axis.set_title(task, loc="left", fontsize=10, fontweight="bold")
        axis.set_xlabel(of_task[0].measure)
        axis.grid(axis="x", color="#e4e1da", linewidth=0.7)
        _clean(axis)
    axes[0].invert_yaxis()
    _save(figure, path)


def draw_attention(masses: Sequence[tuple[str, AttentionMass]], path: Path | str) -> None:
    """Per measurement: the bands of every layer (mean over heads), the future mass of every head, the entropy."""
    figure = _figure(12.5, 3.1 * len(masses) + 0.8)
    axes = figure.subplots(len(masses), 3, squeeze=False, width_ratios=(2.2, 1.2, 1.2))
    for row, (label, mass) in zip(axes, masses, strict=True):
        _draw_bands(row[0], label, mass)
        _draw_heads(figure, row[1], "future mass of each head", mass.future, (0.0, 1.0))
        top = max(1e-9, max(float(other.entropy_LH.max()) for _, other in masses))
        _draw_heads(figure, row[2], "entropy of each head, nats", mass.entropy_LH, (0.0, top))
    _save(figure, path)


def _draw_bands(axis: Any, label: str, mass: AttentionMass) -> None:
    mean_LB = mass.mass_LHB.mean(1)
    layers, bottom = np.arange(len(mean_LB)), np.zeros(len(mean_LB))
    for band, (name, colour) in enumerate(zip(BANDS, BAND_COLOURS, strict=True)):
        axis.bar(layers, 100 * mean_LB[:, band], bottom=bottom, color=colour, width=0.86, label=name)
        bottom = bottom + 100 * mean_LB[:, band]
    axis.set_ylim(0, 100)
    axis.set_ylabel("attention, %")
    axis.set_xlabel("layer (* sees a window only)")
    axis.set_xticks(layers, [f"{n}{'*' if slides else ''}" for n, slides in enumerate(mass.is_sliding_L)], fontsize=7)
    title = f"{label}: {mass.num_texts} texts, {mass.num_tokens:,} tokens"
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axis.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    _clean(axis)


def _draw_heads(figure: Any, axis: Any, title: str, values_LH: Any, limits: tuple[float, float]) -> None:
    image = axis.imshow(values_LH, aspect="auto", cmap="magma", vmin=limits[0], vmax=limits[1])
    axis.set_title(title, loc="left", fontsize=9)
    axis.set_xlabel("head")
    axis.set_ylabel("layer")
    axis.set_xticks(range(values_LH.shape[1]))
    _clean(axis)
    figure.colorbar(image, ax=axis)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError.of("matplotlib", "eval") from error
    return Figure(figsize=(width, height), layout="constrained")


def _clean(axis: Any) -> None:
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _save(figure: Any, path: Path | str) -> None:
    """In the format of the file's suffix (.svg or .png), whole or not at all."""
    import matplotlib

    kind = Path(path).suffix.removeprefix(".")
    # Words stay words, which a reader can search and a program can find.
    with atomic_file(path) as part, matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(part, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else None)
