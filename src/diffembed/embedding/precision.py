"""Fewer bytes per vector: the Matryoshka cut, one byte per component, one bit per component.

Read `cut_dims` and `Int8Codes`. Pure functions on arrays; knows no model and no store.
"""

# Q = queries, N = documents, K = candidates of a query, D = components, B = bytes of a row of bits

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import CheckpointError, ConfigError, EmptyInputError, InputError
from diffembed.provenance import write_json
from diffembed.records import Vectors

ROWS_PER_BLOCK = 65_536
"""Codes turned into floats at a time."""
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1).astype(np.uint8)
"""Number of set bits of each byte."""


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


@dataclass(frozen=True, slots=True)
class Int8Codes:
    """One byte per component, in steps that were fitted once: the same vector has the same code in any company."""

    step_D: Vectors
    """Size of a step of each component; float32."""

    @classmethod
    def fit(cls, sample_ND: Vectors) -> "Int8Codes":
        """Steps by which the largest component of a sample becomes 127. Raises EmptyInputError without a sample."""
        if not len(sample_ND):
            raise EmptyInputError("int8 codes are fitted on a sample of vectors; the sample is empty")
        largest_D = np.abs(sample_ND).max(0)
        return cls(np.where(largest_D > 0, largest_D / 127, 1).astype(np.float32))

    def encode(self, vectors_ND: Vectors) -> NDArray[np.int8]:
        """[N, D] in -127 ... 127; beyond the sample is clipped. Raises InputError for another width or NaN."""
        self._require_width(vectors_ND)
        if not np.isfinite(vectors_ND).all():
            raise InputError("a vector with NaN or infinity has no int8 code")
        return np.clip(np.rint(vectors_ND / self.step_D), -127, 127).astype(np.int8)

    def decode(self, codes_ND: NDArray[np.int8]) -> Vectors:
        """[N, D] float32 that the codes stand for."""
        self._require_width(codes_ND)
        return codes_ND.astype(np.float32) * self.step_D

    def scores(self, queries_QD: Vectors, codes_ND: NDArray[np.int8]) -> Vectors:
        """[Q, N] dot products of float32 queries with what the codes stand for; no float copy of all codes is made."""
        self._require_width(codes_ND)
        # The steps go to the queries, which are few.
        scaled_QD = queries_QD * self.step_D
        scores_QN = np.empty((len(queries_QD), len(codes_ND)), dtype=np.float32)
        for first in range(0, len(codes_ND), ROWS_PER_BLOCK):
            block = slice(first, first + ROWS_PER_BLOCK)
            scores_QN[:, block] = scaled_QD @ codes_ND[block].astype(np.float32).T
        return scores_QN

    def save(self, path: Path | str) -> None:
        """A JSON file that `load` reads back to the last bit."""
        write_json(path, {"codes": "int8", "step": [float(step) for step in self.step_D]})

    @classmethod
    def load(cls, path: Path | str) -> "Int8Codes":
        """The steps of a file. Raises CheckpointError for one that is missing or damaged."""
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            step_D = np.array(stored["step"], dtype=np.float32)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} holds no int8 calibration ({error!r})") from error
        if step_D.ndim != 1 or not len(step_D) or not (step_D > 0).all():
            raise CheckpointError(f"{path} holds no int8 calibration (steps must be above 0)")
        return cls(step_D)

    def _require_width(self, rows_ND: NDArray[Any]) -> None:
        if rows_ND.ndim != 2 or rows_ND.shape[1] != len(self.step_D):
            raise InputError(f"the calibration has {len(self.step_D)} components, got an array of {rows_ND.shape}")


def pack_signs(vectors_ND: Vectors) -> NDArray[np.uint8]:
    """[N, D / 8, rounded up]: one bit per component, set where it is not negative, the first in the highest bit."""
    return np.packbits(vectors_ND >= 0, axis=1)


def unpack_signs(codes_NB: NDArray[np.uint8], dim: int) -> Vectors:
    """[N, dim] of 1 and -1. Raises InputError where the codes are of another width."""
    if codes_NB.shape[1] != -(-dim // 8):
        raise InputError(f"codes of {codes_NB.shape[1]} bytes are not those of {dim} components")
    return np.unpackbits(codes_NB, axis=1, count=dim).astype(np.float32) * 2 - 1


def hamming(queries_QB: NDArray[np.uint8], codes_NB: NDArray[np.uint8]) -> NDArray[np.int32]:
    """[Q, N] number of bits in which the codes differ; D - 2 x hamming is the dot product of the signs."""
    distances_QN = np.empty((len(queries_QB), len(codes_NB)), dtype=np.int32)
    for row, query_B in enumerate(queries_QB):
        distances_QN[row] = _BITS[query_B ^ codes_NB].sum(1, dtype=np.int32)
    return distances_QN
