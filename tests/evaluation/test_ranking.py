import numpy as np
import pytest

from diffembed.errors import ConfigError, EmptyInputError, InputError
from diffembed.evaluation.systems.baselines import BM25, RandomEncoder
from diffembed.evaluation.systems.ranking import DocumentOrder, search_vectors, top_hits
from diffembed.records import Document, Encoder, Query

ORDER = DocumentOrder(["a", "b", "c", "d"])
DOCUMENTS = [
    Document(id="cats", title="Cats", text="Cats purr and sleep all day."),
    Document(id="dogs", title="Dogs", text="Dogs bark at the postman."),
    Document(id="rust", title="Rust", text="Ownership rules memory without a collector."),
]


def test_excluded_documents_leave_before_the_cut():
    scores = np.array([4.0, 3.0, 2.0, 1.0])
    query = Query(id="q", text="", excluded_ids=frozenset({"a", "c", "not in the corpus"}))
    assert top_hits(scores, ORDER, query, top_k=2) == {"b": 3.0, "d": 1.0}
    assert top_hits(scores, ORDER, Query(id="q", text=""), top_k=2) == {"a": 4.0, "b": 3.0}


def test_ties_at_the_cut_do_not_depend_on_corpus_order():
    tied = np.array([1.0, 1.0, 1.0, 1.0])
    query = Query(id="q", text="")
    forward = top_hits(tied, ORDER, query, top_k=2)
    backward = top_hits(tied, DocumentOrder(["d", "c", "b", "a"]), query, top_k=2)
    assert list(forward) == list(backward) == ["d", "c"]


def test_candidates_are_the_only_documents_ranked():
    scores = np.array([4.0, 3.0, 2.0, 1.0])
    query = Query(id="q", text="")
    assert list(top_hits(scores, ORDER, query, top_k=10, candidates=["d", "b"])) == ["b", "d"]
    with pytest.raises(InputError, match="candidate list of query 'q' names document 'x'"):
        top_hits(scores, ORDER, query, top_k=10, candidates=["x"])
    with pytest.raises(ConfigError, match="top_k 0"):
        top_hits(scores, ORDER, query, top_k=0)


def test_exact_search_equals_sorting_all_cosines():
    rng = np.random.default_rng(0)
    documents, queries = rng.normal(size=(300, 16)), rng.normal(size=(7, 16))
    order = DocumentOrder([f"d{number}" for number in range(300)])
    records = [Query(id=f"q{number}", text="") for number in range(7)]
    run = search_vectors(queries, records, documents, order, top_k=10)
    cosine = queries @ documents.T
    cosine /= np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(documents, axis=1)
    for row, query in enumerate(records):
        assert list(run[query.id]) == [f"d{place}" for place in np.argsort(-cosine[row])[:10]]
        assert list(run[query.id].values()) == pytest.approx(np.sort(cosine[row])[::-1][:10], abs=1e-6)


def test_the_best_of_a_documents_vectors_counts():
    rng = np.random.default_rng(1)
    parts, queries = rng.normal(size=(9, 8)).astype(np.float32), rng.normal(size=(3, 8)).astype(np.float32)
    records = [Query(id=f"q{number}", text="") for number in range(3)]
    run = search_vectors(queries, records, parts, ORDER, first_row_N=np.array([0, 1, 5, 8]))
    every = search_vectors(queries, records, parts, DocumentOrder(list("a1234567d")))
    for query in records:
        found = every[query.id]
        best = {"a": found["a"], "b": max(found[n] for n in "1234"), "c": max(found[n] for n in "567"), "d": found["d"]}
        assert run[query.id] == pytest.approx(best) and list(run[query.id]) == sorted(best, key=best.get, reverse=True)
    parts[6, 0] = np.nan
    with pytest.raises(InputError, match="vector of document 'c' is NaN"):
        search_vectors(queries, records, parts, ORDER, first_row_N=np.array([0, 1, 5, 8]))


def test_unusable_vectors_are_refused_by_name():
    good, query = np.ones((4, 3), np.float32), [Query(id="q", text="")]
    bad = good.copy()
    bad[2, 1] = np.nan
    with pytest.raises(InputError, match="vector of document 'c' is NaN"):
        search_vectors(good[:1], query, bad, ORDER)
    bad[2] = 0
    assert search_vectors(good[:1], query, bad, ORDER)["q"]["c"] == 0
    with pytest.raises(InputError, match="dim 2 but document vectors have dim 3"):
        search_vectors(good[:1, :2], query, good, ORDER)
    with pytest.raises(InputError, match="4 document ids come with vectors of shape"):
        search_vectors(good[:1], query, good[:3], ORDER)
    with pytest.raises(InputError, match="document id 'a' occurs twice"):
        DocumentOrder(["a", "b", "a"])
    with pytest.raises(InputError, match="score of document 'b' for query 'q' is NaN"):
        top_hits(np.array([1, np.nan, 1, 1]), ORDER, query[0], top_k=2)


def test_bm25_finds_words_and_leaves_out_what_shares_none():
    bm25 = BM25(DOCUMENTS)
    run = bm25.search([Query(id="q1", text="why do cats purr?"), Query(id="q2", text="zebra the")])
    assert list(run["q1"]) == ["cats"]
    assert run["q2"] == {}
    everything = bm25.search([Query(id="q1", text="cats")], candidates={"q1": ["dogs", "cats", "rust"]})
    assert list(everything["q1"]) == ["cats", "rust", "dogs"]
    excluded = bm25.search([Query(id="q1", text="cats dogs", excluded_ids=frozenset({"cats"}))], top_k=1)
    assert list(excluded["q1"]) == ["dogs"]


def test_bm25_scores_follow_the_formula():
    from math import log

    bm25 = BM25([Document(id="a", text="apple apple pear"), Document(id="b", text="pear plum")])
    score = bm25.search([Query(id="q", text="apple")])["q"]["a"]
    idf = log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    assert score == pytest.approx(idf * 2 / (2 + 1.5 * (1 - 0.75 + 0.75 * 3 / 2.5)), rel=1e-5)


def test_bm25_needs_words():
    with pytest.raises(EmptyInputError, match="corpus is empty"):
        BM25([])
    with pytest.raises(InputError, match="no document holds a word"):
        BM25([Document(id="a", text="the of")])


def test_random_vectors_repeat_and_know_nothing():
    encoder = RandomEncoder()
    assert isinstance(encoder, Encoder)
    first, again = encoder.encode_documents(["x", "y"]), encoder.encode_documents(["y", "x"])
    assert np.array_equal(first, again[::-1])
    assert not np.allclose(first[0], encoder.encode_queries(["x"])[0])
    assert not np.allclose(encoder.encode_queries(["x"]), encoder.encode_queries(["x"], instruction="find"))
    cosines = encoder.similarity(encoder.encode_queries([str(n) for n in range(50)]), first)
    assert abs(cosines.mean()) < 0.06 and np.abs(cosines).max() < 0.7
