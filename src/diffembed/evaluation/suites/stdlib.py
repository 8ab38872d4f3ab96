"""Real text that every Python carries: the standard library's documentation, and a labelled task made of it.

Read `make_stdlib_task` first. The labels come from the library's authors: whoever wrote a docstring wrote its first
paragraph and the rest about the same object, so the first paragraph (with the object's name taken out) is the query
and the rest is its one right document. Docstrings are read from the source files, without importing a module, from
a fixed list of modules that exist on every platform; the text depends on the Python version and on nothing else.
This module knows nothing of encoders.
"""

import ast
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from diffembed.errors import EmptyInputError, InputError
from diffembed.evaluation.tasks import Task
from diffembed.records import Document, Query

_MODULE_NAMES = (
    "abc argparse ast asyncio base64 bdb bisect calendar cmd code codecs codeop collections colorsys compileall "
    "concurrent configparser contextlib copy csv ctypes dataclasses datetime decimal difflib dis doctest email enum "
    "filecmp fileinput fnmatch fractions ftplib functools getopt getpass gettext glob graphlib gzip hashlib heapq hmac "
    "html http imaplib importlib inspect io ipaddress json keyword linecache locale logging mailbox mimetypes "
    "modulefinder multiprocessing netrc numbers opcode operator optparse os pathlib pdb pickle pickletools pkgutil "
    "platform plistlib poplib pprint profile pstats py_compile pyclbr pydoc queue quopri random reprlib rlcompleter "
    "runpy sched secrets selectors shelve shlex shutil site smtplib socket socketserver sqlite3 ssl statistics "
    "string stringprep struct subprocess symtable sysconfig tabnanny tarfile tempfile textwrap threading timeit "
    "token tokenize tomllib trace traceback tracemalloc turtle types typing unittest urllib uuid venv warnings wave "
    "weakref webbrowser wsgiref xml xmlrpc zipapp zipfile zipimport zoneinfo"
)
MODULES = tuple(_MODULE_NAMES.split())
"""Modules written in Python that no platform leaves out; one that a version has dropped is passed over."""
SKIPPED_FOLDERS = frozenset({"test", "tests", "__pycache__"})

MIN_QUERY_WORDS, MAX_QUERY_WORDS = 5, 40
"""Words of a first paragraph that can be searched for: shorter ones say too little, longer ones are no summary."""
MIN_BODY_WORDS, MAX_BODY_WORDS = 25, 250
MAX_QUERY_OVERLAP, MAX_BODY_OVERLAP = 0.6, 0.5
"""Shared words over all words of two queries or two documents, above which the second is left out."""
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """The docstring of one public module, class or function."""

    name: str
    """Dotted path from the module, for example `pathlib.Path.exists`."""
    summary: str
    """First paragraph on one line, as written."""
    body: str
    """Everything after the first paragraph; empty where there is none."""


@lru_cache(maxsize=1)
def read_entries() -> tuple[Entry, ...]:
    """Every docstring of the listed modules that belongs to a public name, ordered by name.

    Raises EmptyInputError where the installation carries no source files.
    """
    found: dict[str, Entry] = {}
    for module, path in _source_files():
        for name, docstring in _docstrings(ast.parse(path.read_text(encoding="utf-8")), module):
            head, _, body = docstring.strip().partition("\n\n")
            found.setdefault(name, Entry(name=name, summary=" ".join(head.split()), body=body.strip()))
    if not found:
        raise EmptyInputError("this Python carries no source files of its standard library, so there is no text to use")
    return tuple(found[name] for name in sorted(found))


def _source_files() -> Iterator[tuple[str, Path]]:
    for module in MODULES:
        spec = find_spec(module)
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            continue
        origin = Path(spec.origin)
        if not spec.submodule_search_locations:
            if origin.is_file():
                yield module, origin
            continue
        for path in sorted(origin.parent.rglob("*.py")):
            parts = path.relative_to(origin.parent).with_suffix("").parts
            if SKIPPED_FOLDERS.isdisjoint(parts):
                dotted = ".".join((module, *(part for part in parts if part != "__init__")))
                if not any(part.startswith("_") for part in dotted.split(".")):
                    yield dotted, path


