"""What can be scored: a retrieval task, one with changed instructions, sentence pairs, labelled texts.

Read `Task` first. Suites, the generated haystacks and the standard-library tasks build these records, and everything
that runs or scores a task takes them. A record that was built is sound: ids are unique, judgements name known ids and
every query is judged. This module knows nothing of encoders, files or benchmarks.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from diffembed.errors import EmptyInputError, InputError
from diffembed.records import Document, Qrels, Query


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One corpus, its queries, their judgements and the measures they are scored by.

    Raises InputError at construction for duplicate ids, for judgements or candidates that name unknown ids and for
    queries without a judgement.
    """

    name: str
    """Unique among the tasks of one comparison, for example `passkey-256`."""
    corpus: Sequence[Document]
    queries: Sequence[Query]
    qrels: Qrels
    """Judgements of all queries."""
    measures: tuple[str, ...] = ("nDCG@10",)
    """`ir-measures` names; the first is the main one."""
    family: str = ""
    """Tasks of one family are averaged with equal weight into one score; empty means the task stands alone."""
    length: int | None = None
    """Tokens of each document where all have the same number, `None` otherwise."""
    instruction: str | None = None
    """Sent with queries that have none of their own; `None` takes the encoder's default, `''` takes none."""
    candidates: Mapping[str, Sequence[str]] | None = None
    """Query id -> the only documents to rank; `None` ranks the whole corpus."""
    subsets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Name -> query ids that are also scored on their own, for example QMSum's `specific` questions."""

    def __post_init__(self) -> None:
        if not self.corpus:
            raise EmptyInputError(f"task {self.name!r} has no documents")
        if not self.queries:
            raise EmptyInputError(f"task {self.name!r} has no queries")
        document_ids = _unique([document.id for document in self.corpus], f"document id in task {self.name!r}")
        query_ids = _unique([query.id for query in self.queries], f"query id in task {self.name!r}")
        for query, judged in self.qrels.items():
            if query not in query_ids:
                raise InputError(
                    f"the qrels of task {self.name!r} name query {query!r}, which is not among its queries"
                )
            unknown = next((document for document in judged if document not in document_ids), None)
            if unknown is not None:
                raise InputError(
                    f"the qrels of task {self.name!r} name document {unknown!r}, which is not in its corpus"
                )
        bare = next((query.id for query in self.queries if not self.qrels.get(query.id)), None)
        if bare is not None:
            raise InputError(f"query {bare!r} of task {self.name!r} has no judgements")
        self._check_candidates(document_ids)
        for name, members in self.subsets.items():
            stranger = next(iter(sorted(members - query_ids)), None)
            if stranger is not None or not members:
                raise InputError(f"subset {name!r} of task {self.name!r} names query {stranger!r}, which is unknown")

    def _check_candidates(self, document_ids: set[str]) -> None:
        if self.candidates is None:
            return
        for query in self.queries:
            if not self.candidates.get(query.id):
                raise InputError(f"query {query.id!r} of task {self.name!r} has no candidate documents")
            unknown = next((key for key in self.candidates[query.id] if key not in document_ids), None)
            if unknown is not None:
                raise InputError(
                    f"the candidates of query {query.id!r} in task {self.name!r} name document {unknown!r}, "
                    "which is not in its corpus"
                )

    @property
    def group(self) -> str:
        """The family, or the task's own name where it stands alone."""
        return self.family or self.name


def _unique(ids: Sequence[str], what: str) -> set[str]:
    seen: set[str] = set()
    for key in ids:
        if key in seen:
            raise InputError(f"{what} {key!r} occurs twice")
        seen.add(key)
    return seen


