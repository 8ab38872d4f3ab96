"""Whole runs against a scripted server: three concepts end to end, every fault, a kill, a budget, batch files."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffembed.data.reasonaug.config import load_config
from diffembed.data.reasonaug.pipeline import replay, run
from diffembed.data.reasonaug.report import report_folder
from diffembed.errors import CheckpointError, ConfigError, InputError, ResourceError
from diffembed.evaluation.systems.baselines import RandomEncoder

THREE = """
domains:
  - name: legal doctrine
    question_type: law
    profile: open
    concepts: [Promissory Estoppel, Frustration of Purpose, Mirror Image Rule]
"""
WriteConfig = Callable[..., Path]
Rows = Callable[[Path], list[dict[str, Any]]]


def texts(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [tuple(str(value) for value in row.values()) for row in rows]


def test_three_concepts_end_to_end(server: Any, write_config: WriteConfig, tmp_path: Path, rows_of: Rows) -> None:
    outcome = run(load_config(write_config(THREE)), tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "triplets.jsonl")
    # 3 concepts x 2 problems: 12 p2i, 6 i2ps, 6 ordered pairs; repeated p2i rows of the same form are dropped.
    num_repeated = len(rows_of(tmp_path / "out" / "dropped.jsonl"))
    assert Counter(row["task_type"] for row in rows)["i2ps"] == 6
    assert outcome.num_rows == len(rows) == 24 - num_repeated
    for row in rows:
        assert len(row) == 9
        assert row["negative_instance"] != row["instance"]
        assert row["positive_document"] != row["user_query"]
        assert row["hard_negative_document"] != row["positive_document"]
    # A definition, two problems, two question checks and two solution checks for each.
    assert len(server.requests) == 3 * 7
    assert outcome.report["yield"][-1]["concepts_with_pairs"] == 3
    assert report_folder(tmp_path / "out") == outcome.report
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`scripted`" in card


def test_running_again_asks_nothing_and_changes_nothing(server: Any, write_config: WriteConfig, tmp_path: Path) -> None:
    config = load_config(write_config())
    run(config, tmp_path / "out")
    before = (tmp_path / "out" / "triplets.jsonl").read_bytes()
    num_asked = len(server.requests)
    run(config, tmp_path / "out")
    assert len(server.requests) == num_asked
    assert (tmp_path / "out" / "triplets.jsonl").read_bytes() == before


def test_coding_and_prose_domains_do_not_mix(
    server: Any, write_config: WriteConfig, tmp_path: Path, rows_of: Rows
) -> None:
    run(load_config(write_config()), tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "triplets.jsonl")
    code = [row for row in rows if row["domain"] == "search method" and row["task_type"] != "p2i"]
    prose = [row for row in rows if row["domain"] == "legal doctrine"]
    assert code
    assert prose
    assert all(row["positive_document"].startswith("def clean_") for row in code)
    assert all(row["hard_negative_document"].startswith("def clean_") for row in code)
    assert not any("def " in row["hard_negative_document"] for row in prose)
    assert {row["task"] for row in rows if row["task_type"] == "p2i"} == {
        "Given a law problem, retrieve the relevant legal doctrine that help solve the given problem.",
        "Given a coding problem, retrieve the relevant search method that help solve the given problem.",
    }


def test_passing_faults_leave_no_trace_in_the_data(
    server: Any, write_config: WriteConfig, tmp_path: Path, reply: Any
) -> None:
    run(load_config(write_config(THREE)), tmp_path / "clean")
    german = "Wie lang ist das Seil, wenn es um den Baum und wieder zu dem Haus geht, und wie lang ist es dann? " * 2
    faults = [
        reply(text="**Problem**\nHow lo", finish="length"),
        reply(raw=b'{"choices": [{"mess'),
        reply(text="**Problem**\nOnly this."),
        reply(text="I'm sorry, but I can't help with that."),
        reply(text=f"**Problem**\n{german}\n**Solution**\nZwei."),
        reply(text="", refusal="not this"),
        reply(status=429, raw=b"{}"),
        reply(status=500, raw=b"{}"),
        reply(text="long " * 40, is_dropped=True),
    ]
    shown: list[Any] = []

    def script(messages: list[dict[str, str]], num_seen: int) -> Any:
        # The clean run asked everything once, so the first sight of this run is the second in all.
        if num_seen == 1 and len(shown) < len(faults) and "reference entry" not in messages[-1]["content"]:
            shown.append(faults[len(shown)])
            return shown[-1]
        return None

    server.script = script
    run(load_config(write_config(THREE)), tmp_path / "out")
    assert shown == faults
    for name in ("triplets.jsonl", "dropped.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()
    notes = json.loads((tmp_path / "out" / "report.json").read_text())["notes"]
    assert notes["problems: asked again"] == 6


def test_lasting_faults_drop_their_rows_with_a_reason(
    server: Any, write_config: WriteConfig, tmp_path: Path, reply: Any, rows_of: Rows
) -> None:
    concepts = THREE.replace("]", ", A Refused One, A Failing One, A Cut One, A Rejected One, mirror image rule]")
    lasting = {
        "A Refused One": reply(text="As an AI model I do not write about this."),
        "A Failing One": reply(status=500, raw=b"{}"),
        "A Cut One": reply(text="**Definition**\nIt is said th", finish="length"),
    }

    def script(messages: list[dict[str, str]], num_seen: int) -> Any:
        asked = messages[-1]["content"]
        if asked.startswith("A problem and a proposed solution") and "A Rejected One" in asked:
            return reply(text="NO")
        return next((each for name, each in lasting.items() if "reference entry" in asked and name in asked), None)

    server.script = script
    run(load_config(write_config(concepts)), tmp_path / "out")
    dropped = rows_of(tmp_path / "out" / "dropped.jsonl")
    assert [(each["stage"], each["id"].rpartition("-")[0], each["reason"]) for each in dropped[:4]] == [
        ("concepts", "mirror-image-rule", "duplicate name"),
        ("definitions", "a-refused-one", "refusal"),
        ("definitions", "a-failing-one", "HTTP 500"),
        ("definitions", "a-cut-one", "answer cut short"),
    ]
    assert Counter(each["reason"] for each in dropped if each["stage"] == "solution_check") == {"solution rejected": 2}
    asked = Counter(each["messages"][-1]["content"] for each in server.requests)
    tries = {name: sum(count for text, count in asked.items() if name in text and "entry" in text) for name in lasting}
    # Three attempts each; the failing one is tried 1 + 3 times in its only attempt, as nobody answered.
    assert tries == {"A Refused One": 3, "A Failing One": 4, "A Cut One": 3}
    kept = {row["instance"] for row in rows_of(tmp_path / "out" / "triplets.jsonl")}
    assert kept == {"Promissory Estoppel", "Frustration of Purpose", "Mirror Image Rule"}


def test_a_replaced_question_is_the_one_that_goes_on(
    server: Any, write_config: WriteConfig, tmp_path: Path, reply: Any, rows_of: Rows
) -> None:
    def script(messages: list[dict[str, str]], num_seen: int) -> Any:
        if messages[-1]["content"].startswith("Look again") and "Mirror Image Rule" in messages[-1]["content"]:
            mark = messages[-2]["content"].partition("number ")[2][:8]
            return reply(text=f"**Problem**\nA mirror {mark} broke.\n**Solution**\nGlue {mark}.")
        return None

    server.script = script
    run(load_config(write_config(THREE)), tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "triplets.jsonl")
    queries = {
        row["user_query"] for row in rows if row["instance"] == "Mirror Image Rule" and row["task_type"] == "p2i"
    }
    assert len(queries) == 2
    assert all(query.startswith("A mirror") for query in queries)
    checks = [each for each in server.requests if each["messages"][-1]["content"].startswith("A problem and a prop")]
    assert sum("A mirror" in each["messages"][-1]["content"] for each in checks) == 2


def test_written_negatives_are_rows_of_their_own(
    server: Any, write_config: WriteConfig, tmp_path: Path, rows_of: Rows
) -> None:
    run(load_config(write_config(THREE, negatives={"are_written": True})), tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "triplets.jsonl")
    written = [row for row in rows if row["negative_instance"] == "GENERATED"]
    assert len(written) == 6
    assert all(row["task_type"] == "p2ps" and row["hard_negative_document"].startswith("A tailor") for row in written)


def test_negatives_by_an_encoder(server: Any, write_config: WriteConfig, tmp_path: Path) -> None:
    config = load_config(write_config(negatives={"encoder": "random", "skip_top": 0}))
    loaded: list[str] = []

    def load(name: str) -> RandomEncoder:
        loaded.append(name)
        return RandomEncoder()

    run(config, tmp_path / "encoder", load_encoder=load)
    run(load_config(write_config(negatives={"skip_top": 0})), tmp_path / "bm25")
    assert loaded == ["random"]
    files = [(tmp_path / name / "triplets.jsonl").read_text() for name in ("encoder", "bm25")]
    assert files[0] != files[1]
    judged = report_folder(tmp_path / "encoder", encoder=RandomEncoder())["difficulty"]
    assert set(judged) == {"BM25", RandomEncoder().name}
    with pytest.raises(ConfigError, match="nothing was given to load it with"):
        run(config, tmp_path / "none")


def test_held_out_concepts_are_never_asked_about(
    server: Any, write_config: WriteConfig, tmp_path: Path, rows_of: Rows
) -> None:
    (tmp_path / "heldout.jsonl").write_text('{"concept": "mirror image rule"}\n')
    config = write_config(THREE, exclude_concepts="heldout.jsonl", negatives={"are_written": True})
    run(load_config(config), tmp_path / "out")
    assert rows_of(tmp_path / "out" / "triplets.jsonl")
    assert "Mirror Image" not in (tmp_path / "out" / "triplets.jsonl").read_text()
    assert "Mirror Image" not in json.dumps(server.requests)
    assert rows_of(tmp_path / "out" / "dropped.jsonl")[0]["reason"] == "held out"


def test_leaking_queries_are_dropped(server: Any, write_config: WriteConfig, tmp_path: Path, rows_of: Rows) -> None:
    run(load_config(write_config(THREE)), tmp_path / "open")
    leak = next(
        row["user_query"] for row in rows_of(tmp_path / "open" / "triplets.jsonl") if row["task_type"] == "p2ps"
    )
    (tmp_path / "bench.jsonl").write_text(json.dumps({"_id": 1, "text": leak.upper()}) + "\n")
    config = write_config(THREE, leakage={"against": ["bench.jsonl"], "max_ratio": 0.99})
    run(load_config(config), tmp_path / "out")
    queries = [row["user_query"] for row in rows_of(tmp_path / "out" / "triplets.jsonl")]
    assert queries
    assert leak not in queries
    reasons = Counter(each["reason"] for each in rows_of(tmp_path / "out" / "dropped.jsonl"))
    assert reasons["query near a reference text"] >= 3


def test_the_budget_stops_the_run_and_raising_it_continues(
    server: Any, write_config: WriteConfig, tmp_path: Path
) -> None:
    small = {"rounds": 2, "definition_max_tokens": 30, "problem_max_tokens": 60}
    poor = load_config(write_config(THREE, generation=small, budget={"max_tokens": 1500}))
    with pytest.raises(ResourceError, match=r"could pass budget\.max_tokens=1500"):
        run(poor, tmp_path / "out")
    num_asked = len(server.requests)
    assert 0 < num_asked < 21
    assert not (tmp_path / "out" / "triplets.jsonl").exists()
    outcome = run(load_config(write_config(THREE, generation=small, budget={"max_tokens": 100_000})), tmp_path / "out")
    assert outcome.num_rows
    assert len(server.requests) == 21
    sessions = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [each.get("budget", {}).get("max_tokens") for each in sessions[::2]] == [1500, 100_000]
    assert sessions[1]["prompt_tokens"] + sessions[1]["completion_tokens"] <= 1500


def test_another_config_is_refused_and_a_second_run_kept_out(
    server: Any, write_config: WriteConfig, tmp_path: Path
) -> None:
    run(load_config(write_config(THREE)), tmp_path / "out")
    with pytest.raises(CheckpointError, match="holds a run with another seed"):
        run(load_config(write_config(THREE, seed=5)), tmp_path / "out")
    from filelock import FileLock

    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(ResourceError, match="another run is writing"):
        run(load_config(write_config(THREE)), tmp_path / "out")


def test_batch_files_all_the_way(server: Any, write_config: WriteConfig, tmp_path: Path, obey: Any) -> None:
    run(load_config(write_config(THREE)), tmp_path / "live")
    num_asked = len(server.requests)
    config = load_config(write_config(THREE, answers="batch"))
    stages = []
    for _ in range(10):
        outcome = run(config, tmp_path / "batch")
        if not outcome.pending:
            break
        for path in outcome.pending:
            stages.append(path.name)
            with path.with_name(path.name.replace("input", "output")).open("w") as file:
                for line in path.read_text().splitlines():
                    request = json.loads(line)
                    message = {"content": obey(request["body"]["messages"]).text}
                    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
                    row = {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}}
                    file.write(json.dumps(row) + "\n")
    assert stages == [
        "001-definitions.input.jsonl",
        "002-problems.input.jsonl",
        "003-question_check.input.jsonl",
        "004-solution_check.input.jsonl",
    ]
    assert len(server.requests) == num_asked
    live, batch = ((tmp_path / name / "triplets.jsonl").read_bytes() for name in ("live", "batch"))
    assert live == batch


def test_a_run_can_be_replayed_from_its_answers(server: Any, write_config: WriteConfig, tmp_path: Path) -> None:
    config = load_config(write_config())
    run(config, tmp_path / "out")
    num_asked = len(server.requests)
    replay(tmp_path / "out", tmp_path / "again", config=config)
    assert len(server.requests) == num_asked
    for name in ("triplets.jsonl", "dropped.jsonl", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    with pytest.raises(ConfigError, match="give its config too"):
        replay(tmp_path / "out", tmp_path / "third")
    with pytest.raises(InputError, match="holds neither"):
        replay(tmp_path / "again" / "stages", tmp_path / "third")
    with pytest.raises(InputError, match=r"definitions: 6 of 6 rows got no usable answer \(6 no stored answer\)"):
        replay(tmp_path / "out", tmp_path / "third", config=load_config(write_config(generation={"model": "other"})))


def test_a_killed_run_continues_without_asking_twice(
    server: Any, write_config: WriteConfig, tmp_path: Path, rows_of: Rows, hash_messages: Any
) -> None:
    config = write_config()
    run(load_config(config), tmp_path / "straight")
    server.requests.clear()
    server.gate, server.gate_after = threading.Event(), 12
    command = [sys.executable, "-m", "diffembed", "reasonaug", "run", str(config), "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 60
        while len(server.requests) < 16 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(server.requests) == 16
    server.gate.set()
    server.gate = None
    stored = [hash_messages(each["request"]["messages"]) for each in rows_of(tmp_path / "killed" / "answers.jsonl")]
    assert len(stored) == 12
    assert not (tmp_path / "killed" / "triplets.jsonl").exists()
    run(load_config(config), tmp_path / "killed")
    asked_after = [hash_messages(each["messages"]) for each in server.requests[16:]]
    assert asked_after
    assert not Counter(asked_after) & Counter(stored)
    # 6 concepts x (1 definition + 2 x 3 questions): only the 4 in flight at the kill were asked a second time.
    assert len(stored) + len(asked_after) == 42
    for name in ("triplets.jsonl", "dropped.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
