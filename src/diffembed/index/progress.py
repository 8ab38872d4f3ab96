"""What a build tells: how far it is, silent off a terminal, and at its end what it did.

Read `BuildReport` and `JobProgress`.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from diffembed.embedding.progress import SHOWN_AFTER_S


@dataclass(kw_only=True, slots=True)
class BuildReport:
    """What a build did."""

    folder: str
    model: str
    num_documents: int = 0
    """Documents of the sources that are in the index now."""
    num_chunks: int = 0
    """Rows of the index."""
    num_new: int = 0
    num_changed: int = 0
    num_unchanged: int = 0
    num_removed: int = 0
    num_kept: int = 0
    """Documents of files that could not be read now, or not to their end; they stay as they were."""
    num_encoded: int = 0
    """Chunks that went through the network."""
    num_truncated: int = 0
    """Chunks whose end the model did not read."""
    num_tokens: int = 0
    num_skipped: int = 0
    """Files and rows that could not be used; `skipped.jsonl` lists them."""
    seconds: float = 0.0
    encode_seconds: float = 0.0
    """Time inside the encoder."""

    @property
    def tokens_per_s(self) -> float:
        """Tokens through the network per second of the whole job."""
        return self.num_tokens / self.seconds if self.seconds else 0.0


class JobProgress:
    """Context manager; the share that is done is measured in bytes of the sources."""

    def __init__(self, sources: Sequence[str], *, is_shown: bool | None = None) -> None:
        """`None` shows the bar on a terminal once the work has lasted two seconds."""
        self._sources = sources
        self._is_allowed = sys.stderr.isatty() if is_shown is None else is_shown
        self._delay_s = SHOWN_AFTER_S if is_shown is None else 0.0
        self._started = time.perf_counter()
        self._num_bytes = self._num_documents = self._num_chunks = self._num_tokens = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def read(self, num_bytes: int) -> None:
        """Counts what was read of the sources."""
        self._num_bytes += num_bytes
        self._show()

    def encoded(self, num_documents: int, num_chunks: int, num_tokens: int) -> None:
        """Counts what one block has done."""
        self._num_documents += num_documents
        self._num_chunks += num_chunks
        self._num_tokens += num_tokens
        self._show()

    def say(self, stage: str) -> None:
        """Names what is being done now."""
        if self._bar is not None:
            self._bar.update(self._task, description=stage)

    def _show(self) -> None:
        elapsed_s = time.perf_counter() - self._started
        if not self._is_allowed or elapsed_s < self._delay_s:
            return
        if self._bar is None:
            self._start()
        rate = f"{self._num_chunks:,} chunks, {self._num_tokens / max(elapsed_s, 1e-9):,.0f} tokens/s"
        self._bar.update(self._task, completed=self._num_bytes, rate=rate)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("encoding", total=_num_bytes(self._sources), rate="")
        self._bar.start()


def _num_bytes(sources: Sequence[str]) -> int | None:
    """Bytes of all files; None where a source does not tell, and then no share is shown."""
    total = 0
    for source in map(Path, sources):
        if source.is_dir():
            total += sum(
                entry.stat().st_size
                for root, _, names in os.walk(source)
                for entry in (Path(root) / name for name in names)
                if entry.is_file()
            )
        elif source.is_file():
            total += source.stat().st_size
        else:
            return None
    return total
