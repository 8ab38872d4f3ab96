"""`diffembed plan`."""

from dataclasses import asdict
from typing import Literal

from diffembed.cli.options import Json
from diffembed.cli.printing import print_facts, print_json


def plan(
    model: str,
    /,
    *,
    memory: str,
    max_tokens: int = 512,
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    lora_rank: int = 16,
    json: Json = False,
) -> None:
    """Plan the memory of a model before loading it.

    For example:
        diffembed plan dream-7b --max-tokens 4096 --memory 24GB

    Parameters
    ----------
    model
        A name that `diffembed models` lists, a folder, or a hub id.
    memory
        What there is, such as 24GB or 512MiB; nine tenths are planned with.
    max_tokens
        Length of the longest text.
    dtype
        Number format of the network.
    lora_rank
        Rank of the adapters in training.
    json
        Print one JSON line.
    """
    from diffembed.backbones.memory import Activations, parse_bytes, plan_memory

    found = plan_memory(
        model, max_tokens=max_tokens, memory_bytes=parse_bytes(memory), dtype=dtype, lora_rank=lora_rank
    )
    if json:
        print_json(asdict(found))
        return

    def describe(part: Activations | None) -> str:
        if part is None:
            return "not known before a run"
        fits = f"{part.token_budget:,} tokens fit at once"
        text = f"a text of {max_tokens:,} tokens takes {part.longest_text_bytes / 1e9:.2f} GB"
        return f"{fits}; {text}" + ("" if part.token_budget >= max_tokens else " and does not fit")

    print_facts(
        {
            "model": f"{model}: {found.native}, {found.num_parameters:,} parameters without head",
            "weights": f"{found.weights_bytes / 1e9:.2f} GB in {dtype}",
            "inference": describe(found.inference),
            "adapters": f"{found.num_trainable:,} weights of rank {lora_rank}, {found.adapters_bytes / 1e9:.2f} GB",
            "training": describe(found.training),
            "training, recomputing": describe(found.checkpointed_training),
        }
    )
