"""Passkey, needle, birthday, paraphrase: one sentence per document, where it says, in a text of the length it says."""

import collections
import functools
import re

import pytest

from diffembed.backbones.tiny import build_tokenizer
from diffembed.data.burying import hide, word_spans
from diffembed.errors import ConfigError, InputError
from diffembed.evaluation.statistics.measures import evaluate_run
from diffembed.evaluation.suites import haystack
from diffembed.evaluation.suites.needles import FACTS, FIRST_NAMES, LAST_NAMES, PLACES
from diffembed.evaluation.suites.stdlib import haystack_text
from diffembed.evaluation.systems.baselines import BM25
from diffembed.evaluation.tasks import PairTask, Task, hash_task
from diffembed.records import Document, Query

MAKERS = [haystack.make_passkey_task, haystack.make_needle_task, haystack.make_birthday_task]
HAY = "\n\n".join(f"Paragraph {n} tells of sheep. They graze on hill {n}, and nobody counts them." for n in range(400))


def tiny_spans(text: str):
    return build_tokenizer().backend_tokenizer.encode(text, add_special_tokens=False).offsets


def test_no_person_of_a_test_has_a_birthday():
    task = haystack.make_birthday_task(128, hay=HAY, token_spans=word_spans, num_documents=60, num_queries=60)
    asked = {query.text.removeprefix("On which day was ").removesuffix(" born?") for query in task.queries}
    told = [re.findall(r"(\w+ \w+) was born on \d{1,2} [A-Z][a-z]+ 1[89]\d\d\.", d.text) for d in task.corpus]
    assert sorted(told) == sorted([person] for person in asked)
    assert len(asked) == 60 and {name for person in asked for name in person.split()}.isdisjoint(
        {*FIRST_NAMES, *LAST_NAMES}
    )


def test_a_paraphrase_is_asked_for_by_the_sentence_that_says_the_same():
    words = [f"the {n} th sheep of the flock went over hill number {n} today" for n in range(40)]
    pairs = PairTask(
        name="pairs",
        left=[*words, "too short", words[0], "another sheep of the flock went over the hill today alone"],
        right=[
            *(f"{text} again" for text in words),
            "too brief",
            words[1],
            "nothing of it was ever true as far as I know",
        ],
        gold=[*[4.0] * 20, *[3.9] * 10, *[5.0] * 10, 5.0, 5.0, 0.0],
    )
    make = functools.partial(haystack.make_paraphrase_task, 200, hay=HAY, token_spans=word_spans, pairs=pairs)
    task = make(num_documents=30, num_queries=30)
    texts = {document.id: document.text for document in task.corpus}
    assert task.name == "paraphrase-200" and len(texts) == 30
    for query in task.queries:
        (gold,) = task.qrels[query.id]
        key = query.text.removesuffix(" again")
        assert key in words[:20] + words[30:] and [name for name, text in texts.items() if key in text] == [gold]
    with pytest.raises(ConfigError, match="num_documents is 31; it must be from 2 to 30"):
        make(num_documents=31, num_queries=2)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("length", [128, 700])
@pytest.mark.parametrize("spans", [word_spans, tiny_spans], ids=["words", "tokenizer"])
def test_documents_have_the_length_they_claim(make, length, spans):
    task = make(length, hay=haystack_text(), token_spans=spans, num_documents=4, num_queries=2)
    counts = [len(spans(document.text)) for document in task.corpus]
    assert task.length == length and len(counts) == 4
    assert all(length - 12 <= count <= length for count in counts), counts


def test_the_paper_asks_for_100_documents_and_50_queries():
    task = haystack.make_passkey_task(256, hay=HAY, token_spans=word_spans)
    assert (len(task.corpus), len(task.queries), task.measures) == (100, 50, ("Acc@1",))
    assert haystack.LENGTHS == (256, 512, 1024, 2048, 4096, 8192)


def test_each_passkey_is_told_in_its_document_only():
    task = haystack.make_passkey_task(128, hay=HAY, token_spans=word_spans, num_documents=40, num_queries=40)
    told = {d.id: re.findall(r"The pass key of (\w+ \w+) is (\d{5})\.", d.text) for d in task.corpus}
    assert all(len(found) == 1 for found in told.values())
    assert len({key for found in told.values() for _, key in found}) == 40
    for query in task.queries:
        (right,) = task.qrels[query.id]
        ((person, _),) = told[right]
        assert query.text == f"What is the pass key of {person}?"
        assert [d.id for d in task.corpus if person in d.text] == [right]


