"""What an index holds and what this run has met, in 25 bytes a document.

Read `Ledger`. Ids and contents are known by 64 bits of a hash: sorted arrays instead of strings, so that a ledger of
a hundred million documents fits into the memory of one machine.
"""

import hashlib
from collections.abc import Iterable
from enum import Enum

import numpy as np
from numpy.typing import NDArray

BUFFER_KEYS = 1 << 16
"""New keys kept one by one before they are sorted into an array."""


class State(Enum):
    """How a document that a run meets relates to the index."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REPEATED = "repeated"
    """Its id has come before in this run."""


class Ledger:
    """Documents of the index by id, each with the hash of its content and the stamp of its file."""

    def __init__(self, rows: Iterable[tuple[str, str, str]] = ()) -> None:
        """rows: (id, content hash, stamp) of every document of the index."""
        keys = np.fromiter((key for row in rows for key in map(key_of, row)), dtype=np.uint64).reshape(-1, 3)
        order = np.argsort(keys[:, 0], kind="stable")
        self._ids, self._contents, self._stamps = np.ascontiguousarray(keys[order].T)
        self._is_met = np.zeros(len(order), dtype=np.bool_)
        self._new = _KeySet()

    def __len__(self) -> int:
        return len(self._ids)

    def is_same_file(self, id: str, stamp: str) -> bool:
        """Whether the index holds this file as it was at this time with this size; it then counts as met."""
        place = self._place(id)
        if place is None or self._is_met[place] or self._stamps[place] != np.uint64(key_of(stamp)):
            return False
        self._is_met[place] = True
        return True

    def meet(self, id: str, content_hash: str) -> State:
        """Notes a document of this run and says what is to be done with it."""
        place = self._place(id)
        if place is None:
            return State.NEW if self._new.add(key_of(id)) else State.REPEATED
        if self._is_met[place]:
            return State.REPEATED
        self._is_met[place] = True
        return State.UNCHANGED if self._contents[place] == np.uint64(key_of(content_hash)) else State.CHANGED

    def is_gone(self, id: str) -> bool:
        """Whether the index held this document at the start and the run has not met it."""
        place = self._place(id)
        return place is not None and not self._is_met[place]

    def take_met(self, other: "Ledger") -> None:
        """Counts as met what a copy of this ledger has met elsewhere."""
        self._is_met |= other._is_met

    @property
    def num_gone(self) -> int:
        """Documents of the index that the run has not met."""
        return int((~self._is_met).sum())

    def _place(self, id: str) -> int | None:
        key = np.uint64(key_of(id))
        place = int(np.searchsorted(self._ids, key))
        return place if place < len(self._ids) and self._ids[place] == key else None


class _KeySet:
    """A set of 64-bit keys in sorted arrays, each at least twice as long as the next."""

    def __init__(self) -> None:
        self._buffer: set[int] = set()
        self._arrays: list[NDArray[np.uint64]] = []

    def add(self, key: int) -> bool:
        """False if the key was in already."""
        if key in self._buffer or any(_holds(array, key) for array in self._arrays):
            return False
        self._buffer.add(key)
        if len(self._buffer) >= BUFFER_KEYS:
            merged = np.sort(np.fromiter(self._buffer, dtype=np.uint64))
            while self._arrays and len(self._arrays[-1]) < 2 * len(merged):
                merged = np.sort(np.concatenate([self._arrays.pop(), merged]))
            self._arrays.append(merged)
            self._buffer = set()
        return True


def _holds(array: NDArray[np.uint64], key: int) -> bool:
    place = int(np.searchsorted(array, np.uint64(key)))
    return place < len(array) and int(array[place]) == key


def key_of(text: str) -> int:
    """64 bits of a hash."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
