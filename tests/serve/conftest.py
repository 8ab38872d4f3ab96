"""Servers to test: the application inside the test, and a real process on a free loopback port."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from diffembed import Embedder

MODEL = "tiny-gemma3"
TEXTS = [f"text {i}: " + "a language model reads a text in both directions. " * (i % 7) for i in range(40)]


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return Embedder.load(MODEL, dtype="float32", token_budget=256)


@dataclass
class Server:
    """A running `diffembed serve`."""

    process: "subprocess.Popen[str]"
    url: str
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        """The log so far; what is not JSON fails the test."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if not line.startswith("diffembed: ")]

    def stop(self, seconds: float = 60) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Server]]:
    """`start("--timeout-s", "5")`: a server process that is ready; all are killed at the end of the module."""
    servers: list[Server] = []

    def started(*options: str, model: str = MODEL) -> Server:
        log = Path(tempfile.mkstemp(suffix=".log")[1])
        command = [sys.executable, "-m", "diffembed", "serve", "--model", model, "--dtype", "float32", "--port", "0"]
        with log.open("w") as err:
            process = subprocess.Popen(
                [*command, "--json", *options], stdout=subprocess.PIPE, stderr=err, text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        server = Server(process, json.loads(line)["url"], log)
        servers.append(server)
        wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 200)
        return server

    yield started
    for server in servers:
        server.process.kill()
        server.process.wait()
        server.log.unlink()


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Returns as soon as it holds; fails when it never does."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it never came true"
        time.sleep(0.01)
