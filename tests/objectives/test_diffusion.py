import math

import pytest
import torch

from diffembed.errors import EmptyInputError
from diffembed.objectives.diffusion import maskable_positions, noise_for_diffusion, stack_rows, token_loss
from diffembed.objectives.schedules import draw_times

MASK, SPECIAL = 99, 2


def make_rows(num_rows=6, length=40, seed=0):
    tokens = torch.randint(10, 60, (num_rows, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = SPECIAL
    return tokens, maskable_positions(tokens, torch.tensor([SPECIAL, MASK]), shifts_logits=False)


def noise(tokens, maskable, times=None, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    if times is None:
        times = draw_times(len(tokens), t_min=1e-3, low_discrepancy=True, generator=generator)
    return noise_for_diffusion(tokens, maskable, times, mask_token_id=MASK, generator=generator, **settings)


@pytest.mark.parametrize(
    ("schedule", "weight"),
    [("linear", lambda t: 1 / t), ("cosine", lambda t: math.pi / 2 / math.tan(math.pi / 2 * t))],
)
def test_mean_loss_weight_is_the_schedules_weight_at_the_rows_time(schedule, weight):
    tokens, maskable = make_rows()
    times = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 0.95])
    rows = noise(tokens, maskable, times, schedule=schedule)
    assert rows.is_predicted_BT.any(dim=1).sum() >= 4
    for row in range(6):
        masked = rows.weight_BT[row][rows.is_predicted_BT[row]]
        # w(t) / 39 maskable tokens / 6 rows, the same for every token of the row.
        torch.testing.assert_close(masked, torch.full_like(masked, weight(float(times[row])) / 39 / 6))
    assert (rows.weight_BT[~rows.is_predicted_BT] == 0).all()


def test_masked_share_follows_one_minus_alpha():
    tokens, maskable = make_rows(num_rows=4, length=20_000)
    times = torch.tensor([0.05, 0.3, 0.6, 1.0])
    rows = noise(tokens, maskable, times)
    torch.testing.assert_close(rows.is_predicted_BT.float().mean(dim=1), times, atol=0.012, rtol=0)


def test_only_masked_tokens_change_and_the_mask_is_absorbing():
    tokens, maskable = make_rows()
    rows = noise(tokens, maskable)
    assert rows.is_predicted_BT.any() and not rows.is_predicted_BT.all()
    assert (rows.token_BT[rows.is_predicted_BT] == MASK).all()
    assert torch.equal(rows.token_BT[~rows.is_predicted_BT], tokens[~rows.is_predicted_BT])
    assert torch.equal(rows.target_BT, tokens)
    assert not rows.is_predicted_BT[:, 0].any()


def test_loss_is_an_unbiased_bound_in_nats_per_token():
    """With a head of zeros every token costs log V, so the NELBO per token is log V, whatever t was."""
    tokens, maskable = make_rows(num_rows=64, length=33)
    hidden, head = torch.randn(64, 33, 4), torch.zeros(100, 4)
    generator = torch.Generator().manual_seed(0)
    losses = [
        token_loss(
            hidden,
            noise_for_diffusion(
                tokens,
                maskable,
                draw_times(64, t_min=1e-3, low_discrepancy=True, generator=generator),
                mask_token_id=MASK,
                generator=generator,
            ),
            head,
            shifts_logits=False,
        ).loss
        for _ in range(150)
    ]
    mean = torch.stack(losses).mean()
    error = torch.stack(losses).std() / math.sqrt(150)
    assert error < 0.1
    assert abs(mean - math.log(100)) < 4 * error


def test_short_rows_count_as_much_as_long_ones():
    tokens, maskable = make_rows(num_rows=2, length=40)
    maskable[1, 10:] = False
    rows = noise(tokens, maskable, torch.ones(2))
    # At t = 1 all maskable tokens are masked, each row's weights add up to 1 / 2 rows.
    torch.testing.assert_close(rows.weight_BT.sum(dim=1), torch.tensor([0.5, 0.5]))


def test_rows_noised_apart_stack_to_the_mean_of_their_losses():
    tokens, maskable = make_rows(num_rows=3)
    parts = [noise(tokens[i : i + 1], maskable[i : i + 1], torch.tensor([0.5]), seed=i) for i in range(3)]
    hidden, head = torch.randn(3, 40, 4), torch.randn(100, 4)
    whole = token_loss(hidden, stack_rows(parts), head, shifts_logits=False).loss
    apart = [token_loss(hidden[i : i + 1], parts[i], head, shifts_logits=False).loss for i in range(3)]
    assert len({float(loss) for loss in apart}) == 3
    torch.testing.assert_close(whole, torch.stack(apart).mean())


@pytest.mark.parametrize("shifts_logits", [True, False])
def test_token_loss_reads_the_state_that_predicts_each_position(shifts_logits):
    tokens = torch.tensor([[5, 6, 7, 8]])
    maskable = maskable_positions(tokens, torch.tensor([SPECIAL]), shifts_logits=shifts_logits)
    rows = noise(tokens, maskable, torch.ones(1))
    hidden, head = torch.randn(1, 4, 3), torch.randn(10, 3)
    out = token_loss(hidden, rows, head, shifts_logits=shifts_logits)
    positions = [1, 2, 3] if shifts_logits else [0, 1, 2, 3]
    expected = [
        -torch.log_softmax(head @ hidden[0, position - shifts_logits], dim=0)[tokens[0, position]]
        for position in positions
    ]
    assert out.num_predicted == len(positions)
    torch.testing.assert_close(out.mean_nll, torch.stack(expected).mean())
    torch.testing.assert_close(out.loss, torch.stack(expected).mean())


def test_shifted_rows_never_mask_the_first_position():
    tokens = torch.full((8, 12), 5)
    maskable = maskable_positions(tokens, torch.tensor([SPECIAL]), shifts_logits=True)
    assert not noise(tokens, maskable, torch.ones(8)).is_predicted_BT[:, 0].any()
    assert maskable_positions(tokens, torch.tensor([SPECIAL]), shifts_logits=False)[:, 0].all()


def test_gradient_reaches_only_the_states_that_predict():
    tokens, maskable = make_rows(num_rows=2, length=12)
    rows = noise(tokens, maskable, seed=4)
    hidden = torch.randn(2, 12, 4, requires_grad=True)
    token_loss(hidden, rows, torch.randn(100, 4), shifts_logits=False).loss.backward()
    moved = hidden.grad.abs().sum(-1) > 0
    assert rows.is_predicted_BT.any()
    assert torch.equal(moved, rows.is_predicted_BT)


def test_row_of_special_tokens_only_is_refused():
    tokens = torch.tensor([[SPECIAL, 5, 6], [SPECIAL, SPECIAL, SPECIAL]])
    maskable = maskable_positions(tokens, torch.tensor([SPECIAL]), shifts_logits=False)
    with pytest.raises(EmptyInputError, match="row 1 of the batch has no token"):
        noise(tokens, maskable)


def test_batch_that_masks_nothing_gives_a_zero_loss_with_a_graph():
    tokens, maskable = make_rows(num_rows=1, length=3)
    rows = next(r for seed in range(99) if not (r := noise(tokens, maskable, seed=seed)).is_predicted_BT.any())
    hidden = torch.randn(1, 3, 4, requires_grad=True)
    out = token_loss(hidden, rows, torch.randn(100, 4), shifts_logits=False)
    out.loss.backward()
    assert out.loss == 0 and out.mean_nll == 0 and out.num_predicted == 0
    assert hidden.grad is not None
