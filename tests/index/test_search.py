"""Hits are those of an exact search by hand, with their place, by vectors, words and both."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from diffembed import Document, Embedder, Index, build_index
from diffembed.documents import ChunkPolicy
from diffembed.embedding.precision import Int8Codes, normalise, unpack_signs
from diffembed.errors import ConfigError, EmptyInputError, StoreError, UnknownNameError
from diffembed.index.maintenance import make_vector_index
from diffembed.index.search import Found, collapse_documents, fuse
from diffembed.index.settings import Precision
from diffembed.records import Vectors

DIM = 64


class Planted:
    """Texts are seeds: `17 words` has the vector drawn with seed 17, and a question lies near that of its seed."""

    name, dim, max_tokens = "planted", DIM, 100

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        seeds = [int(text.split()[0]) for text in texts]
        return normalise(np.stack([np.random.default_rng(seed).standard_normal(DIM) for seed in seeds]).astype("f4"))

    def encode_queries(self, texts: Sequence[str], instruction: str | None = None) -> Vectors:
        noise = np.random.default_rng(len(instruction or "")).standard_normal(DIM) * 0.05
        return normalise((self.encode_documents(texts) + noise).astype("f4"))

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        return normalise(queries) @ normalise(documents).T


WORDS = ("anchor", "buoy", "chart", "dinghy", "estuary", "fathom", "galley")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 rows, one chunk each, in two files."""
    folder = tmp_path_factory.mktemp("planted")
    for name, numbers in (("even", range(0, 1500, 2)), ("odd", range(1, 1500, 2))):
        lines = [json.dumps({"id": f"n{n}", "text": f"{n} {WORDS[n % 7]} {WORDS[n % 5]}"}) for n in numbers]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    for precision in ("float32", "int8", "binary"):
        build_index(
            folder / precision,
            [folder / "even.jsonl", folder / "odd.jsonl"],
            embedder=Planted(),
            precision=precision,
            chunks=ChunkPolicy(kind="whole"),
            commit_s=0,
        )
    return folder


def by_hand(question: str, numbers: Sequence[int]) -> list[tuple[str, float]]:
    """(id, cosine), best first."""
    scores = Planted().encode_queries([question])[0] @ Planted().encode_documents([str(n) for n in numbers]).T
    return [(f"n{numbers[place]}", float(scores[place])) for place in np.argsort(-scores, kind="stable")]


@pytest.mark.parametrize("where", [None, "source LIKE '%odd%'", "line > 700 AND id != 'n1401'"])
def test_dense_hits_are_those_of_exact_search(many: Path, where: str | None) -> None:
    numbers = {
        None: range(1500),
        "source LIKE '%odd%'": range(1, 1500, 2),
        "line > 700 AND id != 'n1401'": [n for n in range(1400, 1500) if n != 1401],
    }[where]
    hits = Index.open(many / "float32", embedder=Planted()).search("1405 boats", k=20, where=where)
    expected = by_hand("1405 boats", list(numbers))[:20]
    assert [hit.document.id for hit in hits] == [id for id, _ in expected]
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-5)
    assert [hit.rank for hit in hits] == list(range(1, 21))
    assert all(hit.parts == {"dense": hit.score} for hit in hits)


