"""From stored results to comparisons: the primary family with its tests, everything else, and what is missing.

Read `find`. Only per-query values on disk are read; nothing is encoded or trained, and every draw is seeded.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffembed.data.source_config import BURIED
from diffembed.errors import ConfigError
from diffembed.evaluation.scoring import TaskResult
from diffembed.evaluation.statistics.measures import ranks, spearman
from diffembed.evaluation.statistics.significance import (
    Comparison,
    Interval,
    compare_tasks,
    holm,
    scores_interval,
)
from diffembed.evaluation.suites.named import SUITES
from diffembed.study.graph import Graph, Node, make_graph
from diffembed.study.plan import StudyPlan
from diffembed.study.run import chosen_rates
from diffembed.study.store import Store

MARK = " \\*"
"""Behind the names of in-domain tasks, and of skills that hold one."""
FEW_SEEDS = 5
"""Fewer, redrawn, cannot reach beyond their own extremes: an interval over them is narrower than it says."""
NUM_REDRAWS = 1_000
"""Of a rank correlation, which is computed anew for each; means over queries take significance.NUM_RESAMPLES."""
Floats = NDArray[np.float64]
Seeds = Sequence[Mapping[str, TaskResult]]
"""Task -> result, one mapping per fine-tuning seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SkillTest:
    """One arm minus another on one skill."""

    skill: str
    """Of the plan; `skill: kind` for some of its tasks."""
    tasks: tuple[str, ...]
    """What was measured."""
    a: str
    b: str
    comparison: Comparison
    p_holm: float | None
    """Corrected over the whole primary family; None for an exploratory test."""
    num_seeds: tuple[int, int]
    """Seeds of a and of b that have results."""

    @property
    def caution(self) -> str:
        """What the interval does not know of another run of the same training; empty with FEW_SEEDS or more."""
        fewest = min(self.num_seeds)
        if fewest == 1:
            return "one seed, so another run of the same training may differ by more"
        if fewest < FEW_SEEDS:
            return f"{fewest} seeds, too few for an interval to be wide enough"
        return ""

    @property
    def is_single(self) -> bool:
        """True where a side has one seed."""
        return min(self.num_seeds) == 1


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything a report says, before words."""

    plan: StudyPlan
    graph: Graph
    records: Mapping[str, Mapping[str, Any]]
    """Node -> record of every current result."""
    missing: tuple[str, ...]
    """Nodes without a result that fits the plan."""
    systems: Mapping[str, Seeds]
    """Arm, baseline or adapted-only model -> results."""
    scores: Mapping[str, Mapping[str, Interval]]
    """System -> skill -> mean of the skill's tasks."""
    primary: tuple[SkillTest, ...]
    untested: tuple[tuple[str, str], ...]
    """(skill, control) of the family without results on the same tasks; they count as p = 1 in the correction."""
    exploratory: tuple[SkillTest, ...]
    by_kind: tuple[SkillTest, ...]
    """The same pairs of arms on each kind of task of a skill that mixes several."""
    directions: Mapping[str, Sequence[Mapping[str, Any]]]
    """Arm -> rows of its direction table."""


