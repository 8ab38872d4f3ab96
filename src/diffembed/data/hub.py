"""Rows of data sets on the Hugging Face hub, streamed at a pinned commit.

Read `stream_rows`. A local folder in the layout of a hub data set works in place of a repository.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffembed.errors import ConfigError, InputError, MissingExtraError

COMMIT = re.compile(r"[0-9a-f]{40}")


def stream_rows(
    repository: str, *, config: str | None = None, split: str | None = "train", revision: str | None = None
) -> Iterator[tuple[str, Any]]:
    """(place, row) of one split, or of all splits one after the other when `split` is None.

    revision: commit of 40 hex digits (see `pin_revision`); None only for a local folder.
    Raises InputError when the data set cannot be reached or read.
    """
    datasets = _import_datasets()
    try:
        opened = datasets.load_dataset(repository, config, split=split, revision=revision, streaming=True)
        parts = {split: opened} if split is not None else dict(opened)
        for name, rows in parts.items():
            for number, row in enumerate(rows, start=1):
                yield f"{Path(repository).name}/{config or 'default'}/{name}:{number}", row
    except (OSError, ValueError) as error:
        raise InputError(
            f"data set {repository} ({config or 'default'}) cannot be read: {_first_line(error)}"
        ) from error


def pin_revision(repository: str, revision: str | None) -> str | None:
    """The commit to read: `revision` itself, the newest one where it is None, or None for a local folder.

    The caller records the commit with the run, so that the run can be repeated. Raises ConfigError for a branch or
    tag name, which may point elsewhere tomorrow.
    """
    if Path(repository).is_dir():
        if revision is not None:
            raise ConfigError(f"{repository} is a folder, which has no revision {revision!r}; leave revision out")
        return None
    if revision is not None:
        if not COMMIT.fullmatch(revision):
            raise ConfigError(f"revision must be a commit of 40 hex digits, received {revision!r}; names can move")
        return revision
    _import_datasets()
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(repository).sha
    except OSError as error:
        raise InputError(f"data set {repository} cannot be reached: {_first_line(error)}") from error


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError.of("datasets", "train") from error
    return datasets


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
