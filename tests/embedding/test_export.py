"""An export gives the same vectors where diffembed cannot be imported, or is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest

from diffembed.backbones.tiny import build_tiny
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
    ("family", "pooling", "special", "prompts"),
    [
        ("qwen2", "lasttoken", "$A <eos>", {}),
        ("llama", "mean", "<bos> $A", {}),
        ("qwen2", "mean", "$A", {"query": "Find:\n", "document": "passage:\n"}),
        ("llama", "mean", "<bos> $A <eos>", {"query": "Find:\n", "document": "passage:\n"}),
    ],
)
@pytest.mark.parametrize("include_prompt", [True, False])
def test_a_folder_of_sentence_transformers_gives_its_vectors(
    tmp_path, family, pooling, special, prompts, include_prompt
):
    """What the tokenizer writes around a text is pooled there, and the limit is stored in tokenizer_config.json."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import processors

    model, tokenizer = build_tiny(family)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=special, special_tokens=[("<eos>", 1), ("<bos>", 2)]
    )
    model.model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    transformer = Transformer(str(tmp_path / "base"), max_seq_length=64)
    modules = [transformer, Pooling(32, pooling, include_prompt=include_prompt), Normalize()]
    plain = SentenceTransformer(modules=modules, prompts=prompts, device="cpu")
    plain.save(str(tmp_path / "plain"))
    ours = Embedder.load(str(tmp_path / "plain"), dtype="float32")
    texts = [*TEXTS, "x " * 200]
    assert ours.max_tokens == 64 and plain.tokenize([texts[-1]])["input_ids"].shape[1] == 64
    with pytest.warns(UserWarning, match="1 of 4 texts were longer than 64"):
        pairs = [
            (ours.encode_documents(texts), plain.encode_document(texts)),
            (ours.encode_queries(texts), plain.encode_query(texts)),
        ]
    for found, want in pairs:
        np.testing.assert_allclose((found * want).sum(1), 1, atol=1e-5)
    if prompts:
        assert np.abs(pairs[0][0] - pairs[1][0]).max() > 1e-2


@pytest.mark.parametrize(
    ("model", "template"),
    [
        ("tiny-llama", TextTemplate(default_instruction="Find the answer", document_prefix="passage:\n")),
        ("tiny-qwen2", TextTemplate(instruction_format="Instruct: {instruction}\n", appends_eos=True)),
        pytest.param("all-minilm-l6-v2", TextTemplate(document_prefix="passage: "), marks=pytest.mark.slow),
    ],
)
def test_an_export_is_read_back_as_it_was(tmp_path, model, template):
    """The opening token stands in the prompt of an export, which an instruction of the caller replaced."""
    source = Embedder.load(model, dtype="float32", template=template)
    source.save(tmp_path / "checkpoint")
    export_embedder(str(tmp_path / "checkpoint"), tmp_path / "out")
    back = Embedder.load(str(tmp_path / "out"), dtype="float32")
    back.save(tmp_path / "again")
    for embedder in (back, Embedder.load(str(tmp_path / "again"), dtype="float32")):
        np.testing.assert_allclose(embedder.encode_documents(TEXTS), source.encode_documents(TEXTS), atol=1e-5)
        for instruction in (None, "", "Given a question, retrieve passages"):
            want = source.encode_queries(TEXTS, instruction=instruction)
            np.testing.assert_allclose(embedder.encode_queries(TEXTS, instruction=instruction), want, atol=1e-5)


def test_gemma3_with_a_bidirectional_window_of_its_own_is_exported_as_it_is(tmp_path):
    from transformers import Gemma3TextConfig, Gemma3TextModel

    model, tokenizer = build_tiny("gemma3_text")
    config = Gemma3TextConfig(**{**model.config.to_dict(), "use_bidirectional_attention": True})
    Gemma3TextModel(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    export_embedder(str(tmp_path / "base"), tmp_path / "out")
    source, back = (Embedder.load(str(tmp_path / name), dtype="float32") for name in ("base", "out"))
    assert source.attention == back.attention == "bidirectional"
    np.testing.assert_allclose(back.encode_documents(TEXTS), source.encode_documents(TEXTS), atol=1e-5)


def test_licence_and_notices_go_with_the_weights(tmp_path):
    model, tokenizer = build_tiny("llama")
    base, checkpoint, out = (tmp_path / name for name in ("base", "checkpoint", "out"))
    model.model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    (base / "README.md").write_text("---\nlicense: llama3\n---\n# x\n")
    (base / "LICENSE").write_text("terms")
    (base / "NOTICE").write_text("of the base")
    (base / "diffembed.json").write_text('{"notice": "of the conversion"}')
    Embedder.load(str(base)).save(checkpoint)
    (checkpoint / "NOTICE").write_text("of the adapter")
    report = export_embedder(str(checkpoint), out)
    assert report.licence == "llama3" and 'license_name: "llama3"' in (out / "README.md").read_text()
    assert (out / "LICENSE").read_text() == "terms"
    notice = (out / "NOTICE").read_text().split("\n")
    assert [line for line in notice if line] == ["of the base", "of the conversion", "of the adapter"]


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
