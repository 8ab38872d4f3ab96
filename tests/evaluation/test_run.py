import dataclasses
import json
import shutil

import pytest

from diffembed.cli import main
from diffembed.errors import CheckpointError, ConfigError, EmptyInputError, UnknownNameError
from diffembed.evaluation import suite_runs
from diffembed.evaluation.reports.markdown import render_markdown
from diffembed.evaluation.reports.page import render_report
from diffembed.evaluation.reports.table import print_comparison
from diffembed.evaluation.results import find_published, load_result, slug
from diffembed.evaluation.run import EvaluateConfig, Evaluation, evaluate, make_development_score
from diffembed.evaluation.scoring import TaskResult
from diffembed.evaluation.statistics.significance import Interval
from diffembed.evaluation.suite_comparison import compare_results
from diffembed.evaluation.suite_runs import run_suites
from diffembed.evaluation.suites.named import find_suite
from diffembed.evaluation.suites.reading import read_tasks
from diffembed.evaluation.systems.recipes import SystemGroup


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEMBED_CACHE", str(tmp_path / "cache"))


def test_a_run_is_kept_and_resumed_task_by_task(beir_folder, words, tmp_path):
    suite, out = str(beir_folder), tmp_path / "run"
    first = evaluate(["bm25", words], [suite], out=out)
    assert [result.label for result in first.results["topics"]] == ["bm25", "words"]
    folder = out / "topics" / "words" / "topics"
    assert {path.name for path in folder.iterdir()} == {"result.json", "queries.parquet", "hits.parquet"}
    words.read.clear()
    again = evaluate(["bm25", words], [suite], out=out)
    assert words.read == [] and again.results == first.results
    (folder / "result.json").unlink()
    evaluate(["bm25", words], [suite], out=out)
    assert words.read and load_result(folder).value == first.of("topics", "words")["topics"].value
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["system"] for line in lines] == ["bm25", "words", "words"]


def test_tasks_are_those_of_the_suites_that_have_them(beir_folder, sts_folder, words, monkeypatch):
    suites = [str(beir_folder), str(sts_folder)]
    runs = run_suites([words], suites, tasks=["topics"])
    assert {row.task for row in runs.rows} == {"topics"}
    with pytest.raises(UnknownNameError, match=rf"no task in topics, {sts_folder.name} 'topic'.*did you mean 'topics'"):
        run_suites([words], suites, tasks=["topic"])
    asked = []
    monkeypatch.setattr(
        suite_runs, "_run_hub", lambda models, suite, *rest: (asked.append(suite.mteb_tasks), ([], []))[1]
    )
    run_suites(["bm25"], [str(beir_folder), "mteb-15"], tasks=["topics", "SciFact"])
    assert asked == [("SciFact",)]


def test_results_of_other_data_settings_or_weights_are_not_mixed(beir_folder, words, tmp_path):
    suite, out = str(beir_folder), tmp_path / "run"
    evaluate([words], [suite], out=out)
    with pytest.raises(CheckpointError, match="a run with another seed"):
        evaluate([words], [suite], out=out, config=EvaluateConfig(seed=1))
    qrels = beir_folder / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text() + "3\tcats\t1\n")
    with pytest.raises(CheckpointError, match="a result of words on other data of topics"):
        evaluate([words], [suite], out=out)


def test_another_model_under_the_same_name_is_refused(beir_folder, tmp_path):
    from diffembed.embedding.embedder import Embedder

    out = tmp_path / "run"
    first = evaluate([Embedder.load("tiny", attention="causal", dtype="float32")], [str(beir_folder)], out=out)
    assert first.results["topics"][0].identity
    with pytest.raises(CheckpointError, match="results of another model under the name"):
        evaluate([Embedder.load("tiny", attention="bidirectional", dtype="float32")], [str(beir_folder)], out=out)


def test_a_folder_that_holds_another_model_than_it_did_is_refused(beir_folder, tmp_path, monkeypatch):
    from diffembed.embedding.embedder import Embedder

    out, checkpoint = tmp_path / "run", tmp_path / "checkpoint"
    Embedder.load("tiny", attention="causal", dtype="float32").save(checkpoint)
    first = evaluate([str(checkpoint)], [str(beir_folder)], out=out)
    assert evaluate([str(checkpoint)], [str(beir_folder)], out=out).results == first.results
    shutil.rmtree(checkpoint)
    Embedder.load("tiny", attention="bidirectional", dtype="float32").save(checkpoint)
    with pytest.raises(CheckpointError, match="results of another model under the name"):
        evaluate([str(checkpoint)], [str(beir_folder)], out=out)
    # A name that packages carry says itself which weights it has: what is stored needs none of them.
    evaluate(["tiny"], [str(beir_folder)], out=out)
    monkeypatch.setattr(SystemGroup, "open", None)
    assert evaluate(["tiny"], [str(beir_folder)], out=out).results["topics"]


