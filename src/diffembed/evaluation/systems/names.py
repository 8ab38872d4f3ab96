"""What is compared: the names a user types.

Read `parse_system`. A name is `NAME[:causal|:bidirectional][:POOLING]`; systems that differ only in pooling are
grouped, because one forward pass serves them. This module loads nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffembed.backbones.registry import ATTENTIONS, FAMILIES, Attention, find_model
from diffembed.errors import ConfigError

BASELINES = ("bm25", "random")
POOLINGS = ("mean", "last", "first", "weighted_mean")
"""The words after a colon; a test holds them equal to those of `embedding.pooling`, which would import torch here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemSpec:
    """One row of the comparison."""

    model: str
    """Name, folder or hub id; or one of `BASELINES`."""
    attention: Attention | None = None
    """`None` takes what the checkpoint stores."""
    pooling: str | None = None
    """`None` takes what the checkpoint stores."""

    @property
    def label(self) -> str:
        """The name as a user would type it again."""
        return ":".join(part for part in (self.model, self.attention, self.pooling) if part)

    @property
    def is_language_model(self) -> bool:
        """False for baselines and for encoders of the registry; folders and hub ids count as language models."""
        if self.model in BASELINES:
            return False
        spec = find_model(self.model)
        return spec is None or not FAMILIES[spec.family].is_encoder


def parse_system(text: str) -> SystemSpec:
    """`NAME[:causal|:bidirectional][:POOLING]`, for example `gemma-3-270m:causal:last`.

    Raises UnknownNameError for a name or a suffix that does not exist, ConfigError for a suffix without effect.
    """
    model, attention, pooling = text, None, None
    while (cut := model.rpartition(":"))[1]:
        if cut[2] in ATTENTIONS and attention is None:
            attention = ATTENTIONS[ATTENTIONS.index(cut[2])]
        elif cut[2] in POOLINGS and pooling is None:
            pooling = cut[2]
        else:
            break
        model = cut[0]
    spec = SystemSpec(model=model, attention=attention, pooling=pooling)
    if model in BASELINES:
        if attention or pooling:
            raise ConfigError(f"{model} has neither attention nor pooling; write {model!r} instead of {text!r}")
        return spec
    if ":" in model and not Path(model).exists():
        raise ConfigError(
            f"{text!r} is not a system; write NAME, then one of :{', :'.join(ATTENTIONS)} and one of "
            f":{', :'.join(POOLINGS)} where wanted"
        )
    if not spec.is_language_model and attention == "causal":
        raise ConfigError(f"{model} is an encoder and cannot be made causal; write {model!r}")
    return spec


def group_systems(specs: Sequence[SystemSpec]) -> list[list[SystemSpec]]:
    """Systems that share a network and its attention, and with them one forward pass; in order of first mention.

    Raises ConfigError for a system that is named twice.
    """
    labels = [spec.label for spec in specs]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"{label} is named twice; name each system once")
    groups: dict[tuple[str, str | None], list[SystemSpec]] = {}
    for spec in specs:
        groups.setdefault((spec.model, spec.attention), []).append(spec)
    return list(groups.values())
