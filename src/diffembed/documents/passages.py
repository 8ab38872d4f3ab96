"""Whole files, and the passages they are cut into, each with its place in the file.

Read `read_corpus` and `make_chunks`. Knows nothing of tokens: chunks are measured in characters.
"""

import os
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffembed.documents.chunking import CHUNK_CHARS, ChunkPolicy, cut_document
from diffembed.documents.decoding import decode, name_of, open_bytes
from diffembed.documents.kinds import TEXT_SUFFIXES
from diffembed.documents.rows import ROW_FORMATS, read_rows
from diffembed.errors import ConfigError, EmptyInputError, InputError
from diffembed.records import Document

GENERATED_FOLDERS = frozenset({"__pycache__", "build", "dist", "node_modules", "target"})
"""Folders whose content is made from other files; `read_corpus` passes over them, hidden ones and environments."""

LINE_CHARS = 68
"""Longest piece of a line that `lines_about` gives: a row of a terminal of 80 columns, beside the line's number."""

STEM_LETTERS = 6
"""Letters by which `lines_about` compares words. Chosen because most English endings begin after them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """What `read_corpus` found."""

    documents: list[Document]
    """Whole files (or rows), in the order of their paths; ids are paths relative to the folder."""
    skipped: Mapping[str, str]
    """Path -> why it was passed over: another kind of file, not text, unreadable, empty."""
    is_rows: bool
    """True for rows of a data file: their text may hold line breaks that are not lines of the file."""

    def make_chunks(self, max_chars: int = CHUNK_CHARS) -> list[Document]:
        """`make_chunks` of every document; chunks of a row keep the line of the row."""
        return [
            chunk
            for document in self.documents
            for chunk in make_chunks(document, max_chars=max_chars, counts_lines=not self.is_rows)
        ]


def read_corpus(source: Path | str) -> Corpus:
    """Whole texts: every text, markdown and source file of a folder, one such file, a row file, or standard input.

    Inside a folder, files of other kinds are passed over and listed; a file named directly must be readable.
    Raises EmptyInputError when no text is left.
    """
    path = Path(source)
    if str(source) != "-" and path.is_dir():
        corpus = _read_folder(path)
    elif str(source) != "-" and ROW_FORMATS.get(path.suffix.lower(), "txt") != "txt":
        corpus = Corpus(documents=list(read_rows(path)), skipped={}, is_rows=True)
    else:
        with open_bytes(source) as file:
            text = decode(file.read(), name_of(source))
        document = Document(id=name_of(path.name), text=text, source=name_of(source))
        corpus = Corpus(documents=[document], skipped={}, is_rows=False)
    if not any(document.text.strip() for document in corpus.documents):
        passed = f"; passed over: {_some_of(corpus.skipped)}" if corpus.skipped else ""
        raise EmptyInputError(f"{name_of(source)} has no text, markdown or source{passed}")
    return corpus


def make_chunks(document: Document, *, max_chars: int = CHUNK_CHARS, counts_lines: bool = True) -> list[Document]:
    """Passages of at most `max_chars` characters, cut at headings, paragraphs, lines, sentences or words.

    Chunks do not overlap and leave out nothing but white space between them: `text[start : start + len(chunk.text)]`
    is the chunk. A document that fits keeps its id, others become `id#start`; one of white space has no chunks.
    counts_lines: False where line breaks of the text are not those of its source, so that all chunks share its line.
    """
    if max_chars < 1:
        raise ConfigError(f"max_chars must be at least 1, got {max_chars}")
    policy = ChunkPolicy(kind="fixed", size=max_chars)
    return cut_document(document, policy, counts_lines=counts_lines)


def lines_about(text: str, question: str, *, num_lines: int = 3) -> list[tuple[int, str]]:
    """The neighbouring lines that share most words with the question, each with its offset in lines.

    Blank lines are left out, long ones come in pieces of at most LINE_CHARS with the same offset. Words are compared
    by their first letters, so that `install` finds `installed`.
    """
    lines = [
        (offset, piece)
        for offset, line in enumerate(text.split("\n"))
        for piece in ([line.rstrip()] if len(line) <= LINE_CHARS else textwrap.wrap(line, LINE_CHARS))
        if piece.strip()
    ]
    # Words of three letters and less are mostly the, how, is ...: they decide only where there are no others.
    wanted = {stem for stem in _stems(question) if len(stem) > 3} or _stems(question)
    found = [_stems(line) & wanted for _, line in lines]
    starts = range(max(1, len(lines) - num_lines + 1))
    best = max(starts, key=lambda start: _score(found[start : start + num_lines]))
    return lines[best : best + num_lines]


def _score(found: list[set[str]]) -> tuple[int, int]:
    """Different words first, then how many lines have one: the earliest of the best windows is shown."""
    return len(set().union(*found)), sum(map(bool, found))


def _stems(text: str) -> set[str]:
    return {word[:STEM_LETTERS] for word in re.findall(r"\w+", text.casefold())}


def _read_folder(folder: Path) -> Corpus:
    documents: list[Document] = []
    skipped: dict[str, str] = {}

    def note(error: OSError) -> None:
        skipped[name_of(error.filename)] = f"cannot be read: {error.strerror}"

    for root, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not is_passed_over(Path(root) / name))
        for path in sorted(Path(root) / name for name in names if not name.startswith(".")):
            if path.suffix and path.suffix.lower() not in TEXT_SUFFIXES:
                skipped[name_of(path)] = "another kind of file"
                continue
            try:
                text = _read_text(path)
            except InputError as error:
                skipped[name_of(path)] = str(error)
                continue
            documents.append(Document(id=name_of(path.relative_to(folder).as_posix()), text=text, source=name_of(path)))
    return Corpus(documents=documents, skipped=skipped, is_rows=False)


def _read_text(path: Path) -> str:
    # A pipe or a device inside a folder would block or never end.
    if path.exists() and not path.is_file():
        raise InputError(f"{name_of(path)} is not a regular file")
    with open_bytes(path) as file:
        text = decode(file.read(), name_of(path))
    if not text.strip():
        raise EmptyInputError(f"{name_of(path)} is empty")
    return text


def _some_of(skipped: Mapping[str, str]) -> str:
    names = list(skipped)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def is_passed_over(folder: Path) -> bool:
    """Whether a folder is hidden, made from other files, or an environment of Python."""
    return folder.name.startswith(".") or folder.name in GENERATED_FOLDERS or (folder / "pyvenv.cfg").exists()
