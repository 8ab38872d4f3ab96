"""AdamW that keeps a float32 copy of every bfloat16 weight.

Read `MasterAdamW`. Adapters in the model's own dtype save a cast per layer, but a bfloat16 weight of 0.02 moves in
steps of 1e-4: at a learning rate of 1e-4 most updates would round to nothing. The update happens in the float32 copy.
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor


class MasterAdamW(torch.optim.Optimizer):
    """AdamW (decoupled weight decay, arXiv 1711.05101) with moments and weights in float32, whatever the model's dtype.

    For float32 weights it equals torch.optim.AdamW; the copy is then the weight itself and costs nothing.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update; returns the loss of the closure, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(weight, dtype=torch.float32)
            state["exp_avg_sq"] = torch.zeros_like(weight, dtype=torch.float32)
            if weight.dtype != torch.float32:
                state["master"] = weight.float()
        master = state.get("master", weight)
        gradient = weight.grad.float()  # type: ignore[union-attr]
        beta1, beta2 = group["betas"]
        state["step"] += 1
        master.mul_(1 - group["lr"] * group["weight_decay"])
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        spread = (state["exp_avg_sq"] / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        master.addcdiv_(state["exp_avg"], spread, value=-group["lr"] / (1 - beta1 ** state["step"]))
        if master is not weight:
            weight.copy_(master)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state without rounding it: torch would cast every moment to the dtype of its weight."""
        super().load_state_dict(state_dict)
        weights = [weight for group in self.param_groups for weight in group["params"]]
        places = [place for group in state_dict["param_groups"] for place in group["params"]]
        for weight, place in zip(weights, places, strict=True):
            for key, value in state_dict["state"].get(place, {}).items():
                # Cloned: the caller may keep, or load again, the dictionary it gave.
                self.state[weight][key] = value.to(weight.device, copy=True) if torch.is_tensor(value) else value
