"""Texts from files: the rows of a data file, or whole files cut into passages that know where they came from.

`read_rows` gives one document per row; `read_corpus` all texts of a source; `make_chunks` their passages.
`stream_texts` goes through sources of any size, web pages and PDF files too, and `cut_document` cuts by a policy. Text
files are UTF-8. Knows nothing of models.
"""

from diffembed.documents.chunking import ChunkPolicy, cut_document
from diffembed.documents.passages import Corpus, lines_about, make_chunks, read_corpus
from diffembed.documents.rows import ROW_FORMATS, read_rows
from diffembed.documents.streaming import FoundText, ReadOptions, check_sources, has_lines, stream_texts

__all__ = [
    "ROW_FORMATS",
    "ChunkPolicy",
    "Corpus",
    "FoundText",
    "ReadOptions",
    "check_sources",
    "cut_document",
    "has_lines",
    "lines_about",
    "make_chunks",
    "read_corpus",
    "read_rows",
    "stream_texts",
]
