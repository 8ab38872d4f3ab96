"""Stored results of a suite as a `Comparison`: the same table, page and tests as the demonstration has.

Read `compare_results`. Similarity, which is no mean over queries, is tested on its pairs; clusters are not tested.
This module encodes nothing.
"""

import dataclasses
from collections.abc import Sequence
from itertools import combinations

from diffembed.evaluation.reports.comparison import Comparison, Difference, SystemOutcome, make_comparison
from diffembed.evaluation.reports.outcomes import facts_of, outcome_of
from diffembed.evaluation.reports.overlap import Overlap, compare_hits
from diffembed.evaluation.run import Evaluation
from diffembed.evaluation.scoring import TaskResult
from diffembed.evaluation.statistics.measures import spearman
from diffembed.evaluation.statistics.significance import Comparison as PairedTest
from diffembed.evaluation.statistics.significance import compare_statistic, holm
from diffembed.evaluation.suites.named import SUITES
from diffembed.evaluation.tasks import AnyTask, InstructionTask, PairTask, Task
from diffembed.provenance import environment

NUM_SHOWN = 5
"""Queries per task and pair of systems that are shown side by side."""
MAX_SYSTEMS_SHOWN = 3
"""With more systems than this only the first is shown beside each other one."""


def compare_results(
    evaluation: Evaluation,
    suite: str,
    tasks: Sequence[AnyTask],
    *,
    seed: int,
    counted_by: str = "",
    seconds: float = 0.0,
) -> Comparison:
    """Systems of one suite with intervals, paired tests corrected by Holm, and what they found on the same queries.

    tasks: the suite's tasks as they were scored; results of other data are refused.
    counted_by: whose tokens the lengths of generated documents are.
    """
    results = evaluation.results[suite]
    labels = list(dict.fromkeys(result.label for result in results))
    by_label = {label: evaluation.of(suite, label) for label in labels}
    lengths = {task.name: task.length for task in tasks if isinstance(task, Task)}
    systems = [
        SystemOutcome(
            label=label,
            tasks=tuple(outcome_of(result, lengths.get(result.task)) for result in by_label[label].values()),
            facts={"identity": next((r.identity for r in by_label[label].values() if r.identity), "none")},
        )
        for label in labels
    ]
    specs = SUITES[suite].tasks if suite in SUITES else ()
    in_domain = {spec.name for spec in specs if spec.in_domain}
    comparison = make_comparison(
        systems,
        [facts_of(task, is_in_domain=task.name in in_domain) for task in tasks],
        seed=seed,
        environment=environment(),
        draw=f"suite {suite}",
        reason="it was asked for",
        counted_by=counted_by,
        seconds=seconds,
    )
    similarities = [task for task in tasks if isinstance(task, PairTask)]
    extra = [one for task in similarities for one in _similarity_differences(task, by_label, seed)]
    return dataclasses.replace(
        comparison,
        differences=(*comparison.differences, *extra),
        overlaps=tuple(_overlaps(tasks, by_label)),
    )


def _similarity_differences(task: PairTask, by_label: dict[str, dict[str, TaskResult]], seed: int) -> list[Difference]:
    results = {label: found[task.name] for label, found in by_label.items() if task.name in found}
    tests: dict[tuple[str, str], PairedTest] = {}
    for a, b in combinations(results, 2):
        gold = results[a].per_query["gold"]
        cosine_a, cosine_b = ([results[label].per_query["cosine"][key] for key in gold] for label in (a, b))
        tests[a, b] = compare_statistic(spearman, list(gold.values()), cosine_a, cosine_b, seed=seed)
    corrected = holm({f"{a}\0{b}": test.p_value for (a, b), test in tests.items()})
    return [
        Difference(group=task.name, a=a, b=b, test=test, p_holm=corrected[f"{a}\0{b}"])
        for (a, b), test in tests.items()
    ]


def _overlaps(tasks: Sequence[AnyTask], by_label: dict[str, dict[str, TaskResult]]) -> list[Overlap]:
    labels = list(by_label)
    pairs = list(combinations(labels, 2))
    if len(labels) > MAX_SYSTEMS_SHOWN:
        pairs = [pair for pair in pairs if pair[0] == labels[0]]
    found = []
    for task in tasks:
        side = task.changed if isinstance(task, InstructionTask) else task
        if not isinstance(side, Task):
            continue
        for a, b in pairs:
            if task.name in by_label[a] and task.name in by_label[b]:
                results = by_label[a][task.name], by_label[b][task.name]
                name = "test" if isinstance(task, Task) else "changed"
                found.append(compare_hits(side, *results, num_shown=NUM_SHOWN, side=name))
    return found
