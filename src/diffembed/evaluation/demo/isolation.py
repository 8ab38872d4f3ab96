"""A session in a process of its own: its peak memory is its own, and its end does not end the comparison.

Read `RemoteSession`. The two processes pass pickled requests and answers through the child's stdin and stdout; the
child's stderr is the parent's, so that progress bars are seen. This module knows nothing of what is asked.
"""

import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from typing import Any, BinaryIO

from diffembed.errors import DiffEmbedError, ResourceError
from diffembed.evaluation.demo.draws import Draw
from diffembed.evaluation.demo.sessions import Session, TaskRun
from diffembed.evaluation.systems.recipes import SystemGroup
from diffembed.evaluation.tasks import AnyTask, Task
from diffembed.records import Document, Hit

CHILD = "from diffembed.evaluation.demo.isolation import answer_requests; answer_requests()"
SECONDS_TO_END = 5.0


class RemoteSession:
    """A `sessions.Session` elsewhere; every error of the child arrives as a DiffEmbedError."""

    def __init__(self, group: SystemGroup) -> None:
        """Starts the process and loads the systems in it."""
        self.label = group.labels[0]
        # -c, not -m: a package that is imported on the way must not run twice.
        self._process = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self.facts: dict[str, Any] = self._ask("open", group)
        except BaseException:
            self.close()
            raise

    def tokens_per_s(self) -> float:
        """As `Session`."""
        return float(self._ask("tokens_per_s"))

    def make_tasks(self, draw: Draw, seed: int) -> list[Task]:
        """As `Session`."""
        tasks: list[Task] = self._ask("make_tasks", draw, seed)
        return tasks

    def run(self, task: AnyTask, seed: int) -> dict[str, TaskRun]:
        """As `Session`."""
        runs: dict[str, TaskRun] = self._ask("run", task, seed)
        return runs

    def search(self, label: str, documents: Sequence[Document], question: str, top_k: int) -> list[Hit]:
        """As `Session`."""
        hits: list[Hit] = self._ask("search", label, list(documents), question, top_k)
        return hits

    def peak_bytes(self) -> int | None:
        """As `Session`."""
        peak: int | None = self._ask("peak_bytes")
        return peak

    def close(self) -> None:
        """Ends the process."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        process.terminate()
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _ask(self, method: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            pickle.dump((method, arguments), self._process.stdin)
            self._process.stdin.flush()
            is_answer, value = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise self._obituary() from error
        if not is_answer:
            raise value
        return value

    def _obituary(self) -> DiffEmbedError:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return ResourceError(f"the process of {self.label} was killed by the system: most likely memory ran out")
        return DiffEmbedError(f"the process of {self.label} ended without an answer (exit code {code})")


def answer_requests() -> None:
    """The child's life: one session, one answer per request, until the parent closes the pipe."""
    # The parent decides what an interrupt means; it ends this process by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # What a library prints must not fall between the answers.
    os.dup2(2, 1)
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", category=UserWarning, module="diffembed")
    session: Session | None = None
    while True:
        try:
            method, arguments = pickle.load(requests)
        except EOFError:
            return
        try:
            if method == "open":
                session = Session.open(*arguments)
                _answer(answers, True, session.facts)
            else:
                _answer(answers, True, getattr(session, method)(*arguments))
        except DiffEmbedError as error:
            _answer(answers, False, error)
        except MemoryError:
            _answer(answers, False, ResourceError("the machine has no memory left for this system"))
        except Exception as error:
            # A process boundary: whatever went wrong must reach the parent as a sentence.
            first = (str(error).splitlines() or [""])[0]
            _answer(answers, False, DiffEmbedError(f"stopped with {type(error).__name__}: {first}"))


def _answer(answers: BinaryIO, is_answer: bool, value: Any) -> None:
    pickle.dump((is_answer, value), answers)
    answers.flush()
