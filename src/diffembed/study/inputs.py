"""What a node reads, by name and hash: text, rows, tasks, and the weights that it starts from.

Read `hash_inputs`. Names are those of the plan, so that equal data give equal hashes on every machine.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from diffembed.backbones.registry import MODELS
from diffembed.embedding.checkpoint import checkpoint_folder
from diffembed.errors import ConfigError, InputError, UnknownNameError
from diffembed.evaluation.suites.folders import find_corpus
from diffembed.evaluation.suites.named import SUITES, find_suite
from diffembed.evaluation.suites.reading import HAY_FILE, data_folder, find_place
from diffembed.provenance import hash_file, hash_text
from diffembed.study.graph import Node, ScoreConfig
from diffembed.study.sections import named_folder
from diffembed.study.suites import suite_name
from diffembed.training.adapt_config import AdaptConfig
from diffembed.training.config import TrainConfig
from diffembed.training.settings import resolve_name, resolve_path


def hash_inputs(node: Node) -> dict[str, str] | None:
    """Name as in the plan -> hash of all that a node reads: files, folders, and the weights below its adapters.

    None where one is not on this machine.
    """
    try:
        return {name: hash_path(path) for name, path in _inputs(node)} | dict(_base_weights(node))
    except (ConfigError, InputError, UnknownNameError, FileNotFoundError):
        return None


def say_missing(nodes: Sequence[Node]) -> str:
    """A sentence on the first file or folder of nodes whose `hash_inputs` is None, and what to do."""
    node = nodes[0]
    others = f" ({len(nodes) - 1} other nodes miss data too)" if len(nodes) > 1 else ""
    try:
        read = (*_inputs(node), *_base_folders(node))
        missing = next((name for name, path in read if not path.exists()), "data")
    except (ConfigError, InputError, UnknownNameError) as error:
        return f"{node.name} cannot be computed: {error}{others}"
    return f"{node.name} reads {missing}, which is not here{others}; set DIFFEMBED_DATA, or mend the plan"


def _inputs(node: Node) -> Iterator[tuple[str, Path]]:
    config = node.config
    if isinstance(config, AdaptConfig):
        yield from ((name, resolve_path(name)) for name in (*config.text.files, *config.text.held_out))
    elif isinstance(config, TrainConfig):
        root = Path() if config.data.root is None else resolve_path(config.data.root)
        for source in config.data.sources:
            if source.path is not None and source.sets and source.kind == "folder":
                place = root / resolve_path(source.path)
                yield from ((f"{source.path}/{name}", place / name) for name in source.sets)
            elif source.path is not None:
                yield source.path, root / resolve_path(source.path)
            if source.documents is not None and (folder := root / resolve_path(source.documents)).is_dir():
                yield source.documents, folder
            for name in (source.exclude, source.buried_in):
                if name is not None:
                    yield name, root / resolve_path(name)
    else:
        yield from _task_files(config)


def _base_weights(node: Node) -> Iterator[tuple[str, str]]:
    """Name and hash of what a node starts from where its parent does not say; of the hub, its revision.

    Weights that the code draws itself, and those of a name or a hub id that pins nothing, have none: what was read of
    them stands in the record of the run.
    """
    from diffembed.backbones.loading import fingerprint

    for name in _bases(node):
        spec = MODELS.get(name)
        if spec is not None and (pinned := spec.sha256 or spec.revision):
            yield name, pinned[:16]
    for name, folder in _base_folders(node):
        yield name, fingerprint(folder)[:16] if (folder / "config.json").is_file() else hash_path(folder)


def _base_folders(node: Node) -> Iterator[tuple[str, Path]]:
    for name in _bases(node):
        if (folder := named_folder(resolve_name(name))) is not None:
            yield name, folder


def _bases(node: Node) -> list[str]:
    """Names of the networks, and of adapters of others, that a node starts from; none where its parent says."""
    if node.parent is not None:
        return []
    if not isinstance(node.config, ScoreConfig):
        return [node.config.model.name]
    # Word matching has no weights.
    return [name for name in _system_names(node.config) if name in MODELS or "/" in name]


def _system_names(config: ScoreConfig) -> list[str]:
    """`gemma-3-270m` of `gemma-3-270m:causal:mean`, base and adapter of `llm2vec@BASE+ADAPTER`."""
    return (config.system or "").rpartition("@")[2].partition(":")[0].split("+")


def _task_files(config: ScoreConfig) -> Iterator[tuple[str, Path]]:
    for name in _system_names(config):
        shipped = checkpoint_folder(name) if name in MODELS else None
        if shipped is not None:
            # Unlike other names, it stands for other weights after each `study ship`.
            yield name, shipped
    for name, tasks in config.suites.items():
        for spec in find_suite(suite_name(name)).tasks:
            if tasks and spec.name not in tasks:
                continue
            if name not in SUITES:
                yield from _task_folder(name, Path(spec.place))
                continue
            if spec.is_hidden:
                yield HAY_FILE, data_folder(None) / HAY_FILE
                if config.counted_by != "words" and (folder := named_folder(config.counted_by)) is not None:
                    yield config.counted_by, folder
            if spec.place:
                yield from _task_folder(spec.place, find_place(spec))


def _task_folder(name: str, place: Path) -> Iterator[tuple[str, Path]]:
    """A folder or table, and the corpus that the folder points to."""
    yield name, place
    if (place / "CORPUS").is_file():
        yield f"{name}/corpus", find_corpus(place)


def hash_path(path: Path) -> str:
    """Hash of a file, or of all files of a folder with their names."""
    if path.is_dir():
        inside = sorted(child for child in path.rglob("*") if child.is_file())
        return hash_text("\n".join(f"{child.relative_to(path)} {hash_path(child)}" for child in inside))
    facts = path.stat()
    return _hash_file(str(path), facts.st_size, facts.st_mtime_ns)


@cache
def _hash_file(path: str, size: int, changed_ns: int) -> str:
    return hash_file(path)[:16]
