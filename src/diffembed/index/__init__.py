"""Vectors on disk and search in them: a corpus that outgrows memory, encoded in jobs that can be killed and resumed.

`build_index` makes or renews an index from sources; `Index` searches it. One folder is one index: `index.json` says how
it was made, `chunks.lance` is a table that any Lance reader opens, `skipped.jsonl` lists what could not be used.
"""

from diffembed.index.index import Index, IndexStats, list_indexes
from diffembed.index.jobs import build_index, prepare_build
from diffembed.index.progress import BuildReport
from diffembed.index.reading import read_additions
from diffembed.index.settings import stored_model

__all__ = [
    "BuildReport",
    "Index",
    "IndexStats",
    "build_index",
    "list_indexes",
    "prepare_build",
    "read_additions",
    "stored_model",
]
