"""Mined negatives are near the query, are not its answers, and a killed run ends as if it had not been killed."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from diffembed.data import mining
from diffembed.data.candidates import make_corpus, rank_candidates
from diffembed.data.formats import Triplet, load_triplets
from diffembed.data.mining import MiningConfig, MiningReport, mine_negatives
from diffembed.errors import CheckpointError, ConfigError, EmptyInputError, InputError
from diffembed.records import Document

NO_MARGIN = {"margin": None}


class Angles:
    """A text is the number in it, as an angle in degrees: the score of two is the cosine of their difference."""

    name = "angles"
    dim = 2
    max_tokens = 8

    def __init__(self, *, killed_after: int | None = None) -> None:
        self.encoded: list[str] = []
        self.instructions: set[str | None] = set()
        self.killed_after = killed_after

    def encode_queries(self, texts, instruction=None):
        self.instructions.add(instruction)
        return self._encode(texts)

    def encode_documents(self, texts):
        self.encoded += texts
        return self._encode(texts)

    def similarity(self, queries, documents):
        return queries @ documents.T

    def _encode(self, texts):
        if self.killed_after is not None:
            self.killed_after -= 1
            if self.killed_after < 0:
                raise KeyboardInterrupt
        angles = np.radians([float("".join(c for c in text if c.isdigit()) or 0) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def row(query: str, positive: str, *negatives: str, **changes: object) -> Triplet:
    return Triplet(**({"id": query, "query": query, "positive": positive, "negatives": negatives} | changes))


def documents(*texts: str) -> list[Document]:
    return [Document(id=f"doc{number}", text=text) for number, text in enumerate(texts)]


def mine(rows, folder: Path, *, encoder=None, more=(), **settings) -> tuple[list[tuple[str, ...]], MiningReport]:
    out = folder / "mined.jsonl"
    report = mine_negatives(rows, out, MiningConfig(**settings), encoder=encoder, documents=documents(*more))
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["query"] for line in written] == [triplet.query for triplet in rows]
    assert [path.name for path in folder.iterdir()] == ["mined.jsonl"]
    return [tuple(line["negatives"]) for line in written], report


def test_bm25_finds_the_text_with_the_most_common_words(tmp_path):
    more = ["green tea grows in china", "black coffee", "tea", "nothing here"]
    rows = [row("where does green tea grow", "in the hills of asia green tea grows best")]
    (found,), report = mine(rows, tmp_path, more=more, num_negatives=2, **NO_MARGIN)
    assert found == ("green tea grows in china", "tea")
    assert (report.num_rows, report.num_documents, report.num_mined, report.num_short) == (1, 5, 2, 0)


def test_documents_without_a_common_word_are_never_taken(tmp_path):
    (found,), report = mine([row("tea", "tea time")], tmp_path, more=["coffee", "milk"], num_negatives=2, **NO_MARGIN)
    assert found == ()
    assert (report.num_mined, report.num_short) == (0, 1)


def test_an_encoder_ranks_by_its_similarity_and_gets_the_instruction(tmp_path):
    encoder = Angles()
    rows = [row("q 0", "p 1", instruction="find"), row("q 90", "p 91", instruction="seek")]
    more = ["d 10", "d 80", "d 20", "d 70"]
    found, _ = mine(rows, tmp_path, encoder=encoder, more=more, proposers="encoder", num_negatives=2)
    assert found == [("d 10", "d 20"), ("d 80", "d 70")]
    assert encoder.instructions == {"find", "seek"}


def test_the_rank_window_counts_without_the_rows_own_answers(tmp_path):
    rows = [row("q 0", "p 50"), row("q 0", "p 1", id="again")]
    more = [f"d {10 * number}" for number in range(1, 8)]
    settings = {"proposers": "encoder", "min_rank": 2, "max_rank": 4, "num_negatives": 3}
    found, _ = mine(rows, tmp_path, encoder=Angles(), more=more, **settings, **NO_MARGIN)
    # p 1 and p 50 answer the query in one row or the other; d 10 is rank 1.
    assert found == [("d 20", "d 30", "d 40")] * 2


def test_a_text_that_scores_above_the_positive_is_taken_for_an_answer(tmp_path):
    more = ["d 10", "d 28", "d 31", "d 40"]
    for margin, expected in ((0.0, ("d 31", "d 40")), (0.03, ("d 28", "d 31", "d 40")), (-0.05, ("d 40",))):
        # cos 30 = .866, cos 28 = .883, cos 31 = .857, cos 40 = .766, cos 10 = .985
        folder = tmp_path / str(margin)
        folder.mkdir()
        settings = {"proposers": "encoder", "num_negatives": 4, "margin": margin}
        (found,), report = mine([row("q 0", "p 30")], folder, encoder=Angles(), more=more, **settings)
        assert found == expected
        assert report.rejected == {"scores above the positive": 4 - len(expected)}


def test_bm25_proposes_and_the_encoder_judges(tmp_path):
    more = ["tea 5", "tea 60", "milk 40"]
    (found,), report = mine([row("tea 0", "cup 30")], tmp_path, encoder=Angles(), more=more, num_negatives=3)
    assert found == ("tea 60",)
    assert report.rejected == {"scores above the positive": 1}


def test_two_proposers_take_turns_and_a_common_document_counts_once(tmp_path):
    more = ["tea 80", "tea tea 85", "x 10", "tea 20"]
    settings = {"proposers": "both", "num_negatives": 4}
    (found,), _ = mine([row("tea 0", "cup 89")], tmp_path, encoder=Angles(), more=more, **settings, **NO_MARGIN)
    assert len(found) == len(set(found)) == 4
    assert "x 10" in found[:2]
    assert any("tea" in text for text in found[:2])


@pytest.mark.parametrize(
    ("rows", "more", "reason"),
    [
        ([row("q 0", "p 5", id="doc0")], ["d 1"], "has the row's id"),
        ([row("q 0", "p 5"), row("q 0", "d 1", id="b")], [], "answers the query in another row"),
        ([row("q 0", "p 5"), row("Q  0", "d 1", id="b")], [], "answers the query in another row"),
    ],
)
def test_answers_known_from_elsewhere_are_excluded_and_counted(tmp_path, rows, more, reason):
    found, report = mine(rows, tmp_path, encoder=Angles(), more=more, proposers="encoder", **NO_MARGIN)
    assert "d 1" not in found[0]
    assert report.rejected[reason] >= 1


def test_neither_the_query_nor_the_positive_in_other_spelling_is_a_negative(tmp_path):
    more = ["Q 0", "P  5", "d 9"]
    (found,), report = mine(
        [row("q 0", "p 5")], tmp_path, encoder=Angles(), more=more, proposers="encoder", **NO_MARGIN
    )
    assert found == ("d 9",)
    assert report.num_documents == 3


def test_the_same_query_under_another_instruction_gives_a_negative(tmp_path):
    rows = [row("q 0", "p 5", instruction="causes"), row("q 0", "p 7", instruction="treatment", id="b")]
    found, _ = mine(rows, tmp_path, encoder=Angles(), proposers="encoder", **NO_MARGIN)
    assert found == [("p 7",), ("p 5",)]


def test_documents_of_rows_with_the_same_label_are_excluded(tmp_path):
    labels = [{"concept": "heap"}, {"concept": "heap"}, {"concept": "graph"}]
    rows = [row(f"q {n}", f"p {n + 10}", labels=label) for n, label in enumerate(labels)]
    settings = {"proposers": "encoder", "same_label": "concept"}
    found, report = mine(rows, tmp_path, encoder=Angles(), **settings, **NO_MARGIN)
    assert found == [("p 12",), ("p 12",), ("p 10", "p 11")]
    assert report.rejected == {"has the row's concept": 2}
    with pytest.raises(ConfigError, match="has no label 'theme'"):
        mine_negatives(rows, tmp_path / "other.jsonl", MiningConfig(same_label="theme"))


def test_own_negatives_stay_in_front_and_count_or_are_replaced(tmp_path):
    rows = [row("q 0", "p 5", "d 9", "mine 60")]
    for keeps, expected in ((True, ("d 9", "mine 60", "d 20")), (False, ("d 9", "d 20", "mine 60"))):
        folder = tmp_path / str(keeps)
        folder.mkdir()
        settings = {"proposers": "encoder", "num_negatives": 3, "keeps_own": keeps}
        (found,), _ = mine(rows, folder, encoder=Angles(), more=["d 20"], **settings, **NO_MARGIN)
        assert found == expected


def test_a_random_choice_depends_on_the_seed(tmp_path):
    rows = [row(f"q {n}", f"p {n + 1}") for n in range(5)]
    more = [f"d {n}" for n in range(20, 60)]
    seen = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = {"proposers": "encoder", "choice": "random", "num_negatives": 4, "seed": seed}
        seen.append(mine(rows, folder, encoder=Angles(), more=more, **settings, **NO_MARGIN)[0])
    assert seen[0] == seen[1] != seen[2]


def big(num: int) -> list[Triplet]:
    return [row(f"q {n % 90}.", f"p {(n * 7) % 90}", id=str(n), instruction=f"i{n % 3}") for n in range(num)]


@pytest.mark.parametrize("killed_after", [5, 6, 9, 12])
def test_a_killed_run_goes_on_where_it_stopped(tmp_path, monkeypatch, killed_after):
    monkeypatch.setattr(mining, "PART_ROWS", 8)
    monkeypatch.setattr(mining, "BLOCK_DOCUMENTS", 16)
    config = MiningConfig(proposers="encoder", num_negatives=3)
    straight, resumed = tmp_path / "a.jsonl.zst", tmp_path / "b.jsonl.zst"
    first = mine_negatives(big(40), straight, config, encoder=Angles())
    with pytest.raises(KeyboardInterrupt):
        mine_negatives(big(40), resumed, config, encoder=Angles(killed_after=killed_after))
    assert not resumed.exists()
    encoder = Angles()
    second = mine_negatives(big(40), resumed, config, encoder=encoder)
    assert load_triplets(resumed, source="x")[0] == load_triplets(straight, source="x")[0]
    assert second == first
    assert first.num_mined > 40
    again = [text for text in encoder.encoded if text != mining.PROBE]
    assert len(again) == max(0, first.num_documents - 16 * (killed_after - 4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl.zst", "b.jsonl.zst"]


def test_parts_of_another_run_are_refused(tmp_path):
    out = tmp_path / "out.jsonl"
    config = MiningConfig(proposers="encoder", num_negatives=3)
    with pytest.raises(KeyboardInterrupt):
        mine_negatives(big(9), out, config, encoder=Angles(killed_after=2))
    with pytest.raises(CheckpointError, match="with another documents, rows"):
        mine_negatives([*big(8), row("q 1", "p 14")], out, config, encoder=Angles())
    with pytest.raises(CheckpointError, match="another num_negatives"):
        mine_negatives(big(9), out, MiningConfig(proposers="encoder", num_negatives=4), encoder=Angles())

    class Retrained(Angles):
        def _encode(self, texts):
            return -super()._encode(texts)

    with pytest.raises(CheckpointError, match="another encoder"):
        mine_negatives(big(9), out, config, encoder=Retrained())


def test_an_output_that_exists_is_left_alone(tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("precious")
    with pytest.raises(InputError, match="already exists"):
        mine_negatives(big(3), out, MiningConfig())
    assert out.read_text() == "precious"


def test_progress_counts_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(mining, "PART_ROWS", 2)
    seen = []
    mine_negatives(
        big(5), tmp_path / "o.jsonl", MiningConfig(), progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_ranking_breaks_ties_by_position_inside_and_at_the_edge_of_the_window():
    scores = np.array([1, 3, 2, 2, 2, 2, 5], np.float32)
    found = list(rank_candidates(scores, {}, (1, 4), Counter(), is_lexical=False))
    assert found == [(1, 6), (2, 1), (3, 2), (4, 3)]
    everything = list(rank_candidates(scores, {6: "x"}, (2, 100), Counter(), is_lexical=False))
    assert [position for _, position in everything] == [2, 3, 4, 5, 0]
    assert list(rank_candidates(np.zeros(3, np.float32), {}, (1, 3), Counter(), is_lexical=True)) == []


def test_a_corpus_holds_each_text_once():
    corpus = make_corpus([row("q", "P", "n", "p ")], documents("N", " ", "new"))
    assert corpus.texts == ["P", "n", "new"]
    assert corpus.ids == {"doc0": 1, "doc2": 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_negatives": 0}, "at least 1"),
        ({"min_rank": 0}, "1 <= 0 <= 100"),
        ({"min_rank": 9, "max_rank": 3}, "1 <= 9 <= 3"),
        ({"min_rank": 98}, "hold fewer than num_negatives=7"),
        ({"seed": 1}, "no effect on choice=top"),
        ({"margin": float("nan")}, "margin must be a number"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MiningConfig(**settings)


def test_what_cannot_be_mined_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs an encoder"):
        mine_negatives(big(3), tmp_path / "o.jsonl", MiningConfig(proposers="both"))
    with pytest.raises(EmptyInputError):
        mine_negatives([], tmp_path / "o.jsonl", MiningConfig())
