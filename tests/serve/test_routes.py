"""Every route, every refusal, in the shapes that clients of others read."""

import asyncio
import base64
import json
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from tests.serve.conftest import TEXTS, wait_until

from diffembed import Embedder
from diffembed.errors import ConfigError, InputError
from diffembed.records import Document
from diffembed.serve.app import make_app
from diffembed.serve.engine import Engine
from diffembed.serve.guard import JsonLines
from diffembed.serve.search import MemoryIndex
from diffembed.serve.server import bind, guard_loopback, load_engines, open_indexes, read_documents, run
from diffembed.serve.settings import LOOPBACK, ServeSettings, read_keys

KEYS = ("first-secret", "second-secret")
DOCUMENTS = [Document(id=f"d{i}", text=text, source=f"file{i % 4}.md", line=i + 1) for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def other() -> Embedder:
    return Embedder.load("tiny-qwen2", dtype="float32", max_tokens=40)


@pytest.fixture(scope="module")
def client(embedder: Embedder, other: Embedder) -> Iterator[TestClient]:
    settings = ServeSettings(max_body_bytes=100_000, max_texts=50, api_keys=KEYS)
    engines = {"tiny-gemma3": Engine(embedder, settings), "other": Engine(other, settings, name="other")}
    index = MemoryIndex(embedder, DOCUMENTS, model="tiny-gemma3")
    with TestClient(make_app(engines, {"files": index}, settings)) as client:
        client.headers["authorization"] = f"Bearer {KEYS[1]}"
        wait_until(lambda: client.get("/health").status_code == 200)
        yield client


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The error of an answer, which must have OpenAI's four fields and nothing else."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"} and set(response.json()["error"]) == {"message", "type", "param", "code"}
    return response.json()["error"]


def test_embeddings_as_floats_and_base64(client: TestClient, embedder: Embedder) -> None:
    want, report = embedder.encode(TEXTS)
    floats = client.post("/v1/embeddings", json={"input": TEXTS}).json()
    packed = client.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "base64"}).json()
    assert [row["index"] for row in floats["data"]] == list(range(40))
    np.testing.assert_allclose([row["embedding"] for row in floats["data"]], want, atol=1e-5)
    unpacked = [np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in packed["data"]]
    np.testing.assert_array_equal(unpacked, np.float32([row["embedding"] for row in floats["data"]]))
    total = int(report.num_tokens.sum())
    assert floats["usage"] == packed["usage"] == {"prompt_tokens": total, "total_tokens": total}


def test_the_extensions_of_embeddings(client: TestClient, embedder: Embedder, other: Embedder) -> None:
    def rows(**body: Any) -> Any:
        return np.array([row["embedding"] for row in client.post("/v1/embeddings", json=body).json()["data"]])

    np.testing.assert_allclose(
        rows(input=TEXTS[1], instruction="find it"), embedder.encode_queries([TEXTS[1]], "find it"), atol=1e-5
    )
    ids = embedder.backbone.tokenizer(TEXTS[1]).input_ids
    np.testing.assert_allclose(rows(input=ids), embedder.encode_documents([TEXTS[1]]), atol=1e-5)
    assert len(rows(input=[ids, ids[:3]])) == 2
    cut = embedder.encode([TEXTS[1]], dims=5)[0]
    np.testing.assert_allclose(rows(input=TEXTS[1], dimensions=5), cut, atol=1e-5)
    assert error_of(client.post("/v1/embeddings", json={"input": TEXTS[6], "model": "other"}), 400)["code"] == (
        "context_length_exceeded"
    )
    answer = client.post("/v1/embeddings", json={"input": TEXTS[5:7], "model": "other", "truncate": "truncate"}).json()
    assert [row["truncated"] for row in answer["data"]] == [True, True]
    chunked = other.encode([TEXTS[6]], overflow="chunk")[0]
    np.testing.assert_allclose(rows(input=TEXTS[6], model="other", truncate="chunk"), chunked, atol=1e-5)


def test_rerank_orders_by_cosine(client: TestClient, embedder: Embedder) -> None:
    body = {"query": "both directions", "documents": [*TEXTS[:3], {"text": TEXTS[3]}], "return_documents": True}
    results = client.post("/v1/rerank", json=body).json()["results"]
    scores = embedder.similarity(embedder.encode_queries(["both directions"]), embedder.encode_documents(TEXTS[:4]))[0]
    assert [row["index"] for row in results] == np.argsort(-scores).tolist()
    np.testing.assert_allclose([row["relevance_score"] for row in results], np.sort(scores)[::-1], atol=1e-5)
    assert [row["document"]["text"] for row in results] == [TEXTS[i] for i in np.argsort(-scores)]
    assert len(client.post("/v1/rerank", json=body | {"top_n": 2}).json()["results"]) == 2


