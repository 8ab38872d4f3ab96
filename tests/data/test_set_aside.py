"""What is set aside leaves no trace in training, and turns into a task that can be scored."""

import os
from pathlib import Path

import pytest

from diffembed.data.formats import Triplet, text_key
from diffembed.data.set_aside import exclude_values, make_retrieval_set, read_values, set_aside
from diffembed.data.source_config import SourceConfig
from diffembed.data.sources import load_sources
from diffembed.errors import ConfigError, EmptyInputError, InputError

LONG = "A train leaves the station at noon and another leaves an hour later, at twice its speed. When do they meet? "


def row(number: int, concept: str, **changes: object) -> Triplet:
    fields = {
        "id": str(number),
        "query": f"{LONG}{concept} {number}",
        "positive": f"solution of {concept} {number}",
        "negatives": ("far away",),
        "source": "s",
        "labels": {"concept": concept},
    }
    return Triplet(**(fields | changes))


def test_a_concept_leaves_by_label_name_text_and_opening():
    rows = [
        row(0, "Heap"),
        row(1, "Graph", query=" heap "),
        row(2, "Graph", positive="solution of Heap 0"),
        row(3, "Graph", positive="Heap\nA heap is a tree."),
        row(4, "Graph", positive=f"{LONG}Heap 0 Solution: at two."),
        row(5, "Graph", negatives=("heap", "solution of HEAP 0", f"{LONG}Heap 0 and more", "far", f"{LONG}Other")),
        row(6, "Graph", labels={"concept": "Graph", "negative_concept": "Heap"}),
        row(7, "Graph", labels={}),
    ]
    kept, dropped = exclude_values(rows, {"Heap"})
    assert [triplet.id for triplet in kept] == ["5", "6", "7"]
    assert kept[0].negatives == ("far", f"{LONG}Other")
    assert kept[1].negatives == ()
    assert dropped.rows == {"concept": 1, "query": 1, "positive": 3}
    assert dropped.negatives == {"concept": 4}


def test_set_aside_draws_by_seed_and_nothing_is_shared():
    rows = [row(number, f"Concept {number % 10}") for number in range(60)]
    rows = [
        Triplet(**{name: getattr(r, name) for name in ("id", "query", "positive", "source", "labels")}, negatives=(o,))
        for r, o in zip(rows, [other.positive for other in rows[7:] + rows[:7]], strict=True)
    ]
    split = set_aside(rows, num_values=3, seed=0)
    assert len(split.values) == 3
    assert len(split.development) == 18
    assert len(split.train) == 42
    texts = {text_key(text) for triplet in split.development for text in (triplet.query, triplet.positive)}
    for triplet in split.train:
        assert texts.isdisjoint(text_key(text) for text in (triplet.query, triplet.positive, *triplet.negatives))
    train_ids = {triplet.id for triplet in split.train}
    pointed = [r for r in rows if r.id in train_ids and text_key(r.negatives[0]) in texts]
    assert split.dropped.negatives["concept"] == len(pointed) > 0
    assert not split.dropped.rows
    assert set_aside(rows, num_values=3, seed=0) == split
    assert {set_aside(rows, num_values=3, seed=seed).values for seed in range(5)} != {split.values}
    # Other rows of the same concepts do not change which are drawn.
    assert set_aside(rows[:30], num_values=3, seed=0).values == split.values


def test_setting_everything_or_nothing_aside_is_refused():
    rows = [row(0, "Heap"), row(1, "Graph")]
    for num in (0, 2):
        with pytest.raises(ConfigError, match="of 2 values of 'concept' aside"):
            set_aside(rows, num_values=num, seed=0)
    with pytest.raises(ConfigError, match="of 0 values of 'theme'"):
        set_aside(rows, num_values=1, seed=0, label="theme")


def test_values_come_from_a_column_of_a_file(tmp_path):
    path = tmp_path / "held.jsonl"
    path.write_text('{"concept": "Heap"}\n{"concept": "Graph"}\n')
    assert read_values(path) == {"Heap", "Graph"}
    path.write_text('{"concept": "Heap"}\n{"name": "Graph"}\n')
    with pytest.raises(InputError, match=r"held\.jsonl:2 has no 'concept'"):
        read_values(path)
    path.write_text("")
    with pytest.raises(EmptyInputError):
        read_values(path)