NarrativeSlot = Literal["text", "instruction"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InstructionTask:
    """The same queries under an original and a changed instruction (FollowIR's form); scored by p-MRR."""

    name: str
    og: Task
    """Queries with `instruction` = the original narrative, and the judgements that hold under it."""
    changed: Task
    """The same queries, corpus and candidates under the changed narrative."""
    narrative_slot: NarrativeSlot = "text"
    """Where the narrative goes: appended to the query's `text` behind the task's prompt, as FollowIR and the paper do,
    or into the `instruction` slot of the encoder's template, as models fine-tuned on such rows expect."""

    def __post_init__(self) -> None:
        if [query.id for query in self.og.queries] != [query.id for query in self.changed.queries]:
            raise InputError(f"the original and the changed queries of task {self.name!r} are not the same")
        if self.og.corpus is not self.changed.corpus:
            raise InputError(f"the original and the changed side of task {self.name!r} do not share a corpus")
        bare = next(
            (query for side in (self.og, self.changed) for query in side.queries if not query.instruction), None
        )
        if bare is not None:
            raise InputError(f"query {bare.id!r} of task {self.name!r} lacks one of its two instructions")

    def posed(self, side: Task) -> Task:
        """One side with its narratives where `narrative_slot` puts them."""
        if self.narrative_slot == "instruction":
            return side
        queries = [
            dataclasses.replace(query, text=f"{query.text} {query.instruction}", instruction=None)
            for query in side.queries
        ]
        return dataclasses.replace(side, queries=queries)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairTask:
    """Pairs of sentences with a graded similarity; scored by Spearman's correlation with the cosine."""

    name: str
    left: Sequence[str]
    right: Sequence[str]
    gold: Sequence[float]
    instruction: str | None = None
    """Put before both sentences: the task is symmetric."""

    def __post_init__(self) -> None:
        if not len(self.left) == len(self.right) == len(self.gold):
            raise InputError(
                f"task {self.name!r} has {len(self.left)} and {len(self.right)} sentences for {len(self.gold)} scores"
            )
        if len(self.gold) < 2:
            raise EmptyInputError(f"task {self.name!r} has {len(self.gold)} pairs; a correlation needs 2 or more")
        bad = next((row for row, value in enumerate(self.gold) if not math.isfinite(value)), None)
        if bad is not None:
            raise InputError(f"pair {bad + 1} of task {self.name!r} has the score {self.gold[bad]}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTask:
    """Labelled texts; scored by a linear classifier on few examples, or by clustering."""

    name: str
    kind: Literal["classification", "clustering"]
    texts: Sequence[str]
    """Texts that are scored."""
    labels: Sequence[str]
    train_texts: Sequence[str] = ()
    """Texts the classifier learns from; empty for clustering."""
    train_labels: Sequence[str] = ()
    instruction: str | None = None
    """Put before every text."""

    def __post_init__(self) -> None:
        if not self.texts:
            raise EmptyInputError(f"task {self.name!r} has no texts")
        if len(self.texts) != len(self.labels) or len(self.train_texts) != len(self.train_labels):
            raise InputError(f"task {self.name!r} does not have one label for each text")
        if self.kind == "classification":
            unseen = sorted(set(self.labels) - set(self.train_labels))
            if unseen:
                raise InputError(f"label {unseen[0]!r} of task {self.name!r} has no training text")
        elif self.train_texts:
            raise InputError(f"task {self.name!r} clusters its texts; training texts would have no effect")


AnyTask = Task | InstructionTask | PairTask | LabelTask


def hash_task(task: AnyTask) -> str:
    """First 16 hex digits of the sha256 over every text, id, judgement and setting of a task."""
    digest = hashlib.sha256()
    for part in _parts(task):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def _parts(task: AnyTask) -> Iterator[str]:
    yield f"{type(task).__name__} {task.name}"
    if isinstance(task, InstructionTask):
        yield task.narrative_slot
        yield from _parts(task.og)
        yield from _parts(task.changed)
    elif isinstance(task, PairTask):
        yield repr(task.instruction)
        for left, right, gold in zip(task.left, task.right, task.gold, strict=True):
            yield from (left, right, repr(gold))
    elif isinstance(task, LabelTask):
        yield f"{task.kind} {task.instruction!r}"
        for texts, labels in ((task.texts, task.labels), (task.train_texts, task.train_labels)):
            yield f"{len(texts)}"
            for text, label in zip(texts, labels, strict=True):
                yield from (text, label)
    else:
        yield f"{task.measures} {task.instruction!r}"
        for document in task.corpus:
            yield from (document.id, document.title, document.text)
        for query in task.queries:
            yield from (query.id, query.text, repr(query.instruction), repr(sorted(query.excluded_ids)))
            yield repr(sorted(task.qrels[query.id].items()))
            yield repr(None if task.candidates is None else list(task.candidates[query.id]))
        yield repr(sorted((name, sorted(members)) for name, members in task.subsets.items()))
