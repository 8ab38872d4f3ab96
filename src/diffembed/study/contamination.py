"""Whether a plan trains on what it tests: queries, pairs, gold documents, and the sentences of generated tasks.

Read `require_clean`, then `find_contamination`. Texts are compared as words in lower case without punctuation. A gold
document counts as seen when more than a fifth of its runs of 13 words occur in training. Of a (query, gold) pair, the
query is found, whatever stands beside it. Knows nothing of models.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.code import hash_code
from diffembed.data.formats import RowReport, Triplet
from diffembed.data.source_config import BURIED, TURNED
from diffembed.data.text_files import find_text_files, read_documents
from diffembed.errors import CheckpointError, ConfigError, InputError
from diffembed.evaluation.leakage import texts_of_rows, texts_of_task, words
from diffembed.evaluation.suites.named import SUITES, find_suite
from diffembed.evaluation.suites.reading import read_tasks
from diffembed.evaluation.tasks import AnyTask
from diffembed.provenance import choices, hash_config, write_json
from diffembed.study.graph import make_graph
from diffembed.study.hidden_sentences import HiddenSentence, find_sentences
from diffembed.study.inputs import hash_inputs, say_missing
from diffembed.study.plan import StudyPlan
from diffembed.study.store import Store
from diffembed.study.suites import suite_name
from diffembed.study.word_runs import Hashes, Numbers, Runs
from diffembed.training.adapt_config import TextConfig
from diffembed.training.config import TrainConfig
from diffembed.training.contrast import load_rows
from diffembed.training.settings import resolve_path

GRAM_WORDS = 13
MAX_COVER = 0.2
"""Share of a gold document's runs of 13 words that training may hold; the issue's bound."""
MIN_QUERY_WORDS = 8
"""A shorter query ("You do not need to worry.") is a phrase that any text may hold; it is looked for among whole row
texts only. Eight words as in `leakage.NGRAM_WORDS`."""
STORED = "contamination.json"
SHOWN = 5
Kin = tuple[str, ...]
"""Sets of rows that share documents with a task by design; empty for most tasks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One test text that training holds."""

    kind: str
    """query (any text of a similarity or label task too), gold document or template."""
    task: str
    """passkey or needle for a template, whatever the length."""
    test_id: str
    place: str
    """Row or file that holds it."""
    cover: float
    """Share of its runs of words that were found."""
    is_allowed: bool
    """True for a gold document that only sets hold which share it by design, or that the plan says is seen
    (evaluation.seen): it is reported, not refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contamination:
    """What was compared, and what was found."""

    num_row_texts: int
    """Different texts of the training rows of every seed."""
    num_text_words: int
    """Words of adaptation text."""
    tasks: Mapping[str, Mapping[str, Any]]
    """Task -> number of texts, largest and mean cover of its gold documents, and whether any set may share them."""
    findings: tuple[Finding, ...]
    plan_key: str = ""
    """`contamination_key` of the plan that was compared."""

    @property
    def refused(self) -> tuple[Finding, ...]:
        """What stops a study."""
        return tuple(finding for finding in self.findings if not finding.is_allowed)


def require_clean(plan: StudyPlan, store: Store, notify: Callable[[str], None]) -> Contamination:
    """Compares once per data, plan and code. Raises InputError that names what was found, by id."""
    graph = make_graph(plan)
    inputs = {name: hash_inputs(node) for name, node in graph.items()}
    if missing := [graph[name] for name, found in inputs.items() if found is None]:
        raise InputError(say_missing(missing))
    facts = {
        "inputs": inputs,
        "plan": contamination_key(plan),
        "code": hash_code("diffembed.study.contamination"),
    }
    path = store.runs / "contamination" / f"{hash_config(facts)}.json"
    if path.is_file():
        found = _load(path)
    else:
        notify("comparing training with tests")
        rows = [row for config in _row_configs(plan) for row in load_rows(config).train]
        text = plan.adaptation.text if plan.adaptation is not None else None
        found = find_contamination(rows, text, list(test_tasks(plan)), seen=plan.evaluation.seen)
        found = replace(found, plan_key=contamination_key(plan))
        write_json(path, found)
    write_json(store.results / STORED, found)
    _refuse(found, path)
    return found


def is_compared(plan: StudyPlan, store: Store) -> bool:
    """Whether what is stored is the comparison of this plan."""
    path = store.results / STORED
    return path.is_file() and _load(path).plan_key == contamination_key(plan)


def stored_contamination(plan: StudyPlan, store: Store) -> Contamination:
    """What `require_clean` found for this plan.

    Raises CheckpointError where it found nothing yet, or for another plan, and InputError as it does.
    """
    path = store.results / STORED
    if not is_compared(plan, store):
        raise CheckpointError(
            f"{path} is {'of another plan' if path.is_file() else 'missing'}: training may have seen what is tested; "
            "compare them with: diffembed study run PLAN"
        )
    found = _load(path)
    _refuse(found, path)
    return found


