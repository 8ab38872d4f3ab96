"""Any models on any suites, offline or through mteb, with tables and pages: what the command line calls.

Read `run_suites`. This module computes no score itself.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffembed.errors import ConfigError, EmptyInputError, InputError
from diffembed.evaluation.hub.running import evaluate_hub
from diffembed.evaluation.reports.comparison import Comparison
from diffembed.evaluation.reports.page import write_report
from diffembed.evaluation.reports.summary import SummaryRow, make_rows
from diffembed.evaluation.run import EvaluateConfig, Evaluation, evaluate
from diffembed.evaluation.scoring import TaskResult
from diffembed.evaluation.suite_comparison import compare_results
from diffembed.evaluation.suites.named import Suite, find_suite, find_suites, share_tasks
from diffembed.evaluation.suites.reading import read_tasks
from diffembed.evaluation.systems.recipes import group_names
from diffembed.evaluation.systems.vector_cache import vectors_folder
from diffembed.provenance import RunFolder, hash_config, user_cache, write_json
from diffembed.records import Encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteRuns:
    """What a run of some suites gave."""

    rows: Sequence[SummaryRow]
    comparisons: Sequence[Comparison]
    """One per offline suite."""
    notes: Sequence[str]
    """One sentence for everything that has no score: no vectors, or data that could not be fetched."""


def run_suites(
    models: Sequence[str | Encoder],
    suites: Sequence[str],
    *,
    out: Path | str | None = None,
    data: Path | str | None = None,
    tasks: Sequence[str] = (),
    config: EvaluateConfig | None = None,
    notify: Callable[[str], None] | None = None,
) -> SuiteRuns:
    """Scores models on suites; with `out`, writes `results.json` and `<suite>.html` there.

    Arguments as `run.evaluate`. Suites of mteb take model names only; without `out` their results go to the user's
    cache. Raises InputError when no task of any suite could be run.
    """
    config = config or EvaluateConfig()
    if not models or not suites:
        raise EmptyInputError("nothing to evaluate: name at least one model and one suite")
    chosen = find_suites(suites)
    results: dict[str, list[TaskResult]] = {}
    notes: list[str] = []
    comparisons: list[Comparison] = []
    given = {suite.name: name for suite, name in zip(chosen, suites, strict=True)}
    for suite, own in share_tasks(chosen, tasks):
        started = time.perf_counter()
        if suite.mteb_tasks:
            wanted = dataclasses.replace(suite, mteb_tasks=own or suite.mteb_tasks)
            results[suite.name], missing = _run_hub(models, wanted, out, config, notify)
            notes.extend(missing)
            for note in missing:
                if notify is not None:
                    notify(note)
            continue
        evaluation = evaluate(models, [given[suite.name]], out=out, data=data, tasks=own, config=config, notify=notify)
        results[suite.name] = list(evaluation.results[suite.name])
        notes.extend(evaluation.skipped)
        for note in evaluation.skipped:
            if notify is not None:
                notify(note)
        if not results[suite.name]:
            continue
        read = list(read_tasks(suite, data=data, prompts=config.prompts, counted_by=config.counted_by, names=own,
                               seed=config.seed))  # fmt: skip
        seconds = time.perf_counter() - started
        comparisons.append(
            compare_results(
                evaluation, suite.name, read, seed=config.seed, counted_by=config.counted_by, seconds=seconds
            )
        )
    if not any(results.values()):
        more = f" (and {len(notes) - 1} more)" if len(notes) > 1 else ""
        raise InputError(f"no task could be run: {notes[0]}{more}")
    rows = make_rows(Evaluation(results=results, skipped=notes), seed=config.seed)
    if out is not None:
        _write(Path(out), rows, comparisons, notes)
    return SuiteRuns(rows=rows, comparisons=comparisons, notes=notes)


def compare_on_suite(
    models: Sequence[str | Encoder],
    suite: str,
    *,
    out: Path | str | None = None,
    data: Path | str | None = None,
    seed: int = 0,
    notify: Callable[[str], None] | None = None,
) -> Comparison:
    """Several models on one offline suite, with paired tests and the queries on which they differ most.

    Raises ConfigError for a suite of mteb: its tasks are compared by `run_suites`, task by task.
    """
    if find_suite(suite).mteb_tasks:
        raise ConfigError(
            f"suite {suite!r} is run through mteb; score each model with: diffembed evaluate MODEL {suite}"
        )
    config = EvaluateConfig(seed=seed)
    return run_suites(models, [suite], out=out, data=data, config=config, notify=notify).comparisons[0]


def _run_hub(
    models: Sequence[str | Encoder],
    suite: Suite,
    out: Path | str | None,
    config: EvaluateConfig,
    notify: Callable[[str], None] | None,
) -> tuple[list[TaskResult], list[str]]:
    names = [model for model in models if isinstance(model, str)]
    if len(names) < len(models):
        raise InputError(f"suite {suite.name!r} is run through mteb, which takes models by name")
    # Without a folder of the user's, one of the cache for each set of settings.
    folder = RunFolder(user_cache() / "mteb" / hash_config(config)[:16] if out is None else out, config).path
    results: list[TaskResult] = []
    missing: list[str] = []
    for group in group_names(names):
        found = evaluate_hub(suite, group, out=folder, config=config, cache_folder=vectors_folder(), notify=notify)
        results.extend(found.results)
        missing.extend(found.missing)
    return results, list(dict.fromkeys(missing))


def _write(out: Path, rows: Sequence[SummaryRow], comparisons: Sequence[Comparison], notes: Sequence[str]) -> None:
    scores = [{**dataclasses.asdict(row), "difference": row.difference} for row in rows]
    write_json(out / "results.json", {"scores": scores, "notes": list(notes)})
    for comparison in comparisons:
        name = comparison.draw.removeprefix("suite ")
        write_report(comparison, out / f"{name}.html")
