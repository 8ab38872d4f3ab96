"""A progress bar for long encoding: texts and tokens per second, time left; silent off a terminal.

Read `EncodeProgress`.
"""

import sys
import time
from types import TracebackType
from typing import Any, Self

SHOWN_AFTER_S = 2.0
"""Work that ends sooner shows no bar."""


class EncodeProgress:
    """Context manager; `advance(texts, tokens)` after every pack."""

    def __init__(self, num_texts: int, *, is_shown: bool | None = None) -> None:
        """`None` shows the bar on a terminal once the work has lasted two seconds."""
        self._num_texts = num_texts
        self._is_allowed = sys.stderr.isatty() if is_shown is None else is_shown
        self._delay_s = SHOWN_AFTER_S if is_shown is None else 0.0
        self._started = time.perf_counter()
        self._texts = 0
        self._tokens = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, num_texts: int, num_tokens: int) -> None:
        """Counts what one pack has done."""
        self._texts += num_texts
        self._tokens += num_tokens
        elapsed_s = time.perf_counter() - self._started
        if self._is_allowed and self._bar is None and elapsed_s >= self._delay_s:
            self._start()
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=min(self._texts, self._num_texts),
                tokens=f"{self._tokens / elapsed_s:,.0f} tokens/s",
            )

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("encoding"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[tokens]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("encoding", total=self._num_texts, tokens="")
        self._bar.start()
