"""The page at `/`, and the few answers that only the page asks for.

Read `add_page`. The page is plain files without a build step; what it shows is found by the same engines and indexes
that the API uses. Explanations run in the thread of the network, behind the same queue; an index on disk is read in
another thread, so that no request waits for it.
"""

from asyncio import to_thread
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from diffembed import __version__
from diffembed.documents import make_chunks
from diffembed.embedding.contributions import Contributions, explain, is_spread
from diffembed.errors import InputError, UnknownNameError
from diffembed.records import Document, Hit, Vectors
from diffembed.serve.engine import Engine
from diffembed.serve.guard import unless_gone
from diffembed.serve.routes import engine_of
from diffembed.serve.search import Mode, SearchIndex, owner_of

Result = TypeVar("Result")

STATIC = Path(__file__).parent / "static"

MAX_QUESTION_CHARS = 4_000
MAX_TEXT_CHARS = 20_000
MAX_TEXTS = 32
MAX_DOCUMENT_CHARS = 200_000
MAX_SOURCES = 2_000
MAX_POINTS = 1_500
NUM_BINS = 240
"""Bars of the strip; chosen because more are thinner than a pixel on a phone."""


class Ask(BaseModel):
    """A question, and how it is dressed."""

    model_config = ConfigDict(extra="forbid")

    question: str = Field(max_length=MAX_QUESTION_CHARS)
    instruction: str | None = Field(default=None, max_length=MAX_QUESTION_CHARS)


class SearchAsk(Ask):
    """Passages of one index."""

    index: str
    mode: Mode = "dense"
    k: int = Field(default=10, ge=1, le=100)


class EvidenceAsk(Ask):
    """Texts to be taken apart."""

    model: str
    texts: list[str] = Field(min_length=1, max_length=MAX_TEXTS)


class Place(BaseModel):
    """A document: of an index, or a text of the reader's own."""

    model_config = ConfigDict(extra="forbid")

    index: str | None = None
    source: str | None = None
    text: str | None = Field(default=None, max_length=MAX_DOCUMENT_CHARS)


class StripAsk(Place, Ask):
    """A document read as one text."""

    model: str


class MapAsk(BaseModel):
    """A sample of an index in two dimensions, and where a question falls."""

    model_config = ConfigDict(extra="forbid")

    index: str
    question: str | None = Field(default=None, max_length=MAX_QUESTION_CHARS)
    instruction: str | None = Field(default=None, max_length=MAX_QUESTION_CHARS)


router = APIRouter(prefix="/page", include_in_schema=False)


def add_page(app: FastAPI) -> None:
    """The page, its files and its routes; keys and security headers are the guard's business."""
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")


@router.get("/served")
async def served(request: Request) -> dict[str, Any]:
    """What can be asked: models and indexes."""
    state = request.app.state
    return {
        "version": __version__,
        "models": [_model_facts(name, engine) for name, engine in state.engines.items()],
        "indexes": [
            {
                "name": name,
                "model": index.model,
                "num_rows": index.num_rows,
                "modes": list(index.modes),
                "is_late": index.is_late,
            }
            for name, index in state.indexes.items()
        ],
    }


def _model_facts(name: str, engine: Engine) -> dict[str, Any]:
    embedder = engine.embedder
    explains = is_spread(embedder)
    return {
        "name": name,
        "attention": embedder.attention,
        "pooling": embedder.pooling,
        "dim": embedder.dim,
        "max_tokens": embedder.max_tokens,
        "explains": explains,
        "reason": ""
        if explains
        else f"{name} pools the {embedder.pooling} token alone, so that no other word has a share of the score",
    }


@router.post("/search")
async def search(ask: SearchAsk, request: Request) -> dict[str, Any]:
    """Passages of one index, best first."""
    index = _index(request, ask.index)
    engine = engine_of(request.app, index.model)
    started = perf_counter()
    hits = await _call(
        request,
        engine,
        lambda: index.search(ask.question, k=ask.k, mode=ask.mode, instruction=ask.instruction, collapse=False),
    )
    return {"hits": [_hit_facts(hit) for hit in hits], "seconds": perf_counter() - started}


def _hit_facts(hit: Hit) -> dict[str, Any]:
    return {"rank": hit.rank, "score": hit.score, "parts": dict(hit.parts), **_passage_facts(hit.document)}


def _passage_facts(document: Document) -> dict[str, Any]:
    return {
        # What was encoded is what is shown, the title with it.
        "text": document.full_text,
        "source": owner_of(document),
        "line": document.line,
        "start": document.start,
        "stop": document.start + len(document.text),
    }


@router.post("/evidence")
async def evidence(ask: EvidenceAsk, request: Request) -> dict[str, Any]:
    """What every word of the texts adds to their similarity with the question."""
    longest = max(map(len, ask.texts))
    if longest > MAX_TEXT_CHARS:
        raise InputError(f"a text has {longest:,} characters; at most {MAX_TEXT_CHARS:,} are explained at a time")
    engine = engine_of(request.app, ask.model)
    found = await _call(
        request, engine, lambda: explain(engine.embedder, ask.question, ask.texts, instruction=ask.instruction)
    )
    return {"texts": [_evidence_facts(text) for text in found]}


def _evidence_facts(found: Contributions) -> dict[str, Any]:
    read = found.num_chars_read
    # A piece is cut where reading stopped: what follows was not read and is not shown as if it had been.
    pieces = [piece for piece in found.pieces() if piece.start < read]
    return {
        "similarity": found.similarity,
        "num_tokens": found.num_tokens,
        "num_pooled": len(found.shares_T),
        "outside": found.outside,
        "pieces": [[one.text[: read - one.start], round(one.share, 6), round(one.num_tokens, 3)] for one in pieces],
        "unread": found.text[read:],
    }


