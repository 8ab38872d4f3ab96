"""Documents that can be searched: what the server asks of an index, and one that lives in memory.

Read `SearchIndex`. `DiskIndex` is a built one; `MemoryIndex` lets a user look at a folder without building one.
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from diffembed.documents import make_chunks, read_corpus
from diffembed.documents.decoding import name_of
from diffembed.embedding.nearest import best_places
from diffembed.errors import ConfigError, EmptyInputError, StoreError
from diffembed.records import Document, Encoder, Hit, Vectors

if TYPE_CHECKING:
    from diffembed.index import Index

log = logging.getLogger("diffembed.serve")

Mode = Literal["dense", "bm25", "hybrid"]


def owner_of(passage: Document) -> str:
    """The name under which a reader knows the document of a passage: its id."""
    return passage.parent or passage.source or passage.id


class SearchIndex(Protocol):
    """Documents with their vectors."""

    modes: tuple[Mode, ...]
    """What `search` takes."""
    is_late: bool
    """Whether a passage was read inside its document, so that its words alone do not make up its score."""

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

    def sources(self) -> dict[str, int]:
        """Document -> number of its passages, as `owner_of` names it."""
        ...

    def passages(self, source: str) -> list[Document]:
        """The passages of one document, in the order of its text; none for an unknown one."""
        ...

    def sample(self, count: int) -> tuple[list[Document], Vectors]:
        """At most `count` passages, evenly spread over the index, and their vectors."""
        ...


class DiskIndex:
    """An index on disk, under the name by which its model is served."""

    modes: tuple[Mode, ...] = ("dense", "bm25", "hybrid")

    def __init__(self, index: "Index", model: str) -> None:
        """index: opened with an encoder."""
        self._index = index
        self.model = model
        self.is_late = index.store.settings.chunks.kind == "late"
        self._num_rows = index.num_rows

    @property
    def num_rows(self) -> int:
        """Passages that can be found; where the index cannot be read now, those of the last time."""
        with contextlib.suppress(StoreError):
            self._num_rows = self._index.num_rows
        return self._num_rows

    def search(self, question: str, **options: Any) -> list[Hit]:
        """As `Index.search`."""
        return self._index.search(question, **options)

    def sources(self) -> dict[str, int]:
        """Document -> number of its passages; reads a column of all rows."""
        return self._index.documents()

    def passages(self, source: str) -> list[Document]:
        """The passages of one document, in the order of the text; none for an unknown id."""
        return self._index.passages(source)

    def sample(self, count: int) -> tuple[list[Document], Vectors]:
        """At most `count` passages, evenly spread over the index, and their vectors."""
        return self._index.sample(count)


class MemoryIndex:
    """Passages and vectors in memory, searched exactly; for folders that are encoded in moments."""

    modes: tuple[Mode, ...] = ("dense",)
    is_late = False

    def __init__(self, encoder: Encoder, documents: Sequence[Document], *, model: str) -> None:
        """Encodes the documents. Raises EmptyInputError when there are none."""
        if not documents:
            raise EmptyInputError("there are no documents to search")
        self.model = model
        self.documents = list(documents)
        self._encoder = encoder
        self._places: dict[str, list[int]] = {}
        for place, document in enumerate(self.documents):
            self._places.setdefault(owner_of(document), []).append(place)
        self._vectors_ND = encoder.encode_documents([document.full_text for document in documents])

    @classmethod
    def from_folder(cls, encoder: Encoder, folder: Path, *, model: str) -> "MemoryIndex":
        """The passages of everything readable in a folder; files are named relative to it, rows by their ids."""
        # The index has the folder's name already; a row's own id may begin with it, and stays.
        name = name_of(f"{folder.resolve().name}/")
        corpus = read_corpus(folder)
        if corpus.skipped:
            log.warning("passed over in whole or part", extra={"facts": {"files": dict(corpus.skipped)}})
        documents = [
            replace(one, id=one.id.removeprefix(name)) if one.source.endswith(f"/{one.id.removeprefix(name)}") else one
            for one in corpus.documents
        ]
        passages = [replace(passage, source=document.id) for document in documents for passage in make_chunks(document)]
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
            owner = owner_of(document)
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
