"""The main job: several systems side by side on real text that every Python carries, within a time budget.

Read `compare`. A short calibration decides how much is drawn, every system reads the same text, and each network runs
in a process of its own. A system that fails leaves a sentence in the report and the others go on.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffembed.errors import ConfigError, DiffEmbedError
from diffembed.evaluation.demo.contenders import Contender, make_contenders
from diffembed.evaluation.demo.draws import find_draw
from diffembed.evaluation.demo.planning import Notify, Plan, make_plan
from diffembed.evaluation.demo.sessions import TaskRun
from diffembed.evaluation.reports.comparison import (
    Comparison,
    Search,
    SystemOutcome,
    TaskOutcome,
    make_comparison,
)
from diffembed.evaluation.reports.outcomes import facts_of, outcome_of
from diffembed.evaluation.statistics.significance import Interval
from diffembed.evaluation.suites.stdlib import summaries
from diffembed.evaluation.systems.recipes import group_names
from diffembed.evaluation.tasks import AnyTask, Task, hash_task
from diffembed.provenance import RunFolder, environment, hash_config, write_json
from diffembed.records import Encoder

DEFAULT_SYSTEMS = (
    "bm25",
    "all-minilm-l6-v2",
    "gemma-3-270m:causal:last",
    "gemma-3-270m:causal:mean",
    "gemma-3-270m:bidirectional:mean",
    "gemma-3-270m-ar",
    "gemma-3-270m-diffusion",
)
BUDGET_S = 240.0
"""Predicted encoding time the automatic draw stays below; chosen so that the whole job ends within six minutes."""
QUESTION = "how do I break a long paragraph into lines?"
NUM_HITS = 3


def compare(
    models: Sequence[str | Encoder] = DEFAULT_SYSTEMS,
    *,
    tasks: Sequence[AnyTask] | None = None,
    draw: str = "auto",
    budget_s: float = BUDGET_S,
    seed: int = 0,
    folder: Path | str | None = None,
    is_isolated: bool = True,
    notify: Notify | None = None,
) -> Comparison:
    """Scores of several systems on the same tasks, with intervals, speed, memory and the share of cut documents.

    models: names (`parse_system`), or encoders, which run in this process.
    tasks: `None` makes the standard-library tasks; then `draw` (a name of `DRAWS`, or `auto`, which measures the speed
    and fits `budget_s`) says how many, and the comparison ends with one search.
    folder: every finished system is kept there, so that an interrupted comparison goes on where it stopped.
    is_isolated: False runs everything in this process: faster to start, but memory is that of all systems together.
    notify: receives a line of progress now and then.
    Raises ConfigError and UnknownNameError before anything is loaded; DiffEmbedError when no system finishes.
    """
    started = time.perf_counter()
    tell = notify or (lambda line: None)
    _check_settings(models, tasks, draw, budget_s)
    contenders = make_contenders(models, is_isolated)
    labels = [_label(model) for model in models]
    store = _Store(folder, {"systems": labels, "draw": draw, "budget_s": budget_s, "seed": seed})
    try:
        plan = Plan(tasks=tasks) if tasks is not None else _stored_plan(store, contenders, draw, budget_s, seed, tell)
        outcomes: dict[str, SystemOutcome] = {}
        # The network whose tokenizer counted is still loaded: it goes first.
        for contender in sorted(contenders, key=lambda one: one.session is None):
            outcomes |= {outcome.label: outcome for outcome in _run(contender, plan, seed, store, tell)}
        plan, outcomes = _keep_common_tasks(plan, outcomes)
        comparison = make_comparison(
            [outcomes[label] for label in labels],
            [facts_of(task) for task in plan.tasks],
            seed=seed,
            environment=environment(),
            draw=plan.draw,
            reason=plan.reason,
            counted_by=plan.counted_by,
        )
        search = _search(contenders, comparison, tell) if tasks is None else None
    finally:
        for contender in contenders:
            contender.stop()
    return dataclasses.replace(comparison, search=search, seconds=time.perf_counter() - started)


def _stored_plan(
    store: "_Store", contenders: Sequence[Contender], draw: str, budget_s: float, seed: int, tell: Notify
) -> Plan:
    """The plan, with the draw of an interrupted comparison where there is one."""
    stored = store.read("draw")
    if stored is not None:
        return make_plan(contenders, stored["draw"], budget_s, seed, tell, stored["reason"])
    plan = make_plan(contenders, draw, budget_s, seed, tell)
    store.write("draw", {"draw": plan.draw.partition(":")[0], "reason": plan.reason})
    return plan


def _check_settings(
    models: Sequence[str | Encoder], tasks: Sequence[AnyTask] | None, draw: str, budget_s: float
) -> None:
    if not models:
        raise ConfigError("no system to compare; name one or more, for example bm25 all-minilm-l6-v2")
    if budget_s <= 0:
        raise ConfigError(f"budget_s is {budget_s}; it must be above 0")
    if draw != "auto":
        find_draw(draw)
        if tasks is not None:
            raise ConfigError("a draw has no effect on tasks that are given; leave one of them out")


def _label(model: str | Encoder) -> str:
    return group_names([model])[0].labels[0] if isinstance(model, str) else model.name


def _run(contender: Contender, plan: Plan, seed: int, store: "_Store", tell: Notify) -> list[SystemOutcome]:
    """Its systems on all tasks, or on those the time allowed; all carry the sentence when loading or running fails."""
    hashes = [hash_task(task) for task in plan.tasks]
    key = f"systems-{hash_config([contender.labels, contender.version(), hashes, seed])}"
    stored = store.read(key)
    if stored is not None:
        tell(f"{', '.join(contender.labels)}: kept from before")
        return [_read_outcome(one) for one in stored]
    session = contender.try_start()
    if session is None:
        return [SystemOutcome(label=label, error=contender.error) for label in contender.labels]
    runs: dict[str, list[TaskOutcome]] = {label: [] for label in contender.labels}
    try:
        for stage in _stages(plan.tasks):
            done = runs[contender.labels[0]]
            if not _has_time(done, stage, plan.limits.get(contender.model), session.facts.get("max_tokens")):
                break
            for task in stage:
                for label, run in session.run(task, seed).items():
                    runs[label].append(_outcome(task, run))
        peak_bytes = session.peak_bytes()
    except DiffEmbedError as error:
        return [SystemOutcome(label=label, error=str(error)) for label in contender.labels]
    finally:
        contender.stop()
    outcomes = [
        SystemOutcome(
            label=label,
            tasks=tuple(done),
            facts=session.facts,
            load_s=contender.load_s,
            peak_bytes=peak_bytes,
            shares_pass_with=tuple(other for other in contender.labels if other != label),
        )
        for label, done in runs.items()
    ]
    num_tasks = len(outcomes[0].tasks)
    if num_tasks == len(plan.tasks):
        store.write(key, [dataclasses.asdict(outcome) for outcome in outcomes])
    seconds = sum(task.seconds for task in outcomes[0].tasks)
    tell(f"{', '.join(contender.labels)}: {num_tasks} task{'s' * (num_tasks > 1)} in {seconds:.0f} s")
    return outcomes


def _stages(tasks: Sequence[AnyTask]) -> list[list[AnyTask]]:
    """Tasks of one length together, shorter first; those without a length before them."""
    stages: dict[int, list[AnyTask]] = {}
    for task in tasks:
        length = task.length if isinstance(task, Task) else None
        stages.setdefault(length or 0, []).append(task)
    return [stages[length] for length in sorted(stages)]


def _has_time(
    done: Sequence[TaskOutcome], stage: Sequence[AnyTask], limit_s: float | None, max_tokens: int | None
) -> bool:
    """Whether a stage would end within the limit at the speed of the one before; the shortest is always begun."""
    before = next((outcome.length for outcome in reversed(done) if outcome.length), None)
    if limit_s is None or before is None:
        return True
    spent_s = sum(outcome.seconds for outcome in done)
    last_s = sum(outcome.seconds for outcome in done if outcome.length == before)
    length = max((task.length or 0 for task in stage if isinstance(task, Task)), default=0)
    growth = min(length, max_tokens or length) / min(before, max_tokens or before)
    return spent_s + last_s * growth <= limit_s


def _keep_common_tasks(plan: Plan, outcomes: dict[str, SystemOutcome]) -> tuple[Plan, dict[str, SystemOutcome]]:
    """Only the tasks that every system without an error has finished, and the reason for it."""
    finished = [{task.task for task in outcome.tasks} for outcome in outcomes.values() if outcome.error is None]
    common = set.intersection(*finished) if finished else set()
    if not plan.limits or len(common) == len(plan.tasks) or not common:
        return plan, outcomes
    tasks = [task for task in plan.tasks if task.name in common]
    longest = max((task.length or 0 for task in tasks if isinstance(task, Task)), default=0)
    reason = f"{plan.reason}; then the machine slowed down, and texts of more than {longest} tokens were left out"
    kept = {
        label: dataclasses.replace(one, tasks=tuple(task for task in one.tasks if task.task in common))
        for label, one in outcomes.items()
    }
    return dataclasses.replace(plan, tasks=tasks, reason=reason), kept


def _outcome(task: AnyTask, run: TaskRun) -> TaskOutcome:
    outcome = outcome_of(run.result, task.length if isinstance(task, Task) else None)
    return dataclasses.replace(outcome, num_tokens=run.num_tokens, seconds=run.seconds)


def _search(contenders: Sequence[Contender], comparison: Comparison, tell: Notify) -> Search | None:
    """One question to the dense system that was best on the first column; `None` where there is none."""
    column = comparison.groups[0]
    ranked = sorted(comparison.scores, key=lambda label: comparison.scores[label][column].interval.value)
    dense = {label: one for one in contenders if one.is_dense for label in one.labels}
    best = next((label for label in reversed(ranked) if label in dense), None)
    if best is None:
        return None
    documents = summaries()
    try:
        hits = dense[best].start().search(best, documents, QUESTION, NUM_HITS)
    except DiffEmbedError as error:
        tell(f"the closing search failed: {error}")
        return None
    return Search(system=best, question=QUESTION, hits=tuple(hits), num_documents=len(documents))


class _Store:
    """What is kept of an unfinished comparison; nothing where no folder is given."""

    def __init__(self, folder: Path | str | None, config: dict[str, Any]) -> None:
        """Raises CheckpointError where the folder holds another comparison."""
        self.path = None if folder is None else RunFolder(folder, config).path

    def read(self, name: str) -> Any:
        """The value written under a name, `None` if there is none."""
        if self.path is None or not (self.path / f"{name}.json").exists():
            return None
        return json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))

    def write(self, name: str, value: Any) -> None:
        """Keeps a value, whole or not at all."""
        if self.path is not None:
            write_json(self.path / f"{name}.json", value)


def _read_outcome(stored: dict[str, Any]) -> SystemOutcome:
    tasks = tuple(TaskOutcome(**task | {"interval": Interval(**task["interval"])}) for task in stored["tasks"])
    return SystemOutcome(**stored | {"tasks": tasks, "shares_pass_with": tuple(stored["shares_pass_with"])})
