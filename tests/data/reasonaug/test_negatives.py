"""Negatives: of the same domain, of another concept, the top two concepts skipped, nothing stale."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from diffembed.data.reasonaug.negatives import REUSED, SKIPPED_FEWER, candidate_order, find_negatives
from diffembed.data.reasonaug.ranking import BM25Ranker, EncoderRanker
from diffembed.data.reasonaug.rows import Concept, Example, Pair, StageResult, Task, Triplet
from diffembed.records import Encoder, Vectors

WORDS = ["apple", "bread", "cheese", "dates", "eggs", "flour"]


def make_concepts(domain: str, words: Sequence[str]) -> list[Concept]:
    return [Concept(id=f"{domain}-{word}", name=word, domain=domain, definition=f"about {word}") for word in words]


def make_pairs(domain: str, words: Sequence[str], count: int = 2) -> list[Pair]:
    return [
        Pair(
            id=f"{domain}-{word}-{number}",
            concept_id=f"{domain}-{word}",
            concept=word,
            domain=domain,
            round=number,
            problem=f"problem {word} {number}",
            solution="",
            document=f"document {word} {number}",
        )
        for word in words
        for number in range(1, count + 1)
    ]


def make_example(task: Task, concept: str, *, text: str, domain: str = "food", slot: int = 0) -> Example:
    return Example(
        id=f"{task}/{concept}/{slot}",
        task=task,
        domain=domain,
        concept=concept,
        query="the query",
        positive="the positive",
        ranking_text=text,
        slot=slot,
    )


class WordEncoder:
    """A vector per text: how often each word occurs, near in the order of WORDS."""

    name, dim, max_tokens = "words", len(WORDS), 100

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        counts = [[sum(word in text for _ in range(6 - place)) for place, word in enumerate(WORDS)] for text in texts]
        return np.asarray(counts, dtype=np.float32)

    def encode_queries(self, texts: Sequence[str], instruction: str | None = None) -> Vectors:
        assert instruction == ""
        return np.ones((len(texts), self.dim), dtype=np.float32)

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        return np.asarray(queries @ documents.T, dtype=np.float32)


def find(
    examples: list[Example], concepts: list[Concept], pairs: list[Pair], *, skip_top: int = 2
) -> tuple[StageResult[Triplet], dict[str, int]]:
    encoder = WordEncoder()
    assert isinstance(encoder, Encoder)
    notes: dict[str, int] = {}
    domains = {concept.domain for concept in concepts}
    instructions = {(domain, task): f"find {task}" for domain in domains for task in Task}
    result = find_negatives(
        examples,
        concepts,
        pairs,
        EncoderRanker(encoder),
        skip_top=skip_top,
        instructions=instructions,
        notes=notes,
    )
    return result, notes


def test_the_top_two_other_concepts_are_skipped() -> None:
    # The encoder ranks apple, bread, cheese, ...; of the others than bread, apple and cheese are skipped.
    result, _ = find(
        [make_example(Task.P2PS, "bread", text="x")], make_concepts("food", WORDS), make_pairs("food", WORDS)
    )
    (row,) = result.rows
    assert (row.hard_negative_document, row.negative_instance) == ("document dates 1", "dates")
    assert row.task == "find p2ps"


def test_each_slot_takes_another_concept_before_any_concept_twice() -> None:
    examples = [make_example(Task.I2PS, "apple", text="x", slot=slot) for slot in range(5)]
    result, notes = find(examples, make_concepts("food", WORDS), make_pairs("food", WORDS))
    # dates, eggs and flour are left; then their second documents.
    assert [row.hard_negative_document for row in result.rows] == [
        "document dates 1",
        "document eggs 1",
        "document flour 1",
        "document dates 2",
        "document eggs 2",
    ]
    assert notes == {SKIPPED_FEWER: 0, REUSED: 0}


def test_negatives_are_of_the_same_domain_and_never_of_the_same_concept() -> None:
    """Bug: candidates were carried from one concept to the next."""
    concepts = make_concepts("food", WORDS) + make_concepts("tools", WORDS)
    pairs = make_pairs("food", WORDS) + make_pairs("tools", WORDS)
    examples = [
        make_example(task, word, text=f"{word} {domain}", domain=domain, slot=slot)
        for domain in ("food", "tools")
        for word in WORDS
        for task in Task
        for slot in range(3)
    ]
    result, _ = find(examples, concepts, pairs)
    assert len(result.rows) == len(examples)
    for example, row in zip(examples, result.rows, strict=True):
        assert row.negative_instance != example.concept
        assert row.negative_instance in row.hard_negative_document
        assert row.domain == example.domain
    alone, _ = find(examples[-1:], concepts, pairs)
    assert alone.rows[0].hard_negative_document == result.rows[-1].hard_negative_document


def test_a_concept_negative_has_the_form_of_its_positive() -> None:
    named = dataclasses.replace(make_example(Task.P2I, "apple", text="x"), is_positive_name=True)
    defined = make_example(Task.P2I, "apple", text="x", slot=1)
    result, _ = find([named, defined], make_concepts("food", WORDS), [])
    assert [row.hard_negative_document for row in result.rows] == ["dates", "about eggs"]


def test_a_small_domain_skips_fewer_and_says_so() -> None:
    """Bug: taking the next negative from an empty list raised IndexError."""
    examples = [make_example(Task.I2PS, "apple", text="x", slot=slot) for slot in range(3)]
    result, notes = find(examples, make_concepts("food", WORDS[:3]), make_pairs("food", WORDS[:3]))
    assert [row.hard_negative_document for row in result.rows] == [
        "document cheese 1",
        "document cheese 2",
        "document cheese 1",
    ]
    assert notes == {SKIPPED_FEWER: 3, REUSED: 1}


def test_a_domain_with_one_concept_has_no_negatives() -> None:
    result, _ = find(
        [make_example(Task.I2PS, "apple", text="x")], make_concepts("food", ["apple"]), make_pairs("food", ["apple"])
    )
    assert result.rows == ()
    assert [each.reason for each in result.dropped] == ["no other concept in the domain"]


def test_a_text_that_is_the_positive_is_no_negative() -> None:
    pairs = make_pairs("food", WORDS)
    pairs = [dataclasses.replace(pair, document="THE positive") if pair.concept == "dates" else pair for pair in pairs]
    result, _ = find([make_example(Task.P2PS, "bread", text="x")], make_concepts("food", WORDS), pairs, skip_top=0)
    assert result.rows[0].hard_negative_document == "document apple 1"
    every = [dataclasses.replace(pair, document="the positive") for pair in pairs]
    none, _ = find([make_example(Task.P2PS, "bread", text="x")], make_concepts("food", WORDS), every)
    assert none.rows == ()


def test_ties_keep_the_order_of_the_documents() -> None:
    order, is_fewer = candidate_order(
        np.zeros(5, dtype=np.float32), ["a", "b", "b", "c", "d"], "a", skip_top=1, num_needed=9
    )
    assert order == [3, 4]
    assert not is_fewer


def test_bm25_finds_words_and_bears_texts_without_any() -> None:
    ranker = BM25Ranker()
    scores_QN = ranker.scores(["red apple", "the", "", "unknown"], ["an apple", "a pear", "", "the apple, red apple"])
    assert scores_QN.shape == (4, 4)
    assert scores_QN[0].argmax() == 3
    assert scores_QN[0, 0] > scores_QN[0, 1] == 0
    assert not scores_QN[1:].any()
    assert not ranker.scores(["apple"], ["", "  "]).any()


@pytest.mark.parametrize("language", ["en", "de", "ja"])
def test_bm25_serves_every_language(language: str) -> None:
    assert BM25Ranker(language).scores(["Wasser fließt"], ["Wasser", "Feuer"])[0].argmax() == 0