def test_two_suites_of_one_name_are_refused(beir_folder, words, tmp_path):
    other = shutil.copytree(beir_folder, tmp_path / "other" / beir_folder.name)
    for run in (evaluate, run_suites):
        with pytest.raises(ConfigError, match="is the second suite called 'topics'"):
            run([words], [str(beir_folder), str(other)])


def test_a_task_that_no_system_can_do_is_no_column(beir_folder, sts_folder, capsys):
    folders = [str(beir_folder), str(sts_folder)]
    found = evaluate(["bm25"], folders)
    tasks = [task for folder in folders for task in read_tasks(find_suite(folder))]
    both = Evaluation(results={"both": found.results["topics"]}, skipped=found.skipped)
    comparison = compare_results(both, "both", tasks, seed=0)
    assert comparison.groups == ("topics",)
    print_comparison(comparison)
    assert "small" not in capsys.readouterr().out + render_report(comparison) + render_markdown(comparison, command="x")


def test_documents_are_encoded_once_for_all_suites(beir_folder, instruction_folder, tmp_path):
    from diffembed.embedding.embedder import Embedder

    embedder = Embedder.load("tiny", dtype="float32")
    both = evaluate([embedder], [str(beir_folder), str(instruction_folder)])
    first, second = both.results["topics"][0], both.results["topics_instruct"][0]
    assert (first.documents.num_encoded, second.documents.num_encoded) == (4, 0)
    assert second.documents.num_texts == 4 and second.documents.tokens_per_s is None
    apart = evaluate([embedder], [str(instruction_folder)], keeps_vectors=False).results["topics_instruct"][0]
    assert apart.documents.num_encoded == 4
    assert apart.value == pytest.approx(second.value)


def test_what_cannot_be_scored_is_said(beir_folder, sts_folder, words):
    found = evaluate(["bm25"], [str(beir_folder), str(sts_folder)])
    assert found.skipped == ["bm25 has no vectors, which small needs"] and found.results["sts"] == []
    with pytest.raises(EmptyInputError):
        evaluate([], [str(beir_folder)])
    with pytest.raises(ConfigError, match="run through mteb"):
        evaluate([words], ["followir"])
    with pytest.raises(ConfigError, match="cannot be cut to 4 from outside"):
        evaluate([words], [str(beir_folder)], config=EvaluateConfig(max_tokens=4))
    with pytest.raises(ConfigError, match="max_tokens 0"):
        EvaluateConfig(max_tokens=0)


def test_development_score_is_made_of_development_data(beir_folder, words):
    score = make_development_score(str(beir_folder))
    assert score(words) == {"topics": 1.0}
    with pytest.raises(ConfigError, match="'screen' is a test suite; choices are made on dev-long"):
        make_development_score("screen")


def test_comparison_of_systems_has_tests_overlaps_and_gaps(beir_folder, sts_folder, words, capsys):
    other = type(words)(name="other", seed=1, dim=4)
    folders = [str(beir_folder), str(sts_folder)]
    found = evaluate(["bm25", words, other], folders)
    both = Evaluation(results={"both": [*found.results["topics"], *found.results["sts"]]}, skipped=found.skipped)
    tasks = [task for folder in folders for task in read_tasks(find_suite(folder))]
    comparison = compare_results(both, "both", tasks, seed=0)
    assert [system.label for system in comparison.systems] == ["bm25", "words", "other"]
    pairs = {(one.group, one.a, one.b) for one in comparison.differences}
    assert pairs == {
        ("topics", "bm25", "words"),
        ("topics", "bm25", "other"),
        ("topics", "words", "other"),
        ("small", "words", "other"),
    }
    assert {(one.a, one.b) for one in comparison.overlaps} == {("bm25", "words"), ("bm25", "other"), ("words", "other")}
    assert comparison.overlaps[0].gold_both == 3
    (similarity,) = [one for one in comparison.differences if one.group == "small"]
    assert similarity.test.num_queries == 4 and 0 < similarity.p_holm <= 1
    # BM25 has no value for the sentence pairs: a gap in every form of the table.
    assert "| small | Spearman | 4 | - |" in render_markdown(comparison, command="x")
    assert "<td>-</td>" in render_report(comparison)
    print_comparison(comparison)
    assert "small" in capsys.readouterr().out
    assert comparison.in_domain == frozenset()
    marked = dataclasses.replace(comparison.tasks[0], is_in_domain=True)
    comparison = dataclasses.replace(comparison, tasks=(marked, *comparison.tasks[1:]))
    print_comparison(comparison)
    pages = (render_markdown(comparison, command="x"), render_report(comparison), capsys.readouterr().out)
    assert all("* in-domain: training rows of the same kind exist" in page for page in pages)
    assert "topics *" in pages[1] and "topics *" in pages[2]


