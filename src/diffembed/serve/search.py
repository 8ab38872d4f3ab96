"""Documents that can be searched: what the server asks of an index, and one that lives in memory.

Read `SearchIndex`. `diffembed.index.Index` is one; `MemoryIndex` lets a user look at a folder without building one.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from diffembed.documents import make_chunks, read_corpus
from diffembed.embedding.nearest import best_places
from diffembed.errors import ConfigError, EmptyInputError
from diffembed.records import Document, Encoder, Hit, Vectors

Mode = Literal["dense", "bm25", "hybrid"]


class SearchIndex(Protocol):
    """Documents with their vectors."""

    @property
    def model(self) -> str:
        """The model whose vectors it holds."""
        ...

    @property
    def num_rows(self) -> int:
        """Passages that can be found."""
        ...

    def search(
        self,
        question: str,
        *,
        k: int = 10,
        mode: Mode = "dense",
        instruction: str | None = None,
        where: Any = None,
        collapse: bool = True,
    ) -> list[Hit]:
        """The best `k` passages, best first; `collapse` keeps the best one of each document."""
        ...


class MemoryIndex:
    """Passages and vectors in memory, searched exactly; for folders that are encoded in moments."""

    modes: tuple[Mode, ...] = ("dense",)
    """What `search` takes."""

    def __init__(self, encoder: Encoder, documents: Sequence[Document], *, model: str) -> None:
        """Encodes the documents. Raises EmptyInputError when there are none."""
        if not documents:
            raise EmptyInputError("there are no documents to search")
        self.model = model
        self.documents = list(documents)
        self._encoder = encoder
        self._places: dict[str, list[int]] = {}
        for place, document in enumerate(self.documents):
            self._places.setdefault(document.source or document.id, []).append(place)
        self._vectors_ND = encoder.encode_documents([document.full_text for document in documents])

    @classmethod
    def from_folder(cls, encoder: Encoder, folder: Path, *, model: str) -> "MemoryIndex":
        """The passages of every text, markdown and source file of a folder; sources are named relative to it."""
        corpus = read_corpus(folder)
        documents = [replace(document, source=document.id) for document in corpus.documents]
        passages = [
            passage for document in documents for passage in make_chunks(document, counts_lines=not corpus.is_rows)
        ]
        return cls(encoder, passages, model=model)

    @property
    def num_rows(self) -> int:
        """Passages that can be found."""
        return len(self.documents)

    def search(
        self,
        question: str,
        *,
        k: int = 10,
        mode: Mode = "dense",
        instruction: str | None = None,
        where: Any = None,
        collapse: bool = True,
    ) -> list[Hit]:
        """The best `k` passages. Raises ConfigError for what only an index on disk can do."""
        if mode != "dense":
            raise ConfigError(f"documents in memory are searched by mode 'dense' only, not {mode!r}; build an index")
        if where is not None:
            raise ConfigError("documents in memory take no filter; build an index")
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        if not question.strip():
            raise EmptyInputError("the question is empty; ask with words")
        scores_N = self._encoder.similarity(self._encoder.encode_queries([question], instruction), self._vectors_ND)[0]
        hits: list[Hit] = []
        seen: set[str] = set()
        for place in best_places(scores_N, len(self.documents)):
            document = self.documents[place]
            owner = document.source or document.id
            if collapse and owner in seen:
                continue
            seen.add(owner)
            hits.append(Hit(document=document, score=float(scores_N[place]), rank=len(hits) + 1))
            if len(hits) == k:
                break
        return hits

    def sources(self) -> dict[str, int]:
        """Source -> number of its passages."""
        return {source: len(places) for source, places in self._places.items()}

    def passages(self, source: str) -> list[Document]:
        """The passages of one source, in the order of the text; none for an unknown source."""
        return [self.documents[place] for place in self._places.get(source, ())]

    def sample(self, count: int) -> tuple[list[Document], Vectors]:
        """At most `count` passages, evenly spread over the index, and their vectors."""
        places = np.linspace(0, self.num_rows - 1, min(count, self.num_rows)).astype(int)
        return [self.documents[place] for place in places], self._vectors_ND[places]
