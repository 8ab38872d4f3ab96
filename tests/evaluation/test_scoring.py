import dataclasses

import pytest
from scipy.stats import spearmanr

from diffembed.errors import ConfigError, UnknownNameError
from diffembed.evaluation.scoring import can_score, score_task
from diffembed.evaluation.suites.folders import read_folder, read_instruction_task
from diffembed.evaluation.systems.baselines import RandomEncoder
from diffembed.evaluation.systems.ranking import DocumentOrder
from diffembed.evaluation.systems.reading import read_with
from diffembed.evaluation.systems.searching import (
    DenseSystem,
    HybridSystem,
    LexicalSystem,
    fuse,
)
from diffembed.records import Query


def dense(encoder, **settings):
    return DenseSystem(read_with(encoder), **settings)


def test_retrieval_with_subsets_and_exclusions(beir_folder, words):
    (task,) = read_folder(beir_folder)
    result = score_task(dense(words), task)["words"]
    assert result.per_query["nDCG@10"] == {"1": 1.0, "2": 1.0, "3": 1.0} and result.value == 1.0
    assert set(result.scores) >= {"nDCG@10", "nDCG@10 (animal)", "nDCG@10 (language)", "Acc@1"}
    assert "cats" not in result.hits["test"]["2"] and "cats" in result.hits["test"]["1"]
    assert result.documents.num_texts == 4 and result.queries.num_texts == 3 and result.truncated_fraction == 0
    assert ("query", "Find languages.", "who checks ownership of memory?") in words.read


def test_an_encoder_without_instructions_gets_none(beir_folder, instruction_folder, words):
    system = dense(words, sends_instructions=False)
    score_task(system, read_folder(beir_folder)[0])
    assert {instruction for _, instruction, _ in words.read} == {None}
    words.read.clear()
    score_task(system, read_instruction_task(instruction_folder, narrative_slot="instruction"))
    assert ("query", None, "pets Any animal is relevant.") in words.read


def test_instruction_task_by_hand(instruction_folder, words):
    task = read_instruction_task(instruction_folder)
    result = score_task(dense(words), task)["words"]
    og, changed = result.hits["og"]["pets"], result.hits["changed"]["pets"]
    assert set(og) == {"cats", "dogs", "rust"}
    before, after = 1 + list(og).index("cats"), 1 + list(changed).index("cats")
    expected = after / before - 1 if before >= after else 1 - before / after
    assert result.per_query["p-MRR"]["pets"] == expected
    assert result.main == "p-MRR" and {"og nDCG@5", "og AP@1000", "changed nDCG@5"} <= set(result.scores)
    assert next(iter(changed)) == "dogs"


def test_similarity_classification_and_clustering(sts_folder, label_folder, words):
    system = dense(words)
    (task,) = read_folder(sts_folder)
    similarity = score_task(system, task)["words"]
    left, right = words.encode(task.left)[0], words.encode(task.right)[0]
    cosines = words.similarity(left, right).diagonal()
    assert similarity.main == "Spearman" and similarity.value == pytest.approx(spearmanr(task.gold, cosines).statistic)
    assert set(similarity.per_query) == {"gold", "cosine"}
    assert ("query", None, "a cat sleeps") in words.read
    classification, clustering = (score_task(system, task)["words"] for task in read_folder(label_folder))
    assert classification.value == 1.0 and clustering.value == 1.0
    chance = score_task(dense(RandomEncoder()), read_folder(label_folder)[0])["random"]
    assert 0.2 < chance.value < 0.8
    assert set(chance.per_query["Accuracy"].values()) - {0.0, 1.0}


def test_bm25_ranks_but_has_no_vectors(beir_folder, instruction_folder, sts_folder):
    system = LexicalSystem()
    (task,) = read_folder(beir_folder)
    assert score_task(system, task)["bm25"].value == 1.0
    assert score_task(system, read_instruction_task(instruction_folder, narrative_slot="instruction"))["bm25"].hits
    (pairs,) = read_folder(sts_folder)
    assert can_score(system, task) and not can_score(system, pairs)
    with pytest.raises(ConfigError, match="bm25 has no vectors, which task 'small' needs"):
        score_task(system, pairs)


def test_fusion_by_hand():
    order = DocumentOrder(["a", "b", "c"])
    query = Query(id="q", text="", excluded_ids=frozenset({"c"}))
    run = fuse([{"q": {"a": 9.0, "b": 8.0, "c": 7.0}}, {"q": {"b": 3.0}}], [query], order, top_k=10)
    # b: rank 2 and rank 1; a: rank 1; c is excluded
    assert run["q"] == pytest.approx({"b": 1 / 62 + 1 / 61, "a": 1 / 61})
    assert list(run["q"]) == ["b", "a"]


def test_hybrid_and_int8_carry_their_names(beir_folder, words):
    (task,) = read_folder(beir_folder)
    assert HybridSystem(dense(words)).labels == ("words+bm25",)
    assert score_task(HybridSystem(dense(words)), task)["words+bm25"].value == 1.0
    for precision in ("int8", "binary+int8"):
        assert score_task(dense(words, precision=precision), task)[f"words+{precision}"].value == 1.0
    assert 0.5 < score_task(dense(words, precision="binary"), task)["words+binary"].value < 1.0, "signs lose a query"
    assert score_task(dense(words, dims=128, precision="int8"), task)["words+128+int8"].value == 1.0
    with pytest.raises(UnknownNameError, match="int4"):
        dense(words, precision="int4")


def test_a_misspelt_measure_is_refused_before_anything_is_read(beir_folder, words):
    (task,) = read_folder(beir_folder)
    with pytest.raises(UnknownNameError, match="no measure 'nDGC@10'"):
        score_task(dense(words), dataclasses.replace(task, measures=("nDGC@10",)))
    assert words.read == []
