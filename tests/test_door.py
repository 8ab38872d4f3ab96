"""The public door: its names, and that opening it costs nothing."""

import ast
import subprocess
import sys

import pytest

import diffembed


def loaded_by(statement: str) -> set[str]:
    """The libraries, neither ours nor Python's own, that a fresh interpreter has imported after a statement."""
    code = f"import sys; before = set(sys.modules); {statement}; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {name.partition(".")[0] for name in ast.literal_eval(done.stdout.splitlines()[-1])}
    return names - sys.stdlib_module_names - {"diffembed"}


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


def test_importing_loads_no_library() -> None:
    assert loaded_by("import torch") >= {"torch", "numpy"}, "the probe sees what is loaded"
    assert loaded_by("import diffembed") == set()


def test_help_loads_only_what_prints_it() -> None:
    """The command-line library and its own needs: no tensors, no tables, no network."""
    cyclopts = {
        "cyclopts",
        "attr",
        "attrs",
        "docstring_parser",
        "rich",
        "rich_rst",
        "markdown_it",
        "mdurl",
        "pygments",
        "typing_extensions",
    }
    assert loaded_by("from diffembed.cli import main; main(['--help'])") <= cyclopts
