"""Keeps a table quick: small fragments become large ones, and what is searched by is indexed.

Read `tidy`. Every step is a commit of its own that changes no row, and the next call does what a killed one left.
"""

from datetime import timedelta
from typing import Any

from diffembed.index.store import Store
from diffembed.index.writing import disk_errors

EXACT_ROWS = 100_000
"""Up to this many rows, every vector is compared; beyond, an approximate index is built. At 640 components this is
256 MB and some tens of milliseconds."""
MAX_FRAGMENTS = 32
"""Fragments before they are joined."""
LOOKUP_ROWS = 20_000
"""Rows from which on documents are found by a tree and not by reading all ids."""
KEPT_S = 3600
"""Seconds for which old states stay, so that a reader in the middle of a search can end it."""


def tidy(store: Store) -> None:
    """Joins fragments, brings the indexes up to date, removes states that nobody reads any more."""
    with disk_errors(store.folder):
        dataset = store.refresh()
        if len(dataset.get_fragments()) > MAX_FRAGMENTS:
            dataset.optimize.compact_files()
        dataset = store.refresh()
        num_rows = dataset.count_rows()
        names = {index["name"] for index in dataset.list_indices()}
        if num_rows and "text_idx" not in names:
            dataset.create_scalar_index("text", "INVERTED", name="text_idx", with_position=False)
        if num_rows > LOOKUP_ROWS and "document_idx" not in names:
            store.refresh().create_scalar_index("document", "BTREE", name="document_idx")
        if num_rows > EXACT_ROWS and "vector_idx" not in names:
            make_vector_index(store)
        dataset = store.refresh()
        if any(_num_unindexed(dataset, name) for name in names):
            dataset.optimize.optimize_indices()
        store.refresh().cleanup_old_versions(older_than=timedelta(seconds=KEPT_S))
        store.refresh()


def make_vector_index(store: Store) -> None:
    """The approximate index of the precision: IVF-RaBitQ over float32 vectors, IVF over bits for the others.

    RaBitQ (arXiv 2405.12497) learns no code book: built in seconds where product quantisation takes minutes, and with
    rescoring it found as much (docs/benchmarks.md). It needs whole bytes of bits; other widths have IVF-PQ.
    """
    dataset = store.refresh()
    num_partitions = max(1, dataset.count_rows() // 4096)
    dim = store.settings.dim
    settings = {"name": "vector_idx", "num_partitions": num_partitions, "replace": True}
    if store.settings.precision != "float32":
        dataset.create_index("bits", "IVF_FLAT", metric="hamming", **settings)
    elif dim % 8 == 0:
        dataset.create_index("vector", "IVF_RQ", metric="dot", num_bits=1, **settings)
    else:
        dataset.create_index("vector", "IVF_PQ", metric="dot", num_sub_vectors=num_sub_vectors(dim), **settings)
    store.refresh()


def num_sub_vectors(dim: int) -> int:
    """Parts of a vector that are quantised on their own: of 4 components where the width allows it, else of fewer."""
    return next(dim // width for width in (4, 2, 1) if dim % width == 0)


def _num_unindexed(dataset: Any, name: str) -> int:
    return int(dataset.stats.index_stats(name).get("num_unindexed_rows", 0))
