"""The size switches of the layouts, against a forward pass written here from the published names and keys alone."""

# T = tokens, D = hidden width, H = query heads, G = key/value heads, d = head width, V = vocabulary

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffembed.backbones.conversion.convert import convert_checkpoint
from diffembed.backbones.conversion.parity import check_golden, compare_golden
from diffembed.errors import ConversionError

IDS_T = torch.tensor([7, 4, 311, 5, 19, 4, 260, 33, 501, 8, 90])
LENGTHS = (5, 1, 3)


def rotate(x_THd: Tensor, theta: float, scaling: dict | None) -> Tensor:
    """Rotary positions on half-split pairs; `scaling` is the llama3 rule of the Llama 3.1 paper's code."""
    half = x_THd.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    if scaling:
        factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
        blend = ((turns - low) / (high - low)).clamp(0, 1)
        frequency = (1 - blend) * frequency / factor + blend * frequency
    angle = torch.arange(x_THd.shape[0])[:, None, None] * frequency
    cos, sin = angle.cos().float(), angle.sin().float()
    first, second = x_THd[..., :half], x_THd[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def reference(tensors: dict[str, Tensor], names: dict[str, str], facts: dict, ids_T: Tensor) -> tuple[Tensor, Tensor]:
    """(states [T, D], logits [T, V]) of one text under full attention, in float32."""
    get = lambda role, layer="": tensors[names[role].format(n=layer)]  # noqa: E731
    eps, heads, groups = facts["eps"], facts["heads"], facts["groups"]
    x_TD = get("embedding")[ids_T]
    for layer in range(facts["layers"]):
        h_TD = norm(x_TD, get("norm1", layer), eps)
        parts = []
        for role, count in (("q", heads), ("k", groups), ("v", groups)):
            part = h_TD @ get(role, layer).T
            if f"{role}_bias" in names:
                part = part + get(f"{role}_bias", layer)
            part = part.unflatten(-1, (count, -1))
            if f"{role}_norm" in names:
                part = norm(part, get(f"{role}_norm", layer), eps)
            parts.append(rotate(part, facts["theta"], facts.get("scaling")) if role != "v" else part)
        query, key, value = parts
        out = []
        for head in range(heads):
            group = head // (heads // groups)
            weights_TT = (query[:, head] @ key[:, group].T / math.sqrt(query.shape[-1])).softmax(-1)
            out.append(weights_TT @ value[:, group])
        x_TD = x_TD + torch.cat(out, dim=-1) @ get("o", layer).T
        h_TD = norm(x_TD, get("norm2", layer), eps)
        gate = h_TD @ get("gate", layer).T
        x_TD = x_TD + (gate * gate.sigmoid() * (h_TD @ get("up", layer).T)) @ get("down", layer).T
    x_TD = norm(x_TD, get("norm"), eps)
    return x_TD, x_TD @ get("head" if "head" in names else "embedding").T


LLADA_NAMES = {
    "embedding": "model.transformer.wte.weight",
    "norm": "model.transformer.ln_f.weight",
    "head": "model.transformer.ff_out.weight",
    "norm1": "model.transformer.blocks.{n}.attn_norm.weight",
    "norm2": "model.transformer.blocks.{n}.ff_norm.weight",
    "q": "model.transformer.blocks.{n}.q_proj.weight",
    "k": "model.transformer.blocks.{n}.k_proj.weight",
    "v": "model.transformer.blocks.{n}.v_proj.weight",
    "o": "model.transformer.blocks.{n}.attn_out.weight",
    "gate": "model.transformer.blocks.{n}.ff_proj.weight",
    "up": "model.transformer.blocks.{n}.up_proj.weight",
    "down": "model.transformer.blocks.{n}.ff_out.weight",
}
HF_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
    "norm1": "model.layers.{n}.input_layernorm.weight",
    "norm2": "model.layers.{n}.post_attention_layernorm.weight",
    **{part: f"model.layers.{{n}}.self_attn.{part}_proj.weight" for part in "qkvo"},
    **{part: f"model.layers.{{n}}.mlp.{part}_proj.weight" for part in ("gate", "up", "down")},
}
QKV_BIAS = {f"{part}_bias": f"model.layers.{{n}}.self_attn.{part}_proj.bias" for part in "qkv"}
QK_NORM = {f"{part}_norm": f"model.layers.{{n}}.self_attn.{part}_norm.weight" for part in "qk"}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def write_golden(path: Path, tensors: dict[str, Tensor], names: dict[str, str], facts: dict) -> Path:
    """A golden file in the fixtures' form, from the reference above."""
    states, logits = reference(tensors, names, facts, IDS_T)
    width = max(LENGTHS)
    ids = np.zeros((len(LENGTHS), width), np.int64)
    mask = np.zeros_like(ids)
    batch_states = np.full((*ids.shape, states.shape[1]), np.nan, np.float32)
    batch_logits = np.full((*ids.shape, logits.shape[1]), np.nan, np.float32)
    start = 0
    for row, length in enumerate(LENGTHS):
        part = IDS_T[start : start + length]
        ids[row, :length], mask[row, :length] = part, 1
        alone = reference(tensors, names, facts, part)
        batch_states[row, :length], batch_logits[row, :length] = alone[0], alone[1]
        start += length
    np.savez(
        path,
        row_input_ids=IDS_T[None].numpy(),
        row_last_hidden_state=states[None].numpy(),
        row_logits=logits[None].numpy(),
        batch_input_ids=ids,
        batch_attention_mask=mask,
        batch_last_hidden_state=batch_states,
        batch_logits=batch_logits,
    )
    return path


