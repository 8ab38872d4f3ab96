"""How far a score or a difference can be trusted: intervals and tests over queries, tasks and seeds.

Read `compare_scores` first. A system's scores are one `Scores` per task: a mapping query id -> value, or a list of
such mappings, one per training seed. Several tasks are averaged with equal weight, and queries are redrawn inside
their task. Every draw is seeded. This module knows nothing of measures or encoders.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffembed.errors import ConfigError, EmptyInputError, InputError

# S = seeds, Q = queries of one task, R = resamples
Floats = NDArray[np.float64]
Scores = Mapping[str, float] | Sequence[Mapping[str, float]]
"""query id -> value, or one such mapping per training seed."""

NUM_RESAMPLES = 10_000
MAX_EXACT_PAIRS = 14
"""Up to this many pairs all 2**n sign patterns are enumerated; chosen because 2**14 costs as much as the draws."""
DRAWS_PER_CHUNK = 2_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate with its percentile bootstrap interval."""

    value: float
    """The mean (or statistic) of the data as they are."""
    low: float
    high: float
    level: float = 0.95
    """Coverage, in (0, 1)."""

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """System a minus system b on the same queries."""

    difference: Interval
    p_value: float
    """Two-sided paired randomisation test."""
    num_queries: int
    num_better: int
    """Queries on which a is above b (mean over seeds)."""
    num_worse: int


