"""Texts to vectors for evaluation: each text once, kept on disk, with what it cost and what was cut.

Read `Reader.read`. A reader serves one encoder, or several labels that share one forward pass (poolings of the same
network). This module knows nothing of tasks or measures.
"""

# N = texts, U = distinct texts, D = width of the vectors

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError, InputError
from diffembed.evaluation.systems.vector_cache import VectorCache, hash_texts
from diffembed.records import Encoder, EncodeReport, Vectors

if TYPE_CHECKING:
    from diffembed.backbones.attention import Direction
    from diffembed.embedding.embedder import Embedder

CHARACTERS_PER_BLOCK = 1_000_000
"""Encoded between two writes of the cache: about 250k tokens, a few minutes of a 270M network on two cores."""
SECONDS_BETWEEN_LINES = 10.0
"""`notify` is called no more often than this."""

EncodeFunction = Callable[[Sequence[str], str, str | None], tuple[dict[str, Vectors], EncodeReport | None]]
"""(texts, 'query' or 'document', instruction) -> label -> [N, D], and the report where the encoder gives one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What it took to have the vectors of some texts."""

    num_texts: int
    num_tokens: int | None
    """Tokens of all texts as the network reads them; `None` when the encoder does not tell."""
    num_truncated: int | None
    """Texts whose end was not read; `None` when the encoder does not tell."""
    num_encoded: int
    """Distinct texts that went through the network now; the others were repeated or kept from before."""
    num_encoded_tokens: int | None
    seconds: float
    """Wall time of encoding."""
    max_tokens: int

    @property
    def truncated_fraction(self) -> float | None:
        """Texts that were cut over all texts."""
        return None if self.num_truncated is None else self.num_truncated / max(1, self.num_texts)

    @property
    def tokens_per_s(self) -> float | None:
        """Speed of what was encoded now; `None` when nothing was, or the encoder does not count."""
        if not self.num_encoded_tokens or self.seconds <= 0:
            return None
        return self.num_encoded_tokens / self.seconds


