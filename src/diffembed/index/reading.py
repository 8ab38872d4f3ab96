"""What of the sources has to be encoded: reads them in order, and passes over what the index holds as it is.

Read `Reader.pending`. Needs no table, so it runs wherever the sources are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diffembed.documents import FoundText, read_rows, stream_texts
from diffembed.errors import EmptyInputError, InputError
from diffembed.index.encoding import CutDocument, clean_document, cut, hash_document
from diffembed.index.hub import is_hub, stream_hub
from diffembed.index.ledger import Ledger, State
from diffembed.index.progress import BuildReport, JobProgress
from diffembed.index.settings import IndexSettings
from diffembed.index.skips import Notes
from diffembed.records import Document, Encoder


@dataclass(frozen=True, slots=True)
class Reader:
    """The sources of an index, cut as its settings say."""

    settings: IndexSettings
    encoder: Encoder
    report: BuildReport
    """Where it counts what is new, changed and unchanged."""

    def pending(self, ledger: Ledger, skips: Notes, bar: JobProgress) -> Iterator[CutDocument]:
        """Documents that are new or changed, cut, in the order of the sources; counts and notes all others."""
        for found in self._found(skips):
            bar.read(found.num_bytes)
            if found.is_file and ledger.is_same_file(found.id, stamp(found.modified_ns, found.num_bytes)):
                self.report.num_unchanged += 1
                continue
            try:
                document = clean_document(found.read())
            except EmptyInputError as error:
                skips.note(found.source, str(error))
                continue
            except InputError as error:
                skips.lose(found.source, str(error))
                continue
            if found.row is not None:
                bar.read(len(document.text))
            content_hash = hash_document(document)
            state = ledger.meet(document.id, content_hash)
            if state is State.REPEATED:
                skips.note(found.source, f"the id {document.id!r} occurs a second time")
                continue
            if state is State.UNCHANGED:
                self.report.num_unchanged += 1
                continue
            self.report.num_new += state is State.NEW
            self.report.num_changed += state is State.CHANGED
            yield CutDocument(
                document=document,
                content_hash=content_hash,
                chunks=cut(document, self.settings.chunks, self.encoder, counts_lines=found.counts_lines),
                modified_ns=found.modified_ns,
                num_bytes=found.num_bytes,
                is_known=state is State.CHANGED,
            )

    def _found(self, skips: Notes) -> Iterator[FoundText]:
        local = [source for source in self.settings.sources if not is_hub(source)]
        if local:
            yield from stream_texts(local, options=self.settings.reading, on_skip=skips.note, on_lost=skips.lose)
        for source in filter(is_hub, self.settings.sources):
            yield from stream_hub(source, self.settings.reading, on_skip=skips.note)


def read_additions(
    source: Path | str, *, format: str | None = None, text_column: str | None = None, id_column: str | None = None
) -> list[Document]:
    """The rows of a file for `Index.add`, without blank ones.

    The id of a row that has none is made of its content: it replaces no other, and the same row is there once.
    """
    rows = read_rows(source, format=format, text_column=text_column, id_column=id_column, make_id=_content_id)
    return list({row.id: row for row in rows if row.text.strip()}.values())


def _content_id(document: Document) -> str:
    return f"added#{hash_document(clean_document(document))[:12]}"


def stamp(modified_ns: int, num_bytes: int) -> str:
    """What tells the states of a file apart without reading it."""
    return f"{modified_ns} {num_bytes}"
