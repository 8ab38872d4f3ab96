"""Poolings against numpy, written out."""

import numpy as np
import pytest
import torch

from diffembed.embedding.pooling import POOLINGS, pool
from diffembed.errors import UnknownNameError

HIDDEN = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
RANGES = [(1, 4), (5, 6), (6, 9)]

REFERENCE = {
    "mean": lambda x: x.mean(0),
    "weighted_mean": lambda x: np.average(x, axis=0, weights=np.arange(1, len(x) + 1)),
    "last": lambda x: x[-1],
    "first": lambda x: x[0],
}


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_equals_numpy(name):
    want = np.stack([REFERENCE[name](HIDDEN.numpy()[start:stop]) for start, stop in RANGES])
    np.testing.assert_allclose(pool(HIDDEN, RANGES, name).numpy(), want, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_empty_range_is_the_zero_vector(name):
    vectors = pool(HIDDEN, [(0, 2), (2, 2)], name)
    assert vectors[0].abs().sum() > 0 and torch.equal(vectors[1], torch.zeros(4))


def test_half_precision_is_summed_in_float32():
    # 4,096 ones and a single 64 in bfloat16: a bfloat16 sum would stop growing at 256.
    hidden = torch.ones(4096, 1, dtype=torch.bfloat16)
    hidden[0] = 64
    assert pool(hidden, [(0, 4096)], "mean").item() == pytest.approx((4095 + 64) / 4096, rel=1e-6)


def test_gradient_flows_to_pooled_tokens_only():
    hidden = HIDDEN.clone().requires_grad_()
    pool(hidden, [(1, 3)], "mean").sum().backward()
    assert hidden.grad.abs().sum(1).tolist() == [0, 2, 2, 0, 0, 0, 0, 0, 0]


def test_unknown_pooling():
    with pytest.raises(UnknownNameError, match="did you mean 'mean'"):
        pool(HIDDEN, RANGES, "meen")
