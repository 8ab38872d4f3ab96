"""One system on one task: every measure, query by query, with intervals, cost and the share of texts that was cut.

Read `score_task`. This module knows nothing of suites, folders or the disk.
"""

# N = texts, D = width of the vectors

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffembed.errors import ConfigError, MissingExtraError
from diffembed.evaluation.statistics.measures import (
    PerQuery,
    altered_documents,
    check_measures,
    evaluate_run,
    p_mrr,
    spearman,
    v_measure,
)
from diffembed.evaluation.statistics.significance import Interval, scores_interval, statistic_interval
from diffembed.evaluation.systems.reading import Reading
from diffembed.evaluation.systems.searching import DenseSystem, System
from diffembed.evaluation.tasks import AnyTask, InstructionTask, LabelTask, PairTask, Task, hash_task
from diffembed.records import Run, Vectors

TOP_K = 1000
"""Documents kept per query; no measure here looks further down a retrieval run."""
KEPT_HITS = 100
"""Documents of a run that a result keeps, for comparisons of two systems."""
NUM_LABEL_DRAWS, EXAMPLES_PER_LABEL = 10, 8
"""mteb's protocol for classification: the mean over ten classifiers, each trained on eight texts per label."""
MAX_LOGISTIC_STEPS = 100
"""mteb's setting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """What one system is worth on one task."""

    task: str
    label: str
    """Name of the system."""
    kind: str
    """retrieval, instruction, similarity, classification or clustering."""
    family: str
    main: str
    """Measure that stands for the task in averages."""
    scores: Mapping[str, Interval]
    """Measure -> value with its interval; a subset's measure is written `nDCG@10 (specific)`."""
    per_query: Mapping[str, PerQuery]
    """Measure -> query id -> value. Similarity tasks hold `gold` and `cosine` of each pair instead."""
    hits: Mapping[str, Run] = field(default_factory=dict)
    """`test`, or `og` and `changed`: the best documents of each query."""
    documents: Reading | None = None
    queries: Reading | None = None
    task_hash: str = ""
    """`tasks.hash_task` of what was scored."""
    identity: str = ""
    """Hash of the model and its settings; empty for a lexical system or an encoder that has none."""

    @property
    def value(self) -> float:
        """The main measure."""
        return self.scores[self.main].value

    @property
    def truncated_fraction(self) -> float | None:
        """Documents (or sentences) that were cut; `None` when the system does not tell."""
        reading = self.documents or self.queries
        return None if reading is None else reading.truncated_fraction


def can_score(system: System, task: AnyTask) -> bool:
    """Sentence pairs and labels need vectors, changing instructions and lists of candidates every document's rank."""
    if not system.ranks_lists:
        return isinstance(task, Task) and task.candidates is None
    return isinstance(task, Task | InstructionTask) or isinstance(system, DenseSystem)


def score_task(system: System, task: AnyTask, *, seed: int = 0) -> dict[str, TaskResult]:
    """Label -> result. Raises ConfigError when the system cannot do such a task (`can_score`)."""
    if isinstance(task, Task):
        return _score_retrieval(system, task, seed)
    if isinstance(task, InstructionTask):
        return _score_instruction(system, task, seed)
    if not isinstance(system, DenseSystem):
        raise ConfigError(f"{', '.join(system.labels)} has no vectors, which task {task.name!r} needs")
    return _score_pairs(system, task, seed) if isinstance(task, PairTask) else _score_labels(system, task, seed)


def _score_retrieval(system: System, task: Task, seed: int) -> dict[str, TaskResult]:
    # A misspelt measure must not be found out after an hour of encoding.
    check_measures(task.measures)
    ranking = system.rank(task, top_k=TOP_K)
    results = {}
    for label, run in ranking.runs.items():
        values = evaluate_run(task.qrels, run, task.measures)
        results[label] = TaskResult(
            task=task.name,
            label=label,
            kind="retrieval",
            family=task.family,
            main=task.measures[0],
            scores=score_intervals(values, task.subsets, seed),
            per_query=values,
            hits={"test": best_hits(run)},
            documents=ranking.documents,
            queries=ranking.queries,
            task_hash=hash_task(task),
            identity=system.identities.get(label, ""),
        )
    return results


def _score_instruction(system: System, task: InstructionTask, seed: int) -> dict[str, TaskResult]:
    # p-MRR reads the rank of single documents, however deep: every candidate is kept.
    depth = len(task.og.corpus)
    slot = task.narrative_slot if system.sends_instructions else "text"
    posed = dataclasses.replace(task, narrative_slot=slot)
    og, changed = (system.rank(posed.posed(side), top_k=depth) for side in (task.og, task.changed))
    altered = altered_documents(task.og.qrels, task.changed.qrels)
    results = {}
    for label, og_run in og.runs.items():
        values: dict[str, PerQuery] = {"p-MRR": p_mrr(og_run, changed.runs[label], altered)}
        for side, run in ((task.og, og_run), (task.changed, changed.runs[label])):
            name = "og" if side is task.og else "changed"
            values |= {f"{name} {m}": v for m, v in evaluate_run(side.qrels, run, side.measures).items()}
        results[label] = TaskResult(
            task=task.name,
            label=label,
            kind="instruction",
            family=task.og.family,
            main="p-MRR",
            scores=score_intervals(values, {}, seed),
            per_query=values,
            hits={"og": best_hits(og_run), "changed": best_hits(changed.runs[label])},
            documents=og.documents,
            queries=og.queries,
            task_hash=hash_task(task),
            identity=system.identities.get(label, ""),
        )
    return results


