"""`diffembed.json`: what a converted backbone needs beyond config.json, kept beside it."""

import json
from pathlib import Path
from typing import Any

from diffembed.errors import CheckpointError

NAME = "diffembed.json"
FORMAT = 1


def read_sidecar(folder: Path) -> dict[str, Any] | None:
    """Its content; `None` for a folder without one. Raises CheckpointError for one of another version."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder.name}: {NAME} is damaged ({error}); convert the checkpoint again") from error
    if not isinstance(facts, dict) or facts.get("format", FORMAT) != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else None
        raise CheckpointError(f"{folder.name}: {NAME} has format {found!r}, expected {FORMAT}; convert it again")
    return facts
