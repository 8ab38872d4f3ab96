"""Documents become rows of the table: cut, encoded in one block, put together again.

Read `encode_block`. It is the whole of the work that a process on another machine does; knows no table.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffembed.documents import ChunkPolicy, cut_document
from diffembed.embedding.embedder import Embedder
from diffembed.embedding.late import encode_late
from diffembed.embedding.text import clean
from diffembed.errors import ConfigError, InputError
from diffembed.index.store import EncodedDocument
from diffembed.provenance import hash_text
from diffembed.records import Document, Encoder

BLOCK_CHUNKS = 512
"""Chunks encoded together: some forty packs of a CPU, so that sorting by length pays and little is lost in a crash."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CutDocument:
    """A document that is to be encoded, with its chunks."""

    document: Document
    content_hash: str
    chunks: Sequence[Document]
    modified_ns: int = 0
    num_bytes: int = 0
    is_known: bool = False
    """Whether the table may hold an earlier state of it, to be replaced."""


def clean_document(document: Document) -> Document:
    """The document with lone surrogates, which no table can hold, as U+FFFD.

    Raises InputError for metadata that is no string, finite number or truth value.
    """
    text, title = clean(document.text), clean(document.title)
    metadata = {}
    for name, value in document.metadata.items():
        if isinstance(value, str):
            value = clean(value)
        elif not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(
                f"the metadata {name!r} of the document {document.id!r} is {value!r}; it can be a string, a finite "
                "number, True or False"
            )
        metadata[clean(name)] = value
    if text is document.text and title is document.title and metadata == document.metadata:
        return document
    return replace(document, text=text, title=title, metadata=metadata)


def hash_document(document: Document) -> str:
    """32 hex digits of title, text and metadata."""
    metadata = f"\n{json.dumps(document.metadata, sort_keys=True)}" if document.metadata else ""
    return hash_text(f"{document.title}\n{document.text}{metadata}")[:32]


def cut(document: Document, policy: ChunkPolicy, encoder: Encoder, *, counts_lines: bool = True) -> list[Document]:
    """The chunks of a document; tokens are those of the encoder."""
    starts = _token_starts(encoder) if policy.unit == "tokens" else None
    return cut_document(document, policy, token_starts=starts, counts_lines=counts_lines)


def _token_starts(encoder: Encoder) -> Any:
    if not isinstance(encoder, Embedder):
        return None
    backend = encoder.backbone.tokenizer.backend_tokenizer
    return lambda text: [start for start, _ in backend.encode(text, add_special_tokens=False).offsets]


def blocks(documents: Iterable[CutDocument], num_chunks: int = BLOCK_CHUNKS) -> Iterator[list[CutDocument]]:
    """Whole documents, in order, in groups of at least `num_chunks` chunks.

    Where a group ends depends on the documents before it alone, so that a job that starts again after any group makes
    the groups that it would have made, and with them the same vectors to the last bit.
    """
    block: list[CutDocument] = []
    size = 0
    for document in documents:
        block.append(document)
        size += len(document.chunks)
        if size >= num_chunks:
            yield block
            block, size = [], 0
    if block:
        yield block


def encode_block(
    block: Sequence[CutDocument], encoder: Encoder, policy: ChunkPolicy, *, is_added: bool = False
) -> list[EncodedDocument]:
    """The documents with a float32 vector for every chunk."""
    if policy.kind == "late":
        vectors, num_tokens, is_truncated = _encode_late(block, encoder)
    else:
        vectors, num_tokens, is_truncated = _encode_chunks(block, encoder)
    ends = np.cumsum([0, *(len(cut.chunks) for cut in block)])
    return [
        EncodedDocument(
            id=cut.document.id,
            content_hash=cut.content_hash,
            chunks=cut.chunks,
            vectors=vectors[start:stop],
            num_tokens=num_tokens[start:stop],
            is_truncated=is_truncated[start:stop],
            modified_ns=cut.modified_ns,
            num_bytes=cut.num_bytes,
            is_added=is_added,
        )
        for cut, start, stop in zip(block, ends, ends[1:], strict=False)
    ]


def _encode_chunks(block: Sequence[CutDocument], encoder: Encoder) -> tuple[Any, list[int], list[bool]]:
    texts = [chunk.full_text for cut in block for chunk in cut.chunks]
    if not isinstance(encoder, Embedder):
        return np.asarray(encoder.encode_documents(texts), dtype=np.float32), [0] * len(texts), [False] * len(texts)
    vectors, report = encoder.encode(texts, progress=False)
    return vectors, report.num_tokens.tolist(), report.is_truncated.tolist()


def _encode_late(block: Sequence[CutDocument], encoder: Encoder) -> tuple[Any, list[int], list[bool]]:
    """Tokens are counted with the first chunk of a document, which was read as a whole."""
    if not isinstance(encoder, Embedder):
        raise ConfigError(f"late chunking reads the states of a network; {encoder.name} gives vectors only")
    spans = [
        [(chunk.start - cut.document.start, chunk.start - cut.document.start + len(chunk.text)) for chunk in cut.chunks]
        for cut in block
    ]
    vectors, report = encode_late(encoder, [cut.document.text for cut in block], spans)
    counts = [
        n if part == 0 else 0
        for cut, n in zip(block, report.num_tokens.tolist(), strict=True)
        for part in range(len(cut.chunks))
    ]
    return np.concatenate(vectors), counts, [False] * len(counts)
