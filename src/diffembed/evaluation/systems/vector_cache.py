"""Vectors on disk by the content of their text, so that a document is encoded once per model.

Read `VectorCache.find` and `add`. A text that was read whole serves every later token limit that fits it; one that
was cut serves its own limit only. This module knows nothing of encoders or tasks.
"""

# N = texts, D = width of the vectors

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffembed.backbones.registry import FAMILIES
from diffembed.code import hash_code
from diffembed.errors import CheckpointError, InputError
from diffembed.provenance import atomic_file, hash_config, user_cache
from diffembed.records import Vectors


def vectors_folder() -> Path:
    """Where vectors are kept on this machine: a folder for each state of what makes them beside the weights.

    That is the code, what the registry says of architectures, and the libraries that compute.
    """
    code = hash_code("diffembed.embedding.embedder", "diffembed.evaluation.systems.echo")
    libraries = {name: metadata.version(name) for name in ("torch", "transformers", "tokenizers")}
    return user_cache() / "vectors" / hash_config([code, FAMILIES, libraries])


def hash_texts(texts: Sequence[str], kind: str) -> list[bytes]:
    """16 bytes per text; `kind` tells apart what is encoded differently (document, query, instruction)."""
    # Hashed to a fixed length, so that no end of a kind can be taken for the start of a text.
    prefix = hashlib.sha256(kind.encode("utf-8", "surrogatepass")).digest()
    return [hashlib.sha256(prefix + text.encode("utf-8", "surrogatepass")).digest()[:16] for text in texts]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a vector is and what its text was read as; token counts are -1 where the encoder does not tell."""

    shard: Path
    row: int
    num_tokens: int
    is_truncated: bool
    max_tokens: int

    def serves(self, max_tokens: int) -> bool:
        """Whether the vector is the one an encoder with this limit would give."""
        if self.is_truncated or self.num_tokens < 0:
            return self.max_tokens == max_tokens
        return self.num_tokens <= max_tokens


@dataclass(kw_only=True)
class VectorCache:
    """One folder per model; each `add` writes one parquet file, whole or not at all."""

    folder: Path
    dim: int
    _entries: dict[bytes, list[Entry]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for shard in sorted(self.folder.glob("*.parquet")):
            self._read_entries(shard)

    def find(self, keys: Sequence[bytes], max_tokens: int) -> list[Entry | None]:
        """The entry of each key under a token limit, `None` where there is none."""
        return [next((entry for entry in self._entries.get(key, ()) if entry.serves(max_tokens)), None) for key in keys]

    def load(self, entries: Sequence[Entry]) -> Vectors:
        """[N, D] vectors of some entries."""
        vectors_ND = np.empty((len(entries), self.dim), dtype=np.float32)
        by_shard: dict[Path, list[int]] = {}
        for place, entry in enumerate(entries):
            by_shard.setdefault(entry.shard, []).append(place)
        for shard, places in by_shard.items():
            stored = _read_shard(shard, ["vector"])["vector"].combine_chunks()
            matrix = stored.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.dim)
            vectors_ND[places] = matrix[[entries[place].row for place in places]]
        return vectors_ND

    def add(
        self,
        keys: Sequence[bytes],
        vectors_ND: Vectors,
        num_tokens_N: NDArray[np.int64],
        is_truncated_N: NDArray[np.bool_],
        max_tokens: int,
    ) -> None:
        """Stores vectors under their keys."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if vectors_ND.shape != (len(keys), self.dim):
            raise InputError(f"{len(keys)} vectors of dim {self.dim} were expected; got shape {vectors_ND.shape}")
        table = pa.table(
            {
                "key": pa.array(list(keys), pa.binary(16)),
                "num_tokens": pa.array(num_tokens_N, pa.int32()),
                "is_truncated": pa.array(is_truncated_N, pa.bool_()),
                "max_tokens": pa.array([max_tokens] * len(keys), pa.int32()),
                "vector": pa.FixedSizeListArray.from_arrays(
                    pa.array(np.ascontiguousarray(vectors_ND, np.float32).ravel()), self.dim
                ),
            }
        )
        name = hashlib.sha256(b"".join(keys) + str(max_tokens).encode()).hexdigest()[:16]
        shard = self.folder / f"{name}.parquet"
        with atomic_file(shard) as part:
            pq.write_table(table, part, compression="zstd", use_dictionary=False)
        self._read_entries(shard)

    def _read_entries(self, shard: Path) -> None:
        table = _read_shard(shard, ["key", "num_tokens", "is_truncated", "max_tokens"])
        columns = [table[name].to_pylist() for name in ("key", "num_tokens", "is_truncated", "max_tokens")]
        for row, (key, num_tokens, is_truncated, max_tokens) in enumerate(zip(*columns, strict=True)):
            self._entries.setdefault(key, []).append(
                Entry(shard=shard, row=row, num_tokens=num_tokens, is_truncated=is_truncated, max_tokens=max_tokens)
            )


def _read_shard(shard: Path, columns: list[str]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(shard, columns=columns)
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise CheckpointError(
            f"the vector cache file {shard} is damaged ({error}); remove it to encode again"
        ) from error
