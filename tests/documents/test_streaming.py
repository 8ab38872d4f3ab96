"""Every text of the sources comes once, and whatever cannot be used is listed with its reason and stops nothing."""

import io
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from diffembed.documents import ReadOptions, stream_texts
from diffembed.documents.rows import read_rows
from diffembed.errors import ConfigError, EmptyInputError, InputError

pytest.importorskip("selectolax", reason="the extra `index` is not installed")
pypdf = pytest.importorskip("pypdf", reason="the extra `index` is not installed")


class Read:
    """What one pass over sources gave."""

    def __init__(self, *sources: Path | str, **options: object) -> None:
        self.texts: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        for found in stream_texts(sources, options=ReadOptions(**options), on_skip=self._skip):
            try:
                self.texts[found.id] = found.read().text
            except InputError as error:
                self._skip(found.source, str(error))

    def _skip(self, name: str, reason: str) -> None:
        self.skipped[Path(name).name] = reason


def make_pdf(*pages: str, password: str | None = None) -> bytes:
    """A PDF file with a line of text on every page."""
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    font = writer._add_object(
        DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
            }
        )
    )
    for text in pages:
        page = writer.add_blank_page(300, 100)
        content = DecodedStreamObject()
        content.set_data(f"BT /F1 12 Tf 10 50 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(content)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_every_kind_of_file_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text("# A\n")
    (folder / "b.pdf").write_bytes(make_pdf("First page.", "Second page."))
    (folder / "deep" / "c.html").write_text("<p>A page.</p>")
    (folder / "d.jsonl").write_text('{"id": "own", "text": "A row."}\n{"text": "none", "id": ""}\n')
    (folder / "e.csv").write_text("text\nA line.\nAnother.\n")
    (folder / "f.unknown").write_text("?")
    read = Read(folder)
    assert read.texts == {
        "all/a.md": "# A\n",
        "all/b.pdf": "First page.\n\nSecond page.\n",
        "all/deep/c.html": "A page.\n",
        "own": "A row.",
        "all/e.csv#1": "A line.",
        "all/e.csv#2": "Another.",
    }
    assert read.skipped["f.unknown"] == "another kind of file"
    assert "d.jsonl:2 must have a string or a whole number in 'id'" in read.skipped["d.jsonl"]


def test_bad_files_are_listed_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("Good.")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "nul.md").write_bytes(b"a\0b")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "locked.pdf").write_bytes(make_pdf("Secret.", password="open"))
    (tmp_path / "open.pdf").write_bytes(make_pdf("Printed by many.", password=""))
    (tmp_path / "cut.pdf").write_bytes(make_pdf("Whole.")[:150])
    (tmp_path / "picture.pdf").write_bytes(make_pdf(""))
    (tmp_path / "no text.csv").write_text("a,b\n1,2\n")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    os.mkfifo(tmp_path / "pipe.txt")
    read = Read(tmp_path)
    assert sorted(Path(id).name for id in read.texts) == ["good.txt", "open.pdf"]
    for name, reason in {
        "latin.txt": "not UTF-8 text: byte 0xe9 at line 1",
        "nul.md": "a NUL byte at line 1",
        "blank.txt": "is empty",
        "locked.pdf": "is protected by a password",
        "cut.pdf": "is not a PDF file, or it is damaged",
        "picture.pdf": "has no text; its 1 pages are pictures or empty",
        "no text.csv": "has no column 'text'",
        "torn.parquet": "is not a parquet file, or it is cut short",
        "pipe.txt": "is not a regular file",
    }.items():
        assert reason in read.skipped.pop(name)
    assert read.skipped == {}


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (pypdf.errors.DependencyError("cryptography is required for AES"), "cannot be read: cryptography is required"),
        (AssertionError(), "is not a PDF file, or it is damaged: AssertionError"),
    ],
)
def test_whatever_a_pdf_parser_raises_ends_no_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, reason: str
) -> None:
    def fail(_: object) -> None:
        raise raised

    monkeypatch.setattr(pypdf, "PdfReader", fail)
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.6")
    (tmp_path / "b.txt").write_text("Good.")
    read = Read(tmp_path)
    assert list(read.texts.values()) == ["Good."]
    assert reason in read.skipped["a.pdf"]


