"""The attention contract: a network is proved to be causal or bidirectional, layer by layer, before it embeds a text.

Read `prove`. A whole-model probe passes when one layer of eighteen is open; this one moves the input of each layer at
some positions and watches its output at another. Padding and packing must move nothing. A breach raises, never warns.
"""

# T = tokens, D = hidden width, B = rows

import copy
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor

from diffembed.backbones.attention import KERNEL_NAME, PackedLayout, window_reach
from diffembed.backbones.registry import Attention, FamilySpec
from diffembed.errors import AttentionContractError

PROBE_TOKENS = 16
SAME = 1e-5
"""Largest relative change of a state that must not move; measured changes of unseen tokens are exactly 0 on the CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was proved; stored in provenance.json, shown by `doctor` and `/health`."""

    attention: Attention
    kernel: str
    dtype: str
    num_layers: int
    num_sliding_layers: int
    sliding_window: int | None
    num_checks: int
    held: bool = True
    """Always True: a breach raises AttentionContractError and leaves no verdict."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a layer's attention module, so that it can be repeated with another input."""

    module: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def output(self, hidden_BTD: Tensor) -> Tensor:
        if self.args:
            out = self.module(hidden_BTD, *self.args[1:], **self.kwargs)
        else:
            out = self.module(**{**self.kwargs, "hidden_states": hidden_BTD})
        return out[0] if isinstance(out, tuple) else out

    def in_float32(self) -> "_Call":
        """The same call on a float32 copy of the module."""

        def widen(value: Any) -> Any:
            if isinstance(value, Tensor) and value.is_floating_point():
                return value.float()
            return type(value)(map(widen, value)) if isinstance(value, list | tuple) else value

        kwargs = {name: widen(value) for name, value in self.kwargs.items()}
        return _Call(copy.deepcopy(self.module).float(), tuple(map(widen, self.args)), kwargs)

    @property
    def hidden(self) -> Tensor:
        """[B, T, D] what the layer was given."""
        return self.args[0] if self.args else self.kwargs["hidden_states"]


def attention_modules(body: torch.nn.Module, family: FamilySpec) -> list[torch.nn.Module]:
    """The module of each layer that mixes tokens, first layer first."""
    layers = cast(torch.nn.ModuleList, body.get_submodule(family.layers))
    return [layer.get_submodule(family.attention) for layer in layers]


@torch.no_grad()
def prove(body: Any, family: FamilySpec, attention: Attention, kernel: str) -> Verdict:
    """The verdict on a loaded body. Raises AttentionContractError that names the layer, the positions and the cure.

    kernel: `packed`, `sdpa` or `eager`, as the body was loaded with. Costs a few dozen calls of single layers.
    """
    was_training = body.training
    body.eval()
    try:
        windows = layer_windows(body.config, len(attention_modules(body, family)))
        num_checks = 0
        lengths = sorted({PROBE_TOKENS, *(window + 4 for window in windows if window is not None)})
        for length in lengths:
            calls = _record(body, family, attention, kernel, length)
            for layer, (call, window) in enumerate(zip(calls, windows, strict=True)):
                num_checks += _prove_layer(call, layer, attention, window, length)
        num_checks += _prove_packing(body, attention) if kernel == "packed" else _prove_padding(body, attention)
    finally:
        body.train(was_training)
    sliding = [window for window in windows if window is not None]
    return Verdict(
        attention=attention,
        kernel=kernel,
        dtype=str(body.dtype).removeprefix("torch."),
        num_layers=len(windows),
        num_sliding_layers=len(sliding),
        sliding_window=sliding[0] if sliding else None,
        num_checks=num_checks,
    )


def layer_windows(config: Any, num_layers: int) -> list[int | None]:
    """Sliding window of each layer, `None` where it attends to everything the network can read."""
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    is_used = getattr(config, "use_sliding_window", True) is not False
    if window is None or not is_used or window >= config.max_position_embeddings:
        return [None] * num_layers
    if types is None:
        return [window] * num_layers
    return [window if kind == "sliding_attention" else None for kind in types]


def forward_kwargs(kernel: str, lengths: tuple[int, ...], attention: Attention) -> dict[str, Any]:
    """The keyword arguments by which one row of ids becomes `lengths` documents under a kernel."""
    if kernel != "packed":
        return {}
    layout = PackedLayout(lengths, attention)
    return {"packed": layout, "position_ids": layout.position_ids()}