def test_embed_as_tei_does(client: TestClient, embedder: Embedder) -> None:
    answer = client.post("/embed", json={"inputs": TEXTS[:2], "normalize": True})
    np.testing.assert_allclose(answer.json(), embedder.encode_documents(TEXTS[:2]), atol=1e-5)
    assert int(answer.headers["x-diffembed-tokens"]) == embedder.encode(TEXTS[:2])[1].num_tokens.sum()
    assert len(client.post("/embed", json={"inputs": "one"}).json()) == 1
    error_of(client.post("/embed", json={"inputs": TEXTS[6], "model": "other"}), 400)
    cut = client.post("/embed", json={"inputs": [TEXTS[6], "a"], "model": "other", "truncate": True})
    assert cut.headers["x-diffembed-truncated"] == "1"
    assert "length 1" in error_of(client.post("/embed", json={"inputs": "a", "normalize": False}), 400)["message"]


def test_search_finds_by_meaning_and_place(client: TestClient, embedder: Embedder) -> None:
    answer = client.post("/v1/search", json={"query": TEXTS[9], "k": 3, "collapse": False}).json()
    assert answer["index"] == "files" and answer["model"] == "tiny-gemma3"
    scores = embedder.similarity(embedder.encode_queries([TEXTS[9]]), embedder.encode_documents(TEXTS))[0]
    best = np.argsort(-scores, kind="stable")[:3]
    assert [hit["id"] for hit in answer["data"]] == [f"d{i}" for i in best]
    assert answer["data"][0]["text"] == TEXTS[9] and answer["data"][0]["line"] == 10
    collapsed = client.post("/v1/search", json={"query": TEXTS[9]}).json()["data"]
    assert sorted(hit["source"] for hit in collapsed) == [f"file{i}.md" for i in range(4)]
    assert [hit["rank"] for hit in collapsed] == [1, 2, 3, 4]
    for body, status in (
        ({"query": " "}, 400), ({"query": "a", "mode": "bm25"}, 400), ({"query": "a", "where": "x"}, 400),
        ({"query": "a", "index": "/etc"}, 404), ({"query": "a", "model": "other"}, 400), ({"query": "a", "k": 0}, 422),
    ):  # fmt: skip
        error_of(client.post("/v1/search", json=body), status)


def test_models_and_health_say_what_is_served(client: TestClient) -> None:
    cards = client.get("/v1/models").json()["data"]
    assert [(card["id"], card["max_tokens"]) for card in cards] == [("tiny-gemma3", 4096), ("other", 40)]
    assert client.get("/v1/models/other").json() == cards[1]
    health = client.get("/health").json()
    assert health["status"] == "ready"
    assert health["models"][0]["contract"]["held"] is True and health["models"][0]["dtype"] == "float32"
    assert health["models"][0]["queue"]["tokens"] == 0
    assert health["indexes"] == [{"name": "files", "model": "tiny-gemma3", "passages": 40}]


def test_metrics_count_requests_and_tokens(client: TestClient) -> None:
    def value(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    names = ('diffembed_requests_total{route="/v1/embeddings",status="200"}', 'diffembed_tokens_total{model="other"}')
    before = [value(name) for name in names]
    used = client.post("/v1/embeddings", json={"input": ["a b", "c"], "model": "other"}).json()["usage"]
    assert [value(name) for name in names] == [before[0] + 1, before[1] + used["total_tokens"]]
    assert value('diffembed_queue_tokens{model="other"}') == 0


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "/nowhere", None, 404, "Not Found"),
        ("GET", "/v1/embeddings", None, 405, "Method Not Allowed"),
        ("POST", "/v1/embeddings", {}, 422, "input: Field required"),
        ("POST", "/v1/embeddings", {"input": "a", "instructon": "b"}, 422, "instructon"),
        ("POST", "/v1/embeddings", {"input": []}, 400, "no texts"),
        ("POST", "/v1/embeddings", {"input": ["a"] * 51}, 413, "51 texts, 50 are allowed"),
        ("POST", "/v1/embeddings", {"input": "a" * 100_000}, 413, "longer than 100,000 bytes"),
        ("POST", "/v1/embeddings", {"input": "a", "model": "../../etc/passwd"}, 404, "it has tiny-gemma3, other"),
        ("POST", "/v1/embeddings", {"input": "a", "dimensions": 33}, 400, "1 to 32"),
        ("POST", "/v1/embeddings", {"input": "a", "input_type": "document", "instruction": "b"}, 400, "no instruction"),
        ("POST", "/v1/embeddings", {"input": [[99999]]}, 400, "token id 99999 does not exist"),
        ("POST", "/v1/rerank", {"query": "a", "documents": []}, 400, "no texts"),
        ("GET", "/v1/models/nope", None, 404, "no such model"),
    ],
)
def test_what_is_refused(client: TestClient, method: str, path: str, body: Any, status: int, message: str) -> None:
    assert message in error_of(client.request(method, path, json=body), status)["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 422), (b"\xff\xfe", 422), (b"[" * 50_000, 400), (b'{"input": ' + b"9" * 5000 + b"}", 400), (b"", 422)],
)
def test_a_body_that_is_no_json(client: TestClient, body: bytes, status: int) -> None:
    error_of(client.post("/v1/embeddings", content=body, headers={"content-type": "application/json"}), status)


