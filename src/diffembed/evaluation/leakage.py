"""Whether training has seen what is tested: equal texts, shared runs of eight words, near copies.

Read `check_leakage`. Near copies are found as in arXiv 2505.15045, by difflib's ratio, among the training texts that
share most words with the test text. This module knows nothing of encoders.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from diffembed.data.files import ROW_SUFFIXES, read_lines
from diffembed.data.formats import Triplet
from diffembed.data.source_config import SourceConfig
from diffembed.data.sources import load_sources
from diffembed.errors import ConfigError, EmptyInputError, InputError
from diffembed.evaluation.suites.named import find_suite
from diffembed.evaluation.suites.reading import read_tasks
from diffembed.evaluation.systems.baselines import BM25
from diffembed.evaluation.tasks import AnyTask, InstructionTask, LabelTask, PairTask
from diffembed.records import Document, Query

NGRAM_WORDS = 8
RATIO_THRESHOLD = 0.7
"""difflib ratio at which a text counts as a near copy; the paper's code flags from 0.7, and found 0.5 at most."""
NUM_CANDIDATES = 3
"""Training texts, by BM25, that each test text is compared with letter by letter."""
RATIO_CHARACTERS = 2_000
"""difflib is quadratic: both texts are compared up to here."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """One test text that training has seen, whole or in part."""

    kind: str
    """exact, ngram or ratio: the strongest that holds."""
    role: str
    """What it is in the test set: query, gold document, text."""
    test_id: str
    train_id: str
    covered_fraction: float
    """Runs of n words of the test text that occur in training, over all of its runs."""
    ratio: float
    """difflib ratio with the nearest training text; 0 where it was not computed."""
    shared: str
    """The first shared run of words, for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeakReport:
    """Every leak of one task, and how much was looked at."""

    task: str
    num_test_texts: int
    num_train_texts: int
    leaks: tuple[Leak, ...]
    max_ratio: float
    """Largest difflib ratio found, leak or not."""

    def count(self, kind: str) -> int:
        """Leaks of one kind."""
        return sum(leak.kind == kind for leak in self.leaks)


def check_leakage(
    train: Iterable[Triplet] | Mapping[str, str],
    task: AnyTask,
    *,
    ngram_words: int = NGRAM_WORDS,
    ratio_threshold: float = RATIO_THRESHOLD,
    is_ratio_computed: bool = True,
) -> LeakReport:
    """Queries and gold documents of a task against training rows, or against texts by id.

    A text is `exact` when its words, case and punctuation apart, equal a training text's; `ngram` when it shares a run
    of `ngram_words` words; `ratio` when difflib's ratio with its nearest training text reaches the threshold.
    """
    if ngram_words < 2:
        raise ConfigError(f"ngram_words is {ngram_words}; it must be at least 2")
    train_texts = dict(train) if isinstance(train, Mapping) else texts_of_rows(train)
    if not train_texts:
        raise EmptyInputError("there is no training text to check against")
    test_texts = list(texts_of_task(task))
    test_words = [words(text) for _, _, text in test_texts]
    # Only runs that occur in the test set are remembered: training sets are the larger side.
    wanted = {run for found in test_words for run in _runs(found, ngram_words)}
    exact: dict[str, str] = {}
    seen: dict[tuple[str, ...], str] = {}
    test_keys = {" ".join(found) for found in test_words}
    for key, text in train_texts.items():
        found = words(text)
        joined = " ".join(found)
        if joined in test_keys:
            exact.setdefault(joined, key)
        for run in _runs(found, ngram_words):
            if run in wanted:
                seen.setdefault(run, key)
    ratios = _ratios(test_texts, train_texts) if is_ratio_computed else {}
    leaks = []
    for place, (role, test_id, _) in enumerate(test_texts):
        runs = list(_runs(test_words[place], ngram_words))
        shared = [run for run in runs if run in seen]
        ratio, nearest = ratios.get(place, (0.0, ""))
        joined = " ".join(test_words[place])
        if joined and joined in exact:
            kind, train_id = "exact", exact[joined]
        elif shared:
            kind, train_id = "ngram", seen[shared[0]]
        elif ratio >= ratio_threshold:
            kind, train_id = "ratio", nearest
        else:
            continue
        leaks.append(
            Leak(
                kind=kind,
                role=role,
                test_id=test_id,
                train_id=train_id,
                covered_fraction=len(shared) / len(runs) if runs else float(kind == "exact"),
                ratio=ratio,
                shared=" ".join(shared[0]) if shared else "",
            )
        )
    return LeakReport(
        task=task.name,
        num_test_texts=len(test_texts),
        num_train_texts=len(train_texts),
        leaks=tuple(leaks),
        max_ratio=max((ratio for ratio, _ in ratios.values()), default=0.0),
    )


