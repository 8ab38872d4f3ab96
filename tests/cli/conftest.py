"""Running the command line inside the test process, on the tiny models."""

import json
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from diffembed.cli import main


class Ran(NamedTuple):
    """What a user of one command saw."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The JSON lines of stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ran]]:
    """`run("encode", "-", ...)`; what `main` changes in the process is put back."""

    def ran(*tokens: str) -> Ran:
        capsys.readouterr()
        code = main(tokens)
        return Ran(code, *capsys.readouterr())

    handler, show = signal.getsignal(signal.SIGTERM), warnings.showwarning
    yield ran
    signal.signal(signal.SIGTERM, handler)
    warnings.showwarning = show