def test_broken_json_is_told_with_its_place(client: TestClient) -> None:
    answer = client.post("/v1/embeddings", content=b'{"input" 1}', headers={"content-type": "application/json"})
    assert error_of(answer, 422)["message"] == "the body is not JSON: Expecting ':' delimiter at character 9"


def test_json_is_not_taken_under_another_name(client: TestClient) -> None:
    """A browser sends text/plain to any server without asking it first."""
    error_of(client.post("/v1/embeddings", content=b'{"input": "a"}', headers={"content-type": "text/plain"}), 422)


def test_a_body_without_a_length_is_stopped_too(client: TestClient) -> None:
    chunks = (b" " * 10_000 for _ in range(20))
    headers = {"content-type": "application/json"}
    assert "bytes" in error_of(client.post("/v1/embeddings", content=chunks, headers=headers), 413)["message"]


def test_lone_surrogates_pass(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    body = b'{"query": "\\ud800", "documents": ["\\udfff a"], "return_documents": true}'
    answer = client.post("/v1/rerank", content=body, headers=headers)
    assert answer.status_code == 200 and "\\udfff" in answer.text
    error_of(client.post("/v1/embeddings", content=b'{"input": "a", "model": "\\ud800"}', headers=headers), 404)


def test_only_a_key_lets_in(client: TestClient) -> None:
    for given in ("", "Bearer ", "Bearer first", "Bearer first-secret2", f"Basic {KEYS[0]}", "Bearer \xe9"):
        headers = {"authorization": given.encode("latin-1")}
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere", "/page/served"):
            answer = client.get(path, headers=headers)
            assert error_of(answer, 401)["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/health", headers=headers).status_code == 200
    for key in KEYS:
        assert client.get("/v1/models", headers={"authorization": f"bearer {key}"}).status_code == 200


def test_every_answer_has_the_headers_of_safety(client: TestClient) -> None:
    for path in ("/", "/health", "/nowhere"):
        headers = client.get(path, headers={"origin": "https://elsewhere.example"}).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
        assert len(headers["x-request-id"]) == 16


def test_the_log_counts_and_never_quotes(client: TestClient) -> None:
    lines: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonLines().format(record)))

    logger, keep = logging.getLogger("diffembed.serve"), Keep()
    level = logger.level
    logger.addHandler(keep)
    logger.setLevel("INFO")
    try:
        client.post("/v1/embeddings", json={"input": ["a secret text"], "instruction": "private words"})
        client.get("/secret-path?secret-query")
        client.post("/v1/embeddings", json={"input": {"secret": 1}})
        client.post("/v1/embeddings", json={"input": "a", "model": "secret-name"})
    finally:
        logger.removeHandler(keep)
        logger.setLevel(level)
    assert [(line["route"], line["status"]) for line in lines] == [
        ("/v1/embeddings", 200), ("unmatched", 404), ("/v1/embeddings", 422), ("/v1/embeddings", 404),
    ]  # fmt: skip
    assert lines[0]["texts"] == 1 and lines[0]["tokens"] > 3 and lines[0]["caller"] == 1
    assert not any(word in json.dumps(lines) for word in ("secret", "private"))


