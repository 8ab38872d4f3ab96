"""Rows hidden in prose: the statement is there once, its negatives stand in the same stretch, nothing else differs."""

import json

import pytest

from diffembed.data.burying import word_spans
from diffembed.data.source_config import SourceConfig
from diffembed.data.sources import load_sources
from diffembed.errors import ConfigError, EmptyInputError

HAY = "".join(
    f"Line {n} tells of sheep. They graze on hill {n}, and nobody counts them." + ("\n" if n % 5 else "\n\n\n")
    for n in range(900)
)
NUM_ROWS = 30


@pytest.fixture
def folder(tmp_path):
    rows = [
        {"query": f"q{n}", "positive": f"Statement number {n} is here.", "negatives": [f"Denial number {n}."]}
        for n in range(NUM_ROWS)
    ]
    rows[3]["positive"] = "long " * 60
    rows[4]["negatives"] = ["long " * 60]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "hay.txt").write_text(HAY, encoding="utf-8")
    return tmp_path


def load(folder, *, seed=0, **settings):
    settings = {"buried_in": "hay.txt", "buried_min_words": 20, "buried_max_words": 100} | settings
    config = SourceConfig(kind="rows", path="rows.jsonl", **settings)
    return load_sources([config], seed=seed, data_root=folder)


def test_texts_of_a_row_differ_in_nothing_but_the_statement(folder):
    loaded = load(folder)
    assert list(loaded) == ["rows", "rows_buried"]
    plain = {f"{triplet.id} buried": triplet for triplet in loaded["rows"].triplets}
    statements = {triplet.positive for triplet in loaded["rows"].triplets}
    lengths, depths, starts = [], [], set()
    for triplet in loaded["rows_buried"].triplets:
        origin = plain[triplet.id]
        assert (triplet.query, triplet.source) == (origin.query, "rows_buried")
        before, found, after = triplet.positive.partition(origin.positive)
        assert found and before == before.lstrip() and (not before or not after or before[-2] == ".")
        own = [text for text in origin.negatives if len(text.split()) <= 50]
        hidden = [text.removeprefix(before).removesuffix(after) for text in triplet.negatives]
        assert hidden[:-1] == own and hidden[-1] in statements - {origin.positive}
        lengths.append(max(len(word_spans(text)) for text in (triplet.positive, *triplet.negatives)))
        depths.append(len(before) / len(before + after))
        starts.add((before + after).lstrip().split("tells")[0])
    assert max(lengths) <= 100 and len(set(lengths)) > 15 and 20 <= min(lengths) < 40
    assert min(depths) < 0.2 and max(depths) > 0.8
    assert len(starts) > 20


def test_a_short_statement_stands_where_its_long_negative_stands(folder):
    row = {"query": "q", "positive": "Just these five short words.", "negatives": [" ".join(["denial"] * 40)]}
    with (folder / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    for seed in range(20):
        buried = load(folder, seed=seed)["rows_buried"].triplets[-1]
        before, _, after = buried.positive.partition(row["positive"])
        assert buried.negatives[0] == before + row["negatives"][0] + after
        assert 80 <= len(buried.negatives[0].split()) <= 100


def test_a_long_positive_has_no_buried_row_and_a_long_negative_is_left_out(folder):
    loaded = load(folder)["rows_buried"]
    assert loaded.report.filtered == {"buried: positive too long": 1}
    assert loaded.report.dropped_negatives == {"buried: too long": 1}
    assert (loaded.report.num_rows, loaded.report.num_kept) == (NUM_ROWS, NUM_ROWS - 1)
    num_negatives = {triplet.query: len(triplet.negatives) for triplet in loaded.triplets}
    assert "q3" not in num_negatives and num_negatives["q4"] == 1 and num_negatives["q5"] == 2
    assert {name.rpartition("/")[2] for name in loaded.report.inputs} == {"rows.jsonl", "hay.txt"}


def test_equal_seeds_bury_alike_and_others_do_not(folder):
    first, again, other = (load(folder, seed=seed)["rows_buried"].triplets for seed in (0, 0, 1))
    assert first == again
    assert [t.positive for t in first] != [t.positive for t in other]


def test_a_row_without_a_negative_and_without_another_row_is_an_error(folder):
    (alone,) = load(folder, max_rows=1, selection="first")["rows_buried"].triplets
    assert len(alone.negatives) == 1 and "Denial number 0." in alone.negatives[0]
    (folder / "rows.jsonl").write_text('{"query": "q", "positive": "One statement alone."}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="no text that could be its negative among 50 rows drawn of 1"):
        load(folder)


def test_hay_without_text_is_refused(folder):
    (folder / "hay.txt").write_text("\n\n", encoding="utf-8")
    with pytest.raises(EmptyInputError, match=r"hay\.txt holds no text to hide rows in"):
        load(folder)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"buried_min_words": 1}, "must be at least 2 and at most buried_max_words, received 1 and 100"),
        ({"buried_min_words": 101}, "received 101 and 100"),
        ({"buried_in": None}, "have no effect without buried_in"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load(folder, **settings)
