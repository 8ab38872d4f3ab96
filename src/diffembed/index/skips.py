"""What a build passed over, and why: `skipped.jsonl` beside the table.

Read `Skips`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from diffembed.index.writing import disk_errors

SKIPPED_FILE = "skipped.jsonl"


class Notes(Protocol):
    """Takes what is passed over."""

    def note(self, name: str, reason: str) -> None:
        """Adds one name with its reason."""
        ...

    def lose(self, name: str, reason: str) -> None:
        """Adds a file or folder that could not be read, or not to its end: what was kept of it is not gone."""
        ...


@dataclass(kw_only=True, slots=True)
class Skips:
    """Context manager: writes what was passed over beside the list of the last run, and replaces that at the end."""

    folder: Path
    num: int = 0
    lost: set[str] = field(default_factory=set)
    """Files and folders that could not be read."""
    _file: Any = field(default=None)

    def __enter__(self) -> "Skips":
        self._file = (self.folder / f"{SKIPPED_FILE}.part").open("w", encoding="utf-8")
        return self

    def note(self, name: str, reason: str) -> None:
        """Adds one line."""
        self.num += 1
        with disk_errors(self.folder):
            self._file.write(json.dumps({"name": name, "reason": reason}, ensure_ascii=True) + "\n")

    def lose(self, name: str, reason: str) -> None:
        """Adds one line, and remembers the name."""
        self.lost.add(name)
        self.note(name, reason)

    def has_lost(self, source: str) -> bool:
        """Whether a file, or a folder that it lies in, could not be read."""
        return bool(self.lost) and not self.lost.isdisjoint((source, *map(str, Path(source).parents)))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with disk_errors(self.folder):
            self._file.close()
        if kind is None:
            (self.folder / f"{SKIPPED_FILE}.part").replace(self.folder / SKIPPED_FILE)
