"""The same build on a Ray cluster: one task reads and cuts, actors encode and write, this process commits.

Read `RayJob`. Blocks are those of the local job, so rows are too. Ray Data holds back the reader while the encoders are
busy, and gives the block of a worker that died to another one. What a worker writes is seen by nobody until this
process commits it, once: a file of a worker that died is in no table. Sources are read on this machine; the folder of
the index must be the same on all machines.
"""

import contextlib
import os
import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffembed.embedding.embedder import Embedder
from diffembed.errors import ConfigError, DiffEmbedError, MissingExtraError, ResourceError, StoreError
from diffembed.index.encoding import CutDocument, blocks, encode_block
from diffembed.index.jobs import Job, vectors_of
from diffembed.index.ledger import Ledger
from diffembed.index.progress import BuildReport, JobProgress
from diffembed.index.reading import Reader
from diffembed.index.settings import IndexSettings, identify
from diffembed.index.skips import Skips
from diffembed.index.store import Store
from diffembed.records import Encoder

AUTO = "auto"
"""The cluster that runs on this machine, or else one of this machine alone."""


class RayJob(Job):
    """A `Job` whose reading and encoding happen in the tasks of a Ray cluster."""

    def __init__(
        self,
        folder: Path,
        settings: IndexSettings,
        encoder: Encoder,
        *,
        address: str = AUTO,
        cores_per_actor: int | None = None,
        **more: Any,
    ) -> None:
        """address: of a cluster (`HOST:6379`, `ray://HOST:10001`), or `auto`.

        cores_per_actor: `None` is one actor per GPU, and without GPUs one per machine with all its cores.
        """
        super().__init__(folder, settings, encoder, **more)
        if "-" in settings.sources:
            raise ConfigError("standard input cannot be read on a cluster; write it to a file first")
        if isinstance(encoder, Embedder) and settings.location is None:
            raise ConfigError(
                f"{encoder.name} was put together here, so no worker can load it; save it, and load it from its folder"
            )
        if cores_per_actor is not None and cores_per_actor < 1:
            raise ConfigError(f"cores_per_actor must be at least 1, got {cores_per_actor}")
        self.address = address
        self.cores_per_actor = cores_per_actor

    def work(self, ledger: Ledger, skips: Skips, bar: JobProgress) -> None:
        """Sends blocks through the cluster and commits whenever `commit_s` have passed."""
        ray = _import_ray()
        self._calibrate(ledger)
        with _cluster(ray, self.address), _small_blocks(ray):
            fragments: list[Any] = []
            replaced: list[str] = []
            committed = time.perf_counter()
            for done in self._stream(ray, ledger):
                if done.error is not None:
                    raise done.error
                if done.encoded is not None:
                    fragments += done.encoded.fragments
                    replaced += done.encoded.replaced
                    self._add(done.encoded, bar)
                self._take_news(done.news, ledger, skips, bar)
                if time.perf_counter() - committed >= self.commit_s:
                    self.store.commit(fragments, replaced=replaced)
                    fragments, replaced, committed = [], [], time.perf_counter()
            self.store.commit(fragments, replaced=replaced)

    def _calibrate(self, ledger: Ledger) -> None:
        """Fits int8 steps on the first block here, as the local job does, before many would fit their own."""
        if self.settings.precision != "int8" or self.store.codes is not None:
            return
        reader = Reader(self.settings, self.encoder, BuildReport(folder="", model=self.settings.model))
        cuts = reader.pending(pickle.loads(pickle.dumps(ledger)), _Notes(), JobProgress((), is_shown=False))
        for block in blocks(cuts, self.block_chunks):
            self.store.calibrate(vectors_of(encode_block(block, self.encoder, self.settings.chunks)))
            return

    def _stream(self, ray: Any, ledger: Ledger) -> Iterator["_Done"]:
        import ray.data  # a submodule that `import ray` leaves out
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        source = _make_source(_Plan(self.settings, self.block_chunks, ray.put(ledger), ray.put(self._shipped())))
        rows = ray.data.read_datasource(
            source, override_num_blocks=1, num_cpus=0, ray_remote_args={"scheduling_strategy": here}
        )
        cores, gpus, num_actors = self._actors(ray)
        done = rows.map_batches(
            _Worker,
            fn_constructor_args=(str(self.store.folder), self.settings, ray.put(self._shipped()), cores),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors),
            num_cpus=0 if gpus else cores,
            **({"num_gpus": 1} if gpus else {}),
        )
        try:
            for row in done.iter_rows():
                yield pickle.loads(row["done"])
        except ray.exceptions.RayError as error:
            raise ResourceError(
                f"the cluster gave up ({type(error).__name__}); what was committed before is kept: run it again, "
                "with --debug for what Ray says"
            ) from error

    def _shipped(self) -> Encoder | dict[str, Any]:
        """How a worker gets the encoder: the arguments of `Embedder.load`, or the encoder itself where it is none."""
        if not isinstance(self.encoder, Embedder):
            return self.encoder
        return {
            "name": self.settings.location,
            **self.settings.loading,
            "dtype": str(self.encoder.backbone.dtype).removeprefix("torch."),
        }

    def _actors(self, ray: Any) -> tuple[int, int, int]:
        """(cores of an actor, GPUs of an actor, number of actors)."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        num_gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        if num_gpus and self.cores_per_actor is None:
            return 1, 1, num_gpus
        cores_of = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
        if not cores_of:
            raise ConfigError("the cluster has no CPU; start a worker with: ray start --address HOST:6379")
        cores = self.cores_per_actor or min(cores_of)
        num_actors = sum(count // cores for count in cores_of)
        if not num_actors:
            raise ConfigError(f"cores_per_actor is {cores}; the largest machine of the cluster has {max(cores_of)}")
        return cores, 0, num_actors

    def _add(self, encoded: "_Encoded", bar: JobProgress) -> None:
        self.report.num_encoded += encoded.num_chunks
        self.report.num_tokens += encoded.num_tokens
        self.report.num_truncated += encoded.num_truncated
        self.report.encode_seconds += encoded.seconds
        bar.encoded(encoded.num_documents, encoded.num_chunks, encoded.num_tokens)

    def _take_news(self, news: "_News", ledger: Ledger, skips: Skips, bar: JobProgress) -> None:
        for name, reason in news.notes:
            skips.note(name, reason)
        for name, reason in news.losses:
            skips.lose(name, reason)
        bar.read(news.num_bytes)
        if news.report is not None:
            for count in ("num_new", "num_changed", "num_unchanged"):
                setattr(self.report, count, getattr(news.report, count))
        if news.ledger is not None:
            ledger.take_met(news.ledger)


@dataclass(kw_only=True, slots=True)
class _News:
    """What the reader tells beside a block: what it has passed over, and at the end what it has met."""

    notes: Sequence[tuple[str, str]] = ()
    losses: Sequence[tuple[str, str]] = ()
    num_bytes: int = 0
    report: BuildReport | None = None
    ledger: Ledger | None = None


@dataclass(kw_only=True, slots=True)
class _Encoded:
    """A block whose rows are on the disk and in no table yet."""

    fragments: Sequence[Any]
    replaced: Sequence[str]
    num_documents: int
    num_chunks: int
    num_tokens: int
    num_truncated: int
    seconds: float


@dataclass(kw_only=True, slots=True)
class _Done:
    """One row that comes back to the process that commits."""

    news: _News
    encoded: _Encoded | None = None
    error: DiffEmbedError | None = None


@dataclass(kw_only=True, slots=True)
class _Notes:
    """Stands for `Skips` where there is no file to write."""

    notes: list[tuple[str, str]] = field(default_factory=list)
    losses: list[tuple[str, str]] = field(default_factory=list)

    def note(self, name: str, reason: str) -> None:
        self.notes.append((name, reason))

    def lose(self, name: str, reason: str) -> None:
        self.losses.append((name, reason))

    def take(self) -> dict[str, Any]:
        taken = {"notes": self.notes, "losses": self.losses}
        self.notes, self.losses = [], []
        return taken


class _Bytes(JobProgress):
    """Stands for the bar: counts what was read since it was last asked."""

    def __init__(self) -> None:
        super().__init__((), is_shown=False)

    def take(self) -> int:
        taken, self._num_bytes = self._num_bytes, 0
        return taken


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the reading task needs; large things by reference."""

    settings: IndexSettings
    block_chunks: int
    ledger: Any
    shipped: Any

    def rows(self) -> Iterator[Any]:
        """One row per block, and a last one without a block. Run again after a crash, it gives the same rows."""
        import pyarrow as pa
        import ray

        # The ledger of the object store is shared and cannot be written.
        ledger = pickle.loads(pickle.dumps(ray.get(self.ledger)))
        encoder = _open(ray.get(self.shipped)) if self.settings.chunks.unit == "tokens" else None
        notes, num_bytes = _Notes(), _Bytes()
        report = BuildReport(folder="", model=self.settings.model)
        reader = Reader(self.settings, encoder, report)  # type: ignore[arg-type]  # only chunks of tokens ask for it
        for block in blocks(reader.pending(ledger, notes, num_bytes), self.block_chunks):
            yield _row(pa, block, _News(**notes.take(), num_bytes=num_bytes.take()))
        yield _row(pa, [], _News(**notes.take(), num_bytes=num_bytes.take(), report=report, ledger=ledger))


