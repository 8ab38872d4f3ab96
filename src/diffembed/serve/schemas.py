"""What requests and answers look like; the OpenAPI page is made from these.

Unknown fields are refused: a setting that is misspelt must not be passed over in silence.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

Ids = list[StrictInt]
Truncate = Literal["error", "truncate", "chunk"]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EmbeddingsRequest(_Request):
    """OpenAI's, with three fields of ours: `input_type`, `instruction`, `truncate`."""

    input: str | list[str] | Ids | list[Ids] = Field(description="A text, texts, the token ids of one, or of several.")
    model: str | None = Field(None, description="One of GET /v1/models; the first of them when absent.")
    dimensions: Annotated[int, Field(ge=1)] | None = Field(None, description="Keep so many leading components.")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: little-endian float32.")
    user: str | None = Field(None, description="Accepted for OpenAI's sake; not kept.")
    input_type: Literal["document", "query"] | None = Field(
        None, description="How the texts are dressed; `query` when an instruction is given, else `document`."
    )
    instruction: str | None = Field(None, description="Stands before each query; absent takes the model's own.")
    truncate: Truncate | None = Field(
        None,
        description="A text longer than the model reads is refused, cut, or read in windows that are averaged.",
    )


class EmbedRequest(_Request):
    """That of text-embeddings-inference."""

    inputs: str | list[str]
    truncate: StrictBool = Field(False, description="Cut texts that are too long instead of refusing them.")
    normalize: StrictBool | None = Field(None, description="Must agree with the model, which is trained for one.")
    dimensions: Annotated[int, Field(ge=1)] | None = None
    model: str | None = None
    input_type: Literal["document", "query"] | None = None
    instruction: str | None = None


class RerankDocument(_Request):
    """A document as an object."""

    text: str


class RerankRequest(_Request):
    """Cohere's and Jina's; the score is the cosine of the embeddings."""

    query: str
    documents: list[str | RerankDocument]
    top_n: Annotated[int, Field(ge=1)] | None = Field(None, description="All of them when absent.")
    return_documents: StrictBool = False
    model: str | None = None
    instruction: str | None = None
    truncate: Truncate = "truncate"


class SearchRequest(_Request):
    """A question to an index of this server."""

    query: str
    k: Annotated[int, Field(ge=1, le=1000)] = 10
    mode: Literal["dense", "bm25", "hybrid"] = "dense"
    model: str | None = Field(None, description="Chooses the first index made by this model.")
    index: str | None = Field(None, description="One of the indexes that GET /health names.")
    instruction: str | None = None
    where: str | None = Field(None, description="A condition on columns, where the index has some.")
    collapse: StrictBool = Field(True, description="Only the best passage of each document.")


class Usage(BaseModel):
    """Tokens the network read."""

    prompt_tokens: int
    total_tokens: int


class Embedding(BaseModel):
    """One vector."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    truncated: bool


class EmbeddingsAnswer(BaseModel):
    """OpenAI's list."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: Usage


class Ranked(BaseModel):
    """One document of a reranking."""

    index: int
    relevance_score: float
    document: RerankDocument | None = None
    truncated: bool


class RerankAnswer(BaseModel):
    """Best first."""

    id: str
    model: str
    results: list[Ranked]
    usage: Usage


class FoundPassage(BaseModel):
    """One hit."""

    rank: int
    score: float
    id: str
    title: str
    text: str
    source: str
    start: int
    line: int
    metadata: dict[str, str | int | float | bool]
    parts: dict[str, float]


class SearchAnswer(BaseModel):
    """Best first."""

    object: Literal["list"]
    model: str
    index: str
    data: list[FoundPassage]


class ModelCard(BaseModel):
    """OpenAI's, with what a caller must know of the vectors."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    dim: int
    max_tokens: int
    attention: str


class ModelList(BaseModel):
    """All models of this server, the default first."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(BaseModel):
    """200 when ready, 503 while warming up or draining."""

    status: Literal["ready", "warming", "draining"]
    version: str
    models: list[dict[str, Any]]
    indexes: list[dict[str, Any]]


class Fault(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class FaultAnswer(BaseModel):
    """Every answer that is not 200."""

    error: Fault