def _load(path: Path) -> Contamination:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Contamination(**{**stored, "findings": tuple(Finding(**finding) for finding in stored["findings"])})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove it and compare training with tests anew") from error


def _refuse(found: Contamination, path: Path) -> None:
    if refused := found.refused:
        shown = "; ".join(
            f"{f.kind} {f.test_id} of {f.task} in {f.place}" + (f" ({f.cover:.0%})" if f.cover < 1 else "")
            for f in refused[:SHOWN]
        )
        more = f" and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
        raise InputError(f"training has seen what is tested: {shown}{more}; all are listed in {path}")


def contamination_key(plan: StudyPlan) -> str:
    """Hash of what of a plan decides which texts are compared; the same on every machine."""
    text = plan.adaptation.text if plan.adaptation is not None else None
    return hash_config(choices([_row_configs(plan), text, _tested(plan), plan.seed, plan.evaluation.seen]))


def _row_configs(plan: StudyPlan) -> list[TrainConfig]:
    """One training run for each choice of rows: seeds draw other negatives from the same rows."""
    nodes = [node.config for node in make_graph(plan).values() if isinstance(node.config, TrainConfig)]
    return list({hash_config([config.data, config.run.seed]): config for config in nodes}.values())


def _tested(plan: StudyPlan) -> dict[str, tuple[str, ...]]:
    """Suite -> tasks, empty for all, of everything that a report or a card shows a score of."""
    asked = [plan.evaluation.suites]
    asked += [plan.direction.suites] if plan.direction is not None else []
    asked += [plan.shipped.suites] if plan.shipped is not None else []
    found: dict[str, tuple[str, ...]] = {}
    for suites in asked:
        for name, tasks in suites.items():
            before = found.get(name, tasks)
            found[name] = tuple(dict.fromkeys((*before, *tasks))) if before and tasks else ()
    return found


def test_tasks(plan: StudyPlan) -> Iterator[tuple[AnyTask, Kin]]:
    """(task, sets that may hold its documents) of all that is tested; haystacks are counted in words here."""
    for name, tasks in _tested(plan).items():
        suite = find_suite(suite_name(name))
        sharing = {spec.name: spec.kin for spec in suite.tasks if name in SUITES and spec.shares_documents}
        for task in read_tasks(suite, names=tasks, counted_by="words", seed=plan.seed):
            yield task, sharing.get(task.name, ())


