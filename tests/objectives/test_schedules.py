import math

import pytest
import torch

from diffembed.errors import ConfigError, UnknownNameError
from diffembed.objectives.schedules import SCHEDULES, draw_times, schedule_named


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_weight_is_minus_the_slope_of_alpha_over_the_mask_probability(name):
    schedule = schedule_named(name)
    t = torch.linspace(0.02, 0.98, 25, dtype=torch.float64, requires_grad=True)
    alpha = schedule.alpha(t)
    (slope,) = torch.autograd.grad(alpha.sum(), t)
    torch.testing.assert_close(schedule.weight(t), -slope / (1 - alpha))


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_alpha_falls_from_one_to_zero(name):
    alpha = schedule_named(name).alpha(torch.linspace(0, 1, 11, dtype=torch.float64))
    assert alpha[0] == pytest.approx(1) and alpha[-1] == pytest.approx(0, abs=1e-12)
    assert (alpha.diff() < 0).all()


def test_linear_weight_is_one_over_t():
    t = torch.tensor([0.001, 0.25, 1.0])
    torch.testing.assert_close(schedule_named("linear").weight(t), torch.tensor([1000.0, 4.0, 1.0]))


def test_cosine_alpha_at_a_half_by_hand():
    # 1 - cos(pi/4) = 1 - sqrt(1/2)
    assert float(schedule_named("cosine").alpha(torch.tensor(0.5))) == pytest.approx(1 - math.sqrt(0.5))


def test_unknown_schedule_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'cosine'"):
        schedule_named("cosin")


def test_low_discrepancy_times_put_one_point_in_every_cell():
    t = draw_times(16, t_min=1e-9, low_discrepancy=True, generator=torch.Generator().manual_seed(3))
    assert sorted((t * 16).long().tolist()) == list(range(16))


def test_low_discrepancy_lowers_the_variance_of_the_mean_loss_weight():
    def spread(low_discrepancy):
        generator = torch.Generator().manual_seed(0)
        means = [
            float((1 / draw_times(32, t_min=0.01, low_discrepancy=low_discrepancy, generator=generator)).mean())
            for _ in range(300)
        ]
        return torch.tensor(means).std()

    assert spread(True) < 0.6 * spread(False)


@pytest.mark.parametrize("low_discrepancy", [True, False])
def test_each_time_is_uniform_above_t_min(low_discrepancy):
    generator = torch.Generator().manual_seed(1)
    draws = torch.stack(
        [draw_times(4, t_min=0.1, low_discrepancy=low_discrepancy, generator=generator) for _ in range(4000)]
    )
    assert draws.min() >= 0.1 and draws.max() <= 1
    # Uniform on [0.1, 1]: mean 0.55, standard deviation 0.9 / sqrt(12) = 0.26; 4000 draws give 0.0041 of error.
    torch.testing.assert_close(draws.mean(dim=0), torch.full((4,), 0.55), atol=0.017, rtol=0)


@pytest.mark.parametrize("t_min", [0.0, 1.0, -1.0])
def test_t_min_outside_the_open_interval_is_refused(t_min):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        draw_times(2, t_min=t_min, low_discrepancy=True)
