"""What this machine and a model on it are: versions, processor, kernels, contract verdicts, speed, memory.

Read `examine`. Everything is measured or asked of the thing itself; nothing is looked up in a table.
"""

import gc
import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed.backbones.registry import ATTENTIONS, MODELS, Attention, ModelSpec
from diffembed.errors import AttentionContractError, ConfigError
from diffembed.provenance import environment

if TYPE_CHECKING:
    from diffembed.embedding.embedder import Embedder

FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "bf16", "sve")
"""Processor flags that decide how fast the arithmetic is; the last two are those of ARM."""

PROBE_WORDS = (12, 40, 60, 75, 90, 110, 160, 420)
"""Words of the texts that the speed is measured on: ragged, mean about 120, one long one in eight."""
PROBE_S = 2.0
"""How long the speed is measured at least, after one pass that warms the kernels up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Measured on ragged texts, tokenising included."""

    tokens_per_s: float
    num_tokens: int
    """Tokens read while the clock ran."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What `examine` found."""

    environment: dict[str, Any]
    """Python, system, processor, cores, library versions."""
    processor_features: list[str]
    """Those of FEATURES that the system reports."""
    num_threads: int
    """Threads of the arithmetic."""
    allocator: str
    """`on` where freed pages are kept in the process, else `off` with the reason."""
    model: dict[str, Any]
    """Name, family, parameters, width, longest text, hash and licence of the weights."""
    device: str
    dtype: str
    kernel: str
    """How attention is computed."""
    contract: dict[str, dict[str, Any]]
    """By attention: `held` true with what was checked, false with the breach, or None where the network has no such
    attention by design."""
    speed: Speed
    memory: dict[str, int]
    """In bytes: the weights, the peak of this process, and what the machine has and has left."""

    @property
    def is_sound(self) -> bool:
        """False when an attention contract is broken."""
        return all(verdict["held"] is not False for verdict in self.contract.values())


def examine(name: str, *, dtype: str = "auto", device: str = "auto") -> Diagnosis:
    """Loads a model, measures its speed and memory with the attention it is meant for, and proves both attentions.

    A broken contract is reported, not raised, as long as one attention holds. Raises what loading raises otherwise.
    """
    import torch

    from diffembed.backbones.allocator import keep_pages

    embedder, contract = _load_sound(name, dtype, device)
    backbone = embedder.backbone
    spec = MODELS.get(backbone.name)
    model = {
        "name": embedder.name,
        "family": backbone.family.model_type,
        "num_parameters": sum(parameter.numel() for parameter in backbone.model.parameters()),
        "dim": embedder.dim,
        "max_tokens": embedder.max_tokens,
        "attention": embedder.attention,
        "pooling": embedder.pooling,
        "source_hash": backbone.source_hash,
        "licence": spec.licence if spec is not None else "unknown",
    }
    torch_dtype, torch_device, kernel = backbone.dtype, backbone.device, backbone.kernel
    speed, memory = measure_speed(embedder), _memory(backbone.model)
    # Two copies of the weights need not fit.
    del embedder, backbone
    gc.collect()
    for attention in ATTENTIONS:
        if attention not in contract:
            contract[attention] = _try_load(name, attention, dtype, device)[1]
    return Diagnosis(
        environment=environment(),
        processor_features=processor_features(),
        num_threads=torch.get_num_threads(),
        allocator=keep_pages(),
        model=model,
        device=str(torch_device),
        dtype=str(torch_dtype).removeprefix("torch."),
        kernel=kernel,
        contract={attention: contract[attention] for attention in ATTENTIONS},
        speed=speed,
        memory=memory,
    )


def _load_sound(name: str, dtype: str, device: str) -> tuple["Embedder", dict[Attention, dict[str, Any]]]:
    """The embedder with its own attention, or with the one that holds if its own is broken, and verdicts so far."""
    embedder, verdict = _try_load(name, None, dtype, device)
    if embedder is not None:
        return embedder, {embedder.attention: verdict}
    broken: dict[Attention, dict[str, Any]] = {}
    for attention in ATTENTIONS:
        embedder, found = _try_load(name, attention, dtype, device)
        if embedder is not None:
            return embedder, {**broken, attention: found}
        broken[attention] = found
    raise AttentionContractError(f"{name} holds neither attention: {verdict['reason']}")


def _try_load(
    name: str, attention: Attention | None, dtype: str, device: str
) -> tuple["Embedder | None", dict[str, Any]]:
    from diffembed.embedding.embedder import Embedder

    try:
        embedder = Embedder.load(name, attention=attention, dtype=dtype, device=device)
    except AttentionContractError as error:
        return None, {"held": False, "reason": str(error)}
    except ConfigError as error:
        if attention is None:
            raise
        return None, {"held": None, "reason": str(error)}
    return embedder, embedder.backbone.verdict.as_dict()


def measure_speed(embedder: "Embedder") -> Speed:
    """Tokens per second over at least PROBE_S seconds of ragged English text, after a warm-up."""
    texts = probe_texts()
    embedder.encode(texts, progress=False)
    num_tokens, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < PROBE_S:
        _, report = embedder.encode(texts, progress=False)
        num_tokens += int(report.num_tokens.sum())
    return Speed(tokens_per_s=num_tokens / seconds, num_tokens=num_tokens, seconds=seconds)


def probe_texts() -> list[str]:
    """Texts of PROBE_WORDS words each, twice over, from the language reference that every Python carries."""
    from pydoc_data.topics import topics

    words = iter(" ".join(topics.values()).split())
    return [" ".join(next(words) for _ in range(count)) for count in PROBE_WORDS * 2]


def _memory(model: Any) -> dict[str, int]:
    import psutil

    machine = psutil.virtual_memory()
    weights = {parameter.data_ptr(): parameter.nbytes for parameter in model.parameters()}
    return {
        "weights_bytes": sum(weights.values()),
        "peak_bytes": peak_bytes(),
        "machine_bytes": int(machine.total),
        "available_bytes": int(machine.available),
    }


def peak_bytes() -> int:
    """Most memory this process has held so far."""
    try:
        # On Linux ru_maxrss also counts the process that started this one.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)


def processor_features() -> list[str]:
    """Those of FEATURES that the system reports; empty where it does not tell."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [feature for feature in FEATURES if feature in flags]


def list_models() -> list[dict[str, str]]:
    """Every name that can be given for a model, with what it is and where its weights come from."""
    return [
        {
            "name": spec.name,
            "family": spec.family,
            "summary": spec.summary,
            "licence": spec.licence,
            "weights": _weights(spec),
            "location": spec.location,
        }
        for spec in MODELS.values()
    ]


def _weights(spec: ModelSpec) -> str:
    if spec.source == "tiny":
        return "built in"
    if spec.source == "hub":
        return "on the hub"
    if spec.base is not None:
        return _weights(MODELS[spec.base])
    if importlib.util.find_spec(spec.location) is not None:
        return "installed"
    return f"extra {spec.extra}" if spec.extra else "not installed"
