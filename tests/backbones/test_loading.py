"""Loading: names, folders, and every kind of damaged or unsafe checkpoint."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffembed.backbones.loading import fingerprint, load_backbone
from diffembed.backbones.tiny import build_tiny
from diffembed.errors import CheckpointError, ConfigError, UnknownNameError
from diffembed.provenance import hash_file


@pytest.fixture
def folder(tmp_path):
    model, tokenizer = build_tiny("qwen2")
    model.model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_tiny_is_the_same_on_every_load():
    first, second = (load_backbone("tiny").model.state_dict() for _ in range(2))
    assert first and all(torch.equal(first[key], second[key]) for key in first)


def test_tiny_leaves_the_global_random_state():
    torch.manual_seed(3)
    want = torch.rand(1)
    torch.manual_seed(3)
    load_backbone("tiny")
    assert torch.equal(torch.rand(1), want)


def test_folder_and_attention(folder):
    assert load_backbone(str(folder)).attention == "causal"
    opened = load_backbone(str(folder), attention="bidirectional")
    assert opened.attention == "bidirectional" and opened.config.is_causal is False
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "is_causal": False}))
    assert load_backbone(str(folder)).attention == "bidirectional", "the stored intent is honoured"
    assert load_backbone(str(folder), attention="causal").attention == "causal"


def test_folder_by_its_bare_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert load_backbone("model").source_hash == load_backbone(str(folder)).source_hash


def test_same_weights_in_every_dtype(folder):
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        wide, narrow = (
            load_backbone(str(folder), dtype=dtype, kernel="sdpa").model(input_ids=ids).last_hidden_state.float()
            for dtype in ("float32", "bfloat16")
        )
    assert torch.nn.functional.cosine_similarity(wide.mean(1), narrow.mean(1)).item() > 0.995


def test_sharded_weights(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = load_backbone(str(folder), dtype="float32").model.state_dict()
    assert all(torch.equal(loaded[key], tensors[key]) for key in names)


def test_fingerprint_sees_one_changed_weight(folder):
    before = fingerprint(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["norm.weight"][3] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(folder) != before


def breaks(folder, how):
    weights = folder / "model.safetensors"
    if how == "pickle":
        torch.save({}, folder / "pytorch_model.bin")
        weights.unlink()
    elif how == "nothing":
        weights.unlink()
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "garbage":
        weights.write_bytes(b"not a tensor file")
    elif how in ("nan", "missing", "shape"):
        tensors = load_file(weights)
        if how == "nan":
            tensors["layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
        elif how == "missing":
            del tensors["layers.1.mlp.up_proj.weight"]
        else:
            tensors["layers.1.mlp.up_proj.weight"] = torch.zeros(3, 3)
        save_file(tensors, weights, metadata={"format": "pt"})
    elif how == "config":
        (folder / "config.json").write_text("{")
    elif how == "no config":
        (folder / "config.json").unlink()
    elif how in ("family", "remote"):
        config = json.loads((folder / "config.json").read_text())
        config.update({"model_type": "Dream"} if how == "family" else {"auto_map": {"AutoModel": "x.Y"}})
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("pickle", "only pickled weights"),
        ("nothing", "no \\*.safetensors"),
        ("truncated", "is truncated: .* bytes"),
        ("garbage", "truncated or damaged"),
        ("nan", "'layers.1.mlp.up_proj.weight' holds NaN"),
        ("missing", "lacks 1 tensors, first 'layers.1.mlp.up_proj.weight'"),
        ("shape", "layers.1.mlp.up_proj.weight"),
        ("config", "config.json is damaged"),
        ("no config", "has no config.json"),
        ("family", "model_type 'Dream'.*diffembed convert"),
        ("remote", "needs remote code; convert it"),
    ],
)
def test_bad_folders(folder, how, message):
    breaks(folder, how)
    before = {path.name: hash_file(path) for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match=message):
        load_backbone(str(folder))
    assert {path.name: hash_file(path) for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "gemma-3-270n"}, UnknownNameError, "did you mean 'gemma-3-270m'"),
        ({"name": "./nowhere"}, CheckpointError, "is not a folder"),
        ({"name": "tiny", "attention": "both"}, UnknownNameError, "causal"),
        ({"name": "tiny", "dtype": "int3"}, UnknownNameError, "bfloat16"),
        ({"name": "tiny", "kernel": "flash"}, UnknownNameError, "packed"),
        ({"name": "owner/model", "allow_remote_code": True}, ConfigError, "pinned revision"),
        ({"name": "all-minilm-l6-v2", "attention": "causal"}, ConfigError, "cannot be made causal"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        load_backbone(**arguments)


def test_hub_id_without_a_hub_says_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="could not be fetched"):
        load_backbone("owner/no-such-model")