def test_a_failure_is_500_without_its_message(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(embedder)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret")

    with TestClient(make_app({"m": engine})) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        monkeypatch.setattr("diffembed.serve.engine.encode_packed", fail)
        answer = client.post("/v1/embeddings", json={"input": "a"})
        assert "secret" not in error_of(answer, 500)["message"]
        monkeypatch.undo()
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200


def test_a_full_queue_is_429(embedder: Embedder) -> None:
    """The network waits for the test; what the queue holds is known, not timed."""
    gate, entered = threading.Event(), threading.Event()
    engine = Engine(embedder, ServeSettings(max_queue_tokens=600, timeout_s=60))
    with TestClient(make_app({"m": engine})) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        engine.batcher.tokens_per_s = None

        def hold() -> None:
            entered.set()
            assert gate.wait(60)

        client.portal.start_task_soon(engine.call, hold)  # type: ignore[union-attr]
        assert entered.wait(60)
        bodies = [{"input": [f"{i} is a number"] * 30} for i in range(12)]
        tasks = [
            threading.Thread(target=lambda b=b: codes.append(client.post("/v1/embeddings", json=b))) for b in bodies
        ]
        codes: list[Any] = []
        for task in tasks:
            task.start()
        wait_until(lambda: len(codes) >= 8 and engine.batcher.num_queue_tokens > 0)
        assert {error_of(answer, 429)["code"] for answer in codes} == {"queue_full"}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in codes)
        assert client.get("/health").json()["models"][0]["queue"]["requests"] > 1
        gate.set()
        for task in tasks:
            task.join()
        statuses = [answer.status_code for answer in codes]
        assert len(statuses) == 12 and set(statuses) == {200, 429}


def test_lateness_is_504(embedder: Embedder) -> None:
    gate, entered = threading.Event(), threading.Event()
    engine = Engine(embedder, ServeSettings(timeout_s=0.2))
    with TestClient(make_app({"m": engine})) as client:
        wait_until(lambda: client.get("/health").status_code == 200)

        def hold() -> None:
            entered.set()
            assert gate.wait(60)

        client.portal.start_task_soon(engine.call, hold)  # type: ignore[union-attr]
        assert entered.wait(60)
        assert error_of(client.post("/v1/embeddings", json={"input": "a"}), 504)["code"] == "deadline_exceeded"
        assert engine.batcher.num_queue_tokens == 0
        gate.set()


