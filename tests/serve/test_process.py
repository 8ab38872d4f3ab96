"""A real server process, asked over a real socket by clients that were not written for it."""

import base64
import concurrent.futures
import json
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.serve.conftest import TEXTS, Server, wait_until

from diffembed import Embedder

RECIPES = Path(__file__).parents[2] / "recipes" / "serving"


def test_the_openai_client_gets_the_vectors_of_the_embedder(start: Callable[..., Server], embedder: Embedder) -> None:
    """Unmodified, in base64 (what it asks for by itself), in floats and for one text; then SIGTERM ends it cleanly."""
    openai = pytest.importorskip("openai")
    server = start()
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    want, report = embedder.encode(TEXTS)
    for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        answer = client.embeddings.create(model="tiny-gemma3", input=TEXTS, **options)
        rows = [row.embedding for row in answer.data]
        if options.get("encoding_format") == "base64":
            rows = [np.frombuffer(base64.b64decode(row), dtype="<f4") for row in rows]
        np.testing.assert_allclose(rows, want, atol=1e-5)
        assert answer.usage.total_tokens == report.num_tokens.sum()
    one = client.embeddings.create(model="tiny-gemma3", input=TEXTS[3], dimensions=8)
    np.testing.assert_allclose(one.data[0].embedding, embedder.encode([TEXTS[3]], dims=8)[0][0], atol=1e-5)
    asked = client.embeddings.create(model="tiny-gemma3", input=TEXTS[3], extra_body={"instruction": "find"})
    np.testing.assert_allclose(asked.data[0].embedding, embedder.encode_queries([TEXTS[3]], "find")[0], atol=1e-5)
    assert [card.id for card in client.models.list()] == ["tiny-gemma3"]
    assert client.models.retrieve("tiny-gemma3").object == "model"
    with pytest.raises(openai.NotFoundError, match="no such model"):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="tiny-gemma3", input=["word " * 9000])
    assert refused.value.code == "context_length_exceeded"
    assert server.stop() == 0
    lines = server.lines()
    assert lines[0]["event"] == "listening" and lines[0]["url"] == server.url
    assert Counter(line.get("status") for line in lines if line.get("route") == "/v1/embeddings") == {
        200: 5, 404: 1, 400: 1,
    }  # fmt: skip


@pytest.mark.slow
def test_sigterm_under_load_loses_no_accepted_request(start: Callable[..., Server], embedder: Embedder) -> None:
    """Every request whose connection was taken is answered 200 with the right vectors; new connections are refused."""
    server = start("--drain-s", "1", "--token-budget", "512")
    texts = [f"{text} {i}" for i, text in enumerate(TEXTS * 3)]
    want = embedder.encode_documents(texts)

    def one_client(number: int) -> Counter[str]:
        seen: Counter[str] = Counter()
        order = np.random.default_rng(number).permutation(len(texts))[:60]
        while True:
            # A new connection for each part, then several requests on it, as pools do.
            try:
                with httpx.Client(base_url=server.url, timeout=120) as client:
                    for _ in range(5):
                        answer = client.post("/v1/embeddings", json={"input": [texts[i] for i in order]})
                        assert answer.status_code == 200, answer.text
                        rows = [row["embedding"] for row in answer.json()["data"]]
                        np.testing.assert_allclose(rows, want[order], atol=1e-5)
                        seen["answered"] += 1
                        if answer.headers.get("connection") == "close":
                            seen["told to close"] += 1
            except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
                # Refused, or closed before the request was taken: what was taken is in the log, and compared below.
                return seen

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(one_client, number) for number in range(8)]
        wait_until(lambda: sum("tokens" in line for line in server.lines()) > 20)
        server.process.terminate()
        wait_until(lambda: httpx.get(f"{server.url}/health").json()["status"] == "draining")
        assert httpx.get(f"{server.url}/health").status_code == 503
        seen = sum((client.result() for client in clients), Counter[str]())
    assert server.process.wait(60) == 0
    assert seen["told to close"] > 0
    logged = Counter(line["status"] for line in server.lines() if line.get("route") == "/v1/embeddings")
    assert logged == {200: seen["answered"]}


@pytest.mark.slow
def test_two_replicas_behind_nginx(start: Callable[..., Server], embedder: Embedder, tmp_path: Path) -> None:
    """The configuration of recipes/serving: both replicas are used, and one that ends takes no request with it."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    first, second = start(), start()
    config = (RECIPES / "nginx.conf").read_text()
    port = free_port()
    for old, new in (
        ("127.0.0.1:8001", first.url.removeprefix("http://")),
        ("127.0.0.1:8002", second.url.removeprefix("http://")),
        ("listen 8080", f"listen 127.0.0.1:{port}"),
    ):
        assert config.count(old) == 1
        config = config.replace(old, new)
    (tmp_path / "nginx.conf").write_text(config)
    (tmp_path / "logs").mkdir()
    process = subprocess.Popen(
        [nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "logs/error.log"),
         "-g", f"daemon off; pid {tmp_path}/nginx.pid;"]
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: is_up(url))
        with httpx.Client(base_url=url, timeout=60) as client:

            def ask(number: int) -> None:
                answer = client.post("/v1/embeddings", json={"input": TEXTS[number % 30 : number % 30 + 3]})
                assert answer.status_code == 200, answer.text
                rows = [row["embedding"] for row in answer.json()["data"]]
                np.testing.assert_allclose(rows, want[number % 30 : number % 30 + 3], atol=1e-5)

            def used() -> list[int]:
                return [sum("texts" in line for line in server.lines()) for server in (first, second)]

            want = embedder.encode_documents(TEXTS)
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                list(pool.map(ask, range(60)))
                # The line of a request is written after its answer.
                wait_until(lambda: sum(used()) == 60)
                assert min(used()) > 12, used()
                asking = pool.map(ask, range(180))
                assert first.stop() == 0
                list(asking)
            assert client.get("/health").json()["status"] == "ready"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_the_ray_serve_deployment_answers(embedder: Embedder) -> None:
    """recipes/serving/ray_serve.py on this machine."""
    pytest.importorskip("ray.serve", reason="ray[serve] is not installed")
    port = free_port()
    script = (
        "import runpy, sys, json, httpx\n"
        "from ray import serve\n"
        f"module = runpy.run_path({str(RECIPES / 'ray_serve.py')!r})\n"
        f"serve.start(http_options={{'host': '127.0.0.1', 'port': {port}}})\n"
        "serve.run(module['build']({'model': 'tiny-gemma3', 'dtype': 'float32', 'replicas': 1}))\n"
        f"answer = httpx.post('http://127.0.0.1:{port}/v1/embeddings', json={{'input': ['a b', 'c']}}, timeout=60)\n"
        "print(json.dumps(answer.json()))\n"
        "serve.shutdown()\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    # Ray writes lines of its own there.
    answer = next(json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{"))
    rows = [row["embedding"] for row in answer["data"]]
    np.testing.assert_allclose(rows, embedder.encode_documents(["a b", "c"]), atol=1e-5)


def free_port() -> int:
    """A port nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_up(url: str) -> bool:
    """True when somebody answers."""
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False
