"""Which rows form which global batch: one source per batch, any step computed from the seed alone.

Read `BatchPlan`. A batch is global: all rows that one optimiser step contrasts, over all devices. Knows nothing of
texts beyond whether two are the same, nor of devices beyond their number.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffembed.data.formats import Triplet, text_key
from diffembed.data.negatives import row_generator
from diffembed.errors import ConfigError, EmptyInputError, UnknownNameError

Places = NDArray[np.int64]
"""Positions in the sequence of triplets that the plan was made of."""


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """How sources share the steps of a run."""

    temperature: float = 1.0
    """Flattens the shares of the sources: share ~ batches ** (1 / temperature), at least 1. 1 is proportional to size:
    every epoch reads every row once, up to remainders; inf gives all sources the same share."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Source -> relative share of the steps, above 0, in place of a temperature; empty or complete."""
    batch_by: Literal["source", "instruction"] = "source"
    """What the rows of a batch have in common: their source, or source and instruction."""
    small_groups: Literal["error", "drop"] = "error"
    """What to do with a group that has fewer rows than a batch."""
    is_distinct: bool = True
    """Keep rows apart that share a query under one instruction, or a positive: one would be the other's false
    negative."""

    def __post_init__(self) -> None:
        if not self.temperature >= 1:
            raise ConfigError(f"temperature must be at least 1, received {self.temperature}")
        if self.weights and self.temperature != 1:
            raise ConfigError("weights set the shares themselves; temperature has no effect beside them")
        if self.weights and self.batch_by == "instruction":
            raise ConfigError("weights are shares of sources; they need batch_by=source")
        for source, weight in self.weights.items():
            if not 0 < weight < float("inf"):
                raise ConfigError(f"the weight of {source!r} must be above 0, received {weight}")


@dataclass(frozen=True, kw_only=True)
class _Group:
    name: str
    places: Places
    num_batches: int
    """Whole batches in one pass over the group."""
    share: int
    """Batches in one epoch of the plan; more than `num_batches` passes over the group again."""


