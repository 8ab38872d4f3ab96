"""LoRA weights merged into a network, without the library that trained them.

Read `merge_lora`, and `join_lora` for several adapters as one. It reads the folder
PEFT writes, so that using an adapter needs no training library.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffembed.errors import CheckpointError
from diffembed.provenance import write_json

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
ADAPTER = "adapter-0"
"""Name of a joined adapter's folder."""
# Settings that change the arithmetic; an adapter that uses one is refused rather than merged wrongly.
UNREAD = (
    "use_dora",
    "modules_to_save",
    "alpha_pattern",
    "rank_pattern",
    "layer_replication",
    "lora_bias",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
)
# Ways to begin that leave the base weights as they are; the others (PiSSA, OLoRA, CorDA, LoftQ, ...) change them, and
# what is stored is then added to weights that nobody kept.
READ_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")


@torch.no_grad()
def merge_lora(body: Any, folder: Path) -> None:
    """Adds scale * B @ A to every weight the adapter names, in float32, in place.

    Raises CheckpointError when a tensor does not fit the body, is missing, or the adapter is of another kind.
    Source: LoRA (arXiv 2106.09685); scale = alpha / r, or alpha / sqrt(r) where `use_rslora` is set.
    """
    config = read_config(folder)
    scale = _scale(config)
    for name, (low_rD, high_Dr) in _read_pairs(folder).items():
        path = _module_path(body, name.removeprefix(PREFIX), folder)
        module = body.get_submodule(path)
        # GPT-2 stores its linear layers transposed (Conv1D); PEFT marks that as fan_in_fan_out.
        delta = (high_Dr.float() @ low_rD.float()) * scale
        delta = delta.T if config.get("fan_in_fan_out") else delta
        if delta.shape != module.weight.shape:
            raise CheckpointError(
                f"{folder}: {path} needs a change of shape {tuple(module.weight.shape)}, found {tuple(delta.shape)}; "
                "the adapter belongs to another model"
            )
        module.weight.copy_((module.weight.float() + delta.to(module.weight.device)).to(module.weight.dtype))


def join_lora(folders: Sequence[Path], out: Path, *, rank: int | None = None) -> None:
    """Writes one LoRA folder that changes every weight by the sum of what the given ones change.

    Ranks add up: A is stacked, scale * B stands side by side, and the scale is 1. Exact but for the rounding of
    scale * B to the stored number format, which a scale that is a power of two does not need.
    rank: where the sum of ranks is larger, every change becomes the nearest one of this rank (least squares).
    Raises CheckpointError when the adapters do not change the same weights, or where a weight has fewer dimensions
    than `rank`.
    """
    configs = [read_config(folder) for folder in folders]
    pairs = [_read_pairs(folder) for folder in folders]
    for folder, config, other in zip(folders[1:], configs[1:], pairs[1:], strict=True):
        odd = sorted(other.keys() ^ pairs[0].keys()) or [
            name for name, pair in other.items() if _dimensions(pair) != _dimensions(pairs[0][name])
        ]
        if odd or bool(config.get("fan_in_fan_out")) != bool(configs[0].get("fan_in_fan_out")):
            first = f", first {odd[0]!r}" if odd else ""
            raise CheckpointError(f"{folder} and {folders[0]} do not change the same weights{first}")
    total = sum(config["r"] for config in configs)
    rank = total if rank is None else min(rank, total)
    if rank < total:
        most, name = min((min(_dimensions(pair)), name) for name, pair in pairs[0].items())
        if rank > most:
            raise CheckpointError(f"rank {rank} is more than the {most} dimensions of {name}; join to {most} or less")
    joined: dict[str, Tensor] = {}
    for name in pairs[0]:
        low_rD = torch.cat([found[name][0] for found in pairs])
        highs = [
            (found[name][1].float() * _scale(config)).to(found[name][1].dtype)
            for config, found in zip(configs, pairs, strict=True)
        ]
        high_Dr = torch.cat(highs, dim=1)
        if rank < total:
            low_rD, high_Dr = _nearest(low_rD, high_Dr, rank)
        joined[f"{name}.lora_A.weight"], joined[f"{name}.lora_B.weight"] = low_rD, high_Dr
    out.mkdir(parents=True)
    save_file(joined, out / WEIGHTS, metadata={"format": "pt"})
    write_json(out / "adapter_config.json", {**configs[0], "r": rank, "lora_alpha": rank, "use_rslora": False})


