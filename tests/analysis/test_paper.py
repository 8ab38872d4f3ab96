import json
from pathlib import Path

import pytest

from diffembed.analysis.paper import check_average, find_row, find_table, load_rows, load_tables
from diffembed.analysis.reproduce import BRIGHT_COLUMNS, columns_of, plan_row, run_row
from diffembed.cli import main
from diffembed.errors import ConfigError, InputError, UnknownNameError
from diffembed.evaluation.hub.longembed import COLUMNS, column_average, make_columns, official_average
from diffembed.evaluation.reports.summary import SummaryRow
from diffembed.evaluation.suites.named import SUITES

RECIPES = Path(__file__).parents[2] / "recipes" / "paper"


def test_table_2_has_one_row_whose_printed_average_its_columns_contradict():
    checks = [check for row in load_rows() for check in check_average(row)]
    (wrong,) = [check for check in checks if check.is_wrong]
    assert (wrong.row, wrong.printed) == ("table2/llama3", 32.3)
    # 54.0 + 3.3 + 51.2 + 4.0 + 31.9 + 30.8 + 67.6 + 47.3 = 290.1
    assert wrong.recomputed == pytest.approx(290.1 / 8)
    assert len(checks) > 30


def test_rows_fit_their_tables_and_suites():
    assert len({row.id for row in load_rows()}) == len(load_rows())
    for row in load_rows():
        table = find_table(row.table)
        assert len(row.values) == len(table.columns) and table.suite in SUITES
        assert not row.base or row.recipe
    assert find_table("table2").columns == COLUMNS
    assert {column for t in load_tables() if t.suite == "bright" for column in t.columns} == set(BRIGHT_COLUMNS)
    assert set(find_table("table6").columns) == set(SUITES["mteb-15"].mteb_tasks)
    with pytest.raises(UnknownNameError, match=r"did you mean 'table2/diffembed'"):
        find_row("table2/difembed")


def test_longembed_averages_by_hand():
    scores = {f"LEMBPasskeyRetrieval-{2**n}": 100.0 if n < 13 else 20.0 for n in range(8, 16)}
    scores |= {f"LEMBNeedleRetrieval-{2**n}": 50.0 for n in range(8, 16)}
    scores |= {
        "LEMBNarrativeQARetrieval": 10.0,
        "LEMBQMSumRetrieval": 20.0,
        "LEMBSummScreenFDRetrieval": 30.0,
        "LEMBWikimQARetrieval": 40.0,
    }
    columns = make_columns(scores)
    assert list(columns) == list(COLUMNS)
    assert (columns["Pk<=4k"], columns["Pk>4k"], columns["Nd<=4k"], columns["Nd>4k"]) == (100, 20, 50, 50)
    assert column_average(columns) == (100 + 20 + 50 + 50 + 10 + 20 + 30 + 40) / 8
    # passkey is the mean of its eight lengths, (5 * 100 + 3 * 20) / 8 = 70
    assert official_average(columns) == pytest.approx((70 + 50 + 10 + 20 + 30 + 40) / 6)
    del scores["LEMBNeedleRetrieval-512"]
    with pytest.raises(InputError, match="need LEMBNeedleRetrieval-512"):
        make_columns(scores)
    row = find_row("table2/diffembed")
    assert column_average(row.columns) == pytest.approx(62.15) and official_average(row.columns) == pytest.approx(
        66.05, abs=0.01
    )


def scored(task, measure, value):
    return SummaryRow(
        suite="s", system="m", task=task, measure=measure, value=value, low=None, high=None, num_queries=0,
        truncated_fraction=None, tokens_per_s=None, in_domain=False,
    )  # fmt: skip


