"""Chunks of every policy are exact pieces that lose only white space, and know the headings above them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.documents.chunking import ChunkPolicy, cut_document
from diffembed.errors import ConfigError, UnknownNameError
from diffembed.records import Document

ALPHABET = st.sampled_from(list("ab.#=-` \n\t\r\u3002\U0001f642"))


def words(text: str) -> list[int]:
    """A tokenizer of single words: where they start."""
    return [
        place for place, letter in enumerate(text) if not letter.isspace() and text[place - 1 : place].strip() == ""
    ]


@given(
    text=st.text(alphabet=ALPHABET, max_size=300),
    kind=st.sampled_from(["whole", "fixed", "heading", "late"]),
    size=st.integers(1, 50),
    share=st.floats(0, 0.5),
    unit=st.sampled_from(["characters", "tokens"]),
)
def test_chunks_are_exact_pieces_and_cover_all_words(text: str, kind: str, size: int, share: float, unit: str) -> None:
    policy = (
        ChunkPolicy(kind="whole")
        if kind == "whole"
        else ChunkPolicy(kind=kind, size=size, overlap=int(size * share), unit=unit)  # type: ignore[arg-type]
    )
    chunks = cut_document(Document(id="d", text=text), policy, token_starts=words)
    covered = set()
    for chunk in chunks:
        stop = chunk.start + len(chunk.text)
        assert text[chunk.start : stop] == chunk.text
        assert chunk.text.strip()
        assert chunk.parent == "d"
        assert chunk.line == 1 + text[: chunk.start].count("\n")
        if policy.kind != "whole" and unit == "characters":
            assert len(chunk.text) <= size
        if policy.kind != "whole" and unit == "tokens":
            assert sum(chunk.start <= start < stop for start in words(text)) <= size
        covered |= set(range(chunk.start, stop))
    assert all(place in covered for place, letter in enumerate(text) if not letter.isspace())
    assert len({chunk.id for chunk in chunks}) == len(chunks)
    assert [chunk.start for chunk in chunks] == sorted({chunk.start for chunk in chunks})
    if not policy.overlap:
        assert all(a.start + len(a.text) <= b.start for a, b in pairwise(chunks))


def test_overlap_repeats_whole_words() -> None:
    text = " ".join(f"word{number}" for number in range(40))
    chunks = cut_document(Document(id="d", text=text), ChunkPolicy(kind="fixed", size=60, overlap=20))
    assert len(chunks) > 4
    for before, after in pairwise(chunks):
        shared = before.start + len(before.text) - after.start
        assert 0 < shared <= 20
        assert after.text.startswith("word")


def test_sections_carry_the_headings_above_them() -> None:
    text = (
        "Preface.\n\n# One\n\n## Empty above\n\nText a.\n\n### Deep\n\nText b.\n\n## Side\n\nText c.\n\n"
        "```\n# no heading\n```\n\nTwo\n===\n\nText d.\n\nTwo and a half\n--------------\n\nText e.\n\n----\n\nrule\n"
    )
    chunks = cut_document(Document(id="d", text=text, title="Book"), ChunkPolicy(kind="heading"))
    assert [(chunk.title, chunk.text.splitlines()[0]) for chunk in chunks] == [
        ("Book", "Preface."),
        ("Book > One > Empty above", "# One"),
        ("Book > One > Empty above > Deep", "### Deep"),
        ("Book > One > Side", "## Side"),
        ("Book > Two", "Two"),
        ("Book > Two > Two and a half", "Two and a half"),
    ]
    assert "# no heading" in chunks[3].text
    inline = cut_document(Document(id="d", text="# A\n\n```pip install x```\n\n# B\n\nText.\n"), ChunkPolicy())
    assert [chunk.title for chunk in inline] == ["A", "B"]
    same = cut_document(Document(id="d", text="# Book\n\nText.", title="Book"), ChunkPolicy())
    assert [chunk.title for chunk in same] == ["Book"]


@pytest.mark.parametrize(
    ("source", "titles"),
    [("tool.py", ["", ""]), ("job.YAML", ["", ""]), ("notes.md", ["Where", "What"]), ("", ["Where", "What"])],
)
def test_comments_of_source_code_are_no_headings(source: str, titles: list[str]) -> None:
    """A comment became the title of all the code below it, and cut a short file into one piece for each comment."""
    text = "# Where\nOUT = 1\n# What\nX = 2\n" + "y = 3\n" * 20
    chunks = cut_document(Document(id="d", text=text, source=source), ChunkPolicy(size=100))
    assert [chunk.title for chunk in chunks][:2] == titles
    assert (chunks[0].text == "# Where\nOUT = 1") is (titles[0] == "Where")


def test_policies_that_contradict_themselves_are_refused() -> None:
    for options, message in (
        ({"kind": "whole", "size": 5}, "whole documents are not cut"),
        ({"size": 0}, "must be at least 1, got 0"),
        ({"size": 10, "overlap": 6}, "chunks of 10 allow 0 to 5"),
        ({"overlap": -1}, "overlap is -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            ChunkPolicy(**options)
    with pytest.raises(UnknownNameError, match="no chunk policy 'fixd'"):
        ChunkPolicy(kind="fixd")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="need an encoder that has a tokenizer"):
        cut_document(Document(id="d", text="x"), ChunkPolicy(unit="tokens"))


def test_a_chunk_keeps_its_place_in_a_document_that_has_one() -> None:
    inner = Document(id="d", text="First.\n\nSecond.", source="s", start=100, line=7)
    chunks = cut_document(inner, ChunkPolicy(kind="fixed", size=8))
    assert [(chunk.id, chunk.start, chunk.line) for chunk in chunks] == [("d#100", 100, 7), ("d#108", 108, 9)]
    rows = cut_document(inner, ChunkPolicy(kind="fixed", size=8), counts_lines=False)
    assert [chunk.line for chunk in rows] == [7, 7]