_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _docstrings(node: _Documented, name: str) -> Iterator[tuple[str, str]]:
    """(dotted name, docstring) of a module, class or function and of the public names inside it."""
    if docstring := ast.get_docstring(node):
        yield name, docstring
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and child.name[0] != "_":
                yield from _docstrings(child, f"{name}.{child.name}")


def make_stdlib_task(num_queries: int, *, seed: int = 0) -> Task:
    """`num_queries` first paragraphs, each with exactly one right document among as many docstring bodies.

    An entry that repeats much of an entry drawn before it (str and bytes methods, copied paragraphs) is left out, so
    that no other document answers a query as well. Documents carry neither a name nor a title.
    Raises InputError where the library holds fewer than `num_queries` such entries.
    """
    candidates = [entry for entry in read_entries() if _is_usable(entry)]
    random.Random(f"{seed}/stdlib").shuffle(candidates)
    chosen: list[tuple[Entry, str]] = []
    seen: list[tuple[frozenset[str], frozenset[str]]] = []
    for entry in candidates:
        if len(chosen) == num_queries:
            break
        query = without_name(entry.summary, entry.name)
        words = _words(query), _words(entry.body)
        if len(query.split()) < MIN_QUERY_WORDS or any(_repeats(words, other) for other in seen):
            continue
        seen.append(words)
        chosen.append((entry, query))
    if len(chosen) < num_queries:
        raise InputError(f"the standard library gives {len(chosen)} labelled entries; {num_queries} were asked for")
    return Task(
        name="stdlib",
        corpus=[Document(id=entry.name, text=entry.body) for entry, _ in chosen],
        queries=[Query(id=f"about {entry.name}", text=query) for entry, query in chosen],
        qrels={f"about {entry.name}": {entry.name: 1} for entry, _ in chosen},
        measures=("nDCG@10", "Acc@1"),
    )


def _is_usable(entry: Entry) -> bool:
    return (
        MIN_QUERY_WORDS <= len(entry.summary.split()) <= MAX_QUERY_WORDS
        and MIN_BODY_WORDS <= len(entry.body.split()) <= MAX_BODY_WORDS
    )


def without_name(text: str, name: str) -> str:
    """`text` without the last part of a dotted name, and without calls of it such as `name(a, b) ->`."""
    last = re.escape(name.rpartition(".")[2])
    called = re.sub(rf"(?:\w+\.)*\b{last}\b(?:\([^()]*\))?(?:\s*->)?", " ", text)
    return " ".join(called.split())


def _words(text: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _WORD.findall(text))


def _repeats(a: tuple[frozenset[str], frozenset[str]], b: tuple[frozenset[str], frozenset[str]]) -> bool:
    return _overlap(a[0], b[0]) > MAX_QUERY_OVERLAP or _overlap(a[1], b[1]) > MAX_BODY_OVERLAP


def _overlap(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / max(1, len(a | b))


@lru_cache(maxsize=1)
def haystack_text() -> str:
    """The language reference that `help()` shows, then every docstring: more than a million characters of prose."""
    from pydoc_data import topics

    paragraphs = [text.strip() for _, text in sorted(topics.topics.items())]
    paragraphs += [f"{entry.summary}\n\n{entry.body}".strip() for entry in read_entries()]
    return "\n\n".join(dict.fromkeys(paragraphs))


def summaries() -> list[Document]:
    """One document per public name with a docstring of several paragraphs: the first one, with the name as source."""
    found: dict[str, Document] = {}
    for entry in read_entries():
        if entry.body and len(entry.summary.split()) >= MIN_QUERY_WORDS:
            found.setdefault(entry.summary, Document(id=entry.name, text=entry.summary, source=entry.name))
    return list(found.values())
