"""A fixed number of negatives per row, chosen by seed and row and by nothing else.

Read `with_num_negatives`. Knows nothing of where negatives come from.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diffembed.data.formats import Triplet, text_key
from diffembed.errors import ConfigError
from diffembed.provenance import hash_text

MAX_TRIES = 50


def row_generator(seed: int, *names: str) -> np.random.Generator:
    """A generator that depends on the seed and the names alone: not on order, processes or global random state."""
    return np.random.default_rng([seed, *(int(hash_text(name)[:15], 16) for name in names)])


def choose_negatives(
    triplet: Triplet, num: int, seed: int, *, num_first: int = 0, max_first: int | None = None
) -> Triplet:
    """The triplet with exactly `num` of its negatives, drawn without replacement, then with it where it has too few.

    num_first: the row's first so many negatives are taken before the others; max_first: but at most so many of them.
    A row without negatives stays without.
    """
    if num < 1:
        raise ConfigError(f"the number of negatives must be at least 1, received {num}")
    if not triplet.negatives:
        return triplet
    generator = row_generator(seed, triplet.source, triplet.id)
    first, others = list(triplet.negatives[:num_first]), list(triplet.negatives[num_first:])
    limit = num if max_first is None else min(num, max_first)
    if len(first) > limit:
        first = [first[place] for place in sorted(generator.choice(len(first), limit, replace=False))]
    missing = num - len(first)
    order = generator.permutation(len(others))[:missing]
    chosen = first + [others[place] for place in order]
    pool = others or first
    chosen += [pool[place] for place in generator.integers(len(pool), size=num - len(chosen))]
    return replace(triplet, negatives=tuple(chosen))


def with_num_negatives(
    triplets: Sequence[Triplet], num: int, seed: int, *, from_other_rows: bool = False
) -> list[Triplet]:
    """Every triplet with exactly `num` negatives.

    from_other_rows: what a row lacks is drawn from positives of other rows of its source (another query, another
        text, another `concept` where rows have one); otherwise its own negatives are repeated.
    Raises ConfigError when a row has no negative and none may be drawn, or none can be found.
    """
    by_source: dict[str, list[Triplet]] = {}
    for triplet in triplets:
        by_source.setdefault(triplet.source, []).append(triplet)
    filled = []
    for triplet in triplets:
        if from_other_rows and len(triplet.negatives) < num:
            triplet = borrow(triplet, by_source[triplet.source], num, seed)
        elif not triplet.negatives:
            raise ConfigError(
                f"row {triplet.id} of {triplet.source} has no negatives; mine some, or draw them from other rows"
            )
        filled.append(choose_negatives(triplet, num, seed))
    return filled


def borrow(triplet: Triplet, rows: Sequence[Triplet], num: int, seed: int) -> Triplet:
    """The triplet with `num` negatives, or fewer where too few are found: its own, then positives of other rows.

    rows: those of its source that may lend; none lends what asks or says the same, or is of the same `concept`.
    Raises ConfigError when the triplet would be left without a negative.
    """
    generator = row_generator(seed, triplet.source, triplet.id, "borrowed")
    query = text_key(triplet.query)
    taken = {text_key(text) for text in (triplet.query, triplet.positive, *triplet.negatives)}
    concept = triplet.labels.get("concept")
    borrowed: list[str] = []
    for place in generator.integers(len(rows), size=MAX_TRIES * num):
        if len(triplet.negatives) + len(borrowed) == num:
            break
        other = rows[place]
        key = text_key(other.positive)
        is_same_concept = concept is not None and other.labels.get("concept") == concept
        if key not in taken and not is_same_concept and text_key(other.query) != query:
            taken.add(key)
            borrowed.append(other.positive)
    if not triplet.negatives and not borrowed:
        raise ConfigError(
            f"row {triplet.id} of {triplet.source}: no text that could be its negative among "
            f"{MAX_TRIES * num} rows drawn of {len(rows)}; give it negatives, or leave it out with without_rows"
        )
    return replace(triplet, negatives=(*triplet.negatives, *borrowed))
