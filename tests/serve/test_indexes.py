"""Indexes on disk, opened by the server with the model that made them."""

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.serve.conftest import wait_until

from diffembed import Embedder
from diffembed.documents import ChunkPolicy
from diffembed.errors import ConfigError, DiffEmbedError
from diffembed.index.settings import Precision
from diffembed.serve.app import make_app
from diffembed.serve.engine import Engine
from diffembed.serve.server import models_of, open_indexes

index = pytest.importorskip("diffembed.index")

TEXTS = {
    "tides.md": "The moon pulls the sea, and the tide rises twice a day.",
    "knots.md": "A bowline makes a loop that does not slip under load.",
    "birds.md": "Arctic terns fly from one polar summer to the other.",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Path:
    root = tmp_path_factory.mktemp("index")
    (root / "texts").mkdir()
    for name, text in TEXTS.items():
        (root / "texts" / name).write_text(text)
    index.build_index(root / "sea", [root / "texts"], embedder=embedder)
    return root / "sea"


def test_each_index_finds_its_model_and_is_searched(folder: Path, embedder: Embedder) -> None:
    other = Engine(Embedder.load("tiny-qwen2", dtype="float32"), name="other")
    engines = {"other": other, "mine": Engine(embedder, name="mine")}
    indexes = open_indexes([str(folder)], engines)
    assert list(indexes) == ["sea"] and indexes["sea"].model == "mine" and indexes["sea"].num_rows == 3
    with TestClient(make_app(engines, indexes)) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        for mode in ("dense", "bm25", "hybrid"):
            answer = client.post("/v1/search", json={"query": TEXTS["knots.md"], "mode": mode})
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == "mine" and "bowline" in answer.json()["data"][0]["text"]
        told = client.post("/v1/search", json={"query": "a", "where": "no_such_column = 1"})
        assert told.status_code == 400, told.text
        kept = client.post("/v1/search", json={"query": "a", "where": "source LIKE '%birds.md'"}).json()["data"]
        assert [hit["text"] for hit in kept] == [TEXTS["birds.md"]]


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_the_page_reads_an_index_on_disk(tmp_path: Path, embedder: Embedder, precision: Precision) -> None:
    rows = [{"id": name, "text": text * 12} for name, text in TEXTS.items()]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    late = ChunkPolicy(kind="late", size=200)
    index.build_index(tmp_path / "sea", [tmp_path / "rows.jsonl"], embedder=embedder, precision=precision, chunks=late)
    engines = {"mine": Engine(embedder, name="mine")}
    with TestClient(make_app(engines, open_indexes([str(tmp_path / "sea")], engines))) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        (served,) = client.get("/page/served").json()["indexes"]
        assert served["modes"] == ["dense", "bm25", "hybrid"] and served["is_late"]
        hits = client.post("/page/search", json={"index": "sea", "question": "a loop", "mode": "bm25"}).json()["hits"]
        assert {hit["source"] for hit in hits} == {"knots.md"}
        counts = client.get("/page/sources", params={"index": "sea"}).json()["sources"]
        assert {one["source"] for one in counts} == set(TEXTS)
        read = client.post("/page/document", json={"index": "sea", "source": "knots.md"}).json()
        assert "".join(one["text"] for one in read["passages"]).replace(" ", "") == rows[1]["text"].replace(" ", "")
        assert [one["num_passages"] for one in counts if one["source"] == "knots.md"] == [len(read["passages"])]
        sample = client.post("/page/map", json={"index": "sea", "question": "a loop"}).json()
        assert len(sample["points"]) == served["num_rows"]
        assert sample["explained"][0] >= sample["explained"][1] > 0


def test_an_index_made_anew_in_another_way_says_so_without_its_path(tmp_path: Path, embedder: Embedder) -> None:
    (tmp_path / "a.md").write_text(TEXTS["knots.md"])
    index.build_index(tmp_path / "sea", [tmp_path / "a.md"], embedder=embedder)
    engines = {"mine": Engine(embedder, name="mine")}
    with TestClient(make_app(engines, open_indexes([str(tmp_path / "sea")], engines))) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        assert client.post("/v1/search", json={"query": "a loop"}).status_code == 200
        index.build_index(tmp_path / "sea", [tmp_path / "a.md"], embedder=embedder, precision="int8", is_replaced=True)
        told = client.post("/v1/search", json={"query": "a loop"})
        assert told.status_code == 503 and told.json()["error"]["code"] == "index_unavailable"
        assert "made anew in another way" in told.json()["error"]["message"]
        assert str(tmp_path) not in told.text


def test_two_ways_of_loading_one_model_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A note.")
    for name, dims in (("whole", None), ("cut", 16)):
        embedder = Embedder.load("tiny-llama", dtype="float32", dims=dims)
        index.build_index(tmp_path / name, [tmp_path / "a.txt"], embedder=embedder)
    assert list(models_of([str(tmp_path / "cut")])) == ["tiny-llama"]
    with pytest.raises(ConfigError, match=r"whole and \S+/cut were made by tiny-llama loaded in two ways .* apart"):
        models_of([str(tmp_path / "whole"), str(tmp_path / "cut")])


def test_a_table_that_lost_a_file_is_503_without_its_path(tmp_path: Path, embedder: Embedder) -> None:
    (tmp_path / "a.txt").write_text("A note.")
    index.build_index(tmp_path / "ix", [tmp_path / "a.txt"], embedder=embedder)
    engines = {"mine": Engine(embedder, name="mine")}
    with TestClient(make_app(engines, open_indexes([str(tmp_path / "ix")], engines))) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        for path in (tmp_path / "ix" / "chunks.lance" / "data").iterdir():
            path.unlink()
        asked = {"query": "a", "where": "source LIKE '%.txt'"}
        for told in (client.post("/v1/search", json=asked), client.get("/page/sources", params={"index": "ix"})):
            assert told.status_code == 503 and str(tmp_path) not in told.text, told.text
        assert client.get("/health").status_code == 200


def test_an_index_of_another_model_is_refused(folder: Path) -> None:
    other = Engine(Embedder.load("tiny-qwen2", dtype="float32"), name="other")
    with pytest.raises(DiffEmbedError, match="tiny-gemma3"):
        open_indexes([str(folder)], {"other": other})
    with pytest.raises(DiffEmbedError):
        open_indexes([str(folder / "nothing")], {"other": other})
