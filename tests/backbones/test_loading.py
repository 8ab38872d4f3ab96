"""Loading: names, folders, and every kind of damaged or unsafe checkpoint."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffembed import Embedder
from diffembed.backbones.attention import PackedLayout
from diffembed.backbones.head import load_head
from diffembed.backbones.loading import fingerprint, load_backbone
from diffembed.backbones.tiny import build_tiny, build_tokenizer
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
    elif how in ("no tokenizer", "damaged tokenizer"):
        (folder / "tokenizer.json").unlink()
        if how == "damaged tokenizer":
            (folder / "tokenizer.json").write_text("{")
    elif how == "too many tokens":
        tokenizer = build_tokenizer()
        tokenizer.add_tokens(["<new>"])
        tokenizer.save_pretrained(folder)
    elif how == "too many layers":
        config = json.loads((folder / "config.json").read_text())
        config.update(num_hidden_layers=1, layer_types=config["layer_types"][:1])
        (folder / "config.json").write_text(json.dumps(config))
    elif how == "facts":
        (folder / "diffembed.json").write_bytes(b"\xff{}")
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
        ("no tokenizer", "has no tokenizer .*save the model's tokenizer"),
        ("damaged tokenizer", "the tokenizer of .* cannot be loaded"),
        ("too many tokens", "has ids up to 512, but the embedding table has 512 rows"),
        (
            "too many layers",
            "holds 12 tensors that the layers .* no place for, first 'layers.1.input_layernorm.weight'",
        ),
        ("facts", "diffembed.json is damaged"),
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
        ({"name": "tiny", "allow_remote_code": True}, ConfigError, "allow_remote_code would have no effect"),
        ({"name": "tiny", "revision": "main"}, ConfigError, "revision 'main' would have no effect"),
        ({"name": "./nowhere", "revision": "main"}, ConfigError, "does not come from the hub"),
        ({"name": "owner/model@main", "revision": "v1"}, ConfigError, "names its revision, so revision 'v1'"),
        ({"name": "tiny", "device": "gpu"}, ConfigError, "device is 'gpu'; this machine has auto, cpu"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        load_backbone(**arguments)


def test_a_special_token_without_a_row_is_let_be(folder):
    """Gemma 3's text models are published with a special token for images that their table has no row for."""
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    assert len(tokenizer) == 513
    tokenizer.save_pretrained(folder)
    assert load_backbone(str(folder)).config.vocab_size == 512


def test_constants_that_old_files_store_in_layers_are_let_be(tmp_path):
    from transformers import GPT2Config, GPT2Model

    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64, "vocab_size": 512}
    GPT2Model(GPT2Config(**sizes, bos_token_id=2, eos_token_id=1)).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 64, 64), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert load_backbone(str(tmp_path)).verdict.num_layers == 1


def test_a_revision_goes_with_the_name(tmp_path, monkeypatch):
    """The head and a saved checkpoint are of the revision that was asked for, not of the newest."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    repository, commits = tmp_path / "hub" / "models--own--net", ("a" * 40, "b" * 40)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commits[1])
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    for commit in commits:
        model = Qwen2ForCausalLM(
            Qwen2Config(vocab_size=512, num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3,
                        tie_word_embeddings=False, **shape)
        )  # fmt: skip
        model.save_pretrained(repository / "snapshots" / commit)
        build_tokenizer().save_pretrained(repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    old, new = (
        load_file(repository / "snapshots" / commit / "model.safetensors")["lm_head.weight"] for commit in commits
    )
    assert not torch.equal(old, new)
    embedder = Embedder.load("own/net", revision=commits[0], dtype="float32")
    assert torch.equal(load_head(embedder.backbone).weight_VD, old)
    embedder.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "embedder.json").read_text())["base"] == f"own/net@{commits[0]}"
    assert Embedder.load(str(tmp_path / "saved"), dtype="float32").backbone.source_hash == embedder.backbone.source_hash
    assert torch.equal(load_head(load_backbone("own/net", dtype="float32")).weight_VD, new)


@pytest.mark.parametrize("kernel", ["packed", "eager"])
def test_gemma3_that_stores_bidirectional_attention_keeps_its_own_window(tmp_path, kernel):
    """EmbeddingGemma's layout: distance < window on both sides; is_causal=False alone gives distance <= window."""
    from transformers import Gemma3TextConfig, Gemma3TextModel

    config = build_tiny("gemma3_text")[0].config.to_dict()
    torch.manual_seed(0)
    Gemma3TextModel(
        Gemma3TextConfig(**{**config, "use_bidirectional_attention": True, "tie_word_embeddings": True})
    ).save_pretrained(tmp_path / "a")
    build_tokenizer().save_pretrained(tmp_path / "a")
    plain = Gemma3TextModel.from_pretrained(tmp_path / "a", attn_implementation="eager").eval()
    ids = torch.arange(5, 45)[None]
    layout = PackedLayout((40,), "bidirectional")
    kwargs = {"packed": layout, "position_ids": layout.position_ids()} if kernel == "packed" else {}
    load_backbone(str(tmp_path / "a"), dtype="float32").model.save_pretrained(tmp_path / "b")
    build_tokenizer().save_pretrained(tmp_path / "b")
    with torch.no_grad():
        want = plain(input_ids=ids).last_hidden_state
        for name in "ab":
            backbone = load_backbone(str(tmp_path / name), dtype="float32", kernel=kernel)
            assert backbone.attention == "bidirectional" and backbone.verdict.num_sliding_layers == 1
            found = backbone.model(input_ids=ids, **kwargs).last_hidden_state
            torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)


def test_hub_id_without_a_hub_says_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="could not be fetched"):
        load_backbone("owner/no-such-model")