def test_int8_and_binary_scores_are_those_of_their_codes(many: Path) -> None:
    query = Planted().encode_queries(["77 boats"])[0]
    vectors = Planted().encode_documents([str(n) for n in range(1500)])
    hits = Index.open(many / "int8", embedder=Planted()).search("77 boats", k=10)
    codes = Int8Codes.load(many / "int8" / "int8.json")
    scores = codes.decode(codes.encode(vectors)) @ query
    assert [hit.document.id for hit in hits] == [f"n{n}" for n in np.argsort(-scores)[:10]]
    assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1][:10].tolist(), abs=1e-5)

    (best, *_) = Index.open(many / "binary", embedder=Planted()).search("77 boats", k=10)
    signs = unpack_signs(np.packbits(vectors[77:78] >= 0, axis=1), DIM)[0] / np.sqrt(DIM)
    assert best.document.id == "n77"
    assert best.score == pytest.approx(float(signs @ query), abs=1e-5)


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_the_approximate_paths_find_what_exact_search_finds(many: Path, precision: str) -> None:
    exact = Index.open(many / precision, embedder=Planted())
    approximate = Index.open(many / precision, embedder=Planted(), exact_rows=10, num_probes=4)
    make_vector_index(approximate.store)
    questions = [f"{n} boats" for n in range(0, 1500, 100)]
    for question in questions:
        assert approximate.search(question, k=1)[0].document.id == f"n{question.split()[0]}"
    pairs = [(exact.search(q, k=10), approximate.search(q, k=10)) for q in questions]
    recalls = [len({hit.document.id for hit in a} & {hit.document.id for hit in b}) / 10 for a, b in pairs]
    assert np.mean(recalls) >= 0.9
    only = approximate.search("100 boats", k=5, where="source LIKE '%odd%'")
    assert len(only) == 5
    assert all(int(hit.document.id[1:]) % 2 for hit in only)


def test_words_find_rows_that_have_them(many: Path) -> None:
    index = Index.open(many / "float32", embedder=Planted())
    hits = index.search("17 fathom anchor?! ' \" ; DROP", k=3, mode="bm25")
    assert hits[0].document.id == "n17", "the rarest word weighs most"
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert index.search("zeppelin", mode="bm25") == []
    evens = index.search("galley", k=40, mode="bm25", where="source LIKE '%even%'")
    assert len(evens) == 40
    assert all("galley" in hit.document.text and int(hit.document.id[1:]) % 2 == 0 for hit in evens)


def test_both_together_show_the_score_of_each(many: Path) -> None:
    index = Index.open(many / "float32", embedder=Planted())
    hits = index.search("17 fathom", k=5, mode="hybrid")
    assert hits[0].document.id == "n17"
    assert set(hits[0].parts) == {"dense", "bm25"}
    dense = index.search("17 fathom", k=1)[0]
    assert hits[0].parts["dense"] == pytest.approx(dense.score)
    assert index.search("17 fathom", k=1, mode="hybrid", fusion="score", weight=1.0)[0].score == 1.0


def found(*pairs: tuple[int, float], part: str) -> list[Found]:
    return [Found({"_rowid": id, "document": str(id), "text": str(id)}, score, {part: score}) for id, score in pairs]


def test_fusion_by_hand() -> None:
    dense = found((1, 0.9), (2, 0.8), (3, 0.4), part="dense")
    bm25 = found((3, 12.0), (1, 2.0), part="bm25")
    by_rank = fuse(dense, bm25, fusion="rank", weight=0.5)
    # 1: (1/61 + 1/62) / 2; 3: (1/63 + 1/61) / 2; 2: 1/62 / 2
    assert [each.row["_rowid"] for each in by_rank] == [1, 3, 2]
    assert by_rank[0].score == pytest.approx((1 / 61 + 1 / 62) / 2)
    assert by_rank[0].parts == {"dense": 0.9, "bm25": 2.0}
    by_score = fuse(dense, bm25, fusion="score", weight=0.25)
    # 1: 0.25 x 1 + 0.75 x 0; 2: 0.25 x 0.8; 3: 0.25 x 0 + 0.75 x 1
    assert [(each.row["_rowid"], round(each.score, 6)) for each in by_score] == [(3, 0.75), (1, 0.25), (2, 0.2)]
    with pytest.raises(ConfigError, match=r"weight is 1.5"):
        fuse(dense, bm25, fusion="rank", weight=1.5)
    with pytest.raises(UnknownNameError, match="no fusion 'sum'"):
        fuse(dense, bm25, fusion="sum", weight=0.5)  # type: ignore[arg-type]


