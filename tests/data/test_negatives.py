"""A fixed number of negatives per row, decided by seed and row alone."""

import random

import pytest

from diffembed.data.formats import Triplet
from diffembed.data.negatives import choose_negatives, row_generator, with_num_negatives
from diffembed.errors import ConfigError


def row(number: int = 0, num: int = 0, **changes: object) -> Triplet:
    negatives = tuple(f"n{number}.{place}" for place in range(num))
    fields = {"id": str(number), "query": f"q{number}", "positive": f"p{number}", "negatives": negatives, "source": "s"}
    return Triplet(**(fields | changes))


@pytest.mark.parametrize(("have", "want", "distinct"), [(5, 3, 3), (5, 5, 5), (2, 5, 2), (1, 4, 1)])
def test_exactly_as_many_as_asked_for(have, want, distinct):
    chosen = choose_negatives(row(num=have), want, seed=0).negatives
    assert len(chosen) == want
    assert len(set(chosen)) == distinct
    assert set(chosen) <= set(row(num=have).negatives)


def test_the_choice_depends_on_seed_and_row_and_not_on_order_or_global_state():
    rows = [row(number, 20) for number in range(10)]
    first = with_num_negatives(rows, 3, seed=0)
    random.seed(5)
    backwards = with_num_negatives(rows[::-1], 3, seed=0)[::-1]
    assert backwards == first
    assert with_num_negatives(rows, 3, seed=1) != first
    places = {tuple(text.split(".")[1] for text in triplet.negatives) for triplet in first}
    assert len(places) > 5


def test_first_negatives_are_taken_first_and_no_more_than_their_limit():
    new_and_old = row(num=10)
    chosen = choose_negatives(new_and_old, 5, seed=0, num_first=4, max_first=2).negatives
    assert [text in new_and_old.negatives[:4] for text in chosen] == [True, True, False, False, False]
    only_new = choose_negatives(new_and_old, 3, seed=0, num_first=10, max_first=2).negatives
    assert len(only_new) == 3 and len(set(only_new)) == 2


def test_a_row_without_negatives_is_an_error_unless_it_may_borrow():
    rows = [row(number) for number in range(4)]
    with pytest.raises(ConfigError, match="row 0 of s has no negatives; mine some"):
        with_num_negatives(rows, 2, seed=0)
    for triplet in with_num_negatives(rows, 3, seed=0, from_other_rows=True):
        assert set(triplet.negatives) == {f"p{number}" for number in range(4)} - {triplet.positive}


def test_borrowed_negatives_are_of_the_source_and_no_answers():
    rows = [
        row(0, labels={"concept": "heap"}),
        row(1, labels={"concept": "heap"}),
        row(2, query="q0"),
        row(3, positive=" P0 "),
        row(4, positive="q0"),
        row(5, source="t"),
        row(6, source="t"),
        row(7),
    ]
    filled = with_num_negatives(rows, 4, seed=0, from_other_rows=True)
    assert set(filled[0].negatives) == {"p7"}
    assert set(filled[5].negatives) == {"p6"}


def test_nothing_to_borrow_is_an_error():
    with pytest.raises(ConfigError, match="no text that could be its negative"):
        with_num_negatives([row(0), row(1, query="q0")], 1, seed=0, from_other_rows=True)


def test_own_negatives_stay_when_others_are_borrowed():
    rows = [row(0, 2), *(row(number) for number in range(1, 9))]
    chosen = with_num_negatives(rows, 5, seed=0, from_other_rows=True)[0].negatives
    assert {"n0.0", "n0.1"} < set(chosen)
    assert len(set(chosen)) == 5


def test_generators_of_different_names_differ_and_of_the_same_agree():
    draws = [row_generator(0, *names).integers(1 << 60) for names in (("a",), ("b",), ("a", "b"), ("ab",))]
    assert len(set(draws)) == 4
    assert row_generator(0, "a").integers(1 << 60) == draws[0]
    with pytest.raises(ConfigError, match="at least 1"):
        choose_negatives(row(num=2), 0, seed=0)
