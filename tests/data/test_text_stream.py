"""Documents are cut where they end, tokenised once, shuffled by seed, and any row is at hand by its number."""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

from diffembed.data import text_files, text_stream
from diffembed.data.formats import RowReport
from diffembed.data.text_files import Piece, find_text_files, read_documents
from diffembed.data.text_stream import TokenRows, TokenText, tokenise_files
from diffembed.errors import ConfigError, EmptyInputError, InputError

BOS, EOS = 1, 2


class Words:
    """One id per word, from 10 on, in the order in which words are met; `<eos>` is a word like any other."""

    bos_token_id: int | None = BOS
    eos_token_id: int | None = EOS

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.num_calls = 0

    def __call__(self, text, **options):
        assert options["split_special_tokens"] and not options["add_special_tokens"]
        self.num_calls += 1
        return {"input_ids": [[self.ids.setdefault(word, len(self.ids) + 10) for word in t.split()] for t in text]}

    def get_vocab(self) -> dict[str, int]:
        return {"words": 0}


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def texts_of(path: Path) -> list[str]:
    return [piece.text for piece in read_documents(path, RowReport(source="t"))]


def many(num: int) -> str:
    return "\n\n".join(f"d{i}a d{i}b d{i}c" for i in range(num))


@pytest.fixture
def text(tmp_path: Path) -> TokenText:
    write(tmp_path, many=many(50))
    return tokenise_files([tmp_path], Words(), cache=tmp_path / "cache")


def test_single_blank_lines_part_documents(tmp_path):
    write(tmp_path, a="\n\n\none\nline two\n\n two \n \nthree\n\n\n\n")
    assert texts_of(tmp_path / "a.txt") == ["one\nline two\n", " two \n", "three\n"]


def test_where_two_blank_lines_occur_single_ones_part_paragraphs(tmp_path):
    write(tmp_path, a="Title\n\nfirst paragraph\n\nsecond\n\n\nOther\n\nbody\n")
    assert texts_of(tmp_path / "a.txt") == ["Title\n\nfirst paragraph\n\nsecond\n", "Other\n\nbody\n"]


def test_a_long_document_comes_in_pieces_that_join_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "PIECE_CHARACTERS", 7)
    write(tmp_path, a="abcdefghijklmnop\nq\n\nshort\n")
    pieces = list(read_documents(tmp_path / "a.txt", RowReport(source="t")))
    assert pieces[-1] == Piece("short\n", True)
    assert "".join(piece.text for piece in pieces[:-1]) == "abcdefghijklmnop\nq\n"
    assert [piece.is_last for piece in pieces] == [False, False, True, True]
    assert max(len(piece.text) for piece in pieces) == 7


def test_rows_and_lines_that_cannot_be_read_are_counted(tmp_path):
    rows = [{"text": "one"}, {"title": "no text"}, {"text": 3}, {"text": " "}, {"text": "\ud800"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n", encoding="utf-8")
    report = RowReport(source="t")
    assert [piece.text for piece in read_documents(path, report)] == ["one"]
    assert report.defects == {
        "missing field": 1,
        "field of the wrong type": 1,
        "text that is not valid Unicode": 1,
        "not a JSON object": 1,
    }
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"good\n\xff\xfe\nmore\r\n"))
    report = RowReport(source="t")
    assert [piece.text for piece in read_documents(tmp_path / "b.txt.gz", report)] == ["good\nmore\n"]
    assert report.examples == ["b.txt.gz:2: text that is not valid Unicode"]


