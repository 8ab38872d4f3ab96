"""All texts of a source in memory, and the passages they are cut into, each with its place in the file.

Read `read_corpus` and `make_chunks`. Knows nothing of tokens: chunks are measured in characters.
"""

import re
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffembed.documents.chunking import CHUNK_CHARS, ChunkPolicy, cut_document
from diffembed.documents.decoding import name_of
from diffembed.documents.streaming import MAX_FILE_BYTES, ReadOptions, has_lines, stream_texts
from diffembed.errors import ConfigError, EmptyInputError, InputError, MissingExtraError
from diffembed.records import Document

LINE_CHARS = 68
"""Longest piece of a line that `lines_about` gives: a row of a terminal of 80 columns, beside the line's number."""

STEM_LETTERS = 6
"""Letters by which `lines_about` compares words. Chosen because most English endings begin after them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """What `read_corpus` found."""

    documents: list[Document]
    """Files and rows, in the order of their paths; ids as `stream_texts` gives them."""
    skipped: Mapping[str, str]
    """Path -> why it, or the first of its rows that is of no use, was passed over."""

    def make_chunks(self, max_chars: int = CHUNK_CHARS) -> list[Document]:
        """`make_chunks` of every document."""
        return [chunk for document in self.documents for chunk in make_chunks(document, max_chars=max_chars)]


def read_corpus(source: Path | str, *, text_column: str | None = None, id_column: str | None = None) -> Corpus:
    """The texts of a folder, a file, or standard input for `-`, as `stream_texts` finds them.

    text_column, id_column: of row files, as `ReadOptions` has them.

    Inside a folder, what cannot be read is passed over and listed; a file named directly must be readable to its end.
    Raises InputError for a file that is not, EmptyInputError when no text is left, and MissingExtraError for a page or
    PDF file named directly without the extra `index`.
    """
    is_folder = str(source) != "-" and Path(source).is_dir()
    skipped: dict[str, str] = {}
    documents: dict[str, Document] = {}

    def skip(name: str, reason: str) -> None:
        if not is_folder:
            raise InputError(reason)
        skipped.setdefault(name, reason)

    # A file that is named directly is read however large it is.
    options = ReadOptions(
        text_column=text_column,
        id_column=id_column,
        max_file_bytes=MAX_FILE_BYTES if is_folder else sys.maxsize,
    )
    for found in stream_texts([source], options=options, on_skip=skip):
        name = name_of(found.source)
        try:
            document = found.read()
        except EmptyInputError as error:
            # Of a file named directly, a blank row is one of others, which may have text.
            skipped.setdefault(name, str(error))
            continue
        except (InputError, MissingExtraError) as error:
            if not is_folder:
                raise
            skip(name, str(error))
            continue
        if document.id in documents:
            skip(name, f"{name} has the id {document.id!r}, which occurs twice; make ids unique or leave them out")
        documents.setdefault(document.id, document)
    if not documents:
        if skipped and not is_folder:
            raise EmptyInputError(next(iter(skipped.values())))
        passed = f"; passed over: {some_of(skipped)}" if skipped else ""
        raise EmptyInputError(f"{name_of(source)} has no text, page or row{passed}")
    return Corpus(documents=list(documents.values()), skipped=skipped)


def make_chunks(document: Document, *, max_chars: int = CHUNK_CHARS) -> list[Document]:
    """Passages of at most `max_chars` characters, cut at headings, paragraphs, lines, sentences or words.

    Chunks do not overlap and leave out nothing but white space between them: `text[start : start + len(chunk.text)]`
    is the chunk. A document that fits keeps its id, others become `id#start`; one of white space has no chunks.
    Where line breaks of the text are not those of its source (see `has_lines`), all chunks share its line.
    """
    if max_chars < 1:
        raise ConfigError(f"max_chars must be at least 1, got {max_chars}")
    policy = ChunkPolicy(kind="fixed", size=max_chars)
    return cut_document(document, policy, counts_lines=has_lines(document.source))


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


def some_of(skipped: Mapping[str, str]) -> str:
    """The first three names, how many more there are, and why the first is among them."""
    names = list(skipped)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} ({skipped[names[0]]})"
