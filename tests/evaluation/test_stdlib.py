"""The labelled task made of the standard library's docstrings."""

import os
import subprocess
import sys

import pytest

from diffembed.errors import InputError
from diffembed.evaluation.statistics.measures import evaluate_run
from diffembed.evaluation.suites import stdlib
from diffembed.evaluation.systems.baselines import BM25
from diffembed.evaluation.tasks import hash_task


def fresh(code: str, **environment: str) -> str:
    """What a new interpreter prints."""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return ran.stdout.strip()


def test_entries_are_public_docstrings_by_name():
    entries = {entry.name: entry for entry in stdlib.read_entries()}
    assert list(entries) == sorted(entries)
    assert not any(part.startswith("_") for name in entries for part in name.split("."))
    # The docstring as the interpreter itself gives it is the independent reference.
    import shutil

    head, _, body = shutil.which.__doc__.strip().partition("\n\n")
    assert entries["shutil.which"].summary == " ".join(head.split())
    assert [line.strip() for line in entries["shutil.which"].body.splitlines()] == [
        line.strip() for line in body.strip().splitlines()
    ]


def test_nothing_is_imported_to_read_a_docstring():
    code = (
        "import sys; from diffembed.evaluation.suites.stdlib import read_entries;"
        "names = {e.name for e in read_entries()};"
        "print('turtle.Turtle' in names or 'turtle.Pen' in names or any(n.startswith('turtle') for n in names),"
        " 'turtle' in sys.modules, 'webbrowser' in sys.modules)"
    )
    assert fresh(code) == "True False False"


def test_every_query_has_one_right_document_that_does_not_name_itself():
    task = stdlib.make_stdlib_task(60)
    entries = {entry.name: entry for entry in stdlib.read_entries()}
    assert len(task.corpus) == len(task.queries) == 60
    for query, document in zip(task.queries, task.corpus, strict=True):
        assert task.qrels[query.id] == {document.id: 1}
        assert document.text == entries[document.id].body and not document.title
        assert set(query.text.split()) <= set(entries[document.id].summary.split())


@pytest.mark.parametrize(
    ("text", "name", "left"),
    [
        ("Return the arithmetic mean of data.", "statistics.mean", "Return the arithmetic of data."),
        ("splitext(path) -> (root, ext) of it", "os.path.splitext", "(root, ext) of it"),
        ("heapq.merge(a, b) joins sorted inputs.", "heapq.merge", "joins sorted inputs."),
        ("A meaning stays, so do means.", "statistics.mean", "A meaning stays, so do means."),
    ],
)
def test_the_name_is_taken_out_as_a_word(text, name, left):
    assert stdlib.without_name(text, name) == left


def words(text: str) -> set[str]:
    return {"".join(letter for letter in word if letter.isalnum()).lower() for word in text.split()}


def test_entries_that_repeat_each_other_are_left_out():
    def most_alike(texts: list[str]) -> float:
        sets = [words(text) for text in texts]
        return max(len(a & b) / len(a | b) for i, a in enumerate(sets) for b in sets[:i])

    usable = [entry.body for entry in stdlib.read_entries() if stdlib._is_usable(entry)]
    task = stdlib.make_stdlib_task(300)
    assert most_alike(usable) > 0.95, "the library repeats itself"
    # Words are cut a little differently here, hence the margin.
    assert most_alike([document.text for document in task.corpus]) < stdlib.MAX_BODY_OVERLAP + 0.1


def test_a_smaller_draw_is_the_beginning_of_a_larger_one_and_seeds_differ():
    small, large, other = (stdlib.make_stdlib_task(n, seed=seed) for n, seed in ((20, 0), (50, 0), (20, 1)))
    assert small.corpus == large.corpus[:20]
    assert {document.id for document in small.corpus} != {document.id for document in other.corpus}


def test_the_draw_is_the_same_in_another_process():
    code = (
        "from diffembed.evaluation.suites.stdlib import make_stdlib_task;"
        "from diffembed.evaluation.tasks import hash_task;"
        "print(hash_task(make_stdlib_task(30)))"
    )
    assert fresh(code, PYTHONHASHSEED="7") == hash_task(stdlib.make_stdlib_task(30))


def test_word_matching_neither_solves_the_task_nor_fails_it():
    task = stdlib.make_stdlib_task(150)
    values = evaluate_run(task.qrels, BM25(task.corpus).search(task.queries), ["Acc@1"])["Acc@1"]
    assert 0.4 < sum(values.values()) / 150 < 0.85


def test_more_entries_than_there_are_is_refused():
    with pytest.raises(InputError, match=r"gives \d+ labelled entries; 5000 were asked for"):
        stdlib.make_stdlib_task(5000)


def test_hay_and_summaries_hold_text_once():
    hay = stdlib.haystack_text()
    assert len(hay) > 1_000_000
    paragraphs = [entry.body for entry in stdlib.read_entries() if len(entry.body) > 400][:20]
    assert all(body in hay for body in paragraphs)
    texts = [document.text for document in stdlib.summaries()]
    assert len(texts) == len(set(texts)) > 500
