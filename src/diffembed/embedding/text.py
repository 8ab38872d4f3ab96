"""The only place where text becomes ids: instruction, template, special tokens, truncation.

Read `TextTemplate`, then `Tokenizer.encode`. Training and inference call the same function, and the template is saved
with the checkpoint. Parts are tokenised apart and joined as ids, so that a boundary never drifts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError, InputError, OverflowingTextError, UnknownNameError

Kind = Literal["query", "document"]
Overflow = Literal["error", "truncate", "chunk"]
OVERFLOWS: tuple[Overflow, ...] = ("error", "truncate", "chunk")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTemplate:
    """How a text is dressed before it is read; every field is part of the checkpoint."""

    instruction_format: str = "{instruction}\n"
    """Written before a query that has an instruction. The line break keeps the parts' tokens apart."""
    default_instruction: str = ""
    """Used for queries when the caller passes `None`; empty for none."""
    document_prefix: str = ""
    """Written before every document (`passage: ` in the E5 models)."""
    wrapper: str = "{text}"
    """Chat wrapper around instruction and text, attended and never pooled; `{text}` marks their place."""
    appends_eos: bool = False
    """True writes the end-of-text token last and counts it as part of the text (E5-Mistral pools it)."""
    pools_instruction: bool = False
    """True averages the instruction's tokens too, the setting of arXiv 2505.15045; else they are only attended."""
    pools_special_tokens: bool | None = None
    """True pools what the tokenizer writes around a text, as sentence-transformers does; `None`: as the family does."""

    def __post_init__(self) -> None:
        for field, mark in (("instruction_format", "{instruction}"), ("wrapper", "{text}")):
            if getattr(self, field).count(mark) != 1:
                raise ConfigError(f"{field} is {getattr(self, field)!r}; it must contain {mark} once")

    def instruction_text(self, kind: Kind, instruction: str | None) -> str:
        """What stands before the text. Raises ConfigError for a document with an instruction."""
        if kind == "document":
            if instruction:
                raise ConfigError("documents take no instruction; encode the text as a query, or leave it out")
            return self.document_prefix
        chosen = self.default_instruction if instruction is None else instruction
        return self.instruction_format.replace("{instruction}", chosen) if chosen else ""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text, or one window of it, as the network reads it."""

    ids: NDArray[np.int32]
    pool_start: int
    pool_stop: int
    """The half-open range of tokens that is pooled; empty for a text without any token."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """The windows of one text: one, or several under the policy `chunk`."""

    windows: tuple[Tokens, ...]
    is_truncated: bool

    @property
    def num_tokens(self) -> int:
        """Tokens the network reads for this text."""
        return sum(len(window) for window in self.windows)


@dataclass(frozen=True, slots=True)
class WindowedText:
    """A document in overlapping windows, each dressed like a text of its own, with the place of every token."""

    windows: tuple[Tokens, ...]
    """Empty for a text without any token."""
    starts: tuple[int, ...]
    """Of each window: the first of the text's own tokens that it reads."""
    num_before: int
    """Tokens of the template in front of the text's own, in every window."""
    anchors: NDArray[np.int64]
    """Of each of the text's own tokens: the character that decides to which part of the text it belongs."""


