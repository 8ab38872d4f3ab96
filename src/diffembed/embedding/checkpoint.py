"""Checkpoint folders: an adapter of ours, or a sentence-transformers folder of anybody.

Read `EmbedderConfig` and `load_config`. The intended attention is stored here, because weights alone forget it and a
reload would be causal without a word.
"""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffembed.backbones.registry import ALIASES, MODELS, Attention
from diffembed.embedding.text import TextTemplate
from diffembed.errors import CheckpointError

CONFIG_FILE = "embedder.json"
SHIPPED = Path(__file__).parents[1] / "shipped"
"""Checkpoints that come with this package, each in a folder of its name."""
FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedderConfig:
    """Everything of an embedder but its weights; `embedder.json` in a checkpoint folder."""

    name: str
    """Short name used in tables."""
    base: str
    """Model name, hub id or folder of the base weights; a relative folder is relative to the checkpoint."""
    base_hash: str
    """`Backbone.source_hash` of the base; another one is refused."""
    attention: Attention
    """What the embedder was built with; loading it with the other needs an explicit argument."""
    pooling: str
    """One of `pooling.POOLINGS`."""
    max_tokens: int
    """Longest text read whole, in tokens, template included."""
    is_normalised: bool = True
    """True divides vectors by their length."""
    template: TextTemplate = field(default_factory=TextTemplate)
    """How texts are dressed."""
    adapters: tuple[str, ...] = ()
    """LoRA folders inside the checkpoint, merged in this order (an adaptation first, then fine-tuning)."""
    mask_token_id: int | None = None
    """The token that masks, where an adaptation named one; `None` takes the base's own."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {"format": FORMAT, **dataclasses.asdict(self), "adapters": list(self.adapters)}
        if self.mask_token_id is None:
            del plain["mask_token_id"]
        return plain


def checkpoint_folder(name: str) -> Path | None:
    """The checkpoint of a shipped model, or of a folder with an embedder.json; None for everything else."""
    spec = MODELS.get(ALIASES.get(name, name))
    if spec is not None:
        return SHIPPED / name if spec.source == "shipped" else None
    return Path(name) if (Path(name) / CONFIG_FILE).is_file() else None


def load_config(folder: Path) -> EmbedderConfig:
    """embedder.json of a folder. Raises CheckpointError for missing, unknown or ill-typed fields."""
    path = folder / CONFIG_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.pop("format") != FORMAT:
            raise CheckpointError(f"{path} has another format than {FORMAT}; update diffembed")
        template = TextTemplate(**stored.pop("template"))
        return EmbedderConfig(**{**stored, "template": template, "adapters": tuple(stored["adapters"])})
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is damaged or of another version: {error}") from error


def base_location(config: EmbedderConfig, folder: Path) -> str:
    """Where the base weights of a checkpoint are: a name, a hub id or an existing folder."""
    beside = folder / config.base
    return str(beside) if config.base.startswith(".") and beside.is_dir() else config.base


def relative_base(base: str, folder: Path) -> str:
    """How a checkpoint names its base: folders relative to itself, so that both can be moved together."""
    return os.path.relpath(Path(base).resolve(), folder.resolve()) if Path(base).is_dir() else base


def read_sentence_transformers(folder: Path) -> dict[str, Any]:
    """Pooling, limit, prompts and normalisation of a sentence-transformers folder; `{}` for any other folder.

    Raises CheckpointError for a pooling or a module that has no counterpart here.
    """
    modules_path = folder / "modules.json"
    if not modules_path.exists():
        return {}
    settings: dict[str, Any] = {"is_normalised": False}
    for module in _read(modules_path):
        kind, path = module["type"].rsplit(".", 1)[-1], folder / module["path"]
        if kind == "Pooling":
            pooling = _read(path / "config.json")
            settings["pooling"] = _pooling_name(pooling, path)
            settings["pools_instruction"] = pooling.get("include_prompt", True)
        elif kind == "Normalize":
            settings["is_normalised"] = True
        elif kind == "Transformer":
            limits = path / "sentence_bert_config.json"
            if limits.exists():
                settings["max_tokens"] = _read(limits).get("max_seq_length")
        else:
            raise CheckpointError(f"{folder} has a module {kind!r}; Transformer, Pooling and Normalize are read")
    prompts_path = folder / "config_sentence_transformers.json"
    prompts = _read(prompts_path).get("prompts") or {} if prompts_path.exists() else {}
    settings["query_prompt"] = prompts.get("query", "")
    settings["document_prompt"] = prompts.get("document", prompts.get("passage", ""))
    return settings


def _pooling_name(config: dict[str, Any], path: Path) -> str:
    names = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "first",
        "pooling_mode_lasttoken": "last",
        "pooling_mode_weightedmean_tokens": "weighted_mean",
        "mean": "mean",
        "cls": "first",
        "lasttoken": "last",
        "weightedmean": "weighted_mean",
    }
    chosen = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    chosen = chosen or [str(config.get("pooling_mode"))]
    if len(chosen) != 1 or chosen[0] not in names:
        raise CheckpointError(f"{path} pools by {', '.join(chosen)}; read are {', '.join(names)}")
    return names[chosen[0]]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
