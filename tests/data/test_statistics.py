"""Token counts by hand."""

import statistics

import pytest

from diffembed.backbones.tiny import build_tokenizer
from diffembed.data.formats import Triplet
from diffembed.data.statistics import token_statistics
from diffembed.errors import ConfigError, EmptyInputError


class Words:
    """Counts words, and notes what it was asked."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text, **options):
        assert not options["add_special_tokens"]
        self.texts += text
        return {"input_ids": [t.split() for t in text]}


def row(source: str, query: int, positive: int, *negatives: int, instruction: str | None = None) -> Triplet:
    """Texts of so many words."""
    texts = [" ".join(f"{source}{num}" for _ in range(num)) for num in (query, positive, *negatives)]
    return Triplet(
        id="x", query=texts[0], positive=texts[1], negatives=tuple(texts[2:]), instruction=instruction, source=source
    )


ROWS = [row("b", 2, 10, 20, instruction="find it"), row("b", 4, 30, 40, 50), row("a", 7, 5)]


def test_mean_and_std_by_hand():
    words = Words()
    a, b, everything = token_statistics(ROWS, words)
    assert [part.source for part in (a, b, everything)] == ["a", "b", "all"]
    # "find it; " puts two words before the first query of b.
    assert (b.query.mean, b.query.std) == (4.0, 0.0)
    documents = [10, 20, 30, 40, 50]
    assert b.document.num_texts == 5
    assert b.document.mean == 30
    assert b.document.std == pytest.approx(statistics.stdev(documents)) == pytest.approx(15.8114, abs=1e-4)
    assert (b.document.median, b.document.longest, b.num_negatives) == (30, 50, 1.5)
    assert (a.query.mean, a.query.std, a.document.longest) == (7.0, 0.0, 5)
    assert (everything.num_rows, everything.query.num_texts, everything.document.num_texts) == (3, 3, 6)
    assert everything.document.mean == pytest.approx(155 / 6)


def test_the_template_of_the_model_can_be_measured():
    found = token_statistics(ROWS, Words(), query_text=lambda triplet: f"one two three {triplet.query}")
    assert found[0].query.mean == 10


def test_a_text_that_many_rows_hold_is_tokenised_once_and_counted_each_time():
    words = Words()
    found = token_statistics([ROWS[2]] * 5, words)[0]
    assert len(words.texts) == 2
    assert found.document.num_texts == 5


def test_a_sample_measures_fewer_rows_and_says_how_many_there_are():
    rows = [row("a", num + 1, num + 2) for num in range(50)]
    first = token_statistics(rows, Words(), max_rows=10, seed=1)[0]
    assert (first.num_rows, first.query.num_texts) == (50, 10)
    assert token_statistics(rows, Words(), max_rows=10, seed=1)[0] == first
    assert token_statistics(rows, Words(), max_rows=10, seed=2)[0] != first


def test_nothing_to_measure_is_an_error():
    with pytest.raises(EmptyInputError):
        token_statistics([], Words())
    with pytest.raises(ConfigError, match="at least 1"):
        token_statistics(ROWS, Words(), max_rows=0)


def test_a_transformers_tokenizer_fits():
    tokenizer = build_tokenizer()
    expected = len(tokenizer(ROWS[2].positive, add_special_tokens=False)["input_ids"])
    assert token_statistics([ROWS[2]], tokenizer)[0].document.mean == expected > 5
