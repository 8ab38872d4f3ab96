"""`auto` follows what was measured; what it measures is a real ratio."""

import pytest
import torch

from diffembed.backbones import arithmetic
from diffembed.errors import UnknownNameError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("has_units", "speedup", "chosen"),
    [
        (True, 5.0, torch.bfloat16),
        (True, 0.5, torch.float32),  # an Intel Xeon whose AMX is hidden
        (True, 1.05, torch.float32),  # not worth the rounding
        (False, 5.0, torch.float32),  # emulated: a lucky timing must not choose it
    ],
)
def test_auto_is_the_faster_format_where_it_is_in_hardware(monkeypatch, has_units, speedup, chosen):
    monkeypatch.setattr(arithmetic, "has_bfloat16_units", lambda: has_units)
    monkeypatch.setattr(arithmetic, "bfloat16_speedup", lambda: speedup)
    assert arithmetic.pick_dtype("auto", CPU) == chosen


def test_a_named_format_is_taken_as_named(monkeypatch):
    monkeypatch.setattr(arithmetic, "has_bfloat16_units", lambda: False)
    assert arithmetic.pick_dtype("bfloat16", CPU) == torch.bfloat16


def test_an_unknown_format_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"no dtype 'bf16'.*choose one of auto, bfloat16, float16, float32"):
        arithmetic.pick_dtype("bf16", CPU)


def test_the_speedup_is_measured_and_plausible():
    assert 0.01 < arithmetic.bfloat16_speedup() < 100
