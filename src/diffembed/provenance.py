"""Where a result came from, and how a file reaches the disk whole or not at all.

Read `RunFolder` first: every run writes its config, versions and data hashes before its first step.
`atomic_file` / `atomic_folder` are the only way the project writes results. Knows nothing of models.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from diffembed.errors import CheckpointError, ResourceError

HASH_BLOCK_BYTES = 1 << 20
LIBRARIES = ("diffembed", "torch", "transformers", "sentence-transformers", "tokenizers", "numpy", "peft")


def user_cache() -> Path:
    """Folder for de-quantised and converted weights: `$DIFFEMBED_CACHE`, else the platform's cache folder."""
    if chosen := os.environ.get("DIFFEMBED_CACHE"):
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("diffembed"))


def user_data() -> Path:
    """Folder for what people make and want to keep: `$DIFFEMBED_HOME`, else the platform's data folder."""
    if chosen := os.environ.get("DIFFEMBED_HOME"):
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_data_dir("diffembed"))


@contextlib.contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`; renamed over it when the block ends well, deleted otherwise.

    Raises ResourceError when the disk is full; the old file, if any, is then untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        with _disk_errors(path):
            yield part
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.chmod(0o666 & ~_umask())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """A temporary folder beside `path`; renamed to it when the block ends well, deleted otherwise.

    Files that a library made for their owner alone get the permissions that new files have here.
    Raises CheckpointError if `path` already exists and is not empty: nothing is overwritten.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(f"{path} already exists; choose another folder or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    try:
        with _disk_errors(path):
            yield part
            mask = _umask()
            part.chmod(0o777 & ~mask)
            for file in part.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    file.chmod(file.stat().st_mode | (0o666 & ~mask))
            if path.exists():
                path.rmdir()
            part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk into one sentence; every other OSError goes on as it is."""
    import errno

    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(f"the disk is full while writing {path}; nothing was changed") from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; dataclasses and paths are understood."""
    with atomic_file(path) as part:
        part.write_text(json.dumps(to_plain(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def to_plain(value: Any) -> Any:
    """Dataclasses, mappings, sets and paths as what JSON holds: dicts, lists, strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [to_plain(item) for item in items]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    return value


def hash_bytes(data: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def hash_text(text: str) -> str:
    """sha256 of the UTF-8 bytes; lone surrogates are hashed as they are."""
    return hash_bytes(text.encode("utf-8", "surrogatepass"))


def hash_file(path: Path | str) -> str:
    """sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def choices(config: Any) -> Any:
    """A config without the fields that stand at their default, at any depth: an option that is new changes nothing."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        kept = {}
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            made = field.default_factory
            default = field.default if made is dataclasses.MISSING else made()
            if value != default:
                kept[field.name] = choices(value)
        return kept
    if isinstance(config, Mapping):
        return {key: choices(item) for key, item in config.items()}
    if isinstance(config, list | tuple):
        return [choices(item) for item in config]
    return config


def hash_config(config: Any) -> str:
    """First 16 hex digits of the hash of a config, independent of key order."""
    return hash_text(json.dumps(to_plain(config), sort_keys=True, ensure_ascii=False))[:16]


def environment() -> dict[str, Any]:
    """Versions and machine facts that a result depends on; no host names, no paths."""
    versions = {}
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "num_cores": os.cpu_count(),
        "versions": versions,
    }


def processor_name() -> str:
    """Marketing name of the processor where the system tells it, else the architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class RunFolder:
    """A folder that holds one run: `config.json`, `provenance.json`, `metrics.jsonl` and the results.

    Opening a folder that already holds another config raises CheckpointError; the same config resumes it.
    """

    def __init__(self, path: Path | str, config: Any, *, inputs: Mapping[str, str] | None = None) -> None:
        """`inputs`: name -> content hash of every data set, checkpoint or file the run reads."""
        self.path = Path(path)
        self.config = to_plain(config)
        stored = self.path / "config.json"
        if stored.exists():
            found = json.loads(stored.read_text(encoding="utf-8"))
            changed = sorted(key for key in found.keys() | self.config.keys() if found.get(key) != self.config.get(key))
            if changed:
                raise CheckpointError(
                    f"{self.path} holds a run with another {', '.join(changed)}; choose another folder or remove it"
                )
            self.is_resumed = True
            return
        self.is_resumed = False
        self.path.mkdir(parents=True, exist_ok=True)
        # config.json is written last: a folder that has it has everything else.
        write_json(
            self.path / "provenance.json",
            {
                "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "config_hash": hash_config(config),
                "inputs": dict(inputs or {}),
                "environment": environment(),
            },
        )
        write_json(stored, self.config)

    def log(self, **metrics: Any) -> None:
        """Appends one line to `metrics.jsonl`."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(to_plain(metrics), ensure_ascii=False) + "\n")