def test_run_folder_has_a_page_and_machine_readable_scores(beir_folder, sts_folder, words, tmp_path):
    out = tmp_path / "run"
    runs = run_suites(["bm25", words], [str(beir_folder), str(sts_folder)], out=out)
    assert runs.notes == ["bm25 has no vectors, which small needs"]
    page = (out / "topics.html").read_text()
    assert "What they found" in page and "bm25" in page and "words" in (out / "sts.html").read_text()
    stored = json.loads((out / "results.json").read_text())
    assert {row["system"] for row in stored["scores"]} == {"bm25", "words"}
    rows = [row for row in runs.rows if row.system == "words" and row.task == "topics"]
    assert [row.measure for row in rows] == ["nDCG@10", "nDCG@10 (animal)", "nDCG@10 (language)"]
    assert [row.num_queries for row in rows] == [3, 0, 0], "how many a subset has is not kept"
    assert all(row.low <= row.value <= row.high for row in rows) and rows[0].truncated_fraction == 0


def test_the_command_prints_a_table_or_json_lines(beir_folder, capsys):
    assert main(["evaluate", "random", str(beir_folder), "--json"]) == 0
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert {row["system"] for row in rows} == {"random"} and rows[0]["measure"] == "nDCG@10"
    assert "random on topics" in printed.err
    assert main(["evaluate", "random", str(beir_folder)]) == 0
    assert "95 % interval" in capsys.readouterr().out
    assert main(["evaluate", "--list"]) == 0
    assert "dev-reasoning" in capsys.readouterr().out
    assert main(["evaluate", "random"]) == 2
    assert "at least one suite" in capsys.readouterr().err
    assert main(["evaluate", "random", "no-such-suite"]) == 1
    assert "no suite 'no-such-suite'" in capsys.readouterr().err


def result(**changes):
    settings = {
        "task": "scifact",
        "label": "all-minilm-l6-v2",
        "kind": "retrieval",
        "family": "",
        "main": "nDCG@10",
        "scores": {"nDCG@10": Interval(value=0.6401, low=0.6, high=0.7)},
        "per_query": {"nDCG@10": {"q": 0.6401}},
    }
    return TaskResult(**{**settings, **changes})


def test_published_values_are_found_by_system_task_and_measure():
    ((_, published, difference),) = find_published([result()])
    assert published.value == 64.51 and difference == pytest.approx(-0.5)
    assert find_published([result(label="other"), result(task="other")]) == []


def test_different_names_get_different_folders():
    names = ["a/b", "a_b", "a:b", "x" * 99, "x" * 98 + "/", "tiny:causal:mean", "tiny"]
    assert len({slug(name) for name in names}) == len(names)
    assert slug("gemma-3-270m") == "gemma-3-270m" and "/" not in slug("../a/b")


def test_compare_takes_a_suite(beir_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "bm25", "random", "--suite", str(beir_folder), "--markdown", "results.md"]) == 0
    table = (tmp_path / "results.md").read_text()
    assert "| topics | nDCG@10 | 3 | **100.0** (100.0 to 100.0) |" in table and "(1 pairs tested)" in table
    assert "who checks ownership" not in table
    assert "bm25" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "Where they differ most" in page and "who checks ownership of memory?" in page
    assert main(["compare", "bm25", "--suite", "followir"]) == 2
    assert "run through mteb" in capsys.readouterr().err
    assert main(["compare", "bm25", "--suite", str(beir_folder), "--draw", "half"]) == 2
    assert main(["compare", "bm25", "--data", str(tmp_path)]) == 2