def test_each_needle_is_told_in_its_document_only():
    task = haystack.make_needle_task(128, hay=HAY, token_spans=word_spans, num_documents=100, num_queries=50)
    facts = {fact.format(place=place): question for fact, question in FACTS for place in PLACES}
    told = {d.id: [fact for fact in facts if fact in d.text] for d in task.corpus}
    assert all(len(found) == 1 for found in told.values())
    assert len({found[0] for found in told.values()}) == 100
    # The second half repeats the facts of the first with other places: each query has such a neighbour.
    for query in task.queries:
        assert facts[told[next(iter(task.qrels[query.id]))][0]].partition(" ")[0] == query.text.partition(" ")[0]


def test_needles_and_names_are_many_and_distinct():
    assert len(set(FACTS)) == len(FACTS) == 50
    assert all(part.count("{place}") == 1 for pair in FACTS for part in pair)
    for names in (PLACES, FIRST_NAMES, LAST_NAMES):
        assert len(set(names)) == len(names) > 20


def test_a_question_shares_few_words_with_its_fact():
    documents = [Document(id=str(n), text=fact.format(place="here")) for n, (fact, _) in enumerate(FACTS)]
    queries = [Query(id=str(n), text=question.format(place="here")) for n, (_, question) in enumerate(FACTS)]
    task = Task(name="bare", corpus=documents, queries=queries, qrels={q.id: {q.id: 1} for q in queries})
    found = evaluate_run(task.qrels, BM25(documents).search(queries), ["Acc@1"])["Acc@1"]
    assert sum(found.values()) / len(found) < 0.5, "the place is left to find it by"


@pytest.mark.parametrize("make", MAKERS)
def test_the_same_seed_gives_the_same_task_and_another_does_not(make):
    first, again, other = (
        make(128, hay=HAY, token_spans=word_spans, num_documents=5, num_queries=5, seed=seed) for seed in (3, 3, 4)
    )
    assert hash_task(first) == hash_task(again) != hash_task(other)


def test_depths_are_spread_over_the_documents():
    task = haystack.make_passkey_task(500, hay=HAY, token_spans=word_spans, num_documents=10, num_queries=10)
    depths = sorted(d.text.index("The pass key") / len(d.text) for d in task.corpus)
    # One document per tenth, up to the distance of two sentence ends and the length of the key.
    assert all(abs(depth - (place + 0.5) / 10) < 0.06 for place, depth in enumerate(depths)), depths


@pytest.mark.parametrize(("depth", "where"), [(0.0, str.startswith), (1.0, str.endswith)])
def test_the_key_can_stand_at_either_end(depth, where):
    text = hide("KEY.", HAY, 0, 100, depth, word_spans)
    assert where(text, "KEY.") and len(text.split()) == 100


def test_a_statement_that_leaves_no_room_is_refused():
    with pytest.raises(InputError, match="a statement of 5 tokens leaves no room in a text of 5"):
        hide("Five words make a key.", HAY, 0, 5, 0.5, word_spans)


def test_hay_is_a_ring():
    short = "One sentence only.\n\nAnd another one here."
    text = hide("KEY.", short, 0, 80, 0.5, word_spans)
    assert len(text.split()) == 80
    assert collections.Counter(text.split())["One"] > 5


def test_documents_start_at_different_places_of_the_hay():
    task = haystack.make_needle_task(64, hay=HAY, token_spans=word_spans, num_documents=20, num_queries=1)
    assert len({tuple(re.findall(r"Paragraph \d+", d.text)) for d in task.corpus}) == 20


@pytest.mark.parametrize(
    ("length", "num_documents", "num_queries", "sentence"),
    [
        (63, 4, 4, "a haystack of 63 tokens is too short; use 64 or more"),
        (64, 1, 1, "num_documents is 1; it must be from 2 to 1200"),
        (64, 1201, 1, "num_documents is 1201; it must be from 2 to 1200"),
        (64, 4, 5, r"num_queries is 5; it must be from 1 to num_documents \(4\)"),
        (64, 4, 0, r"num_queries is 0; it must be from 1 to num_documents \(4\)"),
    ],
)
def test_sizes_out_of_range_are_refused(length, num_documents, num_queries, sentence):
    with pytest.raises(ConfigError, match=sentence):
        haystack.make_needle_task(
            length, hay=HAY, token_spans=word_spans, num_documents=num_documents, num_queries=num_queries
        )
