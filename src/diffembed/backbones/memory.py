"""How much memory a model takes before it is loaded: weights, activations, and the token budget that fits.

Read `plan_memory`. Activations are not guessed from a formula: one and two layers run with tensors that have shapes and
no data, every storage that lives is counted, and the rest of the depth is a multiplication.
"""

# T = tokens, D = hidden width

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffembed.backbones.arithmetic import DTYPES
from diffembed.backbones.shapes import native_config
from diffembed.errors import ConfigError, UnknownNameError

SEVEN_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PROBE_TOKENS = 1024
USABLE_FRACTION = 0.9
"""Share of the memory that is planned with; the rest is for kernels' own buffers and fragmentation. On a CPU the real
peak was 4 to 45 % above the counted one for packs of 4,096 to 16,384 tokens, 40 to 115 MB in absolute terms."""
TRAINED_BYTES = 16
"""Per trained weight: itself, its gradient, two moments of Adam, and a float32 copy where it is narrower."""
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
KERNEL_NAME = "diffembed_plan"


@dataclass(frozen=True, kw_only=True, slots=True)
class Activations:
    """What one kind of run holds beside the weights."""

    bytes_per_token: float
    """Peak bytes for each token that is in work at once."""
    longest_text_bytes: int
    """Peak bytes for one text of `max_tokens`."""
    token_budget: int
    """Tokens that fit at once into what the weights leave; below `max_tokens` a text of full length does not fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """Bytes by use."""

    model: str
    native: str
    """`model_type` of the native class."""
    dtype: str
    memory_bytes: int
    """What was said to be there; `USABLE_FRACTION` of it is planned with."""
    max_tokens: int
    num_parameters: int
    """Of the body, embedding table included."""
    num_head_parameters: int
    """Of the language-model head, which embedding leaves out; 0 where it is tied."""
    weights_bytes: int
    """Of the body."""
    inference: Activations | None
    """`None` where the number of tokens a layer reads depends on its data (mixtures of experts)."""
    lora_rank: int
    num_trainable: int
    """Weights of the adapters; 0 where the network has none of the projections they are put on."""
    adapters_bytes: int
    """Adapters with gradients and optimiser."""
    training: Activations | None
    """LoRA training that keeps the activations of every layer."""
    checkpointed_training: Activations | None
    """LoRA training that keeps each layer's input and computes the rest again."""