class Tokenizer:
    """A checkpoint's tokenizer under a template."""

    def __init__(self, tokenizer: Any, template: TextTemplate, *, max_tokens: int, pools_special_tokens: bool) -> None:
        """`tokenizer`: a transformers fast tokenizer."""
        self._backend = tokenizer.backend_tokenizer
        # Truncation or padding that a tokenizer.json switches on would cut and fill behind our back.
        self._backend.no_truncation()
        self._backend.no_padding()
        self.template = template
        self.max_tokens = max_tokens
        stored = template.pools_special_tokens
        self._pools_special_tokens = pools_special_tokens if stored is None else stored
        self._bos, self._tail = self._special_tokens()
        before, after = template.wrapper.split("{text}")
        self._before, self._after = self._encode_one(before), self._encode_one(after)
        if template.appends_eos and tokenizer.eos_token_id is None:
            raise ConfigError("appends_eos is set, but the tokenizer has no end-of-text token")
        self._eos = [int(tokenizer.eos_token_id)] if template.appends_eos else []

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """(ids written first, ids written last) of a single sequence: [BOS], [] or [CLS], [SEP]."""
        bare = self._backend.encode("a", add_special_tokens=False).ids
        full = self._backend.encode("a", add_special_tokens=True).ids
        start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
        return full[:start], full[start + len(bare) :]

    def _encode_one(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids if text else []

    def encode(
        self,
        texts: Sequence[str | Sequence[int]],
        *,
        kind: Kind,
        instruction: str | None = None,
        overflow: Overflow = "truncate",
    ) -> list[TokenizedText]:
        """Ids of each text, at most `max_tokens` a window, and the range that is pooled.

        texts: a text may be given as its ids by this tokenizer, with or without the special tokens around them.
        overflow: `error` refuses a longer text, `truncate` cuts its end, `chunk` cuts it into windows.
        Raises InputError for what is not a string, OverflowingTextError, ConfigError if the instruction leaves no room.
        """
        if overflow not in OVERFLOWS:
            raise UnknownNameError.of("overflow policy", overflow, list(OVERFLOWS))
        head, prefix, tail, room = self._parts(kind, instruction)
        results = []
        for position, ids in enumerate(self._ids_of(texts)):
            is_long = len(ids) > room
            if is_long and overflow == "error":
                raise OverflowingTextError(
                    f"text {position} has {len(ids)} tokens, {room} fit; use overflow='truncate' or 'chunk'"
                )
            stops = range(room, len(ids) + room, room) if is_long and overflow == "chunk" else (room,)
            windows = tuple(self._dress(head, prefix, ids[stop - room : stop], tail) for stop in stops)
            results.append(TokenizedText(windows, is_truncated=is_long and overflow == "truncate"))
        return results

    def encode_windows(self, texts: Sequence[str], *, overlap_tokens: int) -> list[WindowedText]:
        """Documents whole: those beyond `max_tokens` in windows that share `overlap_tokens` with the one before.

        Raises InputError for what is not a string, ConfigError for an overlap that leaves a window nothing new.
        """
        head, prefix, tail, room = self._parts("document", None)
        if not 0 <= overlap_tokens < room:
            raise ConfigError(f"overlap_tokens is {overlap_tokens}; a window holds {room} tokens, allowed is less")
        step = room - overlap_tokens
        results = []
        cleaned = [clean(text) for text in texts]
        for text, encoding in zip(cleaned, self._backend.encode_batch(cleaned, add_special_tokens=False), strict=True):
            ids = encoding.ids
            # The last window starts before the end of the one before it: no window repeats what others have read.
            starts = tuple(range(0, max(len(ids) - overlap_tokens, 1), step)) if ids else ()
            windows = tuple(self._dress(head, prefix, ids[start : start + room], tail) for start in starts)
            results.append(WindowedText(windows, starts, len(head) + len(prefix), _anchors(text, encoding.offsets)))
        return results

    def _parts(self, kind: Kind, instruction: str | None) -> tuple[list[int], list[int], list[int], int]:
        """(ids before the instruction, the instruction's, ids after the text, room for the text's own).

        Raises ConfigError if the instruction leaves no room.
        """
        head = self._bos + self._before
        prefix = self._encode_one(clean(self.template.instruction_text(kind, instruction)))
        tail = self._after + self._tail
        room = self.max_tokens - len(head) - len(prefix) - len(self._eos) - len(tail)
        if room < 1:
            raise ConfigError(
                f"the instruction and the template take {self.max_tokens - room} tokens, the limit is "
                f"{self.max_tokens}; shorten the instruction or raise max_tokens"
            )
        return head, prefix, tail, room

    def spans(self, text: str, tokenized: TokenizedText) -> list[NDArray[np.int64]]:
        """[T, 2] of each window of a document: the characters (start, stop) of `clean(text)` that a token stands for.

        (0, 0) marks what is no part of the text: special tokens, prefix, wrapper.
        """
        lead = len(self._bos) + len(self._before) + len(self._encode_one(clean(self.template.document_prefix)))
        dress = lead + len(self._eos) + len(self._after) + len(self._tail)
        offsets = self._backend.encode(clean(text), add_special_tokens=False).offsets
        spans, position = [], 0
        for window in tokenized.windows:
            spans_T2 = np.zeros((len(window), 2), dtype=np.int64)
            own = offsets[position : position + len(window) - dress]
            if own:
                spans_T2[lead : lead + len(own)] = own
            spans.append(spans_T2)
            position += len(own)
        return spans

    def _ids_of(self, texts: Sequence[str | Sequence[int]]) -> list[list[int]]:
        """The ids of each text alone, no special tokens."""
        strings = [clean(text) for text in texts if isinstance(text, str)]
        encodings = iter(self._backend.encode_batch(strings, add_special_tokens=False))
        return [next(encodings).ids if isinstance(text, str) else self._bare_ids(text) for text in texts]

    def _bare_ids(self, given: Sequence[int]) -> list[int]:
        if not isinstance(given, Sequence) or not all(type(token) is int for token in given):
            raise InputError(f"a text must be a string or a list of token ids, got {type(given).__name__}")
        ids, size = list(given), self._backend.get_vocab_size()
        if wrong := [token for token in ids if not 0 <= token < size]:
            raise InputError(f"token id {wrong[0]} does not exist; the tokenizer has 0 to {size - 1}")
        if self._bos and ids[: len(self._bos)] == self._bos:
            ids = ids[len(self._bos) :]
        if self._tail and ids[-len(self._tail) :] == self._tail:
            ids = ids[: -len(self._tail)]
        return ids

    def _dress(self, head: list[int], prefix: list[int], ids: list[int], tail: list[int]) -> Tokens:
        text = ids + self._eos
        whole = np.array(head + prefix + text + tail, dtype=np.int32)
        if self._pools_special_tokens:
            # sentence-transformers leaves out a prompt with the tokens that open it, never what ends the text.
            template = self.template
            is_left_out = template.pools_special_tokens and not template.pools_instruction and (prefix or self._before)
            return Tokens(whole, len(head) + len(prefix) if is_left_out else 0, len(whole))
        start = len(head) if self.template.pools_instruction else len(head) + len(prefix)
        stop = len(head) + len(prefix) + len(text)
        # A text without a token of its own pools nothing, not its instruction.
        return Tokens(whole, start, stop) if text else Tokens(whole, stop, stop)


def _anchors(text: str, offsets: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """First character of each token that is no space; of a token of spaces, its first."""
    return np.array(
        [next((i for i in range(start, stop) if not text[i].isspace()), start) for start, stop in offsets],
        dtype=np.int64,
    )


def clean(text: str) -> str:
    """The text with lone surrogates as U+FFFD. Raises InputError for what is not a string."""
    if not isinstance(text, str):
        raise InputError(f"a text must be a string, got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