def _score_pairs(system: DenseSystem, task: PairTask, seed: int) -> dict[str, TaskResult]:
    vectors, reading = system.read_plain([*task.left, *task.right], task.instruction)
    results = {}
    for label, vectors_ND in vectors.items():
        unit_ND = _unit(vectors_ND)
        cosine_N = (unit_ND[: len(task.left)] * unit_ND[len(task.left) :]).sum(1)
        ids = [f"{row:05d}" for row in range(len(task.gold))]
        results[label] = TaskResult(
            task=task.name,
            label=label,
            kind="similarity",
            family="",
            main="Spearman",
            scores={"Spearman": statistic_interval(spearman, task.gold, cosine_N, seed=seed)},
            per_query={
                "gold": dict(zip(ids, map(float, task.gold), strict=True)),
                "cosine": dict(zip(ids, map(float, cosine_N), strict=True)),
            },
            queries=reading,
            task_hash=hash_task(task),
            identity=system.identities.get(label, ""),
        )
    return results


def _score_labels(system: DenseSystem, task: LabelTask, seed: int) -> dict[str, TaskResult]:
    vectors, reading = system.read_plain([*task.texts, *task.train_texts], task.instruction)
    results = {}
    for label, vectors_ND in vectors.items():
        test_ND, train_ND = vectors_ND[: len(task.texts)], vectors_ND[len(task.texts) :]
        ids = [f"{row:05d}" for row in range(len(task.texts))]
        if task.kind == "classification":
            correct = _classify(train_ND, task.train_labels, test_ND, task.labels, seed)
            values = {"Accuracy": dict(zip(ids, correct, strict=True))}
            scores, main = score_intervals(values, {}, seed), "Accuracy"
        else:
            clusters = _cluster(test_ND, len(set(task.labels)), seed)
            names = {name: code for code, name in enumerate(sorted(set(task.labels)))}
            codes = [float(names[name]) for name in task.labels]
            values = {"cluster": dict(zip(ids, map(float, clusters), strict=True))}
            statistic = _on_lists(v_measure)
            scores = {"V-measure": statistic_interval(statistic, codes, clusters, num_resamples=200, seed=seed)}
            main = "V-measure"
        results[label] = TaskResult(
            task=task.name,
            label=label,
            kind=task.kind,
            family="",
            main=main,
            scores=scores,
            per_query=values,
            queries=reading,
            task_hash=hash_task(task),
            identity=system.identities.get(label, ""),
        )
    return results


def _classify(
    train_ND: Vectors, train_labels: Sequence[str], test_ND: Vectors, labels: Sequence[str], seed: int
) -> list[float]:
    """Share of the drawn classifiers that label each test text right."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtraError.of("scikit-learn", "eval") from error
    rng = np.random.default_rng(seed)
    gold, train_gold = np.asarray(labels), np.asarray(train_labels)
    correct_N = np.zeros(len(gold))
    for _ in range(NUM_LABEL_DRAWS):
        rows: list[int] = []
        for name in sorted(set(train_labels)):
            members = np.flatnonzero(train_gold == name)
            rows.extend(rng.permutation(members)[:EXAMPLES_PER_LABEL])
        classifier = LogisticRegression(max_iter=MAX_LOGISTIC_STEPS, random_state=seed)
        classifier.fit(train_ND[rows], train_gold[rows])
        correct_N += classifier.predict(test_ND) == gold
    return [float(value) for value in correct_N / NUM_LABEL_DRAWS]


def _cluster(vectors_ND: Vectors, num_clusters: int, seed: int) -> list[int]:
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise MissingExtraError.of("scikit-learn", "eval") from error
    clusters = KMeans(num_clusters, n_init=3, random_state=seed).fit_predict(_unit(vectors_ND))
    return [int(cluster) for cluster in clusters]


def _on_lists(measure: Callable[[Sequence[str], Sequence[int]], float]) -> Callable[..., float]:
    return lambda gold, found: measure([str(x) for x in gold], [int(x) for x in found])


def score_intervals(
    values: Mapping[str, PerQuery], subsets: Mapping[str, frozenset[str]], seed: int
) -> dict[str, Interval]:
    """Measure -> mean with its interval; a subset's measure is written `nDCG@10 (specific)`."""
    scores = {}
    for measure, per_query in values.items():
        scores[measure] = scores_interval(per_query, seed=seed)
        for name, members in subsets.items():
            part = {query: value for query, value in per_query.items() if query in members}
            scores[f"{measure} ({name})"] = scores_interval(part, seed=seed)
    return scores


def best_hits(run: Run) -> dict[str, dict[str, float]]:
    """The first `KEPT_HITS` documents of every query."""
    # A run is in rank order: `top_hits` wrote it best first.
    return {query: dict(list(hits.items())[:KEPT_HITS]) for query, hits in run.items()}


def _unit(vectors_ND: Vectors) -> Vectors:
    length_N = np.linalg.norm(vectors_ND, axis=1)
    return np.asarray(vectors_ND / np.where(length_N > 0, length_N, 1)[:, None], dtype=np.float32)