def test_links_neither_loop_nor_leave_the_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.txt").write_text("Secret.")
    (folder / "a.txt").write_text("A.")
    (folder / "b.txt").symlink_to("a.txt")
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "away").symlink_to(outside)
    (folder / "secret.txt").symlink_to(outside / "secret.txt")
    (folder / "up.txt").symlink_to("../out/secret.txt")
    (folder / "itself.txt").symlink_to("itself.txt")
    read = Read(folder)
    assert read.texts == {"in/a.txt": "A.", "in/b.txt": "A."}
    assert "which is not followed" in read.skipped["loop"]
    assert "which is not followed" in read.skipped["away"]
    for name in ("secret.txt", "up.txt"):
        assert "leads out of the folder" in read.skipped[name]
    assert "itself.txt" in read.skipped


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_listed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Mine.")
    (tmp_path / "theirs.txt").write_text("Theirs.")
    (tmp_path / "theirs.txt").chmod(0)
    read = Read(tmp_path)
    assert list(read.texts.values()) == ["Mine."]
    assert "cannot be read: Permission denied" in read.skipped["theirs.txt"]


def test_a_folder_that_may_not_be_looked_into_ends_no_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "mine.txt").write_text("Mine.")
    exists = Path.exists

    def refused(path: Path) -> bool:
        if path.parent.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", refused)
    assert list(Read(tmp_path).texts.values()) == ["Mine."]


def test_a_file_of_a_gigabyte_is_passed_over_without_reading(tmp_path: Path) -> None:
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "small.txt").write_text("Small.")
    tracemalloc.start()
    read = Read(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert list(read.texts.values()) == ["Small."]
    assert "has 1,074 MB, more than the 67 MB read as one text" in read.skipped["huge.txt"]
    assert peak < 5e6
    assert "more than the 0 MB" in Read(tmp_path, max_file_bytes=3).skipped["small.txt"]
    with pytest.raises(ConfigError, match="max_file_bytes must be at least 1"):
        ReadOptions(max_file_bytes=0)


def test_rows_of_a_large_file_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for number in range(5_000):
            file.write(json.dumps({"id": number, "text": "word " * 400}) + "\n")
    assert path.stat().st_size > 1e7
    tracemalloc.start()
    num_rows = sum(1 for _ in stream_texts([path], on_skip=lambda *_: None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_rows == 5_000
    assert peak < 2e6
    monkeypatch.setattr("diffembed.documents.rows.MAX_LINE_BYTES", 1 << 20)
    with path.open("a") as file:
        file.write("x" * (2 << 20))
    read = Read(path)
    assert len(read.texts) == 5_000
    assert "rows.jsonl:5001 is longer than 1 MB" in read.skipped["rows.jsonl"]


def test_rows_that_cannot_be_used_are_told_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,title\nfirst,T\nonly one\nlast,U\n")
    told: list[str] = []
    rows = list(read_rows(path, on_bad=lambda error: told.append(str(error)), id_prefix="r"))
    assert [(row.id, row.text, row.title) for row in rows] == [("r1", "first", "T"), ("r3", "last", "U")]
    assert len(told) == 1
    assert "rows.csv:3 has 1 fields where the header has 2" in told[0]
    with pytest.raises(InputError, match="has 1 fields where the header has 2"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("name", "head", "body"),
    [("rows.jsonl", "# exported today\n", '{"text": "A row."}\n'), ("rows.csv", "text,title\nalone\n", "A row.,T\n")],
)
def test_a_bad_first_row_costs_no_other(tmp_path: Path, name: str, head: str, body: str) -> None:
    """A first row of no use was taken for a file of no use, and a build removed all its rows."""
    path = tmp_path / name
    path.write_text(head + body)
    told: list[InputError] = []
    assert [row.text for row in read_rows(path, on_bad=told.append)] == ["A row."]
    assert len(told) == 1


def test_standard_input_and_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def give(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    give(b"One text\nof two lines.\n")
    assert Read("-").texts == {"stdin": "One text\nof two lines.\n"}
    give(b'{"text": "A row."}\n{"text": "Another."}\n')
    assert Read("-", format="jsonl").texts == {"stdin#1": "A row.", "stdin#2": "Another."}
    path = tmp_path / "rows.dat"
    path.write_text("body\tname\nA row.\tn1\n")
    assert Read(path, format="tsv", text_column="body", id_column="name").texts == {"n1": "A row."}


def test_sources_are_checked_before_any_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A.")
    with pytest.raises(InputError, match="there is no file or folder"):
        Read(tmp_path / "a.txt", tmp_path / "missing")
    with pytest.raises(ConfigError, match=r"two sources are called a\.txt"):
        Read(tmp_path / "a.txt", tmp_path / "a.txt")
    (found,) = stream_texts([tmp_path / "a.txt"], on_skip=lambda *_: None)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(EmptyInputError, match="is empty"):
        found.read()