def prove(folder: Path, names: dict[str, str], facts: dict, *, native: str) -> None:
    """The conversion equals the reference, and would not if it were causal."""
    golden = write_golden(folder.parent / "golden.npz", load_file(folder / "model.safetensors"), names, facts)
    out = folder.parent / "out"
    assert convert_checkpoint(folder, out, golden=golden).native == native
    assert compare_golden(out, golden, attention="causal").failures


def llada_facts(folder: Path, *, groups: int) -> dict:
    config = json.loads((folder / "config.json").read_text())
    return {
        "eps": config["rms_norm_eps"],
        "heads": config["n_heads"],
        "groups": groups,
        "layers": config["n_layers"],
        "theta": config["rope_theta"],
    }


def hf_facts(folder: Path) -> dict:
    config = json.loads((folder / "config.json").read_text())
    return {
        "eps": config["rms_norm_eps"],
        "heads": config["num_attention_heads"],
        "groups": config["num_key_value_heads"],
        "layers": config["num_hidden_layers"],
        "theta": config["rope_theta"],
        "scaling": config["rope_scaling"],
    }


@pytest.mark.parametrize("name", ["llada", "dream", "a2d_qwen3"])
def test_the_reference_of_this_file_is_right(name, golden_folder):
    folder = golden_folder / name
    tensors: dict[str, Tensor] = {}
    for shard in folder.glob("*.safetensors"):
        tensors |= {key: value.float() for key, value in load_file(shard).items()}
    names, facts = (LLADA_NAMES, llada_facts(folder, groups=4)) if name == "llada" else (HF_NAMES, hf_facts(folder))
    extra = {"llada": {}, "dream": QKV_BIAS, "a2d_qwen3": QK_NORM}[name]
    golden = np.load(folder / "golden.npz")
    names = {role: text for role, text in names.items() if role != "head" or name != "a2d_qwen3"}
    states, logits = reference(tensors, {**names, **extra}, facts, torch.from_numpy(golden["row_input_ids"][0]))
    assert np.abs(states.numpy() - golden["row_last_hidden_state"][0]).max() < 2e-5
    assert np.abs(logits.numpy() - golden["row_logits"][0]).max() < 5e-5


@pytest.mark.parametrize(
    ("keys", "groups"),
    [
        ({}, 4),
        ({"n_kv_heads": 2}, 2),
        ({"n_kv_heads": None}, 4),
        ({"n_kv_heads": None, "multi_query_attention": True}, 1),
        ({"n_kv_heads": 1, "multi_query_attention": True}, 1),
    ],
)
def test_llada_key_value_heads(make_llada, keys, groups):
    folder = make_llada(**keys)
    prove(folder, LLADA_NAMES, llada_facts(folder, groups=groups), native="llama")


def test_llada_contradicting_key_value_heads(make_llada, tmp_path):
    with pytest.raises(ConversionError, match=r"n_kv_heads = 2 and multi_query_attention = True"):
        convert_checkpoint(make_llada(n_kv_heads=2, multi_query_attention=True), tmp_path / "out")


def test_llada_padded_embedding_rows(make_llada):
    folder = make_llada(embedding_size=576)
    prove(folder, LLADA_NAMES, llada_facts(folder, groups=4), native="llama")
    assert json.loads((folder.parent / "out" / "config.json").read_text())["vocab_size"] == 576


def test_llada_without_embedding_size_takes_the_vocabulary(make_llada):
    folder = make_llada(embedding_size=None)
    prove(folder, LLADA_NAMES, llada_facts(folder, groups=4), native="llama")


def test_llada_tied_weights(make_llada):
    folder = make_llada(weight_tying=True)
    names = {role: name for role, name in LLADA_NAMES.items() if role != "head"}
    prove(folder, names, llada_facts(folder, groups=4), native="llama")