def _ids(body: Any, length: int, *, seed: int = 0) -> Tensor:
    """[1, T] random ids below the vocabulary, the same on every call."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(body.config.vocab_size, (1, length), generator=generator).to(body.device)


def _on_device(kwargs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in kwargs.items()}


def _record(body: Any, family: FamilySpec, attention: Attention, kernel: str, length: int) -> list[_Call]:
    calls: list[_Call] = []
    handles = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs: calls.append(_Call(module, args, dict(kwargs))), with_kwargs=True
        )
        for module in attention_modules(body, family)
    ]
    try:
        body(input_ids=_ids(body, length), **_on_device(forward_kwargs(kernel, (length,), attention), body.device))
    finally:
        for handle in handles:
            handle.remove()
    if len(calls) != len(handles):
        raise AttentionContractError(f"{len(handles)} layers were expected to attend, {len(calls)} did")
    return calls


def _prove_layer(call: _Call, layer: int, attention: Attention, window: int | None, length: int) -> int:
    """Checks both ends of the row and, in sliding layers, both sides of each window edge; returns how many."""
    back, ahead = window_reach(attention, window)
    reach_back = length if back is None else back
    reach_ahead = length if ahead is None else ahead
    base_BTD = call.output(call.hidden)
    precise: _Call | None = None
    num_checks = 0
    for query, neighbour in ((0, 1), (length - 1, length - 2)):
        visible = range(max(0, query - reach_back), min(length, query + reach_ahead + 1))
        # The nearest and the farthest token that can be seen; none where a causal row begins.
        for key in sorted({neighbour, visible[0], visible[-1]} & set(visible) - {query}):
            num_checks += 1
            change = _change(call, base_BTD, query, [key], stops_early=True)
            if change == 0.0:
                # A head that looks elsewhere gives a weight that bfloat16 rounds away: look again in float32.
                precise = call.in_float32() if precise is None else precise
                change = _change(precise, precise.output(precise.hidden), query, [key], stops_early=True)
            if change == 0.0:
                raise AttentionContractError(
                    f"layer {layer} is declared {attention}, but token {query} does not see token {key} of {length}"
                    f"{_window_text(window)}; load the checkpoint with the attention it was built for, or convert it "
                    "again"
                )
        # All that cannot be seen is replaced at once: what one of them moves, all of them move.
        unseen = [key for key in range(length) if key not in visible]
        num_checks += bool(unseen)
        change = _change(call, base_BTD, query, unseen) if unseen else 0.0
        if change > SAME * max(base_BTD[:, query].abs().max().item(), 1.0):
            last = visible[0] if query else visible[-1]
            raise AttentionContractError(
                f"layer {layer} is declared {attention}, but token {query} sees beyond token {last} of {length} (its "
                f"state moves by {change:.2g}){_window_text(window)}; this network would embed with another attention"
            )
    return num_checks


def _change(call: _Call, base_BTD: Tensor, query: int, keys: list[int], *, stops_early: bool = False) -> float:
    """How far the output at `query` moves when the inputs at `keys` are replaced: the larger of two replacements.

    stops_early: False makes both replacements; True is content with the first that moves anything.
    """
    hidden_BTD = call.hidden
    largest = 0.0
    # As large as real states are, and far from the one that is replaced.
    for replacement in (-3.0 * hidden_BTD[:, keys].flip(-1), hidden_BTD[:, [query]]):
        moved_BTD = hidden_BTD.clone()
        moved_BTD[:, keys] = replacement
        largest = max(largest, (call.output(moved_BTD)[:, query] - base_BTD[:, query]).abs().max().item())
        if stops_early and largest > 0.0:
            break
    return largest


def _window_text(window: int | None) -> str:
    return f" with a window of {window}" if window is not None else ""


def _states(body: Any, input_ids: Tensor, **kwargs: Any) -> Tensor:
    return body(input_ids=input_ids, **_on_device(kwargs, body.device)).last_hidden_state.float()


def _prove_packing(body: Any, attention: Attention) -> int:
    """Three documents in one pack: changing the outer ones must not move the middle one."""
    lengths = (5, 7, 4)
    kwargs = forward_kwargs("packed", lengths, attention)
    first = _ids(body, sum(lengths))
    second = _ids(body, sum(lengths), seed=1)
    second[:, lengths[0] : lengths[0] + lengths[1]] = first[:, lengths[0] : lengths[0] + lengths[1]]
    middle = slice(lengths[0], lengths[0] + lengths[1])
    before, after = (_states(body, ids, **kwargs)[:, middle] for ids in (first, second))
    _require_same(before, after, "a document moves with its neighbours in the pack")
    return 1


def _prove_padding(body: Any, attention: Attention) -> int:
    """Two rows of one batch, padded on either side: neither the padding's ids nor the other row may move a state."""
    length, pad = 6, 5
    for side in ("right", "left"):
        first = torch.cat([_ids(body, length + pad), _ids(body, length + pad, seed=2)])
        real = slice(0, length) if side == "right" else slice(pad, length + pad)
        mask = torch.zeros(first.shape, dtype=torch.long, device=first.device)
        mask[0, real], mask[1] = 1, 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        second = torch.cat([_ids(body, length + pad, seed=1), _ids(body, length + pad, seed=3)])
        second[0, real] = first[0, real]
        before, after = (
            _states(body, ids, attention_mask=mask, position_ids=positions)[0, real] for ids in (first, second)
        )
        _require_same(before, after, f"a text moves with the padding on its {side}")
    return 2


def _require_same(before: Tensor, after: Tensor, breach: str) -> None:
    change = (before - after).abs().max().item()
    if not change <= SAME * max(before.abs().max().item(), 1.0):
        raise AttentionContractError(f"{breach} (by {change:.2g}); its vector would depend on batch company")


def kernel_name(kernel: str) -> str:
    """What transformers calls one of `packed`, `sdpa`, `eager`."""
    return KERNEL_NAME if kernel == "packed" else kernel
