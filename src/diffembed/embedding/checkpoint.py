"""Checkpoint folders: an adapter of ours, or a sentence-transformers folder of anybody.

Read `EmbedderConfig` and `load_config`. The intended attention is stored here, because weights alone forget it and a
reload would be causal without a word.
"""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

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
    dims: int | None = None
    """Components that are kept of each vector; `None` for all."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what is None is left out."""
        template = _without_none(dataclasses.asdict(self.template))
        plain = {**_without_none(dataclasses.asdict(self)), "template": template, "adapters": list(self.adapters)}
        return {"format": FORMAT, **plain}


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def checkpoint_folder(name: str) -> Path | None:
    """The checkpoint of a shipped model, or of a folder with an embedder.json; None for everything else."""
    spec = MODELS.get(ALIASES.get(name, name))
    if spec is not None:
        return SHIPPED / name if spec.source == "shipped" else None
    folder = Path(name).expanduser()
    return folder if (folder / CONFIG_FILE).is_file() else None


def load_config(folder: Path) -> EmbedderConfig:
    """embedder.json of a folder. Raises CheckpointError for missing, unknown or ill-typed fields."""
    path = folder / CONFIG_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.pop("format") != FORMAT:
            raise CheckpointError(f"{path} has another format than {FORMAT}; update diffembed")
        template = _read_template(stored.pop("template"), path)
        config = EmbedderConfig(**{**stored, "template": template, "adapters": tuple(stored["adapters"])})
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or of another version: {error}") from error
    _require_types(config, path)
    return config


def _read_template(stored: Any, path: Path) -> TextTemplate:
    try:
        template = TextTemplate(**stored)
    except (TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged or of another version: {error}") from error
    _require_types(template, path)
    return template


def _require_types(settings: Any, path: Path) -> None:
    """Raises CheckpointError for a field that holds another type than its own: JSON does not keep them apart."""
    for name, hint in get_type_hints(type(settings)).items():
        value, origin = getattr(settings, name), get_origin(hint)
        if origin is Literal:
            is_right, allowed = value in get_args(hint), [str(choice) for choice in get_args(hint)]
        else:
            kinds = get_args(hint) if isinstance(hint, UnionType) else (origin or hint,)
            is_right, allowed = type(value) in kinds, [kind.__name__ for kind in kinds]
        if not is_right:
            raise CheckpointError(f"{path}: {name} is {value!r}, expected {' or '.join(allowed)}")


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
    for module in _modules(modules_path):
        kind, path = module["type"].rsplit(".", 1)[-1], folder / module["path"]
        if kind == "Pooling":
            pooling = _read(path / "config.json")
            settings["pooling"] = _pooling_name(pooling, path)
            settings["pools_instruction"] = pooling.get("include_prompt", True)
        elif kind == "Normalize":
            settings["is_normalised"] = True
        elif kind == "Transformer":
            if (limit := _stored_limit(path)) is not None:
                settings["max_tokens"] = limit
        else:
            raise CheckpointError(f"{folder} has a module {kind!r}; Transformer, Pooling and Normalize are read")
    prompts_path = folder / "config_sentence_transformers.json"
    stored = _read(prompts_path) if prompts_path.exists() else {}
    if "diffembed" in stored:
        settings["template"] = _read_template(stored["diffembed"], prompts_path)
    prompts = stored.get("prompts") or {}
    settings["query_prompt"] = prompts.get("query", "")
    settings["document_prompt"] = prompts.get("document", prompts.get("passage", ""))
    return settings


def _stored_limit(folder: Path) -> int | None:
    # sentence-transformers 6 keeps the limit among the tokenizer's settings alone.
    for file, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        limit = _read(folder / file).get(key) if (folder / file).exists() else None
        if limit is not None:
            if type(limit) is not int or limit < 1:
                raise CheckpointError(f"{folder / file}: {key} is {limit!r}, expected a number of tokens")
            return limit
    return None


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


def _modules(path: Path) -> list[dict[str, str]]:
    modules = _read(path, list)
    for module in modules:
        if not isinstance(module, dict) or not all(isinstance(module.get(key), str) for key in ("type", "path")):
            raise CheckpointError(f"{path} lists {module!r}; expected modules with a type and a path")
    return modules


def _read(path: Path, kind: type = dict) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, kind):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a {kind.__name__}")
    return value