def find_contamination(
    rows: Sequence[Triplet], text: TextConfig | None, tasks: Sequence[tuple[AnyTask, Kin]], *, seen: Sequence[str] = ()
) -> Contamination:
    """Everything of the tasks that rows or adaptation text hold. Kin: sets that may hold documents of the task.

    seen: `task/id` of gold documents that are allowed wherever they stand. Raises ConfigError for any other.
    """
    numbers = Numbers()
    tests = [test for task, kin in tasks for test in _encode(task, kin, numbers)]
    row_texts = _row_texts(rows, {name for _, kin in tasks for name in kin})
    search = _Search(tests, numbers)
    for made_of, part in groupby(row_texts.items(), key=lambda item: item[0][1]):
        search.look(((place, content) for (content, _), place in part), made_of, is_row=True)
    num_text_words = search.look(_file_texts(text), "", is_row=False)
    judged = [finding for test in tests if (finding := _judge(test, search)) is not None]
    refused = {_address(finding) for finding in judged if finding.kind == "gold document" and not finding.is_allowed}
    if idle := [name for name in seen if name not in refused]:
        raise ConfigError(
            f"evaluation.seen names {', '.join(idle)}, which is no gold document that would be refused; leave it out"
        )
    judged = [replace(finding, is_allowed=True) if _address(finding) in seen else finding for finding in judged]
    return Contamination(
        num_row_texts=len({content for content, _ in row_texts}),
        num_text_words=num_text_words,
        tasks={task.name: _facts(task, kin, tests, search) for task, kin in tasks},
        findings=tuple(dict.fromkeys([*judged, *search.templates()])),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Test:
    """A text of a task, as it is looked for."""

    task: AnyTask
    kin: Kin
    is_gold: bool
    id: str
    joined: str
    """Its words; there is one at least."""
    ids: Hashes
    """Numbers of its words."""


def _encode(task: AnyTask, kin: Kin, numbers: Numbers) -> Iterator[_Test]:
    for role, test_id, content in texts_of_task(task):
        if found := words(content):
            yield _Test(
                task=task, kin=kin, is_gold=role == "gold document", id=test_id, joined=" ".join(found),
                ids=numbers.add(found),
            )  # fmt: skip


def _row_texts(rows: Iterable[Triplet], sharing: Collection[str]) -> dict[tuple[str, str], str]:
    """(text, the set it is of, "" where that is none of `sharing`) -> row where it stands first.

    Not the other way round: under each seed a row has other negatives. Rows that are made of a set's rows, by hiding or
    turning them, are of that set.
    """
    texts: dict[tuple[str, str], str] = {}
    for row in rows:
        made_of = row.source.removesuffix(BURIED).removesuffix(TURNED)
        for place, content in texts_of_rows([row]).items():
            texts.setdefault((content, made_of if made_of in sharing else ""), place)
    return texts


def _file_texts(text: TextConfig | None) -> Iterator[tuple[str, str]]:
    """(name of the file, text) of all that adaptation reads."""
    for file in find_text_files([resolve_path(name) for name in text.files]) if text is not None else []:
        for piece in read_documents(file, RowReport(source=file.name)):
            yield file.name, piece.text


class _Search:
    """What of the tests stands in training, and where first: in each set that may share documents, and elsewhere."""

    def __init__(self, tests: Sequence[_Test], numbers: Numbers) -> None:
        self._numbers = numbers
        self._places: list[str] = []
        """Row or file of each text that was looked at."""
        self._whole: dict[str, dict[str, int]] = {test.joined: {} for test in tests}
        """Words of a test text -> set -> number of the first row text that is the same."""
        # A query may stand inside a longer text: it is looked for as a run of its own length.
        self._runs = {
            length: Runs(length, [test.ids for test in tests if len(test.ids) == length])
            for length in range(MIN_QUERY_WORDS, GRAM_WORDS)
        }
        self._runs[GRAM_WORDS] = Runs(GRAM_WORDS, [test.ids for test in tests])
        self._sentences: dict[HiddenSentence, int] = {}

    def look(self, texts: Iterable[tuple[str, str]], made_of: str, *, is_row: bool) -> int:
        """Reads (place, text) pairs of one set, "" for all that may share nothing, and returns the number of words."""
        num_words = 0

        def noted() -> Iterator[tuple[int, list[str]]]:
            nonlocal num_words
            for number, (place, content) in enumerate(texts, len(self._places)):
                self._places.append(place)
                found = words(content)
                joined = " ".join(found)
                if is_row and joined in self._whole:
                    self._whole[joined].setdefault(made_of, number)
                for sentence in find_sentences(joined):
                    self._sentences.setdefault(sentence, number)
                num_words += len(found)
                yield number, found

        for ids, owners in self._numbers.stretches(noted()):
            for runs in self._runs.values():
                runs.look(ids, owners, made_of)
        return num_words

    def document(self, test: _Test, *, but: Kin = ()) -> tuple[float, str]:
        """(share of its runs of words that stand outside the sets `but`, the first place that holds one)."""
        equal = self._equal(test, but)
        if len(test.ids) < GRAM_WORDS:
            return float(bool(equal)), equal
        held = self._runs[GRAM_WORDS].find(test.ids, but)
        place = equal or next((self._places[number] for number in held if number >= 0), "")
        return float((held >= 0).mean()), place

    def query(self, test: _Test) -> str:
        """The place that holds it whole, or its first run where all of them occur; "" where one is missing."""
        runs = self._runs.get(min(len(test.ids), GRAM_WORDS))
        held = runs.find(test.ids) if runs is not None else np.full(1, -1)
        return self._equal(test) or (self._places[held[0]] if (held >= 0).all() else "")

    def _equal(self, test: _Test, but: Kin = ()) -> str:
        return next((self._places[n] for made_of, n in self._whole[test.joined].items() if made_of not in but), "")

    def templates(self) -> Iterator[Finding]:
        """The hidden sentences that were met."""
        for sentence, number in self._sentences.items():
            yield Finding(
                kind="template", task=sentence.family, test_id=sentence.template, place=self._places[number],
                cover=1.0, is_allowed=False,
            )  # fmt: skip


def _address(finding: Finding) -> str:
    """As a plan names it."""
    return f"{finding.task}/{finding.test_id}"


def _judge(test: _Test, search: _Search) -> Finding | None:
    """A query is refused wherever it stands; a gold document is allowed where only sets hold it that may share it."""
    if not test.is_gold:
        place = search.query(test)
        return _finding("query", test, place, 1.0, is_allowed=False) if place else None
    cover, place = search.document(test)
    if cover <= MAX_COVER:
        return None
    cover_elsewhere, elsewhere = search.document(test, but=test.kin)
    if cover_elsewhere <= MAX_COVER:
        return _finding("gold document", test, place, cover, is_allowed=True)
    return _finding("gold document", test, elsewhere, cover_elsewhere, is_allowed=False)


def _finding(kind: str, test: _Test, place: str, cover: float, *, is_allowed: bool) -> Finding:
    return Finding(kind=kind, task=test.task.name, test_id=test.id, place=place, cover=cover, is_allowed=is_allowed)


def _facts(task: AnyTask, kin: Kin, tests: Sequence[_Test], search: _Search) -> dict[str, Any]:
    covers = [search.document(test)[0] for test in tests if test.task is task and test.is_gold] or [0.0]
    return {
        "num_texts": sum(1 for _ in texts_of_task(task)),
        "may_share": bool(kin),
        "max_cover": max(covers),
        "mean_cover": float(np.mean(covers)),
    }