def find(plan: StudyPlan, store: Store) -> Findings:
    """Reads all current results of a study and compares them."""
    graph = make_graph(plan, chosen_rates(plan, store))
    current = {name: record for name in graph if store.is_current(graph, name) and (record := store.record(name))}
    systems = _systems(graph, current, store)
    skills, level = plan.primary.skills, plan.primary.level
    scores = {
        name: {
            skill: score_skill(seeds, tasks, level=level, seed=plan.seed)
            for skill, tasks in skills.items()
            if _has(seeds, tasks) and _is_same(seeds, tasks)
        }
        for name, seeds in systems.items()
    }

    def compare(tasks: Sequence[str], a: str, b: str) -> Comparison | None:
        sides = [systems.get(name, ()) for name in (a, b)]
        if not (all(_has(side, tasks) for side in sides) and _is_same([*sides[0], *sides[1]], tasks)):
            return None
        # The same seeds mean the same order of rows: a lucky order is then lucky for both.
        is_paired = [n.seed for n in _nodes(graph, a, current)] == [n.seed for n in _nodes(graph, b, current)]
        return compare_skill(systems[a], systems[b], tasks, pair_seeds=is_paired, level=level, seed=plan.seed)

    def test(name: str, tasks: Sequence[str], a: str, b: str, found: Comparison, p_holm: float | None) -> SkillTest:
        counts = (len(systems[a]), len(systems[b]))
        return SkillTest(skill=name, tasks=tuple(tasks), a=a, b=b, comparison=found, p_holm=p_holm, num_seeds=counts)

    def explore(asked: Mapping[str, Sequence[str]], pairs: Iterable[tuple[str, str]]) -> tuple[SkillTest, ...]:
        return tuple(
            test(name, tasks, a, b, found, None)
            for a, b in pairs
            for name, tasks in asked.items()
            if (found := compare(tasks, a, b)) is not None
        )

    subject = plan.primary.subject
    planned = [(subject, control) for control in plan.primary.controls]
    family = {(skill, b): compare(tasks, a, b) for skill, tasks in skills.items() for a, b in planned}
    p_values = {"\0".join(key): 1.0 if found is None else found.p_value for key, found in family.items()}
    corrected = holm(p_values)
    pairs = _other_pairs(plan)
    kinds = {
        f"{skill}: {kind}": some
        for skill, tasks in skills.items()
        for kind, some in _kinds(tasks).items()
        if some != list(tasks)
    }
    return Findings(
        plan=plan,
        graph=graph,
        records=current,
        missing=tuple(name for name in graph if name not in current),
        systems=systems,
        scores=scores,
        primary=tuple(
            test(skill, skills[skill], subject, control, found, corrected[f"{skill}\0{control}"])
            for (skill, control), found in family.items()
            if found is not None
        ),
        untested=tuple(key for key, found in family.items() if found is None),
        exploratory=explore(skills, [*pairs, *((subject, name) for name in plan.evaluation.baselines)]),
        by_kind=tuple(sorted(explore(kinds, [*planned, *pairs]), key=lambda one: list(kinds).index(one.skill))),
        directions={
            node.arm: store.directions_of(name)
            for name, node in graph.items()
            if node.kind == "direction" and name in current
        },
    )


def _other_pairs(plan: StudyPlan) -> list[tuple[str, str]]:
    """Pairs of arms outside the primary family: arms and their controls, what attention alone changes (before each
    objective and without one), and the subject against every other arm."""
    subject, controls = plan.primary.subject, plan.primary.controls
    pairs = [(name, arm.control) for name, arm in plan.arms.items() if arm.control not in (None, subject)]
    pairs += [
        (a, b)
        for a, b in permutations(plan.arms, 2)
        if plan.differences(a, b) == ["attention"] and plan.arms[a].attention == "bidirectional"
    ]
    found = [(a, b) for a, b in dict.fromkeys(pairs) if a != subject and b is not None]
    return [*found, *((subject, name) for name in plan.arms if name not in (subject, *controls))]


def _kinds(tasks: Sequence[str]) -> dict[str, list[str]]:
    """Tasks of which only the length of the documents differs, together: needle -> needle-256, needle-512."""
    kinds: dict[str, list[str]] = {}
    for task in tasks:
        kinds.setdefault(re.sub(r"-\d+$", "", task), []).append(task)
    return kinds


def score_skill(seeds: Seeds, tasks: Sequence[str], *, level: float, seed: int) -> Interval:
    """The mean over tasks and seeds with its interval. Raises ConfigError for tasks that have no common mean."""
    if _is_correlation(seeds, tasks):
        gold, cosines = _pairs(seeds, tasks[0])
        drawn = _redrawn(gold, cosines, None, seed)
        value = float(np.mean([spearman(gold, row) for row in cosines]))
        return _interval(value, drawn - drawn.mean() + value, level)
    values = [[one[task].per_query[one[task].main] for one in seeds] for task in tasks]
    return scores_interval(*values, level=level, seed=seed)


