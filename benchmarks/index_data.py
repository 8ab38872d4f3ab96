"""Real texts and vectors for the index benchmark: chunks of the data folder, questions, and a million made of them.

Read `real_chunks` and `million`. Vectors are encoded once and kept in the user's cache.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffembed.provenance import atomic_file, hash_text, user_cache
from diffembed.records import Vectors

MODEL = "all-minilm-l6-v2"
NUM_CHUNKS = 100_000
WORDS_PER_CHUNK = 24
CORPORA = ("nq_qed", "scifact", "scitldr")
TEXTS = ("wikipedia_nq_passages_train", "techdocs_postgresql", "openstax_economics", "medquad_answers_train")
NOISE = 0.35
"""Length of the noise added to a vector of length 1: copies of a chunk (cosine 0.94) mix with its real neighbours."""


def data_folder() -> Path:
    """DIFFEMBED_DATA, which the Makefile sets."""
    if "DIFFEMBED_DATA" not in os.environ:
        raise SystemExit("the index benchmark reads real text: set DIFFEMBED_DATA to the data folder")
    return Path(os.environ["DIFFEMBED_DATA"])


def _documents() -> Iterator[str]:
    import zstandard

    from diffembed.evaluation.suites.folders import read_retrieval_task

    for name in CORPORA:
        yield from (document.full_text for document in read_retrieval_task(data_folder() / "eval" / name).corpus)
    for name in TEXTS:
        path = data_folder() / "text" / f"{name}.txt.zst"
        yield from zstandard.decompress(path.read_bytes()).decode("utf-8").splitlines()


def real_chunks(num_chunks: int = NUM_CHUNKS) -> list[str]:
    """Distinct runs of 24 words, in the order of the corpora; what is shorter than half of that is left out."""
    chunks: dict[str, None] = {}
    for text in _documents():
        words = text.split()
        for start in range(0, len(words), WORDS_PER_CHUNK):
            piece = words[start : start + WORDS_PER_CHUNK]
            if 2 * len(piece) >= WORDS_PER_CHUNK:
                chunks[" ".join(piece)] = None
        if len(chunks) >= num_chunks:
            return list(chunks)[:num_chunks]
    raise SystemExit(f"the data folder has {len(chunks):,} chunks; {num_chunks:,} are asked for")


def real_queries() -> list[str]:
    """Questions, claims and titles that people wrote, of the same corpora."""
    from diffembed.evaluation.suites.folders import read_retrieval_task

    tasks = [read_retrieval_task(data_folder() / "eval" / name) for name in CORPORA]
    return [query.text for task in tasks for query in task.queries]


def encoded(texts: list[str], kind: str) -> Vectors:
    """[N, 384] vectors of texts, from the cache where they are there."""
    key = hash_text("\n".join([MODEL, kind, *texts]))[:16]
    path = user_cache() / "benchmarks" / f"{kind}-{key}.npy"
    if not path.exists():
        from diffembed import Embedder

        started = time.perf_counter()
        embedder = Embedder.load(MODEL)
        vectors = embedder.encode_queries(texts) if kind == "query" else embedder.encode_documents(texts)
        with atomic_file(path) as part, part.open("wb") as file:
            np.save(file, vectors)
        print(f"encoded {len(texts):,} texts in {time.perf_counter() - started:.0f} s")
    return np.load(path)


def widen(vectors_ND: Vectors, dim: int, *, seed: int = 0) -> Vectors:
    """[N, dim] the same points in a wider space: a random rotation, so that every cosine stays."""
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, vectors_ND.shape[1])))[0]
    return vectors_ND @ rotation.T.astype(np.float32)


def million(vectors_ND: Vectors, num_vectors: int, dim: int, *, seed: int = 1) -> Iterator[Vectors]:
    """Blocks of vectors of length 1: every real one again and again in `dim` components, each time with fresh noise."""
    wide_ND = widen(vectors_ND, dim)
    generator = np.random.default_rng(seed)
    for start in range(0, num_vectors, len(wide_ND)):
        block = wide_ND[: num_vectors - start]
        noise = generator.standard_normal(block.shape, dtype=np.float32) * (NOISE / np.sqrt(dim))
        noisy = block + noise
        yield noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
