"""The API: OpenAI's embeddings and models, Cohere's rerank, TEI's embed, search, health and metrics.

Read `embeddings`. Routes parse, call an engine and print; what is refused, and how, is in `problems.py`.
"""

import base64
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from diffembed import __version__
from diffembed.embedding.text import Kind, Overflow
from diffembed.errors import ConfigError, EmptyInputError, UnknownNameError
from diffembed.records import Vectors
from diffembed.serve import schemas
from diffembed.serve.batcher import TooLargeError
from diffembed.serve.engine import Encoded, Engine, Text
from diffembed.serve.guard import note, unless_gone
from diffembed.serve.problems import Json
from diffembed.serve.search import SearchIndex

FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.FaultAnswer, "description": text}
    for status, text in {
        400: "The texts or the settings cannot be used.",
        401: "No valid key.",
        404: "No such model or index.",
        413: "Too many bytes, texts or tokens.",
        422: "Not what the schema says.",
        429: "The queue is full; see Retry-After.",
        503: "Memory ran out.",
        504: "Not answered in time.",
    }.items()
}


def make_api_router() -> APIRouter:
    """All routes but those of the page."""
    router = APIRouter(responses=FAULTS)
    routes: list[tuple[str, str, Any, Any]] = [
        ("POST", "/v1/embeddings", embeddings, schemas.EmbeddingsAnswer),
        ("POST", "/v1/rerank", rerank, schemas.RerankAnswer),
        ("POST", "/embed", embed, list[list[float]]),
        ("POST", "/v1/search", search, schemas.SearchAnswer),
        ("GET", "/v1/models", models, schemas.ModelList),
        ("GET", "/v1/models/{name:path}", model, schemas.ModelCard),
        ("GET", "/health", health, schemas.Health),
    ]
    for method, path, function, answer in routes:
        responses: dict[int | str, dict[str, Any]] = {200: {"model": answer}}
        if path == "/health":
            responses[503] = {"model": schemas.Health}
        router.add_api_route(path, function, methods=[method], responses=responses, response_class=Json)
    router.add_api_route("/metrics", metrics, methods=["GET"], response_class=Response)
    return router


def engine_of(app: FastAPI, name: str | None) -> Engine:
    """The engine a request means, the first when it does not say. Raises UnknownNameError."""
    engines: dict[str, Engine] = app.state.engines
    if name is None:
        return next(iter(engines.values()))
    if name not in engines:
        raise UnknownNameError(f"this server has no such model; it has {', '.join(engines)}")
    return engines[name]


def index_of(app: FastAPI, name: str | None, model: str | None) -> tuple[str, SearchIndex]:
    """The index a request means: by name, else the first one of the model. Raises UnknownNameError, ConfigError."""
    indexes: dict[str, SearchIndex] = app.state.indexes
    if not indexes:
        raise ConfigError("this server has no index; start it with --index or --documents")
    if name is not None and name not in indexes:
        raise UnknownNameError(f"this server has no such index; it has {', '.join(indexes)}")
    wanted = engine_of(app, model).name if model is not None else None
    for key, index in indexes.items():
        if name in (None, key) and wanted in (None, index.model):
            return key, index
    raise ConfigError("no index of this server fits this request; GET /health lists them with their models")


async def embeddings(request: Request, body: schemas.EmbeddingsRequest) -> Response:
    """Vectors of texts, as OpenAI gives them."""
    engine = engine_of(request.app, body.model)
    encoded = await _encode(
        request, engine, _texts_of(body.input), body.input_type, body.instruction, body.truncate, body.dimensions
    )
    packed = body.encoding_format == "base64"
    rows: list[Any] = [_base64(row) for row in encoded.vectors] if packed else list(encoded.vectors)
    data = [
        {"object": "embedding", "index": index, "embedding": row, "truncated": bool(cut)}
        for index, (row, cut) in enumerate(zip(rows, encoded.is_truncated, strict=True))
    ]
    return Json({"object": "list", "model": engine.name, "data": data, "usage": _usage(encoded)})


async def embed(request: Request, body: schemas.EmbedRequest) -> Response:
    """Vectors of texts, as text-embeddings-inference gives them; counts are in the headers."""
    engine = engine_of(request.app, body.model)
    if body.normalize is not None and body.normalize != engine.embedder.is_normalised:
        raise ConfigError(
            f"{engine.name} gives vectors {'of length 1' if engine.embedder.is_normalised else 'as they are'}; "
            f"leave normalize out, or set it to {str(engine.embedder.is_normalised).lower()}"
        )
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    encoded = await _encode(
        request, engine, texts, body.input_type, body.instruction, "truncate" if body.truncate else "error",
        body.dimensions,
    )  # fmt: skip
    headers = {
        "x-diffembed-tokens": str(int(encoded.num_tokens.sum())),
        "x-diffembed-truncated": str(int(encoded.is_truncated.sum())),
    }
    return Json(encoded.vectors, headers=headers)


