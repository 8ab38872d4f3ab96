"""Exact search in memory: documents ranked for a question by the similarity of their encoder.

Read `search_documents`. Nothing is approximated or stored; a corpus that outgrows memory belongs in an index.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError, EmptyInputError
from diffembed.records import Document, Encoder, Hit


def search_documents(
    encoder: Encoder, documents: Sequence[Document], question: str, *, top_k: int = 5, instruction: str | None = None
) -> list[Hit]:
    """The `top_k` documents nearest to the question, best first; ties keep the order of the documents.

    Raises EmptyInputError for a blank question or no documents.
    """
    if top_k < 1:
        raise ConfigError(f"top_k must be at least 1, got {top_k}")
    if not question.strip():
        raise EmptyInputError("the question is empty; ask with words")
    if not documents:
        raise EmptyInputError("there are no documents to search")
    query_vectors = encoder.encode_queries([question], instruction)
    scores_N = encoder.similarity(
        query_vectors, encoder.encode_documents([document.full_text for document in documents])
    )[0]
    return [
        Hit(document=documents[place], score=float(scores_N[place]), rank=rank)
        for rank, place in enumerate(best_places(scores_N, top_k), start=1)
    ]


def best_places(scores_N: NDArray[np.float32], top_k: int) -> list[int]:
    """Positions of the `top_k` highest scores, highest first; among equal scores the earlier position."""
    order_N = np.argsort(-scores_N, kind="stable")
    return [int(place) for place in order_N[:top_k]]
