"""The main job: several systems side by side on real text that every Python carries, within a time budget.

Read `compare`. A short calibration decides how much is drawn, every system reads the same text, and each network runs
in a process of its own. A system that fails leaves a sentence in the report and the others go on.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffembed.errors import ConfigError, DiffEmbedError
from diffembed.evaluation.comparison import Comparison, Search, SystemOutcome, TaskFacts, TaskOutcome, make_comparison
from diffembed.evaluation.draws import Draw, Pass, choose_draw, find_draw
from diffembed.evaluation.isolation import RemoteSession
from diffembed.evaluation.recipes import SystemGroup, group_names
from diffembed.evaluation.sessions import AnySession, Session, TaskRun
from diffembed.evaluation.significance import Interval
from diffembed.evaluation.stdlib import summaries
from diffembed.evaluation.systems import BASELINES
from diffembed.evaluation.tasks import AnyTask, InstructionTask, PairTask, Task, hash_task
from diffembed.provenance import RunFolder, environment, hash_config, write_json
from diffembed.records import Encoder

DEFAULT_SYSTEMS = (
    "bm25",
    "all-minilm-l6-v2",
    "gemma-3-270m:causal:last",
    "gemma-3-270m:causal:mean",
    "gemma-3-270m:bidirectional:mean",
)
BUDGET_S = 240.0
"""Predicted encoding time the automatic draw stays below; chosen so that the whole job ends within six minutes."""
QUESTION = "how do I break a long paragraph into lines?"
NUM_HITS = 3

Notify = Callable[[str], None]


class _Group:
    """Systems that share a network, and their session while it is open."""

    def __init__(self, source: SystemGroup | Encoder, is_isolated: bool) -> None:
        """source: names to be loaded, or an encoder that is loaded and stays in this process."""
        self.labels: tuple[str, ...] = (source.name,) if not isinstance(source, SystemGroup) else source.labels
        self.model = self.labels[0]
        self.is_language_model = self.counts_tokens = False
        if isinstance(source, SystemGroup):
            spec = source.specs[0]
            # Attention hardly changes the speed, a recipe (text read twice) does.
            self.model = f"{source.recipe}@{spec.model}" if source.recipe else spec.model
            self.is_language_model = spec.is_language_model
            self.counts_tokens = spec.model not in BASELINES
        self.is_dense = self.model != "bm25"
        self.session: AnySession | None = None
        self.load_s = 0.0
        self.error: str | None = None
        self._source = source
        self._is_isolated = is_isolated

    def version(self) -> list[tuple[str, int, int]]:
        """Name, size and time of change of the files, where the model is a folder that may be trained further."""
        if not isinstance(self._source, SystemGroup):
            return []
        folders = (self._source.specs[0].model, *self._source.adapters)
        files = sorted(path for folder in folders for path in Path(folder).rglob("*") if path.is_file())
        return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]

    def start(self) -> AnySession:
        """The open session, loaded on first use."""
        if self.session is None:
            started = time.perf_counter()
            if not isinstance(self._source, SystemGroup):
                self.session = Session.of(self._source)
            elif self._is_isolated:
                self.session = RemoteSession(self._source)
            else:
                self.session = Session.open(self._source)
            self.load_s = time.perf_counter() - started
        return self.session

    def stop(self) -> None:
        """Closes the session; the next `start` loads anew."""
        if self.session is not None:
            self.session.close()
            self.session = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What every system is run on, and how that was decided; the texts are those of `Comparison`."""

    tasks: Sequence[AnyTask]
    draw: str = ""
    reason: str = ""
    counted_by: str = ""


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
    groups = _make_groups(models, is_isolated)
    labels = [_label(model) for model in models]
    store = _Store(folder, {"systems": labels, "draw": draw, "budget_s": budget_s, "seed": seed})
    try:
        plan = _Plan(tasks=tasks) if tasks is not None else _make_plan(groups, draw, budget_s, seed, store, tell)
        outcomes: dict[str, SystemOutcome] = {}
        # The network whose tokenizer counted is still loaded: it goes first.
        for group in sorted(groups, key=lambda group: group.session is None):
            outcomes |= {outcome.label: outcome for outcome in _run_group(group, plan.tasks, seed, store, tell)}
        comparison = make_comparison(
            [outcomes[label] for label in labels],
            [_task_facts(task) for task in plan.tasks],
            seed=seed,
            environment=environment(),
            draw=plan.draw,
            reason=plan.reason,
            counted_by=plan.counted_by,
        )
        search = _search(groups, comparison, tell) if tasks is None else None
    finally:
        for group in groups:
            group.stop()
    return dataclasses.replace(comparison, search=search, seconds=time.perf_counter() - started)


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


def _make_groups(models: Sequence[str | Encoder], is_isolated: bool) -> list[_Group]:
    named = group_names([model for model in models if isinstance(model, str)])
    given = [model for model in models if not isinstance(model, str)]
    groups = [*(_Group(source, is_isolated) for source in named), *(_Group(source, False) for source in given)]
    labels = [label for group in groups for label in group.labels]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is named twice; name each system once")
    return groups


def _label(model: str | Encoder) -> str:
    return group_names([model])[0].labels[0] if isinstance(model, str) else model.name


def _make_plan(groups: Sequence[_Group], draw: str, budget_s: float, seed: int, store: "_Store", tell: Notify) -> _Plan:
    """Decides the draw and makes its tasks with the tokenizer of the first language model that loads."""
    stored = store.read("draw")
    reason = "it was asked for"
    if stored is not None:
        chosen, reason = find_draw(stored["draw"]), stored["reason"]
    elif draw == "auto":
        chosen, reason = _fit_draw(groups, budget_s, tell)
        store.write("draw", {"draw": chosen.name, "reason": reason})
    else:
        chosen = find_draw(draw)
    for group in _by_rank(groups):
        session = _try_start(group)
        if session is not None:
            tell(f"draw {chosen}, because {reason}")
            counted_by = group.model if group.counts_tokens else "words"
            return _Plan(tasks=session.make_tasks(chosen, seed), draw=str(chosen), reason=reason, counted_by=counted_by)
    raise DiffEmbedError("; ".join(f"{group.labels[0]}: {group.error}" for group in groups))


