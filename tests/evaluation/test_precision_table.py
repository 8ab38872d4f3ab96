"""Every row of the table against the same search done by hand."""

import json

import numpy as np
import pytest

from diffembed.embedding.precision import Int8Codes, cut_dims, hamming, pack_signs
from diffembed.errors import ConfigError
from diffembed.evaluation.reports.precision_table import halved, measure_precision, num_bytes, render_markdown
from diffembed.evaluation.suites.named import find_suite
from diffembed.evaluation.suites.reading import read_tasks


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEMBED_CACHE", str(tmp_path / "cache"))


def test_widths_and_bytes():
    assert halved(640) == [640, 320, 160, 80] and halved(384) == [384, 192, 96] and halved(40) == [40]
    assert [num_bytes(100, p) for p in ("float32", "int8", "binary", "binary+int8")] == [400, 100, 13, 113]


def test_rows_equal_a_search_by_hand(beir_folder, cache):
    from diffembed import Embedder

    table = measure_precision("tiny-qwen2", str(beir_folder), dims=(32, 16))
    assert [(row.dims, row.precision) for row in table.rows] == [
        (dims, precision) for dims in (32, 16) for precision in ("float32", "int8", "binary", "binary+int8")
    ]
    assert table.num_queries == 3 and table.measure == "nDCG@10" and table.rows[0].kept == 1.0
    (task,) = read_tasks(find_suite(str(beir_folder)))
    embedder = Embedder.load("tiny-qwen2")
    documents = embedder.encode_documents([document.full_text for document in task.corpus])
    queries = np.concatenate(
        [
            embedder.encode_queries([query.text], instruction=query.instruction or task.instruction)
            for query in task.queries
        ]
    )
    for row in table.rows:
        left, right = cut_dims(queries, row.dims), cut_dims(documents, row.dims)
        int8 = Int8Codes.fit(right)
        scores = {
            "float32": left @ right.T,
            "binary": -hamming(pack_signs(left), pack_signs(right)),
        }.get(row.precision, left @ int8.decode(int8.encode(right)).T)
        values = []
        for query, of_query in zip(task.queries, scores, strict=True):
            ids = [document.id for document in task.corpus]
            ranked = sorted(
                (key for key in ids if key not in query.excluded_ids), key=lambda key: (of_query[ids.index(key)], key)
            )[::-1]
            gold = next(key for key, grade in task.qrels[query.id].items() if grade)
            values.append(1 / np.log2(2 + ranked.index(gold)))
        assert row.score.value == pytest.approx(np.mean(values)), (row.dims, row.precision)
    assert len({round(row.score.value, 6) for row in table.rows}) > 1, "codes that change nothing test nothing"


def test_passages_are_measured_as_passages(beir_folder, cache):
    (beir_folder / "corpus.jsonl.zst").unlink()
    sea = "It rains on the sea and on the ships. " * 40
    rows = [{"_id": name, "text": f"{name}.\n\n{sea}"} for name in ("cats", "dogs", "rust", "lisp")]
    (beir_folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = measure_precision("maxp@tiny-qwen2", str(beir_folder), dims=(32,))
    assert table.rows[0].precision == "float32" and table.rows[0].kept == 1.0


def test_a_system_that_finds_nothing_keeps_nothing(cache, tmp_path):
    folder = tmp_path / "haystack"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{number}", "title": "", "text": f"text {number}"} for number in range(400)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "a question"}) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td0\t1\n")
    table = measure_precision("random", str(folder), dims=(16,))
    assert table.rows[0].score.value == 0 and table.rows[0].kept_text == "-"
    assert "| - |" in render_markdown(table, command="x")


def test_page(beir_folder, cache):
    table = measure_precision("tiny", str(beir_folder), dims=(16,))
    page = render_markdown(table, command="diffembed precision tiny")
    assert "## tiny on topics" in page and "`diffembed precision tiny`" in page
    assert f"| 16 | binary+int8 | 18 | {100 * table.rows[3].score.value:.1f} |" in page


def test_refusals(beir_folder, sts_folder, cache):
    with pytest.raises(ConfigError, match="no retrieval task"):
        measure_precision("tiny", str(sts_folder))
    with pytest.raises(ConfigError, match="bm25 is no single dense system"):
        measure_precision("bm25", str(beir_folder))
    with pytest.raises(ConfigError, match="allowed is 1 to"):
        measure_precision("tiny", str(beir_folder), dims=(9999,))
