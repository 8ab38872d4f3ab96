"""Models on suites: every task once, kept in a folder, resumed where it stopped.

Read `evaluate`. A run folder holds `<suite>/<system>/<task>/`; a task whose result is there is not run again, unless
its data or the model changed, which is refused. This module knows nothing of mteb.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffembed.errors import CheckpointError, ConfigError, EmptyInputError
from diffembed.evaluation.results import has_result, load_result, save_result, slug
from diffembed.evaluation.scoring import TaskResult, can_score, score_task
from diffembed.evaluation.suites.instructions import Prompts
from diffembed.evaluation.suites.named import COUNTED_BY, SUITES, Suite, find_suite, find_suites, share_tasks
from diffembed.evaluation.suites.reading import read_tasks
from diffembed.evaluation.systems.reading import read_with
from diffembed.evaluation.systems.recipes import SystemGroup, group_names
from diffembed.evaluation.systems.searching import DenseSystem, System
from diffembed.evaluation.systems.vector_cache import vectors_folder
from diffembed.evaluation.tasks import AnyTask, hash_task
from diffembed.provenance import RunFolder
from diffembed.records import Encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Everything that changes a number; a run folder belongs to one of these."""

    prompts: Prompts = "paper"
    """Wording of the instructions: the paper's, or mteb's."""
    max_tokens: int | None = None
    """Texts are cut here, at the suite's own limit or at the model's, whichever is least."""
    dtype: str = "auto"
    """Number format of the networks: auto, float32 or bfloat16."""
    counted_by: str = COUNTED_BY
    """Model whose tokenizer counts the tokens of passkey and needle documents, or `words`."""
    seed: int = 0
    """Of generated tasks, label draws and resampling."""

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"max_tokens {self.max_tokens} is below 1")

    def limit(self, suite: Suite) -> int | None:
        """Tokens at which a suite cuts texts."""
        limits = [limit for limit in (self.max_tokens, suite.max_tokens) if limit is not None]
        return min(limits, default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What a run gave."""

    results: Mapping[str, Sequence[TaskResult]]
    """Suite -> results, system by system: those that were named, in their order, then encoders given as objects."""
    skipped: Sequence[str]
    """One sentence for every (system, task) that has no score by nature."""

    def of(self, suite: str, label: str) -> dict[str, TaskResult]:
        """Task -> result of one system."""
        return {result.task: result for result in self.results[suite] if result.label == label}


def evaluate(
    models: Sequence[str | Encoder],
    suites: Sequence[str],
    *,
    out: Path | str | None = None,
    data: Path | str | None = None,
    tasks: Sequence[str] = (),
    config: EvaluateConfig | None = None,
    keeps_vectors: bool = True,
    notify: Callable[[str], None] | None = None,
) -> Evaluation:
    """Scores models on offline suites.

    models: names (`recipes.group_names`) or encoders. suites: names, or folders of tasks. out: run folder; `None` keeps
    nothing but vectors. data: the data folder; `None` takes DIFFEMBED_DATA. tasks: only these; a suite that has none of
    them is passed over. keeps_vectors: documents are encoded once per model and kept in the user's cache. notify:
    receives progress lines. Raises UnknownNameError for a task that no suite has.
    Raises CheckpointError when `out` holds results of other settings, other data or another model.
    """
    config = config or EvaluateConfig()
    if not models or not suites:
        raise EmptyInputError("nothing to evaluate: name at least one model and one suite")
    groups = _groups(models)
    chosen = find_suites(suites)
    hub = next((suite.name for suite in chosen if suite.mteb_tasks), None)
    if hub is not None:
        raise ConfigError(f"suite {hub!r} is run through mteb: use evaluation.hub.running, or the command line")
    folder = None if out is None else RunFolder(out, config)
    cache = vectors_folder() if keeps_vectors else None
    results: dict[str, list[TaskResult]] = {}
    skipped: list[str] = []
    for suite, own in share_tasks(chosen, tasks):
        read = list(read_tasks(suite, data=data, prompts=config.prompts, counted_by=config.counted_by, names=own,
                               seed=config.seed))  # fmt: skip
        for group in groups:
            runner = _Runner(suite, group, folder, config, cache, notify)
            for task in read:
                results.setdefault(suite.name, []).extend(runner.run(task))
            skipped.extend(runner.skipped)
    return Evaluation(results=results, skipped=skipped)


class _Runner:
    """One group of systems on the tasks of one suite; the weights are loaded when the first missing task needs them."""

    def __init__(
        self,
        suite: Suite,
        group: "SystemGroup | _EncoderGroup",
        folder: RunFolder | None,
        config: EvaluateConfig,
        cache: Path | None,
        notify: Callable[[str], None] | None,
    ) -> None:
        self.suite = suite
        self.group = group
        self.folder = folder
        self.config = config
        self.cache = cache
        self.notify = notify
        self.skipped: list[str] = []
        self._system: System | None = None

    def run(self, task: AnyTask) -> Iterator[TaskResult]:
        """The stored results of a task, or new ones."""
        stored = self._stored(task)
        if stored is not None:
            yield from stored
            return
        system = self._open()
        if not can_score(system, task):
            lacks = "vectors" if system.ranks_lists else "vectors and no full ranking"
            self.skipped.append(f"{', '.join(system.labels)} has no {lacks}, which {task.name} needs")
            return
        for label, result in score_task(system, task, seed=self.config.seed).items():
            if self.folder is not None:
                save_result(self._place(label, task.name), result)
                self.folder.log(suite=self.suite.name, system=label, task=task.name, **{result.main: result.value})
            if self.notify is not None:
                self.notify(f"{label} on {task.name}: {result.main} {result.scores[result.main]}")
            yield result

    def _stored(self, task: AnyTask) -> list[TaskResult] | None:
        if self.folder is None:
            return None
        labels = self._system.labels if self._system else self.group.labels
        places = [self._place(label, task.name) for label in labels]
        if not all(map(has_result, places)):
            return None
        results = [load_result(place) for place in places]
        changed = next((result for result in results if result.task_hash != hash_task(task)), None)
        if changed is not None:
            raise CheckpointError(
                f"{self.folder.path} holds a result of {changed.label} on other data of {task.name}; "
                "choose another folder or remove it"
            )
        if not self.group.is_pinned and any(result.identity for result in results):
            # A folder may hold another model than it did: only its weights can tell.
            self._open()
        return results

    def _place(self, label: str, task: str) -> Path:
        assert self.folder is not None
        return self.folder.path / slug(self.suite.name) / slug(label) / slug(task)

    def _open(self) -> System:
        if self._system is None:
            self._system = self.group.open(
                max_tokens=self.config.limit(self.suite),
                dtype=self.config.dtype,
                cache_folder=self.cache,
                notify=self.notify,
            )
            self._check_identity(self._system)
        return self._system

    def _check_identity(self, system: System) -> None:
        """Results of another model under the same name must not be mixed with new ones."""
        if self.folder is None:
            return
        for label, identity in system.identities.items():
            for path in sorted((self.folder.path / slug(self.suite.name) / slug(label)).glob("*/result.json")):
                stored = load_result(path.parent)
                if stored.identity and stored.identity != identity:
                    raise CheckpointError(
                        f"{self.folder.path} holds results of another model under the name {label} "
                        f"({stored.task}: {stored.identity}, now {identity}); choose another folder or remove it"
                    )


@dataclass(frozen=True, slots=True)
class _EncoderGroup:
    """An encoder that was given as an object."""

    encoder: Encoder

    is_pinned = False

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.encoder.name,)

    def open(
        self,
        *,
        max_tokens: int | None = None,
        dtype: str = "auto",
        cache_folder: Path | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> System:
        from diffembed.embedding.embedder import Embedder
        from diffembed.evaluation.systems.reading import read_embedder
        from diffembed.evaluation.systems.recipes import limited

        encoder = self.encoder
        if isinstance(encoder, Embedder):
            embedder = limited(encoder, max_tokens)
            labels = {encoder.name: embedder.pooling}
            reader = read_embedder(embedder, labels, cache_folder=cache_folder, notify=notify)
            return DenseSystem(reader, sends_instructions=not embedder.backbone.family.is_encoder)
        if max_tokens is not None and encoder.max_tokens > max_tokens:
            raise ConfigError(
                f"{encoder.name} reads {encoder.max_tokens} tokens and cannot be cut to {max_tokens} from outside"
            )
        return DenseSystem(read_with(encoder, notify=notify))


def _groups(models: Sequence[str | Encoder]) -> list[SystemGroup | _EncoderGroup]:
    names = [model for model in models if isinstance(model, str)]
    encoders = [_EncoderGroup(model) for model in models if not isinstance(model, str)]
    labels = [encoder.labels[0] for encoder in encoders] + names
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is named twice; name each system once")
    return [*group_names(names), *encoders]


def make_development_score(
    suite: str, *, data: Path | str | None = None, config: EvaluateConfig | None = None
) -> Callable[[Encoder], dict[str, float]]:
    """A function from an encoder to {task: main measure}, for training to call between steps.

    The tasks are read once, now; nothing is kept on disk, because the weights change between calls.
    Raises ConfigError for a TEST suite: choices are made on development data.
    """
    chosen = find_suite(suite)
    if suite in SUITES and chosen.purpose != "development":
        allowed = [name for name, other in SUITES.items() if other.purpose == "development"]
        raise ConfigError(
            f"{suite!r} is a test suite; choices are made on {', '.join(allowed)} or a folder of your own"
        )
    settings = config or EvaluateConfig()
    read = list(read_tasks(chosen, data=data, prompts=settings.prompts, counted_by=settings.counted_by,
                           seed=settings.seed))  # fmt: skip

    def score(encoder: Encoder) -> dict[str, float]:
        system = _EncoderGroup(encoder).open(max_tokens=settings.limit(chosen))
        return {
            task.name: result.value for task in read for result in score_task(system, task, seed=settings.seed).values()
        }

    return score
