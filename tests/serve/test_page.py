"""The page's files and its answers; what is seen in a browser is in test_page_browser.py."""

import re
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from diffembed import Embedder
from diffembed.embedding.contributions import explain
from diffembed.serve.app import make_app
from diffembed.serve.engine import Engine
from diffembed.serve.page import MAX_TEXT_CHARS, STATIC, principal_axes
from diffembed.serve.search import MemoryIndex
from diffembed.serve.settings import ServeSettings

FOLDER = Path(__file__).parent / "guide"
"""A small guide to a coast, written for these tests."""
GUIDE = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
QUESTION = "why does the sea rise?"


@pytest.fixture(scope="module")
def reader():
    return Embedder.load("tiny-gemma3", attention="bidirectional", dtype="float32", max_tokens=200)


@pytest.fixture(scope="module")
def index(reader):
    return MemoryIndex.from_folder(reader, FOLDER, model="tiny")


@pytest.fixture(scope="module")
def client(reader, index):
    last = Embedder(reader.backbone, pooling="last", name="last")
    engines = {"tiny": Engine(reader, name="tiny"), "last": Engine(last)}
    with TestClient(make_app(engines, {"guide": index})) as client:
        yield client


def ask(client, path, **body):
    answer = client.post(f"/page/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(client, path, **body):
    answer = client.post(f"/page/{path}", json=body)
    assert 400 <= answer.status_code < 500, answer.text
    return answer.json()["error"]["message"]


def test_every_file_the_page_names_is_served(client):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    names = set(re.findall(r'(?:src|href)="(static/[^"]+)"', page.text))
    assert {"static/page.css", "static/page.js", "static/theme.js", "static/icon.svg"} <= names
    for module in STATIC.glob("*.js"):
        names |= {f"static/{name}" for name in re.findall(r'from "\./([^"]+)"', module.read_text())}
    assert len(names) > 10
    for name in names:
        assert client.get(f"/{name}").status_code == 200, name
    assert {path.name for path in STATIC.iterdir()} - {"index.html"} == {name.removeprefix("static/") for name in names}


def test_a_strict_policy_blocks_nothing(client):
    policy = client.get("/").headers["content-security-policy"]
    assert "'unsafe-inline'" not in policy and "script-src 'self'" in policy and "style-src 'self'" in policy
    html = (STATIC / "index.html").read_text()
    assert not re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", html)


def test_no_text_becomes_markup_and_nothing_comes_from_elsewhere():
    for path in [*STATIC.glob("*.js"), *STATIC.glob("*.css"), *STATIC.glob("*.html")]:
        text = path.read_text()
        markup = re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        assert not markup, path
        addresses = set(re.findall(r"https?://[^\"' )]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses and "@import" not in text and "url(//" not in text, path


def test_says_what_is_served(client, reader):
    served = client.get("/page/served").json()
    models = {model["name"]: model for model in served["models"]}
    assert models["tiny"]["explains"] and models["tiny"]["max_tokens"] == 200
    assert not models["last"]["explains"] and "pools the last token alone" in models["last"]["reason"]
    indexes = {index["name"]: index for index in served["indexes"]}
    assert indexes["guide"]["num_rows"] > 14 and indexes["guide"]["modes"] == ["dense"]


def test_search_shows_what_the_index_finds(client, index):
    hits = ask(client, "search", index="guide", question=QUESTION, k=6)["hits"]
    want = index.search(QUESTION, k=6, collapse=False)
    assert [hit["text"] for hit in hits] == [hit.document.full_text for hit in want]
    assert [hit["rank"] for hit in hits] == list(range(1, 7)) and hits[0]["score"] == pytest.approx(want[0].score)
    for hit in hits:
        text = GUIDE[hit["source"]]
        assert text[hit["start"] : hit["stop"]] == hit["text"]
        assert hit["line"] == 1 + text.count("\n", 0, hit["start"])


def test_evidence_adds_up_to_the_similarity(client, reader):
    texts = ["The moon pulls at the water.", GUIDE["lighthouse.md"]]
    found = ask(client, "evidence", model="tiny", question=QUESTION, texts=texts)["texts"]
    query, documents = reader.encode_queries([QUESTION]), reader.encode(texts)[0]
    for text, answer, want in zip(texts, found, reader.similarity(query, documents)[0], strict=True):
        shares = sum(share for _, share, _ in answer["pieces"]) + answer["outside"]
        assert shares == pytest.approx(want, abs=1e-4) and answer["similarity"] == pytest.approx(want, abs=1e-5)
        assert "".join(piece for piece, _, _ in answer["pieces"]) + answer["unread"] == text
    assert found[0]["unread"] == "" and len(found[1]["unread"]) > 1000, "the second text is longer than 200 tokens"


def test_evidence_of_another_instruction_is_other_evidence(client):
    body = {"model": "tiny", "question": QUESTION, "texts": ["The moon pulls."]}
    bare, asked = (ask(client, "evidence", **body, instruction=text) for text in (None, "find the cause"))
    assert abs(bare["texts"][0]["similarity"] - asked["texts"][0]["similarity"]) > 1e-3


def test_a_document_is_its_passages_in_order(client):
    found = ask(client, "document", index="guide", source="lighthouse.md")
    text = GUIDE["lighthouse.md"].rstrip()
    assert found["source"] == "lighthouse.md" and found["length"] == len(text) and len(found["passages"]) > 5
    assert [text[passage["start"] : passage["stop"]] for passage in found["passages"]] == [
        passage["text"] for passage in found["passages"]
    ]


def test_a_text_of_ones_own_is_read_like_one_of_the_index(client):
    from_index = ask(client, "document", index="guide", source="lighthouse.md")["passages"]
    own = ask(client, "document", text=GUIDE["lighthouse.md"])["passages"]
    assert [(one["start"], one["text"]) for one in own] == [(one["start"], one["text"]) for one in from_index]


def test_the_strip_shows_shares_where_they_are_and_where_reading_stops(client, reader):
    strip = ask(client, "strip", index="guide", source="lighthouse.md", model="tiny", question=QUESTION)
    (want,) = explain(reader, QUESTION, [GUIDE["lighthouse.md"]])
    assert strip["is_truncated"] and strip["num_chars_read"] == want.num_chars_read
    assert strip["similarity"] == pytest.approx(want.similarity, abs=1e-5)
    assert sum(strip["bins"]) == pytest.approx(want.similarity - want.outside, abs=1e-3)
    last = max(i for i, share in enumerate(strip["bins"]) if share)
    assert last == int((want.num_chars_read - 1) * len(strip["bins"]) / strip["length"])


def test_a_model_that_pools_one_token_is_read_too(client):
    strip = ask(client, "strip", text="The moon pulls.", model="last", question=QUESTION)
    assert sum(map(bool, strip["bins"])) == 1 and not strip["is_truncated"]


def test_sources_are_listed_longest_first(client):
    found = client.get("/page/sources", params={"index": "guide"}).json()
    assert {one["source"] for one in found["sources"]} == set(GUIDE) and found["num_sources"] == len(GUIDE)
    assert found["sources"][0]["source"] == "lighthouse.md"


def test_the_map_holds_the_question_too(client, index):
    found = ask(client, "map", index="guide", question=QUESTION)
    assert len(found["points"]) == index.num_rows and {point["source"] for point in found["points"]} == set(GUIDE)
    assert np.isfinite([found["question"]["x"], found["question"]["y"]]).all()
    assert found["explained"][0] >= found["explained"][1] > 0
    assert ask(client, "map", index="guide")["question"] is None


def test_principal_axes_equal_the_eigenvectors_of_the_covariance():
    vectors = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32) * [5, 3, 1, 1, 1, 1]
    center, axes, fractions = principal_axes(vectors)
    values, directions = np.linalg.eigh(np.cov(vectors.T))
    np.testing.assert_allclose(center, vectors.mean(0), atol=1e-6)
    np.testing.assert_allclose(np.abs(axes @ directions[:, [-1, -2]]), np.eye(2), atol=1e-4)
    np.testing.assert_allclose(fractions, values[[-1, -2]] / values.sum(), rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_principal_axes_of_equal_vectors_are_zero(count):
    _, axes, fractions = principal_axes(np.ones((count, 4), dtype=np.float32))
    assert not axes.any() and fractions == [0, 0]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("search", {"index": "gide", "question": "x"}, "no such index; it has guide"),
        ("search", {"index": "guide", "question": " "}, "the question is empty"),
        ("evidence", {"model": "large", "question": "x", "texts": ["y"]}, "no such model; it has tiny, last"),
        ("evidence", {"model": "tiny", "question": "x", "texts": ["y" * (MAX_TEXT_CHARS + 1)]}, "at most 20,000"),
        ("document", {"index": "guide", "source": "../secret"}, "has no document"),
        ("document", {"index": "guide"}, "named by index and source, or given as text"),
        ("document", {"index": "guide", "source": "tides.md", "text": "x"}, "named by index and source, or given"),
        ("document", {"text": " \n"}, "the text is empty"),
    ],
)
def test_refusals_say_what_to_do(client, path, body, message):
    assert message in refusal(client, path, **body)


def test_keys_guard_the_texts_and_not_the_page(reader, index):
    settings = ServeSettings(api_keys=("secret",))
    with TestClient(make_app({"tiny": Engine(reader, name="tiny")}, {"guide": index}, settings)) as client:
        assert client.get("/").status_code == 200 and client.get("/static/page.js").status_code == 200
        assert client.get("/page/served").status_code == 401
        assert client.post("/page/document", json={"index": "guide", "source": "tides.md"}).status_code == 401
        assert client.get("/page/served", headers={"Authorization": "Bearer secret"}).status_code == 200
