"""Search and builds of an index: time, memory and recall beside faiss and exact numpy, the job beside the raw engine.

    DIFFEMBED_DATA=... python -m benchmarks.index

Parts: `million` (1,000,000 vectors of 640 components), `real` (100,000 chunks of real text, real questions, hybrid
search too), `job` (a build beside `Embedder.encode`), `ray` (a build on a Ray cluster of this machine beside the local
one). Each contestant lives in a process of its own. Writes benchmarks/results/index.json and the section `index` of
docs/benchmarks.md; a part that is left out keeps its last figures.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.index_data import MODEL, NOISE, NUM_CHUNKS, encoded, million, real_chunks, real_queries, widen
from benchmarks.index_table import make_table
from benchmarks.report import write_section
from diffembed.provenance import atomic_file, environment, user_cache, write_json
from diffembed.records import Document, Vectors

RESULT = Path(__file__).parent / "results" / "index.json"
PARTS = ("million", "real", "job", "ray")
NUM_VECTORS, DIM = 1_000_000, 640
NUM_QUERIES, NUM_WARM = 200, 20
TOP_K = 10
OVERSAMPLE = 10
"""Of the rivals that rescore, as in `diffembed.index.search`."""
ROWS_PER_WRITE = 50_000
JOB_CHUNKS, RAY_CHUNKS, ROUNDS = 8_000, 200_000, 3
"""Texts of each build; the longer one is for a job of ten minutes or more."""


def peak_bytes() -> int:
    """Highest resident memory of this process; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def timed(search: Callable[[Vectors], list[int]], queries_QD: Vectors) -> dict[str, Any]:
    """Places found for each question, asked one by one, and the milliseconds that took."""
    for query_D in queries_QD[:NUM_WARM]:
        search(query_D)
    found, milliseconds = [], []
    for query_D in queries_QD:
        started = time.perf_counter()
        found.append(search(query_D))
        milliseconds.append(1000 * (time.perf_counter() - started))
    return {"found": found, **latency(milliseconds)}


def latency(milliseconds: list[float]) -> dict[str, float]:
    """p50 and p95."""
    return {"p50_ms": statistics.median(milliseconds), "p95_ms": float(np.percentile(milliseconds, 95))}


# Contestants: each builds from a file of vectors of length 1, read block by block, and answers questions.


@dataclass(frozen=True)
class VectorFile:
    """A .npy of [N, D] vectors; what is read is copied and unmapped, so that no process is charged for the file."""

    path: str
    shape: tuple[int, int]

    @classmethod
    def of(cls, path: str) -> "VectorFile":
        """Reads the header."""
        num, dim = np.load(path, mmap_mode="r").shape
        return cls(path, (num, dim))

    def rows(self, places: slice | NDArray[np.intp]) -> Vectors:
        """Copies of some rows."""
        return np.array(np.load(self.path, mmap_mode="r")[places])

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """All rows in order, each block with the place of its first."""
        for first in range(0, self.shape[0], ROWS_PER_WRITE):
            yield first, self.rows(slice(first, first + ROWS_PER_WRITE))


def run_numpy(vectors: VectorFile, queries_QD: Vectors, spec: dict[str, Any]) -> dict[str, Any]:
    """Every vector compared."""
    vectors_ND = np.load(vectors.path)

    def search(query_D: Vectors) -> list[int]:
        scores_N = vectors_ND @ query_D
        best = np.argpartition(-scores_N, TOP_K)[:TOP_K]
        return [int(place) for place in best[np.argsort(-scores_N[best])]]

    return {"build_s": 0.0, **timed(search, queries_QD)}


def run_index(vectors: VectorFile, queries_QD: Vectors, spec: dict[str, Any]) -> dict[str, Any]:
    """The index of diffembed, whatever its size by the approximate path."""
    from diffembed.index.index import Index
    from diffembed.index.maintenance import make_vector_index
    from diffembed.index.settings import IndexSettings
    from diffembed.index.store import Store

    folder = Path(tempfile.mkdtemp(prefix="diffembed-bench-"))
    try:
        settings = IndexSettings(
            model="benchmark", model_hash="", dim=vectors.shape[1], precision=spec.get("precision", "float32")
        )
        store = Store.create(folder, settings)
        started = time.perf_counter()
        write_rows(store, vectors, [""] * vectors.shape[0])
        written = time.perf_counter()
        make_vector_index(store)
        built = time.perf_counter()
        build_peak = peak_bytes()
        index = Index(store, None, exact_rows=0, **({"num_probes": spec["probes"]} if "probes" in spec else {}))

        def search(query_D: Vectors) -> list[int]:
            return [int(hit.document.id) for hit in index.search_vector(query_D, k=TOP_K)]

        answers = timed(search, queries_QD)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return {
            "write_s": written - started,
            "build_s": built - written,
            "build_peak_bytes": build_peak,
            "disk_bytes": size,
            **answers,
        }
    finally:
        shutil.rmtree(folder)


