"""Systems that rank documents for queries: dense (float32 or int8), BM25, and the two fused.

Read `DenseSystem.rank`. A system takes a `Task` and gives one run per label with what it read; the sentence and label
tasks take its `read_plain`. This module knows nothing of measures, suites or files.
"""

# Q = queries, N = documents, D = width of the vectors

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError, UnknownNameError
from diffembed.evaluation.systems.baselines import BM25
from diffembed.evaluation.systems.ranking import DocumentOrder, search_vectors, top_hits
from diffembed.evaluation.systems.reading import Reader, Reading
from diffembed.records import Document, Query, Run, Vectors

Precision = Literal["float32", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "int8")
RRF_CONSTANT = 60
"""Added to the rank in reciprocal rank fusion. Source: Cormack et al. 2009."""
FUSION_DEPTH = 1000
"""Documents of each run that are fused."""


class Searchable(Protocol):
    """What a system needs of a task; a `Task` has it, and so has a benchmark that keeps its judgements to itself."""

    @property
    def name(self) -> str: ...

    @property
    def corpus(self) -> Sequence[Document]: ...

    @property
    def queries(self) -> Sequence[Query]: ...

    @property
    def instruction(self) -> str | None: ...

    @property
    def candidates(self) -> Mapping[str, Sequence[str]] | None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """What systems that share a forward pass did with one task."""

    runs: Mapping[str, Run]
    """Label -> run."""
    documents: Reading | None
    """`None` for a lexical system."""
    queries: Reading | None


class System(Protocol):
    """Whatever ranks the documents of a task."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names used in tables, one per run of a `Ranking`."""
        ...

    @property
    def identities(self) -> Mapping[str, str]:
        """Label -> hash of the model and its settings, where there is one."""
        ...

    @property
    def sends_instructions(self) -> bool:
        """Whether instructions reach the network; where not, a narrative is part of the query's text."""
        ...

    def rank(self, task: Searchable, *, top_k: int) -> Ranking:
        """The best `top_k` documents of every query, excluded documents taken out before the cut."""
        ...


class DenseSystem:
    """Exact cosine search with the vectors of a reader."""

    def __init__(self, reader: Reader, *, precision: Precision = "float32", sends_instructions: bool = True) -> None:
        """precision: `int8` stores documents with one byte per component, calibrated on the corpus.

        sends_instructions: False for encoders that were never trained with instructions; their own default prompt, if
        any, is used instead.
        """
        if precision not in PRECISIONS:
            raise UnknownNameError.of("precision", precision, list(PRECISIONS))
        self.reader = reader
        self.precision = precision
        self.sends_instructions = sends_instructions
        self._corpus: tuple[Sequence[Document], dict[str, Vectors], Reading, DocumentOrder] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the reader, with `+int8` where documents are quantised."""
        return tuple(self._label(label) for label in self.reader.labels)

    @property
    def identities(self) -> dict[str, str]:
        """Of the reader."""
        return {self._label(label): key for label, key in self.reader.identities.items()}

    def rank(self, task: Searchable, *, top_k: int) -> Ranking:
        """One run per label; the corpus of the task before is kept when it is the same object."""
        documents, document_reading, order = self._documents(task)
        queries, query_reading = self._queries(task)
        runs = {
            self._label(label): search_vectors(
                queries[label], task.queries, documents[label], order, top_k=top_k, candidates=task.candidates
            )
            for label in self.reader.labels
        }
        return Ranking(runs=runs, documents=document_reading, queries=query_reading)

    def read_plain(self, texts: Sequence[str], instruction: str | None) -> tuple[dict[str, Vectors], Reading]:
        """Label -> vectors of texts that are compared with each other; all carry the instruction, as queries do."""
        vectors, reading = self.reader.read(texts, "query", instruction if self.sends_instructions else None)
        return {self._label(label): vectors_ND for label, vectors_ND in vectors.items()}, reading

    def read_documents(self, texts: Sequence[str]) -> tuple[dict[str, Vectors], Reading]:
        """Label -> vectors of texts that are documents."""
        vectors, reading = self.reader.read(texts, "document")
        return {self._label(label): vectors_ND for label, vectors_ND in vectors.items()}, reading

    def _label(self, label: str) -> str:
        return label if self.precision == "float32" else f"{label}+{self.precision}"

    def _documents(self, task: Searchable) -> tuple[dict[str, Vectors], Reading, DocumentOrder]:
        if self._corpus is None or self._corpus[0] is not task.corpus:
            order = DocumentOrder([document.id for document in task.corpus])
            texts = [document.full_text for document in task.corpus]
            vectors, reading = self.reader.read(texts, "document", what=f"documents of {task.name}")
            if self.precision == "int8":
                vectors = {label: dequantise(*quantise_int8(vectors_ND)) for label, vectors_ND in vectors.items()}
            self._corpus = (task.corpus, vectors, reading, order)
        return self._corpus[1], self._corpus[2], self._corpus[3]

    def _queries(self, task: Searchable) -> tuple[dict[str, Vectors], Reading]:
        """Vectors in the order of the task's queries; each instruction is read in one go."""
        places: dict[str | None, list[int]] = {}
        for place, query in enumerate(task.queries):
            instruction = task.instruction if query.instruction is None else query.instruction
            instruction = instruction if self.sends_instructions else None
            places.setdefault(instruction, []).append(place)
        shape = (len(task.queries), self.reader.dim)
        vectors = {label: np.empty(shape, dtype=np.float32) for label in self.reader.labels}
        readings = []
        for instruction, group in places.items():
            texts = [task.queries[place].text for place in group]
            part, reading = self.reader.read(texts, "query", instruction, what=f"queries of {task.name}")
            readings.append(reading)
            for label, part_ND in part.items():
                vectors[label][group] = part_ND
        return vectors, add_readings(readings)