def plan_memory(
    model: str, *, max_tokens: int, memory_bytes: int, dtype: str = "bfloat16", lora_rank: int = 16
) -> MemoryPlan:
    """The plan of a known name, a folder or a hub id; allocates nothing and reads no weights.

    Raises ConfigError for numbers below 1 or more tokens than the model reads.
    """
    if dtype not in DTYPES:
        raise UnknownNameError.of("dtype", dtype, list(DTYPES))
    for name, value in (("max_tokens", max_tokens), ("memory_bytes", memory_bytes), ("lora_rank", lora_rank)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1")
    config = native_config(model)
    if max_tokens > config.max_position_embeddings:
        raise ConfigError(f"max_tokens is {max_tokens:,}; {model} reads at most {config.max_position_embeddings:,}")
    num_parameters, num_trainable = count_parameters(config, lora_rank=lora_rank)
    itemsize = DTYPES[dtype].itemsize
    weights_bytes, adapters_bytes = num_parameters * itemsize, num_trainable * TRAINED_BYTES
    usable = int(memory_bytes * USABLE_FRACTION) - weights_bytes
    inference = training = checkpointed = None
    if not _is_mixture(config):
        layers = config.num_hidden_layers
        inference = _activations(_probe(config, dtype, layers=2, lora_rank=None), max_tokens, usable)
        if num_trainable:
            one, two = (_probe(config, dtype, layers=count, lora_rank=lora_rank) for count in (1, 2))
            training = _activations(one + (two - one) * (layers - 1), max_tokens, usable - adapters_bytes)
            inputs = config.hidden_size * itemsize * (layers - 1)
            checkpointed = _activations(one + inputs, max_tokens, usable - adapters_bytes)
    is_tied = getattr(config, "tie_word_embeddings", False)
    return MemoryPlan(
        model=model,
        native=config.model_type,
        dtype=dtype,
        memory_bytes=memory_bytes,
        max_tokens=max_tokens,
        num_parameters=num_parameters,
        num_head_parameters=0 if is_tied else config.vocab_size * config.hidden_size,
        weights_bytes=weights_bytes,
        inference=inference,
        lora_rank=lora_rank,
        num_trainable=num_trainable,
        adapters_bytes=adapters_bytes,
        training=training,
        checkpointed_training=checkpointed,
    )


def parse_bytes(text: str) -> int:
    """`24GB`, `512 MiB` or a plain number of bytes. Raises ConfigError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in UNITS:
        raise ConfigError(f"{text!r} is no amount of memory; write it like 24GB or 512MiB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def count_parameters(config: Any, *, lora_rank: int = 16) -> tuple[int, int]:
    """(weights of the body, weights of LoRA adapters on the seven projections) of a native config."""
    body = _build(config, torch.device("meta"))
    num_trainable = sum(
        lora_rank * (module.in_features + module.out_features)
        for name, module in body.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in SEVEN_PROJECTIONS
    )
    return sum(parameter.numel() for parameter in body.parameters()), num_trainable


def _is_mixture(config: Any) -> bool:
    return any(getattr(config, key, None) for key in ("num_experts", "n_routed_experts", "num_local_experts"))


def _activations(bytes_per_token: float, max_tokens: int, usable: int) -> Activations:
    return Activations(
        bytes_per_token=bytes_per_token,
        longest_text_bytes=round(bytes_per_token * max_tokens),
        token_budget=max(0, int(usable / bytes_per_token)),
    )


def _build(config: Any, device: torch.device, **options: Any) -> Any:
    from transformers import AutoModel

    with device:
        return AutoModel.from_config(config, **options)


def _probe(config: Any, dtype: str, *, layers: int, lora_rank: int | None) -> float:
    """Peak bytes per token, weights aside, of a network cut to its first layers.

    Unmasked attention without a score matrix, so every count is proportional to the tokens: one length is enough.
    lora_rank: `None` for inference; a number trains adapters of that rank.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(KERNEL_NAME, _attend)
    AttentionMaskInterface.register(KERNEL_NAME, _no_mask)
    values = {**config.to_dict(), "num_hidden_layers": layers}
    if values.get("layer_types"):
        values["layer_types"] = values["layer_types"][:layers]
    short = type(config)(**{key: value for key, value in values.items() if key != "model_type"})
    short.is_causal, short.use_cache = False, False
    with FakeTensorMode(allow_non_fake_inputs=True):
        body = _build(short, torch.device("cpu"), dtype=DTYPES[dtype], attn_implementation=KERNEL_NAME).train(
            lora_rank is not None
        )
        body.requires_grad_(False)
        if lora_rank is not None:
            _add_adapters(body, lora_rank, DTYPES[dtype])
        num_tokens = min(PROBE_TOKENS, config.max_position_embeddings)
        ids_1T = torch.zeros(1, num_tokens, dtype=torch.long)
        counter = _LiveBytes([*body.parameters(), *body.buffers()])
        with torch.set_grad_enabled(lora_rank is not None), counter:
            states_1TD = body(input_ids=ids_1T).last_hidden_state
            if lora_rank is not None:
                states_1TD.sum().backward()
    return counter.peak / num_tokens


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that live, after every operation."""

    def __init__(self, known: list[Tensor]) -> None:
        """`known`: tensors that are not counted (weights)."""
        super().__init__()
        self.peak = 0
        # A weak reference keeps the address taken, so that no later storage is mistaken for an earlier one.
        self._known = [StorageWeakRef(tensor.untyped_storage()) for tensor in known]
        self._known_addresses = {reference.cdata for reference in self._known}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                if reference.cdata not in self._known_addresses:
                    self._live[reference.cdata] = (reference, storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return out


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Full attention as the packed kernel calls it: key and value heads repeated, no mask, no score matrix."""
    repeat = query.shape[1] // key.shape[1]
    if repeat > 1:
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    out = nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


class _Adapted(nn.Module):
    """A frozen linear layer with a LoRA adapter, as PEFT computes it in training."""

    def __init__(self, base: nn.Linear, rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.base = base
        self.dropout = nn.Dropout(0.05)
        self.lora_A = nn.Linear(base.in_features, rank, bias=False, dtype=dtype)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.lora_B(self.lora_A(self.dropout(x))) * 2.0
        return out


def _add_adapters(body: nn.Module, rank: int, dtype: torch.dtype) -> None:
    for parent in list(body.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.Linear) and name in SEVEN_PROJECTIONS:
                setattr(parent, name, _Adapted(module, rank, dtype))
