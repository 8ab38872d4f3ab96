"""Systems that rank documents for queries: dense (in any precision), BM25, and the two fused.

Read `DenseSystem.rank`. A system takes a `Task` and gives one run per label with what it read; the sentence and label
tasks take its `read_plain`. This module knows nothing of measures, suites or files.
"""

# Q = queries, N = documents, D = width of the vectors

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from diffembed.documents import ChunkPolicy, cut_document
from diffembed.embedding.precision import Int8Codes, cut_dims, pack_signs, unpack_signs
from diffembed.errors import UnknownNameError
from diffembed.evaluation.systems.baselines import BM25
from diffembed.evaluation.systems.ranking import DocumentOrder, search_vectors, top_hits
from diffembed.evaluation.systems.reading import Reader, Reading
from diffembed.records import Document, Query, Run, Vectors

Precision = Literal["float32", "int8", "binary", "binary+int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
RESCORED = 100
"""Documents that `binary+int8` finds by their signs and ranks by their bytes."""
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

    @property
    def ranks_lists(self) -> bool:
        """Whether it ranks all documents that it is given, lists of candidates too; an index finds the first ten."""
        ...

    def rank(self, task: Searchable, *, top_k: int) -> Ranking:
        """The best `top_k` documents of every query, excluded documents taken out before the cut."""
        ...


@dataclass(frozen=True, slots=True)
class _Corpus:
    """The documents of a task as they were read."""

    documents: Sequence[Document]
    order: DocumentOrder
    vectors: Mapping[str, Vectors]
    """Label -> a row for each document, or for each passage."""
    first_row_N: NDArray[np.int64] | None
    """Row of the first passage of each document."""
    reading: Reading


class DenseSystem:
    """Exact cosine search with the vectors of a reader, one for each document or for each of its passages."""

    ranks_lists = True

    def __init__(
        self,
        reader: Reader,
        *,
        precision: Precision = "float32",
        dims: int | None = None,
        chunks: ChunkPolicy | None = None,
        sends_instructions: bool = True,
    ) -> None:
        """precision: `int8` stores documents with one byte per component, calibrated on the corpus; `binary` documents
            and queries with one bit; `binary+int8` finds 100 documents by their bits and ranks them by their bytes.
        dims: components kept (Matryoshka); `None` keeps all.
        chunks: how documents are cut into passages, of which the best counts (MaxP, Dai and Callan 2019, arXiv
            1905.09217); `None` reads each document as one text.
        sends_instructions: False for encoders that were never trained with instructions; their own default prompt, if
            any, is used instead.
        """
        if precision not in PRECISIONS:
            raise UnknownNameError.of("precision", precision, list(PRECISIONS))
        self.reader = reader
        self.precision = precision
        self.dims = dims
        self.chunks = chunks
        self.sends_instructions = sends_instructions
        self._corpus: _Corpus | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the reader, with `+int8` where documents are quantised, `+256` where cut, `+maxp` where in passages."""
        return tuple(self._label(label) for label in self.reader.labels)

    @property
    def identities(self) -> dict[str, str]:
        """Of the reader."""
        return {self._label(label): key for label, key in self.reader.identities.items()}

    def rank(self, task: Searchable, *, top_k: int) -> Ranking:
        """One run per label; the corpus of the task before is kept when it is the same object."""
        corpus = self._read_corpus(task)
        queries, query_reading = self._queries(task)
        runs = {
            self._label(label): self._search(queries[label], corpus.vectors[label], task, corpus, top_k)
            for label in self.reader.labels
        }
        return Ranking(runs=runs, documents=corpus.reading, queries=query_reading)

    def _search(
        self, queries_QD: Vectors, documents_ND: Vectors, task: Searchable, corpus: _Corpus, top_k: int
    ) -> dict[str, dict[str, float]]:
        """One run over what the codes of the documents stand for."""
        search = partial(search_vectors, queries=task.queries, order=corpus.order, first_row_N=corpus.first_row_N)
        coarse_QD, coarse_ND = queries_QD, documents_ND
        if self.precision.startswith("binary"):
            # The cosine of signs is 1 - 2 x hamming / D: the order is that of the bits.
            coarse_QD, coarse_ND = _through_signs(queries_QD), _through_signs(documents_ND)
        elif self.precision == "int8":
            coarse_ND = _through_int8(documents_ND)
        depth = RESCORED if self.precision == "binary+int8" else top_k
        run = search(coarse_QD, document_vectors=coarse_ND, top_k=depth, candidates=task.candidates)
        if self.precision != "binary+int8":
            return run
        found = {query: list(hits) for query, hits in run.items()}
        return search(queries_QD, document_vectors=_through_int8(documents_ND), top_k=top_k, candidates=found)

    def read_plain(self, texts: Sequence[str], instruction: str | None) -> tuple[dict[str, Vectors], Reading]:
        """Label -> vectors of texts that are compared with each other; all carry the instruction, as queries do."""
        vectors, reading = self.reader.read(texts, "query", instruction if self.sends_instructions else None)
        return {self._label(label): vectors_ND for label, vectors_ND in self._cut(vectors).items()}, reading

    def read_documents(self, texts: Sequence[str]) -> tuple[dict[str, Vectors], Reading]:
        """Label -> vectors of texts that are documents."""
        vectors, reading = self.reader.read(texts, "document")
        return {self._label(label): vectors_ND for label, vectors_ND in self._cut(vectors).items()}, reading

    def _label(self, label: str) -> str:
        cut = "" if self.dims is None else f"+{self.dims}"
        passages = "" if self.chunks is None else "+maxp"
        precision = "" if self.precision == "float32" else f"+{self.precision}"
        return f"{label}{cut}{passages}{precision}"

    def _cut(self, vectors: Mapping[str, Vectors]) -> dict[str, Vectors]:
        return {label: cut_dims(vectors_ND, self.dims) for label, vectors_ND in vectors.items()}

    def _read_corpus(self, task: Searchable) -> _Corpus:
        if self._corpus is None or self._corpus.documents is not task.corpus:
            order = DocumentOrder([document.id for document in task.corpus])
            what, read, first_row_N = "documents", list(task.corpus), None
            if self.chunks is not None:
                # A document without text is read as it is: its title may have some.
                passages = [cut_document(document, self.chunks) or [document] for document in task.corpus]
                what, read = "passages", [passage for parts in passages for passage in parts]
                first_row_N = np.cumsum([0, *map(len, passages)])[:-1]
            texts = [one.full_text for one in read]
            vectors, reading = self.reader.read(texts, "document", what=f"{what} of {task.name}")
            self._corpus = _Corpus(task.corpus, order, self._cut(vectors), first_row_N, reading)
        return self._corpus

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
        return self._cut(vectors), add_readings(readings)


class LexicalSystem:
    """BM25; the index of the last corpus is kept."""

    labels = ("bm25",)
    sends_instructions = False
    ranks_lists = True
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

    ranks_lists = True

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


def _through_int8(vectors_ND: Vectors) -> Vectors:
    int8 = Int8Codes.fit(vectors_ND)
    return int8.decode(int8.encode(vectors_ND))


def _through_signs(vectors_ND: Vectors) -> Vectors:
    return unpack_signs(pack_signs(vectors_ND), vectors_ND.shape[1])


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
