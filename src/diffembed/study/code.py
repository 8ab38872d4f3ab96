"""Which code a node's result depends on, as one hash.

Read `hash_code`. A module's code is itself and all modules of the project that it imports, at the top or inside a
function; comments, docstrings and every module it does not import leave the hash as it is.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import diffembed
from diffembed.provenance import hash_text

PACKAGE = Path(diffembed.__file__).parent


@cache
def hash_code(*modules: str) -> str:
    """First 16 hex digits of the hash of the code that the named modules run."""
    seen: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            tree = ast.parse(_file(name).read_text(encoding="utf-8"))
            # The public door imports by name when asked; what is asked for is imported where it is used.
            waiting += [] if name == "diffembed" else _imports(tree)
            seen[name] = _essence(tree)
    return hash_text("\n".join(f"{name}\n{seen[name]}" for name in sorted(seen)))[:16]


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
