"""The rows that people and machines read of an evaluation: scores, intervals, cuts, speed, published values.

Read `make_rows`. This module knows nothing of encoders or the disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from diffembed.errors import InputError
from diffembed.evaluation.hub.longembed import column_average, is_of_column, make_columns, official_average
from diffembed.evaluation.results import find_published
from diffembed.evaluation.run import Evaluation
from diffembed.evaluation.scoring import TaskResult
from diffembed.evaluation.statistics.significance import Interval, scores_interval
from diffembed.evaluation.suites.named import SUITES


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryRow:
    """One system on one task, on a subset of its queries, or on the mean of a family of tasks."""

    suite: str
    system: str
    task: str
    """A family's mean is written `passkey (mean of 5)`."""
    measure: str
    value: float
    """In [-1, 1]; a point of 100 is 0.01."""
    low: float | None
    """End of the 95 % interval; `None` where only mteb's mean is known."""
    high: float | None
    num_queries: int
    """Queries, pairs or texts behind the value; 0 where it is not kept: mteb's own means, and subsets of queries."""
    truncated_fraction: float | None
    """Documents (or sentences) that were cut; `None` where the system does not tell."""
    tokens_per_s: float | None
    """Speed of what was encoded now; `None` where everything was kept from before."""
    in_domain: bool
    """Training rows of the same kind exist."""
    published: float | None = None
    """In points of 100."""
    source: str = ""
    """Where it was published."""

    @property
    def difference(self) -> float | None:
        """Points above the published value."""
        return None if self.published is None else 100 * self.value - self.published


def make_rows(evaluation: Evaluation, *, seed: int = 0) -> list[SummaryRow]:
    """Rows by suite, system and task; families get a row for their mean, subsets one each."""
    rows: list[SummaryRow] = []
    for suite, results in evaluation.results.items():
        marked = {spec.name for spec in SUITES[suite].tasks if spec.in_domain} if suite in SUITES else set()
        for label in dict.fromkeys(result.label for result in results):
            of_label = [result for result in results if result.label == label]
            for result in of_label:
                rows.extend(_task_rows(suite, result, result.task in marked))
            rows.extend(_family_rows(suite, of_label, seed))
            if suite == "longembed":
                rows.extend(_longembed_rows(suite, label, of_label))
    return rows


def _task_rows(suite: str, result: TaskResult, in_domain: bool) -> list[SummaryRow]:
    published = {found.measure: found for _, found, _ in find_published([result])}
    measures = [name for name in result.scores if name == result.main or name.startswith(f"{result.main} (")]
    if result.kind == "instruction":
        measures = [name for name in result.scores if not name.startswith("changed ")]
    reading = result.documents or result.queries
    rows = []
    for measure in measures:
        found = published.get(measure)
        rows.append(
            SummaryRow(
                suite=suite,
                system=result.label,
                task=result.task,
                measure=measure,
                **_ends(result.scores[measure]),
                num_queries=_num_queries(result, measure),
                truncated_fraction=result.truncated_fraction,
                tokens_per_s=None if reading is None else reading.tokens_per_s,
                in_domain=in_domain,
                published=None if found is None else found.value,
                source="" if found is None else found.source,
            )
        )
    return rows


def _num_queries(result: TaskResult, measure: str) -> int:
    """Of a measure; similarity and clustering keep their items under other names."""
    is_part = measure.startswith(f"{result.main} (")
    return 0 if is_part else len(result.per_query.get(measure, next(iter(result.per_query.values()), ())))


def _family_rows(suite: str, results: Sequence[TaskResult], seed: int) -> list[SummaryRow]:
    rows = []
    for family in dict.fromkeys(result.family for result in results if result.family):
        members = [result for result in results if result.family == family and result.main in result.per_query]
        if len(members) < 2:
            continue
        cuts = [member.truncated_fraction for member in members if member.truncated_fraction is not None]
        rows.append(
            SummaryRow(
                suite=suite,
                system=members[0].label,
                task=f"{family} (mean of {len(members)})",
                measure=members[0].main,
                **_ends(scores_interval(*(member.per_query[member.main] for member in members), seed=seed)),
                num_queries=sum(len(member.per_query[member.main]) for member in members),
                truncated_fraction=sum(cuts) / len(cuts) if len(cuts) == len(members) else None,
                tokens_per_s=None,
                in_domain=False,
            )
        )
    return rows


def _longembed_rows(suite: str, label: str, results: Sequence[TaskResult]) -> list[SummaryRow]:
    """The columns by length and both averages; nothing while a task is missing."""
    try:
        columns = make_columns({result.task: result.value for result in results})
    except InputError:
        return []
    averages = {
        "mean of 8 columns (arXiv 2505.15045)": column_average(columns),
        "mean of 6 tasks (LongEmbed)": official_average(columns),
    }
    by_length = {name: value for name, value in columns.items() if "4k" in name}
    return [
        SummaryRow(
            suite=suite,
            system=label,
            task=name,
            measure="Acc@1" if name in by_length else "mean",
            value=value,
            low=None,
            high=None,
            num_queries=sum(_num_queries(result, result.main) for result in results if is_of_column(result.task, name)),
            truncated_fraction=None,
            tokens_per_s=None,
            in_domain=False,
        )
        for name, value in (by_length | averages).items()
    ]


def _ends(score: Interval) -> dict[str, Any]:
    is_known = not isnan(score.low)
    return {
        "value": score.value,
        "low": score.low if is_known else None,
        "high": score.high if is_known else None,
    }
