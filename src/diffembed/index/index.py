"""`Index`: a question in, hits out, from a folder on disk.

Read `Index.open` and `Index.search`. Any number of readers may search while one writer adds.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, get_args

import numpy as np

from diffembed.embedding.embedder import Embedder
from diffembed.embedding.precision import normalise
from diffembed.errors import ConfigError, EmptyInputError, StoreError, UnknownNameError
from diffembed.index.jobs import add_documents
from diffembed.index.maintenance import EXACT_ROWS, tidy
from diffembed.index.search import (
    COLUMNS,
    MIN_CANDIDATES,
    NUM_PROBES,
    Found,
    Fusion,
    Mode,
    Searcher,
    collapse_documents,
    fuse,
    make_document,
    make_hits,
)
from diffembed.index.settings import Precision, describe_chunks, identify, index_folder
from diffembed.index.store import Store, in_list
from diffembed.index.writing import called, table_errors, writer_lock
from diffembed.provenance import user_data
from diffembed.records import Document, Encoder, Hit, Vectors

UNINDEXED_ROWS = 2_000
"""Rows added by hand before they are taken into the full-text index; until then they are read one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexStats:
    """What an index holds."""

    folder: str
    model: str
    model_hash: str
    dim: int
    precision: str
    chunks: str
    num_documents: int
    num_added: int
    """Documents given to `add`; the others come from the sources of a build."""
    num_rows: int
    """Chunks."""
    num_bytes: int
    """On disk, indexes and recent states included."""
    num_fragments: int
    indexes: tuple[str, ...]
    sources: tuple[str, ...]


