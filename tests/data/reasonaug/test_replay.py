"""The published answers, replayed: the counts of the paper's pipeline, and its rows read as the published ones are."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffembed.data.files import read_rows
from diffembed.data.reasonaug.config import ReasonAugConfig
from diffembed.data.reasonaug.pipeline import RunOutcome, replay
from diffembed.data.reasonaug.replay import read_published
from diffembed.data.set_aside import read_values
from diffembed.data.source_config import SourceConfig
from diffembed.data.sources import load_sources
from diffembed.errors import ConfigError, InputError

needs_data = pytest.mark.skipif("DIFFEMBED_DATA" not in os.environ, reason="DIFFEMBED_DATA is not set")
NAMES = ["Rope Rule", "Knot Rule", "Sail Rule"]


def body(text: str, prompt_tokens: int = 100, completion_tokens: int = 50) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }


def write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def request(number: int, text: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": text}]
    return {"custom_id": f"request-{number}", "method": "POST", "url": "x", "body": {"messages": messages}}


def answer(key: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": key, "response": {"status_code": 200, "body": value}, "error": None}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Three concepts, two rounds, in the published layout; the pair 2.1 was replaced, the pair 3.2 rejected."""
    folder = tmp_path / "published"
    folder.mkdir()
    wording = (
        "Your task is to provide a definition for the finance formula: {}. Write the equation in LaTex format.\n\nx"
    )
    numbered = list(enumerate(NAMES, start=1))
    write(
        folder / "instance_definition_input.jsonl", [request(number, wording.format(name)) for number, name in numbered]
    )
    write(
        folder / "instance_definition_output.jsonl",
        [answer(f"request-{number}", body(f"**Definition**\nThe {name} holds.")) for number, name in numbered],
    )
    for number in (1, 2):
        write(
            folder / f"problem_solution_input_{number}.jsonl",
            [request(each, f"about {name}") for each, name in numbered],
        )
        pairs = [f"**Problem**\n{name} {number}?\n**Solution**\nIt is {number}." for name in NAMES]
        write(
            folder / f"problem_solution_output_{number}.jsonl",
            # The answers come in another order than the requests.
            [answer(f"request-{each + 1}", body(pairs[each])) for each in (2, 0, 1)],
        )
    verdicts = ["YES", "**Yes**", "YES", "YES", "YES", "NO"]
    lengths = [100, 101, 160, 100, 99, 104]
    write(
        folder / "solution_check_output.jsonl",
        [answer(str(place + 1), body(verdicts[place], lengths[place])) for place in range(6)],
    )
    return folder


def test_answers_find_their_rows_by_number(published: Path, tmp_path: Path) -> None:
    outcome = replay(published, tmp_path / "out")
    rows = [row for _, row in read_rows(tmp_path / "out" / "triplets.jsonl")]
    documents = {(row["instance"], row["positive_document"]) for row in rows if row["task_type"] == "i2ps"}
    assert documents == {(name, f"{name} {number}?\nIt is {number}.") for name in NAMES for number in (1, 2)} - {
        ("Sail Rule", "Sail Rule 2?\nIt is 2.")
    }
    total = outcome.report["yield"][-1]
    assert (total["checked_pairs"], total["kept_pairs"], total["concepts_with_pairs"]) == (6, 5, 3)


def test_what_was_not_published_is_counted(published: Path, tmp_path: Path) -> None:
    outcome = replay(published, tmp_path / "out")
    notes = outcome.report["notes"]
    assert notes["question_check: not published"] == 6
    assert notes["question_check: replaced by pairs not published (estimate)"] == 1
    # Rings of 2, 2 and 1 problems.
    assert notes["written_negatives: not published"] == 4
    assert outcome.report["verdict_on_unpublished_pair"] == 1


def test_pairs_with_a_lost_replacement_can_be_left_out(published: Path, tmp_path: Path) -> None:
    outcome = replay(published, tmp_path / "out", keep_lost=False)
    assert outcome.report["yield"][-1]["kept_pairs"] == 4
    text = (tmp_path / "out" / "triplets.jsonl").read_text()
    assert "Knot Rule 2?" in text
    assert "Knot Rule 1?" not in text


def test_missing_and_mismatched_files_are_named(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`concepts` has no effect on a replay of the published files"):
        replay(published, tmp_path / "out", config=ReasonAugConfig(concepts=Path("x.yaml")))
    path = published / "problem_solution_input_2.jsonl"
    rows = [row for _, row in read_rows(path)]
    write(path, [rows[1], rows[0], rows[2]])
    with pytest.raises(InputError, match=r"problem_solution_input_2\.jsonl:1 does not ask about 'Rope Rule'"):
        read_published(published)
    write(path, rows[:2])
    with pytest.raises(InputError, match="has 2 requests for 3 concepts"):
        read_published(published)
    path.unlink()
    with pytest.raises(InputError, match=r"has no problem_solution_input_2\.jsonl"):
        read_published(published)


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunOutcome]:
    folder = tmp_path_factory.mktemp("replayed")
    yield replay(Path(os.environ["DIFFEMBED_DATA"]) / "reasonaug_raw", folder / "out")


