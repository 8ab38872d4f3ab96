import json
from difflib import SequenceMatcher

import pytest

from diffembed.cli import main
from diffembed.data.formats import Triplet
from diffembed.errors import ConfigError, EmptyInputError
from diffembed.evaluation.leakage import check_leakage
from diffembed.evaluation.suites.folders import read_folder, read_instruction_task

CLEAN = [
    Triplet(id="r1", query="which animal builds dams?", positive="Beavers live in rivers.", source="s"),
    Triplet(
        id="r2", query="what is tea?", positive="A drink of leaves.", negatives=("Coffee is roasted.",), source="s"
    ),
]


@pytest.fixture
def task(beir_folder):
    return read_folder(beir_folder)[0]


def test_clean_rows_leak_nothing(task):
    report = check_leakage(CLEAN, task)
    assert report.leaks == ()
    # three queries and three gold documents against two queries, two positives and one negative
    assert (report.num_test_texts, report.num_train_texts) == (6, 5)
    assert 0 < report.max_ratio < 0.8


def test_a_planted_run_of_eight_words_is_found(task):
    planted = "Yesterday I read: cats purr, sleep all day, and hunt mice at dawn in the old barn."
    assert not check_leakage([*CLEAN, Triplet(id="x", query="?", positive="purr sleep all day")], task).leaks
    (leak,) = check_leakage([*CLEAN, Triplet(id="x", query="?", positive=planted, source="s")], task).leaks
    assert (leak.kind, leak.role, leak.test_id, leak.train_id) == ("ngram", "gold document", "cats", "s/x positive")
    assert leak.shared == "cats purr sleep all day and hunt mice"
    # the text has 11 words with its title, so 4 runs of 8; those from word 2 and 3 occur
    assert leak.covered_fraction == 0.5


def test_an_equal_text_is_found_whatever_its_case_and_punctuation(task):
    report = check_leakage([*CLEAN, Triplet(id="x", query="Which animal fetches a stick", positive="p")], task)
    (leak,) = report.leaks
    assert (leak.kind, leak.role, leak.test_id, leak.train_id) == ("exact", "query", "2", "/x query")
    assert report.count("exact") == 1 and report.count("ngram") == 0
    negative = Triplet(id="x", query="q", positive="p", negatives=("which animal fetches a stick?",))
    assert check_leakage([negative], task).leaks[0].train_id == "/x negative 0"


def test_a_near_copy_is_found_by_its_ratio(task):
    near = "which animals fetch the stick?"
    (leak,) = check_leakage({"near": near}, task).leaks
    assert (leak.kind, leak.test_id, leak.train_id) == ("ratio", "2", "near")
    assert leak.ratio == SequenceMatcher(None, near, "which animal fetches a stick?", autojunk=False).ratio()
    assert not check_leakage({"near": near}, task, is_ratio_computed=False).leaks
    assert not check_leakage({"near": near}, task, ratio_threshold=0.99).leaks


def test_every_kind_of_task_can_be_checked(instruction_folder, sts_folder, label_folder):
    (pairs,) = read_folder(sts_folder)
    exact = check_leakage({"t": "A cat is asleep."}, pairs, is_ratio_computed=False)
    assert exact.leaks[0].test_id == "00000 right"
    classification = read_folder(label_folder)[0]
    report = check_leakage({"t": "a cat and dog number 30"}, classification, is_ratio_computed=False)
    assert report.leaks[0].test_id == "00003"
    instruction = read_instruction_task(instruction_folder)
    assert check_leakage({"t": "Programming"}, instruction).leaks[0].test_id == "code"


def test_nothing_to_check_is_said(task):
    with pytest.raises(EmptyInputError, match="no training text"):
        check_leakage([], task)
    with pytest.raises(ConfigError, match="ngram_words is 1"):
        check_leakage(CLEAN, task, ngram_words=1)


def test_the_command_finds_a_planted_leak_in_rows_and_in_text(beir_folder, tmp_path, capsys):
    rows = tmp_path / "rows" / "pairs.jsonl"
    rows.parent.mkdir()
    clean = {"query": "what is tea?", "positive": "A drink of leaves."}
    rows.write_text(json.dumps(clean) + "\n")
    assert main(["leakage", str(rows), str(beir_folder)]) == 0
    leak = {"query": "cats?", "positive": "It is said that cats purr, sleep all day and hunt mice at noon."}
    rows.write_text(json.dumps(clean) + "\n" + json.dumps(leak) + "\n")
    capsys.readouterr()
    assert main(["leakage", str(rows), str(beir_folder), "--json"]) == 1
    printed = capsys.readouterr()
    assert "1 test texts are in the training rows" in printed.err
    (report,) = [json.loads(line) for line in printed.out.splitlines()]
    assert report["leaks"][0]["kind"] == "ngram" and report["leaks"][0]["test_id"] == "cats"
    assert main(["leakage", str(rows.parent), str(beir_folder)]) == 1
    # Every row file of a folder and below counts, whatever it is called.
    (rows.parent / "deep").mkdir()
    rows.rename(rows.parent / "deep" / "train.jsonl")
    rows.write_text(json.dumps(clean) + "\n")
    assert main(["leakage", str(rows.parent), str(beir_folder)]) == 1
    capsys.readouterr()
    assert main(["leakage", str(beir_folder / "qrels"), str(beir_folder)]) == 1
    assert "holds no row file" in capsys.readouterr().err
    text = tmp_path / "book.txt"
    text.write_text("Chapter one.\n\nIt is said that cats purr, sleep all day and hunt mice at noon.\n")
    capsys.readouterr()
    assert main(["leakage", str(text), str(beir_folder)]) == 1
    assert "paragraph 2" in " ".join(capsys.readouterr().out.split())