class Reader:
    """An encoder with a memory."""

    def __init__(
        self,
        encode: EncodeFunction,
        *,
        labels: Sequence[str],
        dim: int,
        max_tokens: int,
        cache_folder: Path | None = None,
        keys: Mapping[str, str] | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        """keys: label -> identity of the model and its settings (`identity.identify`), required with `cache_folder`.

        notify: receives a line after a block, at most every ten seconds.
        """
        self.labels = tuple(labels)
        self.identities = dict(keys or {})
        self.dim = dim
        self.max_tokens = max_tokens
        self._encode = encode
        self._notify = notify
        self._last_line = time.perf_counter()
        self._caches: dict[str, VectorCache] | None = None
        if cache_folder is not None:
            if not keys or set(keys) != set(labels):
                raise ConfigError("a vector cache needs the identity of each model; pass keys for every label")
            self._caches = {
                label: VectorCache(folder=cache_folder / f"{keys[label]}-{dim}", dim=dim) for label in labels
            }

    def read(
        self, texts: Sequence[str], kind: str, instruction: str | None = None, *, what: str = ""
    ) -> tuple[dict[str, Vectors], Reading]:
        """Label -> [N, D] in input order, and what it took.

        kind: `document` or `query`. Raises InputError when the encoder returns NaN, another count or another width.
        """
        keys = hash_texts(texts, kind if instruction is None else f"{kind}\0{instruction}")
        first_place: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            first_place.setdefault(key, place)
        unique = list(first_place)
        row_of = {key: row for row, key in enumerate(unique)}
        vectors = {label: np.empty((len(unique), self.dim), dtype=np.float32) for label in self.labels}
        num_tokens_U = np.full(len(unique), -1, dtype=np.int64)
        is_truncated_U = np.zeros(len(unique), dtype=np.bool_)
        missing = self._fill_from_cache(unique, vectors, num_tokens_U, is_truncated_U)
        # Longest first: packs of like lengths, and memory runs out at the start or never.
        missing.sort(key=lambda key: (-len(texts[first_place[key]]), first_place[key]))
        started, num_done, num_encoded_tokens = time.perf_counter(), 0, 0
        for block in self._blocks(missing, texts, first_place):
            rows = [row_of[key] for key in block]
            block_texts = [texts[first_place[key]] for key in block]
            encoded, num_tokens_U[rows], is_truncated_U[rows] = self._encode_block(block_texts, kind, instruction)
            for label, vectors_ND in encoded.items():
                vectors[label][rows] = vectors_ND
                if self._caches is not None:
                    self._caches[label].add(
                        block, vectors_ND, num_tokens_U[rows], is_truncated_U[rows], self.max_tokens
                    )
            num_done += len(block)
            num_encoded_tokens += int(num_tokens_U[rows].sum())
            self._tell(what or kind, num_done, len(missing), num_encoded_tokens, time.perf_counter() - started)
        seconds = time.perf_counter() - started if missing else 0.0
        rows = [row_of[key] for key in keys]
        is_counted = bool((num_tokens_U >= 0).all())
        reading = Reading(
            num_texts=len(texts),
            num_tokens=int(num_tokens_U[rows].sum()) if is_counted else None,
            num_truncated=int(is_truncated_U[rows].sum()) if is_counted else None,
            num_encoded=len(missing),
            num_encoded_tokens=num_encoded_tokens if is_counted else None,
            seconds=seconds,
            max_tokens=self.max_tokens,
        )
        if len(unique) < len(keys):
            vectors = {label: vectors_UD[rows] for label, vectors_UD in vectors.items()}
        return vectors, reading

    def _fill_from_cache(
        self,
        keys: Sequence[bytes],
        vectors: Mapping[str, Vectors],
        num_tokens_U: NDArray[np.int64],
        is_truncated_U: NDArray[np.bool_],
    ) -> list[bytes]:
        """Fills the rows that every label's cache holds; returns the keys of the others."""
        if self._caches is None:
            return list(keys)
        found = {label: cache.find(keys, self.max_tokens) for label, cache in self._caches.items()}
        rows = [row for row in range(len(keys)) if all(entries[row] is not None for entries in found.values())]
        for label, cache in self._caches.items():
            entries = [entry for row in rows if (entry := found[label][row]) is not None]
            vectors[label][rows] = cache.load(entries)
            num_tokens_U[rows] = [entry.num_tokens for entry in entries]
            is_truncated_U[rows] = [entry.is_truncated for entry in entries]
        held = set(rows)
        return [key for row, key in enumerate(keys) if row not in held]

    def _blocks(
        self, keys: Sequence[bytes], texts: Sequence[str], first_place: Mapping[bytes, int]
    ) -> list[list[bytes]]:
        blocks: list[list[bytes]] = []
        room = 0
        for key in keys:
            length = len(texts[first_place[key]])
            if not blocks or length > room:
                blocks.append([])
                room = CHARACTERS_PER_BLOCK
            blocks[-1].append(key)
            room -= length
        return blocks

    def _encode_block(
        self, texts: Sequence[str], kind: str, instruction: str | None
    ) -> tuple[dict[str, Vectors], NDArray[np.int64], NDArray[np.bool_]]:
        vectors, report = self._encode(texts, kind, instruction)
        for label, vectors_ND in vectors.items():
            if vectors_ND.shape != (len(texts), self.dim):
                raise InputError(
                    f"{label} returned vectors of shape {vectors_ND.shape} for {len(texts)} texts; "
                    f"({len(texts)}, {self.dim}) was expected"
                )
            is_bad = ~np.isfinite(vectors_ND).all(1)
            if is_bad.any():
                text = texts[int(np.argmax(is_bad))]
                raise InputError(f"{label} returned NaN for the {kind} that begins {text[:60]!r}")
        if report is None:
            return vectors, np.full(len(texts), -1, np.int64), np.zeros(len(texts), np.bool_)
        return vectors, report.num_tokens, report.is_truncated

    def _tell(self, what: str, num_done: int, num_missing: int, num_tokens: int, seconds: float) -> None:
        now = time.perf_counter()
        if self._notify is not None and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            speed = f", {num_tokens / seconds:,.0f} tokens/s" if num_tokens > 0 and seconds > 0 else ""
            self._notify(f"{what}: {num_done:,} of {num_missing:,} texts{speed}")


def read_with(
    encoder: Encoder,
    *,
    cache_folder: Path | None = None,
    key: str | None = None,
    notify: Callable[[str], None] | None = None,
) -> Reader:
    """A reader over one encoder. key: identity of the model and its settings, required with `cache_folder`."""
    encode = getattr(encoder, "encode", None)

    def encode_texts(
        texts: Sequence[str], kind: str, instruction: str | None
    ) -> tuple[dict[str, Vectors], EncodeReport | None]:
        if callable(encode):
            vectors, report = encode(texts, kind=kind, instruction=instruction)
            return {encoder.name: np.asarray(vectors)}, report
        if kind == "query":
            return {encoder.name: np.asarray(encoder.encode_queries(texts, instruction=instruction))}, None
        return {encoder.name: np.asarray(encoder.encode_documents(texts))}, None

    return Reader(
        encode_texts,
        labels=[encoder.name],
        dim=encoder.dim,
        max_tokens=encoder.max_tokens,
        cache_folder=cache_folder,
        keys=None if key is None else {encoder.name: key},
        notify=notify,
    )


def read_embedder(
    embedder: "Embedder",
    poolings: Mapping[str, str],
    *,
    cache_folder: Path | None = None,
    direction: "Direction | tuple[Direction, ...] | None" = None,
    notify: Callable[[str], None] | None = None,
) -> Reader:
    """A reader over several poolings of one embedder, which share its forward passes.

    poolings: label -> pooling. direction: another attention than the trained one, for the direction ablation.
    """
    from diffembed.embedding.precision import cut_dims
    from diffembed.evaluation.systems.identity import identify

    names = list(dict.fromkeys(poolings.values()))
    dims = None if embedder.dim == embedder.backbone.dim else embedder.dim

    def encode_texts(
        texts: Sequence[str], kind: str, instruction: str | None
    ) -> tuple[dict[str, Vectors], EncodeReport | None]:
        assert kind in ("query", "document")
        vectors, report = embedder.encode_poolings(
            texts, names, kind="query" if kind == "query" else "document", instruction=instruction, direction=direction
        )
        cut = {name: cut_dims(vectors[name], dims, is_normalised=embedder.is_normalised) for name in names}
        return {label: cut[name] for label, name in poolings.items()}, report

    identities = {name: identify(embedder, pooling=name, direction=direction) for name in names}
    return Reader(
        encode_texts,
        labels=list(poolings),
        dim=embedder.dim,
        max_tokens=embedder.max_tokens,
        cache_folder=cache_folder,
        keys={label: identities[name] for label, name in poolings.items()},
        notify=notify,
    )
