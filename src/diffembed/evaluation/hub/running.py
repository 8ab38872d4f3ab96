"""Suites of mteb tasks: run through mteb into its own results format, and kept beside ours query by query.

Read `evaluate_hub`. A task whose data cannot be fetched is reported with what is missing, and the others go on. Scores
of retrieval tasks are computed twice, by mteb and by us, and must agree. This module knows no paper.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from diffembed.errors import (
    CheckpointError,
    ConfigError,
    DiffEmbedError,
    InputError,
    MissingExtraError,
    UnknownNameError,
)
from diffembed.evaluation.hub.adapter import BRIGHT_V1, MtebModel, read_bright_exclusions
from diffembed.evaluation.results import has_result, load_result, save_result, slug
from diffembed.evaluation.run import EvaluateConfig
from diffembed.evaluation.scoring import TaskResult, best_hits, score_intervals
from diffembed.evaluation.statistics.measures import PerQuery, altered_documents, evaluate_run, p_mrr
from diffembed.evaluation.statistics.significance import Interval
from diffembed.evaluation.suites.named import Suite
from diffembed.evaluation.systems.recipes import SystemGroup
from diffembed.evaluation.systems.searching import Ranking, System, add_readings
from diffembed.records import Run

MAX_DISAGREEMENT = 2e-5
"""mteb rounds its scores to five digits."""
HUB_MEASURES = {
    "ndcg_at_10": "nDCG@10",
    "ndcg_at_5": "nDCG@5",
    "ndcg_at_1": "Acc@1",
    "map_at_1000": "AP@1000",
    "recall_at_1": "R@1",
}
"""mteb's main score -> our name. On LongEmbed's synthetic tasks, with one document per query, nDCG@1 is accuracy."""
CONNECT_TIMEOUT_S = 5.0
OG, CHANGED = "-og", "-changed"
"""How FollowIR marks the two forms of a query."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubEvaluation:
    """What came of one suite."""

    results: Sequence[TaskResult]
    """One per task, split and subset; only retrieval tasks have per-query values and intervals."""
    missing: Sequence[str]
    """One sentence for every task that could not be run."""


def find_mteb_tasks(suite: Suite) -> list[Any]:
    """mteb's task objects, cut down to the suite's subsets. Raises UnknownNameError for a name mteb does not have."""
    try:
        import mteb
    except ImportError as error:
        raise MissingExtraError.of("mteb", "eval") from error
    tasks = []
    for name in suite.mteb_tasks:
        try:
            task = mteb.get_task(name)
        except KeyError as error:
            known = sorted({other.metadata.name for other in mteb.get_tasks()})
            raise UnknownNameError(
                f"mteb has no task {name!r}; it has {len(known)}, see: mteb available-tasks"
            ) from error
        wanted = [subset for subset in task.hf_subsets if subset in suite.mteb_subsets]
        # Where a task has a validation split too, benchmarks report the test split.
        splits = ["test"] if "test" in task.eval_splits else None
        tasks.append(mteb.get_task(name, hf_subsets=wanted or None, eval_splits=splits))
    return tasks


def evaluate_hub(
    suite: Suite,
    group: SystemGroup,
    *,
    out: Path,
    config: EvaluateConfig,
    tasks: Sequence[Any] | None = None,
    cache_folder: Path | None = None,
    notify: Callable[[str], None] | None = None,
) -> HubEvaluation:
    """Runs the suite's mteb tasks for every label of a group.

    out: results go to `out/<suite>/<system>/<task>/`, mteb's own to `out/mteb`. tasks: mteb task objects in place of
    the suite's names. Raises CheckpointError when `out` holds results of other data or of another model.
    """
    found = list(tasks) if tasks is not None else find_mteb_tasks(suite)
    results: list[TaskResult] = []
    missing: list[str] = []
    system: System | None = None
    folder = out / slug(suite.name)
    is_online = True

    def open_group() -> System:
        return group.open(max_tokens=config.limit(suite), dtype=config.dtype, cache_folder=cache_folder, notify=notify)

    for task in found:
        kept = _kept(folder, group.labels, task)
        if kept is not None:
            if system is None and not group.is_pinned:
                system = open_group()
            _check_kept(kept, task, system, folder)
            results.extend(kept)
            continue
        is_online = is_online and (task.data_loaded or hub_answers())
        with contextlib.nullcontext() if is_online else _offline():
            is_loaded = _load(task, missing)
        if not is_loaded:
            continue
        if system is None:
            system = open_group()
        for label in system.labels:
            try:
                made = run_task(task, system, label=label, out=out, config=config)
            except (ConfigError, InputError) as error:
                missing.append(f"{label} on {task.metadata.name}: {error}")
                continue
            for result in made:
                save_result(folder / slug(label) / slug(result.task), result)
                if notify is not None:
                    notify(f"{label} on {result.task}: {result.main} {100 * result.value:.1f}")
            results.extend(made)
        task.unload_data()
    return HubEvaluation(results=results, missing=missing)


