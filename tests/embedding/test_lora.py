"""Our LoRA merge against PEFT's."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffembed import Embedder
from diffembed.backbones.loading import load_backbone
from diffembed.embedding.lora import UNREAD, WEIGHTS, join_lora, merge_lora
from diffembed.errors import CheckpointError

peft = pytest.importorskip("peft")
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def adapter(tmp_path):
    """A LoRA folder as PEFT writes it, with weights that matter."""
    backbone = load_backbone("tiny-qwen2", attention="bidirectional", dtype="float32")
    model = peft.get_peft_model(backbone.model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=SEVEN))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", model.merge_and_unload()


def test_equals_peft(adapter):
    folder, want = adapter
    body = load_backbone("tiny-qwen2", attention="bidirectional", dtype="float32").model
    before = {key: value.clone() for key, value in body.state_dict().items()}
    merge_lora(body, folder)
    changed = 0
    for key, value in body.state_dict().items():
        torch.testing.assert_close(value, want.state_dict()[key], atol=1e-6, rtol=1e-5)
        changed += not torch.equal(value, before[key])
    assert changed == 14


def test_joined_adapters_change_what_each_changes(adapter, tmp_path):
    """Of other rank and scale, rank-stabilised too; PEFT reads the result."""
    other = load_backbone("tiny-qwen2", dtype="float32")
    config = peft.LoraConfig(r=2, lora_alpha=6, use_rslora=True, target_modules=SEVEN, init_lora_weights=False)
    peft.get_peft_model(other.model, config).save_pretrained(tmp_path / "other")
    want = load_backbone("tiny-qwen2", dtype="float32").model
    for folder in (adapter[0], tmp_path / "other"):
        merge_lora(want, folder)
    join_lora([adapter[0], tmp_path / "other"], tmp_path / "joined")
    body = load_backbone("tiny-qwen2", dtype="float32").model
    merge_lora(body, tmp_path / "joined")
    theirs = peft.PeftModel.from_pretrained(load_backbone("tiny-qwen2", dtype="float32").model, tmp_path / "joined")
    for found in (body, theirs.merge_and_unload()):
        for key, value in want.state_dict().items():
            torch.testing.assert_close(found.state_dict()[key], value, atol=1e-6, rtol=1e-5)


def test_a_lower_rank_is_the_nearest_change_of_that_rank(adapter, tmp_path):
    """Against numpy's singular values of the whole change; a rank that is high enough changes nothing."""
    names = ("layers.0.mlp.down_proj", "layers.1.self_attn.q_proj")
    start, whole = load_backbone("tiny-qwen2", dtype="float32").model, adapter[1]
    for rank in (1, 3, 4, 9):
        folder = tmp_path / f"rank-{rank}"
        join_lora([adapter[0]], folder, rank=rank)
        assert json.loads((folder / "adapter_config.json").read_text())["r"] == min(rank, 4)
        body = load_backbone("tiny-qwen2", dtype="float32").model
        merge_lora(body, folder)
        for name in names:
            before, after, found = (m.get_submodule(name).weight.detach().numpy() for m in (start, whole, body))
            sizes = np.linalg.svd(after - before, compute_uv=False)
            missing = np.linalg.norm((after - before) - (found - before))
            assert missing == pytest.approx(np.linalg.norm(sizes[rank:]), abs=1e-4)


def test_a_rank_above_the_weights_dimensions_is_refused(adapter, tmp_path):
    config = peft.LoraConfig(r=70, target_modules=SEVEN)
    peft.get_peft_model(load_backbone("tiny-qwen2").model, config).save_pretrained(tmp_path / "wide")
    with pytest.raises(
        CheckpointError, match=r"rank 72 is more than the 16 dimensions of .*[kv]_proj; join to 16 or less"
    ):
        join_lora([adapter[0], tmp_path / "wide"], tmp_path / "joined", rank=72)
    assert not (tmp_path / "joined").exists()


def test_adapters_of_other_weights_are_not_joined(adapter, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=SEVEN[:3])
    peft.get_peft_model(load_backbone("tiny-qwen2").model, config).save_pretrained(tmp_path / "few")
    with pytest.raises(CheckpointError, match=r"do not change the same weights, first .*(o|gate|up|down)_proj"):
        join_lora([adapter[0], tmp_path / "few"], tmp_path / "joined")
    tensors = load_file(adapter[0] / WEIGHTS)
    shutil.copytree(adapter[0], tmp_path / "wider")
    name = next(key for key in tensors if key.endswith("q_proj.lora_A.weight"))
    save_file({**tensors, name: torch.cat([tensors[name]] * 2, dim=1)}, tmp_path / "wider" / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"do not change the same weights, first .*q_proj"):
        join_lora([adapter[0], tmp_path / "wider"], tmp_path / "joined")


def test_adapter_of_another_model_is_refused(adapter):
    body = load_backbone("all-minilm-l6-v2").model
    with pytest.raises(CheckpointError, match="belongs to another model"):
        merge_lora(body, adapter[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "uses use_dora"),
        ({"peft_type": "IA3"}, "only LORA"),
        ({"rank_pattern": {"a": 1}}, "rank_pattern"),
        ({"alora_invocation_tokens": [7, 8]}, "alora_invocation_tokens"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa', which changes the base weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"lora_alpha": None}, "lora_alpha is None, expected a number above 0"),
    ],
)
def test_unread_settings_are_refused(adapter, changes, message):
    path = adapter[0] / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=message):
        merge_lora(load_backbone("tiny-qwen2").model, adapter[0])


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("adapter_config.json", b"{", "adapter_config.json is damaged"),
        ("adapter_config.json", b"\xff", "adapter_config.json is damaged"),
        (WEIGHTS, b"not a tensor file", "is truncated or damaged"),
    ],
)
def test_damaged_adapters(adapter, file, damage, message):
    (adapter[0] / file).write_bytes(damage)
    with pytest.raises(CheckpointError, match=message):
        merge_lora(load_backbone("tiny-qwen2").model, adapter[0])


def test_every_setting_that_is_refused_is_one_of_peft():
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert set(UNREAD) <= fields


def test_stacked_adapters_are_merged_in_order_saved_and_come_back_bidirectional(adapter, tmp_path):
    folder, _ = adapter
    plain = Embedder.load("tiny-qwen2", attention="bidirectional", dtype="float32")
    want = Embedder.load("tiny-qwen2", attention="bidirectional", dtype="float32")
    for _ in range(2):
        merge_lora(want.backbone.model, folder)
    stacked = Embedder.load("tiny-qwen2", attention="bidirectional", dtype="float32", adapters=[folder, str(folder)])
    stacked.save(tmp_path / "saved")
    loaded = Embedder.load(str(tmp_path / "saved"), dtype="float32")
    loaded.save(tmp_path / "again")
    again = Embedder.load(str(tmp_path / "again"), dtype="float32")
    on_top = Embedder.load(str(tmp_path / "saved"), dtype="float32", adapters=[folder])
    assert loaded.attention == again.attention == "bidirectional" and len(on_top.adapter_folders) == 3
    vectors = {
        name: embedder.encode_documents(["a text"])
        for name, embedder in {"plain": plain, "want": want, "on top": on_top}.items()
    }
    for embedder in (stacked, loaded, again):
        np.testing.assert_allclose(embedder.encode_documents(["a text"]), vectors["want"], atol=1e-6)
    assert np.abs(vectors["want"] - vectors["plain"]).max() > 1e-3 < np.abs(vectors["on top"] - vectors["want"]).max()
