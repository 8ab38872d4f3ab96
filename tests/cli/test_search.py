"""`diffembed search` shows the passages an exact search finds, with their place."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from diffembed import Embedder
from diffembed.documents import read_corpus
from diffembed.embedding.nearest import best_places, search_documents
from diffembed.errors import ConfigError, EmptyInputError
from diffembed.records import Document, Vectors

Run = Callable[..., "tuple[int, str, str]"]


class ByLetters:
    """An encoder whose vectors count letters, so that the nearest text can be told by eye."""

    name, dim, max_tokens = "letters", 26, 1000

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        return np.array([[text.count(chr(97 + i)) for i in range(26)] for text in texts], dtype=np.float32)

    def encode_queries(self, texts: Sequence[str], instruction: str | None = None) -> Vectors:
        return self.encode_documents([f"{instruction or ''}{text}" for text in texts])

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        scale = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(documents, axis=1)[None, :]
        return queries @ documents.T / np.maximum(scale, 1e-9)


def documents(*texts: str) -> list[Document]:
    return [Document(id=str(number), text=text) for number, text in enumerate(texts)]


def test_the_nearest_come_first_and_ties_keep_their_order() -> None:
    hits = search_documents(ByLetters(), documents("zz", "ab", "aab", "zzz", "b"), "aab", top_k=4)
    assert [hit.document.id for hit in hits] == ["2", "1", "4", "0"]
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert hits[0].score == pytest.approx(1.0)
    assert best_places(np.array([0.5, 0.9, 0.5, 0.9], dtype=np.float32), 3) == [1, 3, 0]


def test_the_title_and_the_instruction_take_part() -> None:
    titled = [Document(id="t", text="x", title="qqq"), Document(id="u", text="qx")]
    assert search_documents(ByLetters(), titled, "qqq", top_k=1)[0].document.id == "t"
    plain, led = (search_documents(ByLetters(), documents("a", "b"), "a", instruction=text) for text in (None, "bbb"))
    assert (plain[0].document.id, led[0].document.id) == ("0", "1")


def test_nothing_to_ask_or_to_search_is_an_error() -> None:
    with pytest.raises(EmptyInputError, match="the question is empty"):
        search_documents(ByLetters(), documents("a"), " ")
    with pytest.raises(EmptyInputError, match="no documents to search"):
        search_documents(ByLetters(), [], "a")
    with pytest.raises(ConfigError, match="top_k must be at least 1, got 0"):
        search_documents(ByLetters(), documents("a"), "a", top_k=0)


def test_columns_of_row_files_can_be_chosen(run: Run, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("key,body,lang\nk1,Tides rise.,en\nk2,Bread bakes.,en\n")
    model = ("--model", "tiny-llama", "--json")
    assert "choose the text column among key, body, lang" in run("search", str(rows), "tides", *model)[2]
    ran = run("search", str(rows), "tides", "--text-column", "body", "--id-column", "key", "-k", "2", *model)
    assert {(hit["id"], hit["text"]) for hit in ran.rows} == {("k1", "Tides rise."), ("k2", "Bread bakes.")}  # type: ignore[attr-defined]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "tides.md").write_text("# Tides\n\nThe moon pulls the sea.\n" + "\n\nFiller text." * 60)
    (tmp_path / "code.py").write_text("def area(radius):\n    return 3.14159 * radius**2\n")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_hits_are_those_of_the_embedder(run: Run, folder: Path) -> None:
    ran = run(
        "search", str(folder), "the moon", "--model", "tiny-llama", "--dtype", "float32", "--json", "--top-k", "3"
    )
    embedder = Embedder.load("tiny-llama", dtype="float32")
    expected = search_documents(embedder, read_corpus(folder).make_chunks(), "the moon", top_k=3)
    assert ran[0] == 0
    rows = ran.rows  # type: ignore[attr-defined]
    assert [(row["rank"], row["id"]) for row in rows] == [(hit.rank, hit.document.id) for hit in expected]
    assert [row["score"] for row in rows] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    for row in rows:
        text = Path(row["source"]).read_text()
        assert text[row["start"] : row["start"] + len(row["text"])] == row["text"]
        assert row["line"] == 1 + text[: row["start"]].count("\n")
    assert "2 texts in" in ran[2]
    assert "passed over in whole or part: " in ran[2]
    assert "photo.png" in ran[2]


def test_a_person_sees_file_line_and_the_lines_in_question(run: Run, folder: Path) -> None:
    code, out, _ = run("search", str(folder / "code.py"), "area of a radius", "--model", "tiny")
    assert code == 0
    head, *lines = out.splitlines()
    assert head.split()[0] == "1"
    assert head.endswith("code.py:1")
    assert [line.split(maxsplit=1) for line in lines] == [
        ["1", "def area(radius):"],
        ["2", "return 3.14159 * radius**2"],
    ]


def test_rows_show_their_id_and_control_characters_are_not_sent(run: Run, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    texts = {"a": "first\nsecond \x1b[31mred", "b": "lone \ud800 surrogate"}
    rows.write_text("".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in texts.items()))
    code, out, _ = run("search", str(rows), "red", "--model", "tiny")
    assert code == 0
    assert "rows.jsonl:1  a" in out
    assert "second \ufffd[31mred" in out
    assert "lone \ufffd surrogate" in out
    assert run("search", str(rows), "red", "--model", "tiny", "--json")[0] == 0


def test_an_empty_folder_is_one_sentence(run: Run, tmp_path: Path) -> None:
    code, out, err = run("search", str(tmp_path), "anything", "--model", "tiny")
    assert (code, out) == (1, "")
    assert err == f"diffembed: {tmp_path} has no text, page or row\n"
