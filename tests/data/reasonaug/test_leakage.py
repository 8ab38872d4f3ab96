"""Queries that repeat a benchmark's, found exactly, against difflib without any shortcut."""

import json
import random
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from diffembed.data.reasonaug.leakage import WORDS, drop_leaks, find_leaks, read_references
from diffembed.data.reasonaug.rows import Triplet
from diffembed.errors import InputError

ORIGINAL = "A farmer has three fields and shares the water between them. How much goes to the largest field?"
DISGUISED = "A farmer owns three fields and shares his water between them. How much goes to the largest field?"


def make_row(number: int, query: str) -> Triplet:
    return Triplet(
        id=number,
        domain="d",
        instance="i",
        task_type="p2i",
        task="find",
        user_query=query,
        positive_document="p",
        hard_negative_document="n",
        negative_instance="j",
    )


def test_a_disguised_copy_is_found_with_its_original() -> None:
    (leak,) = find_leaks(["Something else altogether.", DISGUISED], [ORIGINAL, "Another text."], min_ratio=0.7)
    assert (leak.text, leak.reference) == (DISGUISED, ORIGINAL)
    assert 0.7 < leak.ratio < 1


def test_the_shortcuts_change_nothing() -> None:
    draw = random.Random(0)
    vocabulary = ["red", "blue", "green", "how", "many", "?", "the", "box", "1", "2"]
    texts = [" ".join(draw.choices(vocabulary, k=draw.randint(1, 14))) for _ in range(60)]
    references = [" ".join(draw.choices(vocabulary, k=draw.randint(1, 14))) for _ in range(40)]
    found = {leak.text: leak.ratio for leak in find_leaks(texts, references, min_ratio=0.6)}
    expected = {}
    for text in texts:
        best = max(
            SequenceMatcher(None, WORDS.findall(reference), WORDS.findall(text), autojunk=False).ratio()
            for reference in references
        )
        if best >= 0.6:
            expected[text] = best
    assert 5 < len(expected) < 60
    assert found == expected


def test_scripts_without_spaces_are_compared_by_character() -> None:
    (leak,) = find_leaks(["农民有三块田地,怎么分水?"], ["农民有四块田地,怎么分水?"], min_ratio=0.7)
    assert leak.ratio > 0.8


def test_all_rows_of_a_leaking_query_are_dropped() -> None:
    rows = [make_row(0, DISGUISED), make_row(1, "A baker bakes."), make_row(2, DISGUISED)]
    result = drop_leaks(rows, [ORIGINAL], max_ratio=0.7)
    assert [row.id for row in result.rows] == [1]
    assert [(each.id, each.reason) for each in result.dropped] == [
        ("0", "query near a reference text"),
        ("2", "query near a reference text"),
    ]
    assert ORIGINAL[:40] in result.dropped[0].detail


def test_references_are_read_from_the_columns_of_benchmarks(tmp_path: Path) -> None:
    first, second = tmp_path / "queries.jsonl", tmp_path / "other.jsonl"
    first.write_text("\n".join(json.dumps({"_id": number, "text": f"text {number % 2}"}) for number in range(4)))
    second.write_text('{"query": "how?", "answer": "so"}\nnot json\n')
    assert read_references([first, second]) == ["text 0", "text 1", "how?"]
    (tmp_path / "bad.jsonl").write_text('{"answer": "so"}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl has no column of texts; expected one of text, query"):
        read_references([tmp_path / "bad.jsonl"])


def test_no_reference_drops_nothing() -> None:
    assert list(find_leaks([ORIGINAL, ""], [], min_ratio=0.7)) == []
    assert list(find_leaks(["", ORIGINAL], [""], min_ratio=0.7)) == []
