"""The table of an index: rows of chunks with their vectors, written in fragments that appear whole or not at all.

Read `Store.write` and `Store.commit`. All chunks of a document are committed together, and together with the removal of
what they replace: a document is in the table as a whole, once. Knows no encoder.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffembed.embedding.precision import Int8Codes, normalise, pack_signs, unpack_signs
from diffembed.errors import ConfigError, MissingExtraError, StoreError
from diffembed.index.settings import SETTINGS_FILE, IndexSettings, load_settings
from diffembed.index.writing import called, disk_errors, table_errors
from diffembed.records import Document, Vectors

TABLE = "chunks.lance"
CALIBRATION_FILE = "int8.json"
COLUMNS = (
    "id document part text title source metadata start stop line num_tokens is_truncated content_hash modified_ns"
    " num_bytes is_added model model_hash"
)
"""Beside those of the vectors. `id` is the chunk's, `document` the id of what it is a passage of, `part` its number in
it; `start`, `stop` and `line` are its place there; `content_hash` is the whole document's. `metadata` is JSON."""
DELETE_IDS = 2_000
"""Documents removed by one statement."""
FEW_ROWS = 256
"""A sample of fewer rows says too little of how large a component becomes to fit the int8 steps by it alone."""
LARGEST_COMPONENT = 6.0
"""What components of unit vectors rarely exceed, in units of their root mean square, 1 / sqrt(dim)."""
SWAP_S = 0.2
"""How long a reader waits for an index that is being replaced: two renames, during which there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedDocument:
    """The chunks of one document with their vectors, and what the table says about their source."""

    id: str
    content_hash: str
    chunks: Sequence[Document]
    vectors: Vectors
    """[chunks, D] float32."""
    num_tokens: Sequence[int]
    is_truncated: Sequence[bool]
    modified_ns: int = 0
    num_bytes: int = 0
    is_added: bool = False
    """True for what was handed to `Index.add`: a build leaves it alone."""


_OF_THE_DISK = ("LanceError(IO)", "Not found: ", "Object at location")
"""In what Lance says of a file that it cannot read, and not of a filter."""


class Store:
    """The Lance table of an index folder. Reads see the last commit at the time of `refresh`."""

    def __init__(self, folder: Path, settings: IndexSettings) -> None:
        """Raises StoreError where the table cannot be read."""
        self.folder = folder
        self.settings = settings
        self._lance = _import_lance()
        with table_errors(folder):
            self.dataset = self._lance.dataset(self.uri)

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """The store of an existing index."""
        settings = load_settings(folder)
        if not has_table(folder):
            raise StoreError(f"{folder} has no table yet; run: diffembed index build {called(folder)}")
        return cls(folder, settings)

    @classmethod
    def create(cls, folder: Path, settings: IndexSettings) -> "Store":
        """The store of a folder that has settings and perhaps no table yet."""
        if not has_table(folder):
            with disk_errors(folder):
                _import_lance().write_dataset(make_schema(settings).empty_table(), str(folder / TABLE))
        return cls(folder, settings)

    @property
    def uri(self) -> str:
        """Where Lance finds the table."""
        return str(self.folder / TABLE)

    @cached_property
    def schema(self) -> Any:
        """Columns of the table."""
        return make_schema(self.settings)

    @property
    def codes(self) -> Int8Codes | None:
        """The int8 calibration; None before the first vectors, or for another precision."""
        path = self.folder / CALIBRATION_FILE
        return Int8Codes.load(path) if self.settings.precision == "int8" and path.exists() else None

    def calibrate(self, sample: Vectors) -> None:
        """Fits the int8 steps, once for the life of the index; nothing for another precision.

        An index may begin with one note: steps of a small sample reach further than it, lest later vectors be clipped.
        """
        if self.settings.precision == "int8" and self.codes is None:
            rows = normalise(sample)
            if len(rows) < FEW_ROWS:
                dim = self.settings.dim
                rows = np.concatenate([rows, np.full((1, dim), LARGEST_COMPONENT / dim**0.5, np.float32)])
            Int8Codes.fit(rows).save(self.folder / CALIBRATION_FILE)

    def refresh(self) -> Any:
        """The table as last committed by whoever writes. Raises StoreError for an index made anew in another way."""
        found = self._settings_now()
        with table_errors(self.folder):
            if found.made != self.settings.made:
                if self.settings.differences(found):
                    raise StoreError(f"{self.folder} was made anew in another way; open it again")
                # What the old session remembers is of another table, whose versions have the same numbers.
                self.dataset, self.settings = self._lance.dataset(self.uri), found
            else:
                newest = self._lance.dataset(self.uri, session=self.dataset.session())
                if newest.version != self.dataset.version:
                    self.dataset = newest
        return self.dataset

    def _settings_now(self) -> IndexSettings:
        ends = time.monotonic() + SWAP_S
        while not (self.folder / SETTINGS_FILE).exists() and time.monotonic() < ends:
            time.sleep(SWAP_S / 20)
        return load_settings(self.folder)

    def make_table(self, documents: Sequence[EncodedDocument]) -> Any:
        """Rows for `write`, one per chunk."""
        import pyarrow as pa

        chunks = [chunk for document in documents for chunk in document.chunks]
        counts = [len(document.chunks) for document in documents]

        def per_document(name: str) -> list[Any]:
            return [getattr(document, name) for document, n in zip(documents, counts, strict=True) for _ in range(n)]

        columns: dict[str, Any] = {
            "id": [chunk.id for chunk in chunks],
            "document": per_document("id"),
            "part": [part for n in counts for part in range(n)],
            "text": [chunk.text for chunk in chunks],
            "title": [chunk.title for chunk in chunks],
            "source": [chunk.source for chunk in chunks],
            "metadata": pa.array([json.dumps(dict(chunk.metadata)) for chunk in chunks], pa.json_()),
            "start": [chunk.start for chunk in chunks],
            "stop": [chunk.start + len(chunk.text) for chunk in chunks],
            "line": [chunk.line for chunk in chunks],
            "num_tokens": [n for document in documents for n in document.num_tokens],
            "is_truncated": [bool(flag) for document in documents for flag in document.is_truncated],
            "content_hash": per_document("content_hash"),
            "modified_ns": per_document("modified_ns"),
            "num_bytes": per_document("num_bytes"),
            "is_added": per_document("is_added"),
            "model": [self.settings.model] * len(chunks),
            "model_hash": [self.settings.model_hash] * len(chunks),
        }
        vectors = np.concatenate([document.vectors for document in documents])
        columns |= self._vector_columns(normalise(vectors))
        return pa.table(columns, schema=self.schema)

    def _vector_columns(self, vectors: Vectors) -> dict[str, Any]:
        """Unit vectors as they are kept, so that a dot product is a cosine."""
        if self.settings.precision == "float32":
            return {"vector": _fixed_lists(vectors)}
        columns = {"bits": _fixed_lists(pack_signs(vectors))}
        if self.settings.precision == "int8":
            if self.codes is None:
                raise StoreError(f"{self.folder} has no int8 calibration; it is made with the first vectors")
            columns["code"] = _fixed_lists(self.codes.encode(vectors))
        return columns

    @property
    def vector_column(self) -> str:
        """The column of the finest vectors that are kept."""
        return {"float32": "vector", "int8": "code", "binary": "bits"}[self.settings.precision]

    def decode(self, column: Any) -> Vectors:
        """[rows, D] float32 of what `vector_column` holds; of bits, signs."""
        rows = fixed_rows(column)
        if self.settings.precision == "int8":
            codes = self.codes
            assert codes is not None, "int8 rows are written after their calibration"
            return codes.decode(rows)
        return unpack_signs(rows, self.settings.dim) if self.settings.precision == "binary" else rows

    def write(self, table: Any) -> list[Any]:
        """Writes data files that nobody sees yet; `commit` takes what it returns. Safe in many processes at once."""
        from lance.fragment import write_fragments

        with disk_errors(self.folder):
            return write_fragments(table, self.uri, schema=self.schema)

    def commit(self, fragments: Sequence[Any], *, replaced: Sequence[str] = ()) -> None:
        """Shows fragments and removes all earlier rows of the `replaced` documents, in one step."""
        if not fragments and not replaced:
            return
        operations = self._lance.LanceOperation
        with disk_errors(self.folder):
            dataset = self.refresh()
            changed, emptied = self._without(dataset, replaced)
            operation = (
                operations.Update(
                    removed_fragment_ids=emptied,
                    updated_fragments=changed,
                    new_fragments=list(fragments),
                    fields_modified=[],
                )
                if changed or emptied
                else operations.Append(list(fragments))
            )
            self.dataset = self._lance.LanceDataset.commit(self.uri, operation, read_version=dataset.version)

    def delete(self, documents: Sequence[str]) -> int:
        """Removes all rows of documents, by id, and returns how many documents there were; unknown ids are none."""
        num_before = num_left = 0
        with disk_errors(self.folder):
            num_before = self.refresh().count_rows("part = 0")
            for first in range(0, len(documents), DELETE_IDS):
                self.refresh().delete(in_list("document", documents[first : first + DELETE_IDS]))
            num_left = self.refresh().count_rows("part = 0")
        return num_before - num_left

    def _without(self, dataset: Any, documents: Sequence[str]) -> tuple[list[Any], list[int]]:
        """(fragments with the documents' rows marked as deleted, ids of fragments that have no other rows)."""
        changed: list[Any] = []
        emptied: list[int] = []
        if not documents:
            return changed, emptied
        # One statement for all: marks of a second one would not know those of the first.
        statement = in_list("document", documents)
        rows = dataset.scanner(columns=[], filter=statement, with_row_address=True).to_table()
        for fragment_id in sorted({int(address) >> 32 for address in rows["_rowaddr"].to_pylist()}):
            left = dataset.get_fragment(fragment_id).delete(statement)
            if left is None:
                emptied.append(fragment_id)
            else:
                changed.append(left)
        return changed, emptied

    def documents(self, *, is_added: bool | None = None) -> Iterator[dict[str, Any]]:
        """id, source, content_hash, modified_ns, num_bytes of every document, streamed in no certain order."""
        statement = "part = 0" if is_added is None else f"part = 0 AND is_added = {str(is_added).lower()}"
        columns = ["document", "source", "content_hash", "modified_ns", "num_bytes"]
        with table_errors(self.folder):
            for batch in self.refresh().scanner(columns=columns, filter=statement).to_batches():
                yield from batch.to_pylist()

    def check_filter(self, where: str) -> None:
        """Raises ConfigError for a filter that is not one condition on columns of the table, or that a row breaks."""
        if not where.strip():
            raise ConfigError("the filter is empty; write a condition such as: source LIKE '%.md'")
        if has_second_statement(where):
            raise ConfigError(f"the filter {where!r} holds more than one condition; leave out what follows the ';'")
        dataset = self.refresh()
        try:
            dataset.scanner(columns=["id"], filter=where, limit=1).explain_plan()
            dataset.scanner(columns=[], filter=where, with_row_id=True).count_rows()
        except (ValueError, OSError, RuntimeError) as error:
            if any(mark in str(error) for mark in _OF_THE_DISK):
                with table_errors(self.folder):
                    raise
            reason = str(error).partition(": ")[2].partition(", /")[0] or str(error)
            _, is_of_row, words = reason.partition("Error applying filter expression to batch: ")
            if is_of_row:
                reason = f"a row does not fit it ({words.rpartition('error: ')[2]})"
            columns = ", ".join(name for name in self.schema.names if name not in ("vector", "code", "bits"))
            raise ConfigError(
                f"the filter {where!r} cannot be used: {reason}; columns are {columns}; "
                "of metadata: json_get_string(metadata, 'NAME') = 'VALUE', json_get_int(metadata, 'NAME') > 2020"
            ) from error


def make_schema(settings: IndexSettings) -> Any:
    """Columns of the table for a precision."""
    import pyarrow as pa

    strings = ("id", "document", "text", "title", "source", "content_hash", "model", "model_hash")
    kinds = {
        **dict.fromkeys(strings, pa.string()),
        "metadata": pa.json_(),
        **dict.fromkeys(("start", "stop", "modified_ns", "num_bytes"), pa.int64()),
        **dict.fromkeys(("part", "line", "num_tokens"), pa.int32()),
        **dict.fromkeys(("is_truncated", "is_added"), pa.bool_()),
    }
    vectors = {
        "float32": {"vector": pa.list_(pa.float32(), settings.dim)},
        "int8": {"bits": pa.list_(pa.uint8(), -(-settings.dim // 8)), "code": pa.list_(pa.int8(), settings.dim)},
        "binary": {"bits": pa.list_(pa.uint8(), -(-settings.dim // 8))},
    }[settings.precision]
    return pa.schema([(name, kinds[name]) for name in COLUMNS.split()] + list(vectors.items()))


def has_table(folder: Path) -> bool:
    """Whether a first version of the table was committed."""
    return any((folder / TABLE / "_versions").glob("*.manifest"))


def in_list(column: str, values: Sequence[str]) -> str:
    """`column IN ('a', 'it''s')`."""
    return f"{column} IN ({', '.join(map(sql_string, values))})"


def sql_string(value: str) -> str:
    """A string literal of SQL."""
    return "'" + value.replace("'", "''") + "'"


def has_second_statement(where: str) -> bool:
    """Whether a `;` or the start of a comment stands outside of quotes; Lance would drop what follows, unseen."""
    quote = ""
    for place, letter in enumerate(where):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"`":
            quote = letter
        elif letter == ";" or where[place : place + 2] in ("--", "/*"):
            return True
    return False


def _fixed_lists(rows: Any) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).reshape(-1)), rows.shape[1])


def fixed_rows(column: Any) -> NDArray[Any]:
    """[rows, width] of a column of fixed-size lists."""
    array = column.combine_chunks()
    return array.flatten().to_numpy(zero_copy_only=False).reshape(-1, array.type.list_size)


def _import_lance() -> Any:
    try:
        import lance
    except ImportError as error:
        raise MissingExtraError.of("lance", "index") from error
    return lance