@router.post("/document")
async def read_document(place: Place, request: Request) -> dict[str, Any]:
    """The passages of a document, in the order of the text."""
    passages = await to_thread(_passages, request, place)
    first = passages[0]
    return {
        "file": "A text of your own" if place.text is not None else owner_of(first),
        "source": owner_of(first),
        "length": passages[-1].start + len(passages[-1].text),
        "passages": [_passage_facts(passage) for passage in passages],
    }


@router.post("/strip")
async def strip(ask: StripAsk, request: Request) -> dict[str, Any]:
    """What the text adds to the similarity along its length when it is read as one, and where reading stops."""
    passages = await to_thread(_passages, request, ask)
    text = _join(passages)
    engine = engine_of(request.app, ask.model)
    (found,) = await _call(
        request, engine, lambda: explain(engine.embedder, ask.question, [text], instruction=ask.instruction)
    )
    return {
        "similarity": found.similarity,
        "length": len(text),
        "num_chars_read": found.num_chars_read,
        "num_tokens": found.num_tokens,
        "is_truncated": found.is_truncated,
        "bins": [round(float(share), 6) for share in found.along(NUM_BINS)],
    }


@router.get("/sources")
async def list_sources(index: str, request: Request) -> dict[str, Any]:
    """The documents of an index, the longest first."""
    found = _index(request, index)
    counts = sorted((await to_thread(found.sources)).items(), key=lambda item: (-item[1], item[0]))
    return {
        "num_sources": len(counts),
        "sources": [{"source": source, "num_passages": count} for source, count in counts[:MAX_SOURCES]],
    }


@router.post("/map")
async def map_of(ask: MapAsk, request: Request) -> dict[str, Any]:
    """A sample of an index along the two directions in which its vectors vary most."""
    index = _index(request, ask.index)
    engine = engine_of(request.app, index.model)
    documents, vectors_ND = await to_thread(index.sample, MAX_POINTS)
    if not documents:
        raise InputError(f"the index {ask.index!r} is empty; there is nothing to draw")
    center_D, axes_2D, explained = await to_thread(principal_axes, vectors_ND)
    places_N2 = (vectors_ND - center_D) @ axes_2D.T
    question = None
    if ask.question and ask.question.strip():
        encoded = await engine.encode([ask.question], kind="query", instruction=ask.instruction, overflow="truncate")
        x, y = (encoded.vectors[0] - center_D) @ axes_2D.T
        question = {"x": float(x), "y": float(y)}
    return {
        "explained": explained,
        "question": question,
        "points": [
            {"x": float(x), "y": float(y), **_passage_facts(document)}
            for document, (x, y) in zip(documents, places_N2, strict=True)
        ],
    }


def principal_axes(vectors_ND: Vectors) -> tuple[NDArray[np.float32], NDArray[np.float32], list[float]]:
    """(mean [D], the two directions of most variance [2, D], the fraction of the variance along each).

    Directions are of length 1; the sign is such that the largest component is positive. Fewer than three different
    vectors give zero directions where there is no variance.
    """
    center_D = vectors_ND.mean(0)
    _, sizes, axes_KD = np.linalg.svd(vectors_ND - center_D, full_matrices=False)
    axes_2D = np.zeros((2, vectors_ND.shape[1]), dtype=np.float32)
    fractions = [0.0, 0.0]
    total = float((sizes**2).sum())
    for i in range(min(2, len(sizes))):
        if total > 0 and sizes[i] ** 2 > 1e-10 * total:
            axes_2D[i] = axes_KD[i] * np.sign(axes_KD[i][np.abs(axes_KD[i]).argmax()])
            fractions[i] = float(sizes[i] ** 2) / total
    return center_D, axes_2D, fractions


async def _call(request: Request, engine: Engine, function: Callable[[], Result]) -> Result:
    """The result of a function that runs the network; nothing when the reader has gone on meanwhile."""
    return await unless_gone(request, engine.call(function))


def _index(request: Request, name: str) -> SearchIndex:
    indexes: dict[str, SearchIndex] = request.app.state.indexes
    if name not in indexes:
        raise UnknownNameError(f"this server has no such index; it has {', '.join(indexes) or 'none'}")
    return indexes[name]


def _passages(request: Request, place: Place) -> Sequence[Document]:
    if (place.text is None) == (place.source is None or place.index is None):
        raise InputError("a document is named by index and source, or given as text")
    if place.text is not None:
        passages: Sequence[Document] = make_chunks(Document(id="text", text=place.text))
        if not passages:
            raise InputError("the text is empty; there is nothing to read")
        return passages
    passages = _index(request, place.index or "").passages(place.source or "")
    if not passages:
        raise InputError(f"the index {place.index!r} has no document {place.source!r}")
    if passages[-1].start > MAX_DOCUMENT_CHARS:
        raise InputError(f"{owner_of(passages[0])} is longer than {MAX_DOCUMENT_CHARS:,} characters; search it instead")
    return passages


def _join(passages: Sequence[Document]) -> str:
    """The text of which the passages were cut: every passage at its place, line breaks where white space was left out.

    Passages that overlap are laid over each other.
    """
    text = ""
    for passage in passages:
        text = text[: passage.start].ljust(passage.start, "\n") + passage.text
    return text
