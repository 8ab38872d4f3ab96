import itertools

import numpy as np
import pytest

from diffembed.errors import ConfigError, EmptyInputError, InputError
from diffembed.evaluation.statistics.measures import spearman
from diffembed.evaluation.statistics.significance import (
    compare_scores,
    compare_statistic,
    compare_tasks,
    holm,
    randomization_test,
    scores_interval,
    statistic_interval,
)


def per_query(values):
    return {f"q{number:04d}": float(value) for number, value in enumerate(values)}


def queries(values):
    return {f"q{number}": float(value) for number, value in enumerate(values)}


def test_interval_of_a_mean_has_the_width_of_the_normal_one():
    values = np.random.default_rng(0).normal(0.4, 0.3, 400)
    interval = scores_interval(queries(values))
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.003)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.003)
    assert scores_interval(queries(values)) == interval


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        interval = scores_interval(queries(rng.normal(0.5, 0.2, 60)), num_resamples=400, seed=trial, level=0.9)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.84 < hits / 300 < 0.95


def test_paired_interval_is_narrower_than_two_separate_ones():
    rng = np.random.default_rng(2)
    hardness = rng.normal(0, 0.3, 200)
    a, b = per_query(0.5 + hardness + rng.normal(0, 0.02, 200)), per_query(0.48 + hardness)
    comparison = compare_scores(a, b)
    assert comparison.difference.low > 0
    assert comparison.p_value < 0.001
    separate = scores_interval(a)
    assert comparison.difference.high - comparison.difference.low < 0.2 * (separate.high - separate.low)
    assert comparison.num_better + comparison.num_worse == comparison.num_queries == 200


def test_randomisation_test_equals_all_sign_patterns_by_hand():
    differences = np.array([0.3, -0.1, 0.2, 0.4, 0.05])
    patterns = [abs(np.dot(signs, differences)) for signs in itertools.product([1, -1], repeat=5)]
    expected = np.mean([value >= abs(differences.sum()) - 1e-9 for value in patterns])
    assert randomization_test(differences) == pytest.approx(expected)


def test_drawn_randomisation_test_agrees_with_the_t_test():
    from scipy import stats

    differences = np.random.default_rng(3).normal(0.03, 0.2, 150)
    assert randomization_test(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.015)
    assert randomization_test(np.zeros(150)) == 1.0


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, then made monotone
    adjusted = holm({"d": 0.04, "a": 0.01, "c": 0.03, "b": 0.02})
    assert list(adjusted) == ["d", "a", "c", "b"]
    assert adjusted == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.06})
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    with pytest.raises(InputError, match="'a'"):
        holm({"a": 1.2})


def test_seeds_widen_the_interval():
    rng = np.random.default_rng(4)
    queries = rng.normal(0.5, 0.1, 300)
    seeds = [per_query(queries + shift) for shift in (-0.1, 0.0, 0.1)]
    one, three = scores_interval(seeds[1]), scores_interval(seeds)
    assert three.value == pytest.approx(one.value)
    # the standard deviation of a redrawn mean of three seeds is 0.0816 / sqrt(3)
    assert three.high - three.low > 5 * (one.high - one.low)
    unpaired = compare_scores(seeds, [per_query(queries + shift - 0.02) for shift in (-0.1, 0.0, 0.1)])
    paired = compare_scores(seeds, [per_query(queries + shift - 0.02) for shift in (-0.1, 0.0, 0.1)], pair_seeds=True)
    assert unpaired.difference.low < 0 < paired.difference.low
    assert paired.difference.value == pytest.approx(0.02)


def test_tasks_weigh_equally_whatever_their_size():
    big, small = per_query(np.full(900, 0.2)), per_query(np.full(10, 0.8))
    assert scores_interval(big, small).value == pytest.approx(0.5)
    zero = [per_query(np.zeros(900)), per_query(np.zeros(10))]
    comparison = compare_tasks([big, small], zero)
    assert comparison.difference.value == pytest.approx(0.5)
    assert comparison.num_queries == 910


def test_a_comparison_needs_the_same_queries():
    with pytest.raises(InputError, match="query 'b' was scored for one system only"):
        compare_scores({"a": 1.0, "b": 0.5}, {"a": 1.0})
    with pytest.raises(InputError, match="under some seeds only"):
        compare_scores([{"a": 1.0, "b": 0.5}, {"a": 1.0}], {"a": 1.0, "b": 0.5})
    with pytest.raises(InputError, match="2 tasks are compared with 1"):
        compare_tasks([{"a": 1.0}, {"a": 1.0}], [{"a": 1.0}])
    with pytest.raises(InputError, match="'a' is NaN"):
        scores_interval({"a": float("nan")})
    with pytest.raises(EmptyInputError):
        scores_interval({})
    with pytest.raises(ConfigError, match="cannot be paired"):
        compare_scores([{"a": 1.0}] * 2, [{"a": 1.0}] * 3, pair_seeds=True)
    with pytest.raises(ConfigError, match="level 95"):
        scores_interval({"a": 1.0}, level=95)


def test_an_interval_holds_its_value_where_redrawing_is_biased():
    from diffembed.evaluation.statistics.measures import v_measure

    rng = np.random.default_rng(6)
    gold, found = np.repeat(np.arange(40), 5), rng.integers(0, 40, 200)
    interval = statistic_interval(lambda a, b: v_measure(list(a), list(b)), gold, found, num_resamples=200)
    assert interval.low < interval.value < interval.high


def test_correlations_have_intervals_and_a_paired_test():
    rng = np.random.default_rng(5)
    gold = rng.normal(size=200)
    good, bad = gold + rng.normal(0, 0.3, 200), gold + rng.normal(0, 1.0, 200)
    interval = statistic_interval(spearman, gold, good, num_resamples=300)
    assert interval.low < interval.value < interval.high < 1
    comparison = compare_statistic(spearman, gold, good, bad * 100, num_resamples=300)
    assert comparison.difference.value == pytest.approx(spearman(gold, good) - spearman(gold, bad))
    assert comparison.difference.low > 0 and comparison.p_value < 0.01
    assert comparison.num_better > comparison.num_worse
    same = compare_statistic(spearman, gold, good, good * 2, num_resamples=100)
    assert same.difference.value == 0 and same.p_value == 1
