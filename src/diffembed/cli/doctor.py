"""`diffembed doctor`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from diffembed.cli.options import Dtype, Json
from diffembed.cli.printing import print_facts, print_json

if TYPE_CHECKING:
    from diffembed.doctor import Diagnosis

MEGABYTE = 1_000_000


def doctor(model: str, /, *, dtype: Dtype = "auto", device: str = "auto", json: Json = False) -> int:
    """Examine this machine and a model on it.

    Loads the model, proves its attention layer by layer, causal and bidirectional, and measures speed and memory.
    Exit code 1 if an attention contract is broken.

    For example:
        diffembed doctor all-minilm-l6-v2

    Parameters
    ----------
    model
        A name that `diffembed models` lists, a folder, or a hub id.
    dtype
        Number format of the network; auto is the faster one, as measured.
    device
        Where to run: auto, cpu, cuda, cuda:1 ...
    json
        Print one JSON line.
    """
    from diffembed.doctor import examine

    found = examine(model, dtype=dtype, device=device)
    if json:
        print_json({**asdict(found), "is_sound": found.is_sound})
    else:
        print_facts(_facts(found))
    return 0 if found.is_sound else 1


def _facts(found: "Diagnosis") -> dict[str, str]:
    model, memory, environment = found.model, found.memory, found.environment
    return {
        "model": f"{model['name']} ({model['family']}), {model['num_parameters']:,} parameters",
        "vectors": f"{model['dim']} components, {model['pooling']} pooling",
        "reads": f"{model['max_tokens']:,} tokens, {model['attention']}",
        "weights": f"{model['source_hash'][:12]}, licence {model['licence']}",
        **{f"{attention} contract": _verdict(verdict) for attention, verdict in found.contract.items()},
        "speed": f"{found.speed.tokens_per_s:,.0f} tokens per second on ragged texts, tokenising included",
        "memory": f"{_megabytes(memory['weights_bytes'])} weights, {_megabytes(memory['peak_bytes'])} peak",
        "machine": f"{_megabytes(memory['available_bytes'])} of {_megabytes(memory['machine_bytes'])} free",
        "arithmetic": f"{found.dtype} on {found.device}, {found.num_threads} threads",
        "attention kernel": found.kernel,
        "allocator": f"keeps freed pages: {found.allocator}",
        "processor": f"{environment['processor']}, {environment['num_cores']} cores",
        "features": " ".join(found.processor_features) or "not reported by this system",
        "system": f"{environment['system']}, Python {environment['python']}",
        "versions": ", ".join(f"{name} {version}" for name, version in environment["versions"].items()),
    }


def _verdict(verdict: dict[str, Any]) -> str:
    if verdict["held"]:
        sliding = f" ({verdict['num_sliding_layers']} sliding)" if verdict["num_sliding_layers"] else ""
        return f"held: {verdict['num_checks']} checks in {verdict['num_layers']} layers{sliding}"
    return f"{'BROKEN' if verdict['held'] is False else 'does not apply'}: {verdict['reason']}"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / MEGABYTE:,.{0 if num_bytes >= MEGABYTE else 2}f} MB"
