"""One model behind its queue: texts in, vectors and counts out, for any number of callers at once.

Read `Engine.encode`. The vectors are those of `Embedder.encode`, whatever was packed with them. Must not know HTTP.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffembed.embedding.embedder import Embedder, join_windows
from diffembed.embedding.packing import encode_packed
from diffembed.embedding.precision import cut_dims
from diffembed.embedding.text import Kind, Overflow, TokenizedText, Tokens
from diffembed.errors import ConfigError
from diffembed.records import Vectors
from diffembed.serve.batcher import Batcher, TooLargeError
from diffembed.serve.settings import ServeSettings

Result = TypeVar("Result")
Text = str | Sequence[int]

SLAB_TEXTS = 64
"""Texts tokenised at a time, so that one long request does not hold up the tokens of another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """The answer to one request."""

    vectors: Vectors
    """[N, dims] float32, in the order of the texts."""
    num_tokens: NDArray[np.int64]
    """[N] tokens the network read."""
    is_truncated: NDArray[np.bool_]
    """[N] True where the end of a text was cut."""


class Engine:
    """An `Embedder` for many callers; its methods belong to one event loop."""

    def __init__(
        self,
        embedder: Embedder,
        settings: ServeSettings | None = None,
        *,
        name: str | None = None,
        on_pack: Callable[[int, int, float], None] | None = None,
    ) -> None:
        """name: what requests call the model by; `None` takes the embedder's, of a folder only its last part."""
        settings = settings or ServeSettings()
        self.embedder = embedder
        self.name = name or public_name(embedder.name)
        self.settings = settings
        self.is_ready = False
        self.on_pack = on_pack
        self.batcher = Batcher(
            self._encode_pack,
            token_budget=embedder.token_budget,
            max_queue_tokens=settings.max_queue_tokens,
            timeout_s=settings.timeout_s,
            max_calls=settings.max_searches,
            on_pack=self._note_pack,
        )
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenize")

    async def encode(
        self,
        texts: Sequence[Text],
        *,
        kind: Kind = "document",
        instruction: str | None = None,
        overflow: Overflow | None = None,
        dims: int | None = None,
    ) -> Encoded:
        """Vectors of the texts (or of their token ids), as `Embedder.encode` gives them.

        overflow: `None` takes the one of the settings. Raises what the tokenizer and the batcher raise, and
        TooLargeError above `max_request_tokens`.
        """
        # A bad cut is refused before any work is done for it.
        if dims is not None and not 1 <= dims <= self.embedder.dim:
            raise ConfigError(f"dimensions is {dims}; {self.name} has 1 to {self.embedder.dim}")
        self.batcher.check_room(0)
        tokenized = await self._tokenize(texts, kind, instruction, overflow or self.settings.overflow)
        rows_WD = await self.batcher.encode([window for text in tokenized for window in text.windows])
        vectors = join_windows(tokenized, rows_WD, is_normalised=self.embedder.is_normalised)
        return Encoded(
            vectors=cut_dims(vectors, dims or self.embedder.dim, is_normalised=self.embedder.is_normalised),
            num_tokens=np.array([text.num_tokens for text in tokenized], dtype=np.int64),
            is_truncated=np.array([text.is_truncated for text in tokenized], dtype=np.bool_),
        )

    async def _tokenize(
        self, texts: Sequence[Text], kind: Kind, instruction: str | None, overflow: Overflow
    ) -> list[TokenizedText]:
        loop = asyncio.get_running_loop()
        tokenized: list[TokenizedText] = []
        num_tokens = 0
        for first in range(0, len(texts), SLAB_TEXTS):
            slab = texts[first : first + SLAB_TEXTS]
            tokenized += await loop.run_in_executor(
                self._tokenizing,
                partial(self.embedder.tokenize, slab, kind=kind, instruction=instruction, overflow=overflow),
            )
            num_tokens += sum(text.num_tokens for text in tokenized[first:])
            if num_tokens > self.settings.max_request_tokens:
                raise TooLargeError(
                    f"the request has more than {self.settings.max_request_tokens:,} tokens; split it into several"
                )
        return tokenized

    async def call(self, function: Callable[[], Result]) -> Result:
        """What `function` returns in the thread of the network: searches, explanations, whatever else runs it."""
        return await self.batcher.call(function)

    def _encode_pack(self, windows: Sequence[Tokens]) -> Vectors:
        pooling = self.embedder.pooling
        budget = self.embedder.token_budget
        return encode_packed(self.embedder.backbone, windows, [pooling], budget=budget)[pooling]

    def _note_pack(self, num_windows: int, num_tokens: int, seconds: float) -> None:
        if self.on_pack is not None:
            self.on_pack(num_windows, num_tokens, seconds)

    async def warm_up(self) -> None:
        """Encodes a full pack twice, once to make the kernels and once to measure; then the engine is ready."""
        generator = np.random.default_rng(0)
        backbone = self.embedder.backbone
        length = min(128, self.embedder.max_tokens, self.embedder.token_budget)
        windows = [
            Tokens(generator.integers(5, backbone.config.vocab_size, length).astype(np.int32), 0, length)
            for _ in range(max(self.embedder.token_budget // length, 1))
        ]
        for _ in range(2):
            started = perf_counter()
            # The first pack may take longer than any request is allowed to.
            await self.batcher.call(lambda: self._encode_pack(windows), has_deadline=False)
        self.batcher.tokens_per_s = length * len(windows) / (perf_counter() - started)
        self.is_ready = True

    async def close(self) -> None:
        """Waits until everything is answered, then ends the threads."""
        await self.batcher.close()
        self._tokenizing.shutdown()

    def describe(self) -> dict[str, Any]:
        """What `/health` says of the model."""
        backbone = self.embedder.backbone
        return {
            "model": self.name,
            "ready": self.is_ready,
            "attention": self.embedder.attention,
            "pooling": self.embedder.pooling,
            "contract": backbone.verdict.as_dict(),
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "device": str(backbone.device),
            "dim": self.embedder.dim,
            "max_tokens": self.embedder.max_tokens,
            "source_hash": backbone.source_hash,
            "tokens_per_s": round(self.batcher.tokens_per_s) if self.batcher.tokens_per_s else None,
            "queue": {
                "requests": self.batcher.num_requests,
                "tokens": self.batcher.num_queue_tokens,
                "capacity_tokens": self.batcher.capacity_tokens,
            },
        }


def public_name(name: str) -> str:
    """A model's name without the path of this machine."""
    return Path(name).resolve().name if Path(name).is_dir() else name
