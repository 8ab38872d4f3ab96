"""Rows and lines of files: plain or compressed JSON lines, parquet, text.

Read `read_rows` first. Streams from the first byte to the last, and a file that was cut short is an error, never a
shorter file. Knows nothing of what the rows mean.
"""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffembed.errors import InputError

COMPRESSIONS = {".zst": "zstd", ".gz": "gzip", ".bz2": "bz2"}
ROW_SUFFIXES = (".jsonl", ".parquet")
STDIN = Path("-")
PARQUET_ROWS = 1024
BLOCK_BYTES = 1 << 20


def read_rows(path: Path | str) -> Iterator[tuple[str, Any]]:
    """(place, row) of every row of a JSON-lines or parquet file; a line that is not JSON gives the row None.

    `-` is JSON lines on standard input. Raises InputError when the file is missing, of another kind, or cut short.
    """
    path = Path(path)
    if ".parquet" in path.suffixes:
        yield from _read_parquet(path)
    elif ".jsonl" in path.suffixes or path == STDIN:
        for number, line in enumerate(read_lines(path), start=1):
            if line.strip():
                yield f"{'stdin' if path == STDIN else path.name}:{number}", _loads(line)
    else:
        raise InputError(f"{path} is no row file; allowed are .jsonl, .jsonl.zst, .jsonl.gz and .parquet")


def read_lines(path: Path | str) -> Iterator[bytes]:
    """The lines of a plain or compressed (.zst, .gz, .bz2) file, or of `-`, without a byte-order mark.

    Raises InputError when the file is missing or its compressed stream is damaged or cut short.
    """
    import pyarrow as pa

    path = Path(path)
    try:
        source = sys.stdin.buffer if path == STDIN else str(path)
        with pa.input_stream(source, compression=COMPRESSIONS.get(path.suffix)) as stream:
            for number, line in enumerate(io.BufferedReader(stream, BLOCK_BYTES)):
                yield line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
    except FileNotFoundError as error:
        raise InputError(f"no file {path}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def row_file_stem(path: Path) -> str:
    """File name without its row and compression suffixes; `stdin` for `-`."""
    name = "stdin" if path == STDIN else path.name
    for suffix in reversed(path.suffixes):
        if suffix not in (*ROW_SUFFIXES, *COMPRESSIONS):
            break
        name = name.removesuffix(suffix)
    return name


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path.name}:{number}", row
    except FileNotFoundError as error:
        raise InputError(f"no file {path}") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _loads(line: bytes) -> Any:
    """The JSON value of a line, None when it is none."""
    try:
        return json.loads(line.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        return None
