"""Which code a result depends on, as one hash.

Read `hash_code`. A module's code is itself, the tables (.toml) that it names, and all modules of the project that it
imports, at the top or inside a function. Comments, docstrings and every module it does not import leave the hash as it
is, and so does what can change no number: see `UNSEEN`.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from diffembed.provenance import hash_text

PACKAGE = Path(__file__).parent
UNSEEN = (
    "diffembed",  # the public door imports by name when asked; what is asked for is imported where it is used
    "diffembed.errors",
    "diffembed.provenance",
    "diffembed.backbones.allocator",
    "diffembed.backbones.contract",
    "diffembed.backbones.conversion",
    "diffembed.backbones.fetching",
    "diffembed.backbones.registry",
    "diffembed.embedding.progress",
    "diffembed.evaluation.expected",
)
"""Modules, and tables without their ending, that say, fetch, prove or file, and compute nothing that is kept. What a
name of the registry stands for is in a node's inputs: the hash of the weights."""


@cache
def hash_code(*modules: str) -> str:
    """First 16 hex digits of the hash of the code that the named modules run."""
    seen: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in seen and not _is_unseen(name):
            tree = ast.parse(_file(name).read_text(encoding="utf-8"))
            waiting += _imports(tree)
            seen[name] = _essence(tree)
            seen |= dict(_tables(tree, name.rpartition(".")[0]))
    return hash_text("\n".join(f"{name}\n{seen[name]}" for name in sorted(seen)))[:16]


def _is_unseen(name: str) -> bool:
    return any(name == other or (other != "diffembed" and name.startswith(f"{other}.")) for other in UNSEEN)


def _file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "diffembed":
            assert node.module is not None
            yield node.module
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in inner if _file(name).is_file())
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "diffembed")


def _tables(tree: ast.Module, room: str) -> Iterator[tuple[str, str]]:
    """(name, text) of each .toml file of the room that the module names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".toml"):
            path = _file(f"{room}.{node.value.removesuffix('.toml')}").with_suffix(".toml")
            if path.is_file() and not _is_unseen(f"{room}.{path.stem}"):
                yield f"{room}.{node.value}", path.read_text(encoding="utf-8")


def _essence(tree: ast.Module) -> str:
    """The source without comments and lines that are only a text (docstrings)."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [line for line in body if not _is_text(line)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
