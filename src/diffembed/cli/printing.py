"""How results reach the terminal: tables for people, JSON lines for machines, always on stdout.

Nothing is cut to fit: long cells wrap. Control characters of a file never reach the terminal as such.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from diffembed.records import Hit


def print_json(value: Any) -> None:
    """One line of JSON."""
    print(json.dumps(value, ensure_ascii=False, default=str))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    numbers: Sequence[str] = (),
    names: Sequence[str] = (),
) -> None:
    """A table with a header. Columns in `numbers` stand on the right.

    names: columns to copy from; they wrap only where they would leave the others less than a third of the terminal.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    cells = [[Text(printable(str(cell))) for cell in row] for row in rows]
    places = [columns.index(name) for name in names]
    fit = sum(max((row[place].cell_len for row in cells), default=0) for place in places) <= Console().width * 2 // 3
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in numbers else "left"
        table.add_column(column, overflow="fold", justify=justify, no_wrap=fit and column in names)
    for row in cells:
        table.add_row(*row)
    _print(table)


def print_facts(facts: Mapping[str, object]) -> None:
    """A column of names with their values beside them."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(name, style="bold"), Text(printable(str(value))))
    _print(table)


def print_hits(hits: Sequence[Hit], question: str) -> None:
    """Ranked passages: score, file and line, then the lines that speak most of the question.

    Where lines of the text are not lines of its file, the document's id is shown instead.
    """
    from rich.table import Table
    from rich.text import Text

    from diffembed.documents import has_lines, lines_about

    for hit in hits:
        document = hit.document
        numbers_lines = has_lines(document.source)
        head = Text(f"{hit.rank:>2}  {hit.score:.3f}  ")
        head.append(printable(f"{document.source}:{document.line}"), style="bold")
        head.append("" if numbers_lines else f"  {printable(document.id)}")
        _print(head, soft_wrap=True)
        lines = Table.grid(padding=(0, 2))
        lines.add_column(justify="right", min_width=9, style="dim")
        lines.add_column(overflow="fold")
        for offset, line in lines_about(document.text, question):
            lines.add_row(str(document.line + offset) if numbers_lines else "", Text(printable(line)))
        _print(lines)


def _print(renderable: Any, *, soft_wrap: bool = False) -> None:
    """To the terminal as it is; into a file or a pipe without the blanks that fill a column."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(renderable, soft_wrap=soft_wrap)
        return
    with console.capture() as captured:
        console.print(renderable, soft_wrap=soft_wrap)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def printable(text: str) -> str:
    """The text with tabs as spaces and other control characters, lone surrogates too, as a replacement character."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else "    " if letter == "\t" else "\ufffd" for letter in text
    )
