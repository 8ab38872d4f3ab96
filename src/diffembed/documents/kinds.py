"""What the suffix of a file says of its text: prose with headings, source code, a page, a PDF file.

Read `is_code`. Rows of data files are the business of `rows.py`.
"""

from pathlib import Path

PROSE_SUFFIXES = frozenset({".adoc", ".markdown", ".md", ".org", ".rst", ".tex", ".text", ".txt"})
_CODE_WORDS = (
    ".asm .bash .bat .c .cc .cfg .clj .cmake .cpp .cs .css .cu .cuh .dart .el .erl .ex .exs .f90 .fish .go .gradle"
    " .graphql .h .hpp .hs .ini .java .jl .js .jsx .kt .lisp .log .lua .m .mjs .mk .ml .nix .php .pl .pm .proto .ps1"
    " .py .pyi .r .rb .rs .s .scala .scm .scss .sh .sql .svelte .swift .tcl .tf .toml .ts .tsx .vim .vue .yaml .yml"
    " .zig .zsh"
)
CODE_SUFFIXES = frozenset(_CODE_WORDS.split())
"""Text whose lines that begin with # are comments, or whose underlines are ornaments: they are no headings."""
TEXT_SUFFIXES = PROSE_SUFFIXES | CODE_SUFFIXES
"""What is read as text inside a folder, beside names without a suffix (README, Makefile ...)."""
HTML_SUFFIXES = frozenset({".html", ".htm", ".xhtml"})
PDF_SUFFIXES = frozenset({".pdf"})


def is_code(source: str) -> bool:
    """Whether a text comes from a file of source code; what has no suffix or an unknown one is prose."""
    return Path(source).suffix.lower() in CODE_SUFFIXES
