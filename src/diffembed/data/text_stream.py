"""Text files as one shuffled stream of tokens, cut into rows of one length: the input of adaptation.

Read `tokenise_files`, then `TokenRows`. Texts are tokenised once into a folder of the user's cache; after that any row
of any pass is at hand by its number, so a resumed run asks for the rows it lacks. Knows nothing of masking.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from diffembed.data.formats import DEFAULT_MAX_BAD_ROWS, RowReport
from diffembed.data.negatives import row_generator
from diffembed.data.text_files import Piece, find_text_files, read_documents
from diffembed.errors import ConfigError, EmptyInputError
from diffembed.provenance import atomic_folder, hash_bytes, hash_file, hash_text, user_cache, write_json

# R = rows asked for, T = tokens of a row

CACHE_VERSION = 1
BATCH_CHARACTERS = 2_000_000
"""Characters tokenised at a time: enough for every core, little enough to hold."""
TOKEN_TYPE = np.dtype("<u4")


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    bos_token_id: int | None
    eos_token_id: int | None

    def __call__(self, text: list[str], **options: Any) -> Any:
        """A mapping whose `input_ids` has a list of ids per text."""
        ...


@dataclass(frozen=True, kw_only=True)
class TokenText:
    """Tokenised documents, in the order of their files."""

    tokens: NDArray[np.uint32]
    """All documents one after the other, each with the separator behind it; mapped from disk."""
    ends: NDArray[np.int64]
    """[documents] position behind the last token of each."""
    inputs: dict[str, str]
    """File name -> content hash."""
    report: RowReport
    """Documents read, and rows or lines that could not be."""

    @property
    def num_documents(self) -> int:
        """Documents, blank ones not counted."""
        return len(self.ends)

    def document(self, number: int) -> NDArray[np.uint32]:
        """The tokens of one document, the separator included."""
        start = self.ends[number - 1] if number else 0
        return self.tokens[start : self.ends[number]]

    def split(self, held_out_fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the documents to train on and of those held out, each in file order.

        A document's side depends on the seed and its tokens alone: copies stay together, and other files change
        nothing. Raises ConfigError when one side would be empty.
        """
        if not 0 < held_out_fraction < 1:
            raise ConfigError(f"held_out_fraction must lie between 0 and 1, received {held_out_fraction}")
        limit = int(held_out_fraction * 2**60)
        draws = [self._draw(number, seed) for number in range(self.num_documents)]
        is_held_out = np.array([draw < limit for draw in draws])
        if is_held_out.all() or not is_held_out.any():
            raise ConfigError(
                f"{held_out_fraction} of {self.num_documents} documents leaves one side empty; hold whole files out"
            )
        return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)

    def _draw(self, number: int, seed: int) -> int:
        return int(hash_bytes(f"{seed} ".encode() + self.document(number).tobytes())[:15], 16)


def tokenise_files(
    paths: Sequence[Path | str],
    tokenizer: Tokenizer,
    *,
    excluded: Sequence[str] = (),
    column: str = "text",
    max_bad_rows: int = DEFAULT_MAX_BAD_ROWS,
    cache: Path | str | None = None,
) -> TokenText:
    """The documents of text files (.txt, .md), row files (`column`) and folders of them, as tokens.

    Every document ends with the tokenizer's EOS token, or its BOS token where it has no other; special tokens that are
    spelt out in a text are read as plain text.
    excluded: file names (with * and ?) left out, such as the text a model is tested on.
    cache: folder of tokenised texts, None for the user's cache; the same files and tokenizer are read from there.
    Raises InputError past `max_bad_rows` bad rows or lines, EmptyInputError without text, ConfigError for a tokenizer
    with neither token.
    """
    files = find_text_files(paths, excluded)
    _separator(tokenizer)
    inputs = {f"{path.parent.name}/{path.name}": hash_file(path) for path in files}
    key = hash_text(json.dumps([CACHE_VERSION, list(inputs.values()), column, _tokenizer_hash(tokenizer)]))[:32]
    root = Path(cache) if cache is not None else user_cache() / "tokens"
    folder = root / key
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{key}.lock"):
        if not folder.exists():
            with atomic_folder(folder) as part:
                _write(part, files, tokenizer, column)
    stored = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    report = RowReport(source=stored["source"], num_rows=stored["num_rows"], num_kept=stored["num_kept"], inputs=inputs)
    report.defects.update(stored["defects"])
    report.examples += stored["examples"]
    report.check(max_bad_rows)
    return TokenText(
        tokens=np.memmap(folder / "tokens.bin", TOKEN_TYPE, mode="r"),
        ends=np.load(folder / "ends.npy"),
        inputs=inputs,
        report=report,
    )