def test_rows_turn_into_a_corpus_with_judgements():
    rows = [
        row(0, "Heap", query="a", positive="A1", instruction="find"),
        row(1, "Heap", query="a", positive="A2", instruction="find"),
        row(2, "Heap", query="a", positive="A1", instruction="other"),
        row(3, "Graph", query="b", positive="B", negatives=("A1", "N")),
    ]
    made = make_retrieval_set(rows)
    names = {document.text: document.id for document in made.documents}
    assert sorted(names) == ["A1", "A2", "B"]
    assert [(query.text, query.instruction) for query in made.queries] == [("a", "find"), ("a", "other"), ("b", None)]
    assert [made.qrels[query.id] for query in made.queries] == [
        {names["A1"]: 1, names["A2"]: 1},
        {names["A1"]: 1},
        {names["B"]: 1},
    ]


def test_documents_of_the_same_concept_count_as_relevant_when_asked():
    rows = [row(number, "Heap" if number < 3 else "Graph") for number in range(5)]
    made = make_retrieval_set(rows, relevant_label="concept")
    assert [len(made.qrels[query.id]) for query in made.queries] == [3, 3, 3, 2, 2]
    assert [len(judged) for judged in make_retrieval_set(rows).qrels.values()] == [1] * 5
    with pytest.raises(ConfigError, match="has no label 'theme'"):
        make_retrieval_set(rows, relevant_label="theme")


def test_a_document_that_repeats_its_query_is_neither_relevant_nor_retrievable():
    first, second = row(0, "Heap"), row(1, "Heap")
    rows = [
        row(0, "Heap", positive=f"{second.query} Solution: 2"),
        row(1, "Heap", positive=f"{first.query} Solution: 1"),
    ]
    made = make_retrieval_set(rows, relevant_label="concept")
    by_text = {document.text: document.id for document in made.documents}
    for query in made.queries:
        own = next(name for text, name in by_text.items() if text.startswith(query.text))
        assert query.excluded_ids == {own}
        assert list(made.qrels[query.id]) == [name for name in by_text.values() if name != own]


def test_a_sample_of_the_queries_keeps_the_corpus():
    rows = [row(number, "Heap") for number in range(30)]
    made = make_retrieval_set(rows, max_queries=10, seed=1)
    assert len(made.documents) == 30
    assert len(made.queries) == len(made.qrels) == 10
    assert make_retrieval_set(rows, max_queries=10, seed=1) == made
    assert make_retrieval_set(rows, max_queries=10, seed=2).queries != made.queries
    with pytest.raises(EmptyInputError):
        make_retrieval_set([])


def test_the_real_reasonaug_rows_are_clean_of_the_held_out_concepts():
    """A training row may name a held-out concept in a negative: those of the real rows are documents of a test set."""
    if not (root := os.environ.get("DIFFEMBED_DATA")):
        pytest.skip("DIFFEMBED_DATA is not set")
    folder = Path(root) / "train" / "reasonaug"
    keep = {"solution_check": ("yes", "not used")}
    config = SourceConfig(kind="reasonaug", path=str(folder), keep=keep, min_negatives=0)
    raw = load_sources([config], seed=0)["reasonaug"]
    assert len(raw.triplets) == 3903
    values = read_values(folder / "heldout_concepts.jsonl")
    kept, dropped = exclude_values(raw.triplets, values)
    assert len(kept) == 3903
    names = {text_key(value) for value in values}
    titles = [text_key(text.partition("\n")[0]) for triplet in kept for text in (triplet.positive, *triplet.negatives)]
    assert names.isdisjoint(titles)
    assert dropped.negatives.total() > 0
    split = set_aside(kept, num_values=30, seed=42)
    assert len(split.values) == 30
    texts = {text_key(text) for triplet in split.development for text in (triplet.query, triplet.positive)}
    assert len(texts) > 100
    for triplet in split.train:
        assert texts.isdisjoint(text_key(text) for text in (triplet.query, triplet.positive, *triplet.negatives))
