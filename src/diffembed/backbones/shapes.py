"""The native config of a model without its weights: from the published dimensions, a folder, or one small download.

Read `native_config`. What plans memory or counts parameters starts here; nothing is allocated.
"""

from pathlib import Path
from typing import Any

from diffembed.backbones.registry import ALIASES, find_model, names_folder
from diffembed.errors import CheckpointError

QWEN2_7B: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
LLADA_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 126464,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "tie_word_embeddings": False,
}
LLAMA_8B = {
    **LLADA_8B,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
GEMMA_270M = {
    "model_type": "gemma3_text",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "vocab_size": 262144,
    "max_position_embeddings": 32768,
    "sliding_window": 512,
    "tie_word_embeddings": True,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "dream-7b": {
        **QWEN2_7B,
        "max_position_embeddings": 131072,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "qwen2.5-7b": {
        **QWEN2_7B,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "llada-8b": LLADA_8B,
    "llada-1.5": LLADA_8B,
    "llama-3-8b": LLAMA_8B,
    "mistral-7b": {
        **LLAMA_8B,
        "model_type": "mistral",
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
        "sliding_window": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "gemma-3-270m": GEMMA_270M,
    "gemma-3-270m-hub": GEMMA_270M,
}
"""Known name -> arguments of its native config, as published; tests hold them to the published parameter counts."""


def native_config(name: str) -> Any:
    """Native transformers config of a known name, a folder (published layouts too) or a hub id; no weights are read.

    Raises CheckpointError for a folder or hub id without a config, ConversionError for one that cannot be converted.
    """
    from transformers import AutoConfig

    if not Path(name).is_dir():
        spec = find_model(name)
        if spec is not None and spec.base is not None:
            return native_config(spec.base)
        if spec is not None and spec.name in PUBLISHED:
            values = dict(PUBLISHED[spec.name])
            return AutoConfig.for_model(values.pop("model_type"), **values)
        if spec is not None and spec.source == "tiny":
            from diffembed.backbones.tiny import build_tiny

            return build_tiny(spec.family)[0].config
        if spec is not None and spec.source != "hub":
            from diffembed.backbones.loading import locate

            return AutoConfig.from_pretrained(locate(ALIASES.get(name, name), spec))
        if spec is None and names_folder(name):
            raise CheckpointError(
                f"{name} is not a folder; name a checkpoint folder, a hub id or one of: diffembed models"
            )
        return _folder_config(_download_config(spec.location if spec is not None else name), name)
    return _folder_config(Path(name), name)


def _folder_config(folder: Path, name: str) -> Any:
    from transformers import AutoConfig

    from diffembed.backbones.conversion.catalogue import find_layout
    from diffembed.backbones.conversion.layout import PublishedConfig
    from diffembed.backbones.conversion.plan import build_config, native_values
    from diffembed.backbones.conversion.source import read_config, read_table

    values = read_config(folder, name)
    layout = find_layout(values)
    if layout is not None:
        # A hub id brings its config alone; only a layout that counts rows of a tensor needs more.
        has_weights = any(folder.glob("*.safetensors"))
        shapes = {key: tensor.shape for key, tensor in read_table(folder, name).items()} if has_weights else {}
        return build_config(native_values(PublishedConfig(values, name), shapes, layout), name)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except ValueError as error:
        raise CheckpointError(
            f"{name}: config.json is of no native architecture ({str(error).splitlines()[0]})"
        ) from error


def _download_config(hub_id: str) -> Path:
    from huggingface_hub import hf_hub_download

    repository, _, revision = hub_id.partition("@")
    try:
        return Path(hf_hub_download(repository, "config.json", revision=revision or None)).parent
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the config.json of {hub_id} could not be fetched from the hub ({type(error).__name__}); "
            "check the name and the connection, or give a local folder"
        ) from error
