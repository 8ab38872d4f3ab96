"""What fewer bytes per vector cost: one model, one suite, every width and precision.

Read `measure_precision`. Texts are encoded once; every row of the table searches with other codes of the same vectors.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from statistics import fmean

from diffembed.errors import ConfigError
from diffembed.evaluation.scoring import TaskResult, score_task
from diffembed.evaluation.statistics.significance import Interval, scores_interval
from diffembed.evaluation.suites.named import find_suite
from diffembed.evaluation.suites.reading import read_tasks
from diffembed.evaluation.systems.recipes import group_names
from diffembed.evaluation.systems.searching import PRECISIONS, RESCORED, DenseSystem, Precision
from diffembed.evaluation.systems.vector_cache import vectors_folder
from diffembed.evaluation.tasks import Task
from diffembed.provenance import atomic_file

SMALLEST_CUT = 64
"""Widths are halved down to here where none are named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionRow:
    """One way of storing documents."""

    dims: int
    precision: Precision
    num_bytes: int
    """Per vector; of `binary+int8` the bits that are searched and the bytes that rank."""
    score: Interval
    """Mean of the tasks' main measures, with equal weight."""
    kept: float
    """Of the score of the whole float32 vectors; NaN where those found nothing."""
    by_task: Mapping[str, float]

    @property
    def kept_text(self) -> str:
        """As tables show it."""
        return "-" if isnan(self.kept) else f"{100 * self.kept:.1f} %"


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionTable:
    """What `measure_precision` found."""

    model: str
    suite: str
    measure: str
    """The main measure of the tasks, or all of them joined."""
    num_queries: int
    rows: Sequence[PrecisionRow]
    left_out: Sequence[str] = field(default_factory=tuple)
    """Tasks of the suite that are no retrieval."""


def num_bytes(dims: int, precision: Precision) -> int:
    """Bytes of one stored vector."""
    sizes = {"float32": 4 * dims, "int8": dims, "binary": -(-dims // 8), "binary+int8": -(-dims // 8) + dims}
    return sizes[precision]


def halved(dim: int) -> list[int]:
    """The whole width and its halves down to 64."""
    widths = [dim]
    while widths[-1] % 2 == 0 and widths[-1] // 2 >= SMALLEST_CUT:
        widths.append(widths[-1] // 2)
    return widths


def measure_precision(
    model: str,
    suite: str,
    *,
    dims: Sequence[int] = (),
    data: Path | str | None = None,
    tasks: Sequence[str] = (),
    dtype: str = "auto",
    seed: int = 0,
    notify: Callable[[str], None] | None = None,
) -> PrecisionTable:
    """Scores a model on the retrieval tasks of a suite with every width and precision.

    suite: a name or a folder of tasks. dims: widths (Matryoshka); none takes the whole and its halves. tasks: only
    these. Raises ConfigError for a suite without retrieval tasks or a system without vectors of its own.
    """
    chosen = find_suite(suite)
    if chosen.mteb_tasks:
        raise ConfigError(f"suite {suite!r} is run through mteb; precision is measured on offline suites and folders")
    read = list(read_tasks(chosen, data=data, names=tasks, seed=seed))
    searched = [task for task in read if isinstance(task, Task)]
    if not searched:
        raise ConfigError(f"suite {suite!r} has no retrieval task; precision is measured by what is found")
    (group,) = group_names([model])
    system = group.open(max_tokens=chosen.max_tokens, dtype=dtype, cache_folder=vectors_folder(), notify=notify)
    if not isinstance(system, DenseSystem) or system.precision != "float32" or len(system.labels) != 1:
        raise ConfigError(f"{model} is no single dense system; name a model, a checkpoint folder or a hub id")
    base = fmean(result.value for result in _score(system, searched, seed))
    widths = sorted(set(dims or halved(system.reader.dim)), reverse=True)
    rows = []
    for width, precision in itertools.product(widths, PRECISIONS):
        codes = DenseSystem(
            system.reader,
            precision=precision,
            dims=width,
            chunks=system.chunks,
            sends_instructions=system.sends_instructions,
        )
        by_task = _score(codes, searched, seed)
        score = scores_interval(*(result.per_query[result.main] for result in by_task), seed=seed)
        rows.append(
            PrecisionRow(
                dims=width,
                precision=precision,
                num_bytes=num_bytes(width, precision),
                score=score,
                kept=score.value / base if base else float("nan"),
                by_task={result.task: result.value for result in by_task},
            )
        )
    return PrecisionTable(
        model=model,
        suite=chosen.name,
        measure=" / ".join(dict.fromkeys(task.measures[0] for task in searched)),
        num_queries=sum(len(task.qrels) for task in searched),
        rows=rows,
        left_out=[task.name for task in read if not isinstance(task, Task)],
    )


def _score(system: DenseSystem, tasks: Sequence[Task], seed: int) -> list[TaskResult]:
    return [score_task(system, task, seed=seed)[system.labels[0]] for task in tasks]


def write_markdown(table: PrecisionTable, path: Path | str, *, command: str) -> None:
    """Writes the table as a page, whole or not at all."""
    with atomic_file(path) as part:
        part.write_text(render_markdown(table, command=command), encoding="utf-8")


def render_markdown(table: PrecisionTable, *, command: str) -> str:
    """A heading, the command that makes the table again, the table."""
    lines = [
        f"## {table.model} on {table.suite}",
        "",
        f"`{command}`",
        "",
        f"{table.measure} of {table.num_queries:,} queries, points of 100, tasks with equal weight; 95 % bootstrap "
        "intervals over queries. "
        f"`binary+int8` finds {RESCORED} documents by their bits and ranks them by their bytes.",
        "",
        "| dims | stored as | bytes | score | 95 % interval | kept |",
        "|---:|---|---:|---:|---|---:|",
    ]
    lines += [
        f"| {row.dims} | {row.precision} | {row.num_bytes:,} | {100 * row.score.value:.1f} | "
        f"{100 * row.score.low:.1f} to {100 * row.score.high:.1f} | {row.kept_text} |"
        for row in table.rows
    ]
    if table.left_out:
        lines += ["", f"Left out, because nothing is searched in them: {', '.join(table.left_out)}."]
    return "\n".join(lines) + "\n"
