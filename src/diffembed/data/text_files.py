"""Running text of files, cut into documents: what a language model is adapted on.

Read `read_documents`. Streams, so that neither a file nor a document has to fit in memory. Knows nothing of tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffembed.data.files import COMPRESSIONS, ROW_SUFFIXES, read_lines, read_rows
from diffembed.data.formats import Defect, RowReport, is_unicode
from diffembed.errors import ConfigError, InputError

TEXT_SUFFIXES = (".txt", ".md")
PIECE_CHARACTERS = 100_000
"""Documents longer than this come in several pieces; bounds the memory of reading and of tokenising."""


class Piece(NamedTuple):
    """A document, or a part of one that is long."""

    text: str
    is_last: bool
    """True where the document ends here."""


def find_text_files(paths: Sequence[Path | str]) -> list[Path]:
    """The files, and the text and row files of the folders, in name order.

    Raises InputError for a missing path or an empty folder, ConfigError for files that are named twice.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(child for child in path.iterdir() if child.is_file() and _kind(child))
            if not inside:
                raise InputError(f"{path} has no text or row files (.txt, .md, .jsonl, .parquet; also .zst, .gz, .bz2)")
            found += inside
        elif not path.is_file():
            raise InputError(f"no file or folder {path}")
        elif not _kind(path):
            raise InputError(f"{path} is no text or row file (.txt, .md, .jsonl, .parquet; also .zst, .gz, .bz2)")
        else:
            found.append(path)
    if len(set(found)) < len(found):
        twice = next(path for path in found if found.count(path) > 1)
        raise ConfigError(f"{twice} is named twice")
    return found


def is_text(path: Path) -> bool:
    """True for running text, False for a file of rows."""
    return _kind(path) == "text"


def read_documents(path: Path, report: RowReport, *, column: str = "text") -> Iterator[Piece]:
    """The documents of one file: rows of a row file (`column`), or passages of a text file between blank lines.

    A text file in which two blank lines in a row occur is cut there and nowhere else, since single ones then part
    paragraphs. Rows without the column and lines that are not UTF-8 are counted as bad and left out.
    """
    lines = _row_lines(path, report, column) if _kind(path) == "rows" else _passage_lines(path, report)
    for piece in _pieces(lines):
        report.num_rows += piece.is_last
        report.num_kept += piece.is_last
        yield piece


def _row_lines(path: Path, report: RowReport, column: str) -> Iterator[str | None]:
    """The text of each row, then None for its end."""
    for where, row in read_rows(path):
        text = row.get(column) if isinstance(row, Mapping) else None
        if isinstance(text, str) and is_unicode(text):
            yield text
            yield None
            continue
        report.num_rows += 1
        if not isinstance(row, Mapping):
            report.count_defect(Defect.MALFORMED, where)
        elif text is None:
            report.count_defect(Defect.MISSING, where)
        else:
            report.count_defect(Defect.NOT_UNICODE if isinstance(text, str) else Defect.WRONG_TYPE, where)


def _passage_lines(path: Path, report: RowReport) -> Iterator[str | None]:
    """The lines of each passage, then None for its end; blank lines inside a passage stay."""
    gap = 2 if _has_wide_gap(path) else 1
    num_blank = 0
    for number, raw in enumerate(read_lines(path), start=1):
        try:
            line = raw.decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            report.num_rows += 1
            report.count_defect(Defect.NOT_UNICODE, f"{path.name}:{number}")
            continue
        if not line.strip():
            num_blank += 1
            continue
        if num_blank >= gap:
            yield None
        elif num_blank:
            yield "\n" * num_blank
        num_blank = 0
        yield line
    yield None


def _has_wide_gap(path: Path) -> bool:
    """Whether two blank lines in a row stand between texts; at either end of a file they part nothing."""
    has_text, num_blank = False, 0
    for raw in read_lines(path):
        if not raw.strip():
            num_blank += 1
        elif has_text and num_blank >= 2:
            return True
        else:
            has_text, num_blank = True, 0
    return False


def _pieces(lines: Iterator[str | None]) -> Iterator[Piece]:
    """Joins lines up to the None that ends their document, in pieces of bounded length; blank documents are none."""
    parts: list[str] = []
    size = 0
    is_begun = False
    for line in lines:
        if line is None:
            text = "".join(parts)
            if is_begun or text.strip():
                yield Piece(text, True)
            parts, size, is_begun = [], 0, False
            continue
        for start in range(0, len(line), PIECE_CHARACTERS):
            part = line[start : start + PIECE_CHARACTERS]
            if parts and size + len(part) > PIECE_CHARACTERS:
                yield Piece("".join(parts), False)
                parts, size, is_begun = [], 0, True
            parts.append(part)
            size += len(part)


def _kind(path: Path) -> str:
    """`text`, `rows`, or nothing for other files."""
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSIONS]
    last = suffixes[-1] if suffixes else ""
    return "text" if last in TEXT_SUFFIXES else "rows" if last in ROW_SUFFIXES else ""
