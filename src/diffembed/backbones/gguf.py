"""A GGUF language model from a PyPI package becomes a native transformers folder, once.

Read `native_folder`. The file is hashed before use, de-quantised to bfloat16 into the user cache atomically and under
a file lock, and loaded from there ever after. Knows the Gemma 3 layout only.
"""

import importlib
from pathlib import Path
from typing import Any

from filelock import FileLock

from diffembed.backbones.registry import ModelSpec
from diffembed.errors import CheckpointError, MissingExtraError
from diffembed.provenance import atomic_folder, hash_file, user_cache, write_json

GEMMA3_LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GEMMA3_MASK_TOKEN_ID = 4
GEMMA3_GLOBAL_EVERY = 6
"""Every sixth layer of Gemma 3 attends globally, the others in a window (Gemma 3 report, arXiv 2503.19786)."""


def native_folder(spec: ModelSpec) -> Path:
    """Folder with config.json, model.safetensors and tokenizer of a packaged GGUF model; made on first use.

    Raises MissingExtraError without the package, CheckpointError when its file has another hash.
    """
    assert spec.sha256 is not None and spec.extra is not None
    folder = user_cache() / f"{spec.name}-{spec.sha256[:12]}"
    if (folder / "diffembed.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "diffembed.json").exists():
            with atomic_folder(folder) as part:
                gguf_path = part / "source.gguf"
                _assemble(spec, gguf_path)
                write_native(gguf_path, part, source_hash=spec.sha256)
                gguf_path.unlink()
    return folder


def _assemble(spec: ModelSpec, target: Path) -> None:
    assert spec.extra is not None
    try:
        package = importlib.import_module(spec.location)
        importlib.import_module("gguf")
    except ImportError as error:
        raise MissingExtraError.of(f"the package with the weights of {spec.name}", spec.extra) from error
    with target.open("wb") as out:
        for chunk in package.chunk_paths():
            if not Path(chunk).exists():
                raise CheckpointError(f"{spec.location} lacks {Path(chunk).name}; reinstall diffembed[{spec.extra}]")
            out.write(Path(chunk).read_bytes())
    found = hash_file(target)
    if found != spec.sha256:
        raise CheckpointError(
            f"{spec.location} holds a file with sha256 {found}, expected {spec.sha256}; "
            f"reinstall diffembed[{spec.extra}]"
        )


def write_native(gguf_path: Path, folder: Path, *, source_hash: str) -> None:
    """De-quantises a Gemma 3 GGUF file into `folder` as bfloat16 safetensors, config and tokenizer."""
    import gguf
    import torch
    from safetensors.torch import save_file

    reader = gguf.GGUFReader(gguf_path)
    config = gemma3_config({name: field.contents() for name, field in reader.fields.items() if "tokens" not in name})
    tensors: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        values = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        name = gemma3_name(tensor.name)
        # GGUF stores the factor 1 + w of an RMS norm; transformers stores w.
        tensors[name] = (values - 1.0 if name.endswith("norm.weight") else values).to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _save_tokenizer(gguf_path, folder)
    config.save_pretrained(folder)
    write_json(
        folder / "diffembed.json",
        {
            "source_hash": source_hash,
            "mask_token_id": GEMMA3_MASK_TOKEN_ID,
            "shifts_logits": True,
            "notice": "Derived from Gemma; the Gemma Terms of Use apply: https://ai.google.dev/gemma/terms",
        },
    )


def gemma3_name(name: str) -> str:
    """The transformers name of a GGUF tensor. Raises CheckpointError for one that Gemma 3 does not have."""
    if name == "token_embd.weight":
        return "embed_tokens.weight"
    if name == "output_norm.weight":
        return "norm.weight"
    block, _, rest = name.removeprefix("blk.").partition(".")
    part = rest.removesuffix(".weight")
    if not name.startswith("blk.") or part not in GEMMA3_LAYER_NAMES:
        raise CheckpointError(f"tensor {name!r} is not part of the Gemma 3 layout")
    return f"layers.{block}.{GEMMA3_LAYER_NAMES[part]}.weight"


def gemma3_config(fields: dict[str, Any]) -> Any:
    """The transformers config of the metadata of a Gemma 3 GGUF file.

    Raises CheckpointError for another architecture, or for a key that is missing.
    """
    from transformers import Gemma3TextConfig

    if fields.get("general.architecture") != "gemma3":
        raise CheckpointError(f"the GGUF file holds {fields.get('general.architecture')!r}, expected 'gemma3'")
    try:
        num_layers = fields["gemma3.block_count"]
        return Gemma3TextConfig(
            architectures=["Gemma3TextModel"],
            vocab_size=len(fields["tokenizer.ggml.scores"]),
            hidden_size=fields["gemma3.embedding_length"],
            intermediate_size=fields["gemma3.feed_forward_length"],
            num_hidden_layers=num_layers,
            num_attention_heads=fields["gemma3.attention.head_count"],
            num_key_value_heads=fields["gemma3.attention.head_count_kv"],
            head_dim=fields["gemma3.attention.key_length"],
            query_pre_attn_scalar=fields["gemma3.attention.key_length"],
            max_position_embeddings=fields["gemma3.context_length"],
            # The float32 in the file prints as 9.99999997e-07.
            rms_norm_eps=round(fields["gemma3.attention.layer_norm_rms_epsilon"], 12),
            sliding_window=fields["gemma3.attention.sliding_window"],
            layer_types=[
                "full_attention" if (i + 1) % GEMMA3_GLOBAL_EVERY == 0 else "sliding_attention"
                for i in range(num_layers)
            ],
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": fields["gemma3.rope.freq_base"]},
                # Not in the file: the local base of every Gemma 3 model (arXiv 2503.19786, section 2).
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
            bos_token_id=fields["tokenizer.ggml.bos_token_id"],
            eos_token_id=fields["tokenizer.ggml.eos_token_id"],
            pad_token_id=fields["tokenizer.ggml.padding_token_id"],
            tie_word_embeddings=True,
            dtype="bfloat16",
        )
    except KeyError as error:
        raise CheckpointError(f"the GGUF file lacks the metadata key {error.args[0]!r}") from error


def _save_tokenizer(gguf_path: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
    tokenizer.save_pretrained(folder)
