"""Tiny published checkpoints: the golden ones of the fixtures folder, and seeded ones in two published layouts."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from diffembed.backbones.tiny import build_tokenizer


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """The golden converter fixtures; the test is skipped where they are not at hand."""
    root = os.environ.get("DIFFEMBED_FIXTURES")
    if not root or not (Path(root) / "dream" / "golden.npz").is_file():
        pytest.skip("DIFFEMBED_FIXTURES does not name the folder of golden converter fixtures")
    return Path(root)


def llada_config(**changes: Any) -> dict[str, Any]:
    """A LLaDA config.json at test size."""
    config = {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
        "activation_type": "silu",
        "alibi": False,
        "attention_layer_norm": False,
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": 32,
        "embedding_size": 512,
        "eos_token_id": 1,
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": 4,
        "max_sequence_length": 256,
        "mlp_hidden_size": 48,
        "mlp_ratio": 4,
        "multi_query_attention": None,
        "n_heads": 4,
        "n_kv_heads": 4,
        "n_layers": 2,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "vocab_size": 512,
        "weight_tying": False,
    }
    return {**config, **changes}


def dream_config(**changes: Any) -> dict[str, Any]:
    """A Dream config.json at test size."""
    config = {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
        "bos_token_id": 2,
        "eos_token_id": 1,
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 48,
        "mask_token_id": 4,
        "max_position_embeddings": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": 512,
    }
    return {**config, **changes}


def llada_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a LLaDA checkpoint, written out by hand."""
    width, inner = config["d_model"], config["mlp_hidden_size"] or config["mlp_ratio"] * config["d_model"]
    keys = config["n_kv_heads"] or (1 if config["multi_query_attention"] else config["n_heads"])
    keys *= width // config["n_heads"]
    rows = config["embedding_size"] or config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.transformer.wte.weight": (rows, width),
        "model.transformer.ln_f.weight": (width,),
    }
    if not config["weight_tying"]:
        shapes["model.transformer.ff_out.weight"] = (rows, width)
    for layer in range(config["n_layers"]):
        block = f"model.transformer.blocks.{layer}"
        shapes |= {f"{block}.attn_norm.weight": (width,), f"{block}.ff_norm.weight": (width,)}
        shapes |= {f"{block}.q_proj.weight": (width, width), f"{block}.attn_out.weight": (width, width)}
        shapes |= {f"{block}.{part}_proj.weight": (keys, width) for part in "kv"}
        shapes |= {f"{block}.{part}.weight": (inner, width) for part in ("ff_proj", "up_proj")}
        shapes[f"{block}.ff_out.weight"] = (width, inner)
        if config["include_qkv_bias"]:
            shapes |= {
                f"{block}.q_proj.bias": (width,),
                f"{block}.k_proj.bias": (keys,),
                f"{block}.v_proj.bias": (keys,),
            }
    return shapes


def hf_shapes(config: dict[str, Any], *, has_bias: bool, has_norm: bool) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a checkpoint with Hugging Face names, written out by hand."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or width // config["num_attention_heads"]
    sizes = {"q": config["num_attention_heads"] * head, "k": config["num_key_value_heads"] * head}
    sizes["v"] = sizes["k"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        shapes |= {f"{block}.{norm}_layernorm.weight": (width,) for norm in ("input", "post_attention")}
        for part, size in sizes.items():
            shapes[f"{block}.self_attn.{part}_proj.weight"] = (size, width)
            if has_bias:
                shapes[f"{block}.self_attn.{part}_proj.bias"] = (size,)
        if has_norm:
            shapes |= {f"{block}.self_attn.{part}_norm.weight": (head,) for part in "qk"}
        shapes[f"{block}.self_attn.o_proj.weight"] = (width, sizes["q"])
        shapes |= {f"{block}.mlp.{part}_proj.weight": (inner, width) for part in ("gate", "up")}
        shapes[f"{block}.mlp.down_proj.weight"] = (width, inner)
    return shapes


def draw(shapes: dict[str, tuple[int, ...]], *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Seeded float32 values at which mistakes show: norms and biases far from 1 and 0, small embeddings."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("norm.weight") or name.endswith("ln_f.weight"):
            values = 1 + 0.5 * values
        elif len(shape) == 2:
            values = values * (0.02 if "wte" in name or "embed" in name else shape[1] ** -0.5)
        tensors[name] = values
    return tensors


def write_checkpoint(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    """A published folder: config, one safetensors file, tokenizer."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def make_llada(tmp_path: Path) -> Callable[..., Path]:
    """Writes a LLaDA folder; keyword arguments change config keys."""

    def make(name: str = "llada", **changes: Any) -> Path:
        config = llada_config(**changes)
        return write_checkpoint(tmp_path / name, config, draw(llada_shapes(config)))

    return make


@pytest.fixture
def make_dream(tmp_path: Path) -> Callable[..., Path]:
    """Writes a Dream folder; keyword arguments change config keys."""

    def make(name: str = "dream", **changes: Any) -> Path:
        config = dream_config(**changes)
        return write_checkpoint(tmp_path / name, config, draw(hf_shapes(config, has_bias=True, has_norm=False)))

    return make


@pytest.fixture
def make_a2d(tmp_path: Path) -> Callable[..., Path]:
    """Writes a dllm a2d folder on qwen3 or llama; keyword arguments change config keys."""

    def make(base: str, **changes: Any) -> Path:
        title = {"qwen3": "Qwen3", "llama": "Llama"}[base]
        config = dream_config(
            architectures=[f"A2D{title}LMHeadModel"], model_type=f"a2d-{base}", mask_token_id=None, **changes
        )
        config.setdefault("head_dim", 16)
        return write_checkpoint(
            tmp_path / base, config, draw(hf_shapes(config, has_bias=False, has_norm=base == "qwen3"))
        )

    return make