def _dimensions(pair: tuple[Tensor, Tensor]) -> tuple[int, int]:
    """(in, out) of the weight that A [r, in] and B [out, r] change."""
    return pair[0].shape[1], len(pair[1])


def _nearest(low_rD: Tensor, high_Dr: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A and B of the given rank whose product is nearest to B @ A (Eckart and Young 1936), in their number format."""
    # Both are thin: the singular values of their product are those of a matrix as small as the sum of ranks.
    left_Dr, left_rr = torch.linalg.qr(high_Dr.float())
    right_Dr, right_rr = torch.linalg.qr(low_rD.float().T)
    u_rr, sizes_r, v_rr = torch.linalg.svd(left_rr @ right_rr.T)
    roots_r = sizes_r[:rank].sqrt()
    low = roots_r[:, None] * (v_rr[:rank] @ right_Dr.T)
    return low.to(low_rD.dtype).contiguous(), (left_Dr @ u_rr[:, :rank] * roots_r).to(high_Dr.dtype).contiguous()


def _scale(config: dict[str, Any]) -> float:
    return float(config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"]))


def _read_pairs(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Name of a weight, as stored -> (A [r, in], B [out, r])."""
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS} is truncated or damaged ({error}); fetch it again") from error
    names = sorted({key.rsplit(".lora_", 1)[0] for key in tensors if ".lora_" in key})
    unknown = sorted(key for key in tensors if ".lora_" not in key)
    if unknown or not names:
        raise CheckpointError(
            f"{folder} holds {unknown[0] if unknown else 'no tensor'}; only LoRA weights can be merged"
        )
    try:
        return {name: (tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]) for name in names}
    except KeyError as error:
        raise CheckpointError(f"{folder} lacks the tensor {error.args[0]!r}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of a LoRA folder. Raises CheckpointError for a missing or another kind of adapter."""
    path = folder / "adapter_config.json"
    if not path.exists() or not (folder / WEIGHTS).exists():
        raise CheckpointError(
            f"{folder} is not a LoRA folder: adapter_config.json and adapter_model.safetensors expected"
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("peft_type")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); fetch the adapter again") from error
    if kind != "LORA":
        raise CheckpointError(f"{folder} holds an adapter of type {kind!r}; only LORA is read")
    for key in ("r", "lora_alpha"):
        if type(config.get(key)) not in (int, float) or config[key] <= 0:
            raise CheckpointError(f"{path}: {key} is {config.get(key)!r}, expected a number above 0")
    used = [key for key in UNREAD if config.get(key)]
    if used:
        raise CheckpointError(
            f"{folder} uses {used[0]}={config[used[0]]!r}, which is not supported; merge it with PEFT"
        )
    start = config.get("init_lora_weights")
    if start not in READ_STARTS:
        raise CheckpointError(
            f"{folder} began with init_lora_weights={start!r}, which changes the base weights; save it with PEFT's "
            "path_initial_model_for_weight_conversion, or merge it with PEFT"
        )
    return config


def _module_path(body: Any, name: str, folder: Path) -> str:
    # Adapters trained on a whole language model name the body `model.`; ours are trained on the body.
    modules = dict(body.named_modules())
    for path in (name, name.removeprefix("model.")):
        if path in modules:
            return path
    raise CheckpointError(f"{folder} changes {name!r}, which the base model does not have; it belongs to another model")