def test_a_host_name_of_somebody_else_is_refused(embedder: Embedder) -> None:
    settings = guard_loopback(ServeSettings(), "127.0.0.1")
    assert settings.allowed_hosts == LOOPBACK
    named = guard_loopback(ServeSettings(allowed_hosts=("box.example",)), "127.0.0.1")
    assert set(named.allowed_hosts) == {*settings.allowed_hosts, "box.example"}
    assert guard_loopback(ServeSettings(), "0.0.0.0").allowed_hosts == ()
    assert guard_loopback(ServeSettings(api_keys=("k",)), "127.0.0.1").allowed_hosts == ()
    with TestClient(make_app({"m": Engine(embedder, settings)}, settings=settings)) as client:
        for host, status in (
            ("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200),
            ("evil.example", 403), ("localhost.evil.example:80", 403), ("", 403),
        ):  # fmt: skip
            assert client.get("/v1/models", headers={"host": host}).status_code == status, host


def test_allowed_hosts_are_compared_as_names_are(embedder: Embedder) -> None:
    """With a capital letter or a port, an allowed name let nobody in."""
    settings = ServeSettings(allowed_hosts=("MyBox.local",))
    with TestClient(make_app({"m": Engine(embedder, settings)}, settings=settings)) as client:
        for host in ("mybox.local", "MYBOX.local:8000"):
            assert client.get("/v1/models", headers={"host": host}).status_code == 200, host
    for host in ("mybox.local:8000", "[::1]:8000", "[::1]"):
        with pytest.raises(ConfigError, match="is no bare name; leave out port and brackets"):
            ServeSettings(allowed_hosts=(host,))


def test_a_network_that_cannot_warm_up_ends_the_server(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The health check said `warming` for ever, and the error came out when somebody stopped the server."""

    def fail(_: object) -> None:
        raise RuntimeError("no kernel")

    engine = Engine(embedder)
    monkeypatch.setattr(engine, "_encode_pack", fail)
    taken = bind("127.0.0.1", 0)
    try:
        with pytest.raises(RuntimeError, match="no kernel"):
            run(make_app({"m": engine}), taken, drain_s=0, timeout_s=1)
    finally:
        taken.close()


def test_engines_are_named_without_paths(embedder: Embedder, tmp_path) -> None:
    embedder.save(tmp_path / "my-model")
    settings = ServeSettings()
    engines = load_engines([str(tmp_path / "my-model"), "twin=tiny-qwen2"], settings, lambda name: Embedder.load(name))
    assert list(engines) == [embedder.name, "twin"]
    assert Engine(Embedder.load("tiny-qwen2"), name=None).name == "tiny-qwen2"
    with pytest.raises(ConfigError, match="two models are called 'twin'"):
        load_engines(["twin=tiny-qwen2", "twin=tiny-gemma3"], settings)
    with pytest.raises(ConfigError, match="was made by gone"):
        make_app(engines, {"files": MemoryIndex(embedder, DOCUMENTS, model="gone")})
    with pytest.raises(ConfigError, match="at least one model"):
        make_app({})
    assert open_indexes([], engines) == {}
    embedder.save(tmp_path / "lr=0.1" / "model")
    named = load_engines([str(tmp_path / "lr=0.1" / "model")], settings)
    assert list(named) == [embedder.name], "the = of a folder parts no name from it"


def test_a_folder_is_read_once_for_each_model(embedder: Embedder, tmp_path, caplog) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# One\n\n" + "a language model reads. " * 60)
    (tmp_path / "notes" / "b.md").write_text("something else")
    one, two = Engine(embedder), Engine(embedder, name="two")
    (tmp_path / "notes" / "photo.png").write_bytes(b"\x89PNG")
    assert list(read_documents(tmp_path / "notes", {"one": one})) == ["notes"]
    assert "another kind of file" in str(caplog.records[-1].facts["files"])
    indexes = read_documents(tmp_path / "notes", {"tiny-gemma3": one, "two": two})
    assert list(indexes) == ["notes (tiny-gemma3)", "notes (two)"]
    with pytest.raises(ConfigError, match="an index and the documents are both called 'notes'"):
        read_documents(tmp_path / "notes", {"one": one}, taken=["notes"])
    index = indexes["notes (two)"]
    assert isinstance(index, MemoryIndex) and index.sources() == {"a.md": 3, "b.md": 1}
    assert [passage.source for passage in index.passages("a.md")] == ["a.md"] * 3
    documents, vectors = index.sample(2)
    assert [document.source for document in documents] == ["a.md", "b.md"] and vectors.shape == (2, embedder.dim)


def test_keys_of_a_file(tmp_path) -> None:
    path = tmp_path / "keys"
    path.write_text("# team a\nalpha\n\n  beta  \n")
    assert read_keys(path) == ("alpha", "beta")
    settings = ServeSettings(api_keys=read_keys(path))
    assert [settings.find_key(key) for key in ("alpha", "beta", "alph", "", "\ud800")] == [0, 1, None, None, None]
    path.write_text("# nothing\n")
    with pytest.raises(InputError, match="has no keys"):
        read_keys(path)
    with pytest.raises(ConfigError, match="max_texts is 0"):
        ServeSettings(max_texts=0)


def test_a_client_that_goes_away_is_taken_out(embedder: Embedder) -> None:
    """The application is called as a server would, and told of the disconnect while the network is held."""
    gate, entered = threading.Event(), threading.Event()
    engine = Engine(embedder)
    app = make_app({"m": engine})

    def hold() -> None:
        entered.set()
        assert gate.wait(60)

    async def run() -> list[dict[str, Any]]:
        held = asyncio.create_task(engine.call(hold))
        assert await asyncio.to_thread(entered.wait, 60)
        sent: list[dict[str, Any]] = []
        inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        inbox.put_nowait({"type": "http.request", "body": b'{"input": ["a", "b"]}', "more_body": False})

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": "/v1/embeddings", "raw_path": b"/v1/embeddings", "query_string": b"", "root_path": "",
            "headers": [(b"content-type", b"application/json"), (b"host", b"x")], "client": None, "server": None,
        }  # fmt: skip
        answering = asyncio.create_task(app(scope, inbox.get, send))
        while not engine.batcher.num_queue_tokens:
            await asyncio.sleep(0)
        inbox.put_nowait({"type": "http.disconnect"})
        await answering
        assert engine.batcher.num_queue_tokens == 0
        gate.set()
        await held
        await engine.close()
        return sent

    assert asyncio.run(run()) == []
    assert 'route="/v1/embeddings",status="499"} 1.0' in app.state.metrics.text().decode()


def test_small_answers_are_not_held_back() -> None:
    """An answer goes out as a head and a body: with Nagle's algorithm the body waits until the head is acknowledged."""

    async def of_accepted() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def on_client(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        taken = bind("127.0.0.1", 0)
        async with await asyncio.start_server(on_client, sock=taken):
            await asyncio.open_connection(*taken.getsockname())
            return await accepted

    assert asyncio.run(of_accepted())
