"""Counts against direct enumeration."""

import pytest

from diffembed.objectives.schedules import SCHEDULES
from diffembed.study.cost import arm_costs, keys_in_window, mean_keys, predicted_share
from diffembed.training.config import ObjectiveConfig


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize(("window", "length"), [(None, 9), (4, 9), (4, 3), (4, 40), (9, 9)])
def test_mean_keys_equal_a_count_over_all_pairs(attention, window, length):
    seen = 0
    for token in range(length):
        for key in range(length):
            distance = token - key
            if attention == "causal":
                seen += 0 <= distance < (window or length)
            else:
                seen += abs(distance) <= (window or length)
    assert mean_keys(attention, window, length) == pytest.approx(seen / length)


def test_a_causal_sliding_layer_sees_512_tokens_and_a_bidirectional_one_1025():
    assert keys_in_window("causal", [512, None]) == 512
    assert keys_in_window("bidirectional", [512, None]) == 1025
    assert keys_in_window("causal", [None]) is None


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_predicted_tokens_are_the_mean_masking_rate(schedule):
    import torch

    times = torch.linspace(1e-3, 1, 20_001)
    expected = float((1 - SCHEDULES[schedule].alpha(times)).mean())
    assert predicted_share(ObjectiveConfig(kind="diffusion", schedule=schedule), 256) == pytest.approx(
        expected, abs=1e-3
    )


def test_arms_cost_what_their_factors_make_them_cost(make_plan):
    costs = {cost.arm: cost for cost in arm_costs(make_plan())}
    assert costs["bi"].adapt_tokens == 0 and costs["ar-cpt"].adapt_tokens == costs["diffusion"].adapt_tokens == 1024
    assert costs["ar-cpt"].predicted_tokens == 1024 * 31 / 32
    assert costs["diffusion"].predicted_tokens == pytest.approx(512, rel=0.01)
    assert costs["ar-cpt"].tune_tokens == costs["bi"].tune_tokens > 0
    assert costs["ar-cpt"].tune_flops < costs["bi"].tune_flops == costs["diffusion"].tune_flops
