"""Counts against direct enumeration."""

from pathlib import Path

import pytest

from diffembed.objectives.schedules import SCHEDULES
from diffembed.study.cost import arm_costs, keys_in_window, mean_keys, predicted_share
from diffembed.study.plan import load_plan
from diffembed.training.adapt_config import ObjectiveConfig


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


def test_the_paper_s_study_is_planned_without_the_hub(monkeypatch):
    """Its networks are known by shape; its rows are not here, so each counts as long as the limits allow."""
    plan = load_plan(Path(__file__).parents[2] / "recipes" / "study" / "paper-7b.yaml")
    monkeypatch.setattr("diffembed.training.plan.hub_answers", lambda: False)
    costs = {cost.arm: cost for cost in arm_costs(plan)}
    assert set(costs) == set(plan.arms)
    batch, steps = plan.fine_tuning.batch, plan.fine_tuning.num_steps
    texts = 1 + 1 + plan.fine_tuning.loss.num_negatives
    longest = batch.rows * (batch.query_max_tokens + (texts - 1) * batch.document_max_tokens)
    for cost in costs.values():
        assert cost.adapt_tokens == 0 and 0 < cost.tune_tokens <= steps * longest
        assert any("the hub does not answer" in note for note in cost.notes)
    # The same network, opened: it looks at more keys. An 8B one costs more than a 7B one.
    assert costs["qwen-causal"].tune_flops < costs["qwen"].tune_flops == costs["dream"].tune_flops
    assert costs["qwen"].tune_flops < costs["llada"].tune_flops and costs["llada"].peak_bytes > 16e9
