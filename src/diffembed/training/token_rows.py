"""Text files as rows of tokens: one stream, cut without padding.

Read `read_token_rows`. Every row starts with what the tokenizer writes in front of a text, as at inference. Ids come
from `embedding/text.py`, files from `data/text_files.py`. Rows are held in memory, four bytes a token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffembed.data.files import read_lines, read_rows
from diffembed.data.negatives import row_generator
from diffembed.data.text_files import find_text_files, is_text
from diffembed.embedding.text import TextTemplate, Tokenizer
from diffembed.errors import EmptyInputError, InputError
from diffembed.provenance import hash_file
from diffembed.training.settings import resolve_path

PIECE_BYTES = 1 << 14
"""Text tokenised at a time; cut between two lines that are not blank, where no token crosses."""


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """Rows of equal length."""

    rows: NDArray[np.int32]
    """[num rows, row tokens]"""
    inputs: dict[str, str]
    """File -> content hash."""

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows."""
        return int(self.rows.size)


def read_token_rows(
    names: Sequence[str],
    tokenizer: Any,
    *,
    row_tokens: int,
    max_rows: int | None = None,
    seed: int | None = None,
) -> TokenRows:
    """Rows of all files, in order; the end of the stream that fills no row is left out.

    tokenizer: a transformers fast tokenizer.
    max_rows: keeps so many of them: a seeded sample, or evenly spread ones where seed is None.
    Raises InputError for a file that is missing or of another kind, EmptyInputError when the text fills no row.
    """
    plain = Tokenizer(tokenizer, TextTemplate(), max_tokens=1 << 30, pools_special_tokens=False)
    (empty,) = plain.encode([""], kind="document")
    head = empty.windows[0].ids[: empty.windows[0].pool_start]
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    files = find_text_files([resolve_path(name) for name in names])
    pieces: list[NDArray[np.int32]] = []
    for path in files:
        for text, is_last in _read_pieces(path):
            (tokenized,) = plain.encode([text], kind="document")
            tokens = tokenized.windows[0]
            pieces.append(tokens.ids[tokens.pool_start : tokens.pool_stop])
            if is_last and end:
                pieces.append(np.asarray(end, dtype=np.int32))
    stream = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)
    body = row_tokens - len(head)
    num_rows = len(stream) // body
    if num_rows == 0:
        raise EmptyInputError(
            f"{', '.join(names)} hold {len(stream)} tokens, less than one row of {row_tokens}; add text or shorten rows"
        )
    rows = np.empty((num_rows, row_tokens), dtype=np.int32)
    rows[:, : len(head)] = head
    rows[:, len(head) :] = stream[: num_rows * body].reshape(num_rows, body)
    if max_rows is not None and max_rows < num_rows:
        rows = rows[_choose(num_rows, max_rows, seed)]
    return TokenRows(rows=rows, inputs={f"text {path.parent.name}/{path.name}": hash_file(path) for path in files})


def _read_pieces(path: Path) -> Iterator[tuple[str, bool]]:
    """(text, whether a document ends with it) over a file; a text file is one document, a row is one."""
    if is_text(path):
        piece: list[str] = []
        size = 0
        for number, raw in enumerate(read_lines(path), start=1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}:{number} is not UTF-8 text ({error.reason}); save the file as UTF-8"
                ) from error
            if size >= PIECE_BYTES and line.strip() and piece[-1].strip():
                yield "".join(piece), False
                piece, size = [], 0
            piece.append(line)
            size += len(raw)
        yield "".join(piece), True
        return
    for where, row in read_rows(path):
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise InputError(f"{where} has no column 'text' with a string in it")
        if text.strip():
            yield text, True


def _choose(num_rows: int, num: int, seed: int | None) -> NDArray[np.int64]:
    if seed is None:
        return np.linspace(0, num_rows - 1, num).round().astype(np.int64)
    return row_generator(seed, "token rows").permutation(num_rows)[:num]