def run_task(task: Any, system: System, *, label: str, out: Path, config: EvaluateConfig) -> list[TaskResult]:
    """One loaded mteb task for one label: mteb's results are written below `out/mteb`, ours are returned."""
    import mteb

    revision = str(task.metadata.dataset.get("revision", ""))
    exclusions = read_bright_exclusions(revision) if task.metadata.name == BRIGHT_V1 else None
    model = MtebModel(system, label=label, prompts=config.prompts, exclusions=exclusions)
    logging.getLogger("mteb").setLevel(logging.WARNING)
    found = mteb.evaluate(
        model,
        task,
        cache=mteb.ResultCache(out / "mteb"),
        # Our folder decides what is done; a score without its run could not be checked.
        overwrite_strategy="always",
        show_progress_bar=False,
    )
    results = []
    for split, rows in found.task_results[0].scores.items():
        for row in rows:
            results.append(_make_result(task, model, split, row, config.seed))
    return results


def _make_result(task: Any, model: MtebModel, split: str, row: Mapping[str, Any], seed: int) -> TaskResult:
    metadata, subset = task.metadata, row["hf_subset"]
    place = (metadata.name, split, subset)
    main = HUB_MEASURES.get(metadata.main_score, metadata.main_score)
    name = result_name(metadata.name, split, subset, len(task.eval_splits))
    published = float(row["main_score"])
    readings = model.readings.get(place, [])
    ranking = model.rankings.get(place)
    values: dict[str, PerQuery] = {}
    hits: dict[str, Run] = {}
    if ranking is not None:
        run = ranking.runs[model.label]
        qrels = _plain_qrels(task.dataset[subset][split]["relevant_docs"], run)
        is_ours = main in HUB_MEASURES.values() or main == "p-MRR"
        values, hits = _per_query(metadata, main if is_ours else "nDCG@10", qrels, run)
        if is_ours:
            _check_agreement(name, main, values[main], published)
    scores = score_intervals(values, {}, seed)
    # A main score that only mteb computes has no values per query, and so no interval.
    scores.setdefault(main, Interval(value=published, low=float("nan"), high=float("nan")))
    return TaskResult(
        task=name,
        label=model.label,
        kind=_kind(metadata.type),
        family=metadata.name if len(task.eval_splits) > 1 else "",
        main=main,
        scores=scores,
        per_query=values,
        hits=hits,
        documents=None if ranking is None else ranking.documents,
        queries=_queries_reading(ranking, readings),
        task_hash=str(metadata.dataset.get("revision", "")),
        identity=model.system.identities.get(model.label, ""),
    )


def _per_query(
    metadata: Any, main: str, qrels: Mapping[str, Mapping[str, int]], run: Run
) -> tuple[dict[str, PerQuery], dict[str, Run]]:
    if main != "p-MRR":
        measures = list(dict.fromkeys([main, "nDCG@10", "R@100"]))
        return evaluate_run(qrels, run, measures), {"test": best_hits(run)}
    og_qrels, changed_qrels = _side(qrels, OG), _side(qrels, CHANGED)
    og_run, changed_run = _side(run, OG), _side(run, CHANGED)
    values: dict[str, PerQuery] = {"p-MRR": p_mrr(og_run, changed_run, altered_documents(og_qrels, changed_qrels))}
    # FollowIR's own score: News21 by nDCG@5, the two others by AP over all candidates.
    measures = ["nDCG@5", "AP@1000"]
    values |= {f"og {measure}": per_query for measure, per_query in evaluate_run(og_qrels, og_run, measures).items()}
    return values, {"og": best_hits(og_run), "changed": best_hits(changed_run)}