def _by_rank(groups: Sequence[_Group]) -> list[_Group]:
    """Language models first, then encoders, then BM25: whose tokens the lengths are counted in."""
    return sorted(groups, key=lambda group: (not group.is_language_model, not group.is_dense))


def _try_start(group: _Group) -> AnySession | None:
    """The session, or `None` with the sentence kept in `group.error`."""
    if group.error is not None:
        return None
    try:
        return group.start()
    except DiffEmbedError as error:
        group.error = str(error)
        return None


def _fit_draw(groups: Sequence[_Group], budget_s: float, tell: Notify) -> tuple[Draw, str]:
    """Measures every network once, the one that will count the tokens last, and leaves that one open."""
    dense = [group for group in _by_rank(groups) if group.is_dense]
    first_of = {group.model: group for group in reversed(dense)}
    measured: dict[str, Pass] = {}
    for group in reversed([group for group in dense if first_of[group.model] is group]):
        tell(f"measuring the speed of {group.model}")
        session = _try_start(group)
        if session is None:
            continue
        try:
            tokens_per_s = session.tokens_per_s()
        except DiffEmbedError as error:
            group.error = str(error)
            group.stop()
            continue
        max_tokens = int(session.facts["max_tokens"])
        measured[group.model] = Pass(tokens_per_s=tokens_per_s, start_s=group.load_s, max_tokens=max_tokens)
        if group is not dense[0]:
            group.stop()
    passes = [measured[group.model] for group in dense if group.model in measured]
    chosen, predicted_s = choose_draw(passes, budget_s)
    speeds = [f"{model} reads {one.tokens_per_s:,.0f} tokens/s" for model, one in reversed(measured.items())]
    fits = "within" if predicted_s <= budget_s else "the least there is, but over"
    return chosen, f"{', '.join(speeds)}; about {predicted_s:.0f} s, {fits} the budget of {budget_s:.0f} s"


def _run_group(
    group: _Group, tasks: Sequence[AnyTask], seed: int, store: "_Store", tell: Notify
) -> list[SystemOutcome]:
    """The systems of a group on all tasks; all of them carry the sentence when loading or running fails."""
    key = f"systems-{hash_config([group.labels, group.version(), [hash_task(task) for task in tasks], seed])}"
    stored = store.read(key)
    if stored is not None:
        tell(f"{', '.join(group.labels)}: kept from before")
        return [_read_outcome(one) for one in stored]
    session = _try_start(group)
    if session is None:
        return [SystemOutcome(label=label, error=group.error) for label in group.labels]
    runs: dict[str, list[TaskOutcome]] = {label: [] for label in group.labels}
    try:
        for task in tasks:
            for label, run in session.run(task, seed).items():
                runs[label].append(_task_outcome(task, run))
        peak_bytes = session.peak_bytes()
    except DiffEmbedError as error:
        return [SystemOutcome(label=label, error=str(error)) for label in group.labels]
    finally:
        group.stop()
    outcomes = [
        SystemOutcome(
            label=label,
            tasks=tuple(done),
            facts=session.facts,
            load_s=group.load_s,
            peak_bytes=peak_bytes,
            shares_pass_with=tuple(other for other in group.labels if other != label),
        )
        for label, done in runs.items()
    ]
    store.write(key, [dataclasses.asdict(outcome) for outcome in outcomes])
    seconds = sum(task.seconds for task in outcomes[0].tasks)
    tell(f"{', '.join(group.labels)}: {len(tasks)} task{'s' * (len(tasks) > 1)} in {seconds:.0f} s")
    return outcomes


def _task_outcome(task: AnyTask, run: TaskRun) -> TaskOutcome:
    result = run.result
    is_mean = isinstance(task, Task | InstructionTask)
    return TaskOutcome(
        task=result.task,
        group=result.family or result.task,
        length=task.length if isinstance(task, Task) else None,
        measure=result.main,
        interval=result.scores[result.main],
        values=dict(result.per_query[result.main]) if is_mean else {},
        truncated_fraction=result.truncated_fraction if result.documents is not None else 0.0,
        num_tokens=run.num_tokens,
        seconds=run.seconds,
    )


def _task_facts(task: AnyTask) -> TaskFacts:
    plain = task.og if isinstance(task, InstructionTask) else task
    if isinstance(plain, Task):
        sizes = len(plain.corpus), len(plain.queries)
        group, length = plain.group, plain.length
    else:
        sizes = (0, len(plain.left) if isinstance(plain, PairTask) else len(plain.texts))
        group, length = plain.name, None
    return TaskFacts(
        name=task.name, group=group, num_documents=sizes[0], num_queries=sizes[1], length=length, hash=hash_task(task)
    )


def _search(groups: Sequence[_Group], comparison: Comparison, tell: Notify) -> Search | None:
    """One question to the dense system that was best on the first column; `None` where there is none."""
    column = comparison.groups[0]
    ranked = sorted(comparison.scores, key=lambda label: comparison.scores[label][column].interval.value)
    dense = {label: group for group in groups if group.is_dense for label in group.labels}
    best = next((label for label in reversed(ranked) if label in dense), None)
    if best is None:
        return None
    group = dense[best]
    documents = summaries()
    try:
        hits = group.start().search(best, documents, QUESTION, NUM_HITS)
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
