"""The application: engines, indexes and routes under one guard.

Read `make_app`. Starting a process around it is `server.py`'s business.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI

from diffembed import __version__
from diffembed.errors import ConfigError
from diffembed.serve.engine import Engine
from diffembed.serve.guard import Guard
from diffembed.serve.metrics import Metrics
from diffembed.serve.page import add_page
from diffembed.serve.problems import Json, add_handlers
from diffembed.serve.routes import make_api_router
from diffembed.serve.search import SearchIndex
from diffembed.serve.settings import ServeSettings

log = logging.getLogger("diffembed.serve")

DESCRIPTION = """Text embeddings that existing clients already speak: OpenAI's, text-embeddings-inference's and a
reranker's. Errors have OpenAI's shape everywhere."""


def make_app(
    engines: Mapping[str, Engine],
    indexes: Mapping[str, SearchIndex] | None = None,
    settings: ServeSettings | None = None,
) -> FastAPI:
    """An ASGI application; the first engine is the one that requests without a model get.

    Engines warm up when the application starts, and answer everything they accepted before it ends. Where that fails,
    `app.state.failure` is the error, and whoever runs the application ends it.
    Raises ConfigError without engines, or for an index of a model that is not served.
    """
    if not engines:
        raise ConfigError("a server needs at least one model")
    for name, index in (indexes or {}).items():
        if index.model not in engines:
            raise ConfigError(f"index {name!r} was made by {index.model}, which is not served; add it with --model")
    settings = settings or ServeSettings()

    async def warm_up() -> None:
        try:
            await asyncio.gather(*(engine.warm_up() for engine in engines.values()))
        except Exception as error:
            log.error("warm-up failed", extra={"facts": {"error": type(error).__name__, "message": str(error)}})
            app.state.failure = error

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(warm_up())
        yield
        await warming
        await asyncio.gather(*(engine.close() for engine in engines.values()))

    app = FastAPI(
        title="diffembed",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        default_response_class=Json,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    metrics = Metrics()
    metrics.watch(engines)
    app.state.engines = dict(engines)
    app.state.indexes = dict(indexes or {})
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.created = int(time.time())
    app.state.is_draining = False
    app.state.failure = None
    add_handlers(app)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    app.include_router(make_api_router())
    add_page(app)
    return app
