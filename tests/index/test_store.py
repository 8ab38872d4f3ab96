"""The table stays readable whatever happens to its disk or its writers."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from diffembed import Document, Embedder, Index, build_index
from diffembed.errors import ConfigError, ResourceError, StoreError
from diffembed.index import list_indexes, writing
from diffembed.index.ledger import Ledger, State
from diffembed.index.settings import index_folder
from diffembed.index.store import Store, has_second_statement, sql_string
from diffembed.index.writing import writer_lock


@pytest.fixture
def built(corpus: Path, tmp_path: Path, embedder: Embedder) -> Path:
    build_index(tmp_path / "ix", [corpus], embedder=embedder)
    return tmp_path / "ix"


def test_lancedb_opens_the_table(built: Path) -> None:
    lancedb = pytest.importorskip("lancedb", reason="lancedb is not installed")
    table = lancedb.connect(built).open_table("chunks")
    assert table.count_rows() == 7
    assert {"id", "document", "text", "vector", "content_hash", "model_hash", "start", "line"} <= set(
        table.schema.names
    )


def test_a_second_writer_is_told_who_is_first(built: Path, corpus: Path, embedder: Embedder) -> None:
    # The module alone: its package would load the network's libraries, for seconds.
    code = (
        "import runpy, sys, time; from pathlib import Path\n"
        "lock = runpy.run_path(sys.argv[1])['writer_lock']\n"
        "with lock(Path(sys.argv[2])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, writing.__file__, str(built)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        index = Index.open(built, embedder=embedder)
        for write in (lambda: build_index(built, [corpus], embedder=embedder), lambda: index.delete(["cats"])):
            with pytest.raises(StoreError, match=f"is being written by process {holder.pid}"):
                write()
        assert index.search("cats", k=3), "readers need no lock"
    finally:
        holder.kill()
        holder.wait()
    assert index.delete(["cats"]) == 1, "a lock ends with its process"
    with writer_lock(built), pytest.raises(StoreError, match=f"process {os.getpid()}"), writer_lock(built):
        pass


def test_readers_go_on_while_a_writer_adds(built: Path, embedder: Embedder) -> None:
    errors: list[BaseException] = []
    num_searches = 0
    stop = threading.Event()

    def read() -> None:
        nonlocal num_searches
        index = Index.open(built, embedder=embedder)
        try:
            while not stop.is_set():
                assert len(index.search("cats and dogs", k=3, mode="hybrid")) == 3
                num_searches += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    writer = Index.open(built, embedder=embedder)
    for number in range(12):
        writer.add([Document(id=f"added {number}", text=f"Dogs and cats, number {number}.")])
    writer.optimize()
    # Readers run at least once more after the last change.
    seen, limit = num_searches, time.monotonic() + 30
    while num_searches < seen + 2 and not errors and time.monotonic() < limit:
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert num_searches > 2
    assert writer.num_rows == 19


def test_a_full_disk_is_one_sentence_and_keeps_what_was_there(
    built: Path, corpus: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lance.fragment

    def full(*_: object, **__: object) -> None:
        raise OSError("LanceError(IO): Generic LocalFileSystem error: No space left on device (os error 28)")

    (corpus / "new.txt").write_text("New.")
    with monkeypatch.context() as patched:
        patched.setattr(lance.fragment, "write_fragments", full)
        with pytest.raises(ResourceError, match=r"the disk is full while writing .*ix; what was committed before"):
            build_index(built, [corpus], embedder=embedder)
    assert Index.open(built, embedder=embedder).num_rows == 7
    assert build_index(built, [corpus], embedder=embedder).num_chunks == 8


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_really_full(tmp_path: Path, embedder: Embedder) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this system lets nobody mount a small disk")
    try:
        notes = tmp_path / "notes"
        notes.mkdir()
        for number in range(200):
            (notes / f"{number:03}.txt").write_text(
                f"Note {number}: " + "".join(map(chr, range(64 + number % 60, 400)))
            )
        with pytest.raises(ResourceError, match="the disk is full while writing"):
            build_index(disk / "ix", [notes], embedder=embedder, block_chunks=10, commit_s=0)
        kept = Store.open(disk / "ix").dataset.to_table(columns=["document", "text"]).to_pylist()
        assert 0 < len(kept) < 200
        assert len({row["document"] for row in kept}) == len(kept)
        subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
        assert build_index(disk / "ix", [notes], embedder=embedder).num_new == 200 - len(kept)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("victim", ["manifest", "data", "settings"])
def test_a_damaged_index_says_so(built: Path, corpus: Path, embedder: Embedder, victim: str) -> None:
    pattern = {"manifest": "chunks.lance/_versions/*", "data": "chunks.lance/data/*", "settings": "index.json"}[victim]
    for path in built.glob(pattern):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(StoreError, match=r"(cannot be read|is damaged)"):
        Index.open(built, embedder=embedder).search("cats")
    report = build_index(built, [corpus], embedder=embedder, is_replaced=True)
    assert report.num_chunks == 7
    assert Index.open(built, embedder=embedder).search("cats")


def test_a_missing_index_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no index in .*nothing; make one with: diffembed index build"):
        Index.open(tmp_path / "nothing")


def test_names_lie_in_the_data_folder_and_paths_where_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Path, embedder: Embedder
) -> None:
    monkeypatch.setenv("DIFFEMBED_HOME", str(tmp_path / "home"))
    assert index_folder("notes") == tmp_path / "home" / "indexes" / "notes"
    assert index_folder("./notes") == Path("notes")
    assert index_folder(tmp_path) == tmp_path
    build_index("notes", [corpus], embedder=embedder)
    assert [folder.name for folder in list_indexes()] == ["notes"]
    assert Index.open("notes").num_rows == 7
    with pytest.raises(ConfigError):
        build_index("", [corpus], embedder=embedder)


def test_strings_and_statements_are_told_apart() -> None:
    assert sql_string("it's") == "'it''s'"
    assert not has_second_statement("a = ';' AND b = '--' AND c = 'it''s; fine'")
    assert has_second_statement("a = 'x'; b")
    assert has_second_statement("a = 1 /* hidden */")


def test_the_ledger_tells_new_changed_gone_and_repeated() -> None:
    ledger = Ledger([(f"d{n}", f"hash {n}", f"stamp {n}") for n in range(1000)])
    assert len(ledger) == ledger.num_gone == 1000
    assert ledger.meet("d1", "hash 1") is State.UNCHANGED
    assert ledger.meet("d2", "other") is State.CHANGED
    assert ledger.meet("d2", "other") is State.REPEATED
    assert ledger.is_same_file("d3", "stamp 3")
    assert not ledger.is_same_file("d3", "stamp 3"), "a second file of the name is no news, and is read"
    assert not ledger.is_same_file("d4", "stamp 5")
    assert not ledger.is_same_file("nowhere", "stamp 5")
    assert (ledger.num_gone, ledger.is_gone("d4"), ledger.is_gone("d3"), ledger.is_gone("new")) == (
        997,
        True,
        False,
        False,
    )


def test_the_ledger_knows_new_ids_beyond_its_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffembed.index.ledger.BUFFER_KEYS", 16)
    ledger = Ledger()
    assert {ledger.meet(f"d{n}", "") for n in range(1000)} == {State.NEW}
    assert {ledger.meet(f"d{n}", "") for n in range(1000)} == {State.REPEATED}
    assert ledger.num_gone == 0
