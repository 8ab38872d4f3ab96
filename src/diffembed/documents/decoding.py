"""Bytes of a file, a folder's file or standard input as UTF-8 text, or one sentence on why not.

Read `decode` first. What is not UTF-8 is refused with the line where it stops being so: nothing is guessed or replaced.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from diffembed.errors import InputError


@contextmanager
def open_bytes(source: Path | str) -> Iterator[BinaryIO]:
    """The bytes of a file or of standard input; what the system refuses becomes an InputError."""
    if str(source) == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(source).open("rb")  # noqa: SIM115 (closed below; the errors of opening are not those of reading)
    except FileNotFoundError as error:
        raise InputError(f"there is no file or folder {name_of(source)}") from error
    except IsADirectoryError as error:
        raise InputError(f"{name_of(source)} is a folder; name one file") from error
    except OSError as error:
        raise InputError(f"{name_of(source)} cannot be read: {error.strerror}") from error
    with file:
        yield file


def decode(raw: bytes, name: str, *, line: int = 1) -> str:
    """Text of UTF-8 bytes without its byte order mark; raises InputError for binary data, naming the line."""
    nul = raw.find(0)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        nul, reason = error.start, f"byte 0x{raw[error.start]:02x}"
    else:
        if nul < 0:
            return text.removeprefix("\ufeff") if line == 1 else text
        reason = "a NUL byte"
    line += raw.count(b"\n", 0, nul)
    raise InputError(f"{name} is not UTF-8 text: {reason} at line {line}")


def name_of(source: Path | str) -> str:
    """Printable name; bytes of a file name that are not UTF-8 are replaced."""
    return "standard input" if str(source) == "-" else os.fsencode(source).decode("utf-8", "replace")
