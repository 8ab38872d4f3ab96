"""Low-rank adapters on a network, and the folders a trained embedder is saved in.

Read `attach_lora` and `save_embedder`. The adapters are PEFT's; the folder is the one `embedding/checkpoint.py` reads.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from diffembed.backbones.loading import fingerprint
from diffembed.embedding.checkpoint import CONFIG_FILE, load_config, relative_base
from diffembed.embedding.embedder import Embedder
from diffembed.embedding.lora import PREFIX
from diffembed.errors import ConfigError, MissingExtraError
from diffembed.provenance import atomic_folder, write_json
from diffembed.training.config import LoraConfig

BASE = "base"


def attach_lora(network: torch.nn.Module, config: LoraConfig) -> int:
    """Puts adapters on the named linear layers and freezes everything else; returns the number of trained weights.

    The network keeps its class and its attention. The first values come from the global random state: A is random,
    B is zero, so the network computes what it did before.
    Raises ConfigError when a target is no linear layer of the network.
    """
    peft = _import_peft()
    linear = sorted({name.rpartition(".")[2] for name, module in network.named_modules() if _is_linear(module)})
    missing = [target for target in config.targets if target not in linear]
    if missing:
        raise ConfigError(
            f"the network has no linear layer {missing[0]!r} to adapt; lora.targets may name {', '.join(linear)}"
        )
    settings = _peft_config(peft, config)
    for weight in network.parameters():
        weight.requires_grad_(False)
    peft.inject_adapter_in_model(settings, network)
    if config.dropout > 0:
        _replace_dropout(network, config.dropout)
    if config.dtype == "float32":
        for weight in network.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad)


class PackedDropout(torch.nn.Module):
    """Dropout that spends 16 random bits an element on the CPU, where torch spends a draw of 64.

    The share is rounded to 1 / 65,536. Draws come from torch's global state, so GradCache and resume replay them.
    Chosen because torch draws one element after the other there: in bfloat16 its seven masks a layer took longer than
    the layer's matrix products (docs/log.md).
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        """Values with a random share set to zero and the rest scaled up, in training; as they are otherwise."""
        if not self.training:
            return values
        if values.device.type != "cpu":
            return torch.nn.functional.dropout(values, self.share)
        size = values.numel()
        bits = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
        drawn = bits.view(torch.int16)[:size].view(values.shape)
        num_dropped = round(self.share * 2**16)
        kept = (drawn >= num_dropped - 2**15).to(values.dtype).mul_(2**16 / (2**16 - num_dropped))
        return values * kept


def _replace_dropout(network: torch.nn.Module, share: float) -> None:
    for module in network.modules():
        dropouts = getattr(module, "lora_dropout", None)
        if isinstance(dropouts, torch.nn.ModuleDict):
            for name in dropouts:
                dropouts[name] = PackedDropout(share)


def whole_weights(module: torch.nn.Module) -> dict[str, Tensor]:
    """Name -> trained weight, contiguous. Every process must call it: weights that FSDP shards are gathered."""
    return {
        name: (weight.full_tensor() if isinstance(weight, DTensor) else weight.detach()).contiguous()
        for name, weight in module.named_parameters()
        if weight.requires_grad
    }


@torch.no_grad()
def load_whole_weights(module: torch.nn.Module, stored: dict[str, Tensor]) -> None:
    """Copies weights of `whole_weights` back, each process its shard."""
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            value = stored[name]
            if isinstance(weight, DTensor):
                value = distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
            weight.copy_(value)


def save_lora(weights: dict[str, Tensor], config: LoraConfig, base: str, folder: Path) -> None:
    """Writes adapters as PEFT writes them, so that PEFT and `merge_lora` read them; `weights`: of `whole_weights`."""
    from safetensors.torch import save_file

    peft = _import_peft()
    named = {PREFIX + name.replace(".default.", "."): weight.clone() for name, weight in weights.items()}
    folder.mkdir(parents=True)
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = _peft_config(peft, config)
    settings.base_model_name_or_path = base
    settings.inference_mode = True
    settings.save_pretrained(str(folder))


def save_embedder(
    embedder: Embedder,
    folder: Path,
    *,
    final: Path,
    weights: dict[str, Tensor],
    name: str,
    lora: LoraConfig | None,
    provenance: dict[str, Any],
) -> None:
    """Writes the checkpoint folder of a trained embedder into `folder`, which will be renamed to `final`.

    weights: of `whole_weights`, named as in the network.
    lora: the adapters that are trained come after those the embedder was loaded with; None writes all weights under
    `base/`, with earlier adapters merged in.
    """
    folder.mkdir(parents=True)
    config = replace(embedder.config(final), name=name)
    if lora is not None:
        for adapter, source in zip(config.adapters, embedder.adapter_folders, strict=True):
            shutil.copytree(source, folder / adapter)
        trained = f"adapter-{len(config.adapters)}"
        save_lora(weights, lora, config.base, folder / trained)
        config = replace(config, adapters=(*config.adapters, trained))
    else:
        _save_base(embedder, weights, folder / BASE)
        config = replace(config, base=f"./{BASE}", base_hash=fingerprint(folder / BASE), adapters=())
    write_json(folder / CONFIG_FILE, config.as_dict())
    write_json(folder / "provenance.json", {"contract": embedder.backbone.verdict.as_dict(), **provenance})


def copy_checkpoint(folder: Path, target: Path) -> None:
    """Copies a checkpoint folder to `target`; a base that it names by a relative path is named anew."""
    with atomic_folder(target) as part:
        shutil.copytree(folder, part, dirs_exist_ok=True)
        config = load_config(folder)
        if config.base.startswith(".."):
            base = relative_base(str((folder / config.base).resolve()), target)
            write_json(part / CONFIG_FILE, replace(config, base=base).as_dict())


def _save_base(embedder: Embedder, weights: dict[str, Tensor], folder: Path) -> None:
    from transformers.utils import logging as transformers_logging

    backbone = embedder.backbone
    transformers_logging.disable_progress_bar()
    backbone.model.save_pretrained(folder, state_dict=weights)
    backbone.tokenizer.save_pretrained(folder)
    write_json(
        folder / "diffembed.json",
        {"mask_token_id": backbone.mask_token_id, "shifts_logits": backbone.shifts_logits},
    )


def _peft_config(peft: Any, config: LoraConfig) -> Any:
    return peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.scale_alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        bias="none",
    )


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError.of("peft", "train") from error
    return peft
