"""Where a published checkpoint lies, and the one conversion of it that the user cache keeps.

Read `convert_once`, which is what loading a published id or folder calls.
"""

import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from diffembed.backbones.conversion.source import read_header, shard_files
from diffembed.errors import CheckpointError, ConfigError
from diffembed.provenance import hash_config, hash_file, user_cache

SETTINGS = (".json", ".txt", ".jinja", ".model")
"""Suffixes of the files beside the weights that a conversion reads or copies."""


def fetch(source: Path | str, revision: str | None = None) -> tuple[Path, str | None]:
    """(folder, hub commit or `None`) of a folder, a hub id or a known name; downloads what the hub cache lacks.

    Raises CheckpointError when there is neither, or the hub cannot be reached.
    """
    if Path(source).is_dir():
        if revision is not None:
            raise ConfigError(f"{source} is a folder, so revision {revision!r} would have no effect")
        return Path(source), _commit(Path(source))
    from diffembed.backbones.fetching import fetch_snapshot
    from diffembed.backbones.registry import find_model

    spec = find_model(str(source))
    if spec is not None and spec.source != "hub":
        raise ConfigError(f"{source} is native already; it needs no conversion")
    hub_id, _, pinned = (spec.location if spec is not None else str(source)).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id):
        raise CheckpointError(f"{source} is neither a folder nor a hub id of the form owner/name")
    folder = fetch_snapshot(hub_id, pinned or revision or (spec.revision if spec is not None else None))
    return folder, _commit(folder)


def _commit(folder: Path) -> str | None:
    """The hub cache keeps each commit in a folder of its name."""
    return folder.name if folder.parent.name == "snapshots" else None


def convert_once(folder: Path, convert: Callable[[Path], object]) -> Path:
    """Folder in the user cache that holds `folder` converted; the first caller converts, others wait for it.

    convert: called with the output folder, while the lock is held.
    """
    from filelock import FileLock

    name = folder.parent.parent.name if _commit(folder) else folder.resolve().name
    slug = re.sub(r"[^\w.-]+", "-", name)
    target = user_cache() / "converted" / f"{slug}-{_fingerprint(folder)}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        if not target.is_dir():
            # Left by a process that was killed; the lock proves that nobody is writing them.
            for stale in target.parent.glob(f".{target.name}.*.part"):
                with contextlib.suppress(OSError):
                    shutil.rmtree(stale)
            convert(target)
    return target


def _fingerprint(folder: Path) -> str:
    """Tells two states of a folder apart without reading its weights: each one's size, time and table, all else whole.

    All else is what a conversion carries over: config, tokenizer, pooling and prompts.
    """
    files = []
    for path in shard_files(folder, str(folder)):
        status = path.stat()
        table = [[name, tensor.dtype, tensor.shape] for name, tensor in sorted(read_header(path).items())]
        files.append([path.name, status.st_size, status.st_mtime_ns, table])
    settings = {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in folder.rglob("*")
        if path.suffix in SETTINGS and path.is_file()
    }
    return hash_config({"settings": settings, "files": files})
