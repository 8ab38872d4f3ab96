"""Every source gives its rows in the published schema, seeded, filtered and counted."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffembed.data.hub import pin_revision, stream_rows
from diffembed.data.published import MSMARCO_INSTRUCTION, PUBLIC_E5
from diffembed.data.source_config import SourceConfig
from diffembed.data.sources import LoadedSource, load_sources
from diffembed.errors import ConfigError, EmptyInputError, InputError, UnknownNameError


def write_rows(path: Path, rows: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(config: SourceConfig, root: Path, *, seed: int = 0, max_bad_rows: int = 0) -> LoadedSource:
    (loaded,) = load_sources([config], seed=seed, data_root=root, max_bad_rows=max_bad_rows).values()
    return loaded


def pair(number: int, **columns: object) -> dict[str, object]:
    return {"query": f"q{number}", "positive": f"p{number}", **columns}


# Own files


def test_own_rows_take_the_instruction_of_the_source_where_they_have_none(tmp_path):
    write_rows(tmp_path / "mine.jsonl", [pair(1), pair(2, instruction="own")])
    loaded = load(SourceConfig(kind="rows", path="mine.jsonl", instruction="find"), tmp_path)
    assert [triplet.instruction for triplet in loaded.triplets] == ["find", "own"]
    assert {triplet.source for triplet in loaded.triplets} == {loaded.name} == {"mine"}
    assert list(loaded.report.inputs) == [f"{tmp_path.name}/mine.jsonl"]


def test_own_rows_with_other_column_names(tmp_path):
    write_rows(tmp_path / "mine.jsonl", [{"question": "q", "answer": "a", "bad": ["n"]}])
    columns = {"query": "question", "positive": "answer", "negatives": "bad"}
    loaded = load(SourceConfig(kind="rows", path="mine.jsonl", name="faq", columns=columns), tmp_path)
    assert [(t.query, t.positive, t.negatives, t.source) for t in loaded.triplets] == [("q", "a", ("n",), "faq")]


def test_bad_rows_stop_the_load_past_the_limit_and_are_reported_within_it(tmp_path):
    write_rows(tmp_path / "mine.jsonl", [pair(1), {"query": "q"}, {"query": "s", "positive": "s"}])
    config = SourceConfig(kind="rows", path="mine.jsonl")
    with pytest.raises(InputError, match=r"mine: 2 of 3 rows are bad .* more than max_bad_rows=1"):
        load(config, tmp_path, max_bad_rows=1)
    assert load(config, tmp_path, max_bad_rows=2).report.num_bad == 2


def test_two_sources_with_one_name_are_refused(tmp_path):
    write_rows(tmp_path / "mine.jsonl", [pair(1)])
    config = SourceConfig(kind="rows", path="mine.jsonl")
    with pytest.raises(ConfigError, match="two sources are named 'mine'"):
        load_sources([config, config], seed=0, data_root=tmp_path)
    other = SourceConfig(kind="rows", path="mine.jsonl", name="other")
    assert list(load_sources([config, other], seed=0, data_root=tmp_path)) == ["mine", "other"]


# Selection and filters


@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    rows = [pair(number, topic="even" if number % 2 == 0 else "odd") for number in range(100)]
    write_rows(tmp_path / "hundred.jsonl", rows)
    return tmp_path


def queries(config: SourceConfig, root: Path, seed: int = 0) -> list[str]:
    return [triplet.query for triplet in load(config, root, seed=seed).triplets]


def test_a_sample_depends_on_the_seed_and_on_nothing_else(hundred):
    config = SourceConfig(kind="rows", path="hundred.jsonl", max_rows=20)
    first = queries(config, hundred)
    random.seed(1)
    np.random.seed(1)
    assert queries(config, hundred) == first
    assert queries(config, hundred, seed=1) != first
    assert len(first) == 20
    assert first == sorted(first, key=lambda query: int(query[1:]))
    report = load(config, hundred).report
    assert (report.num_rows, report.num_kept, report.filtered) == (100, 20, {"max_rows": 80})


def test_a_sample_is_uniform(hundred):
    config = SourceConfig(kind="rows", path="hundred.jsonl", max_rows=20)
    counts = Counter(query for seed in range(150) for query in queries(config, hundred, seed=seed))
    # Each of 100 rows is expected 30 times; binomial(150, 0.2) has a standard deviation of 4.9.
    assert len(counts) == 100
    assert 10 <= min(counts.values()) <= max(counts.values()) <= 52


def test_the_first_rows_are_the_first(hundred):
    config = SourceConfig(kind="rows", path="hundred.jsonl", max_rows=3, selection="first")
    assert queries(config, hundred) == ["q0", "q1", "q2"]


def test_keep_filters_before_the_selection(hundred):
    config = SourceConfig(kind="rows", path="hundred.jsonl", max_rows=3, selection="first", keep={"topic": ("odd",)})
    assert queries(config, hundred) == ["q1", "q3", "q5"]
    config = SourceConfig(kind="rows", path="hundred.jsonl", keep={"topic": ("odd", "even")})
    assert len(queries(config, hundred)) == 100


def test_a_filter_that_matches_nothing_is_an_error(hundred):
    with pytest.raises(ConfigError, match="no row of hundred has topic='prime'; the rows have even, odd"):
        load(SourceConfig(kind="rows", path="hundred.jsonl", keep={"topic": ("odd", "prime")}), hundred)
    with pytest.raises(ConfigError, match="no such label"):
        load(SourceConfig(kind="rows", path="hundred.jsonl", keep={"subject": ("x",)}), hundred)


def test_rows_with_too_few_negatives_are_left_out(tmp_path):
    write_rows(tmp_path / "mine.jsonl", [pair(1, negatives=["a", "b"]), pair(2, negatives=["a"]), pair(3)])
    loaded = load(SourceConfig(kind="rows", path="mine.jsonl", min_negatives=2), tmp_path)
    assert [triplet.query for triplet in loaded.triplets] == ["q1"]
    assert loaded.report.filtered == {"min_negatives": 2}
    with pytest.raises(EmptyInputError, match="3 min_negatives"):
        load(SourceConfig(kind="rows", path="mine.jsonl", min_negatives=3), tmp_path)


# Folders of training sets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    train = tmp_path / "train"
    write_rows(train / "beta" / "train_pairs.jsonl", [pair(1)])
    write_rows(train / "beta" / "test_pairs.jsonl", [pair(2)])
    write_rows(train / "beta" / "concepts.jsonl", [{"concept": "c"}])
    write_rows(train / "alpha" / "sense_triplets.jsonl", [pair(3, negatives=["n"])])
    write_rows(train / "alpha" / "definition_pairs.jsonl", [pair(4)])
    write_rows(train / "notes" / "readme.jsonl", [pair(5)])
    stance = [
        pair(6, instruction="Retrieve support.", anti_instruction="Retrieve contradiction."),
        pair(7, instruction="Retrieve contradiction.", anti_instruction="Retrieve support."),
    ]
    write_rows(train / "stance" / "pairs.jsonl", stance)
    return tmp_path


def test_a_folder_gives_its_training_files_and_no_test_files(folder):
    loaded = load_sources([SourceConfig(kind="folder", path="train")], seed=0, data_root=folder)
    found = {name: [triplet.query for triplet in part.triplets] for name, part in loaded.items()}
    assert found == {"alpha": ["q4", "q3"], "beta": ["q1"], "stance": ["q6", "q7"]}


def test_an_instruction_and_its_opposite_stay_paired_on_the_same_claim(folder):
    loaded = load(SourceConfig(kind="folder", path="train", sets=("stance",)), folder)
    assert [(t.query, t.positive, t.instruction, t.anti_instruction) for t in loaded.triplets] == [
        ("q6", "p6", "Retrieve support.", "Retrieve contradiction."),
        ("q7", "p7", "Retrieve contradiction.", "Retrieve support."),
    ]


def test_a_row_turned_round_asks_which_of_two_opposite_queries_its_document_answers(folder):
    config = SourceConfig(kind="folder", path="train", sets=("stance",), turned_query="{instruction} | {query}")
    loaded = load_sources([config], seed=0, data_root=folder)
    assert list(loaded) == ["stance", "stance_turned"]
    first = loaded["stance_turned"].triplets[0]
    assert (first.query, first.positive, first.negatives, first.instruction, first.source) == (
        "p6",
        "Retrieve support. | q6",
        ("Retrieve contradiction. | q6",),
        "",
        "stance_turned",
    )
    assert len({triplet.id for part in loaded.values() for triplet in part.triplets}) == 4
    with pytest.raises(ConfigError, match="no effect on beta"):
        load(SourceConfig(kind="folder", path="train", sets=("beta",), turned_query="{instruction}; {query}"), folder)


def test_folders_that_do_not_have_what_is_asked_for(folder):
    with pytest.raises(UnknownNameError, match=r"no set in train 'bet' \(did you mean 'beta'\?\)"):
        load(SourceConfig(kind="folder", path="train", sets=("bet",)), folder)
    with pytest.raises(InputError, match="no folder"):
        load(SourceConfig(kind="folder", path="absent"), folder)
    with pytest.raises(InputError, match="has no sub-folder with"):
        load(SourceConfig(kind="folder", path="train/alpha"), folder)


# Public E5


def e5_folder(root: Path, num_rows: int = 6) -> Path:
    for name in PUBLIC_E5:
        rows = [{"query": f"{name} q{i}", "positive": f"{name} p{i}", "negative": f"n{i}"} for i in range(num_rows)]
        write_rows(root / "e5" / f"{name}.jsonl", rows)
    return root


def test_public_e5_has_twelve_sets_with_their_instructions_and_a_cap_for_each(tmp_path):
    e5_folder(tmp_path)
    loaded = load_sources([SourceConfig(kind="public_e5", path="e5", max_rows=4)], seed=0, data_root=tmp_path)
    assert len(loaded) == 12
    assert {name: len(part.triplets) for name, part in loaded.items()} == dict.fromkeys(PUBLIC_E5, 4)
    for name, part in loaded.items():
        assert {triplet.instruction for triplet in part.triplets} <= set(PUBLIC_E5[name])
        assert all(len(triplet.negatives) == 1 for triplet in part.triplets)
    assert loaded["fever"].triplets[0].instruction == (
        "Given a claim, retrieve documents that support or refute the claim"
    )


def test_sets_with_two_prompts_take_them_in_turn(tmp_path):
    e5_folder(tmp_path)
    loaded = load(SourceConfig(kind="public_e5", path="e5", sets=("allnli",)), tmp_path)
    expected = [PUBLIC_E5["allnli"][number % 2] for number in range(6)]
    assert [triplet.instruction for triplet in loaded.triplets] == expected
    assert len(set(expected)) == 2
    # A sample keeps the prompt that the row has in the whole file.
    sampled = load(SourceConfig(kind="public_e5", path="e5", sets=("allnli",), max_rows=3), tmp_path, seed=4)
    assert {t.id for t in sampled.triplets} <= {t.id for t in loaded.triplets}


def test_public_e5_names_the_file_that_is_missing(tmp_path):
    e5_folder(tmp_path)
    (tmp_path / "e5" / "squad.jsonl").unlink()
    with pytest.raises(InputError, match=r"no file .*squad\.jsonl"):
        load_sources([SourceConfig(kind="public_e5", path="e5")], seed=0, data_root=tmp_path)


# MS MARCO with instructions


def passages(prefix: str, num: int, title: str = "") -> list[dict[str, str]]:
    return [{"docid": f"{prefix}{i}", "title": title, "text": f"{prefix}{i}"} for i in range(num)]


def msmarco_file(root: Path, *, num_new: int, num_negatives: int) -> Path:
    row = {
        "query_id": "7",
        "query": "what is tea? Only green tea is relevant.",
        "positive_passages": passages("pos", 2, title="Tea"),
        "new_negatives": passages("new", num_new, title="-"),
        "negative_passages": passages("neg", num_negatives),
        "has_instruction": True,
    }
    other = row | {"query": "another", "query_id": "8"}
    pq.write_table(pa.Table.from_pylist([row, other]), root / "msmarco.parquet")
    return root


@pytest.mark.parametrize(("num_new", "kept_new"), [(0, 0), (2, 2), (3, 3), (7, 3)])
def test_msmarco_takes_up_to_three_new_negatives_and_fills_to_fifteen(tmp_path, num_new, kept_new):
    msmarco_file(tmp_path, num_new=num_new, num_negatives=30)
    loaded = load(SourceConfig(kind="msmarco_instructions", path="msmarco.parquet"), tmp_path)
    first, second = loaded.triplets
    assert (first.query, first.positive) == ("what is tea? Only green tea is relevant.", "Tea pos0")
    assert first.instruction == MSMARCO_INSTRUCTION == "Retrieve text based on user query"
    assert first.labels == {"query_id": "7", "has_instruction": "True"}
    for triplet in (first, second):
        new = [text for text in triplet.negatives if text.startswith("new")]
        assert len(triplet.negatives) == len(set(triplet.negatives)) == 15
        assert len(new) == kept_new
        assert list(triplet.negatives[:kept_new]) == new
    assert set(first.negatives) != set(second.negatives)


def test_msmarco_repeats_ordinary_negatives_where_there_are_too_few(tmp_path):
    msmarco_file(tmp_path, num_new=3, num_negatives=4)
    loaded = load(SourceConfig(kind="msmarco_instructions", path="msmarco.parquet"), tmp_path)
    counts = Counter(loaded.triplets[0].negatives)
    assert counts.total() == 15
    assert sum(count for text, count in counts.items() if text.startswith("new")) == 3
    assert {text for text in counts if text.startswith("neg")} == {"neg0", "neg1", "neg2", "neg3"}


def test_msmarco_is_the_same_for_a_seed_and_another_for_the_next(tmp_path):
    msmarco_file(tmp_path, num_new=5, num_negatives=30)
    config = SourceConfig(kind="msmarco_instructions", path="msmarco.parquet", num_negatives=4, max_new_negatives=2)
    first = load(config, tmp_path).triplets
    random.seed(9)
    assert load(config, tmp_path).triplets == first
    assert load(config, tmp_path, seed=1).triplets != first
    assert {len(triplet.negatives) for triplet in first} == {4}


def test_msmarco_rows_out_of_schema_are_counted(tmp_path):
    good = {
        "query": "q",
        "positive_passages": passages("pos", 1),
        "new_negatives": None,
        "negative_passages": passages("neg", 1),
    }
    bad = [good | {"positive_passages": []}, good | {"new_negatives": ["text"]}, good | {"query": None}]
    write_rows(tmp_path / "rows.jsonl", [good, *bad])
    config = SourceConfig(kind="msmarco_instructions", path="rows.jsonl")
    loaded = load(config, tmp_path, max_bad_rows=3)
    assert loaded.triplets[0].negatives == ("neg0",) * 15
    assert loaded.report.defects == {"missing field": 2, "field of the wrong type": 1}


# ReasonAug


def reasonaug(number: int, **changes: object) -> dict[str, object]:
    """The nine keys of the published rows."""
    return {
        "id": 5,
        "domain": "math theorem",
        "instance": "Vieta's Formulas",
        "task_type": "p2ps",
        "task": "Given a math problem, retrieve the relevant problems.",
        "user_query": f"problem {number}",
        "positive_document": f"other problem {number}",
        "hard_negative_document": f"far problem {number}",
        "negative_instance": "Pigeonhole Principle",
        **changes,
    }


def test_reasonaug_rows_in_the_published_schema(tmp_path):
    write_rows(tmp_path / "ra.jsonl", [reasonaug(1), reasonaug(2, hard_negative_document=None)])
    loaded = load(SourceConfig(kind="reasonaug", path="ra.jsonl"), tmp_path)
    (triplet,) = loaded.triplets
    assert (triplet.query, triplet.positive, triplet.negatives) == ("problem 1", "other problem 1", ("far problem 1",))
    assert triplet.instruction == "Given a math problem, retrieve the relevant problems."
    assert triplet.labels == {
        "task": "p2ps",
        "domain": "math theorem",
        "concept": "Vieta's Formulas",
        "negative_concept": "Pigeonhole Principle",
        "problem_id": "5",
    }
    assert loaded.report.filtered == {"min_negatives": 1}
    assert loaded.report.num_bad == 0


@pytest.mark.parametrize(
    ("domain", "kept"), [("all", "adfmp"), ("aops", "m"), ("leetcode", "ad"), ("theoremqa", "fmp")]
)
def test_reasonaug_domains(tmp_path, domain, kept):
    names = ["algorithm", "data structure", "finance formula", "math theorem", "physics theorem"]
    write_rows(tmp_path / "ra.jsonl", [reasonaug(i, domain=name) for i, name in enumerate(names)])
    loaded = load(SourceConfig(kind="reasonaug", path="ra.jsonl", domain=domain), tmp_path)
    assert "".join(triplet.labels["domain"][0] for triplet in loaded.triplets) == kept


def test_reasonaug_filters_tasks_and_solution_checks(tmp_path):
    rows = [
        pair(0, task="p2i", solution_check="not used", negatives=["n"]),
        pair(1, task="p2ps", solution_check="yes", negatives=["n"]),
        pair(2, task="p2ps", solution_check="no", negatives=["n"]),
        pair(3, task="i2ps", solution_check="unknown", negatives=["n"]),
    ]
    write_rows(tmp_path / "reasonaug" / "train_triplets.jsonl", rows)
    keep = {"solution_check": ("yes", "not used")}
    assert queries(SourceConfig(kind="reasonaug", path="reasonaug", keep=keep), tmp_path) == ["q0", "q1"]
    keep |= {"task": ("p2ps",)}
    assert queries(SourceConfig(kind="reasonaug", path="reasonaug", keep=keep), tmp_path) == ["q1"]


def test_excluded_concepts_leave_as_query_positive_and_negative(tmp_path):
    write_rows(tmp_path / "held.jsonl", [{"concept": "Pigeonhole Principle"}])
    rows = [
        reasonaug(1, instance="Pigeonhole Principle", positive_document="their problem"),
        reasonaug(2, positive_document="their problem"),
        reasonaug(3, user_query="Pigeonhole principle"),
        reasonaug(4, hard_negative_document="their problem", negative_instance="GENERATED"),
        reasonaug(5, hard_negative_document="Pigeonhole Principle\nIf n items ...", negative_instance="GENERATED"),
        reasonaug(6),
        reasonaug(7, negative_instance="Two Pointers"),
    ]
    write_rows(tmp_path / "ra.jsonl", rows)
    config = SourceConfig(kind="reasonaug", path="ra.jsonl", exclude="held.jsonl")
    loaded = load(config, tmp_path)
    assert [triplet.query for triplet in loaded.triplets] == ["problem 7"]
    assert loaded.report.filtered == {
        "exclude, by concept": 1,
        "exclude, by positive": 1,
        "exclude, by query": 1,
        "min_negatives": 3,
    }
    without_minimum = SourceConfig(kind="reasonaug", path="ra.jsonl", exclude="held.jsonl", min_negatives=0)
    assert [(t.query, len(t.negatives)) for t in load(without_minimum, tmp_path).triplets] == [
        ("problem 4", 0),
        ("problem 5", 0),
        ("problem 6", 0),
        ("problem 7", 1),
    ]


# Hub layout: ReasonIR and its documents, read by `datasets` as from the hub


def hub_folder(root: Path) -> Path:
    """A local copy of two hub data sets: README with configs, files per split."""
    card = "---\nconfigs:\n{}---\n"
    entry = "- config_name: {}\n  data_files:\n{}"
    split = "  - split: {}\n    path: {}\n"
    reasonir, bright = root / "reasonir", root / "bright"
    hq = [
        {"query": ["Find theorems.", "q0"], "pos": [["", "d1"]], "neg": [["", "n0"], ["", "n1"]]},
        {"query": ["Find theorems", "q1"], "pos": [["", "d2"], ["", "d1"]], "neg": [["", "n2"]]},
        {"query": ["Find theorems", "q2"], "pos": [["", "absent"]], "neg": [["", "n3"]]},
    ]
    vl = [{"query": ["Find text", "v0"], "pos": [["", "a long text"]], "neg": [["", "n4"]]}]
    write_rows(reasonir / "hq" / "train.jsonl", list(hq))
    write_rows(reasonir / "vl" / "train.jsonl", list(vl))
    names = ["hq", "vl"]
    configs = "".join(entry.format(name, split.format("train", f"{name}/train.jsonl")) for name in names)
    (reasonir / "README.md").write_text(card.format(configs))
    write_rows(bright / "documents" / "biology.jsonl", [{"id": "d1", "content": "first document"}])
    write_rows(bright / "documents" / "aops.jsonl", [{"id": "d2", "content": "second"}, {"id": "d9", "content": "x"}])
    splits = "".join(split.format(name, f"documents/{name}.jsonl") for name in ("biology", "aops"))
    (bright / "README.md").write_text(card.format(entry.format("documents", splits)))
    return root


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    pytest.importorskip("datasets")
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return hub_folder(tmp_path)


def test_reasonir_hq_ids_become_bright_documents_and_none_is_missing_silently(offline):
    config = SourceConfig(kind="reasonir", path="reasonir", documents="bright", sets=("hq",))
    loaded = load(config, offline, max_bad_rows=1)
    assert [(t.query, t.positive, t.negatives, t.instruction) for t in loaded.triplets] == [
        ("q0", "first document", ("n0", "n1"), "Find theorems"),
        ("q1", "second", ("n2",), "Find theorems"),
    ]
    assert loaded.report.defects == {"positive id without a document": 1}
    with pytest.raises(InputError, match="1 positive id without a document"):
        load(config, offline)


def test_reasonir_vl_holds_its_texts(offline):
    config = SourceConfig(kind="reasonir", path="reasonir", documents="bright")
    loaded = load_sources([config], seed=0, data_root=offline, max_bad_rows=1)
    assert list(loaded) == ["reasonir_hq", "reasonir_vl"]
    assert [(t.query, t.positive) for t in loaded["reasonir_vl"].triplets] == [("v0", "a long text")]
    assert loaded["reasonir_vl"].report.inputs == {"reasonir": "local folder"}


def test_hub_rows_know_their_place_and_a_wrong_config_is_named(offline):
    places = [where for where, _ in stream_rows(str(offline / "bright"), config="documents", split=None)]
    assert places == ["bright/documents/biology:1", "bright/documents/aops:1", "bright/documents/aops:2"]
    with pytest.raises(InputError, match="'nope' not found"):
        list(stream_rows(str(offline / "bright"), config="nope"))


def test_a_revision_is_a_commit(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert pin_revision("someone/data", commit) == commit
    assert pin_revision(str(tmp_path), None) is None
    with pytest.raises(ConfigError, match="40 hex digits, received 'main'"):
        pin_revision("someone/data", "main")
    with pytest.raises(ConfigError, match="which has no revision"):
        pin_revision(str(tmp_path), commit)


# Configs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "rows"}, "needs a path"),
        ({"kind": "public_e5", "path": "e5", "domain": "aops"}, "domain has no effect on a public_e5 source"),
        ({"kind": "rows", "path": "a", "num_negatives": 3}, "it is for msmarco_instructions"),
        ({"kind": "reasonaug", "columns": {"query": "q"}}, "it is for rows"),
        ({"kind": "rows", "path": "a", "max_rows": 0}, "max_rows must be at least 1"),
        ({"kind": "rows", "path": "a", "selection": "first"}, "no effect without max_rows"),
        ({"kind": "rows", "path": "a", "min_negatives": -1}, "at least 0"),
        ({"kind": "rows", "path": "a", "turned_query": "{query}"}, "must hold {instruction} and {query}"),
        ({"kind": "reasonaug", "turned_query": "{instruction}; {query}"}, "it is for rows, folder"),
        ({"kind": "reasonaug", "domain": "aops", "keep": {"domain": ("algorithm",)}}, "both choose the domain"),
    ],
)
def test_settings_without_effect_or_in_contradiction_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        SourceConfig(**fields)


def test_an_unknown_set_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'squad'"):
        SourceConfig(kind="public_e5", path="e5", sets=("squat",))
    with pytest.raises(UnknownNameError, match="choose one of hq, vl"):
        SourceConfig(kind="reasonir", sets=("small",))


# Rows left out by id


@pytest.mark.parametrize("sets", [("one",), ("one", "two")])
def test_rows_are_left_out_by_id_and_each_id_must_be_there(tmp_path, sets):
    """A misspelt id was passed over in silence where a source had several sets."""
    for name, start in (("one", 0), ("two", 10)):
        write_rows(tmp_path / "train" / name / "pairs.jsonl", [pair(start + i) for i in range(3)])
    source = SourceConfig(kind="folder", path="train", sets=sets)
    every = load_sources([source], seed=0, data_root=tmp_path)
    gone = every["one"].triplets[1].id
    left = load_sources([replace(source, without_rows=(gone,))], seed=0, data_root=tmp_path)
    assert [t.query for t in left["one"].triplets] == ["q0", "q2"] and left["one"].report.filtered["without_rows"] == 1
    with pytest.raises(ConfigError, match="without_rows has no effect: train has no row 'misspelt'"):
        load_sources([replace(source, without_rows=(gone, "misspelt"))], seed=0, data_root=tmp_path)
