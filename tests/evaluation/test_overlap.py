import dataclasses

import pytest

from diffembed.errors import ConfigError, InputError
from diffembed.evaluation.reports.overlap import compare_hits
from diffembed.evaluation.scoring import TaskResult
from diffembed.evaluation.statistics.significance import Interval
from diffembed.evaluation.suites.folders import read_folder
from diffembed.evaluation.tasks import hash_task


@pytest.fixture
def task(beir_folder):
    return read_folder(beir_folder)[0]


def result(task, label, hits, values):
    mean = sum(values.values()) / len(values)
    return TaskResult(
        task=task.name,
        label=label,
        kind="retrieval",
        family="",
        main="nDCG@10",
        scores={"nDCG@10": Interval(value=mean, low=mean, high=mean)},
        per_query={"nDCG@10": values},
        hits={"test": hits},
        task_hash=hash_task(task),
    )


def test_counts_by_hand(task):
    hits_a = {"1": {"cats": 3.0, "dogs": 2.0}, "2": {"dogs": 3.0, "rust": 2.0}, "3": {"lisp": 3.0, "cats": 2.0}}
    hits_b = {"1": {"dogs": 3.0, "cats": 2.0}, "2": {"rust": 3.0, "lisp": 2.0}, "3": {"lisp": 3.0, "dogs": 2.0}}
    a = result(task, "a", hits_a, {"1": 1.0, "2": 1.0, "3": 0.0})
    b = result(task, "b", hits_b, {"1": 0.6, "2": 0.0, "3": 0.0})
    overlap = compare_hits(task, a, b, top_k=2)
    # query 1 shares both documents, 2 and 3 one of two
    assert overlap.overlap_fraction == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert (overlap.gold_both, overlap.gold_only_a, overlap.gold_only_b, overlap.gold_neither) == (1, 1, 0, 1)
    assert (overlap.queries_a, overlap.queries_b, overlap.queries_both, overlap.num_queries) == (2, 1, 1, 3)
    assert [row.query for row in overlap.most_different] == ["2", "1"]
    worst = overlap.most_different[0]
    assert worst.a_hits[0].is_gold and not worst.b_hits[0].is_gold
    assert worst.b_hits[0].text.startswith("rust Rust checks ownership")


def test_both_directions_are_shown_in_turn(task):
    hits = {query.id: {"cats": 1.0} for query in task.queries}
    a = result(task, "a", hits, {"1": 0.9, "2": 0.2, "3": 1.0})
    b = result(task, "b", hits, {"1": 0.0, "2": 1.0, "3": 0.0})
    assert [row.query for row in compare_hits(task, a, b).most_different] == ["3", "2", "1"]
    assert [row.query for row in compare_hits(task, a, b, num_shown=1).most_different] == ["3"]


def test_results_of_other_data_are_refused(task):
    hits = {query.id: {"cats": 1.0} for query in task.queries}
    a = result(task, "a", hits, dict.fromkeys("123", 0.0))
    with pytest.raises(InputError, match="with other data"):
        compare_hits(task, a, dataclasses.replace(a, label="b", task_hash="other"))
    with pytest.raises(ConfigError, match="top_k is 101"):
        compare_hits(task, a, a, top_k=101)
