"""A build that is killed with -9 at any moment and run again ends with the rows of one that was not."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffembed import Embedder, build_index
from diffembed.index.store import Store, has_table

NUM_MOMENTS = 20
"""Kills; every fourth lands at a random time after the start, the others between two commits."""


def build(folder: Path, corpus: Path) -> None:
    """What the killed process does: many small blocks, each committed by itself."""
    embedder = Embedder.load("tiny-llama", dtype="float32")
    build_index(folder, [corpus], embedder=embedder, block_chunks=4, commit_s=0)


def write_corpus(folder: Path, *, version: int) -> None:
    """Of the second version, every third text is another one, every seventh is gone and ten are new."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(120):
        is_changed = version == 2 and number % 3 == 0
        path = folder / f"{number:03}.txt"
        path.write_text(f"Note {number}{' as it is now' if is_changed else ''} on the tides. " * (1 + number % 60))
        os.utime(path, ns=(1, 10**9 * (1 + is_changed)))
        if version == 2 and number % 7 == 0:
            path.unlink()
    for number in range(10 * (version - 1)):
        (folder / f"new {number}.txt").write_text(f"A new note, number {number}, on sails.")


def num_states(folder: Path) -> int:
    """Commits so far."""
    return sum(1 for _ in (folder / "chunks.lance" / "_versions").glob("*.manifest"))


def parts_of(folder: Path) -> dict[str, dict[str, list[int]]]:
    """document -> content hash -> numbers of its parts."""
    found: dict[str, dict[str, list[int]]] = {}
    for row in Store.open(folder).dataset.to_table(columns=["document", "content_hash", "part"]).to_pylist():
        found.setdefault(row["document"], {}).setdefault(row["content_hash"], []).append(row["part"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("is_update", [False, True], ids=["first build", "update"])
def test_killed_and_run_again_equals_uninterrupted(
    tmp_path: Path, rows_of: Callable[[Path], list[dict[str, Any]]], is_update: bool
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diffembed.index.jobs", "diffembed.embedding.embedder", "transformers", "lance"])
    start = tmp_path / "start"
    write_corpus(tmp_path / "notes", version=1)
    if is_update:
        build(start, tmp_path / "notes")
        write_corpus(tmp_path / "notes", version=2)
    whole = tmp_path / "whole"
    if is_update:
        shutil.copytree(start, whole)
    num_before = num_states(whole)
    began = time.monotonic()
    build(whole, tmp_path / "notes")
    seconds, num_commits = time.monotonic() - began, num_states(whole) - num_before
    assert num_commits > 15, "there are moments to be killed in"
    expected = rows_of(whole)
    parts_before, parts_after = (parts_of(start) if is_update else {}), parts_of(whole)

    draw = random.Random(7)
    num_between = 0
    for moment in range(NUM_MOMENTS // 2):
        folder = tmp_path / f"killed {moment}"
        if is_update:
            shutil.copytree(start, folder)
        job = context.Process(target=build, args=(folder, tmp_path / "notes"))
        job.start()
        if moment % 4 == 3:
            time.sleep(draw.uniform(0, 2 * seconds))
        else:
            wanted = num_before + draw.randint(1 + (not is_update), num_commits - 6)
            while num_states(folder) < wanted and job.is_alive():
                time.sleep(0.0005)
            time.sleep(draw.uniform(0, 0.02))
        os.kill(job.pid or 0, signal.SIGKILL)
        job.join()
        if has_table(folder):
            found = parts_of(folder)
            for document, versions in found.items():
                assert len(versions) == 1, "never two states of a document at once"
                assert versions in (parts_before.get(document), parts_after.get(document)), "and each as a whole"
            num_new = sum(versions != parts_before.get(document) for document, versions in found.items())
            num_wanted = sum(versions != parts_before.get(document) for document, versions in parts_after.items())
            num_between += 0 < num_new < num_wanted
        build(folder, tmp_path / "notes")
        assert rows_of(folder) == expected, f"moment {moment}"
        shutil.rmtree(folder)
    assert num_between >= 7 + is_update, "these were killed between the first and the last fragment"
