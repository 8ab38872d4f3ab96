"""A build makes the table equal to its sources, encodes only what it must, and may be stopped anywhere."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed import Document, Embedder, build_index
from diffembed.documents import ChunkPolicy, ReadOptions, cut_document
from diffembed.embedding.late import encode_late
from diffembed.embedding.text import TextTemplate
from diffembed.errors import ConfigError, EmptyInputError, InputError, StoreError
from diffembed.index import Index, read_additions
from diffembed.index.settings import make_chunks, make_reading
from diffembed.index.store import Store
from diffembed.records import Vectors

Rows = Callable[[Path], list[dict[str, Any]]]


class Counting:
    """An encoder that notes every text it is given, and may stop in the middle of the work."""

    def __init__(self, *, stops_after: int | None = None, name: str = "counting") -> None:
        self.name, self.dim, self.max_tokens = name, 8, 100
        self.texts: list[str] = []
        self.stops_after = stops_after

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        if self.stops_after is not None and len(self.texts) >= self.stops_after:
            raise KeyboardInterrupt
        self.texts += texts
        return np.array([[len(text), *(text.count(letter) + 1 for letter in "aeioust")] for text in texts], np.float32)

    def encode_queries(self, texts: Sequence[str], instruction: str | None = None) -> Vectors:
        return self.encode_documents(texts)

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        return queries @ documents.T


def test_rows_are_the_chunks_with_their_own_vectors(
    corpus: Path, tmp_path: Path, embedder: Embedder, rows_of: Rows
) -> None:
    report = build_index(tmp_path / "ix", [corpus], embedder=embedder)
    rows = rows_of(tmp_path / "ix")
    assert report.num_documents == 5
    assert report.num_chunks == len(rows) == 7
    assert [row["id"] for row in rows if row["document"] == "corpus/tides.md"] == [
        "corpus/tides.md#0",
        "corpus/tides.md#34",
        "corpus/tides.md#80",
    ]
    for row in rows:
        alone, _ = embedder.encode([f"{row['title']} {row['text']}".strip()])
        np.testing.assert_allclose(row["vector"], alone[0], atol=1e-5)
        assert row["stop"] - row["start"] == len(row["text"])
        if row["source"].endswith((".md", ".txt")):
            text = Path(row["source"]).read_text()
            assert text[row["start"] : row["stop"]] == row["text"]
            assert row["line"] == 1 + text[: row["start"]].count("\n")
        assert row["model"] == "tiny-llama"
    assert report.num_tokens == sum(row["num_tokens"] for row in rows)
    titles = {row["id"]: row["title"] for row in rows}
    assert titles["corpus/tides.md#34"] == "Tides > Spring tides"
    assert titles["dogs"] == "Pets"


def test_only_what_is_new_or_changed_is_encoded_and_what_is_gone_leaves(
    corpus: Path, tmp_path: Path, rows_of: Rows
) -> None:
    first = Counting()
    build_index(tmp_path / "ix", [corpus], embedder=first)
    assert len(first.texts) == 7
    again = Counting()
    report = build_index(tmp_path / "ix", embedder=again)
    assert (again.texts, report.num_unchanged, report.num_documents) == ([], 5, 5)

    (corpus / "new.md").write_text("A new note.\n")
    (corpus / "sub" / "bread.txt").write_text("Bread is flour and water.\n")
    (corpus / "sub" / "page.html").unlink()
    # Written again with the same words: read, and not encoded.
    os.utime(corpus / "tides.md", ns=(1, 1))
    changed = Counting()
    report = build_index(tmp_path / "ix", embedder=changed)
    assert sorted(changed.texts) == ["A new note.", "Bread is flour and water."]
    counts = (report.num_new, report.num_changed, report.num_unchanged, report.num_removed)
    assert counts == (1, 1, 3, 1)

    build_index(tmp_path / "fresh", [corpus], embedder=Counting())
    assert rows_of(tmp_path / "ix") == rows_of(tmp_path / "fresh")


def test_a_row_whose_other_columns_changed_is_renewed(tmp_path: Path, rows_of: Rows) -> None:
    embedder = Embedder.load("tiny-llama", dtype="float32")
    path = tmp_path / "rows.csv"
    path.write_text("id,text,lang\na,Tides rise.,de\nb,Bread rises.,de\n")
    build_index(tmp_path / "ix", [path], embedder=embedder)
    path.write_text("id,text,lang\na,Tides rise.,de\nb,Bread rises.,en\n")
    report = build_index(tmp_path / "ix", [path], embedder=embedder)
    assert (report.num_changed, report.num_unchanged) == (1, 1)
    assert {row["id"]: json.loads(row["metadata"]) for row in rows_of(tmp_path / "ix")} == {
        "a": {"lang": "de"},
        "b": {"lang": "en"},
    }


@pytest.mark.parametrize("stops_after", [1, 8, 20, 33])
def test_an_interrupted_build_goes_on_to_the_same_rows(
    tmp_path: Path, embedder: Embedder, stops_after: int, rows_of: Rows
) -> None:
    corpus = tmp_path / "many"
    corpus.mkdir()
    for number in range(40):
        (corpus / f"{number:02}.txt").write_text(f"Note {number} on tides. " * (1 + number % 7))
    build_index(tmp_path / "whole", [corpus], embedder=embedder, block_chunks=4, commit_s=0)

    class Stopping(Embedder):
        encoded = 0

        def encode(self, texts: Sequence[str], **options: Any) -> Any:
            if self.encoded >= stops_after:
                raise KeyboardInterrupt
            self.encoded += len(texts)
            return super().encode(texts, **options)

    stopping = Stopping.load("tiny-llama", dtype="float32")
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "ix", [corpus], embedder=stopping, block_chunks=4, commit_s=1000)
    num_kept = len(rows_of(tmp_path / "ix"))
    assert stops_after <= num_kept < 40
    report = build_index(tmp_path / "ix", [corpus], embedder=embedder, block_chunks=4)
    assert report.num_encoded == 40 - num_kept
    assert rows_of(tmp_path / "ix") == rows_of(tmp_path / "whole"), "vectors too, to the last bit"


def test_late_chunks_are_pooled_from_the_whole_document(tmp_path: Path, embedder: Embedder, rows_of: Rows) -> None:
    text = "The moon pulls the sea. It rises twice a day. Sailors read the tables before they leave the harbour. " * 3
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("Short.")
    policy = ChunkPolicy(kind="late", size=60)
    build_index(tmp_path / "ix", [tmp_path / "a.txt", tmp_path / "b.txt"], embedder=embedder, chunks=policy)
    rows = [row for row in rows_of(tmp_path / "ix") if row["document"] == "a.txt"]
    spans = sorted((row["start"], row["stop"]) for row in rows)
    assert len(spans) > 3
    (expected,), _ = encode_late(embedder, [text], [spans])
    for row in rows:
        np.testing.assert_allclose(row["vector"], expected[spans.index((row["start"], row["stop"]))], atol=1e-5)
    alone, _ = embedder.encode([rows[-1]["text"]])
    assert np.abs(alone[0] - rows[-1]["vector"]).max() > 1e-3, "a chunk alone has another vector"


def test_chunks_of_tokens_hold_that_many(tmp_path: Path, embedder: Embedder, rows_of: Rows) -> None:
    text = "The tide tables of the harbour are printed every year by the pilots of the port authority. " * 4
    policy = ChunkPolicy(kind="fixed", size=20, unit="tokens", overlap=10)
    (tmp_path / "a.txt").write_text(text)
    build_index(tmp_path / "ix", [tmp_path / "a.txt"], embedder=embedder, chunks=policy)
    backend = embedder.backbone.tokenizer.backend_tokenizer
    starts = [start for start, _ in backend.encode(text, add_special_tokens=False).offsets]
    rows = sorted(rows_of(tmp_path / "ix"), key=lambda row: row["start"])
    assert len(rows) > 3
    for row, after in pairwise(rows):
        num_tokens = sum(row["start"] <= start < row["stop"] for start in starts)
        assert 10 <= num_tokens <= 20
        shared = sum(after["start"] <= start < row["stop"] for start in starts)
        assert 1 <= shared <= 10, "chunks overlap, by whole words of at most ten tokens"
    with pytest.raises(ConfigError, match="chunks of tokens need an encoder that has a tokenizer"):
        build_index(tmp_path / "other", [tmp_path / "a.txt"], embedder=Counting(), chunks=policy)


def test_repeated_ids_and_bad_files_are_listed(corpus: Path, tmp_path: Path, rows_of: Rows) -> None:
    (corpus / "rows2.jsonl").write_text('{"id": "cats", "text": "Cats again."}\n[1]\n{"id": "owls", "text": "Hoot."}\n')
    (corpus / "latin.txt").write_bytes(b"caf\xe9")
    (corpus / "photo.jpg").write_bytes(b"\xff")
    report = build_index(tmp_path / "ix", [corpus], embedder=Counting())
    skipped = [json.loads(line) for line in (tmp_path / "ix" / "skipped.jsonl").read_text().splitlines()]
    assert report.num_skipped == len(skipped) == 4
    reasons = {(Path(skip["name"]).name, skip["reason"].rpartition("/")[2]) for skip in skipped}
    assert reasons == {
        ("latin.txt", "latin.txt is not UTF-8 text: byte 0xe9 at line 1"),
        ("photo.jpg", "another kind of file"),
        ("rows2.jsonl", "rows2.jsonl:2 must be a JSON object with a text, got list"),
        ("rows2.jsonl", "the id 'cats' occurs a second time"),
    }
    texts = {row["id"]: row["text"] for row in rows_of(tmp_path / "ix")}
    assert texts["cats"] == "Cats sleep all day."
    assert texts["owls"] == "Hoot."


def test_what_cannot_be_read_now_stays_as_it_was(tmp_path: Path, rows_of: Rows) -> None:
    files = tmp_path / "files"
    (files / "deep").mkdir(parents=True)
    table = files / "rows.csv"
    table.write_text("id,text\na,Cats sleep.\nb,Dogs bark.\nc,Owls hoot.\n", encoding="utf-8")
    (files / "deep" / "note.txt").write_text("A note on tides.")
    (files / "old.txt").write_text("An old note.")
    assert build_index(tmp_path / "ix", [files], embedder=Counting()).num_documents == 5
    table.write_bytes(table.read_bytes().replace(b"Dogs", b"D\xe9gs"))
    (files / "deep" / "note.txt").write_bytes(b"tid\xe9s")
    (files / "old.txt").unlink()
    report = build_index(tmp_path / "ix", embedder=Counting())
    assert (report.num_removed, report.num_kept, report.num_unchanged) == (1, 3, 1)
    assert sorted(row["text"] for row in rows_of(tmp_path / "ix")) == [
        "A note on tides.", "Cats sleep.", "Dogs bark.", "Owls hoot.",
    ]  # fmt: skip
    table.unlink()
    (files / "deep" / "note.txt").write_text("")
    (files / "new.txt").write_text("Sails.")
    report = build_index(tmp_path / "ix", embedder=Counting())
    assert (report.num_removed, report.num_kept) == (4, 0)


def test_a_commit_that_is_interrupted_doubles_no_row(tmp_path: Path, rows_of: Rows, monkeypatch: Any) -> None:
    (tmp_path / "files").mkdir()
    for number in range(12):
        (tmp_path / "files" / f"{number}.txt").write_text(f"Note {number}.")
    commit = Store.commit

    def interrupted(self: Store, *given: Any, **named: Any) -> None:
        commit(self, *given, **named)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "commit", interrupted)
    settings: dict[str, Any] = {"embedder": Counting(), "block_chunks": 4, "commit_s": 0}
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "ix", [tmp_path / "files"], **settings)
    build_index(tmp_path / "ix", **settings)
    assert sorted(row["text"] for row in rows_of(tmp_path / "ix")) == sorted(f"Note {number}." for number in range(12))


def test_a_replacement_does_not_lose_what_was_added_by_hand_unasked(corpus: Path, tmp_path: Path) -> None:
    build_index(tmp_path / "ix", [corpus], embedder=Counting())
    Index.open(tmp_path / "ix", embedder=Counting()).add([Document(id="by hand", text="A note.")])
    with pytest.raises(StoreError, match=r"holds 1 texts that were put in by index add.* again with --drop-added"):
        build_index(tmp_path / "ix", embedder=Counting(), is_replaced=True)
    assert Index.open(tmp_path / "ix", embedder=Counting()).passages("by hand")
    with pytest.raises(ConfigError, match="--drop-added is for --replace"):
        build_index(tmp_path / "ix", embedder=Counting(), drops_added=True)
    build_index(tmp_path / "ix", embedder=Counting(), is_replaced=True, drops_added=True)
    assert not Index.open(tmp_path / "ix", embedder=Counting()).passages("by hand")


def test_an_index_of_nothing_may_be_made_in_another_way(tmp_path: Path, embedder: Embedder) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(EmptyInputError, match="no text was found"):
        build_index(tmp_path / "ix", [tmp_path / "files"], embedder=Counting())
    (tmp_path / "files" / "a.txt").write_text("A note.")
    assert build_index(tmp_path / "ix", [tmp_path / "files"], embedder=embedder).num_documents == 1
    for path in (tmp_path / "ix" / "chunks.lance" / "_versions").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(StoreError, match="cannot be read"):
        build_index(tmp_path / "ix", [tmp_path / "files"], embedder=Counting())
    assert (tmp_path / "ix" / "chunks.lance").exists(), "what cannot be read is not taken for nothing"


def test_added_rows_have_the_lines_of_a_build(tmp_path: Path, embedder: Embedder) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        json.dumps({"id": "a", "text": "A line of a long note.\n" * 80}) + "\n" + '{"id":"b","text":"Short."}\n'
    )
    build_index(tmp_path / "ix", [rows], embedder=embedder)
    index = Index.open(tmp_path / "ix", embedder=embedder)
    built = [passage.line for passage in index.passages("a")]
    index.add(read_additions(rows))
    assert len(built) > 2 and [passage.line for passage in index.passages("a")] == built == [1] * len(built)


def test_named_options_leave_the_others_as_they_were() -> None:
    reading = ReadOptions(text_column="body", id_column="key")
    assert make_reading(reading, max_file_mb=200) == replace(reading, max_file_bytes=200_000_000)
    assert make_reading(reading) is None and make_reading(None, format="csv") == ReadOptions(format="csv")
    chunks = ChunkPolicy(kind="fixed", size=100, unit="tokens", overlap=9)
    assert make_chunks(chunks, kind=None, size=50) == replace(chunks, size=50)
    assert make_chunks(chunks, kind="heading") == ChunkPolicy() and make_chunks(chunks, kind=None) is None


def test_what_was_added_by_hand_outlives_a_build(corpus: Path, tmp_path: Path, rows_of: Rows) -> None:
    build_index(tmp_path / "ix", [corpus], embedder=Counting())
    index = Index.open(tmp_path / "ix", embedder=Counting())
    assert index.add([Document(id="by hand", text="A note."), Document(id="it's", text="Quoted.")]) == 2
    assert index.add([Document(id="by hand", text="Another note.")]) == 1
    (corpus / "tides.md").unlink()
    report = build_index(tmp_path / "ix", embedder=Counting())
    assert report.num_removed == 1
    texts = {row["id"]: row["text"] for row in rows_of(tmp_path / "ix")}
    assert (texts["by hand"], texts["it's"]) == ("Another note.", "Quoted.")
    assert index.delete(["it's", "unknown", "cats"]) == 2
    assert {"it's", "cats"}.isdisjoint(row["id"] for row in rows_of(tmp_path / "ix"))
    with pytest.raises(InputError, match="the id 'a' occurs twice"):
        index.add([Document(id="a", text="x"), Document(id="a", text="y")])
    with pytest.raises(EmptyInputError, match="the document 'b' is empty"):
        index.add([Document(id="b", text=" ")])


def test_another_model_chunking_or_precision_is_refused_until_replaced(
    corpus: Path, tmp_path: Path, rows_of: Rows
) -> None:
    build_index(tmp_path / "ix", [corpus], embedder=Counting())
    for options, named in (
        ({"embedder": Counting(name="other")}, "model counting"),
        ({"embedder": Counting(), "chunks": ChunkPolicy(kind="whole")}, "chunks heading, 640 characters"),
        ({"embedder": Counting(), "precision": "int8"}, "precision float32"),
    ):
        with pytest.raises(StoreError, match=rf"was made with {named}.*--replace"):
            build_index(tmp_path / "ix", [corpus], **options)
    before = rows_of(tmp_path / "ix")
    stopping = Counting(stops_after=2)
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "ix", embedder=stopping, precision="int8", is_replaced=True, block_chunks=1, commit_s=0)
    assert rows_of(tmp_path / "ix") == before, "the old index serves until the new one is complete"
    going_on = Counting()
    report = build_index(tmp_path / "ix", embedder=going_on, precision="int8", is_replaced=True)
    assert len(going_on.texts) == 5, "two chunks were done before"
    assert report.num_chunks == 7
    assert Store.open(tmp_path / "ix").settings.precision == "int8"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "ix"]


def test_an_open_reader_follows_an_index_made_anew_or_says_that_it_cannot(tmp_path: Path) -> None:
    """It took the vectors of the new table by the rules of the old one, or named files that were gone."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"the {name} text, of the {name} folder")
    build_index(tmp_path / "ix", [tmp_path / "old"], embedder=Counting())
    made = Store.open(tmp_path / "ix").settings.made
    reader = Index.open(tmp_path / "ix", embedder=Counting())
    assert [hit.document.text for hit in reader.search("text")] == ["the old text, of the old folder"]
    version = reader.store.dataset.version
    build_index(tmp_path / "ix", embedder=Counting())
    assert Store.open(tmp_path / "ix").settings.made == made != ""
    build_index(tmp_path / "ix", [tmp_path / "new"], embedder=Counting(), is_replaced=True)
    for mode in ("dense", "bm25"):
        (hit,) = reader.search("text", mode=mode)  # type: ignore[arg-type]
        assert hit.document.text == "the new text, of the new folder"
    assert reader.store.dataset.version == version, "the numbers of the versions tell nothing"
    build_index(tmp_path / "ix", embedder=Counting(), precision="int8", is_replaced=True)
    with pytest.raises(StoreError, match="was made anew in another way; open it again"):
        reader.search("text")


