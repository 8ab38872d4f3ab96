"""A process around the application: what is loaded, where it listens, how it ends.

Read `serve`. Nothing here comes from a request: models, indexes and folders are named when the process starts.
"""

import logging
import math
import signal
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from diffembed.embedding.embedder import Embedder
from diffembed.errors import ConfigError, DiffEmbedError
from diffembed.serve.app import make_app
from diffembed.serve.engine import Engine
from diffembed.serve.guard import start_logging
from diffembed.serve.search import DiskIndex, MemoryIndex, SearchIndex
from diffembed.serve.settings import LOOPBACK, ServeSettings

KEEP_ALIVE_S = 75
"""Longer than nginx keeps a connection to us (60 s), so that we never close one under a request of his."""

log = logging.getLogger("diffembed.serve")


def serve(
    models: Sequence[str],
    *,
    indexes: Sequence[str] = (),
    documents: Path | None = None,
    settings: ServeSettings | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    drain_s: float = 2.0,
    load: Callable[[str], Embedder] = Embedder.load,
    on_listening: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Loads, listens and answers until SIGTERM or SIGINT; returns when every accepted request is answered.

    models: names, folders or hub ids, each as `LOCATION` or `NAME=LOCATION`; the first is the default.
    indexes: names or folders of indexes. documents: a folder to encode now and search in memory, by every model.
    port: 0 takes a free one; the log says which. drain_s: how long connections are still taken after SIGTERM while
        `/health` says `draining`, so that load balancers and clients move away; 0 or more.
    on_listening: told {"url", "models", "indexes"} as soon as requests are taken.
    """
    settings = guard_loopback(settings or ServeSettings(), host)
    start_logging()
    # The address is taken first: a port that is in use must not cost the time to load a model.
    taken = bind(host, port)
    try:
        engines = load_engines(models, settings, load)
        found = open_indexes(indexes, engines)
        if documents is not None:
            found |= read_documents(documents, engines, taken=found)
        app = make_app(engines, found, settings)
        run(app, taken, drain_s=drain_s, timeout_s=settings.timeout_s, on_listening=on_listening)
    finally:
        taken.close()


def guard_loopback(settings: ServeSettings, host: str) -> ServeSettings:
    """On the loopback interface and without keys, only the names of that interface, beside those that were allowed."""
    if settings.api_keys or host not in LOOPBACK:
        return settings
    return replace(settings, allowed_hosts=(*LOOPBACK, *settings.allowed_hosts))


def load_engines(
    models: Sequence[str], settings: ServeSettings, load: Callable[[str], Embedder] = Embedder.load
) -> dict[str, Engine]:
    """An engine for each `LOCATION` or `NAME=LOCATION`; an existing folder is a location, whole.

    Raises ConfigError when two have one name.
    """
    engines: dict[str, Engine] = {}
    for model in models:
        # A folder may have an = in its own name.
        name, location = ("", model) if Path(model).is_dir() or "=" not in model else model.split("=", 1)
        engine = Engine(load(location), settings, name=name or None)
        if engine.name in engines:
            raise ConfigError(f"two models are called {engine.name!r}; give one another name: --model NAME={model}")
        engines[engine.name] = engine
    return engines


def models_of(indexes: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """What loads the models that made indexes: location -> arguments of `Embedder.load`, in the order of the indexes.

    An index of a model that cannot be loaded by name has none here. Raises StoreError for one that is missing,
    ConfigError for two of one model that was loaded in two ways.
    """
    if not indexes:
        return {}
    from diffembed.index.settings import index_folder, load_settings

    found: dict[str, Mapping[str, Any]] = {}
    first: dict[str, str] = {}
    for name in indexes:
        settings = load_settings(index_folder(name))
        if settings.location is None:
            continue
        if found.setdefault(settings.location, settings.loading) != settings.loading:
            raise ConfigError(
                f"{first[settings.location]} and {name} were made by {settings.model} loaded in two ways "
                f"({_shown(found[settings.location])}; {_shown(settings.loading)}); serve them apart"
            )
        first.setdefault(settings.location, name)
    return found


def _shown(loading: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in loading.items())


def open_indexes(names: Sequence[str], engines: Mapping[str, Engine]) -> dict[str, SearchIndex]:
    """Each index with the first model whose vectors it holds. Raises what opening raises when no model fits."""
    indexes: dict[str, SearchIndex] = {}
    if not names:
        return indexes
    from diffembed.index import Index

    for name in names:
        problems: list[DiffEmbedError] = []
        for engine in engines.values():
            try:
                opened = Index.open(name, embedder=engine.embedder)
            except DiffEmbedError as error:
                problems.append(error)
                continue
            key = Path(name).name
            if key in indexes:
                raise ConfigError(f"two indexes are called {key!r}; rename one of their folders")
            indexes[key] = DiskIndex(opened, engine.name)
            break
        else:
            raise problems[0]
    return indexes


def read_documents(
    folder: Path, engines: Mapping[str, Engine], *, taken: Collection[str] = ()
) -> dict[str, SearchIndex]:
    """A folder or file in memory, encoded by each model; the model is part of the name where there are several.

    Raises ConfigError for a name that is `taken` by an index, before anything is encoded.
    """
    name = folder.resolve().name or "documents"
    named = {name if len(engines) == 1 else f"{name} ({engine.name})": engine for engine in engines.values()}
    for key in named:
        if key in taken:
            raise ConfigError(f"an index and the documents are both called {key!r}; rename one of their folders")
    return {key: MemoryIndex.from_folder(engine.embedder, folder, model=engine.name) for key, engine in named.items()}


def bind(host: str, port: int) -> socket.socket:
    """A socket at the address, which does not listen yet. Raises OSError when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Where the protocol is not named, asyncio leaves TCP_NODELAY off and an answer waits 40 ms for an acknowledgement.
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
    except OSError as error:
        taken.close()
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from error
    return taken


def run(
    app: FastAPI,
    taken: socket.socket,
    *,
    drain_s: float,
    timeout_s: float,
    on_listening: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Answers at a bound socket until a signal ends it. Raises what a network raises that cannot warm up."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_S,
        # Every accepted request ends by its own deadline; a client that does not read its answer has no more than that.
        timeout_graceful_shutdown=math.ceil(timeout_s) + 5,
    )
    _Server(config, app, drain_s, on_listening).run(sockets=[taken])
    if app.state.failure is not None:
        raise app.state.failure


class _Server(uvicorn.Server):
    """uvicorn, with a time to move away before it stops listening."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: FastAPI,
        drain_s: float,
        on_listening: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._app = app
        self._drain_s = drain_s
        self._ends_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets and not self.should_exit:
            host, port = sockets[0].getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            facts = {"url": url, "models": list(self._app.state.engines), "indexes": list(self._app.state.indexes)}
            log.info("listening", extra={"facts": facts})
            if self._on_listening is not None:
                self._on_listening(facts)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # The second signal does not wait for the drain, the third not for the answers.
        if self.should_exit:
            self.force_exit = True
        elif self._ends_at is not None or sig == signal.SIGINT:
            self.should_exit = True
        else:
            self._ends_at = time.monotonic() + self._drain_s
        self._app.state.is_draining = True

    async def on_tick(self, counter: int) -> bool:
        if self._app.state.failure is not None or (self._ends_at is not None and time.monotonic() >= self._ends_at):
            self.should_exit = True
        return await super().on_tick(counter)
