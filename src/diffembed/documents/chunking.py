"""Where a text is cut into passages: whole, in pieces of one size, or by its headings; every offset is exact.

Read `ChunkPolicy`, then `cut_document`. Measures characters; whoever knows a tokenizer may hand in where tokens start.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from diffembed.documents.kinds import is_code
from diffembed.errors import ConfigError, UnknownNameError
from diffembed.records import Document

CHUNK_CHARS = 640
"""Longest chunk. Chosen because all prose and nearly all source code of this length fits the 256 tokens that small
encoders read: of the chunks of Python's asyncio none is longer, at 1,000 characters every eighth is."""
CHUNK_TOKENS = 256
"""Longest chunk where tokens are counted."""

ChunkKind = Literal["whole", "fixed", "heading", "late"]
ChunkUnit = Literal["characters", "tokens"]
TokenStarts = Callable[[str], Sequence[int]]
"""Text -> offset of the first character of each of its tokens, ascending."""

# From the best place to cut to the worst; a match ends where the next chunk begins.
_CUTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\n(?=#{1,6} )",  # before a markdown heading
        r"\n[ \t\r]*\n(?=\S)",  # between paragraphs, or definitions that start at the margin
        r"\n[ \t\r]*\n",
        r"\n",
        r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])",  # after a sentence, western or CJK
        r"\s+",
    )
)
_BLANK_LINES = re.compile(r"(?:[^\S\n]*\n)*")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`\n]*$)|~{3,})")
_HASHES = re.compile(r"(#{1,6})[ \t]+(.*?)[ \t]*#*$")
_UNDERLINE = re.compile(r"([=\-~^\"'*+#])\1{2,}[ \t]*$")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkPolicy:
    """How documents are cut; part of what an index is."""

    kind: ChunkKind = "heading"
    """whole: not at all. fixed: pieces of one size. heading: sections, and pieces of those that are too long; the
    headings above a piece become its title, and source code has none. late: the pieces of `fixed`, pooled from one pass
    over the document."""
    size: int | None = None
    """Longest chunk in `unit`, at least 1; `None` takes 640 characters or 256 tokens. `whole` has none."""
    unit: ChunkUnit = "characters"
    """What `size` and `overlap` count; tokens of the whole document, template not included."""
    overlap: int = 0
    """What a chunk repeats of the one before, in `unit`; at most half of `size`."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("chunk policy", self.kind, get_args(ChunkKind)),
            ("unit of chunks", self.unit, get_args(ChunkUnit)),
        ):
            if value not in known:
                raise UnknownNameError.of(name, value, known)
        if self.kind == "whole" and (self.size is not None or self.overlap or self.unit != "characters"):
            raise ConfigError("whole documents are not cut, so size, unit and overlap would have no effect")
        if self.size is not None and self.size < 1:
            raise ConfigError(f"the size of chunks must be at least 1, got {self.size}")
        if not 0 <= self.overlap <= self.longest // 2:
            raise ConfigError(f"overlap is {self.overlap}; chunks of {self.longest} allow 0 to {self.longest // 2}")

    @property
    def longest(self) -> int:
        """`size`, or what stands in for it."""
        return self.size or (CHUNK_CHARS if self.unit == "characters" else CHUNK_TOKENS)


@dataclass(frozen=True, slots=True)
class _Ruler:
    """Moves along a text by characters, or by tokens that start at `starts`."""

    policy: ChunkPolicy
    starts: Sequence[int] | None

    def limit(self, position: int) -> int:
        """Where a chunk that begins at `position` must have ended; beyond any text where it may take all the rest."""
        if self.starts is None:
            return position + self.policy.longest
        last = bisect_left(self.starts, position) + self.policy.longest
        return self.starts[last] if last < len(self.starts) else 1 << 62

    def back(self, end: int) -> int:
        """Where the overlap with a chunk that ended at `end` begins."""
        if self.starts is None:
            return end - self.policy.overlap
        return self.starts[max(0, bisect_left(self.starts, end) - self.policy.overlap)]


def cut_document(
    document: Document, policy: ChunkPolicy, *, token_starts: TokenStarts | None = None, counts_lines: bool = True
) -> list[Document]:
    """The passages of a document in order: `text[start : start + len(chunk.text)]` is the chunk.

    A document that fits keeps its id, others become `id#start`; `parent` is the document. White space around chunks is
    left out, and a document of white space has none.
    token_starts: needed where the policy counts tokens.
    counts_lines: False where line breaks of the text are not those of its source, so that all chunks share its line.
    """
    text = document.text
    starts = token_starts(text) if policy.unit == "tokens" and token_starts is not None else None
    if policy.unit == "tokens" and starts is None:
        raise ConfigError("chunks of tokens need an encoder that has a tokenizer; count characters instead")
    ruler = _Ruler(policy, starts)
    has_headings = policy.kind == "heading" and not is_code(document.source)
    sections = _sections(text) if has_headings else [(0, len(text), "")]
    spans: list[tuple[int, int, str]] = []
    for start, stop, trail in sections:
        if policy.kind == "whole":
            found: Iterator[tuple[int, int]] = iter([(_blank_end(text, start, stop), len(text[:stop].rstrip()))])
        else:
            found = cut_spans(text, start, stop, ruler.limit, ruler.back if policy.overlap else None)
        spans += [(first, last, trail) for first, last in found if first < last]
    breaks = [match.start() for match in re.finditer("\n", text)] if counts_lines else []
    is_whole = len(spans) == 1
    return [
        Document(
            id=document.id if is_whole else f"{document.id}#{document.start + start}",
            text=text[start:stop],
            title=_join_titles(document.title, trail),
            source=document.source,
            start=document.start + start,
            line=document.line + bisect_left(breaks, start),
            parent=document.id,
            metadata=document.metadata,
        )
        for start, stop, trail in spans
    ]


def cut_spans(
    text: str, start: int, stop: int, limit: Callable[[int], int], back: Callable[[int], int] | None = None
) -> Iterator[tuple[int, int]]:
    """(start, stop) of the chunks of `text[start:stop]`, cut at headings, paragraphs, lines, sentences or words.

    limit: where a chunk that begins at a position must have ended. back: where the next one begins when it overlaps.
    """
    position = start
    while position < stop:
        end = _cut_after(text, position, min(limit(position), stop), stop)
        # Blank lines in front go; the indentation of the first line of text stays.
        first = _blank_end(text, position, end)
        last = first + len(text[first:end].rstrip())
        if first < last:
            yield first, last
        position = end
        if back is not None and end < stop:
            earliest = max(back(end), first + 1)
            # The overlap begins with a whole word, if it has one.
            space = re.compile(r"\s+").search(text, earliest, end)
            position = space.end() if space and space.end() < end else min(earliest, end)


def _cut_after(text: str, start: int, limit: int, stop: int) -> int:
    """Where the chunk that begins at `start` ends: the last of the best cuts in the second half of its room."""
    if limit >= stop:
        return stop
    for pattern in _CUTS:
        ends = [match.end() for match in pattern.finditer(text, start + (limit - start) // 2, limit)]
        if ends and ends[-1] > start:
            return ends[-1]
    return max(limit, start + 1)


def _blank_end(text: str, start: int, end: int) -> int:
    match = _BLANK_LINES.match(text, start, end)
    return match.end() if match else start


def _sections(text: str) -> list[tuple[int, int, str]]:
    """(start, stop, headings above joined by ` > `); a heading without text of its own opens the section after it."""
    trail: list[tuple[int, str]] = []
    sections: list[tuple[int, int, str]] = []
    start, body, title = 0, 0, ""
    for place, end, level, name in _headings(text):
        if text[body:place].strip():
            sections.append((start, place, title))
            start = place
        trail = [*(above for above in trail if above[0] < level), (level, name)]
        title, body = " > ".join(name for _, name in trail), end
    return [*sections, (start, len(text), title)]


def _headings(text: str) -> Iterator[tuple[int, int, int, str]]:
    """(start of its line, end, level, words) of every heading: `# x`, or a line underlined; none inside fences."""
    fence, before, before_at, at = "", "", 0, 0
    levels: dict[str, int] = {"=": 1, "-": 2}
    for line in text.splitlines(keepends=True):
        bare = line.rstrip()
        if opened := _FENCE.match(line):
            if not fence:
                fence = opened[1]
            elif opened[1].startswith(fence):
                fence = ""
        elif not fence:
            if hashes := _HASHES.match(bare):
                yield at, at + len(line), len(hashes[1]), hashes[2]
            elif (under := _UNDERLINE.match(bare)) and _is_title(before) and len(bare) >= len(before):
                yield before_at, at + len(line), levels.setdefault(under[1], len(levels) + 1), before.strip()
        before, before_at = bare, at
        at += len(line)


def _is_title(line: str) -> bool:
    return bool(line) and not line[0].isspace() and not _UNDERLINE.match(line) and any(map(str.isalnum, line))


def _join_titles(title: str, trail: str) -> str:
    """The document's title, unless the first heading says it again."""
    if not title or not trail:
        return title or trail
    return trail if trail.partition(" > ")[0] in title or title in trail else f"{title} > {trail}"
