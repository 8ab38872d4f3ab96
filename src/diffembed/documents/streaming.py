"""Texts of files, folders, standard input and row files as they come, none held longer than it is used.

Read `stream_texts`. What cannot be used is told to `on_skip` and passed over, so that one bad file stops nothing. A
folder is read within its own walls: links to folders are not followed, links that lead out of it are not read.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffembed.documents.decoding import decode, name_of, open_bytes
from diffembed.documents.html import html_text
from diffembed.documents.kinds import HTML_SUFFIXES, PDF_SUFFIXES, TEXT_SUFFIXES
from diffembed.documents.pdf import pdf_text
from diffembed.documents.rows import ROW_FORMATS, read_rows
from diffembed.errors import ConfigError, EmptyInputError, InputError
from diffembed.records import Document

MAX_FILE_BYTES = 64 << 20
"""Largest file that is read as one text. Row files are read row by row and may be of any size."""

GENERATED_FOLDERS = frozenset({"__pycache__", "build", "dist", "node_modules", "target"})
"""Folders whose content is made from other files; they are passed over, as hidden ones and environments are."""

OnSkip = Callable[[str, str], None]
"""Called with a name and the reason why it was passed over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundText:
    """A text that can be read: a whole file, or a row that has been read already."""

    id: str
    source: str
    modified_ns: int = 0
    """When the file was last changed, in nanoseconds since 1970; 0 where it is no file."""
    num_bytes: int = 0
    """Size of the file; 0 where it is no file."""
    counts_lines: bool = True
    """Whether line breaks of the text are line breaks of its source."""
    row: Document | None = None

    @property
    def is_file(self) -> bool:
        """Whether the text is all of a file, which need not be read again while its time and size stay the same."""
        return self.row is None and self.modified_ns > 0

    def read(self) -> Document:
        """The text. Raises InputError for what is not text, EmptyInputError for a blank one."""
        document = self.row or _read_file(self)
        if not document.text.strip():
            raise EmptyInputError(f"{self.source} is empty" if self.row is None else f"row {self.id} is empty")
        return document


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """How sources are read."""

    format: str | None = None
    """Reads files named directly, and standard input, as rows of this format (see ROW_FORMATS); None by suffix."""
    text_column: str | None = None
    """Column of row files that holds the text; None takes `text` or the only one."""
    id_column: str | None = None
    """Column of row files that holds the id; None takes `_id` or `id`, and numbers rows without."""
    max_file_bytes: int = MAX_FILE_BYTES
    """Largest file that is read as one text; a larger one is passed over."""

    def __post_init__(self) -> None:
        if self.max_file_bytes < 1:
            raise ConfigError(f"max_file_bytes must be at least 1, got {self.max_file_bytes}")


def stream_texts(
    sources: Sequence[Path | str],
    *,
    options: ReadOptions | None = None,
    on_skip: OnSkip,
    on_lost: OnSkip | None = None,
) -> Iterator[FoundText]:
    """Texts of every source in the order given, those of a folder in the order of their paths.

    on_lost: takes, in place of `on_skip`, files and folders that could not be read, or not to their end.
    Ids: `folder/path/in/it` for files, the row's own for rows, else `file#number`.
    Raises InputError for a source that does not exist and ConfigError for two of one name, before any is read.
    """
    check_sources(sources)
    names = [_source_id(source) for source in sources]
    return _stream(list(zip(sources, names, strict=True)), options or ReadOptions(), on_skip, on_lost or on_skip)


