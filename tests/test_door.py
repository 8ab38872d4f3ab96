"""The public door: its names, and that opening it costs nothing."""

import subprocess
import sys

import pytest

import diffembed

HEAVY = ("torch", "transformers", "numpy", "pyarrow", "rich")


def loaded_by(statement: str) -> set[str]:
    """The heavy libraries that a fresh interpreter has imported after a statement."""
    code = f"import sys; {statement}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(eval(done.stdout.splitlines()[-1]))


def seconds(code: str) -> float:
    """Processor time, the best of three, without the start of the interpreter; waiting for others costs nothing."""
    timed = f"import time; start = time.process_time(); {code}; print(time.process_time() - start)"
    runs = [subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True) for _ in range(3)]
    return min(float(run.stdout.splitlines()[-1]) for run in runs)


def test_the_door_has_these_names_and_no_others() -> None:
    assert sorted(diffembed.__all__) == dir(diffembed)
    assert dir(diffembed) == sorted(
        [
            "DiffEmbedError",
            "Document",
            "Embedder",
            "Encoder",
            "Index",
            "Query",
            "adapt",
            "build_index",
            "evaluate",
            "load_backbone",
            "train",
        ]
    )


@pytest.mark.parametrize("name", diffembed.__all__)
def test_every_name_of_the_door_opens(name: str) -> None:
    assert getattr(diffembed, name).__name__ == name


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Embeder'; it has DiffEmbedError, Document, Embedder"):
        diffembed.Embeder  # noqa: B018


def test_importing_is_instant_and_loads_nothing_heavy() -> None:
    assert loaded_by("import diffembed") == set()
    assert loaded_by("import torch") >= {"torch"}, "the probe sees what is loaded"
    assert seconds("import diffembed") < 0.1


def test_help_is_quick_and_loads_no_network_library() -> None:
    assert loaded_by("from diffembed.cli import main; main(['--help'])") <= {"rich"}
    assert seconds("from diffembed.cli import main; main(['--help'])") < 0.4
