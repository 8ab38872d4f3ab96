"""LoRA weights merged into a network, without the library that trained them.

Read `merge_lora`. It reads the folder PEFT writes, so that using an adapter needs no training library.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from diffembed.errors import CheckpointError

PREFIX = "base_model.model."
# Settings that change the arithmetic; an adapter that uses one is refused rather than merged wrongly.
UNREAD = ("use_dora", "modules_to_save", "alpha_pattern", "rank_pattern", "layer_replication", "lora_bias")


@torch.no_grad()
def merge_lora(body: Any, folder: Path) -> None:
    """Adds scale * B @ A to every weight the adapter names, in float32, in place.

    Raises CheckpointError when a tensor does not fit the body, is missing, or the adapter is of another kind.
    Source: LoRA (arXiv 2106.09685); scale = alpha / r, or alpha / sqrt(r) where `use_rslora` is set.
    """
    config = read_config(folder)
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    tensors = load_file(folder / "adapter_model.safetensors")
    names = sorted({key.rsplit(".lora_", 1)[0] for key in tensors if ".lora_" in key})
    unknown = sorted(key for key in tensors if ".lora_" not in key)
    if unknown or not names:
        raise CheckpointError(
            f"{folder} holds {unknown[0] if unknown else 'no tensor'}; only LoRA weights can be merged"
        )
    for name in names:
        path = _module_path(body, name.removeprefix(PREFIX), folder)
        module = body.get_submodule(path)
        try:
            low_rD, high_Dr = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
        except KeyError as error:
            raise CheckpointError(f"{folder} lacks the tensor {error.args[0]!r}") from error
        # GPT-2 stores its linear layers transposed (Conv1D); PEFT marks that as fan_in_fan_out.
        delta = (high_Dr.float() @ low_rD.float()) * scale
        delta = delta.T if config.get("fan_in_fan_out") else delta
        if delta.shape != module.weight.shape:
            raise CheckpointError(
                f"{folder}: {path} needs a change of shape {tuple(module.weight.shape)}, found {tuple(delta.shape)}; "
                "the adapter belongs to another model"
            )
        module.weight.copy_((module.weight.float() + delta.to(module.weight.device)).to(module.weight.dtype))


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of a LoRA folder. Raises CheckpointError for a missing or another kind of adapter."""
    path = folder / "adapter_config.json"
    if not path.exists() or not (folder / "adapter_model.safetensors").exists():
        raise CheckpointError(
            f"{folder} is not a LoRA folder: adapter_config.json and adapter_model.safetensors expected"
        )
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{folder} holds an adapter of type {config.get('peft_type')!r}; only LORA is read")
    used = [key for key in UNREAD if config.get(key)]
    if used:
        raise CheckpointError(
            f"{folder} uses {used[0]}={config[used[0]]!r}, which is not supported; merge it with PEFT"
        )
    return config


def _module_path(body: Any, name: str, folder: Path) -> str:
    # Adapters trained on a whole language model name the body `model.`; ours are trained on the body.
    modules = dict(body.named_modules())
    for path in (name, name.removeprefix("model.")):
        if path in modules:
            return path
    raise CheckpointError(f"{folder} changes {name!r}, which the base model does not have; it belongs to another model")
