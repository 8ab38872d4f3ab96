"""Rows become triplets, and every row that does not is counted with its reason."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffembed.data.files import read_lines, read_rows, row_file_stem
from diffembed.data.formats import (
    Defect,
    RowReport,
    Triplet,
    TripletReader,
    hash_triplets,
    load_triplets,
    text_key,
    write_triplets,
)
from diffembed.errors import ConfigError, EmptyInputError, InputError

GOOD = {"query": "q", "positive": "p", "negatives": ["n1", "n2"], "instruction": "find", "topic": "x", "level": 3}


def write_lines(path: Path, lines: list[object]) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def parse(row: object) -> Triplet | Defect:
    return TripletReader("s").parse(row)


def test_every_field_of_a_row_arrives():
    triplet = parse(GOOD | {"_id": "r7", "anti_instruction": "avoid"})
    assert triplet == Triplet(
        id="r7",
        query="q",
        positive="p",
        negatives=("n1", "n2"),
        instruction="find",
        anti_instruction="avoid",
        source="s",
        labels={"topic": "x", "level": "3"},
    )


@pytest.mark.parametrize(
    ("row", "defect"),
    [
        (None, Defect.MALFORMED),
        (["query", "positive"], Defect.MALFORMED),
        ({"query": "q"}, Defect.MISSING),
        ({"query": None, "positive": "p"}, Defect.MISSING),
        ({"query": 7, "positive": "p"}, Defect.WRONG_TYPE),
        ({"query": "q", "positive": {"text": "p"}}, Defect.WRONG_TYPE),
        ({"query": "q", "positive": "p", "negatives": 3}, Defect.WRONG_TYPE),
        ({"query": "q", "positive": "p", "negatives": [3]}, Defect.WRONG_TYPE),
        ({"query": "q", "positive": "p", "instruction": ["i"]}, Defect.WRONG_TYPE),
        ({"query": " \n", "positive": "p"}, Defect.EMPTY_QUERY),
        ({"query": "q", "positive": "\u00a0"}, Defect.EMPTY_POSITIVE),
        ({"query": "same ", "positive": "same"}, Defect.POSITIVE_IS_QUERY),
        ({"query": "q\ud800", "positive": "p"}, Defect.NOT_UNICODE),
        ({"query": "q", "positive": "p", "negatives": ["\udfff"]}, Defect.NOT_UNICODE),
    ],
)
def test_each_defect_has_its_reason(row, defect):
    assert parse(row) is defect


def test_negatives_that_cannot_teach_are_taken_off_and_counted():
    reader = TripletReader("s")
    row = {"query": "q", "positive": "p", "negatives": [None, " ", "p ", "q", "n", "n", "m"]}
    triplet = reader.parse(row)
    assert isinstance(triplet, Triplet)
    assert triplet.negatives == ("n", "m")
    assert reader.report.dropped_negatives == {
        "null or empty": 2,
        "equal to the positive": 1,
        "equal to the query": 1,
        "repeated in its row": 1,
    }


def test_a_row_without_a_negatives_column_drops_no_negative():
    reader = TripletReader("s")
    assert reader.parse({"query": "q", "positive": "p"}).negatives == ()
    assert not reader.report.dropped_negatives


@pytest.mark.parametrize(
    "row",
    [
        {"anchor": "q", "positive": "p", "negative": "n"},
        {"query": "q", "positive": "p", "negative": "n"},
    ],
)
def test_usual_column_names_are_understood(row):
    triplet = parse(row)
    assert (triplet.query, triplet.positive, triplet.negatives, triplet.labels) == ("q", "p", ("n",), {})


@pytest.mark.parametrize("reverse", [False, True])
def test_the_exact_column_name_wins_over_an_alias(reverse):
    items = [("anchor", "premise"), ("query", "q"), ("positive", "p")]
    triplet = parse(dict(reversed(items) if reverse else items))
    assert triplet.query == "q"


def test_a_part_of_speech_column_is_a_label():
    assert parse({"query": "q", "positive": "p", "pos": "verb"}).labels == {"pos": "verb"}


def test_columns_rename_and_the_renamed_column_is_no_label():
    reader = TripletReader("s", {"query": "user_query", "positive": "doc", "id": "key"})
    triplet = reader.parse({"user_query": "q", "doc": "p", "key": 5, "query": "other", "domain": "law"})
    assert (triplet.query, triplet.id, triplet.labels) == ("q", "5", {"domain": "law"})
    with pytest.raises(ConfigError, match="received 'question'"):
        TripletReader("s", {"question": "q"})


def test_a_second_row_with_an_id_is_a_duplicate_even_in_another_file():
    reader = TripletReader("s")
    rows = [{"_id": "1", "query": "a", "positive": "p"}, {"_id": 1, "query": "b", "positive": "p"}]
    kept = [*reader.read([("f:1", rows[0])]), *reader.read([("g:1", rows[1])])]
    assert [triplet.query for triplet in kept] == ["a"]
    assert reader.report.defects == {Defect.DUPLICATE_ID: 1}
    assert reader.report.examples == ["g:1: duplicate id"]


def test_rows_without_an_id_are_named_by_their_texts():
    texts = [("q", "p", ["n"]), ("q", "p", ["m"]), ("qp", "", []), ("q", "p", ["n"])]
    rows = [{"query": q, "positive": p or "x", "negatives": n} for q, p, n in texts]
    reader = TripletReader("s")
    kept = list(reader.read(("f", row) for row in rows))
    assert len({triplet.id for triplet in kept}) == 3
    assert reader.report.filtered == {Defect.REPEATED_ROW: 1}
    assert reader.report.num_bad == 0


def test_the_message_past_max_bad_rows_counts_every_reason(tmp_path):
    path = write_lines(
        tmp_path / "rows.jsonl", [GOOD, "{broken", {"query": "q"}, {"query": "q"}, {"positive": "", "query": "q"}]
    )
    with pytest.raises(InputError) as error:
        load_triplets(path, max_bad_rows=3)
    message = str(error.value)
    assert "4 of 5 rows are bad" in message
    assert "2 missing field" in message
    assert "1 empty positive" in message
    assert "rows.jsonl:2: not a JSON object" in message
    triplets, report = load_triplets(path, max_bad_rows=4)
    assert len(triplets) == report.num_kept == 1
    assert report.num_bad == 4


def test_a_file_without_a_usable_row_is_an_error_even_when_bad_rows_are_allowed(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"query": "q"}])
    with pytest.raises(EmptyInputError, match="1 missing field"):
        load_triplets(path, max_bad_rows=10)
    with pytest.raises(EmptyInputError, match="the source is empty"):
        load_triplets(write_lines(tmp_path / "empty.jsonl", []))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.zst", "rows.jsonl.gz"])
def test_what_is_written_reads_back(tmp_path, name):
    triplets = [
        parse(GOOD),
        parse(GOOD | {"query": "\u4f60\u597d \u2028 x", "instruction": "", "anti_instruction": "no"}),
    ]
    assert write_triplets(tmp_path / name, triplets) == 2
    read, report = load_triplets(tmp_path / name, source="s", max_bad_rows=0)
    assert read == triplets
    assert list(report.inputs) == [name]
    plain = (tmp_path / name).read_bytes().startswith(b"{")
    assert plain == (name == "rows.jsonl")


def test_parquet_reads_as_json_lines_do(tmp_path):
    rows = [GOOD, GOOD | {"query": "q2", "negatives": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    write_lines(tmp_path / "rows.jsonl", rows)
    from_parquet, _ = load_triplets(tmp_path / "rows.parquet")
    from_lines, _ = load_triplets(tmp_path / "rows.jsonl")
    assert from_parquet == from_lines
    assert len(from_parquet) == 2


def test_a_compressed_file_cut_short_is_an_error_and_not_a_shorter_file(tmp_path):
    whole = tmp_path / "rows.jsonl.zst"
    write_triplets(whole, (Triplet(id=str(i), query=f"q{i * 7919}", positive=f"p{i}") for i in range(5000)))
    cut = tmp_path / "cut.jsonl.zst"
    cut.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cut\.jsonl\.zst cannot be read"):
        load_triplets(cut)


def test_files_that_are_no_row_files(tmp_path):
    with pytest.raises(InputError, match="no file"):
        list(read_rows(tmp_path / "absent.jsonl"))
    with pytest.raises(InputError, match="no file"):
        list(read_rows(tmp_path / "absent.parquet"))
    with pytest.raises(InputError, match="allowed are"):
        list(read_rows(tmp_path / "rows.tsv"))
    (tmp_path / "fake.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(InputError, match="cannot be read"):
        list(read_rows(tmp_path / "fake.parquet"))


def test_byte_order_mark_carriage_returns_blank_lines_and_bad_bytes(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    good = json.dumps(GOOD).encode()
    path.write_bytes(
        gzip.compress(b"\xef\xbb\xbf" + good + b"\r\n\r\n" + b'{"query": "\xff"}\n' + good.replace(b'"q"', b'"r"'))
    )
    assert [row and row["query"] for _, row in read_rows(path)] == ["q", None, "r"]
    assert len(list(read_lines(path))) == 4


def test_stem_of_a_row_file_keeps_other_dots():
    assert row_file_stem(Path("a/train.v2.jsonl.zst")) == "train.v2"
    assert row_file_stem(Path("rows.parquet")) == "rows"


def test_hash_sees_order_negatives_and_source():
    one, two = parse(GOOD), parse(GOOD | {"query": "z"})
    hashes = {
        hash_triplets([one, two]),
        hash_triplets([two, one]),
        hash_triplets([one]),
        hash_triplets([parse(GOOD | {"negatives": ["n1"]})]),
        hash_triplets([TripletReader("t").parse(GOOD)]),
    }
    assert len(hashes) == 5


def test_merged_reports_add_up():
    first, second = RowReport(source="a", num_rows=2, num_kept=1), RowReport(source="b", num_rows=3, num_kept=2)
    first.count_defect(Defect.MISSING, "f:1")
    second.count_defect(Defect.MISSING, "g:9")
    first.merge(second)
    assert (first.num_rows, first.num_kept, first.num_bad) == (5, 3, 2)
    assert first.examples == ["f:1: missing field", "g:9: missing field"]


def test_texts_count_as_the_same_whatever_their_white_space_and_case():
    assert text_key(" Ab\n c ") == text_key("aB\tC")
    assert text_key("ab c") != text_key("a bc")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x, max_size=3), max_leaves=4
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["query", "positive", "negatives", "_id", "other"]), json_values))
def test_no_row_whatever_breaks_the_reader(row):
    parsed = parse(row)
    if isinstance(parsed, Triplet):
        assert parsed.query.strip() and parsed.positive.strip()
        assert parsed.positive.strip() not in {text.strip() for text in (parsed.query, *parsed.negatives)}