class LexicalSystem:
    """BM25; the index of the last corpus is kept."""

    labels = ("bm25",)
    sends_instructions = False
    identities: Mapping[str, str] = MappingProxyType({})

    def __init__(self) -> None:
        self._index: tuple[Sequence[Document], BM25] | None = None

    def rank(self, task: Searchable, *, top_k: int) -> Ranking:
        """One run; an instruction is no part of a lexical query."""
        if self._index is None or self._index[0] is not task.corpus:
            self._index = (task.corpus, BM25(task.corpus))
        run = self._index[1].search(task.queries, top_k=top_k, candidates=task.candidates)
        return Ranking(runs={"bm25": run}, documents=None, queries=None)


class HybridSystem:
    """Dense and lexical runs fused by reciprocal rank."""

    def __init__(self, dense: DenseSystem) -> None:
        self.dense = dense
        self.sends_instructions = dense.sends_instructions
        self.lexical = LexicalSystem()

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the dense system with `+bm25`."""
        return tuple(f"{label}+bm25" for label in self.dense.labels)

    @property
    def identities(self) -> dict[str, str]:
        """Of the dense system."""
        return {f"{label}+bm25": key for label, key in self.dense.identities.items()}

    def rank(self, task: Searchable, *, top_k: int) -> Ranking:
        """One fused run per label."""
        depth = max(top_k, FUSION_DEPTH)
        dense, lexical = self.dense.rank(task, top_k=depth), self.lexical.rank(task, top_k=depth).runs["bm25"]
        order = DocumentOrder([document.id for document in task.corpus])
        runs = {f"{label}+bm25": fuse([run, lexical], task.queries, order, top_k) for label, run in dense.runs.items()}
        return Ranking(runs=runs, documents=dense.documents, queries=dense.queries)


def fuse(
    runs: Sequence[Run], queries: Sequence[Query], order: DocumentOrder, top_k: int
) -> dict[str, dict[str, float]]:
    """Reciprocal rank fusion: the score of a document is the sum of 1 / (60 + rank) over the runs that hold it."""
    fused = {}
    for query in queries:
        scores_N = np.zeros(len(order.ids))
        for run in runs:
            # A run is in rank order: `top_hits` wrote it best first.
            for rank, document in enumerate(run.get(query.id, {}), start=1):
                scores_N[order.position[document]] += 1 / (RRF_CONSTANT + rank)
        fused[query.id] = top_hits(scores_N, order, query, top_k=top_k, keep_zero=False)
    return fused


def quantise_int8(vectors_ND: Vectors) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(codes [N, D] in -127 ... 127, step [D]); each component is scaled by its largest value in the corpus."""
    if not len(vectors_ND):
        raise ConfigError("int8 codes are calibrated on the corpus; the corpus is empty")
    step_D = np.abs(vectors_ND).max(0) / 127
    step_D = np.where(step_D > 0, step_D, 1).astype(np.float32)
    return np.rint(vectors_ND / step_D).astype(np.int8), step_D


def dequantise(codes_ND: NDArray[np.int8], step_D: NDArray[np.float32]) -> Vectors:
    """[N, D] float32 that the codes stand for."""
    return codes_ND.astype(np.float32) * step_D


def add_readings(readings: Sequence[Reading]) -> Reading:
    """The sum of several readings of one reader."""

    def total(values: list[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    return Reading(
        num_texts=sum(reading.num_texts for reading in readings),
        num_tokens=total([reading.num_tokens for reading in readings]),
        num_truncated=total([reading.num_truncated for reading in readings]),
        num_encoded=sum(reading.num_encoded for reading in readings),
        num_encoded_tokens=total([reading.num_encoded_tokens for reading in readings]),
        seconds=sum(reading.seconds for reading in readings),
        max_tokens=readings[0].max_tokens,
    )
