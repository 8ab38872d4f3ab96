"""An index on disk as a system that ranks documents, so that what its approximate paths miss is measured on real tasks.

Read `IndexSystem.rank`. Stands above the room `index`, which knows nothing of evaluation.
"""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from diffembed.documents import ChunkPolicy
from diffembed.errors import ConfigError
from diffembed.evaluation.systems.ranking import DocumentOrder
from diffembed.evaluation.systems.reading import Reading
from diffembed.evaluation.systems.searching import Ranking, Searchable
from diffembed.index.index import Index
from diffembed.index.jobs import add_documents
from diffembed.index.maintenance import EXACT_ROWS, make_vector_index, tidy
from diffembed.index.settings import IndexSettings, identify
from diffembed.index.store import Store
from diffembed.records import Document, Encoder, Query

DEPTH = 10
"""Hits that are asked for, as users do: a search for more compares more exactly, and would hide what is missed."""


class IndexSystem:
    """The first ten hits of an index, made of each corpus anew in a folder that goes with the system.

    Measures that look further than ten see no more. Up to 8,192 documents no part of the approximate index is left
    out, and what is missed is missed by its coarse codes.
    """

    ranks_lists = False

    def __init__(self, encoder: Encoder, *, label: str, sends_instructions: bool = True) -> None:
        """sends_instructions: False for encoders that were never trained with instructions."""
        self.encoder = encoder
        self.label = label
        self.sends_instructions = sends_instructions
        self._folder = tempfile.TemporaryDirectory(prefix="diffembed-index-")
        self._corpus: tuple[Sequence[Document], Index] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The name that it was given."""
        return (self.label,)

    @property
    def identities(self) -> Mapping[str, str]:
        """Of the encoder."""
        return {self.label: identify(self.encoder)}

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
        return Ranking(runs={self.label: run}, documents=reading, queries=None)

    def _search(self, index: Index, query: Query, task: Searchable, top_k: int) -> dict[str, float]:
        instruction = task.instruction if query.instruction is None else query.instruction
        query_D = self.encoder.encode_queries([query.text], instruction if self.sends_instructions else None)[0]
        depth = min(top_k, DEPTH)
        # Excluded documents are taken out before the cut, so as many more are asked for.
        hits = index.search_vector(query_D, k=min(depth + len(query.excluded_ids), max(1, len(task.corpus))))
        kept = [hit for hit in hits if hit.document.parent not in query.excluded_ids]
        return {hit.document.parent: hit.score for hit in kept[:depth]}

    def _index(self, corpus: Sequence[Document]) -> Index:
        if self._corpus is None or self._corpus[0] is not corpus:
            # Refuses a corpus with an id twice, as every system does.
            DocumentOrder([document.id for document in corpus])
            settings = IndexSettings(
                model=self.encoder.name,
                model_hash=identify(self.encoder),
                dim=self.encoder.dim,
                chunks=ChunkPolicy(kind="whole"),
            )
            if self._corpus is not None:
                shutil.rmtree(self._corpus[1].folder, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(dir=self._folder.name))
            settings.save(folder)
            store = Store.create(folder, settings)
            # An index takes no blank text; other systems read the title, and nothing where there is none.
            titled = (one if one.text.strip() else replace(one, text=one.title, title="") for one in corpus)
            add_documents(store, [one for one in titled if one.text.strip()], self.encoder)
            tidy(store)
            # Beyond EXACT_ROWS `tidy` has made it.
            if store.refresh().count_rows() <= EXACT_ROWS:
                make_vector_index(store)
            self._corpus = (corpus, Index(store, self.encoder, exact_rows=0))
        return self._corpus[1]
