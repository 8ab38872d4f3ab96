"""Plants of every kind are found, and what only looks alike is not."""

import random

import pytest

from diffembed.data.formats import Triplet
from diffembed.evaluation.suites.needles import FACTS
from diffembed.evaluation.tasks import Task
from diffembed.records import Document, Query
from diffembed.study.contamination import MAX_COVER, find_contamination
from diffembed.training.config import TextConfig


def sentence(seed, num_words=60):
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(num_words))


GOLD, QUERY = sentence("gold"), sentence("query", 10)


@pytest.fixture
def task():
    corpus = [Document(id="g", text=GOLD), Document(id="other", text=sentence("other"))]
    return Task(name="t", corpus=corpus, queries=[Query(id="q", text=QUERY)], qrels={"q": {"g": 1}})


def row(query="a query", positive="a text", negatives=()):
    return Triplet(id="r1", source="rows", query=query, positive=positive, negatives=tuple(negatives))


def kinds(rows, task, text=None, in_domain=False):
    return [(f.kind, f.place) for f in find_contamination(rows, text, [(task, in_domain)]).findings]


def part_of_gold(num_words):
    return f"{sentence('before')} {' '.join(GOLD.split()[:num_words])} {sentence('after')}"


def test_clean_rows_have_no_findings(task):
    found = find_contamination(
        [row(positive=sentence("x")), row(query=" ".join(QUERY.split()[:9]))], None, [(task, False)]
    )
    assert found.findings == () and found.tasks["t"]["max_cover"] == 0


def test_queries_are_found_whatever_their_case_and_wherever_they_stand(task):
    assert kinds([row(query=QUERY.upper() + "?")], task) == [("query", "rows/r1 query")]
    assert kinds([row(negatives=[QUERY])], task) == [("query", "rows/r1 negative 0")]


def test_under_another_seed_a_row_has_other_negatives_and_all_are_compared(task):
    """Rows of every seed come in one list, with equal ids: none may stand in for another."""
    for rows in ([row(negatives=[QUERY]), row(negatives=["else"])], [row(negatives=["else"]), row(negatives=[QUERY])]):
        assert kinds(rows, task) == [("query", "rows/r1 negative 0")]
    found = find_contamination([row(), row()], None, [(task, False)])
    assert found.num_row_texts == 2


def test_queries_are_found_inside_longer_rows(task):
    assert kinds([row(positive=f"Problem: {QUERY}\n{sentence('solution')}")], task) == [("query", "rows/r1 positive")]
    long_query = sentence("long query", 30)
    task = Task(name="t", corpus=task.corpus, queries=[Query(id="q", text=long_query)], qrels={"q": {"g": 1}})
    assert kinds([row(positive=f"Problem: {long_query}\n{sentence('solution')}")], task) == [
        ("query", "rows/r1 positive")
    ]
    assert kinds([row(positive=f"{' '.join(long_query.split()[:29])} {sentence('solution')}")], task) == []


def test_a_gold_document_counts_from_a_fifth_of_its_runs(task):
    # 60 words are 48 runs of 13; 21 words hold 9 of them (18.75 %), 22 words hold 10 (20.8 %).
    assert kinds([row(positive=part_of_gold(21))], task) == []
    (finding,) = find_contamination([row(positive=part_of_gold(22))], None, [(task, False)]).findings
    assert (finding.kind, finding.test_id) == ("gold document", "g")
    assert finding.cover == pytest.approx(10 / 48) and finding.cover > MAX_COVER
    # Runs do not cross from one text into the next.
    halves = [row(positive=" ".join(GOLD.split()[:20])), row(positive=" ".join(GOLD.split()[20:32]))]
    assert kinds(halves, task) == []


def test_pairs_are_found_in_both_directions(task):
    for query, positive in ((QUERY, GOLD), (GOLD, QUERY)):
        assert "pair" in {kind for kind, _ in kinds([row(query=query, positive=positive)], task)}


def test_in_domain_sets_may_share_documents_but_not_queries(task):
    found = find_contamination([row(query=QUERY, positive=part_of_gold(40))], None, [(task, True)])
    assert {finding.kind: finding.is_allowed for finding in found.findings} == {"gold document": True, "query": False}
    assert [finding.kind for finding in found.refused] == ["query"]


def test_adaptation_text_is_searched_for_queries_documents_and_hidden_sentences(task, tmp_path):
    held = tmp_path / "held.txt"
    held.write_text("held out", encoding="utf-8")

    def text(content):
        path = tmp_path / "text.txt"
        path.write_text(content, encoding="utf-8")
        return TextConfig(files=(str(path),), held_out=(str(held),))

    assert kinds([row()], task, text(sentence("x"))) == []
    assert kinds([row()], task, text(f"{sentence('x')}, {QUERY.title()}. More")) == [("query", "text.txt")]
    assert kinds([row()], task, text(part_of_gold(40))) == [("gold document", "text.txt")]
    fact = FACTS[0][0].format(place="Oslo")
    assert ("template", "text.txt") in kinds([row()], task, text(f"{sentence('y')} {fact}"))
    assert ("template", "rows/r1 positive") in kinds([row(positive="The pass key of Ann is 12345.")], task)
