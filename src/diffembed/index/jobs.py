"""A build makes an index equal to its sources: what is new or changed is encoded, what is gone is removed.

Read `build_index`. The table itself is the journal: a document is in it as a whole or not at all, so a job that was
killed at any moment is simply run again. Knows neither Ray nor search.
"""

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffembed.documents import ChunkPolicy, ReadOptions, check_sources, has_lines
from diffembed.embedding.embedder import Embedder
from diffembed.errors import ConfigError, EmptyInputError, InputError, StoreError
from diffembed.index.encoding import (
    BLOCK_CHUNKS,
    CutDocument,
    blocks,
    clean_document,
    cut,
    encode_block,
    hash_document,
)
from diffembed.index.hub import is_hub, parse_address
from diffembed.index.ledger import Ledger
from diffembed.index.maintenance import tidy
from diffembed.index.progress import BuildReport, JobProgress
from diffembed.index.reading import Reader, stamp
from diffembed.index.settings import SETTINGS_FILE, IndexSettings, Precision, identify, index_folder, load_settings
from diffembed.index.skips import SKIPPED_FILE, Skips
from diffembed.index.store import EncodedDocument, Store, has_table
from diffembed.index.writing import table_errors, writer_lock
from diffembed.records import Document, Encoder

COMMIT_S = 20.0
"""Seconds of work that are committed together, and so the most that a crash costs, beside one block."""


def build_index(
    name_or_path: str | Path,
    sources: Sequence[str | Path] = (),
    *,
    embedder: Encoder,
    location: str | None = None,
    chunks: ChunkPolicy | None = None,
    precision: Precision | None = None,
    reading: ReadOptions | None = None,
    is_replaced: bool = False,
    drops_added: bool = False,
    ray: str | None = None,
    cores_per_actor: int | None = None,
    block_chunks: int = BLOCK_CHUNKS,
    commit_s: float = COMMIT_S,
    progress: bool | None = None,
) -> BuildReport:
    """Encodes what is new or changed in the sources, removes what is gone, and keeps the rest.

    name_or_path: a name lies in the user's data folder; anything with a separator is a folder.
    sources: folders, files, `-` for standard input, `hf://datasets/OWNER/NAME`; none reads those of the last build.
    location: what loads the embedder again; what it was loaded from if none is given.
    chunks, precision, reading: `None` takes what the index was made with, or the defaults for a new one.
    is_replaced: makes the index anew, in another way if asked; the old one serves until the new one is complete.
    drops_added: lets a replacement lose what was put in by `Index.add`, which no source brings back.
    ray: address of a Ray cluster that does the work, `auto` for the one that runs here; None works in this process.
    cores_per_actor: cores of each encoder on the cluster; needs `ray`.
    block_chunks: chunks encoded together. commit_s: seconds between commits; a crash loses no more than that.
    Raises StoreError for an index made in another way or being written, InputError for a missing source,
    EmptyInputError where nothing could be used.
    """
    if ray is None and cores_per_actor is not None:
        raise ConfigError("cores_per_actor parts a Ray cluster among encoders; it has no effect without ray")
    folder = index_folder(name_or_path)
    stored = prepare_build(name_or_path, sources, is_replaced=is_replaced, drops_added=drops_added)
    settings = IndexSettings(
        model=embedder.name,
        model_hash=identify(embedder),
        dim=embedder.dim,
        location=location or (embedder.location if isinstance(embedder, Embedder) else None),
        loading=_loading(embedder),
        chunks=chunks or (stored.chunks if stored else ChunkPolicy()),
        precision=precision or (stored.precision if stored else "float32"),
        sources=_absolute(sources) if sources else stored.sources if stored else (),
        reading=reading or (stored.reading if stored else ReadOptions()),
        made=(stored.made if stored and not is_replaced else "") or uuid.uuid4().hex,
    )
    if stored and not is_replaced and (differences := stored.differences(settings)):
        if _num_documents(folder, stored):
            raise StoreError(
                f"{folder} was made with {', '.join(differences)}, which is not what is asked for now; "
                "to make it anew, run the same command again with --replace"
            )
        # A build that found no text leaves an index of nothing, which may be made in any way.
        is_replaced, settings = True, dataclasses.replace(settings, made=uuid.uuid4().hex)
    is_beside = is_replaced and (folder / SETTINGS_FILE).exists()
    staged = folder.with_name(f".{folder.name}.new") if is_beside else folder
    with contextlib.ExitStack() as stack:
        stack.enter_context(writer_lock(folder))
        if staged != folder:
            _drop_other(staged, settings)
            stack.enter_context(writer_lock(staged))
        if ray is None:
            job = Job(staged, settings, embedder, block_chunks=block_chunks, commit_s=commit_s)
        else:
            from diffembed.index.ray_jobs import RayJob

            job = RayJob(
                staged,
                settings,
                embedder,
                address=ray,
                cores_per_actor=cores_per_actor,
                block_chunks=block_chunks,
                commit_s=commit_s,
            )
        report = job.run(progress=progress)
        if staged != folder:
            _swap(staged, folder)
    report.folder = str(folder)
    return report


