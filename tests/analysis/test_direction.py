import json
from dataclasses import replace

import numpy as np
import pytest

from diffembed.analysis.direction import TRAINED, Variant, ablate_direction, directions_of, make_variants
from diffembed.analysis.direction_run import DirectionConfig, run_direction
from diffembed.cli import main
from diffembed.embedding.embedder import Embedder
from diffembed.errors import ConfigError, EmptyInputError
from diffembed.evaluation.run import EvaluateConfig
from diffembed.evaluation.tasks import LabelTask, PairTask, Task
from diffembed.records import Document, Query

TOPICS = ["red apples", "blue whales", "old maps", "loud trains", "thin ice", "warm bread"]
TASK = Task(
    name="topics",
    corpus=[Document(id=f"d{n}", text=f"A page about {topic} and nothing else.") for n, topic in enumerate(TOPICS)],
    queries=[Query(id=f"q{n}", text=f"{topic}?") for n, topic in enumerate(TOPICS)],
    qrels={f"q{n}": {f"d{n}": 1} for n in range(len(TOPICS))},
)
PAIRS = PairTask(
    name="pairs",
    left=["a red apple", "a blue whale", "an old map"],
    right=["one red apple", "thin ice", "maps of old"],
    gold=[5, 0, 4],
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEMBED_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def embedder():
    return Embedder.load("tiny", attention="bidirectional", dtype="float32")


def test_variants_cover_the_network_and_each_part_of_it():
    variants = make_variants(18, trained="bidirectional", num_ranges=3)
    assert [variant.label(18) for variant in variants] == [
        "causal",
        "anticausal",
        "causal in layers 0-5",
        "anticausal in layers 0-5",
        "causal in layers 6-11",
        "anticausal in layers 6-11",
        "causal in layers 12-17",
        "anticausal in layers 12-17",
    ]
    assert [v.direction for v in make_variants(2, trained="causal", num_ranges=1)] == ["bidirectional", "anticausal"]
    part = Variant(direction="causal", layers=(1, 2))
    assert directions_of(part, 4, "bidirectional") == ("bidirectional", "causal", "causal", "bidirectional")
    for layers in ((2, 1), (-1, 0), (0, 4)):
        with pytest.raises(ConfigError, match="are not in a network of 4 layers"):
            directions_of(Variant(direction="causal", layers=layers), 4, "bidirectional")
    with pytest.raises(ConfigError, match="num_ranges is 5"):
        make_variants(4, trained="causal", num_ranges=5)


def test_causal_at_test_time_equals_the_network_loaded_causally(embedder):
    rows = {row.variant: row for row in ablate_direction(embedder, [TASK], num_ranges=2)}
    causal = Embedder.load("tiny", attention="causal", dtype="float32")
    (expected,) = [r for r in ablate_direction(causal, [TASK], num_ranges=1) if r.variant == TRAINED]
    assert rows["causal"].score == expected.score
    vectors = [
        embedder.encode_poolings([TASK.corpus[0].text], ["mean"], direction=direction)[0]["mean"]
        for direction in ("causal", "anticausal", ("causal", "bidirectional"))
    ]
    np.testing.assert_allclose(vectors[0], causal.encode_documents([TASK.corpus[0].text]), atol=1e-6)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3) and not np.allclose(vectors[0], vectors[2], atol=1e-3)
    assert set(rows) == {
        TRAINED, "causal", "anticausal",
        "causal in layers 0-0", "anticausal in layers 0-0", "causal in layers 1-1", "anticausal in layers 1-1",
    }  # fmt: skip


def test_rows_are_tested_against_the_network_as_trained(embedder):
    rows = ablate_direction(embedder, [TASK, PAIRS], num_ranges=1)
    assert [(row.task, row.variant) for row in rows] == [
        (task, variant) for task in ("topics", "pairs") for variant in (TRAINED, "causal", "anticausal")
    ]
    for row in rows:
        if row.variant == TRAINED:
            assert row.against_trained is None and row.p_holm is None
            base = row
        else:
            assert row.against_trained.difference.value == pytest.approx(row.score.value - base.score.value)
            assert 0 < row.p_holm <= 1
    with pytest.raises(EmptyInputError):
        ablate_direction(embedder, [])
    clustering = LabelTask(name="c", kind="clustering", texts=["a", "b", "c"], labels=["x", "y", "x"])
    with pytest.raises(ConfigError, match="leave clustering out"):
        ablate_direction(embedder, [clustering], num_ranges=1)


def test_anticausal_is_causal_on_the_reversed_text(embedder):
    """With positions reversed too: relative rotary positions only change sign, which a mirrored text undoes."""
    import torch

    from diffembed.backbones.attention import PackedLayout

    ids = torch.tensor([[5, 9, 14, 3, 8, 11, 7]])
    model = embedder.backbone.model
    positions = torch.arange(7)[None]
    with torch.inference_mode():
        forward = model(
            input_ids=ids, position_ids=positions, packed=PackedLayout((7,), "anticausal")
        ).last_hidden_state
        mirrored = model(
            input_ids=ids.flip(1), position_ids=positions.flip(1), packed=PackedLayout((7,), "causal")
        ).last_hidden_state
    torch.testing.assert_close(forward, mirrored.flip(1), atol=1e-5, rtol=1e-4)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "topics"
    (place / "qrels").mkdir(parents=True)
    (place / "corpus.jsonl").write_text("".join(json.dumps({"_id": d.id, "text": d.text}) + "\n" for d in TASK.corpus))
    (place / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": q.id, "text": q.text}) + "\n" for q in TASK.queries)
    )
    lines = ["query-id\tcorpus-id\tscore", *(f"q{n}\td{n}\t1" for n in range(len(TOPICS)))]
    (place / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return place


def test_a_run_writes_table_figures_and_attention(folder, tmp_path):
    config = DirectionConfig(model="tiny:bidirectional", suite=str(folder), num_ranges=1, num_texts=2)
    config = replace(config, evaluate=EvaluateConfig(dtype="float32"))
    run = run_direction(config, out=tmp_path / "out")
    out = tmp_path / "out"
    assert len(json.loads((out / "direction.json").read_text())) == len(run.rows) == 3
    stored = json.loads((out / "attention.json").read_text())
    np.testing.assert_allclose(np.sum(stored["mass_by_layer_head_band"], axis=2), 1, atol=1e-6)
    assert stored["num_texts"] == 2
    for name in ("direction.svg", "attention.svg"):
        assert "</svg>" in (out / name).read_text()
    drawn = (out / "direction.svg").read_text()
    assert all(f">{row.variant}<" in drawn for row in run.rows), "each bar has its name"
    with pytest.raises(ConfigError, match="num_texts is -1"):
        DirectionConfig(model="tiny", suite="x", num_texts=-1)


def test_the_command_prints_both_tables(folder, capsys):
    assert (
        main(["direction", "tiny:bidirectional", str(folder), "--ranges", "1", "--texts", "1", "--dtype", "float32"])
        == 0
    )
    printed = capsys.readouterr().out
    assert "as trained" in printed and "anticausal" in printed and "entropy" in printed
    assert main(["direction", "tiny", str(folder), "--ranges", "9", "--json"]) == 2
    assert "num_ranges is 9; the network has 2 layers" in capsys.readouterr().err
