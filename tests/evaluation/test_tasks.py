import dataclasses

import pytest

from diffembed.errors import EmptyInputError, InputError
from diffembed.evaluation.tasks import InstructionTask, LabelTask, PairTask, Task, hash_task
from diffembed.records import Document, Query

CORPUS = [Document(id="a", text="apple"), Document(id="b", text="banana")]
QUERIES = [Query(id="q", text="fruit?")]


def task(**changes):
    settings = {"name": "fruit", "corpus": CORPUS, "queries": QUERIES, "qrels": {"q": {"a": 1}}}
    return Task(**{**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpus": []}, "no documents"),
        ({"queries": []}, "no queries"),
        ({"corpus": [*CORPUS, CORPUS[0]]}, "document id .* 'a' occurs twice"),
        ({"queries": [*QUERIES, *QUERIES]}, "query id .* 'q' occurs twice"),
        ({"qrels": {"q": {"a": 1}, "r": {"a": 1}}}, "name query 'r'"),
        ({"qrels": {"q": {"z": 1}}}, "name document 'z'"),
        ({"queries": [*QUERIES, Query(id="r", text="?")]}, "query 'r' .* has no judgements"),
        ({"candidates": {}}, "query 'q' .* no candidate"),
        ({"candidates": {"q": ["a", "z"]}}, "candidates of query 'q' .* document 'z'"),
        ({"subsets": {"some": frozenset({"r"})}}, "subset 'some' .* query 'r'"),
    ],
)
def test_a_broken_task_is_refused_with_the_id(changes, words):
    with pytest.raises(InputError, match=words):
        task(**changes)


def test_the_hash_moves_with_everything_that_is_scored():
    base = task()
    others = [
        task(qrels={"q": {"a": 2}}),
        task(qrels={"q": {"b": 1}}),
        task(corpus=[CORPUS[0], Document(id="b", text="banana!")]),
        task(queries=[Query(id="q", text="fruit")]),
        task(queries=[Query(id="q", text="fruit?", excluded_ids=frozenset({"b"}))]),
        task(instruction="find fruit"),
        task(measures=("RR@10",)),
        task(candidates={"q": ["a"]}),
    ]
    assert hash_task(base) == hash_task(task())
    assert len({hash_task(other) for other in [base, *others]}) == 9


def test_a_narrative_goes_where_the_task_says():
    og = task(queries=[Query(id="q", text="fruit?", instruction="Only red ones.")])
    changed = dataclasses.replace(og, queries=[Query(id="q", text="fruit?", instruction="No red ones.")])
    as_text = InstructionTask(name="t", og=og, changed=changed)
    assert as_text.posed(as_text.og).queries == [Query(id="q", text="fruit? Only red ones.")]
    in_slot = InstructionTask(name="t", og=og, changed=changed, narrative_slot="instruction")
    assert in_slot.posed(in_slot.changed) is changed
    assert hash_task(as_text) != hash_task(in_slot)


def test_an_instruction_task_needs_both_sides_alike():
    og = task(queries=[Query(id="q", text="fruit?", instruction="Only red ones.")])
    with pytest.raises(InputError, match="do not share a corpus"):
        InstructionTask(name="t", og=og, changed=dataclasses.replace(og, corpus=list(CORPUS)))
    with pytest.raises(InputError, match=r"query 'q' .* lacks one of its two instructions"):
        InstructionTask(name="t", og=og, changed=task())
    other = task(queries=[Query(id="r", text="?", instruction="x")], qrels={"r": {"a": 1}})
    with pytest.raises(InputError, match="not the same"):
        InstructionTask(name="t", og=og, changed=other)


def test_pairs_and_labels_are_checked():
    with pytest.raises(InputError, match="pair 2 of task 'sts' has the score nan"):
        PairTask(name="sts", left=["a", "b"], right=["a", "b"], gold=[1, float("nan")])
    with pytest.raises(InputError, match="1 and 2 sentences for 2 scores"):
        PairTask(name="sts", left=["a"], right=["a", "b"], gold=[1, 2])
    with pytest.raises(EmptyInputError):
        PairTask(name="sts", left=[], right=[], gold=[])
    with pytest.raises(InputError, match=r"label 'y' .* no training text"):
        LabelTask(name="l", kind="classification", texts=["a"], labels=["y"], train_texts=["b"], train_labels=["x"])
    with pytest.raises(InputError, match="would have no effect"):
        LabelTask(name="l", kind="clustering", texts=["a"], labels=["y"], train_texts=["b"], train_labels=["x"])
