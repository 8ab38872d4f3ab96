"""The table in 80 columns, and the page: whole, honest, self-contained."""

import dataclasses
import io
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from rich.console import Console

from diffembed.evaluation.reports.comparison import Search, SystemOutcome, TaskFacts, TaskOutcome, make_comparison
from diffembed.evaluation.reports.page import render_report, write_report
from diffembed.evaluation.reports.plot import plot_by_length, wilson_interval
from diffembed.evaluation.reports.table import print_comparison
from diffembed.evaluation.statistics.significance import scores_interval
from diffembed.records import Document, Hit

LENGTHS = (256, 512)


def outcome(name, values, *, group=None, length=None, measure="Acc@1", cut=0.0):
    by_query = {f"{name}-{place}": value for place, value in enumerate(values)}
    return TaskOutcome(
        task=name,
        group=group or name,
        length=length,
        measure=measure,
        interval=scores_interval(by_query),
        values=by_query,
        truncated_fraction=cut,
        num_tokens=5000,
        seconds=2.0,
    )


def system(label, right, cut=0.0, **more):
    """`right` of 8 queries answered at every length."""
    share = [1.0] * right + [0.0] * (8 - right)
    tasks = [outcome("stdlib", [one * 0.9 for one in share], measure="nDCG@10", cut=cut)]
    tasks += [
        outcome(f"{group}-{length}", share, group=group, length=length, cut=cut)
        for group in ("passkey", "needle")
        for length in LENGTHS
    ]
    return SystemOutcome(label=label, tasks=tuple(tasks), peak_bytes=2_090_000_000, facts={"dim": 640}, **more)


@pytest.fixture
def comparison():
    systems = [
        system("bm25", 8),
        system("all-minilm-l6-v2", 8, cut=1.0),
        system("gemma-3-270m:causal:last", 1, shares_pass_with=("gemma-3-270m:causal:mean",)),
        system("gemma-3-270m:causal:mean", 3, shares_pass_with=("gemma-3-270m:causal:last",)),
        system("gemma-3-270m:bidirectional:mean", 5),
        SystemOutcome(label="<broken>", error="no weights & no luck"),
    ]
    sizes = {"num_documents": 8, "num_queries": 8, "hash": "00ff00ff"}
    tasks = [TaskFacts(name="stdlib", group="stdlib", length=None, **sizes)]
    tasks += [
        TaskFacts(name=f"{group}-{length}", group=group, length=length, **sizes)
        for group in ("passkey", "needle")
        for length in LENGTHS
    ]
    hit = Hit(document=Document(id="tempfile.mkdtemp", text="Creates <a> folder."), score=0.5, rank=1)
    made = make_comparison(
        systems, tasks, seed=7, environment={"python": "3.x", "versions": {"torch": "2.13"}}, draw="eighth: few"
    )
    search = Search(system="bm25", question="where?", hits=(hit,), num_documents=9)
    return dataclasses.replace(made, search=search, reason="it was asked for", counted_by="gemma-3-270m")


def printed(comparison, width=80):
    stream = io.StringIO()
    print_comparison(comparison, Console(file=stream, width=width, highlight=False, force_terminal=True, no_color=True))
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())


def test_a_long_name_goes_on_after_a_hyphen(comparison):
    renamed = {
        "gemma-3-270m:causal:last": "gemma-3-270m-diffusion",
        "gemma-3-270m:causal:mean": "a-long-name-of-a-model:causal",
    }
    systems = [dataclasses.replace(one, label=renamed.get(one.label, one.label)) for one in comparison.systems]
    scores = {renamed.get(label, label): found for label, found in comparison.scores.items()}
    lines = [
        line.split("  ")[0]
        for line in printed(dataclasses.replace(comparison, systems=systems, scores=scores)).splitlines()
    ]
    place = lines.index("gemma-3-270m-")
    assert lines[place + 1] == "diffusion"
    place = lines.index("a-long-name-of-a-")
    assert lines[place + 1 : place + 3] == ["model", "causal"]


def test_the_table_fits_80_columns_and_loses_nothing(comparison):
    text = printed(comparison)
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    row = lines.index(next(line for line in lines if line.startswith("all-minilm-l6-v2")))
    # 8 of 8 queries at 0.9 and 1, every document cut, 25,000 tokens in 10 s.
    cells = " ".join(lines[row].split())
    assert cells == "all-minilm-l6-v2 90.0 cut 100% 100.0 cut 100% 100.0 cut 100% 2,500 2.09"
    assert lines[row + 1].split() == ["90.0-90.0", "100.0-100.0", "100.0-100.0"]
    assert "bidirectional, mean" in text and "…" not in text
    assert "An interval without width" in text and "chance 12.5" in text
    assert "Queries: library docs 8, passkey 16, needle 16." in " ".join(lines)
    assert "<broken> failed: no weights & no luck" in text and "tempfile.mkdtemp" in text


