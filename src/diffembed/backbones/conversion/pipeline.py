"""The sentence-transformers pipeline a published embedding checkpoint brings along: pooling, normalising, quantiser.

Read `read_pipeline`. Knows no torch.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffembed.backbones.conversion.layout import Layout
from diffembed.backbones.conversion.source import Source, read_object
from diffembed.errors import ConversionError
from diffembed.provenance import write_json

NATIVE_MODULES = ("Transformer", "Pooling", "Normalize")
SETTINGS = ("config_sentence_transformers.json", "sentence_bert_config.json")
POOLINGS = {
    "mean_tokens": "mean",
    "mean": "mean",
    "cls_token": "first",
    "cls": "first",
    "lasttoken": "last",
    "weightedmean_tokens": "weighted_mean",
    "weightedmean": "weighted_mean",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """What happens to the hidden states."""

    pooling: str
    is_normalised: bool
    quantiser: str | None
    """The checkpoint's own last module, which turns vectors into bytes; left out of the native folder."""


def read_pipeline(source: Source, layout: Layout) -> Pipeline | None:
    """`None` where the checkpoint has no pipeline of its own.

    Raises ConversionError for a module this project does not implement, naming it.
    """
    path = source.folder / "modules.json"
    if not path.is_file():
        return None
    pooling, is_normalised, quantiser = None, False, None
    for module in _modules(source):
        short = _native_name(module)
        if short == "Pooling":
            pooling = _pooling_mode(source, str(module["path"]))
        elif short == "Normalize":
            is_normalised = True
        elif module["type"] in layout.modules:
            quantiser = module["type"]
        elif short is None:
            known = ", ".join([*NATIVE_MODULES, *layout.modules])
            raise ConversionError(
                f"{source.name}: modules.json names {module['type']}, which is not implemented; known are {known}"
            )
    if pooling is None:
        raise ConversionError(f"{source.name}: modules.json has no Pooling module, expected one")
    return Pipeline(pooling=pooling, is_normalised=is_normalised, quantiser=quantiser)


def write_pipeline(source: Source, folder: Path) -> None:
    """The native part of the pipeline, so that sentence-transformers loads the folder without remote code."""
    kept = [module for module in _modules(source) if _native_name(module)]
    write_json(folder / "modules.json", [{**module, "idx": number} for number, module in enumerate(kept)])
    for module in kept:
        config = source.folder / str(module["path"]) / "config.json"
        if module["path"] and config.is_file():
            (folder / str(module["path"])).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(config, folder / str(module["path"]) / "config.json")
    for name in SETTINGS:
        if (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, folder / name)


def _modules(source: Source) -> list[dict[str, Any]]:
    try:
        modules = json.loads((source.folder / "modules.json").read_text(encoding="utf-8"))
        paths = [Path(module["path"]) for module in modules if isinstance(module["type"], str)]
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{source.name}: modules.json is no list of modules with type and path") from error
    if any(path.is_absolute() or ".." in path.parts for path in paths):
        raise ConversionError(f"{source.name}: modules.json names a path outside the folder")
    return modules


def _native_name(module: dict[str, Any]) -> str | None:
    package, _, name = module["type"].rpartition(".")
    return name if package.split(".")[0] == "sentence_transformers" and name in NATIVE_MODULES else None


def _pooling_mode(source: Source, path: str) -> str:
    if not (source.folder / path / "config.json").is_file():
        raise ConversionError(f"{source.name}: {path}/config.json is missing; expected the pooling settings")
    config = read_object(source.folder / path / "config.json", source.name)
    modes = [key.removeprefix("pooling_mode_") for key, is_on in config.items() if "mode_" in key and is_on is True]
    if mode := config.get("pooling_mode"):
        modes = [mode]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ConversionError(
            f"{source.name}: {path}/config.json pools by {modes}; expected one of {', '.join(POOLINGS)}"
        )
    return POOLINGS[modes[0]]
