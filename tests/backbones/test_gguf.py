"""The packaged GGUF file: names, config and hash; the real file in the slow tests."""

from types import SimpleNamespace

import pytest

from diffembed.backbones import gguf as gguf_module
from diffembed.backbones.gguf import gemma3_config, gemma3_name, native_folder
from diffembed.backbones.registry import MODELS
from diffembed.errors import CheckpointError

FIELDS = {
    "general.architecture": "gemma3",
    "gemma3.block_count": 7,
    "gemma3.embedding_length": 640,
    "gemma3.feed_forward_length": 2048,
    "gemma3.attention.head_count": 4,
    "gemma3.attention.head_count_kv": 1,
    "gemma3.attention.key_length": 256,
    "gemma3.context_length": 32768,
    "gemma3.attention.layer_norm_rms_epsilon": 9.999999974752427e-07,
    "gemma3.attention.sliding_window": 512,
    "gemma3.rope.freq_base": 1000000.0,
    "tokenizer.ggml.scores": [0.0] * 300,
    "tokenizer.ggml.bos_token_id": 2,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.padding_token_id": 0,
}


def test_names():
    assert gemma3_name("token_embd.weight") == "embed_tokens.weight"
    assert gemma3_name("blk.17.ffn_norm.weight") == "layers.17.pre_feedforward_layernorm.weight"
    for name in ("blk.0.attn_sinks.weight", "output.weight"):
        with pytest.raises(CheckpointError, match=name):
            gemma3_name(name)


def test_config():
    config = gemma3_config(FIELDS)
    assert config.layer_types.count("full_attention") == 1 and config.layer_types[5] == "full_attention"
    assert config.rms_norm_eps == 1e-6 and config.vocab_size == 300 and config.sliding_window == 512
    with pytest.raises(CheckpointError, match="holds 'llama'"):
        gemma3_config({**FIELDS, "general.architecture": "llama"})
    with pytest.raises(CheckpointError, match=r"gemma3\.block_count"):
        gemma3_config({key: value for key, value in FIELDS.items() if key != "gemma3.block_count"})


def test_another_file_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    chunk = tmp_path / "part00"
    chunk.write_bytes(b"not the weights")
    package = SimpleNamespace(chunk_paths=lambda: [chunk])
    monkeypatch.setenv("DIFFEMBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf_module.importlib, "import_module", lambda name: package)
    with pytest.raises(CheckpointError, match=r"sha256 .* expected a5fd3b62"):
        native_folder(MODELS["gemma-3-270m"])
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")] == []