async def rerank(request: Request, body: schemas.RerankRequest) -> Response:
    """Documents by the similarity of their embeddings to the query's, best first."""
    engine = engine_of(request.app, body.model)
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    query = await _encode(request, engine, [body.query], "query", body.instruction, body.truncate, None)
    documents = await _encode(request, engine, texts, "document", None, body.truncate, None)
    scores_N = engine.embedder.similarity(query.vectors, documents.vectors)[0]
    order_N = np.argsort(-scores_N, kind="stable")[: body.top_n]
    results = []
    for place in map(int, order_N):
        result: dict[str, Any] = {
            "index": place, "relevance_score": float(scores_N[place]), "truncated": bool(documents.is_truncated[place]),
        }  # fmt: skip
        if body.return_documents:
            result["document"] = {"text": texts[place]}
        results.append(result)
    answer = {"id": f"rerank-{secrets.token_hex(8)}", "model": engine.name, "results": results}
    return Json(answer | {"usage": _usage(query, documents)})


async def search(request: Request, body: schemas.SearchRequest) -> Response:
    """Passages of an index that answer a question, best first."""
    name, index = index_of(request.app, body.index, body.model)
    engine = engine_of(request.app, index.model)
    if not body.query.strip():
        raise EmptyInputError("the query is empty; ask with words")

    def found() -> Any:
        return index.search(
            body.query, k=body.k, mode=body.mode, instruction=body.instruction, where=body.where, collapse=body.collapse
        )

    hits = await unless_gone(request, engine.call(found))
    note(request, model=engine.name, index=name, hits=len(hits))
    data = [
        {
            "rank": hit.rank, "score": hit.score, "id": hit.document.id, "title": hit.document.title,
            "text": hit.document.text, "source": hit.document.source, "start": hit.document.start,
            "line": hit.document.line, "metadata": dict(hit.document.metadata), "parts": dict(hit.parts),
        }
        for hit in hits
    ]  # fmt: skip
    return Json({"object": "list", "model": engine.name, "index": name, "data": data})


async def models(request: Request) -> Response:
    """The models of this server; the first is the one that requests without a model get."""
    return Json({"object": "list", "data": [_card(request, engine) for engine in request.app.state.engines.values()]})


async def model(request: Request, name: str) -> Response:
    """One model."""
    return Json(_card(request, engine_of(request.app, name)))


async def health(request: Request) -> Response:
    """Whether the server is ready, what it serves and what was proved of it, how long its queues are."""
    state = request.app.state
    is_ready = all(engine.is_ready for engine in state.engines.values())
    status = "draining" if state.is_draining else "ready" if is_ready else "warming"
    answer = {
        "status": status,
        "version": __version__,
        "models": [engine.describe() for engine in state.engines.values()],
        "indexes": [
            {"name": name, "model": index.model, "passages": index.num_rows} for name, index in state.indexes.items()
        ],
    }
    return Json(answer, status_code=200 if status == "ready" else 503)


async def metrics(request: Request) -> Response:
    """Counters and gauges in Prometheus' text format."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _encode(
    request: Request,
    engine: Engine,
    texts: Sequence[Text],
    input_type: Kind | None,
    instruction: str | None,
    overflow: Overflow | None,
    dims: int | None,
) -> Encoded:
    limit = engine.settings.max_texts
    if not texts:
        raise EmptyInputError("there are no texts; send at least one")
    if len(texts) > limit:
        raise TooLargeError(f"the request has {len(texts):,} texts, {limit:,} are allowed; split it into several")
    kind: Kind = input_type or ("query" if instruction else "document")
    work = engine.encode(texts, kind=kind, instruction=instruction, overflow=overflow, dims=dims)
    encoded = await unless_gone(request, work)
    note(
        request, model=engine.name, texts=len(texts), tokens=int(encoded.num_tokens.sum()),
        truncated=int(encoded.is_truncated.sum()),
    )  # fmt: skip
    return encoded


def _texts_of(given: str | list[str] | list[int] | list[list[int]]) -> list[Text]:
    """A list of texts, whichever of OpenAI's four forms was sent."""
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [given]  # type: ignore[list-item]
    return list(given)  # type: ignore[arg-type]


def _base64(row_D: Vectors) -> str:
    return base64.b64encode(row_D.astype("<f4", copy=False).tobytes()).decode("ascii")


def _usage(*parts: Encoded) -> dict[str, int]:
    total = sum(int(part.num_tokens.sum()) for part in parts)
    return {"prompt_tokens": total, "total_tokens": total}


def _card(request: Request, engine: Engine) -> dict[str, Any]:
    return {
        "id": engine.name,
        "object": "model",
        "created": request.app.state.created,
        "owned_by": "diffembed",
        "dim": engine.embedder.dim,
        "max_tokens": engine.embedder.max_tokens,
        "attention": engine.embedder.attention,
    }