def _row(pa: Any, block: Sequence[CutDocument], news: _News) -> Any:
    return pa.table({"block": [pickle.dumps(block)], "news": [pickle.dumps(news)]})


def _make_source(plan: _Plan) -> Any:
    from ray.data import Datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask

    class Source(Datasource):  # type: ignore[misc]
        """A single task that reads all sources in their order."""

        def get_name(self) -> str:
            return "sources"

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(plan.rows, metadata)]

    return Source()


class _Worker:
    """An actor: loads the encoder once, then turns blocks into fragments of the table."""

    def __init__(self, folder: str, settings: IndexSettings, shipped: Any, cores: int) -> None:
        # An actor that fails here is started again and again, so what can go wrong waits for the first block.
        self.folder = Path(folder)
        self.settings = settings
        self.shipped = shipped
        self.cores = cores
        self.encoder: Encoder | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One row in, one row out."""
        import numpy as np

        block, news = pickle.loads(batch["block"][0]), pickle.loads(batch["news"][0])
        done = _Done(news=news)
        try:
            if self.encoder is None:
                self._start()
            done.encoded = self._encode(block) if block else None
        except DiffEmbedError as error:
            # Ray would keep its words and lose the error.
            done.error = error
        return {"done": np.array([pickle.dumps(done)], dtype=object)}

    def _start(self) -> None:
        import ray
        import torch

        torch.set_num_threads(self.cores)
        here = ray.util.get_node_ip_address()
        if not (self.folder / "index.json").exists():
            raise StoreError(
                f"{self.folder} is not there on machine {here}; "
                "put the index into a folder that all machines of the cluster share"
            )
        self.store = Store.open(self.folder)
        encoder = _open(ray.get(self.shipped))
        found = identify(encoder)
        if found != self.settings.model_hash:
            raise StoreError(
                f"machine {here} loads another {self.settings.model} ({found}) than the one the index is made with "
                f"({self.settings.model_hash})"
            )
        self.encoder = encoder

    def _encode(self, block: Sequence[CutDocument]) -> _Encoded:
        assert self.encoder is not None
        started = time.perf_counter()
        encoded = encode_block(block, self.encoder, self.settings.chunks)
        seconds = time.perf_counter() - started
        return _Encoded(
            fragments=self.store.write(self.store.make_table(encoded)),
            replaced=[cut.document.id for cut in block if cut.is_known],
            num_documents=len(encoded),
            num_chunks=sum(len(document.chunks) for document in encoded),
            num_tokens=sum(sum(document.num_tokens) for document in encoded),
            num_truncated=sum(sum(document.is_truncated) for document in encoded),
            seconds=seconds,
        )


def _open(shipped: Any) -> Encoder:
    return Embedder.load(**shipped) if isinstance(shipped, dict) else shipped


@contextlib.contextmanager
def _cluster(ray: Any, address: str) -> Iterator[None]:
    """Connects for the time of the job; a connection that was there before is used and left."""
    if ray.is_initialized():
        yield
        return
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        if address != AUTO:
            raise ConfigError(f"no Ray cluster answers at {address}; start one with: ray start --head") from error
        # On a cluster of its own, the job steps back behind nothing.
        os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init(include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _small_blocks(ray: Any) -> Iterator[None]:
    """Every row travels alone: Ray Data gathers rows up to 128 MB before it hands them on, minutes of encoding."""
    from ray.data import DataContext

    context = DataContext.get_current()
    before = (context.target_max_block_size, context.enable_progress_bars)
    context.target_max_block_size, context.enable_progress_bars = 1, False
    try:
        yield
    finally:
        context.target_max_block_size, context.enable_progress_bars = before


def _import_ray() -> Any:
    # Ray reports usage to its makers unless told otherwise; that is for the user to switch on.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError.of("ray", "ray") from error
    return ray
