"""What an answer says: its tagged parts, its code, its verdict, and whether it is whole.

Read `sections` first. Models decorate the same tag in many ways (`**Problem**`, `**Problem:**`, `## Problem`); all
are understood, at the start of a line only. This module knows nothing of prompts or rows.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)
FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#.-]*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
FENCE_MARK = re.compile(r"^[ \t]*```", re.MULTILINE)
VERDICT = re.compile(r"^\W*(?:(?:answer|response|verdict|result)\W+)?(yes|no)\b", re.IGNORECASE)
REFUSAL = re.compile(
    r"^\W*(?:i(?:'|\u2019)?m sorry|i am sorry|sorry,"
    r"|i (?:can(?:'|\u2019)t|cannot|can not|won(?:'|\u2019)t|am unable|am not able)"
    r"|as an ai\b|unfortunately, i (?:can|am))",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """One fenced block."""

    tag: str
    code: str
    start: int
    """Offset of its opening fence in the text."""


def without_thinking(text: str) -> str:
    """The answer proper: what reasoning models write between think tags is left out, also when it never ends."""
    text = THINKING.sub("", text)
    return text.partition("<think>")[0].strip()


def sections(text: str, names: Sequence[str]) -> dict[str, str]:
    """Tag -> what stands below it, up to the next of these tags; tags that do not occur are left out.

    The first occurrence of a tag counts. Tags without bold or heading marks count only when none is marked.
    """
    alternatives = "|".join(re.escape(name) for name in names)
    marked = rf"^[ \t]*(?:#{{1,6}}[ \t]*)?(?:\*\*|__)[ \t]*({alternatives})[ \t]*:?[ \t]*(?:\*\*|__)[ \t]*:?[ \t]*"
    headed = rf"^[ \t]*#{{1,6}}[ \t]*({alternatives})[ \t]*:?[ \t]*$"
    plain = rf"^[ \t]*({alternatives})[ \t]*:[ \t]*"
    for pattern in (marked, headed, plain):
        found = list(re.finditer(pattern, text, re.MULTILINE | re.IGNORECASE))
        if found:
            break
    else:
        return {}
    canonical = {name.casefold(): name for name in names}
    parts: dict[str, str] = {}
    for match, following in zip(found, [*found[1:], None], strict=True):
        name = canonical[match.group(1).casefold()]
        parts.setdefault(name, text[match.end() : following.start() if following else len(text)].strip())
    return parts


def code_blocks(text: str) -> list[CodeBlock]:
    """The fenced blocks of a text in order; one that never closes is none."""
    return [
        CodeBlock(match.group(1).casefold(), match.group(2).rstrip(), match.start()) for match in FENCE.finditer(text)
    ]


def verdict(text: str) -> bool | None:
    """True for yes, False for no, None when the answer begins with neither; marks around the word do not matter."""
    match = VERDICT.match(text)
    return match.group(1).casefold() == "yes" if match else None


def is_refusal(text: str) -> bool:
    """Whether the answer declines instead of answering."""
    return REFUSAL.match(text) is not None


def is_cut(text: str) -> bool:
    """Whether a text ends inside a code block or a LaTeX environment."""
    return len(FENCE_MARK.findall(text)) % 2 == 1 or text.count(r"\begin{") > text.count(r"\end{")


def whole_part(text: str) -> str:
    """The part of a cut text that can stand alone: what precedes an unfinished code block, else whole paragraphs."""
    marks = list(FENCE_MARK.finditer(text))
    if len(marks) % 2:
        text = text[: marks[-1].start()]
    elif text.rstrip()[-1:] not in (".", "!", "?", "$", "`", "]", ")", "\u3002"):
        text = text.rpartition("\n\n")[0]
    return without_dangling_heading(text)


def without_dangling_heading(text: str) -> str:
    """The text without a heading at its end that introduces nothing."""
    return re.sub(r"\n[ \t]*(?:\*\*[^*\n]+\*\*:?|#{1,6}[^\n]*)\s*$", "", text.rstrip()).rstrip()