def write_rows(store: Any, vectors: VectorFile, texts: list[str]) -> None:
    """All rows, a thousand chunks to a document, committed at once."""
    from diffembed.index.store import EncodedDocument

    fragments: list[Any] = []
    for first, block_ND in vectors.blocks():
        documents = []
        for start in range(first, first + len(block_ND), 1000):
            rows = block_ND[start - first : start - first + 1000]
            chunks = [Document(id=str(start + i), text=texts[start + i]) for i in range(len(rows))]
            zeros = [0] * len(rows)
            documents.append(
                EncodedDocument(
                    id=str(start), content_hash="", chunks=chunks, vectors=rows, num_tokens=zeros, is_truncated=zeros
                )
            )
        if first == 0:
            store.calibrate(block_ND)
        fragments += store.write(store.make_table(documents))
    store.commit(fragments)


def run_faiss_ivf_pq(vectors: VectorFile, queries_QD: Vectors, spec: dict[str, Any]) -> dict[str, Any]:
    """IVF-PQ with codes as long as ours, and as ours rescored with the vectors on the disk."""
    import faiss

    num, dim = vectors.shape
    started = time.perf_counter()
    index = faiss.index_factory(dim, f"IVF{spec['partitions']},PQ{dim // 8}x8", faiss.METRIC_INNER_PRODUCT)
    # As many as both of its code books ask for: 64 points a partition, and 39 for each of 256 codes.
    num_sampled = min(num, max(64 * spec["partitions"], 39 * 256))
    sample = np.sort(np.random.default_rng(0).choice(num, num_sampled, replace=False))
    index.train(vectors.rows(sample))
    for _, block_ND in vectors.blocks():
        index.add(block_ND)
    built, build_peak = time.perf_counter() - started, peak_bytes()
    index.nprobe = spec["probes"]
    vectors_ND = np.load(vectors.path, mmap_mode="r")

    def search(query_D: Vectors) -> list[int]:
        places = index.search(query_D[None], TOP_K * OVERSAMPLE)[1][0]
        places = places[places >= 0]
        return [int(place) for place in places[np.argsort(-(vectors_ND[places] @ query_D))[:TOP_K]]]

    return {"build_s": built, "build_peak_bytes": build_peak, **timed(search, queries_QD)}


