"""The floors every score is printed beside: BM25 and random vectors.

Read `BM25` first. `RandomEncoder` is an `Encoder`; `BM25` is a search system (documents in, run out), because it
has no vectors. This module knows nothing of suites.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffembed.errors import EmptyInputError, InputError, MissingExtraError
from diffembed.evaluation.systems.ranking import DocumentOrder, top_hits
from diffembed.records import Document, Query, Vectors


class BM25:
    """Lexical search by bm25s: lower-cased words of two letters or more, English stop words out, title + text."""

    name = "bm25"

    def __init__(self, documents: Sequence[Document], *, k1: float = 1.5, b: float = 0.75) -> None:
        """Indexes the documents; k1 and b are bm25s' defaults (Lucene's formula)."""
        try:
            import bm25s
        except ImportError as error:
            raise MissingExtraError.of("bm25s", "eval") from error
        if not documents:
            raise EmptyInputError("the corpus is empty; BM25 has nothing to index")
        self.order = DocumentOrder([document.id for document in documents])
        tokens = _tokenize([document.full_text for document in documents])
        if not any(tokens):
            raise InputError("no document holds a word that BM25 indexes (two letters or more, not a stop word)")
        self._index: Any = bm25s.BM25(k1=k1, b=b)
        self._index.index(tokens, show_progress=False)

    def search(
        self,
        queries: Sequence[Query],
        *,
        top_k: int = 1000,
        candidates: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, dict[str, float]]:
        """Run of the best `top_k` documents per query; documents that share no word with it are left out.

        Instructions are not part of a lexical query. candidates: query id -> the only documents to rank; all of
        them are then ranked, also with score 0.
        """
        run: dict[str, dict[str, float]] = {}
        for query, words in zip(queries, _tokenize([query.text for query in queries]), strict=True):
            if candidates is not None and query.id not in candidates:
                raise InputError(f"query {query.id!r} has no candidate list")
            known = [word for word in words if word in self._index.vocab_dict]
            scores_N = self._index.get_scores(known) if known else np.zeros(len(self.order.ids), np.float32)
            run[query.id] = top_hits(
                scores_N,
                self.order,
                query,
                top_k=top_k,
                candidates=None if candidates is None else candidates[query.id],
                keep_zero=candidates is not None,
            )
        return run


def _tokenize(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    if not texts:
        return []
    tokens: list[list[str]] = bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
    return tokens


class RandomEncoder:
    """Gaussian vectors drawn from the text's hash: what a ranking is worth that knows nothing.

    The same text gets the same vector, but as a query another one than as a document.
    """

    name = "random"
    max_tokens = 1 << 30

    def __init__(self, *, dim: int = 64, seed: int = 0) -> None:
        self.dim = dim
        self.seed = seed

    def encode_queries(self, texts: Sequence[str], instruction: str | None = None) -> Vectors:
        """[N, dim]; the instruction is part of what is hashed."""
        return self._vectors([f"query\0{instruction or ''}\0{text}" for text in texts])

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """[N, dim]."""
        return self._vectors([f"document\0{text}" for text in texts])

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        """[num queries, num documents] cosine."""
        unit_q = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        unit_d = documents / np.linalg.norm(documents, axis=1, keepdims=True)
        return np.asarray(unit_q @ unit_d.T, dtype=np.float32)

    def _vectors(self, keys: Sequence[str]) -> Vectors:
        vectors_ND = np.empty((len(keys), self.dim), dtype=np.float32)
        for row, key in enumerate(keys):
            digest = hashlib.sha256(f"{self.seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
            vectors_ND[row] = np.random.default_rng(int.from_bytes(digest[:16])).standard_normal(self.dim)
        return vectors_ND