@needs_data
def test_the_published_answers_give_the_published_counts(replayed: RunOutcome) -> None:
    report = replayed.report
    kept = {row["domain"]: (row["kept_pairs"], row["checked_pairs"]) for row in report["yield"]}
    assert kept == {
        "algorithm": (369, 480),
        "data structure": (152, 239),
        "math theorem": (437, 800),
        "physics theorem": (420, 640),
        "finance formula": (205, 240),
        "all": (1583, 2399),
    }
    assert report["yield"][-1]["concepts_with_pairs"] == 287
    # Histogram of kept pairs per concept.
    assert report["pairs_per_concept"] == {
        "0": 13, "1": 11, "2": 21, "3": 21, "4": 35, "5": 44, "6": 41, "7": 51, "8": 63
    }  # fmt: skip
    rows = report["rows"]
    assert rows["p2i"] == pytest.approx(3166, rel=0.01)
    assert rows["i2ps"] == pytest.approx(1583, rel=0.01)
    assert rows["p2ps"] + rows["ps2ps"] == pytest.approx(4568, rel=0.01)
    assert replayed.num_rows == sum(rows.values()) == pytest.approx(9317, rel=0.01)
    # 1,583 rings less one duplicate problem and the 11 concepts whose only problem would be its own positive.
    assert report["notes"]["written_negatives: not published"] == 1571
    assert report["notes"]["question_check: not published"] == 2400
    assert report["cut_definitions"] == ["Red-Black Tree", "B-Tree", "Octree"]
    assert report["dropped"]["solution_check"]["no stored answer"] == 1


@needs_data
def test_replayed_rows_have_no_bug_of_the_original(replayed: RunOutcome) -> None:
    domains: dict[str, str] = {}
    rows = [row for _, row in read_rows(replayed.folder / "triplets.jsonl")]
    for row in rows:
        domains[row["instance"]] = row["domain"]
    for row in rows:
        assert len(row) == 9
        assert None not in row.values()
        assert row["negative_instance"] != row["instance"]
        assert domains.get(row["negative_instance"], row["domain"]) == row["domain"]
        assert row["positive_document"].strip() != row["user_query"].strip()
        assert row["positive_document"] != row["hard_negative_document"]
    # Negatives of i2ps are whole documents: each is a positive somewhere.
    documents = {row["positive_document"] for row in rows if row["task_type"] == "i2ps"}
    assert all(row["hard_negative_document"] in documents for row in rows if row["task_type"] != "p2i")
    cut = [
        row for row in rows if row["instance"] in ("Red-Black Tree", "B-Tree", "Octree") and row["task_type"] == "p2i"
    ]
    assert cut
    assert all(row["positive_document"].count("```") in (0, 2) for row in cut)
    assert not any(row["positive_document"].endswith("with the necessary") for row in cut)


def test_a_replay_is_the_same_every_time_and_the_seed_decides(published: Path, tmp_path: Path) -> None:
    files = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        outcome = replay(published, tmp_path / name, config=ReasonAugConfig(seed=seed))
        files.append((outcome.folder / "triplets.jsonl").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.slow
@needs_data
def test_replaying_again_gives_the_same_bytes(replayed: RunOutcome, tmp_path: Path) -> None:
    again = replay(Path(os.environ["DIFFEMBED_DATA"]) / "reasonaug_raw", tmp_path / "again")
    first, second = (outcome.folder / "triplets.jsonl" for outcome in (replayed, again))
    assert first.read_bytes() == second.read_bytes()


@needs_data
def test_the_loader_reads_the_rows_as_it_reads_the_published_set(replayed: RunOutcome) -> None:
    config = SourceConfig(kind="reasonaug", path=str(replayed.folder / "triplets.jsonl"))
    (loaded,) = load_sources([config], seed=0, max_bad_rows=0).values()
    assert len(loaded.triplets) == replayed.num_rows
    assert Counter(each.labels["task"] for each in loaded.triplets) == replayed.report["rows"]
    assert all(len(each.negatives) == 1 and each.instruction for each in loaded.triplets)
    texts = {(row["user_query"], row["positive_document"]) for _, row in read_rows(replayed.folder / "triplets.jsonl")}
    assert {(each.query, each.positive) for each in loaded.triplets} == texts
    math = SourceConfig(kind="reasonaug", path=config.path, domain="aops")
    (loaded,) = load_sources([math], seed=0).values()
    assert {each.labels["domain"] for each in loaded.triplets} == {"math theorem"}


@needs_data
@pytest.mark.parametrize("way", [pytest.param("pipeline", marks=pytest.mark.slow), "loader"])
def test_held_out_concepts_are_dropped_as_query_positive_and_negative(
    replayed: RunOutcome, tmp_path: Path, way: str
) -> None:
    data = Path(os.environ["DIFFEMBED_DATA"])
    path = data / "train" / "reasonaug" / "heldout_concepts.jsonl"
    names = read_values(path)
    assert len(names) == 120
    exclude = None
    rows = [row for _, row in read_rows(replayed.folder / "triplets.jsonl")]
    # The premise: without being asked, held-out concepts are everywhere.
    assert sum(row["instance"] in names for row in rows) > 1000
    assert sum(row["negative_instance"] in names and row["instance"] not in names for row in rows) > 1000
    held = {
        row[column]
        for row in rows
        for name, column in (("instance", "user_query"), ("instance", "positive_document"),
                             ("negative_instance", "hard_negative_document"))
        if row[name] in names
    }  # fmt: skip
    source = str(replayed.folder / "triplets.jsonl")
    if way == "pipeline":
        outcome = replay(data / "reasonaug_raw", tmp_path / "out", config=ReasonAugConfig(exclude_concepts=path))
        source = str(outcome.folder / "triplets.jsonl")
    else:
        exclude = str(path)
    (loaded,) = load_sources([SourceConfig(kind="reasonaug", path=source, exclude=exclude)], seed=0).values()
    # 180 concepts are left, and not all of them have problems.
    assert len(loaded.triplets) > 1000
    concepts = {each.labels["concept"] for each in loaded.triplets}
    negative_concepts = {each.labels["negative_concept"] for each in loaded.triplets}
    assert 150 < len(concepts) <= 180
    assert not concepts & names
    assert not negative_concepts & names
    for each in loaded.triplets:
        assert not held.intersection((each.query, each.positive, *each.negatives))
