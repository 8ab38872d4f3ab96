"""What a published layout is: how its config keys and tensor names become those of a native transformers class.

Read `Layout` first; each family's file (`dense.py`, `llada.py`, `diffugpt.py`, `moe.py`) is one or more values of it.
Knows no files and no torch.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from diffembed.errors import ConversionError

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name in the published checkpoint -> shape."""

NativeConfig = dict[str, Any]
"""Keyword arguments of the native config class, `model_type` included."""

TrainedAttention = Literal["bidirectional", "block-causal"]

_MISSING = object()


class PublishedConfig:
    """The keys of a published config.json, each read by the layout or reported as unread."""

    # Keys that say nothing about what the network computes at inference.
    WITHOUT_EFFECT = frozenset(
        {
            *("_name_or_path", "architectures", "auto_map", "model_type", "transformers_version"),
            *("dtype", "torch_dtype", "use_cache", "return_dict", "output_attentions", "output_hidden_states"),
            *("init_cutoff_factor", "init_device", "init_fn", "init_std", "initializer_range"),
            *("attention_dropout", "attn_pdrop", "embd_pdrop", "embedding_dropout", "hidden_dropout"),
            *("output_dropout", "resid_pdrop", "residual_dropout"),
            *("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id"),
        }
    )

    def __init__(self, values: Mapping[str, Any], origin: str) -> None:
        """`origin`: folder or hub id, named in errors."""
        self.values = dict(values)
        self.origin = origin
        self._read: set[str] = set(self.WITHOUT_EFFECT)

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or `default` where the key is absent or null."""
        self._read.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number >= 1. Raises ConversionError when it is absent (and no default is given) or another kind."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConversionError(
                f"{self.origin}: config.json needs {key} as a whole number >= 1, found {self._found(key)}"
            )
        return value

    def number(self, key: str) -> float:
        """A number. Raises ConversionError when it is absent or another kind."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConversionError(f"{self.origin}: config.json needs {key} as a number, found {self._found(key)}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """A truth value. Raises ConversionError for another kind."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ConversionError(f"{self.origin}: config.json needs {key} as true or false, found {self._found(key)}")
        return value

    def require(self, key: str, *allowed: Any) -> None:
        """Raises ConversionError unless the value is one of `allowed`; an absent key counts as null."""
        self._read.add(key)
        value = self.values.get(key)
        if not any(value is choice or (value == choice and type(value) is type(choice)) for choice in allowed):
            expected = " or ".join(json.dumps(choice) for choice in allowed)
            raise ConversionError(f"{self.origin}: config.json must have {key} = {expected}, found {self._found(key)}")

    def _found(self, key: str) -> str:
        return json.dumps(self.values[key]) if key in self.values else "no such key"

    def ignore(self, *keys: str) -> None:
        """Marks keys as known and without effect for this layout."""
        self._read.update(keys)

    @property
    def unread(self) -> tuple[str, ...]:
        """Keys nobody asked for: they have no place in the native config."""
        return tuple(sorted(key for key in self.values if key not in self._read))


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Where a native tensor comes from."""

    native: re.Pattern[str]
    """Matches the whole native name."""
    source: str
    """Published name, as a replacement template of `native`."""
    rows: Callable[[NativeConfig], tuple[int, int]] | None = None
    """First and last-plus-one row of the published tensor; `None` takes all of it."""


def rule(native: str, source: str, rows: Callable[[NativeConfig], tuple[int, int]] | None = None) -> Rule:
    """`native` is a name with `{n}` for a number; the same marks in `source` stand for the same numbers."""
    pattern = re.escape(native).replace(r"\{n\}", r"(\d+)").replace(r"\{kind\}", "(weight|bias)")
    template = source
    for group in range(1, native.count("{") + 1):
        template = re.sub(r"\{\w+\}", rf"\\g<{group}>", template, count=1)
    return Rule(native=re.compile(pattern), source=template, rows=rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One published layout."""

    name: str
    """Word for `--family`."""
    examples: str
    """Published checkpoints that have this layout."""
    architectures: tuple[str, ...]
    """Values of `architectures` in config.json that name it."""
    to_native: Callable[[PublishedConfig, Shapes], NativeConfig]
    """Native config of a published one; raises ConversionError for a setting the native class cannot express."""
    rules: tuple[Rule, ...] = ()
    """First match wins; a native name no rule matches keeps its name."""
    is_marked: bool = True
    """False where nothing in the folder tells it from an ordinary causal model, so that only `--family` selects it."""
    has_head: bool = True
    """False for checkpoints published without a language-model head."""
    buffers: re.Pattern[str] = re.compile(r".*\.rotary_emb\.inv_freq")
    """Published tensors that hold no weights and are left out."""
    shifts_logits: bool = False
    """True where the logits at position i - 1 score the token at position i."""
    trained_attention: TrainedAttention = "bidirectional"
    mask_tokens: tuple[str, ...] = ()
    """Spellings of the mask token, looked for in the tokenizer when config.json does not give its id."""
    mask_token_id: Callable[[int], int | None] = field(default=lambda vocab_size: None)
    """Id the authors set in code, by vocabulary size; used when neither config.json nor tokenizer tells it."""
    logit_scale: Callable[[PublishedConfig], float] = field(default=lambda config: 1.0)
    """Factor on the logits."""
    tokenizer_class: str | None = None
    """Native class for a tokenizer that is published with remote code."""
    modules: frozenset[str] = frozenset()
    """Own modules of its sentence-transformers pipeline that turn vectors into bytes and may be left out."""

    def source_of(self, native_name: str, config: NativeConfig) -> tuple[str, tuple[int, int] | None]:
        """(published name, rows or `None` for all) of a native tensor."""
        for entry in self.rules:
            if match := entry.native.fullmatch(native_name):
                return match.expand(entry.source), entry.rows(config) if entry.rows else None
        return native_name, None


def fixed_mask_id(token_id: int) -> Callable[[int], int | None]:
    """The same id for every vocabulary that reaches so far."""
    return lambda vocab_size: token_id if token_id < vocab_size else None


def rope_parameters(config: PublishedConfig, *kinds: str) -> dict[str, Any]:
    """Rotary settings in the native spelling, from the old (rope_theta, rope_scaling) or the new one.

    kinds: rope types that were proven for this layout, beside "default".
    """
    allowed = ("default", *kinds)
    new = config.get("rope_parameters", {})
    scaling = config.get("rope_scaling", {})
    if not isinstance(new, Mapping) or not isinstance(scaling, Mapping):
        raise ConversionError(f"{config.origin}: rope_parameters and rope_scaling in config.json must be objects")
    parameters = {**scaling, **new}
    kind = parameters.pop("type", None)
    parameters.setdefault("rope_type", kind or "default")
    theta = config.get("rope_theta", parameters.get("rope_theta", _MISSING))
    if theta is _MISSING:
        raise ConversionError(f"{config.origin}: config.json gives rope_theta neither by itself nor in rope_parameters")
    if parameters.setdefault("rope_theta", theta) != theta:
        raise ConversionError(
            f"{config.origin}: config.json gives two values of rope_theta, {theta!r} and {parameters['rope_theta']!r}"
        )
    if parameters["rope_type"] not in allowed:
        raise ConversionError(
            f"{config.origin}: config.json has rope_scaling of type {parameters['rope_type']!r}; "
            f"this layout is converted with {', '.join(allowed)}"
        )
    return parameters