def test_a_replacement_killed_at_its_end_leaves_an_index(corpus: Path, tmp_path: Path) -> None:
    build_index(tmp_path / "ix", [corpus], embedder=Counting())
    shutil.copytree(tmp_path / "ix", tmp_path / ".ix.new")
    (tmp_path / ".ix.new" / "index.json").write_text("{")
    (tmp_path / "ix").rename(tmp_path / ".ix.old")
    assert build_index(tmp_path / "ix", embedder=Counting()).num_unchanged == 5
    assert build_index(tmp_path / "ix", embedder=Counting(), is_replaced=True).num_new == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "ix"]


def test_int8_steps_of_one_note_reach_further_than_it(tmp_path: Path, rows_of: Rows) -> None:
    """Steps were those of the first note alone, and what came later was clipped to them."""

    class Turned(Counting):
        def encode_documents(self, texts: Sequence[str]) -> Vectors:
            rows = np.random.default_rng([len(texts[0])]).normal(size=(len(texts), 64)).astype(np.float32)
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    encoder = Turned()
    encoder.dim = 64
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("A.")
    build_index(tmp_path / "ix", [tmp_path / "notes"], embedder=encoder, precision="int8")
    for number in range(50):
        (tmp_path / "notes" / f"{number}.txt").write_text("Later.")
    build_index(tmp_path / "ix", embedder=encoder)
    codes = np.array([row["code"] for row in rows_of(tmp_path / "ix")])
    assert len(codes) == 51
    assert np.abs(codes).max() < 127