def test_documents_and_equal_texts_are_collapsed() -> None:
    rows = [("a", "One text."), ("a", "Another."), ("b", "ONE  text."), ("c", "A third.")]
    each = [Found({"document": document, "text": text}, 1.0) for document, text in rows]
    assert [one.row["document"] for one in collapse_documents(each)] == ["a", "c"]
    # A document whose best chunk says what another says is found by the next one.
    each.append(Found({"document": "b", "text": "What b alone says."}, 0.5))
    assert [one.row["text"] for one in collapse_documents(each)] == ["One text.", "A third.", "What b alone says."]


def test_collapsing_goes_on_until_enough_documents_are_found(tmp_path: Path, embedder: Embedder) -> None:
    (tmp_path / "long.txt").write_text("The moon pulls the sea. " * 2000)
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "text": "Bread rises."}\n{"id": "b", "text": "Cats sleep."}\n')
    sources = [tmp_path / "long.txt", tmp_path / "rows.jsonl"]
    build_index(tmp_path / "ix", sources, embedder=embedder, chunks=ChunkPolicy(kind="fixed", size=200))
    index = Index.open(tmp_path / "ix", embedder=embedder)
    assert index.num_rows > 200
    assert {hit.document.parent for hit in index.search("the sea", k=3)} == {"long.txt", "a", "b"}
    every = index.search("the moon pulls the sea", k=5, collapse=False)
    assert {hit.document.parent for hit in every} == {"long.txt"}
    assert len(every) == 5


