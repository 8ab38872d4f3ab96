"""Chunks are exact pieces of their file, and a folder gives its texts whatever else lies in it."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.documents import lines_about, make_chunks, read_corpus
from diffembed.errors import ConfigError, EmptyInputError, InputError
from diffembed.records import Document


def document(text: str) -> Document:
    return Document(id="d", text=text, source="d.md")


@given(
    text=st.text(alphabet=st.sampled_from(list("ab.# \n\t\r\u3002\u00a0\U0001f642")), max_size=400),
    max_chars=st.integers(1, 60),
)
def test_chunks_are_exact_pieces_in_order_and_lose_only_white_space(text: str, max_chars: int) -> None:
    chunks = make_chunks(document(text), max_chars=max_chars)
    end = 0
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.start + len(chunk.text)]
        assert 0 < len(chunk.text) <= max_chars
        assert chunk.line == 1 + text[: chunk.start].count("\n")
        assert not text[end : chunk.start].strip()
        end = chunk.start + len(chunk.text)
    assert not text[end:].strip()
    assert len({chunk.id for chunk in chunks}) == len(chunks)


def test_a_document_that_fits_keeps_its_id() -> None:
    (chunk,) = make_chunks(document("\n\n  indented\n\n"))
    assert (chunk.id, chunk.text, chunk.start, chunk.line) == ("d", "  indented", 2, 3)
    assert make_chunks(document(" \n\t\n")) == []


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("intro words here\n\nmore of it\n## Heading\nbody text that is long", "## Heading\nbody text that is long"),
        ("def a():\n    x = 1\n\n    return x\n\ndef b():\n    return 2\n", "def b():\n    return 2"),
        ("a line of some words\nanother line of words\nthe third line of words", "the third line of words"),
        ("One sentence is here. And another one. The third sentence goes on.", "The third sentence goes on."),
        ("\u4f60\u597d\u3002" * 20, "\u4f60\u597d\u3002" * 4),
    ],
)
def test_cuts_are_made_where_a_reader_would(text: str, second: str) -> None:
    chunks = make_chunks(document(text), max_chars=48)
    assert len(chunks) == 2
    assert chunks[1].text == second


def test_text_without_spaces_is_cut_at_the_limit() -> None:
    assert [len(chunk.text) for chunk in make_chunks(document("x" * 100), max_chars=40)] == [40, 40, 20]
    with pytest.raises(ConfigError, match="max_chars must be at least 1, got 0"):
        make_chunks(document("x"), max_chars=0)


def test_a_folder_gives_its_texts_in_order_and_lists_what_it_passed_over(tmp_path: Path) -> None:
    files = {
        "b.md": b"# B\n\ntext",
        "a/code.py": b"x = 1\n",
        "README": b"plain",
        "empty.txt": b" \n",
        "latin.txt": b"caf\xe9",
        "photo.jpg": b"\xff\xd8",
        ".hidden/secret.md": b"hidden",
        ".env": b"KEY=1",
        "node_modules/x.js": b"x",
        "env/lib/site.py": b"x",
        "env/pyvenv.cfg": b"",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere.md")
    os.mkfifo(tmp_path / "pipe.txt")
    corpus = read_corpus(tmp_path)
    names = [f"{tmp_path.name}/{name}" for name in ("README", "b.md", "a/code.py")]
    assert [document.id for document in corpus.documents] == names
    assert [Path(document.source) for document in corpus.documents] == [tmp_path.parent / name for name in names]
    reasons = {Path(name).name: why for name, why in corpus.skipped.items()}
    assert sorted(reasons) == ["empty.txt", "gone.md", "latin.txt", "photo.jpg", "pipe.txt"]
    assert reasons["photo.jpg"] == "another kind of file"
    assert "byte 0xe9 at line 1" in reasons["latin.txt"]
    assert "not a regular file" in reasons["pipe.txt"]


def test_a_folder_gives_pages_and_rows_too_as_an_index_reads_them(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<title>Tides</title><p>one</p><p>two</p>")
    (tmp_path / "a.jsonl").write_text('{"id": "x", "text": "first"}\n{"id": "y", "text": " "}\nno json\n')
    (tmp_path / "b.jsonl").write_text('{"id": "x", "text": "second"}\n{"text": "third"}\n')
    corpus = read_corpus(tmp_path)
    assert [(document.id, document.text.split()) for document in corpus.documents] == [
        ("x", ["first"]),
        (f"{tmp_path.name}/page.html", ["one", "two"]),
    ]
    assert corpus.documents[1].title == "Tides"
    assert {chunk.line for chunk in corpus.make_chunks(max_chars=4)} == {1}
    reasons = {Path(name).name: why for name, why in corpus.skipped.items()}
    assert "row y is empty" in reasons["a.jsonl"]
    assert "has the id 'x', which occurs twice" in reasons["b.jsonl"]


def test_a_row_file_named_directly_must_be_readable_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "text": "one"}\n{"id": "a", "text": "two"}\n')
    with pytest.raises(InputError, match="has the id 'a', which occurs twice"):
        read_corpus(path)
    path.write_text('{"id": "a", "text": "one"}\nno json\n')
    with pytest.raises(InputError, match=r"rows.jsonl:2 is not JSON"):
        read_corpus(path)


def test_a_file_named_directly_may_be_a_pipe_and_of_any_size(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"from a pipe")
    os.close(write)
    assert [document.text for document in read_corpus(f"/dev/fd/{read}").documents] == ["from a pipe"]
    os.close(read)
    (tmp_path / "blank.jsonl").write_text('{"id": "x", "text": " "}\n')
    with pytest.raises(EmptyInputError, match="row x is empty"):
        read_corpus(tmp_path / "blank.jsonl")


def test_rows_keep_their_line_when_they_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"id": "a", "text": "short"}\n{"id": "b", "text": "the one line\\nand another line\\nthen a third"}\n'
    )
    chunks = read_corpus(path).make_chunks(max_chars=20)
    assert [(chunk.id, chunk.line) for chunk in chunks] == [("a", 1), ("b#0", 2), ("b#13", 2), ("b#30", 2)]


def test_one_file_of_any_text_kind_is_read_and_a_binary_one_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.unknown"
    page.write_text("<p>text</p>")
    assert [document.text for document in read_corpus(page).documents] == ["<p>text</p>"]
    page.write_bytes(b"\0\1")
    with pytest.raises(InputError, match="not UTF-8 text: a NUL byte at line 1"):
        read_corpus(page)
    with pytest.raises(InputError, match="there is no file or folder"):
        read_corpus(tmp_path / "missing")


def test_a_folder_without_text_is_an_error_that_names_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(EmptyInputError, match=r"has no text, page or row$"):
        read_corpus(tmp_path)
    for number in range(5):
        (tmp_path / f"{number}.bin").write_bytes(b"\0")
    with pytest.raises(EmptyInputError, match=r"over: .*0.bin, .*1.bin, .*2.bin and 2 more \(another kind of file\)$"):
        read_corpus(tmp_path)


def test_the_shown_lines_are_those_about_the_question() -> None:
    text = "# Notes\n\nnothing here\nor here\nTo install it\nrun the installer\nand wait\nthe end\n"
    assert lines_about(text, "how is it installed?", num_lines=2) == [(4, "To install it"), (5, "run the installer")]
    assert lines_about(text, "zebra", num_lines=2) == [(0, "# Notes"), (2, "nothing here")]
    assert lines_about("", "anything") == []


def test_long_lines_are_shown_in_pieces_around_the_words_asked_for() -> None:
    text = "first\n" + "filler words " * 40 + "the tide rises twice a day " + "more filler " * 40
    (piece,) = lines_about(text, "when does the tide rise?", num_lines=1)
    assert piece[0] == 1
    assert "tide rises" in piece[1]
    assert len(piece[1]) <= 68