def run_faiss_hnsw(vectors: VectorFile, queries_QD: Vectors, spec: dict[str, Any]) -> dict[str, Any]:
    """HNSW over whole vectors, or over 8 bits of each component where spec asks for it."""
    import faiss

    started = time.perf_counter()
    index = faiss.index_factory(vectors.shape[1], f"HNSW{spec['links']},{spec['storage']}", faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = spec["construction"]
    if not index.is_trained:
        index.train(vectors.rows(slice(ROWS_PER_WRITE)))
    for _, block_ND in vectors.blocks():
        index.add(block_ND)
    built, build_peak = time.perf_counter() - started, peak_bytes()
    index.hnsw.efSearch = spec["search"]

    def search(query_D: Vectors) -> list[int]:
        return [int(place) for place in index.search(query_D[None], TOP_K)[1][0]]

    return {"build_s": built, "build_peak_bytes": build_peak, **timed(search, queries_QD)}


def run_hybrid(vectors: VectorFile, queries_QD: Vectors, spec: dict[str, Any]) -> dict[str, Any]:
    """Questions as people ask them, encoding included, over an index with full text."""
    from diffembed import Embedder
    from diffembed.index.index import Index
    from diffembed.index.maintenance import make_vector_index, tidy
    from diffembed.index.settings import IndexSettings, identify
    from diffembed.index.store import Store

    embedder = Embedder.load(MODEL)
    folder = Path(tempfile.mkdtemp(prefix="diffembed-bench-"))
    try:
        settings = IndexSettings(model=MODEL, model_hash=identify(embedder), dim=embedder.dim)
        store = Store.create(folder, settings)
        write_rows(store, vectors, real_chunks(vectors.shape[0]))
        started = time.perf_counter()
        tidy(store)
        make_vector_index(store)
        built = time.perf_counter() - started
        index = Index(store, embedder, exact_rows=0)
        questions = real_queries()[:: max(1, len(real_queries()) // NUM_QUERIES)][:NUM_QUERIES]
        result: dict[str, Any] = {"build_s": built}
        for mode in ("dense", "bm25", "hybrid"):
            milliseconds = []
            for question in questions[:NUM_WARM] + questions:
                started = time.perf_counter()
                index.search(question, k=TOP_K, mode=mode, collapse=False)  # type: ignore[arg-type]
                milliseconds.append(1000 * (time.perf_counter() - started))
            result[mode] = latency(milliseconds[NUM_WARM:])
        return result
    finally:
        shutil.rmtree(folder)


CONTESTANTS = {
    "numpy": run_numpy,
    "index": run_index,
    "faiss_ivf_pq": run_faiss_ivf_pq,
    "faiss_hnsw": run_faiss_hnsw,
    "hybrid": run_hybrid,
}


def work(spec: dict[str, Any]) -> None:
    """The process of a contestant."""
    result = CONTESTANTS[spec["kind"]](VectorFile.of(spec["vectors"]), np.load(spec["queries"]), spec)
    Path(spec["out"]).write_text(json.dumps({**result, "peak_bytes": peak_bytes()}))


def compete(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Runs one contestant to its end."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, "-m", "benchmarks.index", "--worker", json.dumps({**spec, "out": str(out)})]
        subprocess.run(command, check=True)
        result = json.loads(out.read_text())
    shown = {key: value for key, value in result.items() if key != "found"}
    print(f"{name}: {json.dumps(shown)}", file=sys.stderr, flush=True)
    return result


def compare(
    files: dict[str, str], contestants: dict[str, dict[str, Any]], rows: dict[str, Any], save: Callable[[], None]
) -> None:
    """Adds a row for every contestant, with recall@10 against the exact search, which comes first."""
    exact: list[list[int]] = []
    for name, spec in contestants.items():
        row = compete(name, {**spec, **files})
        found = row.pop("found")
        exact = exact or found
        row["recall"] = float(np.mean([len(set(a) & set(b)) / TOP_K for a, b in zip(found, exact, strict=True)]))
        rows[name] = {**row, "settings": spec}
        save()


def kept(name: str, make: Callable[[], Iterator[Vectors]], shape: tuple[int, int]) -> str:
    """A .npy in the cache, written block by block."""
    path = user_cache() / "benchmarks" / f"{name}.npy"
    if not path.exists():
        with atomic_file(path) as part:
            out = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
            first = 0
            for block in make():
                out[first : first + len(block)] = block
                first += len(block)
            out.flush()
    return str(path)


def spread(queries_QD: Vectors) -> Vectors:
    """Questions of all corpora."""
    return queries_QD[:: max(1, len(queries_QD) // NUM_QUERIES)][:NUM_QUERIES]


def measure_million(scale: float, num_chunks: int, result: dict[str, Any], save: Callable[[], None]) -> None:
    """Part `million`."""
    num = int(NUM_VECTORS * scale)
    chunks = encoded(real_chunks(num_chunks), "document")
    queries = widen(spread(encoded(real_queries(), "query")), DIM)
    files = {
        "vectors": kept(f"million-{num}-{DIM}-{NOISE}-{len(chunks)}", lambda: million(chunks, num, DIM), (num, DIM)),
        "queries": kept(f"million-queries-{DIM}", lambda: iter([queries]), queries.shape),
    }
    partitions = max(1, num // 4096)
    contestants: dict[str, dict[str, Any]] = {
        "exact numpy": {"kind": "numpy"},
        "diffembed index, float32": {"kind": "index"},
        "faiss IVF-PQ, rescored": {"kind": "faiss_ivf_pq", "partitions": partitions, "probes": 32},
        "diffembed index, int8": {"kind": "index", "precision": "int8"},
        "faiss HNSW, 8 bits": {"kind": "faiss_hnsw", "links": 16, "storage": "SQ8", "construction": 40, "search": 128},
    }
    result |= {"num_vectors": num, "dim": DIM, "num_chunks": len(chunks), "num_queries": len(queries), "rows": {}}
    compare(files, contestants, result["rows"], save)


def measure_real(scale: float, num_chunks: int, result: dict[str, Any], save: Callable[[], None]) -> None:
    """Part `real`."""
    chunks = encoded(real_chunks(num_chunks), "document")
    chunks = chunks[: int(len(chunks) * scale)]
    queries = spread(encoded(real_queries(), "query"))
    num, dim = chunks.shape
    files = {
        "vectors": kept(f"real-{num}", lambda: iter([chunks]), chunks.shape),
        "queries": kept("real-queries", lambda: iter([queries]), queries.shape),
    }
    contestants: dict[str, dict[str, Any]] = {
        "exact numpy": {"kind": "numpy"},
        "diffembed index, float32": {"kind": "index"},
        "diffembed index, int8": {"kind": "index", "precision": "int8"},
        "faiss IVF-PQ, rescored": {"kind": "faiss_ivf_pq", "partitions": max(1, num // 4096), "probes": 32},
        "faiss HNSW": {"kind": "faiss_hnsw", "links": 32, "storage": "Flat", "construction": 40, "search": 64},
    }
    result |= {"num_vectors": num, "dim": dim, "num_queries": len(queries), "rows": {}}
    result["questions"] = compete("questions of people", {"kind": "hybrid", **files})
    compare(files, contestants, result["rows"], save)


def corpus_file(folder: Path, num_chunks: int) -> Path:
    """A jsonl of chunks, one document each."""
    path = folder / "corpus.jsonl"
    rows = (json.dumps({"_id": str(i), "text": text}) for i, text in enumerate(real_chunks(num_chunks)))
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def build(folder: Path, source: Path, embedder: Any, **more: Any) -> tuple[float, dict[str, Any]]:
    """Seconds of one build from nothing, and its report."""
    import dataclasses

    from diffembed.documents import ChunkPolicy
    from diffembed.index import build_index

    if folder.exists():
        shutil.rmtree(folder)
    started = time.perf_counter()
    report = build_index(
        folder, [source], embedder=embedder, location=MODEL, chunks=ChunkPolicy(kind="whole"), progress=False, **more
    )
    return time.perf_counter() - started, dataclasses.asdict(report)


def measure_job(scale: float, num_chunks: int, result: dict[str, Any], save: Callable[[], None]) -> None:
    """Part `job`: the same texts by `Embedder.encode` and by a build, in turn; weights are loaded before."""
    from diffembed import Embedder

    embedder = Embedder.load(MODEL)
    texts = real_chunks(int(JOB_CHUNKS * scale))
    raw, job, tokens = [], [], 0
    with tempfile.TemporaryDirectory(prefix="diffembed-bench-") as place:
        source = corpus_file(Path(place), len(texts))
        embedder.encode(texts[:500], progress=False)
        for _ in range(ROUNDS):
            _, report = embedder.encode(texts, progress=False)
            raw.append(report.seconds)
            seconds, built = build(Path(place) / "index", source, embedder)
            tokens = built["num_tokens"]
            job.append(seconds)
            print(f"job: raw {raw[-1]:.1f} s, build {job[-1]:.1f} s", file=sys.stderr, flush=True)
    overhead = statistics.median(ours / engine for ours, engine in zip(job, raw, strict=True)) - 1
    result |= {"num_chunks": len(texts), "num_tokens": tokens, "raw_s": raw, "job_s": job, "overhead": overhead}


def measure_ray(scale: float, num_chunks: int, result: dict[str, Any], save: Callable[[], None]) -> None:
    """Part `ray`: one build by the local path, one on a cluster of this machine, whose start is not counted."""
    import ray

    from diffembed import Embedder

    embedder = Embedder.load(MODEL)
    num_chunks = int(RAY_CHUNKS * scale)
    with tempfile.TemporaryDirectory(prefix="diffembed-bench-") as place:
        source = corpus_file(Path(place), num_chunks)
        local_s, report = build(Path(place) / "local", source, embedder)
        ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        try:
            # Starting includes loading the weights in the actor: a build of one block takes it all.
            (Path(place) / "small").mkdir()
            start_s, _ = build(Path(place) / "warm", corpus_file(Path(place) / "small", 16), embedder, ray="auto")
            whole_s, on_ray = build(Path(place) / "ray", source, embedder, ray="auto")
        finally:
            ray.shutdown()
    assert on_ray["num_tokens"] == report["num_tokens"] and on_ray["num_chunks"] == report["num_chunks"]
    result |= {
        "num_chunks": num_chunks,
        "num_tokens": report["num_tokens"],
        "local_s": local_s,
        "ray_s": whole_s,
        "start_s": start_s,
        "overhead": (whole_s - start_s) / local_s - 1,
    }


def main() -> None:
    """Runs the parts and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--chunks", type=int, default=NUM_CHUNKS, help="real texts that are encoded")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes; below 1 nothing is written")
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    measure = {"million": measure_million, "real": measure_real, "job": measure_job, "ray": measure_ray}
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for part in arguments.only:
        command = f"python -m benchmarks.index --only {part}"
        result[part] = {"date": time.strftime("%Y-%m-%d"), "command": command, "environment": environment()}

        def save() -> None:
            """After every contestant, so that a run that is stopped has told what it measured."""
            if arguments.scale >= 1:
                write_json(RESULT, result)
                write_section("index", "Index", make_table(json.loads(RESULT.read_text())))

        measure[part](arguments.scale, arguments.chunks, result[part], save)
        save()
        print(json.dumps({part: result[part]}, indent=1), flush=True)


if __name__ == "__main__":
    main()
