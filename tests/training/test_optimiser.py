import copy

import pytest
import torch

from diffembed.training.optimiser import MasterAdamW


def run_steps(optimiser_class, dtype, steps=30, **settings):
    weight = torch.nn.Parameter(torch.linspace(-0.05, 0.05, 12).to(dtype))
    optimiser = optimiser_class([weight], **settings)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        weight.grad = torch.randn(12, generator=generator).to(dtype)
        optimiser.step()
    return weight, optimiser


def test_equals_torchs_adamw_in_float32():
    settings = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.8, 0.95)}
    ours, _ = run_steps(MasterAdamW, torch.float32, **settings)
    theirs, _ = run_steps(torch.optim.AdamW, torch.float32, **settings)
    assert not torch.equal(ours, torch.linspace(-0.05, 0.05, 12))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_bfloat16_weights_follow_the_float32_path_where_plain_adamw_stands_still():
    """The bug it exists for: an update below half a unit in the last place is rounded away, every time."""
    weight = torch.nn.Parameter(torch.full((4,), 0.5, dtype=torch.bfloat16))
    plain = torch.nn.Parameter(weight.detach().clone())
    ours, theirs = MasterAdamW([weight], lr=1e-4), torch.optim.AdamW([plain], lr=1e-4, weight_decay=0.0)
    for _ in range(100):
        weight.grad = plain.grad = torch.ones(4, dtype=torch.bfloat16)
        ours.step()
        theirs.step()
    assert torch.equal(plain, torch.full((4,), 0.5, dtype=torch.bfloat16))
    # A constant gradient moves Adam by lr each step: 0.5 - 100 * 1e-4 = 0.49.
    torch.testing.assert_close(weight.float(), torch.full((4,), 0.49), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_resume_from_a_saved_state_is_exact(dtype, tmp_path):
    straight, _ = run_steps(MasterAdamW, dtype, steps=30, lr=1e-3)
    weight, optimiser = run_steps(MasterAdamW, dtype, steps=10, lr=1e-3)
    torch.save(optimiser.state_dict(), tmp_path / "optimizer.pt")
    resumed = torch.nn.Parameter(weight.detach().clone())
    again = MasterAdamW([resumed], lr=9.9)
    again.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(12, generator=generator).to(dtype) for _ in range(30)]
    for gradient in gradients[10:]:
        resumed.grad = gradient
        again.step()
    assert torch.equal(resumed, straight)
    assert all(
        value.dtype == torch.float32
        for state in again.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    )


def test_loading_leaves_the_given_state_untouched():
    weight, optimiser = run_steps(MasterAdamW, torch.bfloat16, steps=3)
    stored = optimiser.state_dict()
    before = copy.deepcopy(stored)
    other = torch.nn.Parameter(weight.detach().clone())
    again = MasterAdamW([other])
    again.load_state_dict(stored)
    other.grad = torch.ones(12, dtype=torch.bfloat16)
    again.step()
    for key, value in before["state"][0].items():
        assert torch.equal(torch.as_tensor(stored["state"][0][key]), torch.as_tensor(value))
