"""Runs of words by number: which runs of some texts stand in millions of words of others, and where first.

Read `Runs`. Knows nothing of what the texts are.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

BATCH_WORDS = 1_000_000
Hashes = NDArray[np.uint64]


class Numbers:
    """Words of the texts that are sought as random 64-bit numbers; every other word is 0, which none of them holds."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def add(self, found: Sequence[str]) -> Hashes:
        """Numbers of the words of a text that is sought."""
        return _mixed(np.asarray([self._known.setdefault(word, len(self._known) + 1) for word in found], np.uint64))

    def stretches(self, texts: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[Hashes, NDArray[np.int64]]]:
        """Many (number, words) texts at a time: their words, a 0 between two so that no run crosses; their numbers."""
        found: list[str] = []
        owners: list[int] = []
        for owner, inside in texts:
            found += [*inside, ""]
            owners += [owner] * (len(inside) + 1)
            if len(found) >= BATCH_WORDS:
                yield self._of(found), np.asarray(owners, np.int64)
                found, owners = [], []
        if found:
            yield self._of(found), np.asarray(owners, np.int64)

    def _of(self, found: Iterable[str]) -> Hashes:
        return _mixed(np.asarray([self._known.get(word, 0) for word in found], np.uint64))


class Runs:
    """The runs of words that are sought, and the first text of each set that holds them."""

    def __init__(self, length: int, sought: Iterable[Hashes]) -> None:
        """sought: texts as `Numbers.add` gives them."""
        self._length = length
        hashes = [_run_hashes(ids, length) for ids in sought]
        self._hashes = np.unique(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64)
        self._owners: dict[str, NDArray[np.int64]] = {}
        """Set -> number of the text that holds each run first, -1 where none does."""

    def look(self, ids: Hashes, owners: NDArray[np.int64], made_of: str) -> None:
        """Notes the runs that occur in a stretch of words. made_of: the set that its texts are of."""
        found = _run_hashes(ids, self._length)
        if not len(self._hashes) or not len(found):
            return
        spots = np.minimum(np.searchsorted(self._hashes, found), len(self._hashes) - 1)
        hit = np.flatnonzero(self._hashes[spots] == found)[::-1]
        if made_of not in self._owners:
            self._owners[made_of] = np.full(len(self._hashes), -1, np.int64)
        known = self._owners[made_of]
        # Reversed, so that the first text that holds a run is the one that stays.
        new = known[spots[hit]] < 0
        known[spots[hit[new]]] = owners[hit[new]]

    def find(self, ids: Hashes, but: Collection[str] = ()) -> NDArray[np.int64]:
        """Number of a text outside the sets `but` that holds each run of a text that is sought; -1 where none does."""
        spots = np.searchsorted(self._hashes, _run_hashes(ids, self._length))
        found = np.full(len(spots), -1, np.int64)
        for made_of, owners in self._owners.items():
            if made_of not in but:
                found = np.where(found < 0, owners[spots], found)
        return found


def _mixed(ids: Hashes) -> Hashes:
    """splitmix64 of each number, 0 kept: sums of products of neighbours then hardly ever agree by chance."""
    x = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.where(ids == 0, np.uint64(0), x ^ (x >> np.uint64(31)))


def _run_hashes(ids: Hashes, length: int) -> Hashes:
    """One number for each run of words."""
    num_runs = max(0, len(ids) - length + 1)
    total = np.zeros(num_runs, np.uint64)
    for place in range(length):
        total = total * np.uint64(0x100000001B3) + ids[place : place + num_runs]
    return total
