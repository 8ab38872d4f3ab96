"""The rows of txt, jsonl, csv, tsv and parquet files as documents, streamed, ids kept.

Read `read_rows` first. Every complaint names the file with its line.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date, time
from decimal import Decimal
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO

from diffembed.documents.decoding import decode, name_of, open_bytes
from diffembed.errors import ConfigError, EmptyInputError, InputError, UnknownNameError
from diffembed.records import Document

MAX_CSV_FIELD_CHARS = 2**31 - 1

ROW_FORMATS = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
"""File suffix -> format of `read_rows`."""


MAX_LINE_BYTES = 64 << 20
"""A longer line is no row of text; reading stops there, before it fills the memory."""


def read_rows(
    source: Path | str,
    *,
    format: str | None = None,
    text_column: str | None = None,
    id_column: str | None = None,
    id_prefix: str = "",
    make_id: Callable[[Document], str] | None = None,
    on_bad: Callable[[InputError], None] | None = None,
) -> Iterator[Document]:
    """One Document per row of a file, or of standard input for `-`, streamed.

    format: txt (one text per line, blank lines kept), jsonl, csv, tsv or parquet; None goes by the suffix, and takes
        txt for standard input.
    text_column: None takes `text`, or the only column that is not an id or a title. A `title` column becomes the title,
        other columns with one value in each row become the metadata.
    id_column: None takes `_id` or `id`; rows without either are numbered from 1,
        with `id_prefix` before the number.
    make_id: gives those rows an id in place of the number.
    on_bad: told of every row that cannot be used, which is then left out; the caller looks after ids that occur twice.
        None raises at the first.
    Raises InputError for what cannot be read, with its line, and for an id that occurs twice; EmptyInputError for none.
    """
    format = _row_format(source, format)
    if format == "txt" and (text_column or id_column):
        raise ConfigError("a txt file has no columns; text_column and id_column need jsonl, csv, tsv or parquet")
    rows = _each_row(source, format, text_column, id_column, id_prefix, make_id, on_bad or _raise)
    if on_bad is not None:
        return (document for document, _ in rows)
    documents = _checked(rows, name_of(source))
    # The first row is read at once, so that a file of no use is refused before a network is loaded for it.
    return chain([next(documents)], documents)


def _checked(rows: Iterator[tuple[Document, bool]], name: str) -> Iterator[Document]:
    """The documents; raises for an id that occurs twice, and at the end for a file without texts."""
    line_of_id: dict[str, int] = {}
    num_rows, has_text = 0, False
    for document, has_own_id in rows:
        if has_own_id:
            if document.id in line_of_id:
                raise InputError(
                    f"{name} has the id {document.id!r} twice, in rows {line_of_id[document.id]} and {document.line}; "
                    "make ids unique or leave their column out"
                )
            line_of_id[document.id] = document.line
        num_rows += 1
        has_text = has_text or bool(document.full_text.strip())
        yield document
    if not has_text:
        raise EmptyInputError(f"{name} has no texts" if num_rows == 0 else f"{name} has only blank texts")


def _each_row(
    source: Path | str,
    format: str,
    text_column: str | None,
    id_column: str | None,
    id_prefix: str,
    make_id: Callable[[Document], str] | None,
    on_bad: Callable[[InputError], None],
) -> Iterator[tuple[Document, bool]]:
    """(document, whether its id is its own); bad rows go to `on_bad`, the number of a row counts them too."""
    name = name_of(source)
    columns: tuple[str, str | None] | None = None
    with open_bytes(source) as file:
        for number, (line, row) in enumerate(_rows(file, name, format), start=1):
            if isinstance(row, InputError):
                on_bad(row)
                continue
            try:
                columns = columns or choose_columns(row, name, text_column, id_column)
                number_id = f"{id_prefix}{number}"
                document = row_document(row, columns, f"{name}:{line}", name=name, line=line, number_id=number_id)
            except InputError as error:
                if columns is None:
                    raise
                on_bad(error)
                continue
            has_own_id = columns[1] is not None
            if make_id is not None and not has_own_id:
                document = replace(document, id=make_id(document))
            yield document, has_own_id


def _raise(error: InputError) -> None:
    raise error


def _row_format(source: Path | str, format: str | None) -> str:
    known = tuple(dict.fromkeys(ROW_FORMATS.values()))
    if format is None:
        if str(source) == "-":
            return "txt"
        suffix = Path(source).suffix.lower()
        if suffix not in ROW_FORMATS and Path(source).exists() and not Path(source).is_dir():
            name = name_of(source)
            raise InputError(f"cannot tell the format of {name} by its suffix; give the format: {', '.join(known)}")
        return ROW_FORMATS.get(suffix, "txt")
    if format not in known:
        raise UnknownNameError.of("row format", format, known)
    return format


def _rows(file: BinaryIO, name: str, format: str) -> Iterator[tuple[int, dict[str, Any] | InputError]]:
    """(line, row, or what is wrong with it); for parquet the number of the row stands for the line.

    Raises InputError where the rest of the file cannot be read either.
    """
    if format == "parquet":
        yield from _parquet_rows(file, name)
    elif format in ("csv", "tsv"):
        yield from _csv_rows(file, name, "\t" if format == "tsv" else ",")
    else:
        for line, raw in _lines(file, name):
            try:
                text = decode(raw, name, line=line)
                if format == "txt":
                    yield line, {"text": text.removesuffix("\n").removesuffix("\r")}
                elif text.strip():
                    yield line, _json_row(text, f"{name}:{line}")
            except InputError as error:
                yield line, error


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    for line in count(1):
        raw = file.readline(MAX_LINE_BYTES + 1)
        if len(raw) > MAX_LINE_BYTES:
            raise InputError(f"{name}:{line} is longer than {MAX_LINE_BYTES >> 20} MB; a row must fit on its line")
        if not raw:
            return
        yield line, raw


def _json_row(text: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{place} must be a JSON object with a text, got {type(row).__name__}")
    return row


def _csv_rows(file: BinaryIO, name: str, delimiter: str) -> Iterator[tuple[int, dict[str, Any] | InputError]]:
    lines = (decode(raw, name, line=line) for line, raw in _lines(file, name))
    # The module's limit of 131,072 characters per field is a process-wide guard; a long document may pass it.
    csv.field_size_limit(MAX_CSV_FIELD_CHARS)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise InputError(f"{name} names a column twice in its header: {', '.join(header)}")
        while True:
            line = reader.line_num + 1
            row = next(reader, None)
            if row is None:
                return
            if not row:
                continue
            fields = f"{name}:{line} has {len(row)} fields where the header has {len(header)}"
            is_whole = len(row) == len(header)
            yield line, dict(zip(header, row, strict=True)) if is_whole else InputError(fields)
    except csv.Error as error:
        raise InputError(f"{name}:{reader.line_num} is not valid csv: {error}") from error


def _parquet_rows(file: BinaryIO, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file if file.seekable() else io.BytesIO(file.read()))
        wanted = [field.name for field in table.schema_arrow if not pa.types.is_nested(field.type)]
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{name} is not a parquet file, or it is cut short") from error
    except (ValueError, OverflowError) as error:
        # A date beyond the year 9999, which Python has no value for.
        raise InputError(f"{name} holds a value that cannot be read: {error}") from error


def choose_columns(
    row: Mapping[str, Any], name: str, text_column: str | None, id_column: str | None
) -> tuple[str, str | None]:
    """(column of the text, column of the id or None). Raises InputError where the row does not have them."""
    have = ", ".join(row) or "none"
    for column in (text_column, id_column):
        if column is not None and column not in row:
            raise InputError(f"{name} has no column {column!r}; it has {have}")
    if id_column is None:
        id_column = next((column for column in ("_id", "id") if column in row and column != text_column), None)
    if text_column is None:
        others = [column for column in row if column not in (id_column, "title")]
        text_column = "text" if "text" in row else others[0] if len(others) == 1 else None
    if text_column is None:
        raise InputError(f"{name} has no column 'text'; choose the text column among {have}")
    return text_column, id_column


def row_document(
    row: Mapping[str, Any], columns: tuple[str, str | None], place: str, *, name: str, line: int, number_id: str
) -> Document:
    """The row as a document; `number_id` is its id where it has none. Raises InputError for a value of no use."""
    text_column, id_column = columns
    text, title = row.get(text_column), row.get("title")
    if not isinstance(text, str):
        raise InputError(f"{place} must have a string in {text_column!r}, got {_shown(text)}")
    metadata = _metadata(row, {text_column, id_column, "title"})
    if id_column is None:
        return Document(id=number_id, text=text, title=_title(title), source=name, line=line, metadata=metadata)
    identity = row.get(id_column)
    is_name = isinstance(identity, str | int) and not isinstance(identity, bool) and str(identity).isprintable()
    if not is_name or identity == "":
        raise InputError(f"{place} must have a string or a whole number in {id_column!r}, got {_shown(identity)}")
    return Document(id=str(identity), text=text, title=_title(title), source=name, line=line, metadata=metadata)


def _metadata(row: Mapping[str, Any], taken: set[str | None]) -> dict[str, str | int | float | bool]:
    """The other columns that hold text, a finite number, a truth value, or a date or time, which is written out."""
    found: dict[str, str | int | float | bool] = {}
    for column, value in row.items():
        if column in taken:
            continue
        if isinstance(value, Decimal):
            value = float(value)
        if isinstance(value, date | time):
            found[column] = value.isoformat()
        elif isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
            found[column] = value
    return found


def _title(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