def check_suite(
    rows: Path | str,
    suite: str,
    *,
    data: Path | str | None = None,
    tasks: Sequence[str] = (),
    ngram_words: int = NGRAM_WORDS,
    ratio_threshold: float = RATIO_THRESHOLD,
) -> list[LeakReport]:
    """Every task of an offline suite against a file of rows, a folder of them, or the paragraphs of a text file.

    Haystacks of generated tasks are counted in words here; their hidden sentences do not depend on it.
    """
    train = read_training_texts(Path(rows))
    read = read_tasks(find_suite(suite), data=data, names=tasks, counted_by="words")
    return [check_leakage(train, task, ngram_words=ngram_words, ratio_threshold=ratio_threshold) for task in read]


def read_training_texts(path: Path) -> dict[str, str]:
    """Texts by id: of the rows of a file, of all row files in a folder and below, or the paragraphs of a text file."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    files = [file for file in files if any(suffix in ROW_SUFFIXES for suffix in file.suffixes)]
    if path.is_dir() and not files:
        raise InputError(f"{path} holds no row file ({', '.join(ROW_SUFFIXES)}, also compressed)")
    if files:
        named = {"" if file == path else str(file.relative_to(path)): file for file in files}
        configs = [SourceConfig(kind="rows", path=str(file), name=name or None) for name, file in named.items()]
        sources = load_sources(configs, seed=0)
        return texts_of_rows(row for source in sources.values() for row in source.triplets)
    text = b"".join(read_lines(path)).decode("utf-8", "replace")
    return {f"{path.name} paragraph {n}": part for n, part in enumerate(text.split("\n\n"), start=1) if part.strip()}


def words(text: str) -> list[str]:
    """The words of a text in lower case, punctuation left out."""
    return _WORD.findall(text.lower())


def _runs(found: Sequence[str], length: int) -> Iterable[tuple[str, ...]]:
    return (tuple(found[start : start + length]) for start in range(len(found) - length + 1))


def texts_of_rows(rows: Iterable[Triplet]) -> dict[str, str]:
    """Every text of training rows, by source, row and role."""
    texts: dict[str, str] = {}
    for row in rows:
        texts[f"{row.source}/{row.id} query"] = row.query
        texts[f"{row.source}/{row.id} positive"] = row.positive
        texts.update({f"{row.source}/{row.id} negative {n}": text for n, text in enumerate(row.negatives)})
    return texts


def texts_of_task(task: AnyTask) -> Iterable[tuple[str, str, str]]:
    """(role, id, text) of what a training row must not hold: queries, gold documents, labelled and paired texts."""
    if isinstance(task, PairTask):
        for number, (left, right) in enumerate(zip(task.left, task.right, strict=True)):
            yield from (("text", f"{number:05d} left", left), ("text", f"{number:05d} right", right))
        return
    if isinstance(task, LabelTask):
        yield from (("text", f"{number:05d}", text) for number, text in enumerate(task.texts))
        return
    side = task.og if isinstance(task, InstructionTask) else task
    yield from (("query", query.id, query.text) for query in side.queries)
    gold = {key for judged in side.qrels.values() for key, grade in judged.items() if grade > 0}
    yield from (("gold document", document.id, document.full_text) for document in side.corpus if document.id in gold)


def _ratios(test_texts: Sequence[tuple[str, str, str]], train_texts: Mapping[str, str]) -> dict[int, tuple[float, str]]:
    """Place of a test text -> (difflib ratio, id) of its nearest training text, among those BM25 puts first."""
    index = BM25([Document(id=key, text=text) for key, text in train_texts.items()])
    queries = [Query(id=str(place), text=text) for place, (_, _, text) in enumerate(test_texts)]
    nearest = {}
    for query in queries:
        best = (0.0, "")
        matcher = SequenceMatcher(autojunk=False)
        # difflib keeps what it learns of its second text: that is the one compared several times.
        matcher.set_seq2(query.text[:RATIO_CHARACTERS])
        for key in index.search([query], top_k=NUM_CANDIDATES)[query.id]:
            matcher.set_seq1(train_texts[key][:RATIO_CHARACTERS])
            if matcher.real_quick_ratio() > best[0] and matcher.quick_ratio() > best[0]:
                best = max(best, (matcher.ratio(), key))
        nearest[int(query.id)] = best
    return nearest