def check_sources(sources: Sequence[Path | str]) -> None:
    """Raises InputError for a source that does not exist and ConfigError for two of one name."""
    names = [_source_id(source) for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two sources are called {name}, so their texts could not be told apart; rename one")
    for source in sources:
        if str(source) != "-" and not Path(source).exists():
            raise InputError(f"there is no file or folder {name_of(source)}")


def has_lines(source: str) -> bool:
    """Whether lines of a text are lines of its file; not so for rows, pages and PDF files."""
    suffix = Path(source).suffix.lower()
    return suffix not in HTML_SUFFIXES | PDF_SUFFIXES and ROW_FORMATS.get(suffix, "txt") == "txt"


def _source_id(source: Path | str) -> str:
    return "stdin" if str(source) == "-" else name_of(Path(source).resolve().name or "root")


def _stream(
    sources: list[tuple[Path | str, str]], options: ReadOptions, on_skip: OnSkip, on_lost: OnSkip
) -> Iterator[FoundText]:
    for source, name in sources:
        if str(source) != "-" and Path(source).is_dir():
            for path in _walk(Path(source), on_skip, on_lost):
                id = _id_in(path, Path(source), name)
                yield from _texts_of(path, id, None, options, on_skip, on_lost, is_named=False)
        else:
            yield from _texts_of(source, name, options.format, options, on_skip, on_lost, is_named=True)


def _id_in(path: Path, folder: Path, name: str) -> str:
    return f"{name}/{name_of(path.relative_to(folder).as_posix())}"


def _texts_of(
    path: Path | str,
    id: str,
    format: str | None,
    options: ReadOptions,
    on_skip: OnSkip,
    on_lost: OnSkip,
    *,
    is_named: bool,
) -> Iterator[FoundText]:
    suffix = Path(path).suffix.lower()
    is_rows = format is not None or (str(path) != "-" and ROW_FORMATS.get(suffix, "txt") != "txt")
    try:
        if str(path) != "-" and not is_named and not Path(path).is_file():
            # A pipe within a folder would block or never end.
            on_skip(name_of(path), f"{name_of(path)} is not a regular file")
            return
        if is_rows:
            yield from _rows_of(path, id, format, options, on_skip)
            return
        facts = None if str(path) == "-" else Path(path).stat()
        num_bytes = facts.st_size if facts else 0
        if num_bytes > options.max_file_bytes:
            on_skip(
                name_of(path),
                f"{name_of(path)} has {num_bytes / 1e6:,.0f} MB, more than the {options.max_file_bytes / 1e6:,.0f} MB "
                "read as one text",
            )
            return
        modified_ns = max(1, facts.st_mtime_ns) if facts else 0
        # Line breaks of a page or of a PDF's text are made here; they are no lines of the file.
        yield FoundText(
            id=id,
            source=name_of(path) if str(path) == "-" else os.fspath(path),
            modified_ns=modified_ns,
            num_bytes=num_bytes,
            counts_lines=has_lines(str(path)),
        )
    except InputError as error:
        on_lost(name_of(path), str(error))
    except OSError as error:
        on_lost(name_of(path), f"{name_of(path)} cannot be read: {error.strerror}")


def _rows_of(
    path: Path | str, id: str, format: str | None, options: ReadOptions, on_skip: OnSkip
) -> Iterator[FoundText]:
    rows = read_rows(
        path,
        format=format,
        text_column=options.text_column,
        id_column=options.id_column,
        id_prefix=f"{id}#",
        on_bad=lambda error: on_skip(name_of(path), str(error)),
    )
    for row in rows:
        yield FoundText(id=row.id, source=row.source, counts_lines=False, row=row)


def _read_file(text: FoundText) -> Document:
    name = name_of(text.source)
    suffix = Path(text.source).suffix.lower()
    title = ""
    if text.modified_ns == 0:
        with open_bytes("-") as file:
            body = decode(file.read(), name)
    else:
        with open_bytes(text.source) as file:
            if suffix in PDF_SUFFIXES:
                title, body = pdf_text(file, name)
            elif suffix in HTML_SUFFIXES:
                title, body = html_text(file.read(), name)
            else:
                body = decode(file.read(), name)
    return Document(id=text.id, text=body, title=title, source=name)


def _walk(folder: Path, on_skip: OnSkip, on_lost: OnSkip) -> Iterator[Path]:
    """The files of a folder that hold text or rows, in order; everything else is told, except what is hidden."""
    walls = folder.resolve()

    def note(error: OSError) -> None:
        on_lost(name_of(error.filename), f"{name_of(error.filename)} cannot be read: {error.strerror}")

    for root, folders, names in os.walk(folder, onerror=note):
        kept = []
        for name in sorted(folders):
            path = Path(root) / name
            if _is(Path.is_symlink, path):
                on_skip(name_of(path), f"{name_of(path)} is a link to a folder, which is not followed")
            elif not _is_passed_over(path):
                kept.append(name)
        folders[:] = kept
        for path in sorted(Path(root) / name for name in names if not name.startswith(".")):
            if _is(Path.is_symlink, path) and not _is_within(path, walls):
                on_skip(name_of(path), f"{name_of(path)} leads out of the folder")
            elif path.suffix and path.suffix.lower() not in _READ_SUFFIXES:
                on_skip(name_of(path), "another kind of file")
            else:
                yield path


_READ_SUFFIXES = TEXT_SUFFIXES | HTML_SUFFIXES | PDF_SUFFIXES | frozenset(ROW_FORMATS)


def _is_passed_over(folder: Path) -> bool:
    """Whether a folder is hidden, made from other files, or an environment of Python."""
    if folder.name.startswith(".") or folder.name in GENERATED_FOLDERS:
        return True
    return _is(Path.exists, folder / "pyvenv.cfg")


def _is(question: Callable[[Path], bool], path: Path) -> bool:
    """False where the folder of a path may not be looked into, which `os.walk` tells."""
    try:
        return question(path)
    except OSError:
        return False


def _is_within(path: Path, walls: Path) -> bool:
    try:
        return path.resolve().is_relative_to(walls)
    except (OSError, RuntimeError):  # a link that leads to itself
        return False
