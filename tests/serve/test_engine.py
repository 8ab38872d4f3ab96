"""An engine gives what `Embedder.encode` gives, however requests are mixed."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from tests.serve.conftest import TEXTS

from diffembed import Embedder
from diffembed.embedding.text import Overflow
from diffembed.errors import ConfigError, InputError, OverflowingTextError
from diffembed.serve.batcher import TooLargeError
from diffembed.serve.engine import Encoded, Engine
from diffembed.serve.settings import ServeSettings

LONG = "a language model reads a text in both directions. " * 40


def answer(engine: Engine, *work: Callable[[], Awaitable[Encoded]]) -> list[Encoded]:
    """All of it at once: the network is held until every request waits in the queue or was refused."""
    gate = threading.Event()

    async def run() -> list[Encoded]:
        try:
            held = asyncio.create_task(engine.call(lambda: gate.wait(60)))
            tasks = [asyncio.ensure_future(one()) for one in work]
            while engine.batcher.num_requests - 1 + sum(task.done() for task in tasks) < len(tasks):
                await asyncio.sleep(0.001)
            gate.set()
            await held
            return list(await asyncio.gather(*tasks))
        finally:
            await engine.close()

    return asyncio.run(run())


def test_many_callers_get_the_vectors_of_the_embedder(embedder: Embedder) -> None:
    engine = Engine(embedder)
    packs: list[int] = []
    engine.on_pack = lambda texts, tokens, seconds: packs.append(texts)
    parts = [TEXTS[i::5] for i in range(5)]
    answers = answer(
        engine,
        *(lambda part=part: engine.encode(part) for part in parts),
        lambda: engine.encode(TEXTS[:3], kind="query", instruction="find the text", dims=7),
    )
    for part, encoded in zip(parts, answers[:5], strict=True):
        vectors, report = embedder.encode(part)
        np.testing.assert_allclose(encoded.vectors, vectors, atol=1e-5)
        np.testing.assert_array_equal(encoded.num_tokens, report.num_tokens)
    cut, _ = embedder.encode(TEXTS[:3], kind="query", instruction="find the text", dims=7)
    np.testing.assert_allclose(answers[5].vectors, cut, atol=1e-5)
    assert max(packs) > 8, "no pack held texts of two callers"
    assert np.abs(embedder.encode(TEXTS[:3])[0][:, :7] - cut).max() > 0.01


@pytest.mark.parametrize("overflow", ["truncate", "chunk"])
def test_long_texts_as_the_policy_says(overflow: Overflow) -> None:
    embedder = Embedder.load("tiny-qwen2", dtype="float32", max_tokens=50)
    engine = Engine(embedder)
    (encoded,) = answer(engine, lambda: engine.encode([LONG, "short"], overflow=overflow))
    vectors, report = embedder.encode([LONG, "short"], overflow=overflow)
    np.testing.assert_allclose(encoded.vectors, vectors, atol=1e-5)
    np.testing.assert_array_equal(encoded.is_truncated, report.is_truncated)
    assert encoded.is_truncated.tolist() == [overflow == "truncate", False]


@pytest.mark.parametrize(
    ("settings", "given", "options", "error", "message"),
    [
        ({}, [LONG * 30], {}, OverflowingTextError, "fit"),
        ({}, ["a"], {"dims": 33}, ConfigError, "dimensions is 33; tiny has 1 to 32"),
        ({}, ["a"], {"instruction": "find"}, ConfigError, "documents take no instruction"),
        ({}, [[1, 512]], {}, InputError, "token id 512 does not exist"),
        ({}, [[1, -1]], {}, InputError, "token id -1 does not exist"),
        ({"max_request_tokens": 100}, ["one two three"] * 200, {}, TooLargeError, "more than 100 tokens"),
    ],
)
def test_what_is_refused_says_why(embedder: Embedder, settings, given, options, error, message) -> None:
    engine = Engine(embedder, ServeSettings(**settings), name="tiny")
    with pytest.raises(error, match=message):
        answer(engine, lambda: engine.encode(given, **options))


@pytest.mark.parametrize("name", ["tiny-gemma3", "all-minilm-l6-v2"])
def test_token_ids_are_the_text_they_came_from(name: str) -> None:
    """With the special tokens that the tokenizer writes around them, and without; as a query too."""
    embedder = Embedder.load(name, dtype="float32")
    text = "A question and the document that answers it."
    full, bare = (embedder.backbone.tokenizer(text, add_special_tokens=added).input_ids for added in (True, False))
    assert full != bare, "the tokenizer writes no special tokens, so nothing is shown"
    want = embedder.encode_documents([text])[0]
    for ids in (full, bare):
        (tokens,) = embedder.tokenize([ids])
        (told,) = embedder.tokenize([text])
        assert tokens.windows[0].ids.tolist() == told.windows[0].ids.tolist()
    engine = Engine(embedder)
    mixed, query = answer(
        engine,
        lambda: engine.encode([full, text, bare]),
        lambda: engine.encode([bare], kind="query", instruction="find"),
    )
    np.testing.assert_allclose(mixed.vectors, np.stack([want] * 3), atol=1e-5)
    np.testing.assert_allclose(query.vectors, embedder.encode_queries([text], "find"), atol=1e-5)


def test_an_empty_text_and_no_ids_are_the_zero_vector(embedder: Embedder) -> None:
    engine = Engine(embedder)
    (encoded,) = answer(engine, lambda: engine.encode(["", []]))
    np.testing.assert_array_equal(encoded.vectors, np.zeros((2, embedder.dim)))


def test_warming_up_measures_the_speed(embedder: Embedder) -> None:
    engine = Engine(embedder)

    async def run() -> None:
        assert not engine.describe()["ready"]
        await engine.warm_up()
        facts = engine.describe()
        assert facts["ready"] and facts["tokens_per_s"] > 0
        assert facts["contract"]["held"] and facts["contract"]["attention"] == facts["attention"]
        await engine.close()

    asyncio.run(run())
