import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffembed.objectives import vocabulary
from diffembed.objectives.vocabulary import vocabulary_cross_entropy


def make_problem(num_positions=13, width=16, size=211, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_positions, width, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(size, width, generator=generator).to(dtype).requires_grad_()
    target = torch.randint(size, (num_positions,), generator=generator)
    outer = torch.rand(num_positions, generator=generator)
    return hidden, head, target, outer


def reference(hidden, head, target, outer, softcap):
    """Plain float64 autograd over full logits."""
    hidden64, head64 = hidden.detach().double().requires_grad_(), head.detach().double().requires_grad_()
    logits = hidden64 @ head64.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    nll = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    (nll * outer.double()).sum().backward()
    return nll.detach(), logits.argmax(-1) == target, hidden64.grad, head64.grad


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("chunk_rows", [1, 4, 13, 100], ids=lambda rows: f"chunk of {rows}")
def test_equals_full_logits_in_loss_and_both_gradients(monkeypatch, chunk_rows, softcap):
    hidden, head, target, outer = make_problem()
    monkeypatch.setattr(vocabulary, "CHUNK_BYTES", chunk_rows * head.shape[0] * 4)
    scored = vocabulary_cross_entropy(hidden, head, target, softcap=softcap)
    (scored.nll_N * outer).sum().backward()
    nll, is_correct, grad_hidden, grad_head = reference(hidden, head, target, outer, softcap)
    assert grad_hidden.abs().max() > 1e-2 and grad_head.abs().max() > 1e-2
    torch.testing.assert_close(scored.nll_N.double(), nll, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), grad_hidden, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.grad.double(), grad_head, rtol=1e-4, atol=1e-5)
    assert torch.equal(scored.is_correct_N, is_correct)


def test_winning_target_is_counted_correct():
    hidden, head, target, _ = make_problem()
    head.data[target[3]] = 50 * hidden.data[3]
    scored = vocabulary_cross_entropy(hidden, head, target)
    assert scored.is_correct_N[3] and not scored.is_correct_N.all()
    assert scored.nll_N[3] < 1e-4


def test_frozen_head_gets_no_gradient_and_costs_none():
    hidden, head, target, outer = make_problem()
    head.requires_grad_(False)
    (vocabulary_cross_entropy(hidden, head, target).nll_N * outer).sum().backward()
    assert head.grad is None and hidden.grad.abs().sum() > 0


def test_bfloat16_stays_within_its_rounding():
    hidden, head, target, outer = make_problem(num_positions=64, size=4096, dtype=torch.bfloat16)
    scored = vocabulary_cross_entropy(hidden, head, target)
    (scored.nll_N * outer).sum().backward()
    nll, _, grad_hidden, grad_head = reference(hidden, head, target, outer, None)
    # Logits reach 16, where neighbouring bfloat16 numbers lie 0.125 apart; the errors cancel in the mean.
    errors = scored.nll_N.detach() - nll
    assert errors.abs().max() < 0.1
    assert abs(float(errors.mean())) < 2e-3
    assert torch.cosine_similarity(hidden.grad.double().flatten(), grad_hidden.flatten(), dim=0) > 0.9999
    assert torch.cosine_similarity(head.grad.double().flatten(), grad_head.flatten(), dim=0) > 0.9999


def test_extreme_logits_neither_overflow_nor_underflow():
    hidden = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    head = torch.tensor([[1.0], [0.0], [-1.0]])
    scored = vocabulary_cross_entropy(hidden, head, torch.tensor([2, 2]))
    # Row 0: logits 1000, 0, -1000, so -log p(2) = 2000. Row 1: the target wins by 1000.
    torch.testing.assert_close(scored.nll_N, torch.tensor([2000.0, 0.0]))
    scored.nll_N.sum().backward()
    # d nll / d hidden = sum_v p_v head_v - head_target = 1 - (-1), and 0 where the target has all the mass.
    torch.testing.assert_close(hidden.grad, torch.tensor([[2.0], [0.0]]))


def test_no_position_gives_a_connected_empty_loss():
    hidden, head, _, _ = make_problem(num_positions=0)
    scored = vocabulary_cross_entropy(hidden, head, torch.zeros(0, dtype=torch.long))
    scored.nll_N.sum().backward()
    assert hidden.grad is not None and scored.nll_N.shape == (0,)


class LargestTensor(TorchDispatchMode):
    """Size in elements of the largest tensor any operation returns."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def test_no_tensor_of_positions_times_vocabulary_is_ever_made(monkeypatch):
    hidden, head, target, outer = make_problem(num_positions=64, width=4, size=1000)
    monkeypatch.setattr(vocabulary, "CHUNK_BYTES", 8 * 1000 * 4)
    with LargestTensor() as seen:
        (vocabulary_cross_entropy(hidden, head, target).nll_N * outer).sum().backward()
    assert seen.largest == 8 * 1000


def test_uniform_logits_cost_the_log_of_the_vocabulary():
    scored = vocabulary_cross_entropy(torch.zeros(3, 8), torch.randn(50, 8), torch.tensor([0, 7, 49]))
    torch.testing.assert_close(scored.nll_N, torch.full((3,), math.log(50)))
