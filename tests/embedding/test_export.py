"""An export gives the same vectors where diffembed cannot be imported, or is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest

from diffembed.embedding.embedder import Embedder
from diffembed.embedding.export import export_embedder
from diffembed.embedding.text import TextTemplate
from diffembed.errors import CheckpointError, ConfigError

pytest.importorskip("sentence_transformers")

TEXTS = ["Tides rise and fall.", "a", "A much longer text about rivers, mills and bridges."]
PLAIN = """
import sys, json
sys.modules["diffembed"] = None
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
texts = json.loads(sys.argv[2])
print(json.dumps([model.encode_document(texts).tolist(), model.encode_query(texts).tolist()]))
"""


def test_the_export_loads_where_diffembed_cannot_be_imported(tmp_path):
    source = Embedder.load("tiny-llama", attention="bidirectional", dtype="float32", template=TextTemplate(
        default_instruction="Find the answer", document_prefix="passage:\n"))  # fmt: skip
    source.save(tmp_path / "checkpoint")
    report = export_embedder(str(tmp_path / "checkpoint"), tmp_path / "out")
    assert report.num_texts == 12 and report.largest_difference < 1e-5
    code = [sys.executable, "-c", PLAIN, str(tmp_path / "out"), json.dumps(TEXTS)]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    documents, queries = (np.array(rows) for rows in json.loads(done.stdout.splitlines()[-1]))
    assert np.abs(documents - source.encode_documents(TEXTS)).max() < 1e-5
    assert np.abs(queries - source.encode_queries(TEXTS)).max() < 1e-5
    assert np.abs(documents - queries).max() > 1e-2
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["is_causal"] is False and config["use_bidirectional_attention"] is True
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("model", "attention", "keys"),
    [
        ("tiny-qwen2", "causal", {}),
        ("tiny-gemma3", "bidirectional", {"is_causal": False}),
        ("tiny-qwen2", "bidirectional", {"is_causal": False, "use_bidirectional_attention": True}),
    ],
)
def test_attention_keys(tmp_path, model, attention, keys):
    export_embedder(model, tmp_path / "out", attention=attention)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    stored = {key: config[key] for key in ("is_causal", "use_bidirectional_attention") if key in config}
    assert {key: value for key, value in stored.items() if value is not None} == keys
    card = (tmp_path / "out" / "README.md").read_text()
    assert "No evaluation was given" in card and "license: apache-2.0" in card


def test_what_cannot_be_expressed_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="gives another vector"):
        export_embedder("tiny-llama", tmp_path / "a", attention="bidirectional", pooling="weighted_mean")
    wrapped = Embedder.load(
        "tiny-llama", attention="bidirectional", dtype="float32", template=TextTemplate(wrapper="<bos>{text}<eos>")
    )
    wrapped.save(tmp_path / "wrapped")
    with pytest.raises(ConfigError, match="wraps texts"):
        export_embedder(str(tmp_path / "wrapped"), tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wrapped"]