class BatchPlan:
    """The global batches of a run: `batch(step)` for any step, in any order, in any process, is always the same.

    An epoch has as many steps as there are whole batches in all groups. Every pass over a group has a new order.
    """

    def __init__(
        self, triplets: Sequence[Triplet], batch_rows: int, seed: int, config: MixConfig | None = None
    ) -> None:
        """`batch_rows`: rows of a global batch, devices and accumulation included.

        Raises ConfigError for a group smaller than a batch unless the config drops it, and for weights that do not
        name exactly the sources there are.
        """
        if batch_rows < 1:
            raise ConfigError(f"a batch needs at least 1 row, received {batch_rows}")
        if not triplets:
            raise EmptyInputError("there are no rows to make batches of")
        self.config = config or MixConfig()
        self.batch_rows = batch_rows
        self.seed = seed
        self.dropped: Counter[str] = Counter()
        """Group -> rows that no batch holds because the group is smaller than a batch."""
        self._groups = self._make_groups(triplets)
        self._codes = _same_text_codes(triplets) if self.config.is_distinct else None
        self._schedule = lru_cache(maxsize=2)(self._make_schedule)
        self._pass = lru_cache(maxsize=2 * len(self._groups))(self._make_pass)

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every group has had its share of batches."""
        return sum(group.share for group in self._groups)

    @property
    def shares(self) -> dict[str, int]:
        """Group -> steps of an epoch."""
        return {group.name: group.share for group in self._groups}

    def group_of(self, step: int) -> str:
        """Name of the group whose rows the step has: a source, or a source and an instruction."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return self._groups[self._schedule(epoch)[0][within]].name

    def batch(self, step: int) -> Places:
        """[batch_rows] positions of the rows of a step, counted from 0 without end."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order, counts = self._schedule(epoch)
        group = self._groups[order[within]]
        number = epoch * group.share + int(counts[within])
        cycle, place = divmod(number, group.num_batches)
        return self._pass(int(order[within]), cycle)[place]

    def shard(self, step: int, rank: int, num_ranks: int) -> Places:
        """The rows of one device: its contiguous share of the global batch."""
        if self.batch_rows % num_ranks:
            raise ConfigError(f"{self.batch_rows} rows do not divide among {num_ranks} devices")
        if not 0 <= rank < num_ranks:
            raise ConfigError(f"rank must be between 0 and {num_ranks - 1}, received {rank}")
        size = self.batch_rows // num_ranks
        return self.batch(step)[rank * size : (rank + 1) * size]

    def batches(
        self, start: int = 0, stop: int | None = None, *, rank: int = 0, num_ranks: int = 1
    ) -> Iterator[Places]:
        """Batches (of one device) from step `start` until before `stop`, or for ever: where a resumed run goes on."""
        step = start
        while stop is None or step < stop:
            yield self.shard(step, rank, num_ranks)
            step += 1

    def _make_groups(self, triplets: Sequence[Triplet]) -> list[_Group]:
        by_name: dict[str, list[int]] = {}
        for place, triplet in enumerate(triplets):
            by_instruction = f"{triplet.source} | {triplet.instruction}"
            name = triplet.source if self.config.batch_by == "source" else by_instruction
            by_name.setdefault(name, []).append(place)
        small = {name: len(places) for name, places in by_name.items() if len(places) < self.batch_rows}
        if small and (self.config.small_groups == "error" or len(small) == len(by_name)):
            names = ", ".join(f"{name} ({rows})" for name, rows in list(small.items())[:3])
            raise ConfigError(f"{len(small)} groups have fewer rows than a batch of {self.batch_rows}: {names}")
        self.dropped.update(small)
        kept = {name: np.asarray(places, np.int64) for name, places in by_name.items() if name not in small}
        sizes = {name: len(places) // self.batch_rows for name, places in kept.items()}
        shares = _apportion(sum(sizes.values()), self._weights(sizes))
        return [
            _Group(name=name, places=kept[name], num_batches=sizes[name], share=shares[name]) for name in sorted(kept)
        ]

    def _weights(self, sizes: Mapping[str, int]) -> dict[str, float]:
        given = self.config.weights
        for name in given:
            if name not in sizes:
                raise UnknownNameError.of("source", name, tuple(sizes))
        if given and (missing := sorted(set(sizes) - set(given))):
            raise ConfigError(f"weights must name every source; {', '.join(missing)} missing")
        largest = max(sizes.values())
        return {
            name: given.get(name, (size / largest) ** (1 / self.config.temperature)) for name, size in sizes.items()
        }

    def _make_schedule(self, epoch: int) -> tuple[Places, Places]:
        """Group of every step of an epoch, and how many steps of the epoch that group has had before."""
        order = np.repeat(np.arange(len(self._groups)), [group.share for group in self._groups])
        order = row_generator(self.seed, "schedule", str(epoch)).permutation(order)
        counts = np.empty_like(order)
        for number, group in enumerate(self._groups):
            counts[order == number] = np.arange(group.share)
        return order, counts

    def _make_pass(self, number: int, cycle: int) -> Places:
        """[num_batches, batch_rows] the rows of one pass over a group."""
        group = self._groups[number]
        order = row_generator(self.seed, "pass", group.name, str(cycle)).permutation(group.places)
        if self._codes is not None:
            order = _spread(order, self._codes, self.batch_rows, group.num_batches)
        return order[: group.num_batches * self.batch_rows].reshape(group.num_batches, self.batch_rows)


def _apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers proportional to the weights that add up to `total` (largest remainder); none is below 1."""
    scale = total / sum(weights.values())
    exact = {name: weight * scale for name, weight in weights.items()}
    # Rounded first, so that an exact 3 that floats make 2.9999999 counts as 3.
    shares = {name: max(1, int(round(value, 9))) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
    while (missing := total - sum(shares.values())) > 0:
        for name in by_remainder[:missing]:
            shares[name] += 1
    return shares


def _same_text_codes(triplets: Sequence[Triplet]) -> NDArray[np.int64]:
    """[rows, 3] numbers of each row's query under its instruction, positive, and query as a text; equal = same."""
    queries: dict[tuple[str, str | None], int] = {}
    texts: dict[str, int] = {}
    codes = np.empty((len(triplets), 3), np.int64)
    for place, triplet in enumerate(triplets):
        query, positive = text_key(triplet.query), text_key(triplet.positive)
        codes[place, 0] = queries.setdefault((query, triplet.instruction), len(queries))
        codes[place, 1] = texts.setdefault(positive, len(texts))
        codes[place, 2] = texts.setdefault(query, len(texts))
    return codes


def _spread(order: Places, codes: NDArray[np.int64], batch_rows: int, num_batches: int) -> Places:
    """The order, changed as little as a greedy pass can, so that no two rows of a batch are each other's answers.

    Where nothing but such rows is left, the last batches hold them all the same; every row still comes at most once.
    """
    spread: list[int] = []
    waiting: list[int] = []
    stream = iter(order.tolist())
    for _ in range(num_batches):
        batch: list[int] = []
        put_off: list[int] = []
        taken_queries: set[int] = set()
        taken_positives: set[int] = set()
        taken_texts: set[int] = set()
        # `stream` is advanced only while the batch has room; what was put off before has the first turn.
        for place in chain(waiting, stream):
            query, positive, text = codes[place].tolist()
            if (
                query in taken_queries
                or positive in taken_positives
                or positive in taken_texts
                or text in taken_positives
            ):
                put_off.append(place)
                continue
            batch.append(place)
            taken_queries.add(query)
            taken_positives.add(positive)
            taken_texts.add(text)
            if len(batch) == batch_rows:
                break
        seen = len(batch) + len(put_off)
        put_off.extend(waiting[seen:])
        missing = batch_rows - len(batch)
        spread += batch + put_off[:missing]
        waiting = put_off[missing:]
    return np.asarray(spread, np.int64)