def prepare_build(
    name_or_path: str | Path,
    sources: Sequence[str | Path] = (),
    *,
    is_replaced: bool = False,
    drops_added: bool = False,
) -> IndexSettings | None:
    """What an index was made with, None for a new one or one whose settings are lost; needs no encoder.

    Raises what `build_index` does about the folder and the sources. An index that stood aside when its replacement was
    killed comes back.
    """
    folder = index_folder(name_or_path)
    old = _aside(folder)
    if not folder.exists() and old.exists():
        old.rename(folder)
    has_index = (folder / SETTINGS_FILE).exists()
    stored = _stored(folder, may_be_damaged=is_replaced) if has_index else None
    if folder.exists() and not has_index and _holds_other_things(folder):
        raise ConfigError(f"{folder} is no index and not empty; choose another name")
    if not sources and not (stored and stored.sources):
        raise ConfigError("name at least one source: a folder, a file, - or hf://datasets/OWNER/NAME")
    if drops_added and not is_replaced:
        raise ConfigError("--drop-added is for --replace; a build leaves what was added as it is")
    num_added = 0
    if stored and is_replaced and not drops_added:
        # What a damaged table held is lost already.
        with contextlib.suppress(StoreError):
            num_added = _num_documents(folder, stored, "is_added")
    if num_added:
        raise StoreError(
            f"{folder} holds {num_added} texts that were put in by index add, and no source brings them back; "
            "to lose them, run the same command again with --drop-added"
        )
    check_sources([source for source in sources if not is_hub(source)])
    for source in filter(is_hub, map(str, sources)):
        parse_address(source)
    return stored


class Job:
    """One build of one index, by one process that holds its lock."""

    def __init__(
        self,
        folder: Path,
        settings: IndexSettings,
        encoder: Encoder,
        *,
        block_chunks: int = BLOCK_CHUNKS,
        commit_s: float = COMMIT_S,
    ) -> None:
        """Opens the table, or makes it."""
        if block_chunks < 1:
            raise ConfigError(f"block_chunks must be at least 1, got {block_chunks}")
        self.settings = settings
        self.encoder = encoder
        self.block_chunks = block_chunks
        self.commit_s = commit_s
        # Settings come before the table: a table always has settings that say what it holds.
        if not has_table(folder):
            settings.save(folder)
        self.store = Store.create(folder, settings)
        self.report = BuildReport(folder=str(folder), model=settings.model)
        self.reader = Reader(settings, encoder, self.report)

    def run(self, *, progress: bool | None = None) -> BuildReport:
        """Reads every source to its end; raises EmptyInputError where nothing could be used, and keeps the index."""
        started = time.perf_counter()
        report = self.report
        with (
            Skips(folder=self.store.folder) as skips,
            JobProgress(self.settings.sources, is_shown=progress) as bar,
        ):
            ledger = self.read_ledger()
            self.work(ledger, skips, bar)
            report.num_documents = report.num_new + report.num_changed + report.num_unchanged
            if not report.num_documents:
                raise EmptyInputError(
                    f"no text was found in {', '.join(self.settings.sources)}; {skips.num} were passed over, see "
                    f"{self.store.folder / SKIPPED_FILE}.part; the index was left as it is"
                )
            report.num_removed = self.remove_gone(ledger, skips)
            self.settings.save(self.store.folder)
            bar.say("tidying")
            tidy(self.store)
        report.num_skipped = skips.num
        report.num_chunks = self.store.refresh().count_rows()
        report.seconds = time.perf_counter() - started
        return report

    def read_ledger(self) -> Ledger:
        """What the table holds of earlier builds."""
        return Ledger(
            (row["document"], row["content_hash"], stamp(row["modified_ns"], row["num_bytes"]))
            for row in self.store.documents()
        )

    def work(self, ledger: Ledger, skips: Skips, bar: JobProgress) -> None:
        """Encodes block by block, and commits whenever `commit_s` have passed."""
        fragments: list[Any] = []
        replaced: list[str] = []
        committed = time.perf_counter()
        try:
            for block in blocks(self.reader.pending(ledger, skips, bar), self.block_chunks):
                started = time.perf_counter()
                encoded = encode_block(block, self.encoder, self.settings.chunks)
                self.report.encode_seconds += time.perf_counter() - started
                self.store.calibrate(vectors_of(encoded))
                written = self.store.write(self.store.make_table(encoded))
                fragments, replaced = fragments + written, replaced + [cut.document.id for cut in block if cut.is_known]
                self._count(encoded, bar)
                if time.perf_counter() - committed >= self.commit_s:
                    # Taken first: whatever interrupts the commit, the same rows are not committed twice.
                    (taken, known), fragments, replaced = (fragments, replaced), [], []
                    self.store.commit(taken, replaced=known)
                    committed = time.perf_counter()
        finally:
            # Also when the job is interrupted: what was encoded is kept.
            self.store.commit(fragments, replaced=replaced)

    def _count(self, encoded: Sequence[EncodedDocument], bar: JobProgress) -> None:
        num_tokens = sum(sum(document.num_tokens) for document in encoded)
        num_chunks = sum(len(document.chunks) for document in encoded)
        self.report.num_tokens += num_tokens
        self.report.num_encoded += num_chunks
        self.report.num_truncated += sum(sum(document.is_truncated) for document in encoded)
        bar.encoded(len(encoded), num_chunks, num_tokens)

    def remove_gone(self, ledger: Ledger, skips: Skips) -> int:
        """Removes what the sources no longer hold; what was added by hand, or could not be read now, stays."""
        if not ledger.num_gone:
            return 0
        gone: list[str] = []
        for row in self.store.documents(is_added=False):
            if ledger.is_gone(row["document"]):
                if skips.has_lost(row["source"]):
                    self.report.num_kept += 1
                else:
                    gone.append(row["document"])
        self.store.delete(gone)
        return len(gone)


