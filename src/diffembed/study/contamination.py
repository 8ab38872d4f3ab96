"""Whether a plan trains on what it tests: queries, pairs, gold documents, and the sentences of generated tasks.

Read `require_clean`, then `find_contamination`. Texts are compared as words in lower case without punctuation. A gold
document counts as seen when more than a fifth of its runs of 13 words occur in training. Knows nothing of models.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffembed.code import hash_code
from diffembed.data.formats import RowReport, Triplet
from diffembed.data.text_files import find_text_files, read_documents
from diffembed.errors import InputError
from diffembed.evaluation.leakage import texts_of_rows, texts_of_task, words
from diffembed.evaluation.suites.named import SUITES, find_suite
from diffembed.evaluation.suites.needles import FACTS
from diffembed.evaluation.suites.reading import read_tasks
from diffembed.evaluation.tasks import AnyTask, Task
from diffembed.provenance import choices, hash_config, write_json
from diffembed.study.graph import make_graph
from diffembed.study.plan import StudyPlan, suite_name
from diffembed.study.store import Store, hash_inputs
from diffembed.training.config import TextConfig, TrainConfig
from diffembed.training.contrast import load_rows
from diffembed.training.settings import resolve_path

GRAM_WORDS = 13
MAX_COVER = 0.2
"""Share of a gold document's runs of 13 words that training may hold; the issue's bound."""
MIN_QUERY_WORDS = 8
"""A shorter query ("You do not need to worry.") is a phrase that any text may hold; it is looked for among whole row
texts only. Eight words as in `leakage.NGRAM_WORDS`."""
MIN_LITERAL_WORDS = 6
"""Words of a fixed part of a hidden sentence that are looked for; shorter parts are ordinary English."""
PASSKEY_LITERALS = ("the pass key of",)
BATCH_WORDS = 1_000_000
SHOWN = 5
Hashes = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One test text that training holds."""

    kind: str
    """query, pair, gold document or template."""
    task: str
    test_id: str
    place: str
    """Row or file that holds it."""
    cover: float
    """Share of its runs of words that were found."""
    is_allowed: bool
    """True for gold documents of a set that shares them with training by design: they are reported, not refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contamination:
    """What was compared, and what was found."""

    num_row_texts: int
    """Different texts of the training rows of every seed."""
    num_text_words: int
    """Words of adaptation text."""
    tasks: Mapping[str, Mapping[str, Any]]
    """Task -> number of texts, largest and mean cover of its gold documents, and whether training may hold them."""
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
    missing = sorted(name for name, found in inputs.items() if found is None)
    if missing:
        raise InputError(f"{', '.join(missing[:3])} read data that is not here; set DIFFEMBED_DATA")
    facts = {
        "inputs": inputs,
        "plan": contamination_key(plan),
        "code": hash_code("diffembed.study.contamination"),
    }
    path = store.runs / "contamination" / f"{hash_config(facts)}.json"
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        found = Contamination(**{**stored, "findings": tuple(Finding(**finding) for finding in stored["findings"])})
    else:
        notify("comparing training with tests")
        rows = [row for config in _row_configs(plan) for row in load_rows(config).train]
        text = plan.adaptation.text if plan.adaptation is not None else None
        found = find_contamination(rows, text, list(test_tasks(plan)))
        found = replace(found, plan_key=contamination_key(plan))
        write_json(path, found)
    write_json(store.results / "contamination.json", found)
    refused = found.refused
    if refused:
        shown = "; ".join(
            f"{f.kind} {f.test_id} of {f.task} in {f.place}" + (f" ({f.cover:.0%})" if f.cover < 1 else "")
            for f in refused[:SHOWN]
        )
        more = f" and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
        raise InputError(f"training has seen what is tested: {shown}{more}; all are listed in {path}")
    return found


def contamination_key(plan: StudyPlan) -> str:
    """Hash of what of a plan decides which texts are compared; the same on every machine."""
    text = plan.adaptation.text if plan.adaptation is not None else None
    return hash_config(choices([_row_configs(plan), text, _tested(plan), plan.seed]))


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


def test_tasks(plan: StudyPlan) -> Iterator[tuple[AnyTask, bool]]:
    """(task, whether training may hold its documents) of all that is tested; haystacks are counted in words here."""
    for name, tasks in _tested(plan).items():
        suite = find_suite(suite_name(name))
        sharing = {spec.name for spec in suite.tasks if name in SUITES and spec.shares_documents}
        for task in read_tasks(suite, names=tasks, counted_by="words", seed=plan.seed):
            yield task, task.name in sharing


@dataclass
class _Wanted:
    """The runs of words that are looked for, and where each was found first."""

    length: int
    hashes: Hashes
    """Sorted, each once."""
    places: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.places = np.full(len(self.hashes), -1, np.int64)

    def look(self, ids: Hashes, owners: NDArray[np.int64]) -> None:
        """Marks the runs that occur in a stretch of words; `owners`: number of the text of each word."""
        found = _run_hashes(ids, self.length)
        if not len(self.hashes) or not len(found):
            return
        spots = np.minimum(np.searchsorted(self.hashes, found), len(self.hashes) - 1)
        hit = np.flatnonzero(self.hashes[spots] == found)[::-1]
        # Reversed, so that the first text that holds a run is the one that stays.
        new = self.places[spots[hit]] < 0
        self.places[spots[hit[new]]] = owners[hit[new]]

    def of(self, ids: Hashes) -> NDArray[np.int64]:
        """Number of the text that holds each run of a test text, -1 where none does."""
        found = _run_hashes(ids, self.length)
        return np.asarray(self.places[np.searchsorted(self.hashes, found)], np.int64)


def find_contamination(
    rows: Sequence[Triplet], text: TextConfig | None, tasks: Sequence[tuple[AnyTask, bool]]
) -> Contamination:
    """Everything of the tasks that rows or adaptation text hold."""
    numbers = _Numbers()
    tests = [
        (task, may_share, role, test_id, words(content))
        for task, may_share in tasks
        for role, test_id, content in texts_of_task(task)
    ]
    encoded = [numbers.add(found) for *_, found in tests]
    row_texts = _row_texts(rows)
    names = list(row_texts.values())
    whole = {" ".join(found): "" for *_, found in tests}
    grams = _Wanted(length=GRAM_WORDS, hashes=_all_hashes(encoded, GRAM_WORDS))

    def equal_noted() -> Iterator[tuple[int, list[str]]]:
        for number, content in enumerate(row_texts):
            inside = words(content)
            joined = " ".join(inside)
            if joined in whole and not whole[joined]:
                whole[joined] = names[number]
            yield number, inside

    # A query may stand inside a longer text: it is looked for as a run of its own length.
    queries = {
        length: _Wanted(length=length, hashes=_all_hashes([e for e in encoded if len(e) == length], length))
        for length in range(MIN_QUERY_WORDS, GRAM_WORDS)
    }
    for ids, owners in _stretches(equal_noted(), numbers):
        for wanted in (grams, *queries.values()):
            wanted.look(ids, owners)
    num_text_words, files = 0, _text_files(text)
    for file in files:
        names.append(file.name)
        pieces = ((len(names) - 1, words(piece.text)) for piece in read_documents(file, RowReport(source=file.name)))
        for ids, owners in _stretches(pieces, numbers):
            num_text_words += len(ids)
            for wanted in (grams, *queries.values()):
                wanted.look(ids, owners)

    findings: list[Finding] = []
    covers: dict[str, list[float]] = {}
    for (task, may_share, role, test_id, found), ids in zip(tests, encoded, strict=True):
        if not found:
            continue
        equal = whole[" ".join(found)]
        is_gold = role == "gold document"
        if is_gold:
            places = grams.of(ids) if len(ids) >= GRAM_WORDS else np.empty(0, np.int64)
            cover = float((places >= 0).mean()) if len(places) else float(bool(equal))
            covers.setdefault(task.name, []).append(cover)
            if cover > MAX_COVER:
                place = equal or names[int(places[places >= 0][0])]
                findings.append(_finding("gold document", task, test_id, place, cover, may_share))
        else:
            sought = grams if len(ids) >= GRAM_WORDS else queries.get(len(ids))
            places = sought.of(ids) if sought is not None else np.full(1, -1)
            if equal or bool((places >= 0).all()):
                place = equal or names[int(places[0])]
                findings.append(_finding("query", task, test_id, place, 1.0, False))
    findings += _pairs(rows, [task for task, _ in tasks])
    findings += _templates(row_texts, files)
    return Contamination(
        num_row_texts=len(row_texts),
        num_text_words=num_text_words,
        tasks={
            task.name: {
                "num_texts": sum(other[0] is task for other in tests),
                "may_share": may_share,
                "max_cover": max(covers.get(task.name, [0.0])),
                "mean_cover": float(np.mean(covers.get(task.name, [0.0]))),
            }
            for task, may_share in tasks
        },
        findings=tuple(dict.fromkeys(findings)),
    )


def _row_texts(rows: Iterable[Triplet]) -> dict[str, str]:
    """Text -> where it stands first. Not the other way round: under each seed a row has other negatives."""
    texts: dict[str, str] = {}
    for row in rows:
        for place, text in texts_of_rows([row]).items():
            texts.setdefault(text, place)
    return texts


def _finding(kind: str, task: AnyTask, test_id: str, place: str, cover: float, is_allowed: bool) -> Finding:
    return Finding(kind=kind, task=task.name, test_id=test_id, place=place, cover=cover, is_allowed=is_allowed)


def _pairs(rows: Sequence[Triplet], tasks: Sequence[AnyTask]) -> Iterator[Finding]:
    """A row that holds a test query and a document that answers it, whichever asks."""
    asked: dict[str, list[tuple[AnyTask, str, set[str]]]] = {}
    for task in tasks:
        if not isinstance(task, Task):
            continue
        texts = {document.id: " ".join(words(document.full_text)) for document in task.corpus}
        for query in task.queries:
            golds = {texts[key] for key, grade in task.qrels.get(query.id, {}).items() if grade > 0 and key in texts}
            asked.setdefault(" ".join(words(query.text)), []).append((task, query.id, golds))
    for row in rows:
        sides = [" ".join(words(row.query)), " ".join(words(row.positive))]
        for side, other in (sides, sides[::-1]):
            for task, test_id, golds in asked.get(side, []):
                if other in golds:
                    yield _finding("pair", task, test_id, f"{row.source}/{row.id}", 1.0, False)


def _templates(row_texts: Mapping[str, str], files: Sequence[Any]) -> Iterator[Finding]:
    """`row_texts`: text -> place. Rows and files that hold the sentences which passkey and needle tasks hide or ask."""
    parts = [part.strip().lower() for pair in FACTS for template in pair for part in template.split("{place}")]
    literals = (*PASSKEY_LITERALS, *(part for part in parts if len(part.split()) >= MIN_LITERAL_WORDS))
    contents = [(place, text) for text, place in row_texts.items()]
    contents += [
        (file.name, piece.text) for file in files for piece in read_documents(file, RowReport(source=file.name))
    ]
    everything = "\n".join(" ".join(content.lower().split()) for _, content in contents)
    for literal in literals:
        if literal in everything:
            place = next(name for name, content in contents if literal in " ".join(content.lower().split()))
            yield Finding(
                kind="template", task="passkey, needle", test_id=literal, place=place, cover=1.0, is_allowed=False
            )


def _text_files(text: TextConfig | None) -> list[Any]:
    return [] if text is None else find_text_files([resolve_path(name) for name in text.files])


class _Numbers:
    """Words of tests as random 64-bit numbers; every other word is 0, which no test text holds."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def add(self, found: Sequence[str]) -> Hashes:
        """Numbers of the words of a test text."""
        return _mixed(np.asarray([self.known.setdefault(word, len(self.known) + 1) for word in found], np.uint64))

    def of(self, found: Iterable[str]) -> Hashes:
        """Numbers of the words of training."""
        return _mixed(np.asarray([self.known.get(word, 0) for word in found], np.uint64))