class Index:
    """An index that can be searched and changed."""

    def __init__(
        self, store: Store, encoder: Encoder | None, *, exact_rows: int = EXACT_ROWS, num_probes: int = NUM_PROBES
    ) -> None:
        """Use `open`."""
        self.store = store
        self.searcher = Searcher(store, exact_rows=exact_rows, num_probes=num_probes)
        self._loading = threading.Lock()
        self._encoder = encoder
        if encoder is not None:
            self._require_model(encoder)

    @classmethod
    def open(
        cls,
        name_or_path: str | Path,
        *,
        embedder: Encoder | None = None,
        precision: Precision | None = None,
        exact_rows: int = EXACT_ROWS,
        num_probes: int = NUM_PROBES,
    ) -> Self:
        """An existing index: a name in the user's data folder, or a folder where there is a separator.

        embedder: `None` loads the index's own at the first question. exact_rows: up to this many rows every vector is
        compared; beyond, `num_probes` parts of the approximate index are read.
        Raises StoreError where there is none, where it is damaged, or made by another model or precision than given.
        """
        index = cls(Store.open(index_folder(name_or_path)), embedder, exact_rows=exact_rows, num_probes=num_probes)
        kept = index.store.settings.precision
        if precision is not None and precision != kept:
            raise StoreError(
                f"{index.folder} holds {kept} vectors, {precision} is asked for; make it anew with: "
                f"diffembed index build {called(index.folder)} --precision {precision} --replace"
            )
        return index

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.store.folder

    @property
    def model(self) -> str:
        """Name of the encoder."""
        return self.store.settings.model

    @property
    def num_rows(self) -> int:
        """Chunks in the newest state."""
        return int(self.store.refresh().count_rows())

    @property
    def embedder(self) -> Encoder:
        """The encoder; loaded when first needed. Raises StoreError when it is not the one that made the index."""
        with self._loading:
            if self._encoder is None:
                settings = self.store.settings
                if settings.location is None:
                    raise StoreError(
                        f"{self.folder} was made with {settings.model}, which cannot be loaded by name; "
                        "give it: Index.open(..., embedder=...)"
                    )
                encoder = Embedder.load(settings.location, **settings.loading)
                self._require_model(encoder)
                self._encoder = encoder
            return self._encoder

    def search(
        self,
        question: str,
        *,
        k: int = 10,
        mode: Mode = "dense",
        instruction: str | None = None,
        where: str | None = None,
        collapse: bool = True,
        fusion: Fusion = "rank",
        weight: float = 0.5,
    ) -> list[Hit]:
        """The `k` best chunks, best first; `parts` of a hit are its scores by vectors (`dense`) and words (`bm25`).

        mode: by vectors, by words, or both (`hybrid`: see `fusion` and `weight` in `search.fuse`).
        instruction: before the question; `None` is the model's own, `''` none. Words are searched without it.
        where: a condition in SQL on columns of the table, such as `source LIKE '%.md' AND line < 100`.
        collapse: keeps the best chunk of each document and one of equal texts.
        Raises ConfigError for a filter that cannot be used, EmptyInputError for a blank question.
        """
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        if mode not in get_args(Mode):
            raise UnknownNameError.of("search mode", mode, get_args(Mode))
        if not question.strip():
            raise EmptyInputError("the question is empty; ask with words")
        if mode != "hybrid" and (fusion != "rank" or weight != 0.5):
            raise ConfigError(f"fusion and weight join two rankings; mode {mode!r} has one")
        if mode == "bm25" and instruction:
            raise ConfigError("an instruction is read by the model; mode 'bm25' compares words alone")
        if where is not None:
            self.store.check_filter(where)
        query_D = None if mode == "bm25" else self._encode(question, instruction)

        def find(num: int) -> list[Found]:
            dense = [] if query_D is None else self.searcher.dense(query_D, num, where)
            bm25 = [] if mode == "dense" else self.searcher.bm25(question, num, where)
            return fuse(dense, bm25, fusion=fusion, weight=weight) if mode == "hybrid" else dense or bm25

        # Chunks of one document may fill the first places, so more are asked for until enough documents are found.
        num = max(4 * k, MIN_CANDIDATES)
        while True:
            found = find(num)
            kept = collapse_documents(found) if collapse else found
            if len(kept) >= k or len(found) < num:
                return make_hits(kept[:k])
            num *= 4

    def search_vector(self, query_D: Vectors, *, k: int = 10, where: str | None = None) -> list[Hit]:
        """The `k` nearest chunks to a vector of the index's model, documents not collapsed."""
        if query_D.shape != (self.store.settings.dim,):
            raise StoreError(f"{self.folder} holds {self.store.settings.dim} components, the question {query_D.shape}")
        if where is not None:
            self.store.check_filter(where)
        return make_hits(self.searcher.dense(normalise(np.asarray(query_D, np.float32)[None])[0], k, where))

    def documents(self) -> dict[str, int]:
        """Id of every document -> number of its chunks; reads a column of all rows."""
        with table_errors(self.folder):
            column = self.store.refresh().to_table(columns=["document"])["document"]
        return {pair["values"]: pair["counts"] for pair in column.combine_chunks().value_counts().to_pylist()}

    def passages(self, document: str) -> list[Document]:
        """The chunks of one document, in the order of its text; none for an unknown id."""
        with table_errors(self.folder):
            rows = self.store.refresh().to_table(columns=[*COLUMNS, "part"], filter=in_list("document", [document]))
        return [make_document(row) for row in sorted(rows.to_pylist(), key=lambda row: row["part"])]

    def sample(self, num: int) -> tuple[list[Document], Vectors]:
        """At most `num` chunks evenly spread over the index, and their vectors [num, D], of length 1."""
        with table_errors(self.folder):
            dataset = self.store.refresh()
            num_rows = dataset.count_rows()
            places = np.linspace(0, num_rows - 1, min(num, num_rows)).astype(int).tolist()
            rows = dataset.take(places, columns=[*COLUMNS, self.store.vector_column])
        vectors = self.store.decode(rows[self.store.vector_column])
        return [make_document(row) for row in rows.select(COLUMNS).to_pylist()], normalise(vectors)

    def add(self, documents: Iterable[Document]) -> int:
        """Encodes documents and puts them in place of those of the same ids; returns the number of chunks.

        A later build leaves them alone. Raises InputError for repeated ids, StoreError while another process writes.
        """
        given = list(documents)
        if not given:
            raise EmptyInputError("there are no documents to add")
        with writer_lock(self.folder):
            num_chunks = add_documents(self.store, given, self.embedder)
            if self._is_untidy():
                tidy(self.store)
        return num_chunks

    def delete(self, ids: Iterable[str]) -> int:
        """Removes documents by id, with all their chunks; returns how many there were. A build brings its own back."""
        wanted = list(dict.fromkeys(ids))
        with writer_lock(self.folder), table_errors(self.folder):
            return self.store.delete(wanted)

    def optimize(self) -> IndexStats:
        """Joins fragments, brings indexes up to date, removes old states."""
        with writer_lock(self.folder):
            tidy(self.store)
        return self.stats()

    def stats(self) -> IndexStats:
        """Counts of the newest state."""
        dataset, settings = self.store.refresh(), self.store.settings
        with table_errors(self.folder):
            return IndexStats(
                folder=str(self.folder),
                model=settings.model,
                model_hash=settings.model_hash,
                dim=settings.dim,
                precision=settings.precision,
                chunks=describe_chunks(settings.chunks),
                num_documents=dataset.count_rows("part = 0"),
                num_added=dataset.count_rows("part = 0 AND is_added"),
                num_rows=dataset.count_rows(),
                num_bytes=sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()),
                num_fragments=len(dataset.get_fragments()),
                indexes=tuple(sorted(index["name"] for index in dataset.list_indices())),
                sources=settings.sources,
            )

    def _encode(self, question: str, instruction: str | None) -> Vectors:
        return normalise(np.asarray(self.embedder.encode_queries([question], instruction), np.float32))[0]

    def _is_untidy(self) -> bool:
        dataset = self.store.refresh()
        names = {index["name"] for index in dataset.list_indices()}
        if "text_idx" not in names:
            return True
        return int(dataset.stats.index_stats("text_idx").get("num_unindexed_rows", 0)) > UNINDEXED_ROWS

    def _require_model(self, encoder: Encoder) -> None:
        settings = self.store.settings
        if identify(encoder) != settings.model_hash:
            raise StoreError(
                f"{self.folder} was made with {settings.model} ({settings.model_hash}), not with {encoder.name} "
                f"({identify(encoder)}) as it is now; make it anew with: diffembed index build {called(self.folder)} "
                f"--model {getattr(encoder, 'location', None) or encoder.name} --replace"
            )


def list_indexes() -> list[Path]:
    """Folders of the indexes in the user's data folder, by name."""
    root = user_data() / "indexes"
    return sorted(path.parent for path in root.glob("[!.]*/index.json"))
