import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffembed.errors import EmptyInputError, InputError, UnknownNameError
from diffembed.evaluation.statistics.measures import (
    altered_documents,
    evaluate_run,
    p_mrr,
    rank_of,
    ranks,
    spearman,
    v_measure,
)

DOCUMENTS = [f"d{number}" for number in range(12)]


@st.composite
def judged_runs(draw):
    """Qrels with at least one relevant document per query, and a run with ties."""
    queries = [f"q{number}" for number in range(draw(st.integers(1, 4)))]
    qrels, run = {}, {}
    for query in queries:
        judged = draw(st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(0, 3), min_size=1))
        judged[draw(st.sampled_from(DOCUMENTS))] = draw(st.integers(1, 3))
        qrels[query] = judged
        run[query] = draw(
            st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-5, 5).map(lambda x: x / 4), min_size=1)
        )
    return qrels, run


def test_ndcg_of_four_documents_by_hand():
    qrels = {"q": {"a": 2, "b": 1, "z": 1}}
    run = {"q": {"b": 4.0, "x": 3.0, "a": 2.0, "y": 1.0}}
    # gain 1 at rank 1, 2 at rank 3; ideal 2, 1, 1
    found = 1 / math.log2(2) + 2 / math.log2(4)
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert evaluate_run(qrels, run, ["nDCG@10"])["nDCG@10"]["q"] == pytest.approx(found / ideal)


@settings(max_examples=40, deadline=None)
@given(judged_runs())
def test_measures_equal_pytrec_eval_and_sorting_by_hand(case):
    import pytrec_eval

    qrels, run = case
    values = evaluate_run(qrels, run, ["nDCG@5", "AP@1000", "Acc@1", "R@3"])
    reference = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.5", "map_cut.1000", "recall.3"}).evaluate(run)
    for query, judged in qrels.items():
        assert values["nDCG@5"][query] == pytest.approx(reference[query]["ndcg_cut_5"])
        assert values["AP@1000"][query] == pytest.approx(reference[query]["map_cut_1000"])
        assert values["R@3"][query] == pytest.approx(reference[query]["recall_3"])
        first = max(run[query], key=lambda key: (run[query][key], key))
        assert values["Acc@1"][query] == float(judged.get(first, 0) > 0)


@settings(max_examples=40, deadline=None)
@given(judged_runs(), judged_runs())
def test_p_mrr_equals_mteb(og, changed):
    from mteb._evaluators.retrieval_metrics import calculate_pmrr

    og_run, changed_run = og[1], changed[1]
    altered = {query: list(judged) for query, judged in og[0].items() if query in changed_run}
    values = p_mrr(og_run, changed_run, altered)
    reference = calculate_pmrr(
        {f"{query}-og": hits for query, hits in og_run.items()},
        {f"{query}-changed": hits for query, hits in changed_run.items()},
        altered,
    )
    assert np.mean(list(values.values())) == pytest.approx(reference)


def test_p_mrr_is_positive_when_the_document_falls():
    altered = altered_documents({"q": {"a": 1, "b": 1}, "r": {"a": 1}}, {"q": {"a": 0, "b": 1}, "r": {"a": 1}})
    assert altered == {"q": ["a"]}
    followed = p_mrr({"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 1.0, "b": 2.0}}, altered)
    ignored = p_mrr({"q": {"a": 1.0, "b": 2.0}}, {"q": {"a": 2.0, "b": 1.0}}, altered)
    assert followed == {"q": 0.5}
    assert ignored == {"q": -0.5}
    assert p_mrr({}, {}, altered) == {"q": 0.0}


def test_judged_query_absent_from_the_run_counts_zero():
    values = evaluate_run({"q": {"a": 1}, "r": {"b": 1}, "s": {"c": 1}}, {"q": {"a": 1.0}, "r": {}}, ["nDCG@10"])
    assert values["nDCG@10"] == {"q": 1.0, "r": 0.0, "s": 0.0}


def test_tied_scores_are_ordered_by_id_descending():
    assert [rank_of({"a": 1.0, "c": 1.0, "b": 2.0}, key) for key in "abcz"] == [3, 1, 2, 4]
    assert evaluate_run({"q": {"c": 1}}, {"q": {"a": 1.0, "c": 1.0}}, ["Acc@1"])["Acc@1"]["q"] == 1.0


def test_reciprocal_rank_orders_ties_like_the_others_and_is_cut():
    tied = {"a": 1.0, "b": 1.0, "c": 1.0}
    for gold, rank in (("c", 1), ("b", 2), ("a", 3)):
        values = evaluate_run({"q": {gold: 1}}, {"q": tied}, ["RR@2", "RR", "AP"])
        assert values["RR"]["q"] == pytest.approx(1 / rank) == values["AP"]["q"]
        assert values["RR@2"]["q"] == pytest.approx(1 / rank if rank <= 2 else 0.0)


def test_one_measure_under_two_names_has_one_value():
    values = evaluate_run({"q": {"a": 1}}, {"q": {"a": 1.0}}, ["Acc@1", "Success@1"])
    assert values["Acc@1"] == values["Success@1"] == {"q": 1.0}


def test_bad_runs_are_refused_by_name():
    with pytest.raises(InputError, match="query 'x', which has no judgements"):
        evaluate_run({"q": {"a": 1}}, {"x": {"a": 1.0}}, ["nDCG@10"])
    with pytest.raises(InputError, match="document 'b' for query 'q' is NaN"):
        evaluate_run({"q": {"a": 1}}, {"q": {"a": 1.0, "b": float("nan")}}, ["nDCG@10"])
    with pytest.raises(EmptyInputError):
        evaluate_run({}, {}, ["nDCG@10"])
    with pytest.raises(UnknownNameError, match=r"no measure 'nCDG@10'.*did you mean 'nDCG@10'"):
        evaluate_run({"q": {"a": 1}}, {"q": {"a": 1.0}}, ["nCDG@10"])
    with pytest.raises(EmptyInputError):
        p_mrr({}, {}, {})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=2, max_size=30))
def test_spearman_and_ranks_equal_scipy(pairs):
    from scipy import stats

    gold, predicted = zip(*pairs, strict=True)
    assert ranks(gold).tolist() == stats.rankdata(gold).tolist()
    if len(set(gold)) > 1 and len(set(predicted)) > 1:
        assert spearman(gold, predicted) == pytest.approx(stats.spearmanr(gold, predicted).statistic)


def test_spearman_refuses_what_has_no_value():
    with pytest.raises(InputError, match="same value everywhere"):
        spearman([1, 2, 3], [1, 1, 1])
    with pytest.raises(InputError, match="NaN"):
        spearman([1, 2, 3], [1, float("nan"), 1])
    with pytest.raises(InputError, match="equal length"):
        spearman([1, 2, 3], [1, 2])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), min_size=1, max_size=30))
def test_v_measure_equals_scikit_learn(pairs):
    from sklearn.metrics import v_measure_score

    gold, clusters = zip(*pairs, strict=True)
    assert v_measure(gold, clusters) == pytest.approx(v_measure_score(gold, clusters), abs=1e-9)


def test_labels_of_unequal_number_are_refused():
    with pytest.raises(InputError, match="2 labels are compared with 1"):
        v_measure(["a", "b"], [0])