def _mixed(ids: Hashes) -> Hashes:
    """splitmix64 of each number, 0 kept: sums of products of neighbours then hardly ever agree by chance."""
    x = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.where(ids == 0, np.uint64(0), x ^ (x >> np.uint64(31)))


def _run_hashes(ids: Hashes, length: int) -> Hashes:
    """One number for each run of words."""
    num_runs = max(0, len(ids) - length + 1)
    total = np.zeros(num_runs, np.uint64)
    for place in range(length):
        total = total * np.uint64(0x100000001B3) + ids[place : place + num_runs]
    return total


def _all_hashes(encoded: Iterable[Hashes], length: int) -> Hashes:
    found = [_run_hashes(ids, length) for ids in encoded]
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64)


def _stretches(texts: Iterable[tuple[int, list[str]]], numbers: _Numbers) -> Iterator[tuple[Hashes, NDArray[np.int64]]]:
    """Many texts at a time as numbers, a 0 between two so that no run crosses; and the text of each word."""
    found: list[str] = []
    owners: list[int] = []
    for owner, inside in texts:
        found += [*inside, ""]
        owners += [owner] * (len(inside) + 1)
        if len(found) >= BATCH_WORDS:
            yield numbers.of(found), np.asarray(owners, np.int64)
            found, owners = [], []
    if found:
        yield numbers.of(found), np.asarray(owners, np.int64)
