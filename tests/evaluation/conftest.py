"""An encoder that counts shared words, and small task folders in the layouts that `folders.py` reads."""

import json
import re
import time
import zlib

import numpy as np
import pytest

from diffembed.records import EncodeReport


class WordEncoder:
    """Texts as sums of one random vector per word: knows which words two texts share, and nothing else."""

    def __init__(self, *, name="words", dim=256, max_tokens=64, seed=0):
        self.name, self.dim, self.max_tokens, self.seed = name, dim, max_tokens, seed
        self.read = []

    def encode(self, texts, *, kind="document", instruction=None):
        started = time.perf_counter()
        self.read.extend((kind, instruction, text) for text in texts)
        words = [re.findall(r"[a-z]+", f"{instruction or ''} {text}".lower()) for text in texts]
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, found in enumerate(words):
            for word in found[: self.max_tokens]:
                vectors[row] += np.random.default_rng([self.seed, zlib.crc32(word.encode())]).standard_normal(self.dim)
        return vectors, EncodeReport(
            num_tokens=np.array([min(len(found), self.max_tokens) for found in words], np.int64),
            is_truncated=np.array([len(found) > self.max_tokens for found in words], np.bool_),
            seconds=time.perf_counter() - started,
            max_tokens=self.max_tokens,
        )

    def encode_queries(self, texts, instruction=None):
        return self.encode(texts, kind="query", instruction=instruction)[0]

    def encode_documents(self, texts):
        return self.encode(texts)[0]

    def similarity(self, queries, documents):
        lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(documents, axis=1)
        return queries @ documents.T / lengths


@pytest.fixture
def words():
    return WordEncoder()


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".zst":
        import zstandard

        path.write_bytes(zstandard.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")


def write_table(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, cells)) + "\n" for cells in lines), encoding="utf-8")


QRELS = ("query-id", "corpus-id", "score")
TOPICS = {
    "cats": "Cats purr, sleep all day and hunt mice at night.",
    "dogs": "Dogs bark at the postman and fetch a thrown stick.",
    "rust": "Rust checks ownership, so memory needs no collector.",
    "lisp": "Lisp programs are lists, and macros rewrite them.",
}


@pytest.fixture
def beir_folder(tmp_path):
    """Four documents, three judged queries of two kinds, one query that is not in the split."""
    folder = tmp_path / "eval" / "topics"
    write_rows(folder / "corpus.jsonl.zst", [{"_id": key, "title": key, "text": text} for key, text in TOPICS.items()])
    write_rows(
        folder / "queries.jsonl",
        [
            {"_id": 1, "text": "which animal hunts mice at night?", "kind": "animal"},
            {"_id": 2, "text": "which animal fetches a stick?", "kind": "animal", "excluded_ids": ["cats"]},
            {"_id": 3, "text": "who checks ownership of memory?", "kind": "language", "instruction": "Find languages."},
            {"_id": 4, "text": "in the training split", "kind": "language"},
        ],
    )
    write_table(folder / "qrels" / "test.tsv", QRELS, (1, "cats", 1), (2, "dogs", 1), (3, "rust", 1), (3, "lisp", 0))
    return folder


@pytest.fixture
def instruction_folder(beir_folder):
    """FollowIR's form over the corpus of `beir_folder`."""
    folder = beir_folder.parent / "topics_instruct"
    (folder / "qrels").mkdir(parents=True)
    (folder / "CORPUS").write_text("corpus = ../topics/corpus.jsonl\n")
    write_rows(
        folder / "queries.jsonl",
        [
            {
                "_id": "pets",
                "text": "pets",
                "instruction_og": "Any animal is relevant.",
                "instruction_changed": "Only animals that bark are relevant.",
            },
            {
                "_id": "code",
                "text": "programming",
                "instruction_og": "Any language is relevant.",
                "instruction_changed": "Only languages with macros are relevant.",
            },
        ],
    )
    pairs = [("pets", "cats"), ("pets", "dogs"), ("code", "rust"), ("code", "lisp")]
    write_table(folder / "qrels" / "og.tsv", QRELS, *[(*pair, 1) for pair in pairs])
    write_table(folder / "qrels" / "changed.tsv", QRELS, *[(*pair, int(pair[1] in ("dogs", "lisp"))) for pair in pairs])
    write_rows(
        folder / "candidates.jsonl",
        [{"_id": "pets", "candidates": ["cats", "dogs", "rust"]}, {"_id": "code", "candidates": list(TOPICS)}],
    )
    return folder


@pytest.fixture
def sts_folder(beir_folder):
    folder = beir_folder.parent / "sts"
    write_table(
        folder / "small.tsv",
        ("score", "sentence1", "sentence2"),
        (5.0, "a cat sleeps", "a cat is asleep"),
        (2.5, "a cat sleeps", "a dog sleeps"),
        (0, "a cat sleeps", "stocks fell on monday"),
        (4, "dogs bark", "a dog barks"),
    )
    return folder


@pytest.fixture
def label_folder(beir_folder):
    folder = beir_folder.parent / "labels"
    rows = [("animal", f"a cat and dog number {n}") for n in range(9)]
    rows += [("money", f"my card and bank number {n}") for n in range(9)]
    write_table(folder / "train.tsv", ("label", "text"), *rows)
    write_table(folder / "test.tsv", ("label", "text"), *[(label, f"{text}0") for label, text in rows])
    return folder
