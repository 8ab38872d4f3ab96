"""Echo embeddings: the text is read twice and its second copy pooled, so that a causal network has seen it whole.

Read `read_echo`. Source: Springer et al. 2024 (arXiv 2402.15449). This module knows nothing of tasks.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from diffembed.embedding.embedder import Embedder
from diffembed.embedding.packing import encode_packed
from diffembed.embedding.precision import normalise
from diffembed.embedding.text import TextTemplate, TokenizedText, clean
from diffembed.errors import ConfigError
from diffembed.evaluation.systems.identity import identify
from diffembed.evaluation.systems.reading import Reader
from diffembed.provenance import hash_config
from diffembed.records import EncodeReport, Vectors

TEMPLATE = TextTemplate(instruction_format="{instruction}")
"""What stands before the second copy, first copy included, is attended and never pooled."""
QUERY_FORMAT = "Instruct: {instruction}\nQuery: {text}\nQuery again: "
BARE_QUERY_FORMAT = "Query: {text}\nQuery again: "
DOCUMENT_FORMAT = "Document: {text}\nDocument again: "
SEAM_TOKENS = 4
"""Left free, because the first copy may take a token or two more inside its sentence than alone."""


def read_echo(
    embedder: Embedder,
    label: str,
    *,
    cache_folder: Path | None = None,
    notify: Callable[[str], None] | None = None,
) -> Reader:
    """A reader over a causal embedder with `TEMPLATE`; a text is cut where its two copies reach the token limit."""
    if embedder.template != TEMPLATE:
        raise ConfigError("echo needs an embedder with echo.TEMPLATE; the prefix of each text is its instruction")

    def encode_texts(
        texts: Sequence[str], kind: str, instruction: str | None
    ) -> tuple[dict[str, Vectors], EncodeReport | None]:
        started = time.perf_counter()
        tokenized, is_truncated = [], []
        for text in texts:
            tokens, is_cut = _tokenize_twice(embedder, text, kind, instruction)
            tokenized.append(tokens)
            is_truncated.append(is_cut)
        windows = [text.windows[0] for text in tokenized]
        pooled = encode_packed(embedder.backbone, windows, [embedder.pooling], budget=embedder.token_budget)
        report = EncodeReport(
            num_tokens=np.asarray([text.num_tokens for text in tokenized], dtype=np.int64),
            is_truncated=np.asarray(is_truncated, dtype=np.bool_),
            seconds=time.perf_counter() - started,
            max_tokens=embedder.max_tokens,
        )
        return {label: normalise(pooled[embedder.pooling])}, report

    formats = [QUERY_FORMAT, BARE_QUERY_FORMAT, DOCUMENT_FORMAT]
    key = hash_config([identify(embedder, pooling=embedder.pooling), *formats])
    return Reader(
        encode_texts,
        labels=[label],
        dim=embedder.dim,
        max_tokens=embedder.max_tokens,
        cache_folder=cache_folder,
        keys={label: key},
        notify=notify,
    )


def _tokenize_twice(embedder: Embedder, text: str, kind: str, instruction: str | None) -> tuple[TokenizedText, bool]:
    form = DOCUMENT_FORMAT if kind == "document" else QUERY_FORMAT if instruction else BARE_QUERY_FORMAT
    form = form.replace("{instruction}", instruction or "")
    frame = embedder.tokenize([""], kind="query", instruction=form.replace("{text}", ""))[0].num_tokens
    room = (embedder.max_tokens - frame - SEAM_TOKENS) // 2
    if room < 1:
        raise ConfigError(f"max_tokens {embedder.max_tokens} leaves echo no room for a text; raise it")
    text = clean(text)
    ends = embedder.backbone.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).offsets
    is_cut = len(ends) > room
    if is_cut:
        text = text[: ends[room - 1][1]]
    return embedder.tokenize([text], kind="query", instruction=form.replace("{text}", text))[0], is_cut