def test_llada_mlp_ratio(make_llada):
    folder = make_llada(mlp_hidden_size=None, mlp_ratio=3)
    prove(folder, LLADA_NAMES, llada_facts(folder, groups=4), native="llama")
    assert json.loads((folder.parent / "out" / "config.json").read_text())["intermediate_size"] == 96


def test_llada_query_key_value_biases(make_llada):
    folder = make_llada(include_qkv_bias=True)
    biases = {f"{part}_bias": f"model.transformer.blocks.{{n}}.{part}_proj.bias" for part in "qkv"}
    prove(folder, {**LLADA_NAMES, **biases}, llada_facts(folder, groups=4), native="qwen2")


def test_llada_scaled_logits(make_llada):
    folder = make_llada(scale_logits=True)
    tensors = load_file(folder / "model.safetensors")
    facts = llada_facts(folder, groups=4)
    golden = write_golden(folder.parent / "golden.npz", tensors, LLADA_NAMES, facts)
    arrays = dict(np.load(golden))
    for key in ("row_logits", "batch_logits"):
        arrays[key] = arrays[key] / math.sqrt(32)
    np.savez(golden, **arrays)
    convert_checkpoint(folder, folder.parent / "out", golden=golden)
    assert json.loads((folder.parent / "out" / "diffembed.json").read_text())["logit_scale"] == pytest.approx(32**-0.5)


def test_dream_tied(make_dream):
    folder = make_dream(tie_word_embeddings=True)
    names = {role: name for role, name in HF_NAMES.items() if role != "head"}
    prove(folder, {**names, **QKV_BIAS}, hf_facts(folder), native="qwen2")


def test_a2d_llama_with_llama3_rope(make_a2d):
    folder = make_a2d("llama", rope_scaling=LLAMA3, head_dim=8)
    prove(folder, HF_NAMES, hf_facts(folder), native="llama")
    without = {**hf_facts(folder), "scaling": None}
    golden = write_golden(folder.parent / "plain.npz", load_file(folder / "model.safetensors"), HF_NAMES, without)
    assert compare_golden(folder.parent / "out", golden).failures["row states"] > 1e-3


def test_a2d_qwen3_with_wide_heads(make_a2d):
    folder = make_a2d("qwen3", head_dim=24)
    prove(folder, {**HF_NAMES, **QK_NORM}, hf_facts(folder), native="qwen3")


def test_unproven_rope_scaling_is_refused(make_dream, tmp_path):
    folder = make_dream(rope_scaling={"type": "yarn", "factor": 4.0})
    with pytest.raises(ConversionError, match="rope_scaling of type 'yarn'"):
        convert_checkpoint(folder, tmp_path / "out")


def test_two_values_of_rope_theta_are_refused(make_dream, tmp_path):
    folder = make_dream(rope_parameters={"rope_type": "default", "rope_theta": 5.0})
    with pytest.raises(ConversionError, match=r"two values of rope_theta, 1000000\.0 and 5\.0"):
        convert_checkpoint(folder, tmp_path / "out")


def test_a_tied_checkpoint_may_repeat_its_head_only_unchanged(make_dream, tmp_path):
    folder = make_dream(tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    report = convert_checkpoint(folder, tmp_path / "same")
    assert report.num_parameters == sum(value.numel() for name, value in tensors.items() if name != "lm_head.weight")
    tensors["lm_head.weight"][3, 3] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ConversionError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        convert_checkpoint(folder, tmp_path / "other")


def test_rotary_buffers_of_old_checkpoints_are_left_out(make_dream, tmp_path):
    folder = make_dream()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, folder / "model.safetensors")
    convert_checkpoint(folder, tmp_path / "out")
    assert "rotary" not in " ".join(load_file(tmp_path / "out" / "model.safetensors"))


def test_sharding_changes_no_value(make_dream, tmp_path):
    folder = make_dream()
    golden = write_golden(
        tmp_path / "g.npz", load_file(folder / "model.safetensors"), {**HF_NAMES, **QKV_BIAS}, hf_facts(folder)
    )
    whole = convert_checkpoint(folder, tmp_path / "whole", golden=golden)
    parts = convert_checkpoint(folder, tmp_path / "parts", max_shard_bytes=40_000, golden=golden)
    files = sorted(path.name for path in (tmp_path / "parts").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert whole.source_hash == parts.source_hash
    merged: dict[str, Tensor] = {}
    for file in files:
        part = load_file(tmp_path / "parts" / file)
        assert sum(value.nbytes for value in part.values()) <= 40_000 or len(part) == 1
        merged |= part
    single = load_file(tmp_path / "whole" / "model.safetensors")
    assert merged.keys() == single.keys()
    assert all(torch.equal(merged[name], single[name]) for name in single)
    assert check_golden(tmp_path / "parts", golden).failures == {}
