"""The readable text of an HTML page, as plain markdown: headings as `#` lines, code in fences, everything else prose.

Read `html_text`. Parsed by selectolax, chosen over beautifulsoup4 because it reads the Python manual ten times as fast.
"""

import re
from typing import Any

from diffembed.documents.decoding import decode
from diffembed.errors import InputError, MissingExtraError

_DROPPED_WORDS = "script style noscript template nav footer aside svg button form iframe head"
_DROPPED = frozenset(_DROPPED_WORDS.split())
_BLOCK_WORDS = (
    "address article blockquote body caption center dd details div dl dt fieldset figcaption figure header hr html li"
    " main ol p section summary table tbody tfoot thead tr ul"
)
_BLOCKS = frozenset(_BLOCK_WORDS.split())
_CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_MAIN = ('[role="main"]', "main", "article", "body")
SMALLEST_MAIN = 0.2
"""Least share of a page's text that its main part has."""
_CHARSET_BYTES = 2048
"""How far into a page its declaration of another encoding than UTF-8 is looked for."""


def html_text(raw: bytes, name: str) -> tuple[str, str]:
    """(title, text) of a page; menus, scripts, footers and what is hidden are left out.

    An encoding that the page declares is believed where it is not UTF-8. Raises InputError for what is not text.
    """
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError as error:
        raise MissingExtraError.of("selectolax", "index") from error
    tree = LexborHTMLParser(_decode(raw, name))
    title = tree.css_first("title")
    roots = next((found for selector in _MAIN if (found := tree.css(selector))), [])
    whole = _text_of(tree.body)
    # A page of several articles is read whole, and so is one whose main part is empty or a mere teaser.
    text = _text_of(roots[0]) if len(roots) == 1 else whole
    text = text if len(text) >= SMALLEST_MAIN * len(whole) else whole
    return _squeeze(title.text() if title is not None else ""), text


def _text_of(root: Any) -> str:
    writer = _Writer()
    if root is not None:
        _walk(root, writer)
    return writer.text()


def _decode(raw: bytes, name: str) -> str:
    try:
        return decode(raw, name)
    except InputError:
        declared = _CHARSET.search(raw[:_CHARSET_BYTES])
        if declared is None:
            raise
        try:
            return raw.decode(declared[1].decode("ascii"))
        except (LookupError, UnicodeError):
            raise InputError(f"{name} is not {declared[1].decode('ascii')} text as it declares") from None


class _Writer:
    """Puts words, line breaks and blank lines together; white space outside of code is one space."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._gap = ""

    def words(self, text: str) -> None:
        """Running text; its white space is that of a sentence."""
        bare = " ".join(text.split())
        if text[:1].isspace() or not bare:
            self.gap(" ")
        if bare:
            self._write(bare)
            if text[-1:].isspace():
                self.gap(" ")

    def gap(self, gap: str) -> None:
        """At least this much before what comes next: a space, a line break or a blank line."""
        if len(gap.replace(" ", "")) > len(self._gap.replace(" ", "")) or not self._gap:
            self._gap = gap

    def mark(self, text: str) -> None:
        """Text as it is, which binds what comes next to itself."""
        self._write(text)

    def code(self, text: str) -> None:
        """A fenced block, longer fenced than anything in it."""
        body = text.strip("\n").rstrip()
        if body:
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", body)), default=0))
            self.gap("\n\n")
            self._write(f"{fence}\n{body}\n{fence}")
            self.gap("\n\n")

    def _write(self, text: str) -> None:
        if self._parts:
            self._parts.append(self._gap)
        self._parts.append(text)
        self._gap = ""

    def text(self) -> str:
        """All of it, with a line break at the end."""
        return "".join(self._parts).strip() + "\n" if self._parts else ""


def _walk(root: Any, writer: _Writer) -> None:
    """Depth first without recursion: a page may nest deeper than Python's stack."""
    node, is_entering = root, True
    while True:
        below = node.child if is_entering and _enter(node, writer) else None
        if below is not None:
            node = below
            continue
        if node.tag != "-text":
            _leave(node, writer)
        if node.mem_id == root.mem_id:
            return
        is_entering = node.next is not None
        node = node.next if is_entering else node.parent
        if not is_entering:
            continue


def _enter(node: Any, writer: _Writer) -> bool:
    """Writes what stands in front of a node's content, or all of it; True where its children are still to come."""
    tag = node.tag
    if tag == "-text":
        writer.words(node.text_content or "")
        return False
    if tag in _DROPPED or tag.startswith("-") or _is_hidden(node):
        return False
    if tag == "pre":
        writer.code(node.text(deep=True))
        return False
    if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
        words = _squeeze("".join(_texts(node)))
        if words:
            writer.gap("\n\n")
            writer.mark(f"{'#' * int(tag[1])} {words}")
            writer.gap("\n\n")
        return False
    if tag == "br":
        writer.gap("\n")
    elif tag == "li":
        writer.gap("\n")
        writer.mark("- ")
    elif tag in ("td", "th"):
        writer.gap("  ")
    elif tag in _BLOCKS:
        writer.gap("\n" if tag in ("tr", "dt", "dd") else "\n\n")
    return True


def _leave(node: Any, writer: _Writer) -> None:
    if node.tag in _BLOCKS:
        writer.gap("\n" if node.tag in ("li", "tr", "dt", "dd") else "\n\n")


def _texts(node: Any) -> list[str]:
    """Texts below a heading, without the sign that links to it."""
    found = []
    for child in node.iter(include_text=True):
        if child.tag == "-text":
            found.append(child.text_content or "")
        elif child.tag not in _DROPPED and not _is_hidden(child):
            found += _texts(child)
    return found


def _is_hidden(node: Any) -> bool:
    attributes = node.attributes
    classes = (attributes.get("class") or "").split()
    return "hidden" in attributes or attributes.get("aria-hidden") == "true" or "headerlink" in classes


def _squeeze(text: str) -> str:
    return " ".join(text.split())
