"""Data sets of the Hugging Face hub as sources of an index.

Read `stream_hub`. An address is `hf://datasets/OWNER/NAME`, with `?config=C&split=S` where the set has several and
`@COMMIT` for a pinned state; `hf://datasets//a/folder` is a local folder in the layout of a hub data set.
"""

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl

from diffembed.data.hub import pin_revision, stream_rows
from diffembed.documents import FoundText, ReadOptions
from diffembed.documents.rows import choose_columns, row_document
from diffembed.documents.streaming import OnSkip
from diffembed.errors import ConfigError, InputError

PREFIX = "hf://datasets/"
_ADDRESS = re.compile(rf"{PREFIX}(?P<name>[^?@]+)(?:@(?P<revision>[^?]+))?(?:\?(?P<query>.*))?")


def is_hub(source: object) -> bool:
    """Whether a source is an address on the hub."""
    return str(source).startswith("hf://")


def parse_address(source: str) -> tuple[str, str | None, dict[str, str]]:
    """(repository, commit, config and split). Raises ConfigError for what is no address."""
    match = _ADDRESS.fullmatch(source)
    query = dict(parse_qsl(match["query"] or "")) if match else {}
    if match is None or not set(query) <= {"config", "split"}:
        raise ConfigError(f"{source} is no address; write {PREFIX}OWNER/NAME, then @COMMIT or ?config=C&split=S")
    return match["name"], match["revision"], query


def stream_hub(source: str, options: ReadOptions, *, on_skip: OnSkip) -> Iterator[FoundText]:
    """A text per row, streamed; ids are the rows' own, else `NAME#number`.

    Raises ConfigError for a malformed address, InputError for a set that cannot be reached.
    """
    repository, revision, query = parse_address(source)
    commit = pin_revision(repository, revision)
    rows = stream_rows(repository, config=query.get("config"), split=query.get("split", "train"), revision=commit)
    columns: tuple[str, str | None] | None = None
    for number, (place, row) in enumerate(rows, start=1):
        try:
            columns = columns or choose_columns(row, repository, options.text_column, options.id_column)
            number_id = f"{repository}#{number}"
            document = row_document(row, columns, place, name=source, line=number, number_id=number_id)
        except InputError as error:
            if columns is None:
                raise
            on_skip(place, str(error))
            continue
        yield FoundText(id=document.id, source=source, counts_lines=False, row=document)