def compare_skill(a: Seeds, b: Seeds, tasks: Sequence[str], *, pair_seeds: bool, level: float, seed: int) -> Comparison:
    """a minus b on a skill, over seeds and queries. Raises ConfigError for tasks that have no common mean."""
    if _is_correlation(a, tasks):
        return _compare_correlations(a, b, tasks[0], pair_seeds=pair_seeds, level=level, seed=seed)
    sides = [[[one[task].per_query[one[task].main] for one in side] for task in tasks] for side in (a, b)]
    return compare_tasks(sides[0], sides[1], pair_seeds=pair_seeds, level=level, seed=seed)


def first_seed_score(findings: Findings, node: str, skill: str) -> Interval | None:
    """A skill's score of the first evaluate node of a system; None where that node has no result."""
    arm, family = findings.graph[node].arm, findings.plan.primary
    if _nodes(findings.graph, arm, findings.records)[:1] != [findings.graph[node]]:
        return None
    seeds = findings.systems[arm][:1]
    if not _has(seeds, family.skills[skill]):
        return None
    return score_skill(seeds, family.skills[skill], level=family.level, seed=findings.plan.seed)


def seed_scores(findings: Findings) -> Iterable[tuple[str, int, dict[str, Interval]]]:
    """(system, seed, skill -> score) of each seed of the systems that have several."""
    family, current = findings.plan.primary, findings.records
    for name, seeds in findings.systems.items():
        nodes = _nodes(findings.graph, name, current)
        if len(seeds) > 1:
            for node, one in zip(nodes, seeds, strict=True):
                scores = {
                    skill: score_skill([one], tasks, level=family.level, seed=findings.plan.seed)
                    for skill, tasks in family.skills.items()
                    if _has([one], tasks)
                }
                yield name, node.seed or 0, scores


def is_in_domain(task: str, row_sets: Iterable[str]) -> bool:
    """Whether rows of the same kind are among those that were trained on: hidden statements count as one kind."""
    trained = set(row_sets)
    hides = any(name.endswith(BURIED) for name in trained)
    return any(
        spec.name == task and (not trained.isdisjoint(spec.kin) or (hides and spec.is_hidden))
        for suite in SUITES.values()
        for spec in suite.tasks
    )


def marked(task: str, row_sets: Iterable[str]) -> str:
    """A task as tables name it, beside models that were trained on these sets."""
    return task + (MARK if is_in_domain(task, row_sets) else "")


def _systems(graph: Graph, current: Mapping[str, Any], store: Store) -> dict[str, Seeds]:
    arms = dict.fromkeys(node.arm for node in graph.values() if node.kind == "evaluate" and node.arm)
    found = {arm: [store.results_of(node.name) for node in _nodes(graph, arm, current)] for arm in arms}
    return {arm: seeds for arm, seeds in found.items() if seeds}


def _nodes(graph: Graph, arm: str, current: Mapping[str, Any]) -> list[Node]:
    nodes = (n for n in graph.values() if n.kind == "evaluate" and not n.is_further)
    return [node for node in nodes if node.arm == arm and node.name in current]


def _has(seeds: Seeds, tasks: Sequence[str]) -> bool:
    return bool(seeds) and all(task in one for one in seeds for task in tasks)


def _is_same(sides: Seeds, tasks: Sequence[str]) -> bool:
    """Whether all were scored on the very same tasks: a data set may change between two runs."""
    return all(len({one[task].task_hash for one in sides}) == 1 for task in tasks)


def _is_correlation(seeds: Seeds, tasks: Sequence[str]) -> bool:
    """Whether the skill is one similarity task, whose measure is no mean over queries."""
    odd = [task for task in tasks if seeds[0][task].kind in ("similarity", "clustering")]
    if odd and (len(tasks) > 1 or seeds[0][odd[0]].kind == "clustering"):
        raise ConfigError(
            f"{odd[0]} has no value for each query to average with other tasks; a skill may be one task of sentence "
            "pairs, or tasks of queries and labels"
        )
    return bool(odd)