def test_a_long_name_is_folded_not_cut(comparison):
    name = "some-organisation/a-model-with-a-rather-long-name-indeed:causal:mean"
    renamed = dataclasses.replace(comparison.systems[4], label=name)
    scores = {**comparison.scores, name: comparison.scores["gemma-3-270m:bidirectional:mean"]}
    changed = dataclasses.replace(comparison, systems=(*comparison.systems[:4], renamed), scores=scores)
    head = printed(changed).partition("Points of 100")[0]
    column = "".join(line[:19].strip() for line in head.splitlines())
    assert name.partition(":")[0] in column
    assert max(map(len, head.splitlines())) <= 80


def test_a_pipe_gets_no_blanks_at_line_ends(comparison, capsys):
    print_comparison(comparison)
    out = capsys.readouterr().out
    assert "bm25" in out and not any(line != line.rstrip() for line in out.splitlines())


class Checker(HTMLParser):
    """Collects text, and refuses tags that do not close."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_names_everything(comparison):
    page = Checker()
    page.feed(render_report(comparison))
    assert page.open == []
    text = " ".join(" ".join(page.text).split())
    for system_ in comparison.systems:
        assert system_.label in text
    assert "no weights & no luck" in text and "Creates <a> folder." in text
    assert "90.0 to 90.0" in text and "cut 100 %" in text and "2,500" in text and "2,090 MB" in text
    assert "00ff00ff" in text and "torch 2.13" in text and "eighth: few; it was asked for." in text
    assert "gemma-3-270m:causal:last, gemma-3-270m:causal:mean came out of one forward pass" in text


def test_the_page_needs_nothing_from_elsewhere(comparison):
    html = render_report(comparison)
    page = Checker()
    page.feed(html)
    assert all(link.startswith("#") for link in page.links)
    assert "url(http" not in html and "@import" not in html and "<script" not in html
    assert "prefers-color-scheme: dark" in html


def test_differences_are_told_from_higher_to_lower(comparison):
    text = " ".join(re.sub(r"<[^>]+>", " ", render_report(comparison)).split())
    tested = {(d.group, d.a, d.b): d for d in comparison.differences}
    one = tested["passkey", "bm25", "gemma-3-270m:causal:last"]
    assert one.p_holm < 0.05
    assert f"passkey bm25 gemma-3-270m:causal:last 87.5 {100 * one.test.difference.low:.1f} to" in text
    backwards = tested["needle", "gemma-3-270m:causal:last", "gemma-3-270m:bidirectional:mean"]
    assert backwards.test.difference.value == -0.5 and backwards.p_holm < 0.05
    assert "needle gemma-3-270m:bidirectional:mean gemma-3-270m:causal:last 50.0" in text
    assert tested["passkey", "bm25", "all-minilm-l6-v2"].p_holm == 1
    assert "passkey bm25 all-minilm-l6-v2" not in text


def test_the_plot_is_svg_in_the_colours_of_the_page(comparison):
    svg = plot_by_length(comparison)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg") and "viewBox" in root.attrib and "width" not in root.attrib
    assert "#a00" not in svg
    assert all(f"var(--s{place})" in svg for place in range(5)) and "var(--ink)" in svg
    text = " ".join(element.text or "" for element in root.iter() if element.tag.endswith("text"))
    assert all(word in text for word in ("passkey", "needle", "256", "512", "chance", "Acc@1"))


def test_marks_are_hollow_where_documents_were_cut(comparison):
    def hollow(which):
        return plot_by_length(dataclasses.replace(comparison, systems=which)).count("fill: var(--paper)")

    assert hollow(comparison.systems[1:2]) > 0
    assert hollow(comparison.systems[:1]) == 0


def test_the_plot_is_the_same_twice(comparison):
    assert plot_by_length(comparison) == plot_by_length(comparison)


def test_tasks_without_length_have_no_plot(comparison):
    only = [task for task in comparison.tasks if task.length is None]
    assert plot_by_length(dataclasses.replace(comparison, tasks=tuple(only))) == ""


def test_whiskers_are_wilson_intervals():
    # Wilson 1927 by hand for 8 of 8: high is 1, low is n / (n + z^2) with z = 1.95996.
    low, high = wilson_interval(outcome("t", [1.0] * 8))
    assert high == 1 and abs(low - 8 / (8 + 1.959964**2)) < 1e-6
    graded = outcome("t", [0.2, 0.8, 0.5], measure="nDCG@10")
    assert wilson_interval(graded) == (graded.interval.low, graded.interval.high)


def test_the_page_is_written_whole(comparison, tmp_path):
    write_report(comparison, tmp_path / "new" / "report.html")
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8").endswith("</html>\n")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]
