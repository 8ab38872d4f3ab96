"""The records that cross rooms, and the `Encoder` protocol everything beside the corridor speaks.

Read `Encoder` first. This module knows numpy and nothing of torch, files or models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""[N, D] float32, one row per text, in input order."""

Qrels = Mapping[str, Mapping[str, int]]
"""query id -> document id -> graded relevance (0 = judged not relevant)."""

Run = Mapping[str, Mapping[str, float]]
"""query id -> document id -> score; higher is better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One text to be found, whole file or chunk."""

    id: str
    text: str
    title: str = ""
    source: str = ""
    """File or data set it came from; empty when it was given as a string."""
    start: int = 0
    """Offset of the first character in the source text."""
    line: int = 1
    """Line number of the first character in the source text, from 1."""
    parent: str = ""
    """Id of the document it is a passage of; empty where it is not known to be one."""
    metadata: Mapping[str, str | int | float | bool] = field(default_factory=dict, hash=False)
    """What else its source says of it; never read by a model."""

    @property
    def full_text(self) -> str:
        """Title, a space, text: how the benchmarks of the paper build documents."""
        return f"{self.title} {self.text}".strip() if self.title else self.text


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """One question; `instruction=None` means the model's or the task's default."""

    id: str
    text: str
    instruction: str | None = None
    excluded_ids: frozenset[str] = frozenset()
    """Documents this query may not retrieve; removed before the cut at k (BRIGHT)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One search result; `rank` counts from 1."""

    document: Document
    score: float
    rank: int
    parts: Mapping[str, float] = field(default_factory=dict)
    """Score by component (dense, bm25, ...) where several were combined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeReport:
    """What happened to each text on its way to a vector."""

    num_tokens: NDArray[np.int64]
    """[N] tokens the network read for each text, template and special tokens included."""
    is_truncated: NDArray[np.bool_]
    """[N] True where the text was longer than `max_tokens` and its end was cut."""
    seconds: float
    """Wall time of tokenising and encoding."""
    max_tokens: int
    """Limit that was in force."""

    @property
    def tokens_per_s(self) -> float:
        """Real tokens per second of wall time; 0 for an empty input."""
        return float(self.num_tokens.sum() / self.seconds) if self.seconds > 0 else 0.0


@runtime_checkable
class Encoder(Protocol):
    """Whatever turns texts into vectors: `Embedder`, a baseline, a server's client, a test double."""

    @property
    def name(self) -> str:
        """Short name used in tables."""
        ...

    @property
    def dim(self) -> int:
        """Number of components of each vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest text, in tokens, that is read whole."""
        ...

    def encode_queries(self, texts: Sequence[str], instruction: str | None = None) -> Vectors:
        """[N, dim]; `None` takes the encoder's default instruction, `''` takes none."""
        ...

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """[N, dim]; documents get no instruction."""
        ...

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        """[num queries, num documents]; cosine for every encoder of this project."""
        ...
