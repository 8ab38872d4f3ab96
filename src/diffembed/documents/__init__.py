"""Texts from files: the rows of a data file, or whole files cut into passages that know where they came from.

`read_rows` gives one document per row; `read_corpus` whole files; `make_chunks` their passages. Everything is UTF-8.
Knows nothing of models.
"""

from diffembed.documents.passages import Corpus, lines_about, make_chunks, read_corpus
from diffembed.documents.rows import ROW_FORMATS, read_rows

__all__ = ["ROW_FORMATS", "Corpus", "lines_about", "make_chunks", "read_corpus", "read_rows"]