def _side(table: Mapping[str, Mapping[str, Any]], mark: str) -> dict[str, dict[str, Any]]:
    return {key.removesuffix(mark): dict(row) for key, row in table.items() if key.endswith(mark)}


def _plain_qrels(relevant: Mapping[str, Mapping[str, int]], run: Run) -> dict[str, dict[str, int]]:
    """Judgements of the queries that were searched: mteb leaves out queries without a relevant document."""
    return {
        str(query): {str(document): int(grade) for document, grade in judged.items()}
        for query, judged in relevant.items()
        if str(query) in run
    }


def _check_agreement(name: str, measure: str, values: PerQuery, published: float) -> None:
    ours = sum(values.values()) / len(values)
    if abs(ours - published) > MAX_DISAGREEMENT:
        raise DiffEmbedError(
            f"{name}: mteb gives {measure} {published:.5f}, the same run gives {ours:.5f} here; please report"
        )


def _queries_reading(ranking: Ranking | None, readings: Sequence[Any]) -> Any:
    if ranking is not None:
        return ranking.queries
    return add_readings(readings) if readings else None


def result_name(task: str, split: str, subset: str, num_splits: int) -> str:
    """Task name, with its subset and split where there are several."""
    parts = [task]
    if subset != "default":
        parts.append(subset)
    if num_splits > 1:
        parts.append(split.removeprefix("test_"))
    return "-".join(parts)


def _kind(mteb_type: str) -> str:
    kinds = {"STS": "similarity", "Classification": "classification", "Clustering": "clustering"}
    return kinds.get(mteb_type, "instruction" if mteb_type.startswith("Instruction") else "retrieval")


def _kept(folder: Path, labels: Sequence[str], task: Any) -> list[TaskResult] | None:
    names = [
        result_name(task.metadata.name, split, subset, len(task.eval_splits))
        for split in task.eval_splits
        for subset in task.hf_subsets
    ]
    places = [folder / slug(label) / slug(name) for label in labels for name in names]
    return [load_result(place) for place in places] if all(map(has_result, places)) else None


def _check_kept(kept: Sequence[TaskResult], task: Any, system: System | None, folder: Path) -> None:
    """Stored results are of these data and, where the names do not say it alone, of these weights."""
    for result in kept:
        what = None
        if result.task_hash != str(task.metadata.dataset.get("revision", "")):
            what = "other data"
        elif system is not None and result.identity != system.identities.get(result.label, ""):
            what = "another model under this name"
        if what is not None:
            raise CheckpointError(
                f"the result of {result.label} on {result.task} that is kept is of {what}; remove {folder}, or name "
                "another folder with --out"
            )


def hub_answers() -> bool:
    """Whether the hub's host takes connections; asked before libraries that would try for half a minute per task."""
    host = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or "huggingface.co"
    try:
        with socket.create_connection((host, 443), timeout=CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Data sets from the local cache only, as HF_HUB_OFFLINE would have it; the variable is read at import."""
    import datasets.config
    import huggingface_hub.constants

    modules: list[Any] = [datasets.config, huggingface_hub.constants]
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _load(task: Any, missing: list[str]) -> bool:
    """Whether the data of a task is there; what is missing otherwise is told in one sentence."""
    if task.data_loaded:
        return True
    try:
        task.load_data()
    except Exception as error:
        # Each loader raises its own kinds (connection, gating, format); none of them may stop the other tasks.
        dataset = task.metadata.dataset
        missing.append(
            f"{task.metadata.name} needs the data set {dataset.get('path')} at {str(dataset.get('revision'))[:12]}, "
            f"which could not be fetched ({type(error).__name__})"
        )
        return False
    return True