def scores_interval(*tasks: Scores, level: float = 0.95, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Interval:
    """Interval of the mean over tasks of the mean over queries; seeds and queries are redrawn together."""
    return _interval([_matrix(task)[1] for task in tasks], level, num_resamples, seed)


def compare_scores(
    a: Scores,
    b: Scores,
    *,
    pair_seeds: bool = False,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Paired bootstrap interval and paired randomisation test of a - b on one task.

    pair_seeds: the i-th seed of a belongs to the i-th seed of b (same data order); they are then redrawn together.
    Raises InputError when the two sides do not hold the same queries.
    """
    return compare_tasks([a], [b], pair_seeds=pair_seeds, level=level, num_resamples=num_resamples, seed=seed)


def compare_tasks(
    a: Sequence[Scores],
    b: Sequence[Scores],
    *,
    pair_seeds: bool = False,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """As `compare_scores`, for the mean over several tasks; `a` and `b` hold one `Scores` per task, in one order."""
    _check_settings(level, num_resamples)
    if len(a) != len(b):
        raise InputError(f"{len(a)} tasks are compared with {len(b)}; both sides need the same tasks")
    a_SQ, b_SQ = [], []
    for a_task, b_task in zip(a, b, strict=True):
        a_ids, a_values = _matrix(a_task)
        b_ids, b_values = _matrix(b_task)
        if a_ids != b_ids:
            odd = sorted(set(a_ids) ^ set(b_ids))[0]
            raise InputError(
                f"query {odd!r} was scored for one system only; a paired comparison needs the same queries"
            )
        a_SQ.append(a_values)
        b_SQ.append(b_values)
    _check_seeds(a_SQ)
    _check_seeds(b_SQ)
    if pair_seeds and a_SQ[0].shape[0] != b_SQ[0].shape[0]:
        raise ConfigError(f"{a_SQ[0].shape[0]} seeds cannot be paired with {b_SQ[0].shape[0]}")
    rng = np.random.default_rng(seed)
    if pair_seeds:
        drawn_R = _resampled_means([x - y for x, y in zip(a_SQ, b_SQ, strict=True)], None, num_resamples, rng)
    else:
        drawn_R = _resampled_means(a_SQ, b_SQ, num_resamples, rng)
    means = [x.mean(0) - y.mean(0) for x, y in zip(a_SQ, b_SQ, strict=True)]
    low, high = _percentiles(drawn_R, level)
    return Comparison(
        difference=Interval(value=_macro(means), low=low, high=high, level=level),
        p_value=randomization_test(means, num_resamples=num_resamples, seed=seed),
        num_queries=sum(len(x) for x in means),
        num_better=sum(int((x > 0).sum()) for x in means),
        num_worse=sum(int((x < 0).sum()) for x in means),
    )


def randomization_test(
    differences: Sequence[Floats] | Floats, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> float:
    """Two-sided p-value that the mean of paired differences is 0: the sign of each pair is flipped at random.

    differences: [Q], or a list of [Q] for a mean over tasks. Exact (all sign patterns) up to 14 pairs; otherwise the
    observed pattern is counted in, so that p is never 0.
    """
    tasks = [np.asarray(differences, np.float64)] if isinstance(differences, np.ndarray) else list(differences)
    # A task mean weighs each of its pairs by 1 / (tasks x pairs): one signed sum serves all tasks.
    weighted_Q = np.concatenate([task / (len(task) * len(tasks)) for task in tasks])
    if not len(weighted_Q):
        raise EmptyInputError("a randomisation test needs at least one pair")
    observed = abs(float(weighted_Q.sum()))
    # Rounding must not make the observed pattern smaller than itself.
    bound = observed - 1e-12 * max(observed, float(np.abs(weighted_Q).sum()))
    num_pairs = len(weighted_Q)
    if num_pairs <= MAX_EXACT_PAIRS:
        patterns = (np.arange(2**num_pairs)[:, None] >> np.arange(num_pairs)) & 1
        return float((np.abs((1.0 - 2 * patterns) @ weighted_Q) >= bound).mean())
    rng = np.random.default_rng(seed)
    num_extreme = 0
    for rows in _chunks(num_resamples, num_pairs):
        signs = rng.integers(0, 2, size=(rows, num_pairs), dtype=np.int8) * 2.0 - 1
        num_extreme += int((np.abs(signs @ weighted_Q) >= bound).sum())
    return (num_extreme + 1) / (num_resamples + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values, in the order given. Source: Holm 1979."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for position, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if not 0 <= p_value <= 1:
            raise InputError(f"the p-value of {name!r} is {p_value}, outside [0, 1]")
        largest = max(largest, min(1.0, p_value * (len(p_values) - position)))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


Statistic = Callable[[Floats, Floats], float]
"""(gold, predicted) -> one number, for example Spearman's correlation."""


def statistic_interval(
    statistic: Statistic,
    gold: ArrayLike,
    predicted: ArrayLike,
    *,
    level: float = 0.95,
    num_resamples: int = 2_000,
    seed: int = 0,
) -> Interval:
    """Interval of a statistic that is no mean of per-item values; items are redrawn.

    The mean of the redraws is moved onto the value: repeated items raise statistics such as the V-measure of many
    small clusters, and a plain percentile interval could miss the value itself.
    """
    _check_settings(level, num_resamples)
    gold_Q, predicted_Q = np.asarray(gold, np.float64), np.asarray(predicted, np.float64)
    value = statistic(gold_Q, predicted_Q)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(num_resamples):
        rows = _redraw(rng, gold_Q, predicted_Q)
        drawn.append(statistic(gold_Q[rows], predicted_Q[rows]))
    drawn_R = np.asarray(drawn)
    low, high = _percentiles(drawn_R - drawn_R.mean() + value, level)
    return Interval(value=value, low=low, high=high, level=level)


def compare_statistic(
    statistic: Statistic,
    gold: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    *,
    level: float = 0.95,
    num_resamples: int = 2_000,
    seed: int = 0,
) -> Comparison:
    """As `compare_scores`, for a statistic over all items: items are redrawn for both systems together.

    The test swaps the two predictions of an item at random; each system's predictions are turned into ranks first, so
    that systems with different score ranges are exchangeable.
    """
    from diffembed.evaluation.statistics.measures import ranks

    _check_settings(level, num_resamples)
    gold_Q = np.asarray(gold, np.float64)
    a_Q, b_Q = ranks(np.asarray(a, np.float64)), ranks(np.asarray(b, np.float64))
    if not len(gold_Q) == len(a_Q) == len(b_Q):
        raise InputError(f"{len(gold_Q)} gold values are compared with {len(a_Q)} and {len(b_Q)} predictions")
    observed = statistic(gold_Q, a_Q) - statistic(gold_Q, b_Q)
    rng = np.random.default_rng(seed)
    drawn, num_extreme = [], 0
    for _ in range(num_resamples):
        rows = _redraw(rng, gold_Q, a_Q, b_Q)
        drawn.append(statistic(gold_Q[rows], a_Q[rows]) - statistic(gold_Q[rows], b_Q[rows]))
        swap = rng.integers(0, 2, len(gold_Q)).astype(bool)
        swapped = statistic(gold_Q, np.where(swap, b_Q, a_Q)) - statistic(gold_Q, np.where(swap, a_Q, b_Q))
        num_extreme += abs(swapped) >= abs(observed) - 1e-12
    low, high = _percentiles(np.asarray(drawn), level)
    gold_rank = ranks(gold_Q)
    a_error, b_error = np.abs(a_Q - gold_rank), np.abs(b_Q - gold_rank)
    return Comparison(
        difference=Interval(value=observed, low=low, high=high, level=level),
        p_value=(num_extreme + 1) / (num_resamples + 1),
        num_queries=len(gold_Q),
        num_better=int((a_error < b_error).sum()),
        num_worse=int((a_error > b_error).sum()),
    )


def _redraw(rng: np.random.Generator, *columns: Floats) -> NDArray[np.int64]:
    """Rows of one resample; one in which a column that varies became constant has no correlation and is redrawn."""
    num_items = len(columns[0])
    varied = [column for column in columns if np.ptp(column) > 0]
    while True:
        rows = rng.integers(0, num_items, num_items)
        if all(np.ptp(column[rows]) > 0 for column in varied):
            return rows


def _interval(tasks: list[Floats], level: float, num_resamples: int, seed: int) -> Interval:
    _check_settings(level, num_resamples)
    _check_seeds(tasks)
    drawn_R = _resampled_means(tasks, None, num_resamples, np.random.default_rng(seed))
    low, high = _percentiles(drawn_R, level)
    return Interval(value=_macro([task.mean(0) for task in tasks]), low=low, high=high, level=level)


def _resampled_means(
    a_tasks: list[Floats], b_tasks: list[Floats] | None, num_resamples: int, rng: np.random.Generator
) -> Floats:
    """[R] mean over tasks of the mean over redrawn seeds and queries of a (minus b); a and b share the queries."""
    a_weights = _seed_weights(a_tasks[0].shape[0], num_resamples, rng)
    b_weights = _seed_weights(b_tasks[0].shape[0], num_resamples, rng) if b_tasks else None
    total_R = np.zeros(num_resamples)
    for position, a_SQ in enumerate(a_tasks):
        num_queries, start = a_SQ.shape[1], 0
        for rows in _chunks(num_resamples, num_queries):
            drawn_RQ = rng.integers(0, num_queries, size=(rows, num_queries))
            part = slice(start, start + rows)
            total_R[part] += _weighted(a_SQ, drawn_RQ, a_weights[part])
            if b_tasks and b_weights is not None:
                total_R[part] -= _weighted(b_tasks[position], drawn_RQ, b_weights[part])
            start += rows
    return total_R / len(a_tasks)


def _weighted(values_SQ: Floats, drawn_RQ: NDArray[np.int64], weights_RS: Floats) -> Floats:
    means_SR = np.stack([values_Q[drawn_RQ].mean(1) for values_Q in values_SQ])
    return np.asarray((weights_RS.T * means_SR).sum(0))


def _seed_weights(num_seeds: int, num_resamples: int, rng: np.random.Generator) -> Floats:
    """[R, S] share of each seed in each redraw; all 1 for a single seed."""
    if num_seeds == 1:
        return np.ones((num_resamples, 1))
    return rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_resamples) / num_seeds


def _chunks(num_rows: int, row_length: int) -> Iterator[int]:
    step = max(1, DRAWS_PER_CHUNK // max(1, row_length))
    for start in range(0, num_rows, step):
        yield min(step, num_rows - start)


def _matrix(scores: Scores) -> tuple[list[str], Floats]:
    """Query ids, sorted, and values [S, Q]."""
    seeds = [scores] if isinstance(scores, Mapping) else list(scores)
    if not seeds or not seeds[0]:
        raise EmptyInputError("there are no per-query scores to redraw")
    ids = sorted(seeds[0])
    for other in seeds[1:]:
        if other.keys() != seeds[0].keys():
            odd = sorted(set(other) ^ set(ids))[0]
            raise InputError(f"query {odd!r} was scored under some seeds only")
    values_SQ = np.asarray([[seed[key] for key in ids] for seed in seeds], dtype=np.float64)
    if np.isnan(values_SQ).any():
        raise InputError(f"the score of query {ids[int(np.argwhere(np.isnan(values_SQ))[0][1])]!r} is NaN")
    return ids, values_SQ


def _check_seeds(tasks: list[Floats]) -> None:
    if not tasks or any(task.size == 0 for task in tasks):
        raise EmptyInputError("there are no per-query scores to redraw")
    counts = {task.shape[0] for task in tasks}
    if len(counts) > 1:
        raise InputError(f"the tasks were run with {' and '.join(map(str, sorted(counts)))} seeds; all need the same")


def _check_settings(level: float, num_resamples: int) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level {level} is outside (0, 1)")
    if num_resamples < 1:
        raise ConfigError(f"num_resamples {num_resamples} is below 1")


def _percentiles(drawn_R: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _macro(task_values: list[Floats]) -> float:
    return float(np.mean([values.mean() for values in task_values]))
