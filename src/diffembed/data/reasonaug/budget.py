"""What a run may spend, and the stop before it spends more.

Read `Budget.reserve` first: a request is sent only if the worst it can cost still fits, so the limit holds before
the bill comes. This module knows nothing of endpoints.
"""

from collections.abc import Sequence

from diffembed.data.reasonaug.asking import Request
from diffembed.data.reasonaug.config import BudgetConfig
from diffembed.data.reasonaug.store import AnswerStore, estimate_tokens
from diffembed.errors import ResourceError

MILLION = 1_000_000


class Budget:
    """The limits of a config against what a store says was spent."""

    def __init__(self, config: BudgetConfig, store: AnswerStore) -> None:
        self.config = config
        self.store = store
        self._reserved: dict[str, tuple[int, int]] = {}

    def reserve(self, request: Request) -> bool:
        """Sets aside the worst a request can cost; False when it must wait until a request in flight is done.

        Raises ResourceError when nothing is in flight and the request could still pass a limit. Tries that ended in
        a broken connection are not counted: no answer says what they cost.
        """
        limit = self._passed([request])
        if limit and not self._reserved:
            raise self._stop(limit)
        if limit is None:
            self._reserved[request.key] = _worst(request)
        return limit is None

    def require(self, requests: Sequence[Request]) -> None:
        """Raises ResourceError when the worst these requests can cost together would pass a limit."""
        if limit := self._passed(requests):
            raise self._stop(limit)

    def release(self, request: Request) -> None:
        """Frees what was set aside; what was really spent is in the store by now."""
        self._reserved.pop(request.key, None)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """In the currency of the prices; None when they are unknown."""
        if self.config.prompt_price is None or self.config.completion_price is None:
            return None
        return (prompt_tokens * self.config.prompt_price + completion_tokens * self.config.completion_price) / MILLION

    def spent(self) -> dict[str, float | int | None]:
        """Tokens and cost so far, over all sessions of the run."""
        prompt, completion = self.store.prompt_tokens, self.store.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "cost": self.cost(prompt, completion)}

    def _passed(self, requests: Sequence[Request]) -> str | None:
        """The limit that these requests could pass, on top of what is spent and set aside."""
        held = [*self._reserved.values(), *(_worst(request) for request in requests)]
        prompt = self.store.prompt_tokens + sum(each[0] for each in held)
        completion = self.store.completion_tokens + sum(each[1] for each in held)
        if self.config.max_tokens is not None and prompt + completion > self.config.max_tokens:
            return f"budget.max_tokens={self.config.max_tokens}"
        if self.config.max_cost is not None and (self.cost(prompt, completion) or 0.0) > self.config.max_cost:
            return f"budget.max_cost={self.config.max_cost:g}"
        return None

    def _stop(self, limit: str) -> ResourceError:
        spent = self.store.prompt_tokens + self.store.completion_tokens
        return ResourceError(
            f"the next request could pass {limit} ({spent} tokens are spent on {len(self.store)} answers); "
            "raise the limit and run the same command again to continue"
        )


def _worst(request: Request) -> tuple[int, int]:
    """Prompt tokens by estimate, completion tokens by the request's own limit."""
    return estimate_tokens(str(request.messages)), request.max_tokens