class TokenRows:
    """Rows of `row_tokens` tokens: documents shuffled by seed, joined, cut; the remainder of the stream is left out.

    Every row starts with `head`, as texts do when they are embedded. The cut is made once; every pass has the same rows
    in another order. Row numbers count on from pass to pass.
    """

    def __init__(
        self,
        text: TokenText,
        row_tokens: int,
        seed: int,
        *,
        head: Sequence[int] = (),
        documents: NDArray[np.int64] | None = None,
        max_rows: int | None = None,
    ) -> None:
        """head: tokens in front of every row, counted in `row_tokens`; the tokenizer's BOS where texts start with it.

        documents: numbers of the documents to use, None for all; max_rows: keeps a seeded sample of the rows.
        Raises EmptyInputError when the documents do not fill one row.
        """
        if row_tokens <= len(head) or (max_rows is not None and max_rows < 1):
            raise ConfigError(
                f"rows need more than the {len(head)} tokens of their head and max_rows at least 1, received "
                f"{row_tokens} and {max_rows}"
            )
        numbers = np.arange(text.num_documents) if documents is None else documents
        self._text = text
        self._order = row_generator(seed, "documents").permutation(numbers)
        lengths = np.diff(text.ends, prepend=0)[self._order]
        self._ends = np.cumsum(lengths)
        self.row_tokens = row_tokens
        self.seed = seed
        self._head = np.asarray(head, np.int64)
        self._body_tokens = row_tokens - len(head)
        num_whole = int(lengths.sum()) // self._body_tokens
        if not num_whole:
            raise EmptyInputError(f"the text has {int(lengths.sum())} tokens, fewer than a row of {row_tokens}")
        self._kept = row_generator(seed, "sample").permutation(num_whole)[:max_rows]
        self._pass: tuple[int, NDArray[np.int64]] = (-1, self._kept)

    def __len__(self) -> int:
        """Rows of one pass."""
        return len(self._kept)

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """[R, T] rows `start` to `stop`, counted from 0 over all passes: step k of B rows reads k*B to (k+1)*B."""
        rows_RT = np.empty((stop - start, self.row_tokens), np.int64)
        for row_T, number in zip(rows_RT, range(start, stop), strict=True):
            row_T[:] = self._cut(self._place(number))
        return rows_RT

    def spread(self, num_rows: int) -> NDArray[np.int64]:
        """[R, T] rows at even distances over the stream, the same for every pass; all of them if there are fewer."""
        places = np.sort(self._kept)
        chosen = np.unique(np.linspace(0, len(places) - 1, min(num_rows, len(places))).round().astype(np.int64))
        return np.stack([self._cut(int(place)) for place in places[chosen]])

    def _place(self, number: int) -> int:
        cycle, within = divmod(number, len(self))
        if self._pass[0] != cycle:
            self._pass = (cycle, row_generator(self.seed, "rows", str(cycle)).permutation(self._kept))
        return int(self._pass[1][within])

    def _cut(self, place: int) -> NDArray[np.int64]:
        start, stop = place * self._body_tokens, (place + 1) * self._body_tokens
        parts: list[NDArray[Any]] = [self._head]
        number = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            tokens = self._text.document(int(self._order[number]))
            first = start - (int(self._ends[number]) - len(tokens))
            part = tokens[first : first + stop - start]
            parts.append(part)
            start += len(part)
            number += 1
        return np.concatenate(parts).astype(np.int64)


def _write(folder: Path, files: Sequence[Path], tokenizer: Tokenizer, column: str) -> None:
    """Tokenises the files into `tokens.bin`, `ends.npy` and `report.json`."""
    report = RowReport(source="text")
    lengths: list[int] = []
    is_last: list[bool] = []
    with (folder / "tokens.bin").open("wb") as out:
        for pieces in _batches(piece for path in files for piece in read_documents(path, report, column=column)):
            for tokens in _tokenise(pieces, tokenizer):
                out.write(tokens.tobytes())
                lengths.append(len(tokens))
            is_last += [piece.is_last for piece in pieces]
    if not lengths:
        report.check(report.num_bad)
    np.save(folder / "ends.npy", np.cumsum(np.asarray(lengths, np.int64))[np.asarray(is_last)])
    kept = ("source", "num_rows", "num_kept", "defects", "examples")
    write_json(folder / "report.json", {name: getattr(report, name) for name in kept})


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    num_characters = 0
    for piece in pieces:
        batch.append(piece)
        num_characters += len(piece.text)
        if num_characters >= BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _tokenise(pieces: Sequence[Piece], tokenizer: Tokenizer) -> Iterator[NDArray[np.uint32]]:
    encoded = tokenizer(
        [piece.text for piece in pieces],
        add_special_tokens=False,
        return_attention_mask=False,
        split_special_tokens=True,
        verbose=False,
    )["input_ids"]
    separator = _separator(tokenizer)
    for piece, ids in zip(pieces, encoded, strict=True):
        yield np.asarray([*ids, separator] if piece.is_last else ids, TOKEN_TYPE)


def _separator(tokenizer: Tokenizer) -> int:
    """The token that parts documents."""
    token = tokenizer.bos_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    if token is None:
        raise ConfigError("the tokenizer has neither an EOS nor a BOS token, so nothing would part documents")
    return token


def _tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Of everything that decides which ids a text becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    definition = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))  # type: ignore[attr-defined]
    return hash_text(f"{tokenizer.bos_token_id} {tokenizer.eos_token_id} {definition}")
