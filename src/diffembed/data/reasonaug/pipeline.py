"""A run from a concept list to a data set, stage after stage, into one folder.

Read `run` first. Running the same command again continues: answers are never asked for twice, finished stages are
read from disk. `replay` does the same from stored answers, without a network.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffembed.data.reasonaug import assembly, definitions, leakage, negatives, publish, written
from diffembed.data.reasonaug import question_check as questions
from diffembed.data.reasonaug import solution_check as solutions
from diffembed.data.reasonaug.asking import AnswerSource, Asker
from diffembed.data.reasonaug.batch import BatchPending, BatchSource
from diffembed.data.reasonaug.budget import Budget
from diffembed.data.reasonaug.client import LiveSource, Progress
from diffembed.data.reasonaug.concepts import ConceptList, leave_out, load_concepts
from diffembed.data.reasonaug.config import ReasonAugConfig
from diffembed.data.reasonaug.language import language_name
from diffembed.data.reasonaug.prompts import Prompts
from diffembed.data.reasonaug.ranking import BM25Ranker, EncoderRanker, Ranker
from diffembed.data.reasonaug.replay import Published, is_published_folder, read_published
from diffembed.data.reasonaug.report import make_report
from diffembed.data.reasonaug.rounds import write_problems
from diffembed.data.reasonaug.rows import Concept, Example, Pair, StageResult, Task, Triplet
from diffembed.data.reasonaug.stages import StageFolder
from diffembed.data.reasonaug.store import AnswerStore, StoredSource
from diffembed.data.reasonaug.tokens import TokenCounter
from diffembed.data.set_aside import read_values
from diffembed.errors import ConfigError, InputError, ResourceError
from diffembed.provenance import RunFolder, hash_config, hash_file, write_json
from diffembed.records import Encoder

LoadEncoder = Callable[[str], Encoder]

ANSWERS = "answers.jsonl"
REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What a run left behind."""

    folder: Path
    num_rows: int = 0
    report: Mapping[str, Any] = field(default_factory=dict)
    pending: tuple[Path, ...] = ()
    """Batch request files whose answers are awaited; empty when the run is finished."""


def run(
    config: ReasonAugConfig,
    out: Path | str,
    *,
    load_encoder: LoadEncoder | None = None,
    progress: Progress | None = None,
) -> RunOutcome:
    """Makes the data set, or as much of it as answers, budget and endpoint allow.

    load_encoder: called with `negatives.encoder` when negatives are to be ranked by one.
    Raises ResourceError when the budget is spent or the endpoint fails; what was finished is kept.
    """
    out = Path(out)
    listed = load_concepts(_required(config))
    with _only_run(out):
        store = AnswerStore(out / ANSWERS)
        budget = Budget(config.budget, store)
        source: AnswerSource
        if config.answers == "batch":
            source = BatchSource(config.endpoint, out / "batches", store, budget)
        else:
            source = LiveSource(config.endpoint, store, budget, progress)
        making = _Making(config, out, listed, source, load_encoder, inputs={"concepts": hash_file(_required(config))})
        making.folder.log(event="session", endpoint=config.endpoint, budget=config.budget, answers=config.answers)
        try:
            outcome = making.make()
        except BatchPending as waiting:
            return RunOutcome(folder=out, pending=waiting.files)
        finally:
            making.folder.log(event="spent", **budget.spent())
        return outcome


def replay(
    answers: Path | str,
    out: Path | str,
    *,
    config: ReasonAugConfig | None = None,
    keep_lost: bool = True,
    load_encoder: LoadEncoder | None = None,
) -> RunOutcome:
    """Makes the data set from stored answers alone.

    answers: the published request and answer files, or the folder of an earlier run; the latter needs its config.
    keep_lost: keep pairs whose published verdict is about a replacement that was not published.
    """
    answers, out = Path(answers), Path(out)
    source: AnswerSource
    if is_published_folder(answers):
        published = read_published(answers)
        config = _published_config(config or ReasonAugConfig(), published)
        listed, source, inputs = published.concepts, published.source, dict(published.hashes)
    elif (answers / ANSWERS).is_file():
        if config is None:
            raise ConfigError(f"{answers} holds the answers of a run; give its config too")
        if not keep_lost:
            raise ConfigError("keep_lost=False has no effect on a run's own answers; it is for the published files")
        if out.resolve() == answers.resolve():
            raise ConfigError(f"{out} is the run to be replayed; choose another folder for the result")
        listed = load_concepts(_required(config))
        source = StoredSource(AnswerStore(answers / ANSWERS))
        inputs = {"concepts": hash_file(_required(config)), ANSWERS: hash_file(answers / ANSWERS)}
    else:
        raise InputError(f"{answers} holds neither the published files nor an {ANSWERS} of a run")
    with _only_run(out):
        return _Making(config, out, listed, source, load_encoder, inputs=inputs, keep_lost=keep_lost).make()


