"""Serving side by side: `diffembed serve` against plain FastAPI + sentence-transformers, same weights, one run.

    python -m benchmarks.serve

Each server is a process of its own, loaded once; they take turns, and only one is asked at a time. Requests hold one to
eight ragged texts. The plain server may choose its batch size and whether it encodes one request at a time. Then the
same texts go through the library alone, for the overhead, and a server with a short queue is asked for twice of what it
can do. Writes benchmarks/results/serve.json, a key for each model, and the section `serve` of docs/benchmarks.md.
"""

import argparse
import asyncio
import atexit
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.encode import ragged_texts
from benchmarks.report import machine_line, write_section
from diffembed.provenance import environment, write_json

RESULT = Path(__file__).parent / "results" / "serve.json"
CLIENTS = (1, 8, 32)
TEXTS_A_REQUEST = (1, 1, 2, 4, 8)
PLAIN_BATCHES = (1, 4, 8, 32)
SOAK_QUEUE_TOKENS = 16_384


class Process:
    """A server that says its address as JSON on its first line."""

    def __init__(self, name: str, *command: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        # No server outlives the benchmark, however that ends.
        atexit.register(self._process.kill)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{name} ended without an answer")
        self.facts = json.loads(line)
        self.url = self.facts["url"]
        while httpx.get(f"{self.url}/health").status_code != 200:
            time.sleep(0.1)

    def network_s(self) -> float:
        """Seconds for which its network has been at work, by its own metrics."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("diffembed_pack_seconds_sum"))

    def rss_bytes(self) -> int:
        """Memory it holds now."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self._process.terminate()
        return self._process.wait(400)


def requests_of(texts: list[str], seed: int) -> list[list[int]]:
    """Places of the texts in requests of the sizes of TEXTS_A_REQUEST, in a random order."""
    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    requests, position = [], 0
    while position < len(order):
        size = TEXTS_A_REQUEST[len(requests) % len(TEXTS_A_REQUEST)]
        requests.append(order[position : position + size])
        position += size
    return requests


async def ask(client: httpx.AsyncClient, texts: list[str]) -> tuple[int, float, Any]:
    """(status, seconds, answer) of one request."""
    started = time.perf_counter()
    answer = await client.post("/v1/embeddings", json={"input": texts, "truncate": "truncate"})
    return answer.status_code, time.perf_counter() - started, answer.json()


def in_waves(url: str, texts: list[str], num_tokens: list[int], num_clients: int, seconds: float) -> dict[str, Any]:
    """So many clients, each asking again as soon as it is answered. Tokens are counted over the time of the whole."""
    requests = requests_of(texts, num_clients)

    async def run() -> dict[str, Any]:
        latencies: list[float] = []
        tokens, turn = 0, 0
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
            started = time.perf_counter()

            async def one() -> None:
                nonlocal tokens, turn
                while time.perf_counter() - started < seconds:
                    places = requests[turn % len(requests)]
                    turn += 1
                    status, elapsed, answer = await ask(client, [texts[i] for i in places])
                    if status != 200:
                        raise RuntimeError(f"status {status}: {answer}")
                    latencies.append(elapsed)
                    tokens += sum(num_tokens[i] for i in places)

            await asyncio.gather(*(one() for _ in range(num_clients)))
            total = time.perf_counter() - started
        return {
            "requests": len(latencies),
            "tokens_per_s": tokens / total,
            "p50_s": float(np.quantile(latencies, 0.5)),
            "p95_s": float(np.quantile(latencies, 0.95)),
        }

    return asyncio.run(run())


def soak(server: Process, texts: list[str], offline: Any, rate: float, seconds: float) -> dict[str, Any]:
    """Requests at a fixed rate whatever is answered. Every vector is compared with the one of the library."""
    requests = requests_of(texts, 7)

    async def run() -> dict[str, Any]:
        seen: Counter[int] = Counter()
        worst, memory = 1.0, []
        pending: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(
            base_url=server.url, timeout=600, limits=httpx.Limits(max_connections=None)
        ) as client:

            async def one(places: list[int]) -> None:
                nonlocal worst
                status, _, answer = await ask(client, [texts[i] for i in places])
                seen[status] += 1
                if status == 200:
                    rows = np.array([row["embedding"] for row in answer["data"]])
                    worst = min(worst, float((rows * offline[places]).sum(1).min()))

            started, turn = time.perf_counter(), 0
            while (now := time.perf_counter() - started) < seconds:
                while turn < now * rate:
                    task = asyncio.create_task(one(requests[turn % len(requests)]))
                    pending.add(task)
                    task.add_done_callback(pending.discard)
                    turn += 1
                memory.append((now, server.rss_bytes()))
                await asyncio.sleep(0.05)
            await asyncio.gather(*pending)
        # The first quarter fills caches and the allocator's pages.
        settled = [size for at, size in memory if seconds / 4 <= at < seconds / 2]
        last = [size for at, size in memory if at >= seconds * 3 / 4]
        return {
            "seconds": seconds,
            "requests_per_s": rate,
            "statuses": {str(status): count for status, count in sorted(seen.items())},
            "smallest_cosine": worst,
            "rss_settled_bytes": int(statistics.median(settled)),
            "rss_end_bytes": int(statistics.median(last)),
            "rss_growth": statistics.median(last) / statistics.median(settled) - 1,
        }

    return asyncio.run(run())


def serve_plain(folder: str, dtype: str) -> None:
    """The server that one would write in ten lines, with the best of its settings, on a folder that we exported."""
    import contextlib
    import socket

    import torch
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
    texts = ragged_texts(32, seed=5)
    seconds = {}
    with ThreadPoolExecutor(1) as thread:
        for batch in PLAIN_BATCHES:
            thread.submit(model.encode_document, texts[:batch], batch_size=batch).result()
            started = time.perf_counter()
            thread.submit(model.encode_document, texts, batch_size=batch).result()
            seconds[batch] = time.perf_counter() - started
    best = min(seconds, key=lambda batch: seconds[batch])
    turn: dict[str, Any] = {"lock": contextlib.nullcontext()}
    app = FastAPI()

    class Body(BaseModel):
        input: list[str]

    @app.post("/v1/embeddings")
    def embeddings(body: Body) -> dict[str, Any]:
        with turn["lock"]:
            vectors = model.encode_document(body.input, batch_size=best, normalize_embeddings=True)
        rows = [{"object": "embedding", "index": i, "embedding": row.tolist()} for i, row in enumerate(vectors)]
        return {"object": "list", "data": rows}

    @app.post("/one-at-a-time/{is_on}")
    def one_at_a_time(is_on: bool) -> None:
        turn["lock"] = threading.Lock() if is_on else contextlib.nullcontext()

    @app.get("/health")
    def health() -> None:
        return None

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    print(json.dumps({"url": f"http://127.0.0.1:{port}", "batch": best, "search_s": seconds}), flush=True)
    uvicorn.run(app, port=port, log_level="error", access_log=False)


def main() -> None:
    """Runs everything and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--max-tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--soak-seconds", type=float, default=600.0)
    given = parser.parse_args()
    if given.plain:
        serve_plain(given.model, given.dtype)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    from diffembed import Embedder
    from diffembed.embedding.export import export_embedder

    embedder = Embedder.load(given.model, dtype=given.dtype, max_tokens=given.max_tokens)
    texts = ragged_texts(160, seed=6)
    offline, report = embedder.encode(texts, progress=False)
    num_tokens = report.num_tokens.tolist()
    options = ["--model", given.model, "--dtype", given.dtype, "--max-tokens", str(given.max_tokens)]
    ours = Process("diffembed serve", "diffembed", "serve", *options, "--port", "0", "--json")
    folder = Path(tempfile.mkdtemp()) / "exported"
    export_embedder(given.model, folder, dtype="float32", max_tokens=given.max_tokens)
    plain = Process(
        "FastAPI + sentence-transformers", "benchmarks.serve", "--plain", "--model", str(folder), "--dtype", given.dtype
    )

    # The same vectors, or nothing would be compared.
    answer = httpx.post(f"{plain.url}/v1/embeddings", json={"input": texts[:8]}, timeout=600).json()
    agreement = float((np.array([row["embedding"] for row in answer["data"]]) * offline[:8]).sum(1).min())
    if agreement < 0.999:
        raise RuntimeError(f"the plain server gives other vectors, cosine {agreement:.4f}")
    locked = {}
    for is_on in (True, False):
        httpx.post(f"{plain.url}/one-at-a-time/{is_on}")
        locked[is_on] = in_waves(plain.url, texts, num_tokens, 8, given.seconds / 2)["tokens_per_s"]
    is_locked = locked[True] >= locked[False]
    httpx.post(f"{plain.url}/one-at-a-time/{is_locked}")

    runs: dict[str, dict[int, list[dict[str, Any]]]] = {server.name: {} for server in (ours, plain)}
    overhead = []
    # libgomp waits in another way in the first thread of a process than in later ones, fourfold slower on one that
    # is shared; both servers encode in later ones, so everything that is compared with them does.
    thread = ThreadPoolExecutor(1)
    for turn in range(given.rounds):
        for count in CLIENTS:
            for server in (ours, plain):
                worked, started = server.network_s() if server is ours else 0.0, time.perf_counter()
                run = in_waves(server.url, texts, num_tokens, count, given.seconds)
                if server is ours:
                    run["busy_fraction"] = (server.network_s() - worked) / (time.perf_counter() - started)
                runs[server.name].setdefault(count, []).append(run)
                print(f"round {turn}, {count} clients, {server.name}: {run}", file=sys.stderr)
        started = time.perf_counter()
        thread.submit(embedder.encode, texts, progress=False).result()
        alone = sum(num_tokens) / (time.perf_counter() - started)
        overhead.append({"library": alone, "server": runs[ours.name][CLIENTS[-1]][-1]["tokens_per_s"]})
    rates = [run["tokens_per_s"] for run in runs[ours.name][CLIENTS[-1]]]
    for server in (ours, plain):
        server.stop()
    shutil.rmtree(folder.parent)

    mean_tokens = sum(num_tokens) / len(requests_of(texts, 7))
    short = Process(
        "short queue", "diffembed", "serve", *options, "--port", "0", "--json",
        "--max-queue-tokens", str(SOAK_QUEUE_TOKENS),
    )  # fmt: skip
    soaked = soak(short, texts, offline, 2 * statistics.median(rates) / mean_tokens, given.soak_seconds)
    exit_code = short.stop()

    rows = {name: {count: _medians(some) for count, some in counts.items()} for name, counts in runs.items()}
    result = {
        "model": given.model,
        "dtype": given.dtype,
        "texts": {"count": len(texts), "tokens": sum(num_tokens), "longest": max(num_tokens)},
        "servers": rows,
        "runs": runs,
        # Round by round and then the median, so that a slow minute cancels.
        "ours_is_faster_by": {
            count: statistics.median(
                own["tokens_per_s"] / other["tokens_per_s"]
                for own, other in zip(runs[ours.name][count], runs[plain.name][count], strict=True)
            )
            for count in CLIENTS
        },
        "plain": {"batch": plain.facts["batch"], "batch_search_s": plain.facts["search_s"], "one_at_a_time": is_locked},
        "plain_lock_search_tokens_per_s": {str(key): value for key, value in locked.items()},
        "overhead": overhead,
        "server_of_library": statistics.median(pair["server"] / pair["library"] for pair in overhead),
        "busy_fraction": rows[ours.name][CLIENTS[-1]]["busy_fraction"],
        "soak": soaked | {"exit_code": exit_code},
        "environment": environment(),
        "date": time.strftime("%Y-%m-%d"),
        "command": "python -m benchmarks.serve" + "".join(f" {part}" for part in sys.argv[1:]),
    }
    kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    write_json(RESULT, kept | {given.model: result})
    write_section("serve", "Serving", "\n\n".join(map(_table, json.loads(RESULT.read_text()).values())))
    print(json.dumps({key: value for key, value in result.items() if key not in ("runs", "environment")}, indent=2))


def _medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def _table(result: dict[str, Any]) -> str:
    texts, soaked, plain = result["texts"], result["soak"], result["plain"]
    lines = [
        machine_line(result),
        "",
        f"{result['model']} in {result['dtype']}, {texts['count']} texts of {texts['tokens'] / texts['count']:.0f} "
        f"tokens in the mean and {texts['longest']} in the longest, one to eight in a request; medians of interleaved "
        f"rounds. The other server is FastAPI with sentence-transformers at its best: batch {plain['batch']}, "
        f"{'one request at a time' if plain['one_at_a_time'] else 'requests in threads'}.",
        "",
        "| clients | diffembed tokens/s | p95 | the other tokens/s | p95 | diffembed is faster by |",
        "|---|---|---|---|---|---|",
    ]
    own, other = result["servers"].values()
    for count, faster in result["ours_is_faster_by"].items():
        left, right = own[count], other[count]
        lines.append(
            f"| {count} | {left['tokens_per_s']:,.0f} | {left['p95_s']:.2f} s | {right['tokens_per_s']:,.0f} | "
            f"{right['p95_s']:.2f} s | {faster:.2f} x |"
        )
    statuses = ", ".join(f"{count:,} x {status}" for status, count in soaked["statuses"].items())
    memory = [soaked[key] / 2**20 for key in ("rss_settled_bytes", "rss_end_bytes")]
    lines += [
        "",
        f"With {CLIENTS[-1]} clients the network is at work {result['busy_fraction']:.1%} of the time, and the server "
        f"does {result['server_of_library']:.0%} of the tokens per second that the library does alone on these texts.",
        "",
        f"Soak, {soaked['seconds']:.0f} s at twice that rate with a queue of {SOAK_QUEUE_TOKENS:,} tokens: {statuses}; "
        f"smallest cosine of an answered vector with the library's: {soaked['smallest_cosine']:.6f}; memory "
        f"{memory[0]:,.0f} MiB in the second quarter, {memory[1]:,.0f} MiB in the last ({soaked['rss_growth']:+.1%}).",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
