"""How near documents are to a query, by words or by vectors.

Read `Ranker` first. This module knows nothing of concepts or of what the scores are for.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from diffembed.data.reasonaug.language import LANGUAGES
from diffembed.errors import MissingExtraError
from diffembed.records import Encoder, Vectors

# Q = queries, N = documents


class Ranker(Protocol):
    """Scores of documents for queries; higher is nearer."""

    name: str

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> Vectors:
        """[Q, N] float32."""
        ...


class BM25Ranker:
    """bm25s with its defaults and the stop words of the language; the index is kept while the documents stay."""

    def __init__(self, language: str = "en") -> None:
        self.name = "BM25"
        self.stop_words = language if LANGUAGES[language][2] else None
        self._documents: tuple[str, ...] = ()
        self._index: Any = None

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> Vectors:
        """[Q, N]; zeros where no word is shared."""
        if self._documents != tuple(documents):
            self._documents = tuple(documents)
            self._index = self._make_index(documents)
        scores_QN = np.zeros((len(queries), len(documents)), dtype=np.float32)
        if self._index is not None:
            for scores_N, words in zip(scores_QN, self._words(queries), strict=True):
                known = [word for word in words if word in self._index.vocab_dict]
                if known:
                    scores_N[:] = self._index.get_scores(known)
        return scores_QN

    def _make_index(self, documents: Sequence[str]) -> Any:
        """None when the documents hold no word at all."""
        try:
            import bm25s
        except ImportError as error:
            raise MissingExtraError.of("bm25s", "reasonaug") from error
        words = self._words(documents)
        if not any(words):
            return None
        index = bm25s.BM25()
        index.index(words, show_progress=False)
        return index

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        import bm25s

        words: list[list[str]] = bm25s.tokenize(
            list(texts), stopwords=self.stop_words, return_ids=False, show_progress=False
        )
        return words


class EncoderRanker:
    """Any encoder; the document vectors are kept while the documents stay."""

    def __init__(self, encoder: Encoder) -> None:
        self.name = encoder.name
        self.encoder = encoder
        self._documents: tuple[str, ...] = ()
        self._vectors: Vectors = np.zeros((0, encoder.dim), dtype=np.float32)

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> Vectors:
        """[Q, N] similarities; queries get no instruction, as the same text may serve two tasks."""
        if self._documents != tuple(documents):
            self._vectors = self.encoder.encode_documents(list(documents))
            self._documents = tuple(documents)
        return self.encoder.similarity(self.encoder.encode_queries(list(queries), instruction=""), self._vectors)