def test_columns_are_found_in_the_scores_of_their_suite():
    bright = [scored(task, "nDCG@10", 0.1 * n) for n, task in enumerate(BRIGHT_COLUMNS.values())]
    assert columns_of(find_table("table3"), bright) == pytest.approx({"TheoT": 0, "TheoQ": 10, "AoPS": 20, "Leet": 30})
    followir = []
    for n, name in enumerate(("Robust04", "News21", "Core17")):
        task = f"{name}InstructionRetrieval"
        followir += [scored(task, "p-MRR", 0.01 * n), scored(task, "og nDCG@5", 0.5), scored(task, "og AP@1000", 0.3)]
    assert columns_of(find_table("table4"), followir) == pytest.approx(
        {"Robust04": 30, "Robust04 p-MRR": 0, "News21": 50, "News21 p-MRR": 1, "Core17": 30, "Core17 p-MRR": 2}
    )
    names = [f"{task}-en" if task.startswith("Massive") else task for task in SUITES["mteb-15"].mteb_tasks]
    columns = columns_of(find_table("table6"), [scored(name, "main_score", 0.5) for name in names])
    assert set(columns.values()) == {50.0}
    with pytest.raises(InputError, match="column 'Leet' of table3 was not scored"):
        columns_of(find_table("table3"), bright[:3])


def test_a_plan_names_recipe_and_backbone():
    plan = plan_row("table3/diffembed", recipes=RECIPES)
    assert plan.backbone == "dream-7b" and plan.table.suite == "bright"
    assert plan.steps[0].endswith("dream-reasoning.yaml") and plan.steps[1].endswith("CHECKPOINT bright")
    assert plan_row("table5/mistral", recipes=RECIPES).steps[1].endswith("CHECKPOINT:causal bright")
    assert "LLM2Vec" in plan_row("table2/mistral-llm2vec", recipes=RECIPES).steps[0]
    for row in load_rows():
        if row.recipe:
            assert plan_row(row.id, recipes=RECIPES).backbone, row.id


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEMBED_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "topics"
    (place / "qrels").mkdir(parents=True)
    texts = {"a": "red apples", "b": "blue whales"}
    (place / "corpus.jsonl").write_text("".join(json.dumps({"_id": k, "text": t}) + "\n" for k, t in texts.items()))
    (place / "queries.jsonl").write_text("".join(json.dumps({"_id": k, "text": t}) + "\n" for k, t in texts.items()))
    (place / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\na\ta\t1\nb\tb\t1\n")
    return place


def test_a_tiny_checkpoint_stands_in_and_is_not_taken_for_the_paper_s_form(folder, tmp_path):
    from diffembed.embedding.embedder import Embedder

    checkpoint = tmp_path / "checkpoint"
    Embedder.load("tiny", attention="bidirectional", dtype="float32").save(checkpoint)
    out = tmp_path / "out"
    result = run_row("table3/diffembed", model=str(checkpoint), suite=str(folder), out=out, recipes=RECIPES)
    assert not result.is_published_form and all(column.printed is None for column in result.columns)
    assert "the published form (dream-7b on bright) was NOT run" in result.status
    stored = json.loads((out / "reproduce.json").read_text())
    assert stored["is_published_form"] is False and stored["row"]["average"] == 33.2
    assert stored["columns"][0]["column"] == "topics nDCG@10" and stored["columns"][0]["difference"] is None


def test_rows_that_cannot_be_trained_here_say_why(folder):
    with pytest.raises(ConfigError, match="quoted from others"):
        run_row("table3/reasonir", recipes=RECIPES)
    with pytest.raises(ConfigError, match="starts from siyue/LLM2Vec"):
        run_row("table3/qwen2.5-llm2vec", recipes=RECIPES)
    with pytest.raises(ConfigError, match=r"no recipe nowhere.dream-long.yaml; run in the repository"):
        run_row("table2/diffembed", recipes=Path("nowhere"))


def test_the_command_lists_plans_and_runs(folder, capsys):
    assert main(["reproduce", "--list"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "WRONG" in line and "36.26" in line]
    assert len(lines) == 1
    assert main(["reproduce", "table3/diffembed", "--dry-run", "--recipes", str(RECIPES)]) == 0
    assert "dream-reasoning.yaml" in capsys.readouterr().out
    assert main(["reproduce", "table2/diffembed", "--model", "random", "--suite", str(folder)]) == 0
    assert "was NOT run" in capsys.readouterr().out
    assert main(["reproduce"]) == 2
