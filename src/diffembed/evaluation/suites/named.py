"""Named suites: which tasks, where each comes from, and how long a text may be.

Read `SUITES`, then `load_suite`. A TEST suite is run on final checkpoints; every choice uses a DEVELOPMENT suite. The
hub suites are lists of mteb task names and are run by `evaluation.hub`; all others are read from a data folder.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from diffembed.data.burying import TokenSpans, word_spans
from diffembed.errors import ConfigError, InputError, UnknownNameError
from diffembed.evaluation.suites.folders import read_folder, read_pairs
from diffembed.evaluation.suites.haystack import (
    make_birthday_task,
    make_needle_task,
    make_paraphrase_task,
    make_passkey_task,
)
from diffembed.evaluation.suites.instructions import Prompts, find_instruction, kind_of
from diffembed.evaluation.suites.set_asides import read_concept_task, read_topic_task
from diffembed.evaluation.tasks import AnyTask, InstructionTask, Task

DATA_VARIABLE = "DIFFEMBED_DATA"
LONGEMBED_LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
HAY_FILE = "text/novels_valid.txt.zst"
"""Text that passkeys and needles are hidden in; no training reads it."""
COUNTED_BY = "gemma-3-270m"
"""Tokenizer that haystack lengths are counted with, for all models alike, so that all read the same documents."""

Source = Literal["folder", "passkey", "needle", "paraphrase", "birthday", "concepts", "topics"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """One task of a suite, before it is read."""

    name: str
    source: Source = "folder"
    place: str = ""
    """Path below the data folder; empty for tasks whose sentences are our own."""
    kin: tuple[str, ...] = ()
    """Training sets of the same kind: their rows are no test texts, and yet a model trained on them is at home here."""
    shares_documents: bool = False
    """True where documents of the corpus stand in the rows of its kin by design; queries never do."""
    length: int = 0
    """Tokens per document of a generated task."""
    num_documents: int = 100
    num_queries: int = 50

    @property
    def is_hidden(self) -> bool:
        """Whether its documents are sentences hidden in other text."""
        return self.length > 0

    @property
    def in_domain(self) -> bool:
        """Whether training rows of the same kind exist (marked in every table)."""
        return bool(self.kin)


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """A list of tasks under one name."""

    name: str
    purpose: Literal["test", "development"]
    about: str
    """One line for `--list`."""
    tasks: tuple[TaskSpec, ...] = ()
    mteb_tasks: tuple[str, ...] = ()
    """Names that mteb knows; a suite has these or `tasks`, not both."""
    mteb_subsets: tuple[str, ...] = ()
    """Subsets (languages, domains) of the mteb tasks that are run; empty runs all."""
    max_tokens: int | None = None
    """Texts are cut here even where the model reads more; `None` leaves it to the model."""


def _folder(name: str, place: str = "", *, kin: tuple[str, ...] = (), shares_documents: bool = False) -> TaskSpec:
    return TaskSpec(name=name, place=place or f"eval/{name}", kin=kin, shares_documents=shares_documents)


def _hidden(
    source: Source,
    lengths: Sequence[int],
    num_documents: int,
    num_queries: int,
    place: str = "",
) -> tuple[TaskSpec, ...]:
    return tuple(
        TaskSpec(
            name=f"{source}-{length}",
            source=source,
            place=place,
            length=length,
            num_documents=num_documents,
            num_queries=num_queries,
        )
        for length in lengths
    )


_SCIFACT = ("scifact", "scifact_stance_train")
_LONG = (_folder("qmsum_longembed"),)
_REASONING = (
    _folder("reasonaug_eval_p2i", kin=("reasonaug",)),
    _folder("reasonaug_eval_p2ps", kin=("reasonaug",)),
    _folder("theoremqa_q2q"),
)
_INSTRUCTION = (
    _folder("debtags_instruct_eval", kin=("debtags_instruct_train",), shares_documents=True),
    _folder("scifact_stance_eval", kin=_SCIFACT, shares_documents=True),
)
_STSB = _folder("stsb_test", "eval/sts/stsb_test.tsv")
_GENERAL = (
    _folder("scifact", kin=_SCIFACT, shares_documents=True),
    _folder("nq_qed", kin=("nq_qed",)),
    _STSB,
    _folder("banking77"),
)
_PASSKEY, _NEEDLE = _hidden("passkey", LONGEMBED_LENGTHS, 100, 50), _hidden("needle", LONGEMBED_LENGTHS, 100, 50)
_UP_TO_4K, _UP_TO_8K = LONGEMBED_LENGTHS[:5], LONGEMBED_LENGTHS[:6]

_BRIGHT_FOUR = ("theoremqa_theorems", "theoremqa_questions", "aops", "leetcode")
_BRIGHT_LONG = (
    "Biology EarthScience Economics Psychology Robotics Stackoverflow SustainableLiving Pony".split()  # noqa: SIM905
)
_BRIGHT_SHORT = (*_BRIGHT_LONG, "Leetcode", "Aops", "TheoremQATheorems", "TheoremQAQuestions")

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(name="long", purpose="test", about="whole meetings (LongEmbed's QMSum)", tasks=_LONG),
        Suite(name="reasoning", purpose="test", about="problems to concepts and to like problems", tasks=_REASONING),
        Suite(name="instruction", purpose="test", about="instructions that narrow a query", tasks=_INSTRUCTION),
        Suite(name="general", purpose="test", about="claims, questions, similarity, intents", tasks=_GENERAL),
        Suite(name="passkey", purpose="test", about="one number in 256 to 32,768 tokens", tasks=_PASSKEY),
        Suite(name="needle", purpose="test", about="one fact in 256 to 32,768 tokens", tasks=_NEEDLE),
        Suite(
            name="screen",
            purpose="test",
            about="every skill at 4k tokens, for each run of a study",
            tasks=(
                *_LONG,
                *_hidden("passkey", _UP_TO_4K, 40, 40),
                *_hidden("needle", _UP_TO_4K, 40, 40),
                *_REASONING,
                _INSTRUCTION[0],
                _GENERAL[0],
                _INSTRUCTION[1],
                _STSB,
            ),
            max_tokens=4096,
        ),
        Suite(
            name="full",
            purpose="test",
            about="every offline test task at 8k tokens",
            tasks=(
                *_LONG,
                *_hidden("passkey", _UP_TO_8K, 100, 50),
                *_hidden("needle", _UP_TO_8K, 100, 50),
                *_REASONING,
                *_INSTRUCTION,
                *_GENERAL,
            ),
            max_tokens=8192,
        ),
        Suite(
            name="dev-long",
            purpose="development",
            about="meetings, whole tales, and one sentence in 256 to 1,024 tokens",
            tasks=(
                _folder("qmsum_test"),
                _folder("fairytaleqa_story", kin=("fairytaleqa_train",)),
                *_hidden("paraphrase", LONGEMBED_LENGTHS[:3], 60, 60, "eval/sts/stsb_dev.tsv"),
                *_hidden("birthday", LONGEMBED_LENGTHS[:3], 60, 60),
            ),
        ),
        Suite(
            name="dev-reasoning",
            purpose="development",
            about="30 of the 180 training concepts, set aside by seed",
            tasks=(
                TaskSpec(name="concepts-p2i", source="concepts", place="train/reasonaug", kin=("reasonaug",)),
                TaskSpec(name="concepts-p2ps", source="concepts", place="train/reasonaug", kin=("reasonaug",)),
            ),
        ),
        Suite(
            name="dev-instruction",
            purpose="development",
            about="15 of the 97 training topics of Debian packages, set aside by seed",
            tasks=(
                TaskSpec(
                    name="topics",
                    source="topics",
                    place="train/debtags_instruct_train",
                    kin=("debtags_instruct_train",),
                ),
            ),
        ),
        Suite(
            name="dev-general",
            purpose="development",
            about="paper titles, package questions, similarity",
            tasks=(
                _folder("scitldr", kin=("scitldr",)),
                _folder("debian_packages", kin=("debian_packages",)),
                _folder("stsb_dev", "eval/sts/stsb_dev.tsv.zst"),
            ),
        ),
        Suite(
            name="longembed",
            purpose="test",
            about="LongEmbed: 4 real and 2 synthetic tasks (table 2)",
            mteb_tasks=(
                "LEMBNarrativeQARetrieval",
                "LEMBQMSumRetrieval",
                "LEMBSummScreenFDRetrieval",
                "LEMBWikimQARetrieval",
                "LEMBNeedleRetrieval",
                "LEMBPasskeyRetrieval",
            ),
            max_tokens=4096,
        ),
        Suite(
            name="bright",
            purpose="test",
            about="BRIGHT v1, the four sets of table 3, excluded documents removed before the cut",
            mteb_tasks=("BrightRetrieval",),
            mteb_subsets=_BRIGHT_FOUR,
            max_tokens=4096,
        ),
        Suite(
            name="bright-v1.1",
            purpose="test",
            about="BRIGHT v1.1, 12 short sets",
            mteb_tasks=tuple(f"Bright{name}Retrieval" for name in _BRIGHT_SHORT),
        ),
        Suite(
            name="bright-long",
            purpose="test",
            about="BRIGHT v1.1, 8 sets of whole web pages",
            mteb_tasks=tuple(f"Bright{name}LongRetrieval" for name in _BRIGHT_LONG),
        ),
        Suite(
            name="followir",
            purpose="test",
            about="FollowIR: p-MRR over all 1,000 candidates (table 4)",
            mteb_tasks=(
                "Robust04InstructionRetrieval",
                "News21InstructionRetrieval",
                "Core17InstructionRetrieval",
            ),
        ),
        Suite(
            name="mteb-15",
            purpose="test",
            about="the 15 MTEB tasks of table 6",
            mteb_tasks=(
                "ArguAna",
                "Banking77Classification",
                "BiorxivClusteringS2S",
                "EmotionClassification",
                "MassiveIntentClassification",
                "MedrxivClusteringS2S",
                "NFCorpus",
                "SciDocsRR",
                "SciFact",
                "SICK-R",
                "SprintDuplicateQuestions",
                "StackOverflowDupQuestions",
                "STS17",
                "STSBenchmark",
                "TwentyNewsgroupsClustering",
            ),
            mteb_subsets=("default", "en", "en-en"),
            max_tokens=4096,
        ),
    )
}


def find_suite(name: str) -> Suite:
    """A suite by name; `mteb:TASK` is a suite of one mteb task; a folder is a suite of the tasks it holds.

    Raises UnknownNameError.
    """
    if name in SUITES:
        return SUITES[name]
    if name.startswith("mteb:") and len(name) > len("mteb:"):
        return Suite(name=name, purpose="test", about="one mteb task", mteb_tasks=(name.removeprefix("mteb:"),))
    path = Path(name)
    if path.exists():
        spec = TaskSpec(name=path.name, place=str(path.resolve()))
        return Suite(name=path.name, purpose="test", about=f"the folder {path.name}", tasks=(spec,))
    raise UnknownNameError.of("suite", name, [*SUITES, "mteb:TASK"])


def data_folder(given: Path | str | None) -> Path:
    """The folder of `--data`, else of the environment variable. Raises ConfigError when there is neither."""
    chosen = given or os.environ.get(DATA_VARIABLE)
    if not chosen:
        raise ConfigError(f"this suite reads a data folder; name it with --data DIR or set {DATA_VARIABLE}")
    folder = Path(chosen)
    if not folder.is_dir():
        raise InputError(f"the data folder {folder} does not exist")
    return folder


def read_tasks(
    suite: Suite,
    *,
    data: Path | str | None = None,
    prompts: Prompts = "paper",
    counted_by: str = COUNTED_BY,
    names: Sequence[str] = (),
    seed: int = 0,
) -> Iterator[AnyTask]:
    """The tasks of an offline suite, one after the other, with their instructions.

    counted_by: model whose tokenizer counts the tokens of generated documents, or `words`.
    names: only these tasks. Raises UnknownNameError for a name the suite does not have.
    """
    if suite.mteb_tasks:
        raise ConfigError(f"suite {suite.name!r} is run through mteb, not from a data folder")
    unknown = next((name for name in names if name not in {spec.name for spec in suite.tasks}), None)
    if unknown is not None:
        raise UnknownNameError.of(f"task in suite {suite.name!r}", unknown, [spec.name for spec in suite.tasks])
    hay: tuple[str, TokenSpans] | None = None
    for spec in suite.tasks:
        if names and spec.name not in names:
            continue
        if spec.is_hidden:
            if hay is None:
                hay = _read_hay(data), load_token_spans(counted_by)
            yield _with_instruction(_hide(spec, data, hay[0], hay[1], seed), prompts)
            continue
        for task in _read(spec, data):
            yield _with_instruction(task, prompts)


def _read(spec: TaskSpec, data: Path | str | None) -> list[AnyTask]:
    place = find_place(spec, data)
    if spec.source == "concepts":
        return [read_concept_task(place, name=spec.name)]
    if spec.source == "topics":
        return [read_topic_task(place, name=spec.name)]
    return read_folder(place, name=spec.name, narrative_slot="instruction")


def find_place(spec: TaskSpec, data: Path | str | None = None) -> Path:
    """Where a task is read from; a table may be compressed."""
    place = Path(spec.place) if Path(spec.place).is_absolute() else data_folder(data) / spec.place
    if place.suffix == ".tsv" and not place.exists():
        place = next((other for end in (".zst", ".gz", ".bz2") if (other := Path(f"{place}{end}")).exists()), place)
    return place


def _hide(spec: TaskSpec, data: Path | str | None, hay: str, token_spans: TokenSpans, seed: int) -> Task:
    makers: dict[str, Callable[..., Task]] = {
        "passkey": make_passkey_task,
        "needle": make_needle_task,
        "birthday": make_birthday_task,
    }
    if spec.source == "paraphrase":
        makers["paraphrase"] = partial(make_paraphrase_task, pairs=read_pairs(find_place(spec, data)))
    return makers[spec.source](
        spec.length,
        hay=hay,
        token_spans=token_spans,
        num_documents=spec.num_documents,
        num_queries=spec.num_queries,
        seed=seed,
    )


def _read_hay(data: Path | str | None) -> str:
    """The held-out novels of the data folder; the standard library's text where no folder is given."""
    from diffembed.data.files import read_lines
    from diffembed.evaluation.suites.stdlib import haystack_text

    if data is None and not os.environ.get(DATA_VARIABLE):
        return haystack_text()
    return b"".join(read_lines(data_folder(data) / HAY_FILE)).decode("utf-8")


def load_token_spans(counted_by: str) -> TokenSpans:
    """(start, end) of each token by the tokenizer of a model, or of each word for `words`."""
    if counted_by == "words":
        return word_spans
    from transformers import AutoTokenizer

    from diffembed.backbones.loading import locate
    from diffembed.backbones.registry import find_model
    from diffembed.backbones.tiny import build_tokenizer

    spec = find_model(counted_by)
    tokenizer: Any
    if spec is not None and spec.source == "tiny":
        tokenizer = build_tokenizer()
    else:
        tokenizer = AutoTokenizer.from_pretrained(locate(counted_by, spec))
    backend = tokenizer.backend_tokenizer
    return lambda text: backend.encode(text, add_special_tokens=False).offsets


def _with_instruction(task: AnyTask, prompts: Prompts) -> AnyTask:
    instruction = find_instruction(task.name, kind_of(task), prompts=prompts)
    if isinstance(task, InstructionTask):
        sides = {side: dataclasses.replace(getattr(task, side), instruction=instruction) for side in ("og", "changed")}
        return dataclasses.replace(task, **sides)
    return dataclasses.replace(task, instruction=instruction)
