"""Token budgets and memory that runs out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed import Embedder
from diffembed.embedding import packing
from diffembed.embedding.packing import make_batches
from diffembed.errors import ConfigError, ResourceError


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 400))
def test_every_text_once_within_the_budget(lengths, budget):
    batches = make_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in batch) <= budget or len(batch) == 1 for batch in batches)
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)


def test_budget_must_be_positive():
    with pytest.raises(ConfigError, match="at least 1"):
        make_batches([1], 0)


TEXTS = [f"text {i} " * (i + 1) for i in range(12)]


def out_of_memory_above(limit, monkeypatch):
    forward = packing.forward_packed

    def forward_or_fail(backbone, tokens, **kwargs):
        if sum(len(text) for text in tokens) > limit:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
            )
        return forward(backbone, tokens, **kwargs)

    monkeypatch.setattr(packing, "forward_packed", forward_or_fail)


def test_out_of_memory_halves_the_budget_and_goes_on(monkeypatch):
    embedder = Embedder.load("tiny", dtype="float32")
    want = embedder.encode_documents(TEXTS)
    out_of_memory_above(150, monkeypatch)
    with pytest.warns(UserWarning, match="memory ran out .* going on with packs of"):
        got = embedder.encode_documents(TEXTS)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_one_text_that_does_not_fit_is_an_error(monkeypatch):
    embedder = Embedder.load("tiny")
    out_of_memory_above(3, monkeypatch)
    with pytest.raises(ResourceError, match=r"one text of .* smaller max_tokens"), pytest.warns(UserWarning):
        embedder.encode_documents(TEXTS)


def test_other_runtime_errors_are_not_hidden(monkeypatch):
    embedder = Embedder.load("tiny")

    def fail(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(packing, "forward_packed", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        embedder.encode_documents(TEXTS)
