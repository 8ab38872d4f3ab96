"""Which published bytes become which native tensor, decided before anything is written.

Read `plan_conversion`. The native side is the native class itself on the meta device, so a plan that succeeds is a
checkpoint that loads without a missing, left-over or misshapen tensor.
"""

import re
from dataclasses import dataclass
from typing import Any

from diffembed.backbones.conversion.layout import Layout, NativeConfig, PublishedConfig, Shapes
from diffembed.backbones.conversion.source import Source, StoredTensor
from diffembed.errors import ConversionError

EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight", "embed_tokens.weight")
HEAD = "lm_head.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionPlan:
    """A conversion that is known to fit."""

    config: Any
    """Native config object, bidirectional, without the facts that need the tokenizer."""
    tensors: dict[str, StoredTensor]
    """Native name -> the published bytes it is made of."""
    unread: tuple[str, ...]
    """Published config keys without a place in the native config."""

    @property
    def embedding(self) -> StoredTensor:
        """The token embedding table."""
        return next(self.tensors[name] for name in EMBEDDINGS if name in self.tensors)


def plan_conversion(source: Source, layout: Layout) -> ConversionPlan:
    """Raises ConversionError for a setting or tensor that does not fit, naming it, the expected and the found."""
    published = PublishedConfig(source.config, source.name)
    values = native_values(published, source.shapes, layout)
    config, shapes = _native_model(values, layout, source.name)
    return ConversionPlan(
        config=config, tensors=_match_tensors(source, layout, values, shapes), unread=published.unread
    )


def native_values(published: PublishedConfig, shapes: Shapes, layout: Layout) -> NativeConfig:
    """Arguments of the native config. Raises ConversionError for what the native class cannot express."""
    if published.get("is_causal"):
        raise ConversionError(
            f"{published.origin}: config.json has is_causal = true: this network attends causally; "
            "expected false or no key"
        )
    layout.logit_scale(published)
    token_ids = {key: published.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return layout.to_native(published, shapes) | token_ids


def build_config(values: NativeConfig, name: str) -> Any:
    """The native config object, bidirectional. Raises ConversionError when the native class refuses a value."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    arguments = dict(values)
    try:
        config = AutoConfig.for_model(arguments.pop("model_type"), **arguments)
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise ConversionError(f"{name}: {values['model_type']} cannot be built from config.json ({error})") from error
    config.is_causal = False
    config.use_cache = False
    return config


def _native_model(values: NativeConfig, layout: Layout, name: str) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """Native config, and the tensors of its checkpoint as they lie on disk."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    config = build_config(values, name)
    try:
        with torch.device("meta"):
            model = (AutoModelForCausalLM if layout.has_head else AutoModel).from_config(config)
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{name}: {values['model_type']} cannot be built from config.json ({error})") from error
    config.architectures = [type(model).__name__]
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor_name, tensor in model.state_dict().items():
        if tensor_name == HEAD and values["tie_word_embeddings"]:
            continue
        shapes |= _on_disk(tensor_name, tuple(tensor.shape))
    return config, shapes


def _on_disk(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Expert weights are stacked in memory and stored one by one; every other tensor is stored as it is."""
    stem, _, last = name.rpartition(".")
    if not stem.endswith(".experts"):
        return {name: shape}
    experts, rows, columns = shape
    if last == "down_proj":
        return {f"{stem}.{expert}.down_proj.weight": (rows, columns) for expert in range(experts)}
    return {
        f"{stem}.{expert}.{part}.weight": (rows // 2, columns)
        for expert in range(experts)
        for part in ("gate_proj", "up_proj")
    }


def _match_tensors(
    source: Source, layout: Layout, values: NativeConfig, shapes: dict[str, tuple[int, ...]]
) -> dict[str, StoredTensor]:
    """Native name -> published bytes; everything published is used once or known to hold no weights."""
    origins = {name: layout.source_of(name, values) for name in shapes}
    expected: dict[str, tuple[int, ...]] = {}
    for name, (origin, rows) in origins.items():
        so_far = expected.get(origin, (0,))[0]
        expected[origin] = (max(rows[1], so_far), *shapes[name][1:]) if rows else shapes[name]
    missing = sorted(set(expected) - set(source.tensors), key=_natural)
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ConversionError(
            f"{source.name}: tensor {missing[0]}{more} is missing; "
            f"config.json asks for it with shape {expected[missing[0]]}"
        )
    for origin, shape in expected.items():
        if source.tensors[origin].shape != shape:
            raise ConversionError(
                f"{source.name}: tensor {origin} has shape {source.tensors[origin].shape}, config.json asks for {shape}"
            )
    _check_leftovers(source, layout, values, set(expected))
    return {
        name: source.tensors[origin].rows(*rows) if rows else source.tensors[origin]
        for name, (origin, rows) in origins.items()
    }


def _check_leftovers(source: Source, layout: Layout, values: NativeConfig, used: set[str]) -> None:
    """A tied checkpoint may repeat its head, which must then equal the embedding table; anything else is refused."""
    head = layout.source_of(HEAD, values)[0]
    for name in sorted(set(source.tensors) - used, key=_natural):
        if layout.buffers.fullmatch(name):
            continue
        if name == head and values["tie_word_embeddings"]:
            embedding = next(origin for native in EMBEDDINGS if (origin := layout.source_of(native, values)[0]) in used)
            if _holds_the_same(source.tensors[name], source.tensors[embedding]):
                continue
            raise ConversionError(
                f"{source.name}: config.json ties the head to the embedding table, but tensor {name} differs from "
                f"{embedding}"
            )
        raise ConversionError(
            f"{source.name}: tensor {name} of shape {source.tensors[name].shape} has no place in the {layout.name} "
            f"layout with this config.json, expected no such tensor; leaving it out would change the model"
        )


def _holds_the_same(one: StoredTensor, other: StoredTensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return all(a == b for a, b in zip(one.read_blocks(), other.read_blocks(), strict=True))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
