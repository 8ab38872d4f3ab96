"""Named suites: which tasks, where each comes from, and how long a text may be.

Read `SUITES`. A TEST suite is run on final checkpoints; every choice uses a DEVELOPMENT suite. The hub suites are lists
of mteb task names and are run by `evaluation.hub`; all others are read by `reading.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffembed.errors import ConfigError, UnknownNameError

LONGEMBED_LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
COUNTED_BY = "gemma-3-270m"
"""Tokenizer that haystack lengths are counted with, for all models alike, so that all read the same documents."""

Hidden = Literal["passkey", "needle", "paraphrase", "birthday"]
Source = Literal["folder", "concepts", "topics"] | Hidden


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
    has_labels: bool = False
    """True for labelled texts, which are classified and clustered: two results of one task."""

    @property
    def result_names(self) -> tuple[str, ...]:
        """Names of its results in a named suite."""
        return (f"{self.name}-classification", f"{self.name}-clustering") if self.has_labels else (self.name,)

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

    @property
    def task_names(self) -> tuple[str, ...]:
        """Of its own tasks, or of mteb's."""
        return self.mteb_tasks or tuple(spec.name for spec in self.tasks)


def _folder(name: str, place: str = "", *, kin: tuple[str, ...] = (), shares_documents: bool = False) -> TaskSpec:
    return TaskSpec(name=name, place=place or f"eval/{name}", kin=kin, shares_documents=shares_documents)


def _hidden(
    source: Hidden, lengths: Sequence[int], num_documents: int, num_queries: int, place: str = ""
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
# Both hold captions of photographs.
_STSB = _folder("stsb_test", "eval/sts/stsb_test.tsv", kin=("nli_counterfactual",))
_GENERAL = (
    _folder("scifact", kin=_SCIFACT, shares_documents=True),
    _folder("nq_qed", kin=("nq_qed",)),
    _STSB,
    TaskSpec(name="banking77", place="eval/banking77", has_labels=True),
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
        path = path.resolve()
        spec = TaskSpec(name=path.name, place=str(path))
        return Suite(name=path.name, purpose="test", about=f"the folder {path.name}", tasks=(spec,))
    raise UnknownNameError.of("suite", name, [*SUITES, "mteb:TASK"])


def share_tasks(suites: Sequence[Suite], tasks: Sequence[str]) -> list[tuple[Suite, tuple[str, ...]]]:
    """Each suite with those of the tasks that are its own; suites that have none of them are left out.

    Without tasks, all suites, each with none named. Raises UnknownNameError for a task that no suite has.
    """
    known = list(dict.fromkeys(name for suite in suites for name in suite.task_names))
    for task in tasks:
        if task not in known:
            raise UnknownNameError.of(f"task in {', '.join(suite.name for suite in suites)}", task, known)
    shared = [(suite, tuple(task for task in tasks if task in suite.task_names)) for suite in suites]
    return [(suite, own) for suite, own in shared if own or not tasks]


def find_suites(names: Sequence[str]) -> list[Suite]:
    """Suites by name. Raises ConfigError where two of them share a name, under which results are kept."""
    found = [find_suite(name) for name in names]
    called = [suite.name for suite in found]
    for name, suite in zip(names, called, strict=True):
        if called.count(suite) > 1:
            raise ConfigError(f"{name!r} is the second suite called {suite!r}; run it alone, or rename its folder")
    return found
