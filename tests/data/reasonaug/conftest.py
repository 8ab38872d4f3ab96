"""A scripted OpenAI-compatible server, and a small concept list to run against it."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

CONCEPTS = """
domains:
  - name: legal doctrine
    question_type: law
    profile: open
    difficulty: [a bar examination]
    concepts: [Promissory Estoppel, Frustration of Purpose, Mirror Image Rule]
  - name: search method
    question_type: coding
    profile: coding
    concepts: [Linear Search, Galloping Search, Fibonacci Search]
"""


@dataclass
class Reply:
    """What the server does with one request."""

    text: str = ""
    status: int = 200
    finish: str = "stop"
    refusal: str | None = None
    raw: bytes | None = None
    """Sent as it is, instead of a completion."""
    is_dropped: bool = False
    """The connection breaks in the middle of the body."""


@dataclass
class Server:
    """The address of a running server, what it is to say and what it was asked."""

    base_url: str = ""
    script: "Callable[[list[dict[str, str]], int], Reply | None] | None" = None
    """Called with the messages and how often they were seen before; None falls back to the ordinary reply."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    gate: threading.Event | None = None
    """When set up, requests beyond `gate_after` wait for it."""
    gate_after: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def message_hash(messages: Sequence[dict[str, str]]) -> str:
    return hashlib.sha256(json.dumps(list(messages)).encode()).hexdigest()


def ordinary_reply(messages: Sequence[dict[str, str]]) -> Reply:
    """What a model that always obeys would say; different words for different questions."""
    asked = messages[-1]["content"]
    mark = message_hash(messages)[:8]
    is_code = "Python" in asked or "python" in asked
    if "reference entry" in asked:
        code = f"\n```python\ndef entry_{mark}(items):\n    return sorted(items)\n```" if is_code else ""
        name = asked.splitlines()[0].partition(": ")[2]
        return Reply(f"**Definition**\n{name} is the rule that is known by the number {mark}.{code}")
    if asked.startswith("Invent one"):
        solution = f"```python\ndef solve_{mark}(x):\n    return x\n```" if is_code else f"It follows from rule {mark}."
        return Reply(
            f"**Problem**\nA baker sells bread number {mark} and asks what is owed.\n\n**Solution**\n{solution}"
        )
    if asked.startswith("Look again"):
        return Reply("YES")
    if asked.startswith("A problem and a proposed solution"):
        if not is_code:
            return Reply("YES")
        return Reply(
            f'YES\n```python\ndef clean_{mark}(x):\n    """Bread number {mark}: what is owed."""\n    return x\n```'
        )
    code = f"```python\ndef other_{mark}(x):\n    return -x\n```"
    return Reply(f"**Document**\n{code if is_code else f'A tailor, not a baker, and cloth {mark}.'}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def do_POST(self) -> None:
        state: Server = self.server.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = message_hash(body["messages"])
        with state.lock:
            num_seen = sum(message_hash(each["messages"]) == key for each in state.requests)
            state.requests.append(body)
            must_wait = state.gate is not None and len(state.requests) > state.gate_after
        if must_wait and state.gate is not None:
            state.gate.wait(60)
        scripted = state.script(body["messages"], num_seen) if state.script else None
        reply = scripted or ordinary_reply(body["messages"])
        payload = reply.raw if reply.raw is not None else self._completion(body, reply)
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        if reply.is_dropped:
            self.wfile.write(payload[: len(payload) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        # The client may be dead by now: that is what some tests are about.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(payload)

    def _completion(self, body: dict[str, Any], reply: Reply) -> bytes:
        message = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
        words = sum(len(turn["content"].split()) for turn in body["messages"])
        return json.dumps(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": reply.finish}],
                "usage": {"prompt_tokens": words, "completion_tokens": len(reply.text.split())},
            }
        ).encode()

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    pytest.importorskip("openai", reason="the extra reasonaug is not installed")
    state = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    http.state = state  # type: ignore[attr-defined]
    state.base_url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield state
    if state.gate is not None:
        state.gate.set()
    http.shutdown()
    http.server_close()


@pytest.fixture
def write_config(tmp_path: Path, server: Server) -> Callable[..., Path]:
    """Writes concepts.yaml and run.yaml for the scripted server; keywords become further settings."""

    def write(concepts: str = CONCEPTS, **settings: Any) -> Path:
        (tmp_path / "concepts.yaml").write_text(concepts, encoding="utf-8")
        endpoint = {"base_url": server.base_url, "concurrency": 4, "max_retries": 3, **settings.pop("endpoint", {})}
        generation = {"model": "scripted", "rounds": 2, **settings.pop("generation", {})}
        values = {"concepts": "concepts.yaml", "endpoint": endpoint, "generation": generation, **settings}
        path = tmp_path / "run.yaml"
        # JSON is YAML.
        path.write_text(json.dumps(values), encoding="utf-8")
        return path

    return write


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def rows_of() -> Callable[[Path], list[dict[str, Any]]]:
    """Reader of JSON lines."""
    return read_lines


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


@pytest.fixture
def obey() -> Callable[[Sequence[dict[str, str]]], Reply]:
    return ordinary_reply


@pytest.fixture
def hash_messages() -> Callable[[Sequence[dict[str, str]]], str]:
    return message_hash
