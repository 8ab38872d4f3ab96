import pytest
import torch

from diffembed.errors import ConfigError
from diffembed.objectives.diffusion import maskable_positions, token_loss
from diffembed.objectives.mntp import noise_for_mntp, rows_for_causal

MASK, SPECIAL, VOCABULARY = 99, 2, 1000


def chosen_rows(**settings):
    tokens = torch.randint(10, 60, (8, 5000), generator=torch.Generator().manual_seed(0))
    maskable = maskable_positions(tokens, torch.tensor([SPECIAL]), shifts_logits=True)
    generator = torch.Generator().manual_seed(1)
    rows = noise_for_mntp(
        tokens, maskable, mask_token_id=MASK, vocabulary_size=VOCABULARY, generator=generator, **settings
    )
    return tokens, rows


def test_rate_and_the_80_10_10_split():
    tokens, rows = chosen_rows(rate=0.2)
    chosen = rows.is_predicted_BT
    assert float(chosen.float().mean()) == pytest.approx(0.2, abs=0.006)
    seen, clean = rows.token_BT[chosen], tokens[chosen]
    assert float((seen == MASK).float().mean()) == pytest.approx(0.8, abs=0.015)
    assert float((seen == clean).float().mean()) == pytest.approx(0.1, abs=0.012)
    assert float(((seen != MASK) & (seen != clean)).float().mean()) == pytest.approx(0.1, abs=0.012)
    assert torch.equal(rows.token_BT[~chosen], tokens[~chosen])
    # Random tokens come from the whole vocabulary, not from the text: text ids lie in [10, 60).
    assert (seen > 99).float().mean() > 0.07


def test_all_mask_rule_masks_every_chosen_token():
    _, rows = chosen_rows(rate=0.8, mask_fraction=1.0, random_fraction=0.0)
    assert (rows.token_BT[rows.is_predicted_BT] == MASK).all()


def test_loss_is_the_mean_over_each_rows_chosen_positions_predicted_from_the_one_before():
    tokens = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(2))
    maskable = maskable_positions(tokens, torch.tensor([-1]), shifts_logits=True)
    rows = noise_for_mntp(
        tokens, maskable, mask_token_id=49, vocabulary_size=50, rate=0.5, generator=torch.Generator().manual_seed(0)
    )
    hidden, head = torch.randn(3, 9, 4), torch.randn(50, 4)
    places = rows.is_predicted_BT.nonzero().tolist()
    assert 3 < len(places) < 24 and all(position > 0 for _, position in places)
    by_row = [[], [], []]
    for row, position in places:
        by_row[row].append(-torch.log_softmax(head @ hidden[row, position - 1], 0)[tokens[row, position]])
    assert len({len(losses) for losses in by_row}) > 1
    expected = torch.stack([torch.stack(losses).mean() for losses in by_row]).mean()
    torch.testing.assert_close(token_loss(hidden, rows, head, shifts_logits=True).loss, expected)


def test_causal_control_equals_shifted_cross_entropy_of_clean_text():
    tokens = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(2))
    rows = rows_for_causal(tokens, maskable_positions(tokens, torch.tensor([-1]), shifts_logits=True))
    hidden, head = torch.randn(2, 7, 4), torch.randn(50, 4)
    expected = torch.nn.functional.cross_entropy((hidden[:, :-1] @ head.T).flatten(0, 1), tokens[:, 1:].flatten())
    assert torch.equal(rows.token_BT, tokens)
    torch.testing.assert_close(token_loss(hidden, rows, head, shifts_logits=True).loss, expected)


@pytest.mark.parametrize(
    "settings", [{"rate": 0.0}, {"rate": 1.5}, {"mask_fraction": 0.9, "random_fraction": 0.2}, {"mask_fraction": -0.1}]
)
def test_shares_that_are_none_are_refused(settings):
    with pytest.raises(ConfigError, match="must"):
        chosen_rows(**settings)
