"""Fewer numbers per vector: the Matryoshka cut.

Read `cut_dims`. Pure functions on arrays; knows no model.
"""

import numpy as np

from diffembed.errors import ConfigError
from diffembed.records import Vectors


def normalise(vectors_ND: Vectors) -> Vectors:
    """Rows of length 1, so that the dot product is the cosine; zero rows stay zero."""
    lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return (vectors_ND / np.where(lengths_N1 > 0, lengths_N1, 1)).astype(np.float32, copy=False)


def cut_dims(vectors_ND: Vectors, dims: int | None, *, is_normalised: bool = True) -> Vectors:
    """The first `dims` components of each row, normalised again; `None` keeps all.

    Source: Matryoshka representation learning (arXiv 2205.13147). Raises ConfigError outside 1 ... D.
    """
    if dims is None:
        return vectors_ND
    if not 1 <= dims <= vectors_ND.shape[1]:
        raise ConfigError(f"dims is {dims}; the vectors have {vectors_ND.shape[1]} components, allowed is 1 to that")
    cut = np.ascontiguousarray(vectors_ND[:, :dims])
    return normalise(cut) if is_normalised else cut
