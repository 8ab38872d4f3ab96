"""A corpus of many kinds, a tiny encoder, and what a table holds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffembed import Embedder
from diffembed.index.store import Store

pytest.importorskip("lance", reason="the extra `index` is not installed")


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """In float32, so that vectors can be compared to the last bit."""
    return Embedder.load("tiny-llama", dtype="float32")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of text, a page, and rows."""
    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    (folder / "tides.md").write_text(
        "# Tides\n\nThe moon pulls the sea.\n\n## Spring tides\n\nSun and moon pull together.\n\n"
        "## Neap tides\n\nSun and moon pull across.\n"
    )
    (folder / "sub" / "bread.txt").write_text("Bread is flour, water and salt.\nIt rises by yeast.\n")
    (folder / "sub" / "page.html").write_text("<title>Page</title><main><h1>Page</h1><p>A page on kettles.</p></main>")
    rows = [{"id": "cats", "text": "Cats sleep all day."}, {"id": "dogs", "text": "Dogs dig holes.", "title": "Pets"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def rows_of() -> Callable[[Path], list[dict[str, Any]]]:
    """`rows_of(folder)`: all rows of an index, by chunk id, without what tells when files were written."""

    def read(folder: Path) -> list[dict[str, Any]]:
        rows = Store.open(folder).dataset.to_table().to_pylist()
        return sorted(({**row, "modified_ns": 0} for row in rows), key=lambda row: row["id"])

    return read