def task_value(result: TaskResult) -> float:
    """The main measure, from the stored value of each query wherever it is made of those."""
    if result.kind == "similarity":
        gold = result.per_query["gold"]
        cosines = [result.per_query["cosine"][key] for key in gold]
        return spearman(np.asarray(list(gold.values()), np.float64), np.asarray(cosines, np.float64))
    values = result.per_query.get(result.main)
    return result.value if values is None or result.kind == "clustering" else float(np.mean(list(values.values())))


def _pairs(seeds: Seeds, task: str) -> tuple[Floats, Floats]:
    """(gold [Q], cosines [S, Q]) of a similarity task."""
    gold = seeds[0][task].per_query["gold"]
    cosines = [[one[task].per_query["cosine"][key] for key in gold] for one in seeds]
    return np.asarray(list(gold.values()), np.float64), np.asarray(cosines, np.float64)


def _compare_correlations(a: Seeds, b: Seeds, task: str, *, pair_seeds: bool, level: float, seed: int) -> Comparison:
    """The mean correlation of a's seeds minus that of b's: its interval over pairs and seeds, and its test.

    The test swaps the two systems' ranks of an item, the same items in every pair of a seed of a and a seed of b. (A
    test of mean ranks would take three seeds for a better system than one: averaging removes their noise.)
    """
    gold, a_SQ = _pairs(a, task)
    _, b_SQ = _pairs(b, task)
    a_SQ, b_SQ = (np.stack([ranks(row) for row in side]) for side in (a_SQ, b_SQ))
    meetings = [(i, j) for i in range(len(a_SQ)) for j in range(len(b_SQ)) if i == j or not pair_seeds]

    def difference(swap_Q: NDArray[np.bool_]) -> float:
        found = [
            spearman(gold, np.where(swap_Q, b_SQ[j], a_SQ[i])) - spearman(gold, np.where(swap_Q, a_SQ[i], b_SQ[j]))
            for i, j in meetings
        ]
        return float(np.mean(found))

    value = difference(np.zeros(len(gold), np.bool_))
    rng = np.random.default_rng(seed)
    swapped = [difference(rng.integers(0, 2, len(gold)).astype(np.bool_)) for _ in range(NUM_REDRAWS)]
    num_extreme = sum(abs(other) >= abs(value) - 1e-12 for other in swapped)
    errors_Q = [np.abs(side.mean(0) - ranks(gold)) for side in (a_SQ, b_SQ)]
    return Comparison(
        difference=_interval(value, _redrawn(gold, a_SQ, b_SQ, seed, pair_seeds=pair_seeds), level),
        p_value=(num_extreme + 1) / (NUM_REDRAWS + 1),
        num_queries=len(gold),
        num_better=int((errors_Q[0] < errors_Q[1]).sum()),
        num_worse=int((errors_Q[0] > errors_Q[1]).sum()),
    )


def _redrawn(gold: Floats, a_SQ: Floats, b_SQ: Floats | None, seed: int, *, pair_seeds: bool = False) -> Floats:
    """Mean correlation of a (minus b) over redrawn pairs and redrawn seeds; paired seeds are redrawn together."""
    rng = np.random.default_rng(seed)
    drawn: list[float] = []
    while len(drawn) < NUM_REDRAWS:
        places = rng.integers(0, len(gold), len(gold))
        if np.ptp(gold[places]) == 0:
            continue
        total, chosen = 0.0, rng.integers(0, len(a_SQ), len(a_SQ))
        for sign, side in ((1, a_SQ), (-1, b_SQ)):
            if side is None:
                continue
            if side is b_SQ and not pair_seeds:
                chosen = rng.integers(0, len(side), len(side))
            by_seed = {int(one): spearman(gold[places], side[one][places]) for one in set(chosen.tolist())}
            total += sign * float(np.mean([by_seed[int(one)] for one in chosen]))
        drawn.append(total)
    return np.asarray(drawn)


def _interval(value: float, drawn: Floats, level: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high), level=level)
