"""An index on disk as a system that ranks documents, so that what its approximate paths miss is measured on real tasks.

Read `IndexSystem.rank` and `recall`. Stands above the room `index`, which knows nothing of evaluation.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from diffembed.documents import ChunkPolicy
from diffembed.errors import ConfigError
from diffembed.evaluation.systems.ranking import DocumentOrder
from diffembed.evaluation.systems.reading import Reading
from diffembed.evaluation.systems.searching import Ranking, Searchable
from diffembed.index.index import Index
from diffembed.index.jobs import add_documents
from diffembed.index.maintenance import EXACT_ROWS, make_vector_index, tidy
from diffembed.index.search import NUM_PROBES
from diffembed.index.settings import IndexSettings, Precision, identify
from diffembed.index.store import Store
from diffembed.records import Document, Encoder, Query, Run


class IndexSystem:
    """Dense search through an index, made of each corpus anew; a context manager that removes what it made."""

    sends_instructions = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        precision: Precision = "float32",
        exact_rows: int = EXACT_ROWS,
        num_probes: int = NUM_PROBES,
    ) -> None:
        """exact_rows: 0 searches approximately however small the corpus is."""
        self.encoder = encoder
        self.precision = precision
        self.exact_rows = exact_rows
        self.num_probes = num_probes
        self._folder = tempfile.TemporaryDirectory(prefix="diffembed-index-")
        self._corpus: tuple[Sequence[Document], Index] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._folder.cleanup()

    @property
    def labels(self) -> tuple[str, ...]:
        """`NAME+index`, with the precision where it is not float32."""
        return (f"{self.encoder.name}+index" + ("" if self.precision == "float32" else f"+{self.precision}"),)

    @property
    def identities(self) -> Mapping[str, str]:
        """Of the encoder."""
        return {self.labels[0]: identify(self.encoder)}

    def rank(self, task: Searchable, *, top_k: int) -> Ranking:
        """One run. Raises ConfigError for a task that ranks lists of candidates, which an index does not know."""
        if task.candidates is not None:
            raise ConfigError(f"{task.name} ranks a list of candidates for each query; an index searches all it holds")
        started = time.perf_counter()
        index = self._index(task.corpus)
        run = {query.id: self._search(index, query, task, top_k) for query in task.queries}
        reading = Reading(
            num_texts=len(task.corpus),
            num_tokens=None,
            num_truncated=None,
            num_encoded=len(task.corpus),
            num_encoded_tokens=None,
            seconds=time.perf_counter() - started,
            max_tokens=self.encoder.max_tokens,
        )
        return Ranking(runs={self.labels[0]: run}, documents=reading, queries=None)

    def _search(self, index: Index, query: Query, task: Searchable, top_k: int) -> dict[str, float]:
        instruction = task.instruction if query.instruction is None else query.instruction
        query_D = self.encoder.encode_queries([query.text], instruction)[0]
        # Excluded documents are taken out before the cut, so as many more are asked for.
        hits = index.search_vector(query_D, k=min(top_k + len(query.excluded_ids), max(1, len(task.corpus))))
        kept = [hit for hit in hits if hit.document.parent not in query.excluded_ids]
        return {hit.document.parent: hit.score for hit in kept[:top_k]}

    def _index(self, corpus: Sequence[Document]) -> Index:
        if self._corpus is None or self._corpus[0] is not corpus:
            # Refuses a corpus with an id twice, as every system does.
            DocumentOrder([document.id for document in corpus])
            settings = IndexSettings(
                model=self.encoder.name,
                model_hash=identify(self.encoder),
                dim=self.encoder.dim,
                chunks=ChunkPolicy(kind="whole"),
                precision=self.precision,
            )
            folder = Path(tempfile.mkdtemp(dir=self._folder.name))
            settings.save(folder)
            store = Store.create(folder, settings)
            add_documents(store, corpus, self.encoder)
            tidy(store)
            if self.exact_rows < len(corpus) <= EXACT_ROWS:
                make_vector_index(store)
            index = Index(store, self.encoder, exact_rows=self.exact_rows, num_probes=self.num_probes)
            self._corpus = (corpus, index)
        return self._corpus[1]


def recall(found: Run, exact: Run, k: int = 10) -> float:
    """Mean over queries of the share of the exact search's first `k` documents that another search has in its own."""
    shares = []
    for query, hits in exact.items():
        want = list(hits)[:k]
        if want:
            shares.append(len(set(want) & set(list(found.get(query, {}))[:k])) / len(want))
    return sum(shares) / len(shares) if shares else 0.0
