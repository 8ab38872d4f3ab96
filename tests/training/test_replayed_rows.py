"""A training run on the rows that the ReasonAug pipeline makes of its stored answers uses them as they are."""

import json
import os
from pathlib import Path

import pytest

from diffembed.data.formats import hash_triplets
from diffembed.data.set_aside import read_values
from diffembed.data.source_config import SourceConfig
from diffembed.data.sources import load_sources
from diffembed.training.contrast import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("DIFFEMBED_DATA" not in os.environ, reason="DIFFEMBED_DATA is not set"),
]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    from diffembed.data.reasonaug.pipeline import replay

    outcome = replay(Path(os.environ["DIFFEMBED_DATA"]) / "reasonaug_raw", tmp_path_factory.mktemp("replay") / "out")
    (path,) = [path for path in outcome.folder.glob("*.jsonl") if path.name not in ("dropped.jsonl", "metrics.jsonl")]
    return path, outcome.num_rows


@pytest.mark.parametrize("is_excluding", [False, True])
def test_training_reads_the_replayed_rows_unchanged(replayed, train_config, is_excluding):
    path, num_rows = replayed
    held_out = Path(os.environ["DIFFEMBED_DATA"]) / "train/reasonaug/heldout_concepts.jsonl"
    source = {"kind": "reasonaug", "path": str(path)}
    if is_excluding:
        source["exclude"] = str(held_out)
    config = train_config(
        data={"sources": [source]},
        run={"schedule_steps": 2},
        batch={"query_max_tokens": 160, "document_max_tokens": 160, "mini_batch_tokens": 800},
    )
    report = train(config)
    provenance = json.loads((Path(config.run.output) / "provenance.json").read_text())
    (loaded,) = load_sources([SourceConfig(**source)], seed=config.run.seed, max_bad_rows=0).values()
    assert provenance["inputs"]["training rows"] == hash_triplets(loaded.triplets)
    assert report.step == 2
    concepts = {value for row in loaded.triplets for value in row.labels.values()}
    assert bool(concepts & read_values(held_out)) is not is_excluding
    assert len(loaded.triplets) < num_rows if is_excluding else len(loaded.triplets) == num_rows
