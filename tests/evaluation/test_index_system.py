"""The index as a system: it loses little, exclusions hold, and nothing that it cannot do stops a run."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from diffembed.errors import ConfigError
from diffembed.evaluation.scoring import can_score, score_task
from diffembed.evaluation.suites.folders import read_folder
from diffembed.evaluation.systems.index_system import IndexSystem
from diffembed.evaluation.systems.reading import read_with
from diffembed.evaluation.systems.searching import DenseSystem
from diffembed.evaluation.tasks import Task
from diffembed.records import Document, Query

pytest.importorskip("lance", reason="needs the extra index")


def test_few_documents_score_as_in_exact_search_and_exclusions_hold(beir_folder, words):
    (task,) = read_folder(beir_folder)
    result = score_task(IndexSystem(words, label="indexed"), task)["indexed"]
    want = score_task(DenseSystem(read_with(words)), task)["words"]
    assert result.per_query == want.per_query and result.value == 1.0
    assert list(result.hits["test"]["1"]) == list(want.hits["test"]["1"])
    assert "cats" not in result.hits["test"]["2"] and "cats" in result.hits["test"]["1"]


def test_recall_of_the_approximate_path(words):
    generator = np.random.default_rng(0)
    vocabulary = ["".join(generator.choice(list("abcdefghij"), 5)) for _ in range(400)]
    texts = [" ".join(generator.choice(vocabulary, 12)) for _ in range(1500)]
    corpus = [Document(id=f"d{number}", text=text) for number, text in enumerate(texts)]
    queries = [Query(id=f"q{n}", text=" ".join(texts[n].split()[:6])) for n in range(20)]
    task = Task(name="drawn", corpus=corpus, queries=queries, qrels={f"q{n}": {f"d{n}": 1} for n in range(20)})
    exact = DenseSystem(read_with(words)).rank(task, top_k=10).runs["words"]
    system = IndexSystem(words, label="indexed")
    found = system.rank(task, top_k=10).runs["indexed"]
    assert system._corpus[1].store.dataset.list_indices(), "without an index the path would be exact"
    shares = [len(set(exact[query]) & set(found[query])) / len(exact[query]) for query in exact]
    assert np.mean(shares) > 0.8


def test_blank_texts_and_what_it_cannot_rank_stop_nothing(words):
    corpus = [Document(id="a", text=" ", title="cats purr"), Document(id="b", text=" "), Document(id="c", text="dogs")]
    task = Task(name="t", corpus=corpus, queries=[Query(id="q", text="cats")], qrels={"q": {"a": 1}})
    system = IndexSystem(words, label="indexed", sends_instructions=False)
    assert next(iter(system.rank(task, top_k=1000).runs["indexed"]["q"])) == "a"
    assert can_score(system, task) and not can_score(system, dataclasses.replace(task, candidates={"q": ["a"]}))
    many = [Document(id=f"d{number}", text=f"text {number}") for number in range(30)]
    task = dataclasses.replace(task, corpus=many, qrels={"q": {"d0": 1}})
    assert len(system.rank(task, top_k=1000).runs["indexed"]["q"]) == 10, "as deep as a user asks"
    assert len(list(Path(system._folder.name).iterdir())) == 1, "the index of the corpus before is gone"


def test_lists_of_candidates_are_refused(beir_folder, words):
    (task,) = read_folder(beir_folder)
    system = IndexSystem(words, label="indexed")
    with pytest.raises(ConfigError, match="ranks a list of candidates"):
        system.rank(dataclasses.replace(task, candidates={query.id: ["cats"] for query in task.queries}), top_k=5)