def test_past_max_bad_rows_nothing_is_returned(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{}\n{}\n')
    with pytest.raises(InputError, match="2 of 3 rows are bad"):
        tokenise_files([tmp_path / "a.jsonl"], Words(), max_bad_rows=1, cache=tmp_path / "cache")
    kept = tokenise_files([tmp_path / "a.jsonl"], Words(), max_bad_rows=2, cache=tmp_path / "cache")
    assert (kept.num_documents, kept.report.num_bad) == (1, 2)


def test_files_are_found_in_name_order_and_excluded_by_name(tmp_path):
    write(tmp_path, b="x", a="y", novels_valid="z")
    (tmp_path / "picture.png").write_bytes(b"")
    names = [path.name for path in find_text_files([tmp_path], ["*_valid.txt"])]
    assert names == ["a.txt", "b.txt"]
    with pytest.raises(ConfigError, match=r"'novel\.txt' fits none of 3 files"):
        find_text_files([tmp_path], ["novel.txt"])
    with pytest.raises(ConfigError, match=r"a\.txt is named twice"):
        find_text_files([tmp_path, tmp_path / "a.txt"])
    with pytest.raises(InputError, match="every text file is excluded"):
        find_text_files([tmp_path], ["*"])
    with pytest.raises(InputError, match="is no text or row file"):
        find_text_files([tmp_path / "picture.png"])
    with pytest.raises(InputError, match="no file or folder"):
        find_text_files([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no text or row files"):
        find_text_files([tmp_path / "empty"])


def test_documents_are_parted_by_eos_and_special_tokens_in_a_text_are_words(tmp_path):
    write(tmp_path, a="one two\n\nthree <eos>\n")
    found = tokenise_files([tmp_path / "a.txt"], Words(), cache=tmp_path / "cache")
    assert found.tokens.tolist() == [10, 11, EOS, 12, 13, EOS]
    assert found.document(1).tolist() == [12, 13, EOS]


def test_where_there_is_no_eos_bos_parts_documents(tmp_path):
    write(tmp_path, a="one\n\ntwo")
    words = Words()
    words.eos_token_id = None
    assert tokenise_files([tmp_path / "a.txt"], words, cache=tmp_path / "cache").tokens.tolist() == [10, BOS, 11, BOS]


def test_a_tokenizer_without_separators_is_refused(tmp_path):
    write(tmp_path, a="one\n\ntwo")
    words = Words()
    words.bos_token_id = words.eos_token_id = None
    with pytest.raises(ConfigError, match="neither an EOS nor a BOS"):
        tokenise_files([tmp_path / "a.txt"], words, cache=tmp_path / "cache")


def test_pieces_of_one_document_are_joined_without_separators(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "PIECE_CHARACTERS", 8)
    monkeypatch.setattr(text_stream, "BATCH_CHARACTERS", 10)
    write(tmp_path, a="one two\nthree\nfour\n\nfive")
    words = Words()
    found = tokenise_files([tmp_path / "a.txt"], words, cache=tmp_path / "cache")
    assert found.tokens.tolist() == [10, 11, 12, 13, EOS, 14, EOS]
    assert words.num_calls > 1


def test_the_same_texts_are_tokenised_once_and_changed_ones_again(tmp_path):
    write(tmp_path, a="one two")
    first, again, changed = Words(), Words(), Words()
    kept = tokenise_files([tmp_path / "a.txt"], first, cache=tmp_path / "cache")
    same = tokenise_files([tmp_path / "a.txt"], again, cache=tmp_path / "cache")
    assert (first.num_calls, again.num_calls) == (1, 0)
    assert same.tokens.tolist() == kept.tokens.tolist()
    assert same.inputs == kept.inputs != {}
    write(tmp_path, a="one three")
    tokenise_files([tmp_path / "a.txt"], changed, cache=tmp_path / "cache")
    assert changed.num_calls == 1


def test_a_run_killed_while_tokenising_leaves_nothing_behind(tmp_path):
    write(tmp_path, a=many(3))

    class Killed(Words):
        def __call__(self, text, **options):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenise_files([tmp_path / "a.txt"], Killed(), cache=tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    assert tokenise_files([tmp_path / "a.txt"], Words(), cache=tmp_path / "cache").num_documents == 3


def test_text_without_a_word_is_an_error(tmp_path):
    write(tmp_path, a=" \n\n \n")
    with pytest.raises(EmptyInputError, match="the source is empty"):
        tokenise_files([tmp_path / "a.txt"], Words(), cache=tmp_path / "cache")


def test_one_pass_holds_every_token_once_up_to_the_remainder(text):
    rows = TokenRows(text, 7, seed=0)
    # 50 documents of 3 words and a separator: 200 tokens, 28 whole rows of 7.
    assert len(rows) == 28
    tokens = rows.rows(0, 28)
    assert tokens.shape == (28, 7)
    words = tokens[tokens >= 10].tolist()
    assert len(set(words)) == len(words)
    assert 146 <= len(words) <= 148


def test_every_row_starts_with_the_head_and_goes_on_in_the_stream(text):
    rows = TokenRows(text, 7, seed=0, head=[BOS])
    # 6 tokens of text in each row: 33 whole rows.
    assert len(rows) == 33
    tokens = rows.rows(0, 33)
    assert (tokens[:, 0] == BOS).all()
    assert (tokens[:, 1:] != BOS).all()
    bodies = TokenRows(text, 6, seed=0).spread(1000)
    assert (rows.spread(1000)[:, 1:] == bodies).all()


def test_rows_are_stretches_of_whole_documents_in_shuffled_order(text):
    rows = TokenRows(text, 200, seed=0)
    stream = rows.rows(0, 1)[0]
    assert stream.tolist() != text.tokens.tolist()
    cut = np.split(stream, np.flatnonzero(stream == EOS) + 1)[:-1]
    documents = {tuple(text.document(number).tolist()) for number in range(50)}
    assert {tuple(part.tolist()) for part in cut} == documents


def test_any_position_is_at_hand_and_nothing_else_moves_it(text):
    straight = TokenRows(text, 7, seed=3).rows(0, 100)
    random.seed(0)
    np.random.seed(0)
    resumed = TokenRows(text, 7, seed=3)
    assert (resumed.rows(61, 100) == straight[61:]).all()
    assert (resumed.rows(5, 6) == straight[5:6]).all()
    assert resumed.rows(4, 4).shape == (0, 7)
    assert (TokenRows(text, 7, seed=4).rows(0, 100) != straight).any()


def test_every_pass_has_the_same_rows_in_another_order(text):
    rows = TokenRows(text, 7, seed=3)
    passes = [list(map(tuple, rows.rows(28 * cycle, 28 * cycle + 28).tolist())) for cycle in range(2)]
    assert passes[0] != passes[1]
    assert sorted(passes[0]) == sorted(passes[1])


def test_a_limit_keeps_a_sample_of_the_rows(text):
    all_rows = set(map(tuple, TokenRows(text, 7, seed=3).rows(0, 28).tolist()))
    limited = TokenRows(text, 7, seed=3, max_rows=10)
    assert len(limited) == 10
    kept = [set(map(tuple, limited.rows(start, start + 10).tolist())) for start in (0, 10)]
    assert kept[0] == kept[1] <= all_rows
    assert len(TokenRows(text, 7, seed=3, max_rows=1000)) == 28


def test_held_out_documents_are_never_in_a_training_row(text):
    train, held_out = text.split(0.2, seed=1)
    assert 3 <= len(held_out) <= 20
    assert sorted([*train, *held_out]) == list(range(50))
    seen = set(TokenRows(text, 4, seed=0, documents=train).rows(0, len(train)).ravel().tolist())
    kept = set(np.concatenate([text.document(number) for number in held_out]).tolist())
    assert seen & kept == {EOS}
    assert (text.split(0.2, seed=1)[1] == held_out).all()
    assert text.split(0.2, seed=2)[1].tolist() != held_out.tolist()


def test_rows_to_measure_on_are_spread_over_the_stream(text):
    rows = TokenRows(text, 7, seed=0)
    stream = np.concatenate([text.document(int(number)) for number in rows._order])
    spread = rows.spread(5)
    # 28 rows, five at even distances: 0, 6.75 -> 7, 13.5 -> 14, 20.25 -> 20, 27.
    assert [row.tolist() for row in spread] == [
        stream[7 * place : 7 * place + 7].tolist() for place in (0, 7, 14, 20, 27)
    ]
    assert len(rows.spread(1000)) == 28


def test_settings_that_leave_nothing_are_refused(text):
    with pytest.raises(EmptyInputError, match="200 tokens, fewer than a row of 201"):
        TokenRows(text, 201, seed=0)
    with pytest.raises(ConfigError, match="at least 1"):
        TokenRows(text, 7, seed=0, max_rows=0)
    with pytest.raises(ConfigError, match="more than the 2 tokens of their head"):
        TokenRows(text, 2, seed=0, head=[BOS, BOS])
    with pytest.raises(ConfigError, match="leaves one side empty"):
        text.split(1e-9, seed=0)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        text.split(1.0, seed=0)
