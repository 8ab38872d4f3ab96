"""Plants of every kind are found, and what only looks alike is not."""

import json
import random
import shutil

import pytest

from diffembed.data.burying import word_spans
from diffembed.data.formats import Triplet
from diffembed.errors import ConfigError
from diffembed.evaluation.suites.haystack import make_needle_task, make_passkey_task
from diffembed.evaluation.suites.needles import FACTS
from diffembed.evaluation.tasks import Task
from diffembed.records import Document, Query
from diffembed.study.accounts import contamination_blocks
from diffembed.study.contamination import MAX_COVER, find_contamination
from diffembed.study.findings import find
from diffembed.study.page import render_markdown
from diffembed.study.store import Store
from diffembed.training.adapt_config import TextConfig


def sentence(seed, num_words=60):
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(num_words))


GOLD, QUERY = sentence("gold"), sentence("query", 10)


@pytest.fixture
def task():
    corpus = [Document(id="g", text=GOLD), Document(id="other", text=sentence("other"))]
    return Task(name="t", corpus=corpus, queries=[Query(id="q", text=QUERY)], qrels={"q": {"g": 1}})


@pytest.fixture
def text(tmp_path):
    """A function from content to an adaptation that reads it."""
    held = tmp_path / "held.txt"
    held.write_text("held out", encoding="utf-8")

    def make(content):
        path = tmp_path / "text.txt"
        path.write_text(content, encoding="utf-8")
        return TextConfig(files=(str(path),), held_out=(str(held),))

    return make


def row(query="a query", positive="a text", negatives=(), source="rows"):
    return Triplet(id="r1", source=source, query=query, positive=positive, negatives=tuple(negatives))


def kinds(rows, task, text=None):
    return [(f.kind, f.place) for f in find_contamination(rows, text, [(task, ())]).findings]


def templates(rows, task, text=None):
    """(family, template) of each."""
    found = find_contamination(rows, text, [(task, ())])
    assert all(finding.kind == "template" for finding in found.findings) and found.refused == found.findings
    return {(finding.task, finding.test_id) for finding in found.findings}


def part_of_gold(num_words):
    return f"{sentence('before')} {' '.join(GOLD.split()[:num_words])} {sentence('after')}"


def test_clean_rows_have_no_findings(task):
    found = find_contamination(
        [row(positive=sentence("x")), row(query=" ".join(QUERY.split()[:9]))], None, [(task, ())]
    )
    assert found.findings == () and found.tasks["t"]["max_cover"] == 0


def test_queries_are_found_whatever_their_case_and_wherever_they_stand(task):
    assert kinds([row(query=QUERY.upper() + "?")], task) == [("query", "rows/r1 query")]
    assert kinds([row(negatives=[QUERY])], task) == [("query", "rows/r1 negative 0")]


def test_under_another_seed_a_row_has_other_negatives_and_all_are_compared(task):
    """Rows of every seed come in one list, with equal ids: none may stand in for another."""
    for rows in ([row(negatives=[QUERY]), row(negatives=["else"])], [row(negatives=["else"]), row(negatives=[QUERY])]):
        assert kinds(rows, task) == [("query", "rows/r1 negative 0")]
    found = find_contamination([row(), row()], None, [(task, ())])
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
    (finding,) = find_contamination([row(positive=part_of_gold(22))], None, [(task, ())]).findings
    assert (finding.kind, finding.test_id) == ("gold document", "g")
    assert finding.cover == pytest.approx(10 / 48) and finding.cover > MAX_COVER
    # Runs do not cross from one text into the next.
    halves = [row(positive=" ".join(GOLD.split()[:20])), row(positive=" ".join(GOLD.split()[20:32]))]
    assert kinds(halves, task) == []


def test_a_pair_is_refused_in_both_directions_however_short_its_query_and_whoever_shares_its_document(task):
    for query in (QUERY, "two words"):
        task = Task(name="t", corpus=task.corpus, queries=[Query(id="q", text=query)], qrels={"q": {"g": 1}})
        for sides, role in (((query.upper(), GOLD), "query"), ((GOLD, f"{query}!"), "positive")):
            found = find_contamination([row(*sides, source="kin")], None, [(task, ("kin",))])
            assert [(f.kind, f.test_id, f.place) for f in found.refused] == [("query", "q", f"kin/r1 {role}")]
            assert [(f.kind, f.is_allowed) for f in found.findings] == [("query", False), ("gold document", True)]


@pytest.mark.parametrize("source", ["kin", "kin_buried", "kin_turned"])
def test_sets_that_share_documents_by_design_may_hold_them_but_no_queries(task, source):
    found = find_contamination([row(query=QUERY, positive=part_of_gold(40), source=source)], None, [(task, ("kin",))])
    assert {finding.kind: finding.is_allowed for finding in found.findings} == {"gold document": True, "query": False}
    assert [finding.kind for finding in found.refused] == ["query"]