def test_hits_say_where_they_stand(corpus: Path, tmp_path: Path, embedder: Embedder) -> None:
    build_index(tmp_path / "ix", [corpus], embedder=embedder)
    hits = Index.open(tmp_path / "ix").search("sun and moon", k=10, collapse=False, where="source LIKE '%.md'")
    assert len(hits) == 3
    for hit in hits:
        text = Path(hit.document.source).read_text()
        assert text[hit.document.start :].startswith(hit.document.text)
        assert text.splitlines()[hit.document.line - 1] == hit.document.text.splitlines()[0]


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("exact_rows", [0, 1000])
@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("json_get_string(metadata, 'lang') = 'de'", {"a", "c"}),
        ("json_get_int(metadata, 'year') > 2020", {"b", "c"}),
        ("json_get_float(metadata, 'stars') < 1 OR json_get_bool(metadata, 'is_draft')", {"a", "b"}),
        ("json_get_string(metadata, 'lang') = 'it''s'", {"d"}),
        ("json_get_string(metadata, 'nothing') = 'de'", set()),
    ],
)
def test_other_columns_of_rows_are_filtered_by(
    tmp_path: Path, embedder: Embedder, precision: Precision, exact_rows: int, where: str, found: set[str]
) -> None:
    rows = [
        {"id": "a", "text": "Tides rise. " * 90, "lang": "de", "year": 2019, "stars": 0.5, "tags": ["x"]},
        {"id": "b", "text": "Bread rises.", "lang": "en", "year": 2021, "is_draft": True, "stars": None},
        {"id": "c", "text": "Cats sleep.", "lang": "de", "year": 2022},
        {"id": "d", "text": "Dogs bark.", "lang": "it's", "note": "lone \ud800 half"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build_index(tmp_path / "ix", [tmp_path / "rows.jsonl"], embedder=embedder, precision=precision)
    index = Index.open(tmp_path / "ix", embedder=embedder, exact_rows=exact_rows)
    hits = index.search("what rises?", k=4, where=where)
    assert {hit.document.parent for hit in hits} == found
    everything = {hit.document.parent: dict(hit.document.metadata) for hit in index.search("what rises?", k=4)}
    assert everything == {
        "a": {"lang": "de", "year": 2019, "stars": 0.5},
        "b": {"lang": "en", "year": 2021, "is_draft": True},
        "c": {"lang": "de", "year": 2022},
        "d": {"lang": "it's", "note": "lone \ufffd half"},
    }


def test_a_filter_that_a_row_breaks_is_refused(tmp_path: Path, embedder: Embedder) -> None:
    """It was called a damaged table, with the advice to make the index anew."""
    rows = [{"id": "a", "text": "Tides rise.", "year": 2019}, {"id": "b", "text": "Bread rises.", "year": "n/a"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build_index(tmp_path / "ix", [tmp_path / "rows.jsonl"], embedder=embedder)
    index = Index.open(tmp_path / "ix", embedder=embedder)
    with pytest.raises(ConfigError, match=r"cannot be used: a row does not fit it \(Failed to convert to integer"):
        index.search("what rises?", where="json_get_int(metadata, 'year') > 2000")


def test_the_instruction_is_read_with_the_question(many: Path) -> None:
    index = Index.open(many / "float32", embedder=Planted())
    scores = [index.search("5 boats", k=1, instruction=text)[0].score for text in (None, "be exact")]
    assert scores[0] != scores[1]
    with pytest.raises(ConfigError, match="mode 'bm25' compares words alone"):
        index.search("5 boats", mode="bm25", instruction="be exact")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("source = 'a' AND", "cannot be used"),
        ("1 = 1; DROP TABLE chunks", "more than one condition"),
        ("1 = 1 -- AND is_added", "more than one condition"),
        ("colour = 'red'", "cannot be used: .*colour.*columns are id, document"),
        ("id IN (SELECT id FROM chunks)", "cannot be used"),
        ("x) OR (1 = 1", "cannot be used"),
        ("'unclosed", "cannot be used"),
        (" ", "the filter is empty"),
        ("line + 1", "cannot be used"),
    ],
)
def test_a_filter_that_is_no_condition_is_refused(many: Path, where: str, message: str) -> None:
    index = Index.open(many / "float32", embedder=Planted())
    before = index.num_rows
    with pytest.raises(ConfigError, match=message):
        index.search("5 boats", where=where)
    assert index.num_rows == before
    assert index.search("5 boats", where="id = 'a;b' OR id = '--' OR line = 1"), "signs inside of quotes are text"


def test_wrong_questions_are_refused(many: Path) -> None:
    index = Index.open(many / "float32", embedder=Planted())
    with pytest.raises(EmptyInputError, match="the question is empty"):
        index.search(" ")
    with pytest.raises(ConfigError, match="k must be at least 1, got 0"):
        index.search("1", k=0)
    with pytest.raises(UnknownNameError, match="no search mode 'denze'"):
        index.search("1", mode="denze")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fusion and weight join two rankings"):
        index.search("1", weight=0.9)


def test_another_model_or_precision_is_refused(many: Path, embedder: Embedder) -> None:
    with pytest.raises(StoreError, match=r"was made with planted \(.*\), not with tiny-llama .*--model tiny-llama"):
        Index.open(many / "float32", embedder=embedder)
    with pytest.raises(StoreError, match="holds float32 vectors, int8 is asked for; make it anew with"):
        Index.open(many / "float32", precision="int8")
    with pytest.raises(StoreError, match="planted, which cannot be loaded by name"):
        Index.open(many / "float32").search("5 boats")


def test_an_index_loads_its_model_and_sees_what_another_process_adds(
    corpus: Path, tmp_path: Path, embedder: Embedder
) -> None:
    build_index(tmp_path / "ix", [corpus], embedder=embedder, location="tiny-llama")
    reader, writer = Index.open(tmp_path / "ix"), Index.open(tmp_path / "ix", embedder=embedder)
    assert reader.search("cats", k=1)[0].document.id
    assert (reader.model, reader.num_rows) == ("tiny-llama", 7)
    writer.add([Document(id="new", text="A zeppelin over the harbour.", title="Airships")])
    hit = reader.search("A zeppelin over the harbour.", k=1, mode="bm25")[0]
    assert (hit.document.id, hit.document.title) == ("new", "Airships")
    assert "new" in {hit.document.id for hit in reader.search("a zeppelin", k=8)}
    writer.delete(["new"])
    assert reader.search("zeppelin", mode="bm25") == []
    stats = reader.stats()
    assert (stats.num_documents, stats.num_rows, stats.num_added) == (5, 7, 0)
    assert stats.num_bytes > 1000
