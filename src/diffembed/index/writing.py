"""One writer at a time, and one sentence for what goes wrong on the disk.

Read `writer_lock` and `disk_errors`.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from diffembed.errors import DiffEmbedError, ResourceError, StoreError
from diffembed.provenance import user_data

LOCK_FILE = "write.lock"
WRITER_FILE = "writer.json"
_FULL = ("no space left", "os error 28", "disk quota", "os error 122")


def called(folder: Path) -> str:
    """What a command takes to mean an index folder: its name in the user's data folder, else its path."""
    if folder.parent == user_data() / "indexes":
        return folder.name
    return str(folder) if folder.name != str(folder) else f"./{folder}"


@contextlib.contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Holds the index for writing; the system lets go of it when the process ends in whatever way.

    Raises StoreError at once where another process has it, naming that process. Readers need no lock.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(f"{folder} is being written by {_writer(folder)}; wait for it to end, or stop it") from None
    try:
        with disk_errors(folder):
            (folder / WRITER_FILE).write_text(json.dumps({"pid": os.getpid(), "command": _command()}))
        yield
    finally:
        (folder / WRITER_FILE).unlink(missing_ok=True)
        lock.release()


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:3]]).strip()


def _writer(folder: Path) -> str:
    try:
        found = json.loads((folder / WRITER_FILE).read_text())
        return f"process {found['pid']} ({found['command']})"
    except (OSError, ValueError, KeyError):
        return "another process"


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turns a full disk into ResourceError, also where a library tells of it in words; the rest goes on as it is."""
    try:
        yield
    except DiffEmbedError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        if any(sign in str(error).lower() for sign in _FULL):
            raise ResourceError(
                f"the disk is full while writing {place}; what was committed before is kept: make room and run it again"
            ) from error
        raise


@contextlib.contextmanager
def table_errors(folder: Path) -> Iterator[None]:
    """Turns what a reader says about a damaged table into StoreError with the way out."""
    try:
        yield
    except DiffEmbedError:
        raise
    except BaseException as error:
        # A panic of the Rust library derives from BaseException alone.
        if not isinstance(error, OSError | ValueError | RuntimeError) and type(error).__name__ != "PanicException":
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0].partition(", /")[0]
        raise StoreError(
            f"the table in {folder} cannot be read ({first}); "
            f"if it is damaged, make it again with: diffembed index build {called(folder)} --replace"
        ) from error
