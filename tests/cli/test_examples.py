"""The example in the help of each command runs as it stands."""

import importlib
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffembed.cli import COMMANDS

ROOT = Path(__file__).parents[2]


def example(verb: str) -> str:
    """The line below `For example:`."""
    module, _, function = COMMANDS[verb][0].partition(":")
    doc = inspect.getdoc(getattr(importlib.import_module(module), function)) or ""
    return doc.partition("For example:\n")[2].splitlines()[0].strip()


@pytest.mark.slow
@pytest.mark.parametrize("verb", COMMANDS)
def test_the_example_runs(verb: str, tmp_path: Path) -> None:
    for name in ("README.md", "docs"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    line = example(verb)
    assert f"diffembed {verb}" in line
    command = f"exec {line} --port 0" if verb == "serve" else line
    with subprocess.Popen(
        command, shell=True, cwd=tmp_path, env={**os.environ, "PATH": path}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as ran:  # fmt: skip
        assert ran.stdout is not None
        said = ""
        if verb == "serve":  # It does not end by itself.
            said = ran.stdout.readline()
            ran.terminate()
        rest, errors = ran.communicate(timeout=600)
    assert ran.returncode == 0, errors
    assert (said + rest).strip()