def add_documents(
    store: Store, documents: Sequence[Document], encoder: Encoder, *, block_chunks: int = BLOCK_CHUNKS
) -> int:
    """Encodes documents and commits them at once, in place of those of the same ids; returns their number of chunks.

    Raises InputError for an id that occurs twice and EmptyInputError for a blank text, before anything is encoded.
    """
    seen: set[str] = set()
    for document in documents:
        if document.id in seen:
            raise InputError(f"the id {document.id!r} occurs twice; give every document an id of its own")
        if not document.text.strip():
            raise EmptyInputError(f"the document {document.id!r} is empty")
        seen.add(document.id)
    policy = store.settings.chunks
    cuts = (
        CutDocument(
            document=cleaned,
            content_hash=hash_document(cleaned),
            chunks=cut(cleaned, policy, encoder, counts_lines=has_lines(cleaned.source)),
        )
        for cleaned in map(clean_document, documents)
    )
    fragments: list[Any] = []
    num_chunks = 0
    for block in blocks(cuts, block_chunks):
        encoded = encode_block(block, encoder, policy, is_added=True)
        store.calibrate(vectors_of(encoded))
        fragments += store.write(store.make_table(encoded))
        num_chunks += sum(len(document.chunks) for document in encoded)
    store.commit(fragments, replaced=[document.id for document in documents])
    return num_chunks


def vectors_of(encoded: Sequence[EncodedDocument]) -> Any:
    """[chunks, D] of all documents."""
    import numpy as np

    return np.concatenate([document.vectors for document in encoded])


def _absolute(sources: Sequence[str | Path]) -> tuple[str, ...]:
    """Sources that mean the same from any folder."""
    return tuple(
        str(source) if str(source) == "-" or is_hub(str(source)) else str(Path(source).absolute()) for source in sources
    )


def _loading(encoder: Encoder) -> dict[str, Any]:
    """Arguments by which `Embedder.load` makes this embedder from its location."""
    if not isinstance(encoder, Embedder):
        return {}
    dims = encoder.dim if encoder.dim != encoder.backbone.dim else None
    return {
        "attention": encoder.attention,
        "pooling": encoder.pooling,
        "max_tokens": encoder.max_tokens,
        **({"dims": dims} if dims else {}),
    }


def _stored(folder: Path, *, may_be_damaged: bool) -> IndexSettings | None:
    try:
        return load_settings(folder)
    except StoreError:
        if may_be_damaged:
            return None
        raise


def _num_documents(folder: Path, settings: IndexSettings, where: str = "true") -> int:
    """Documents of an index of which a condition holds. Raises StoreError where the table cannot be read."""
    if not has_table(folder):
        return 0
    with table_errors(folder):
        return int(Store(folder, settings).dataset.count_rows(f"part = 0 AND {where}"))


def _holds_other_things(folder: Path) -> bool:
    ours = {"write.lock", "writer.json"}
    return not folder.is_dir() or any(child.name not in ours for child in folder.iterdir())


def _drop_other(staged: Path, settings: IndexSettings) -> None:
    """Removes a half-made replacement, unless it is one that this build can go on with."""
    import shutil

    if not staged.exists():
        return
    found = _stored(staged, may_be_damaged=True)
    if found is None or found.differences(settings) or found.sources != settings.sources:
        shutil.rmtree(staged)


def _aside(folder: Path) -> Path:
    """Where an index stands while its replacement takes its place."""
    whole = folder.absolute()
    return whole.parent / f".{whole.name}.old"


def _swap(staged: Path, folder: Path) -> None:
    """Puts the new index in the place of the old one."""
    import shutil

    old = _aside(folder)
    if old.exists():
        shutil.rmtree(old)
    folder.rename(old)
    staged.rename(folder)
    shutil.rmtree(old)
