"""Inputs that nobody would think of, to every route of the published schema, with a valid key: never a 500."""

import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.serve.conftest import Server

KEY = "a-valid-key"
HEADERS = {"authorization": f"Bearer {KEY}"}
GOOD: dict[tuple[str, str], Any] = {
    ("POST", "/v1/embeddings"): {"input": ["a", "b"]},
    ("POST", "/v1/rerank"): {"query": "a", "documents": ["b", {"text": "c"}]},
    ("POST", "/embed"): {"inputs": "a"},
    ("POST", "/v1/search"): {"query": "a"},
    ("GET", "/v1/models"): None,
    ("GET", "/v1/models/{name}"): None,
    ("GET", "/health"): None,
    ("GET", "/metrics"): None,
}
"""A request to each route that must be answered 200."""


@pytest.fixture(scope="module")
def server(start: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "keys").write_text(KEY)
    (folder / "texts").mkdir()
    for number in range(3):
        (folder / "texts" / f"{number}.md").write_text(f"a text about the number {number}")
    return start("--documents", str(folder / "texts"), "--api-key-file", str(folder / "keys"))


def statuses_of(operation: Any, mode: Any, num_examples: int) -> Counter[int]:
    """Statuses of requests to a route that fit its schema, or do not, as the mode says."""
    from hypothesis import HealthCheck, given, settings

    statuses: Counter[int] = Counter()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=num_examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def one(case: Any) -> None:
        answer = case.call(headers=HEADERS)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, (case.body, case.path_parameters, answer.text)
        if answer.status_code != 200:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    one()
    return statuses


def check(server: Server, num_examples: int) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=HEADERS)
    seen: dict[tuple[str, str], Counter[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        route = (operation.method.upper(), operation.path)
        seen[route] = statuses_of(operation, schemathesis.GenerationMode.POSITIVE, num_examples)
        # A route that takes nothing cannot be given anything wrong.
        if route[0] == "POST":
            seen[route] += statuses_of(operation, schemathesis.GenerationMode.NEGATIVE, num_examples)
    assert set(seen) == set(GOOD), "a route of the schema has no good request here, or the other way round"
    assert 422 in seen["POST", "/v1/embeddings"] and 404 in seen["GET", "/v1/models/{name}"], seen
    assert all(sum(statuses.values()) > num_examples for (method, _), statuses in seen.items() if method == "POST")
    with httpx.Client(base_url=server.url, headers=HEADERS) as client:
        for (method, path), body in GOOD.items():
            answer = client.request(method, path.replace("{name}", "tiny-gemma3"), json=body)
            assert answer.status_code == 200, (path, answer.text)
    # `/health` is 503 while the server warms up.
    assert not [line for line in server.lines() if line.get("status", 0) >= 500 and line["route"] != "/health"]


def test_no_input_is_a_500(server: Server) -> None:
    check(server, 8)


@pytest.mark.slow
def test_no_input_is_a_500_at_length(server: Server) -> None:
    check(server, 150)


def test_files_are_not_reached_through_a_path(server: Server) -> None:
    """Sent as it stands: a client would tidy `..` away."""
    host, port = server.url.removeprefix("http://").split(":")
    for path in ("/static/../page.py", "/static/%2e%2e/page.py", "/static//etc/passwd", "/v1/models/../../etc/passwd"):
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            raw.sendall(
                f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b"".join(iter(lambda raw=raw: raw.recv(65536), b""))
        assert answer.split()[1] in (b"404", b"400"), (path, answer[:200])