def test_an_embedder_from_a_folder_is_found_again(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder was remembered as it was written, from another folder, or not at all."""
    monkeypatch.chdir(tmp_path)
    Embedder.load("tiny-llama", dtype="float32").save("mine")
    build_index("./ix", [corpus], embedder=Embedder.load("mine", dtype="float32"))
    monkeypatch.chdir(corpus)
    assert Index.open(tmp_path / "ix").search("cats")


def test_an_embedder_put_together_by_hand_must_be_given_again(corpus: Path, tmp_path: Path) -> None:
    whole = Embedder.load("tiny-llama", dtype="float32")
    assert whole.location == "tiny-llama"
    by_hand = Embedder.load("tiny-llama", dtype="float32", template=TextTemplate(document_prefix="note: "))
    build_index(tmp_path / "ix", [corpus], embedder=by_hand)
    with pytest.raises(StoreError, match="which cannot be loaded by name; give it"):
        Index.open(tmp_path / "ix").search("cats")
    assert Index.open(tmp_path / "ix", embedder=by_hand).search("cats")


def test_int8_codes_do_not_depend_on_when_a_text_came(
    corpus: Path, tmp_path: Path, embedder: Embedder, rows_of: Rows
) -> None:
    build_index(tmp_path / "ix", [corpus], embedder=embedder, precision="int8")
    codes = {row["id"]: row["code"] for row in rows_of(tmp_path / "ix")}
    index = Index.open(tmp_path / "ix", embedder=embedder)
    index.add([Document(id="copy", text="Cats sleep all day."), Document(id="z", text="zzz zz z " * 50)])
    after = {row["id"]: row["code"] for row in rows_of(tmp_path / "ix")}
    assert after["copy"] == codes["cats"]
    assert {id: after[id] for id in codes} == codes
    assert len(set(map(tuple, codes.values()))) == len(codes)


def test_a_source_that_is_not_there_or_has_no_text_changes_nothing(corpus: Path, tmp_path: Path, rows_of: Rows) -> None:
    with pytest.raises(ConfigError, match="name at least one source"):
        build_index(tmp_path / "ix", embedder=Counting())
    with pytest.raises(InputError, match="there is no file or folder"):
        build_index(tmp_path / "none", [tmp_path / "missing"], embedder=Counting())
    assert not (tmp_path / "none").exists()
    build_index(tmp_path / "ix", [corpus], embedder=Counting())
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "blank.txt").write_text("  \n")
    with pytest.raises(EmptyInputError, match=r"no text was found in .*empty; 1 were passed over"):
        build_index(tmp_path / "ix", [tmp_path / "empty"], embedder=Counting())
    assert len(rows_of(tmp_path / "ix")) == 7
    with pytest.raises(ConfigError, match="is no index and not empty"):
        build_index(corpus, [corpus], embedder=Counting())
    with pytest.raises(ConfigError, match="is no index and not empty"):
        build_index(Path(), [corpus], embedder=Counting())
    shutil.copytree(corpus, tmp_path / "other" / "corpus")
    with pytest.raises(ConfigError, match="two sources are called corpus"):
        build_index(tmp_path / "ix", [corpus, tmp_path / "other" / "corpus"], embedder=Counting())


def test_a_document_of_many_chunks_is_in_the_table_as_a_whole(tmp_path: Path, rows_of: Rows) -> None:
    (tmp_path / "long.txt").write_text("word " * 4000)
    (tmp_path / "short.txt").write_text("Short.")
    report = build_index(
        tmp_path / "ix", [tmp_path / "long.txt", tmp_path / "short.txt"], embedder=Counting(), block_chunks=5
    )
    parts = sorted(row["part"] for row in rows_of(tmp_path / "ix") if row["document"] == "long.txt")
    assert parts == list(range(report.num_chunks - 1))
    assert len(parts) > 25


def test_offsets_hold_for_text_that_needs_care(tmp_path: Path, rows_of: Rows) -> None:
    text = "\ufeff# Caf\u00e9 \U0001f642\r\n\r\nna\u00efve \u4f60\u597d\u3002 " * 30
    (tmp_path / "care.md").write_text(text, encoding="utf-8", newline="")
    build_index(tmp_path / "ix", [tmp_path / "care.md"], embedder=Counting(), chunks=ChunkPolicy(kind="fixed", size=50))
    read = text.removeprefix("\ufeff")
    rows = rows_of(tmp_path / "ix")
    assert len(rows) > 5
    assert all(read[row["start"] : row["stop"]] == row["text"] for row in rows)
    assert cut_document(Document(id="x", text="\ud800 lone"), ChunkPolicy())[0].text == "\ud800 lone"


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), ["x"], None])
def test_metadata_that_no_table_holds_is_refused(tmp_path: Path, value: Any) -> None:
    embedder = Embedder.load("tiny-llama", dtype="float32")
    (tmp_path / "note.txt").write_text("Tides rise.")
    build_index(tmp_path / "ix", [tmp_path / "note.txt"], embedder=embedder)
    index = Index.open(tmp_path / "ix", embedder=embedder)
    with pytest.raises(InputError, match=r"the metadata 'year' of the document 'mine' is .*finite number"):
        index.add([Document(id="mine", text="A note.", metadata={"year": value})])
    assert index.num_rows == 1


def test_a_lone_surrogate_is_kept_as_a_replacement_character(tmp_path: Path, rows_of: Rows) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "text": "lone \\ud800 half"}\n')
    build_index(tmp_path / "ix", [tmp_path / "rows.jsonl"], embedder=Counting())
    assert [row["text"] for row in rows_of(tmp_path / "ix")] == ["lone \ufffd half"]


def test_a_data_set_of_the_hub_is_a_source(tmp_path: Path, rows_of: Rows) -> None:
    pytest.importorskip("datasets", reason="the extra `train` is not installed")
    (tmp_path / "set").mkdir()
    lines = [{"id": "a", "text": "Tides rise."}, {"id": "b", "text": None}, {"id": "c", "text": "Tides fall."}]
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    address = f"hf://datasets/{tmp_path / 'set'}"
    report = build_index(tmp_path / "ix", [address], embedder=Counting())
    assert [(row["id"], row["text"]) for row in rows_of(tmp_path / "ix")] == [
        ("a", "Tides rise."),
        ("c", "Tides fall."),
    ]
    assert (report.num_documents, report.num_skipped) == (2, 1)
    assert build_index(tmp_path / "ix", embedder=Counting()).num_encoded == 0
    with pytest.raises(ConfigError, match=r"is no address; write hf://datasets/OWNER/NAME"):
        build_index(tmp_path / "ix", ["hf://datasets/a/b?branch=c"], embedder=Counting())
