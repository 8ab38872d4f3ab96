"""Global batches of one source, the same for every process, at any step, whatever else uses random numbers."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffembed.data.formats import Triplet
from diffembed.data.mixing import BatchPlan, MixConfig
from diffembed.errors import ConfigError, EmptyInputError, UnknownNameError


def rows(source: str, num: int, *, instruction: str | None = None, num_texts: int | None = None) -> list[Triplet]:
    """`num` rows; with `num_texts`, their positives repeat after so many."""
    return [
        Triplet(
            id=f"{source}{i}",
            query=f"{source} query {i}",
            positive=f"{source} positive {i % (num_texts or num)}",
            instruction=instruction,
            source=source,
        )
        for i in range(num)
    ]


MIX = rows("large", 103) + rows("middle", 50) + rows("small", 9)


def test_every_global_batch_has_one_source_and_its_full_size():
    plan = BatchPlan(MIX, 8, seed=1)
    for step in range(2 * plan.steps_per_epoch):
        batch = plan.batch(step)
        assert batch.shape == (8,)
        assert {MIX[place].source for place in batch} == {plan.group_of(step)}


def test_proportional_mixing_reads_every_row_once_an_epoch_up_to_remainders():
    plan = BatchPlan(MIX, 8, seed=1)
    # 103 // 8 = 12, 50 // 8 = 6, 9 // 8 = 1
    assert plan.shares == {"large": 12, "middle": 6, "small": 1}
    places = np.concatenate([plan.batch(step) for step in range(plan.steps_per_epoch)])
    assert len(places) == 19 * 8
    assert len(set(places.tolist())) == len(places)


def test_the_next_epoch_has_another_order_and_the_same_shares():
    plan = BatchPlan(MIX, 8, seed=1)
    steps = plan.steps_per_epoch
    first, second = [[plan.group_of(step + epoch * steps) for step in range(steps)] for epoch in (0, 1)]
    assert first != second
    assert Counter(first) == Counter(second)
    assert any((plan.batch(step) != plan.batch(step + steps)).any() for step in range(steps))


def test_a_step_is_the_same_whenever_and_wherever_it_is_asked_for():
    plan = BatchPlan(MIX, 8, seed=5)
    straight = [batch.tolist() for batch in plan.batches(0, 60)]
    random.seed(7)
    np.random.seed(7)
    resumed = BatchPlan(MIX, 8, seed=5)
    assert [batch.tolist() for batch in resumed.batches(41, 60)] == straight[41:]
    assert resumed.batch(3).tolist() == straight[3]
    assert [batch.tolist() for batch in BatchPlan(MIX, 8, seed=6).batches(0, 60)] != straight


def test_global_random_state_is_neither_read_nor_moved():
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), np.random.get_state()[1].copy()
    list(BatchPlan(MIX, 8, seed=5).batches(0, 30))
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()


def test_adding_a_source_does_not_change_the_batches_of_another():
    def of_large(plan: BatchPlan) -> list[list[int]]:
        found = [plan.batch(step) for step in range(plan.steps_per_epoch) if plan.group_of(step) == "large"]
        return [batch.tolist() for batch in found]

    assert of_large(BatchPlan(MIX, 8, seed=2)) == of_large(BatchPlan(MIX[:153], 8, seed=2))


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_the_shares_of_the_devices_make_up_the_global_batch(num_ranks):
    plan = BatchPlan(MIX, 8, seed=1)
    parts = [list(plan.batches(2, 5, rank=rank, num_ranks=num_ranks)) for rank in range(num_ranks)]
    for step in range(3):
        joined = np.concatenate([parts[rank][step] for rank in range(num_ranks)])
        assert joined.tolist() == plan.batch(step + 2).tolist()
    with pytest.raises(ConfigError, match="8 rows do not divide among 3 devices"):
        plan.shard(0, 0, 3)
    with pytest.raises(ConfigError, match="rank must be"):
        plan.shard(0, num_ranks, num_ranks)


def test_temperature_flattens_the_shares():
    proportional = BatchPlan(MIX, 8, seed=1).shares
    flatter = BatchPlan(MIX, 8, seed=1, config=MixConfig(temperature=2)).shares
    uniform = BatchPlan(MIX, 8, seed=1, config=MixConfig(temperature=float("inf"))).shares
    # 19 steps; sqrt(12) : sqrt(6) : sqrt(1) = 3.46 : 2.45 : 1 -> 9.52, 6.73, 2.75
    assert flatter == {"large": 9, "middle": 7, "small": 3}
    assert sorted(uniform.values()) == [6, 6, 7]
    assert sum(flatter.values()) == sum(proportional.values()) == 19


def test_a_small_source_with_a_large_share_comes_round_again_in_another_order():
    plan = BatchPlan(MIX, 8, seed=1, config=MixConfig(temperature=float("inf")))
    steps = [step for step in range(3 * plan.steps_per_epoch) if plan.group_of(step) == "small"]
    batches = [tuple(plan.batch(step).tolist()) for step in steps]
    # 9 rows give one batch a pass, so every one of them is a pass of its own.
    assert len(batches) >= 18
    assert len(set(batches)) == len(batches)


def test_weights_are_the_shares():
    plan = BatchPlan(MIX, 8, seed=1, config=MixConfig(weights={"large": 1, "middle": 1, "small": 2}))
    assert plan.shares == {"large": 5, "middle": 5, "small": 9}
    with pytest.raises(UnknownNameError, match="did you mean 'large'"):
        BatchPlan(MIX, 8, seed=1, config=MixConfig(weights={"larg": 1}))
    with pytest.raises(ConfigError, match="middle, small missing"):
        BatchPlan(MIX, 8, seed=1, config=MixConfig(weights={"large": 1}))


def test_batches_by_instruction_hold_one_instruction():
    mixed = rows("s", 20, instruction="a") + rows("s", 30, instruction="b") + rows("s", 3, instruction="c")
    config = MixConfig(batch_by="instruction", small_groups="drop")
    plan = BatchPlan(mixed, 4, seed=0, config=config)
    assert plan.dropped == {"s | c": 3}
    for step in range(plan.steps_per_epoch):
        assert len({mixed[place].instruction for place in plan.batch(step)}) == 1
    with pytest.raises(ConfigError, match=r"1 groups have fewer rows than a batch of 4: s \| c \(3\)"):
        BatchPlan(mixed, 4, seed=0, config=MixConfig(batch_by="instruction"))


def texts_in_common(triplets: list[Triplet], plan: BatchPlan) -> int:
    """Batches in which two rows share a query or a positive, or one's query is another's positive."""
    clashes = 0
    for step in range(plan.steps_per_epoch):
        batch = [triplets[place] for place in plan.batch(step)]
        queries, positives = {row.query for row in batch}, {row.positive for row in batch}
        clashes += len(queries) < len(batch) or len(positives) < len(batch) or bool(queries & positives)
    return clashes


def test_rows_with_one_positive_are_kept_apart():
    repeated = rows("s", 200, num_texts=20)
    together = BatchPlan(repeated, 10, seed=3, config=MixConfig(is_distinct=False))
    apart = BatchPlan(repeated, 10, seed=3)
    assert texts_in_common(repeated, together) > 15
    assert texts_in_common(repeated, apart) == 0
    assert sorted(np.concatenate([apart.batch(step) for step in range(20)]).tolist()) == list(range(200))


def test_a_query_that_is_another_rows_positive_is_kept_apart():
    chain = [
        Triplet(id=str(i), query=f"question {i}", positive=f"question {i ^ 1}", instruction="same meaning", source="s")
        for i in range(40)
    ]
    assert texts_in_common(chain, BatchPlan(chain, 4, seed=0, config=MixConfig(is_distinct=False))) > 0
    assert texts_in_common(chain, BatchPlan(chain, 4, seed=0)) == 0


def test_the_same_query_under_two_instructions_may_share_a_batch():
    two = [
        Triplet(id=f"{i}{word}", query=f"q{i}", positive=f"p{i}{word}", instruction=word, source="s")
        for i in range(2)
        for word in ("causes", "treatment")
    ]
    assert sorted(BatchPlan(two, 4, seed=0).batch(0).tolist()) == [0, 1, 2, 3]


def test_when_all_rows_share_a_text_batches_are_full_all_the_same():
    same = rows("s", 23, num_texts=1)
    plan = BatchPlan(same, 5, seed=0)
    places = np.concatenate([plan.batch(step) for step in range(plan.steps_per_epoch)])
    assert len(places) == 20
    assert len(set(places.tolist())) == 20


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 7), st.integers(0, 3))
def test_no_row_comes_twice_in_a_pass_whatever_texts_repeat(texts, batch_rows, seed):
    triplets = [Triplet(id=str(i), query=f"q{t}", positive=f"p{i}", source="s") for i, t in enumerate(texts)]
    if len(triplets) < batch_rows:
        return
    plan = BatchPlan(triplets, batch_rows, seed=seed)
    places = np.concatenate([plan.batch(step) for step in range(plan.steps_per_epoch)]).tolist()
    assert len(places) == len(set(places)) == len(triplets) // batch_rows * batch_rows


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        MixConfig(temperature=0.5)
    with pytest.raises(ConfigError, match="at least 1"):
        MixConfig(temperature=float("nan"))
    with pytest.raises(ConfigError, match="no effect"):
        MixConfig(temperature=2, weights={"a": 1})
    with pytest.raises(ConfigError, match="batch_by=source"):
        MixConfig(batch_by="instruction", weights={"a": 1})
    with pytest.raises(ConfigError, match="above 0"):
        MixConfig(weights={"a": 0})
    with pytest.raises(ConfigError, match="fewer rows than a batch of 200"):
        BatchPlan(MIX, 200, seed=0, config=MixConfig(small_groups="drop"))
    with pytest.raises(ConfigError, match="at least 1 row"):
        BatchPlan(MIX, 0, seed=0)
    with pytest.raises(EmptyInputError):
        BatchPlan([], 4, seed=0)
