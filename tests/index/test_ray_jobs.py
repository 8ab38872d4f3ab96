"""A build on a cluster of two machines against the same build by this process, with an encoder killed in the middle."""

import json
import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest

from diffembed import Embedder
from diffembed.documents import ChunkPolicy
from diffembed.errors import ConfigError
from diffembed.index import Index, build_index
from diffembed.index.store import Store

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytest.importorskip("lance", reason="needs the extra index")

POLICY = ChunkPolicy(kind="fixed", size=60, overlap=10, unit="tokens")
WORDS = [
    "the",
    "tide",
    "rises",
    "twice",
    "a",
    "day",
    "because",
    "the",
    "moon",
    "pulls",
    "the",
    "sea",
    "and",
    "the",
    "earth",
    "turns",
    "under",
    "both",
]


def texts(num, seed=0):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(5, 200))) for _ in range(num)]


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    # Ray's workers step back behind everything else that runs here, unless told otherwise.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for number, text in enumerate(texts(300)):
        (folder / f"{number:03d}.txt").write_text(text)
    (folder / "blank.txt").write_text(" \n")
    return folder


def rows_of(path):
    table = Store.open(path).dataset.to_table().to_pylist()
    return {row["id"]: row for row in table}, len(table)


def assert_same_rows(one, other):
    (left, num_left), (right, num_right) = rows_of(one), rows_of(other)
    assert num_left == len(left) and num_right == len(right), "a row is there twice"
    assert left.keys() == right.keys() and len(left) > 300
    for key, row in left.items():
        for name, value in row.items():
            if name in ("vector", "code"):
                np.testing.assert_allclose(
                    np.array(value, np.float32), np.array(right[key][name], np.float32), atol=1e-5
                )
            else:
                assert value == right[key][name], (key, name)


def kill_one_encoder(killed, stop):
    """Kills the first process that is found encoding; SIGKILL, as a machine that goes away does."""
    while not stop.is_set():
        for process in psutil.process_iter(["name", "cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if "MapWorker" in line and "ray::" in line:
                # Once it has had time to take a block.
                time.sleep(1.0)
                try:
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                except ProcessLookupError:
                    continue
                return
        time.sleep(0.02)


@pytest.mark.slow
def test_two_machines_and_a_killed_worker_give_the_rows_of_the_local_build(cluster, folder, tmp_path):
    """In int8, whose codes follow from steps that all workers must share."""
    embedder = Embedder.load("tiny-qwen2", dtype="float32", max_tokens=128)
    settings = {"embedder": embedder, "chunks": POLICY, "precision": "int8", "block_chunks": 16}
    local = build_index(tmp_path / "local", [folder], **settings)
    killed, stop = [], threading.Event()
    killer = threading.Thread(target=kill_one_encoder, args=(killed, stop))
    killer.start()
    try:
        on_ray = build_index(tmp_path / "ray", [folder], ray=cluster.address, commit_s=0.5, **settings)
    finally:
        stop.set()
        killer.join()
    assert killed, "no worker was found to kill, so nothing was shown"
    assert_same_rows(tmp_path / "local", tmp_path / "ray")
    counts = ("num_documents", "num_chunks", "num_new", "num_encoded", "num_tokens", "num_skipped", "num_truncated")
    assert {name: getattr(on_ray, name) for name in counts} == {name: getattr(local, name) for name in counts}
    skipped = [json.loads(line) for line in (tmp_path / "ray" / "skipped.jsonl").read_text().splitlines()]
    assert [each["name"].rsplit("/", 1)[-1] for each in skipped] == ["blank.txt"]

    # A second run on the cluster encodes what changed, and removes what is gone.
    (folder / "000.txt").write_text("a text that is new")
    (folder / "001.txt").unlink()
    (folder / "002.txt").write_bytes(b"tid\xe9s")
    again = build_index(tmp_path / "ray", [folder], ray=cluster.address, **settings)
    assert (again.num_changed, again.num_removed, again.num_new, again.num_encoded) == (1, 1, 0, 1)
    assert again.num_kept == 1, "what cannot be read now stays"
    build_index(tmp_path / "local", [folder], **settings)
    assert_same_rows(tmp_path / "local", tmp_path / "ray")
    (hit, *_) = Index.open(tmp_path / "ray", embedder=embedder).search("a text that is new", k=1)
    assert hit.document.parent.endswith("000.txt")


@pytest.mark.slow
def test_errors_of_workers_are_sentences(cluster, folder, tmp_path):
    embedder = Embedder.load("tiny-qwen2", dtype="float32")
    with pytest.raises(ConfigError, match="cores_per_actor is 5; the largest machine of the cluster has 1"):
        build_index(tmp_path / "a", [folder], embedder=embedder, ray=cluster.address, cores_per_actor=5)
    with pytest.raises(ConfigError, match="standard input cannot be read on a cluster"):
        build_index(tmp_path / "b", ["-"], embedder=embedder, ray=cluster.address)
    other = Embedder.load("tiny-llama", dtype="float32")
    from diffembed.errors import StoreError

    with pytest.raises(StoreError, match=r"machine .* loads another tiny-llama"):
        build_index(tmp_path / "c", [folder], embedder=other, location="tiny-qwen2", ray=cluster.address)
