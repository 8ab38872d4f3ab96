"""The records of a comparison, and the step from what systems did to scores, intervals and tests.

Read `make_comparison`. Tasks of one family (passkey at six lengths) become one score with one interval; every pair of
systems is tested on every score, with Holm's correction within the score. This module runs nothing and prints nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

from diffembed.errors import DiffEmbedError
from diffembed.evaluation.reports.overlap import Overlap
from diffembed.evaluation.statistics.significance import Comparison as PairedTest
from diffembed.evaluation.statistics.significance import Interval, compare_tasks, holm, scores_interval
from diffembed.records import Hit


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskOutcome:
    """One system on one task, by the task's main measure."""

    task: str
    group: str
    """Family of the task, or its own name."""
    length: int | None
    """Tokens per document, where all have the same number."""
    measure: str
    interval: Interval
    values: Mapping[str, float]
    """Query id -> value; empty where the measure is no mean over queries."""
    truncated_fraction: float | None
    """Documents whose end was not read; `None` where the system does not tell."""
    num_tokens: int
    """Tokens that were read; words for a system without a tokenizer."""
    seconds: float
    """Wall time of reading them; systems that share a forward pass share it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemOutcome:
    """One system on all tasks, or the sentence that says why there is nothing."""

    label: str
    tasks: tuple[TaskOutcome, ...] = ()
    error: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    load_s: float = 0.0
    peak_bytes: int | None = None
    """Most memory of the process that ran it, library and weights included."""
    shares_pass_with: tuple[str, ...] = ()
    """Systems whose vectors came out of the same forward pass."""

    @property
    def tokens_per_s(self) -> float | None:
        """Over all tasks; `None` where nothing was read, or nobody counted."""
        seconds = sum(task.seconds for task in self.tasks)
        num_tokens = sum(task.num_tokens for task in self.tasks)
        return num_tokens / seconds if seconds > 0 and num_tokens else None


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupScore:
    """One cell of the table."""

    group: str
    measure: str
    interval: Interval
    """Bootstrap over queries, redrawn inside each task of the family."""
    num_queries: int
    truncated_fraction: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """System a minus system b on one group, tested on the queries both answered."""

    group: str
    a: str
    b: str
    test: PairedTest
    p_holm: float
    """p-value corrected for all pairs of systems in this group."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFacts:
    """What a reader of the report must know of a task; no texts."""

    name: str
    group: str
    num_documents: int
    num_queries: int
    """Queries, or pairs, or texts with labels."""
    length: int | None
    hash: str
    is_in_domain: bool = False
    """Training rows of the same kind exist; marked in every table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """The search that ends the demonstration."""

    system: str
    question: str
    hits: tuple[Hit, ...]
    num_documents: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Everything that the table, the page and `--json` show."""

    systems: tuple[SystemOutcome, ...]
    """In the order they were asked for."""
    tasks: tuple[TaskFacts, ...]
    scores: Mapping[str, Mapping[str, GroupScore]]
    """Label -> group -> score; failed systems are absent."""
    differences: tuple[Difference, ...]
    seed: int
    environment: Mapping[str, Any]
    seconds: float = 0.0
    """Wall time of everything."""
    draw: str = ""
    """Which draw was taken, in words; empty for tasks that were given."""
    reason: str = ""
    """Why that draw was taken."""
    counted_by: str = ""
    """Whose tokens the lengths are."""
    search: Search | None = None
    overlaps: tuple[Overlap, ...] = ()
    """Pairs of systems on tasks whose hits were kept."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Columns of the table, in the order of the tasks."""
        return tuple(dict.fromkeys(task.group for task in self.tasks))

    @property
    def in_domain(self) -> frozenset[str]:
        """Groups with training rows of the same kind."""
        return frozenset(task.group for task in self.tasks if task.is_in_domain)

    @property
    def failed(self) -> tuple[SystemOutcome, ...]:
        """Systems that have an error instead of scores."""
        return tuple(system for system in self.systems if system.error is not None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; per-query values are left out."""
        systems = []
        for system in self.systems:
            scores = self.scores.get(system.label, {})
            systems.append(
                {
                    "system": system.label,
                    "error": system.error,
                    "scores": {group: _plain_score(score) for group, score in scores.items()},
                    "tasks": {task.task: _plain_task(task) for task in system.tasks},
                    "tokens_per_s": system.tokens_per_s,
                    "num_tokens": sum(task.num_tokens for task in system.tasks),
                    "peak_bytes": system.peak_bytes,
                    "load_s": system.load_s,
                    "shares_pass_with": list(system.shares_pass_with),
                    **system.facts,
                }
            )
        differences = [
            {"group": d.group, "a": d.a, "b": d.b, **_plain_interval(d.test.difference), "p_holm": d.p_holm}
            for d in self.differences
        ]
        search = None
        if self.search is not None:
            search = {
                "system": self.search.system,
                "question": self.search.question,
                "hits": [{"id": h.document.id, "text": h.document.text, "score": h.score} for h in self.search.hits],
            }
        return {
            "draw": self.draw,
            "reason": self.reason,
            "counted_by": self.counted_by,
            "seed": self.seed,
            "seconds": self.seconds,
            "systems": systems,
            "tasks": [asdict(task) for task in self.tasks],
            "differences": differences,
            "search": search,
            "overlaps": [asdict(overlap) for overlap in self.overlaps],
            "environment": dict(self.environment),
        }


def make_comparison(
    systems: Sequence[SystemOutcome],
    tasks: Sequence[TaskFacts],
    *,
    seed: int,
    environment: Mapping[str, Any],
    **notes: Any,
) -> Comparison:
    """Scores every system that finished. Raises DiffEmbedError when none did: its message holds their sentences."""
    finished = [system for system in systems if system.error is None]
    if not finished:
        raise DiffEmbedError("; ".join(f"{system.label}: {system.error}" for system in systems))
    scored = {task.group for system in finished for task in system.tasks}
    return Comparison(
        systems=tuple(systems),
        # A task that no system can do, sentence pairs for BM25 alone, is no column.
        tasks=tuple(task for task in tasks if task.group in scored),
        scores={system.label: _group_scores(system, seed) for system in finished},
        differences=tuple(_differences(finished, seed)),
        seed=seed,
        environment=environment,
        **notes,
    )


def _by_group(system: SystemOutcome) -> dict[str, list[TaskOutcome]]:
    groups: dict[str, list[TaskOutcome]] = {}
    for task in system.tasks:
        groups.setdefault(task.group, []).append(task)
    return groups


def _group_scores(system: SystemOutcome, seed: int) -> dict[str, GroupScore]:
    scores = {}
    for group, tasks in _by_group(system).items():
        if len(tasks) == 1:
            interval = tasks[0].interval
        else:
            interval = scores_interval(*(task.values for task in tasks), seed=seed)
        cuts = [task.truncated_fraction for task in tasks]
        known = [cut for cut in cuts if cut is not None]
        scores[group] = GroupScore(
            group=group,
            measure=tasks[0].measure,
            interval=interval,
            num_queries=sum(len(task.values) for task in tasks),
            truncated_fraction=sum(known) / len(known) if len(known) == len(cuts) else None,
        )
    return scores


def _differences(systems: Sequence[SystemOutcome], seed: int) -> list[Difference]:
    """Every pair on every group whose measure is a mean over queries."""
    grouped = {system.label: _by_group(system) for system in systems}
    differences = []
    for group in dict.fromkeys(group for groups in grouped.values() for group in groups):
        values = {
            label: [task.values for task in groups[group]] for label, groups in grouped.items() if group in groups
        }
        if not all(value for tasks in values.values() for value in tasks):
            continue
        tests = {(a, b): compare_tasks(values[a], values[b], seed=seed) for a, b in combinations(values, 2)}
        corrected = holm({f"{a}\0{b}": test.p_value for (a, b), test in tests.items()})
        differences += [
            Difference(group=group, a=a, b=b, test=test, p_holm=corrected[f"{a}\0{b}"])
            for (a, b), test in tests.items()
        ]
    return differences


def _plain_interval(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _plain_score(score: GroupScore) -> dict[str, Any]:
    return {
        "measure": score.measure,
        **_plain_interval(score.interval),
        "num_queries": score.num_queries,
        "truncated_fraction": score.truncated_fraction,
    }


def _plain_task(task: TaskOutcome) -> dict[str, Any]:
    return {
        "measure": task.measure,
        **_plain_interval(task.interval),
        "truncated_fraction": task.truncated_fraction,
        "num_tokens": task.num_tokens,
        "seconds": task.seconds,
    }
