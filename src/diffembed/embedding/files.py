"""A file of texts becomes a parquet file of vectors, in blocks, so that memory does not grow with the corpus.

Read `encode_to_parquet`. The file is written aside and renamed: it is whole or not there.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from diffembed.embedding.embedder import Embedder
from diffembed.embedding.text import Kind, Overflow
from diffembed.errors import ConfigError
from diffembed.provenance import atomic_file
from diffembed.records import Document

BLOCK_ROWS = 8192
"""Texts encoded and written at a time: enough to sort by length within, small enough to hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileReport:
    """What was written."""

    out: str
    """The parquet file."""
    num_texts: int
    num_tokens: int
    """Tokens the network read, template and special tokens included."""
    num_truncated: int
    """Texts whose end was cut at `max_tokens`."""
    dim: int
    seconds: float
    """Time spent tokenising and encoding."""
    tokens_per_s: float


def encode_to_parquet(
    embedder: Embedder,
    documents: Iterable[Document],
    out: Path | str,
    *,
    kind: Kind = "document",
    instruction: str | None = None,
    dims: int | None = None,
    overflow: Overflow = "truncate",
) -> FileReport:
    """Encodes documents as they come and writes one row each: id, vector, num_tokens, is_truncated.

    vector is a fixed-size list of float32. The schema's metadata holds, under `diffembed`, how it was made.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = Path(out)
    if out.suffix != ".parquet":
        raise ConfigError(f"vectors are written as parquet; name the file {out.with_suffix('.parquet')}, not {out}")
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file")
    dim = embedder.dim if dims is None else dims
    made = {"model": embedder.name, "kind": kind, "instruction": instruction, "dim": dim, "overflow": overflow}
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("vector", pa.list_(pa.float32(), dim)),
            ("num_tokens", pa.int64()),
            ("is_truncated", pa.bool_()),
        ],
        metadata={"diffembed": json.dumps(made)},
    )
    num_texts = num_tokens = num_truncated = 0
    seconds = 0.0
    with atomic_file(out) as part, pq.ParquetWriter(part, schema) as writer:
        for block in _blocks(documents):
            _require_another_file(block[0].source, out)
            vectors, report = embedder.encode(
                [document.full_text for document in block],
                kind=kind,
                instruction=instruction,
                dims=dims,
                overflow=overflow,
            )
            columns: list[Any] = [
                pa.array([document.id for document in block]),
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim),
                pa.array(report.num_tokens),
                pa.array(report.is_truncated),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            num_texts += len(block)
            num_tokens += int(report.num_tokens.sum())
            num_truncated += int(report.is_truncated.sum())
            seconds += report.seconds
    return FileReport(
        out=str(out),
        num_texts=num_texts,
        num_tokens=num_tokens,
        num_truncated=num_truncated,
        dim=dim,
        seconds=seconds,
        tokens_per_s=num_tokens / seconds if seconds else 0.0,
    )


def _require_another_file(source: str, out: Path) -> None:
    if source and out.exists() and Path(source).exists() and out.samefile(source):
        raise ConfigError(f"{out} is the file with the texts; write the vectors to another one")


def _blocks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    rows = iter(documents)
    while block := list(islice(rows, BLOCK_ROWS)):
        yield block