def test_a_shared_document_is_refused_where_anything_else_holds_it_too(task, text):
    ours, others = row(positive=GOLD, source="kin"), row(positive=GOLD)

    def found(*rows, text=None, kin=("kin",)):
        (finding,) = find_contamination(rows, text, [(task, kin)]).findings
        return finding.is_allowed, finding.place, round(finding.cover, 2)

    assert found(ours) == (True, "kin/r1 positive", 1)
    assert found(ours, kin=("other",)) == (False, "kin/r1 positive", 1)
    # The same text, whichever comes first.
    assert found(ours, others) == found(others, ours) == found(others) == (False, "rows/r1 positive", 1)
    assert found(ours, text=text(part_of_gold(40))) == (False, "text.txt", round(28 / 48, 2))
    # What stands elsewhere counts from a fifth of the runs too, and is counted without what the kin holds.
    assert found(ours, row(positive=part_of_gold(21))) == (True, "kin/r1 positive", 1)
    assert found(ours, row(positive=part_of_gold(22))) == (False, "rows/r1 positive", round(10 / 48, 2))
    # The kin of one task are strangers to another.
    twin = Task(name="twin", corpus=task.corpus, queries=task.queries, qrels=task.qrels)
    both = find_contamination([ours], None, [(task, ("kin",)), (twin, ("rows",))])
    assert {finding.task: finding.is_allowed for finding in both.findings} == {"t": True, "twin": False}


def test_a_document_that_the_plan_says_is_seen_stays_and_no_other(task):
    rows = [row(positive=GOLD)]
    (finding,) = find_contamination(rows, None, [(task, ())], seen=["t/g"]).findings
    assert finding.is_allowed and finding.kind == "gold document"
    (finding,) = find_contamination([row(query=QUERY)], None, [(task, ())]).findings
    assert not finding.is_allowed
    with pytest.raises(ConfigError, match=r"evaluation\.seen names t/other, t/q, which is no gold document that would"):
        find_contamination([*rows, row(query=QUERY)], None, [(task, ())], seen=["t/other", "t/g", "t/q"])
    # What only kin holds is allowed without being named.
    with pytest.raises(ConfigError, match=r"evaluation\.seen names t/g"):
        find_contamination([row(positive=GOLD, source="kin")], None, [(task, ("kin",))], seen=["t/g"])


def test_a_document_too_short_for_runs_is_refused_outside_its_kin_too(task):
    short = Task(name="t", corpus=[Document(id="g", text="Four words, no more.")], queries=task.queries,
                 qrels=task.qrels)  # fmt: skip
    kin, other = row(positive="four words no more", source="kin"), row(positive="four words no more")
    for rows, is_allowed in (([kin], True), ([kin, other], False), ([other, kin], False)):
        (finding,) = find_contamination(rows, None, [(short, ("kin",))]).findings
        assert finding.is_allowed == is_allowed


def test_adaptation_text_is_searched_for_queries_documents_and_hidden_sentences(task, text):
    assert kinds([row()], task, text(sentence("x"))) == []
    assert kinds([row()], task, text(f"{sentence('x')}, {QUERY.title()}. More")) == [("query", "text.txt")]
    assert kinds([row()], task, text(part_of_gold(40))) == [("gold document", "text.txt")]
    fact = FACTS[0][0].format(place="Oslo")
    assert kinds([row()], task, text(f"{sentence('y')} {fact}")) == [("template", "text.txt")]
    assert kinds([row(positive="The pass key of Ann is 12345.")], task) == [("template", "rows/r1 positive")]
    assert find_contamination([row()], text("Five words.\n\nIn two pieces."), [(task, ())]).num_text_words == 5


@pytest.mark.parametrize("place", ["Oslo", "Sankt Gallen", "sankt-gallen"])
def test_every_fact_and_question_is_found_whatever_its_place_and_punctuation(task, place):
    for template in (template for pair in FACTS for template in pair):
        filled = template.format(place=place)
        for said in (filled, filled.upper() + "!", ", ".join(filled.rstrip(".?").split()) + ", daily"):
            assert templates([row(positive=f"{sentence('x', 5)}. {said}")], task) == {("needle", template)}
    lines = [template.format(place=place) for pair in FACTS for template in pair]
    assert len(templates([row(positive=" ".join(lines))], task)) == 100


def test_what_only_looks_like_a_fact_is_not_found(task):
    fact = "Bread in {place} is baked with sea water."
    assert fact in dict(FACTS)
    for said in (
        "Bread is baked with sea water",
        "Bread in is baked with sea water",
        "Bread in the old town is baked with sea water",
        "Bread in Oslo is baked with sea waters",
        "Shortbread in Oslo is baked with sea water",
        "the pass keys of Ann",
    ):
        assert templates([row(positive=f"We know: {said}")], task) == set()


def test_whole_generated_tasks_are_found(task):
    hay = sentence("hay", 400)
    for make, family in ((make_passkey_task, "passkey"), (make_needle_task, "needle")):
        made = make(80, hay=hay, token_spans=word_spans, num_documents=50, num_queries=50)
        for side in ([document.text for document in made.corpus], [query.text for query in made.queries]):
            for content in side:
                assert {found for found, _ in templates([row(positive=content)], task)} == {family}


def test_hidden_sentences_have_a_line_in_the_report(whole, tmp_path):
    plan, done = whole
    shutil.copytree(done.results, tmp_path / "results" / "tiny", symlinks=True)
    store = Store("tiny", tmp_path)
    path = store.results / "contamination.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    finding = {"kind": "template", "test_id": "x", "place": "y", "cover": 1.0, "is_allowed": False}
    findings = [{**finding, "task": family} for family in ("needle", "passkey", "needle")]
    path.write_text(json.dumps({**stored, "findings": findings}), encoding="utf-8")
    page = render_markdown(contamination_blocks(find(plan, store), store))
    assert "| needle | - | - | - | 2 templates |\n| passkey | - | - | - | 1 template |" in page
    assert "| finding | 40 |" in page