class _Making:
    """The stages of one run, in order."""

    def __init__(
        self,
        config: ReasonAugConfig,
        out: Path,
        listed: ConceptList,
        source: AnswerSource,
        load_encoder: LoadEncoder | None,
        *,
        inputs: Mapping[str, str],
        keep_lost: bool = True,
    ) -> None:
        language_name(config.language)
        if config.negatives.encoder is not None and load_encoder is None:
            raise ConfigError("negatives.encoder names a model and nothing was given to load it with")
        self.config = config
        self.out = out
        self.listed = listed
        self.source = source
        self.load_encoder = load_encoder
        self.keep_lost = keep_lost
        self.prompts = Prompts.load(config.prompts)
        for domain in listed.domains.values():
            self.prompts.profile(domain.profile)
        self.held_out = read_values(config.exclude_concepts) if config.exclude_concepts else frozenset()
        self.tokens = TokenCounter(config.tokenizer)
        against = {path.name: hash_file(path) for path in config.leakage.against}
        identity = {
            **config.identity(),
            "inputs": hash_config([dict(inputs), against, sorted(self.held_out)]),
            "prompts": self.prompts.versions,
            "keep_lost": keep_lost,
        }
        self.folder = RunFolder(out, identity, inputs={**inputs, **against})
        self.stages = StageFolder(out, {"prompts": self.prompts.versions, "language": config.language})
        self.instructions = {
            (domain.name, task): self.prompts.instruction(task, question_type=domain.question_type, domain=domain.name)
            for domain in listed.domains.values()
            for task in Task
        }

    def make(self) -> RunOutcome:
        """Runs what is not on disk yet, writes data, card, report and dropped rows."""
        config = self.config
        concepts = self.stages.run(
            "concepts", Concept, inputs=[self.listed.concepts], settings=sorted(self.held_out), make=self._concepts
        )
        defined = self._ask(definitions.STAGE, Concept, concepts, lambda ask: self._define(concepts, ask))
        written_pairs = self._ask("problems", Pair, defined, lambda ask: self._problems(defined, ask))
        asked_pairs = self._ask(questions.STAGE, Pair, written_pairs, lambda ask: self._questions(written_pairs, ask))
        accepted = self._ask(solutions.STAGE, Pair, asked_pairs, lambda ask: self._solutions(asked_pairs, ask))
        pairs = self.stages.run(
            "unique_pairs", Pair, inputs=[accepted], settings=None, make=lambda _: assembly.unique_pairs(accepted)
        )
        examples = self.stages.run(
            assembly.STAGE,
            Example,
            inputs=[pairs, defined],
            settings=[dataclasses.asdict(config.assembly), config.seed],
            make=lambda _: assembly.assemble(defined, pairs, config.assembly, seed=config.seed),
        )
        found = self.stages.run(
            negatives.STAGE,
            Triplet,
            inputs=[examples, pairs, defined],
            settings=dataclasses.asdict(config.negatives),
            make=lambda notes: negatives.find_negatives(
                examples,
                defined,
                pairs,
                self._ranker(),
                skip_top=config.negatives.skip_top,
                instructions=self.instructions,
                notes=notes,
            ),
        )
        triplets = self._finish((*found, *self._written(pairs)))
        report = self._report(defined, pairs, triplets)
        write_json(self.out / REPORT, report)
        facts = {
            "name": config.name,
            "language": config.language,
            "model": config.generation.model,
            "seed": config.seed,
            "notes": report["notes"],
        }
        publish.write_data_set(self.out, triplets, facts=facts, tokens=self.tokens)
        return RunOutcome(folder=self.out, num_rows=len(triplets), report=report)

    def _ask(
        self, name: str, kind: type[Any], rows: tuple[Any, ...], make: Callable[[Asker], StageResult[Any]]
    ) -> tuple[Any, ...]:
        """A stage that asks the model; its settings are those of the generation and the seed of the knobs."""

        def with_asker(notes: dict[str, int]) -> StageResult[Any]:
            return make(
                Asker(
                    source=self.source,
                    prompts=self.prompts,
                    settings=self.config.generation,
                    language=self.config.language,
                    notes=notes,
                )
            )

        domains = [dataclasses.asdict(domain) for domain in self.listed.domains.values()]
        settings = [self.config.identity()["generation"], self.config.seed, domains, self.keep_lost]
        return self.stages.run(name, kind, inputs=[rows], settings=settings, make=with_asker)

    def _concepts(self, _: dict[str, int]) -> StageResult[Concept]:
        kept = leave_out(self.listed.concepts, self.held_out)
        return StageResult(rows=kept.rows, dropped=(*self.listed.dropped, *kept.dropped))

    def _define(self, concepts: tuple[Concept, ...], ask: Asker) -> StageResult[Concept]:
        return definitions.define(concepts, self.listed.domains, ask)

    def _problems(self, concepts: tuple[Concept, ...], ask: Asker) -> StageResult[Pair]:
        return write_problems(concepts, self.listed.domains, ask, seed=self.config.seed)

    def _questions(self, pairs: tuple[Pair, ...], ask: Asker) -> StageResult[Pair]:
        return questions.check_questions(
            pairs, self.listed.domains, ask, seed=self.config.seed, keep_lost=self.keep_lost
        )

    def _solutions(self, pairs: tuple[Pair, ...], ask: Asker) -> StageResult[Pair]:
        return solutions.check_solutions(pairs, self.listed.domains, ask)

    def _written(self, pairs: tuple[Pair, ...]) -> tuple[Triplet, ...]:
        """Rows with negatives the model writes, if asked for; a replay says how many such rows were not published."""
        if not self.config.negatives.are_written and self.source.has_stage(written.STAGE):
            return ()
        rows = written.ring_rows(pairs)
        return self._ask(
            written.STAGE,
            Triplet,
            rows,
            lambda ask: written.write_negatives(rows, self.listed.domains, ask, instructions=self.instructions),
        )

    def _finish(self, rows: tuple[Triplet, ...]) -> tuple[Triplet, ...]:
        """Without leaks and repetitions, numbered."""
        limits = self.config.leakage
        if limits.against:
            references = leakage.read_references(limits.against)
            rows = self.stages.run(
                leakage.STAGE,
                Triplet,
                inputs=[rows],
                settings=[dataclasses.asdict(limits), hash_config(references)],
                make=lambda _: leakage.drop_leaks(rows, references, max_ratio=limits.max_ratio),
            )
        return self.stages.run(
            publish.STAGE, Triplet, inputs=[rows], settings=None, make=lambda _: publish.finish_rows(rows)
        )

    def _ranker(self) -> Ranker:
        name = self.config.negatives.encoder
        if name is None or self.load_encoder is None:
            return BM25Ranker(self.config.language)
        return EncoderRanker(self.load_encoder(name))

    def _report(
        self, concepts: tuple[Concept, ...], pairs: tuple[Pair, ...], triplets: tuple[Triplet, ...]
    ) -> dict[str, Any]:
        return make_report(
            listed=self.stages.outcomes["concepts"].rows,
            concepts=concepts,
            pairs=pairs,
            triplets=triplets,
            outcomes=self.stages.outcomes,
            rankers=[BM25Ranker(self.config.language)],
        )


def _published_config(config: ReasonAugConfig, published: Published) -> ReasonAugConfig:
    if config.concepts is not None:
        raise ConfigError("`concepts` has no effect on a replay of the published files, which have their own")
    generation = dataclasses.replace(config.generation, rounds=published.num_rounds)
    return dataclasses.replace(config, generation=generation)


def _required(config: ReasonAugConfig) -> Path:
    if config.concepts is None:
        raise ConfigError("the setting concepts is required: a YAML file of domains and concepts")
    return config.concepts


@contextmanager
def _only_run(folder: Path) -> Iterator[None]:
    """Keeps a second run out of the folder."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ResourceError(f"another run is writing to {folder}; wait for it or choose another folder") from error
    try:
        yield
    finally:
        lock.release()
