"""Answers from an OpenAI-compatible endpoint.

Read `LiveSource.answer` first. Back-off, jitter and Retry-After are the openai library's; ours are the bounded
number of requests in flight, the budget, the store, and the decision when an endpoint is beyond hope.
"""

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from diffembed.data.reasonaug.asking import Answer, Failure, Request
from diffembed.data.reasonaug.budget import Budget
from diffembed.data.reasonaug.config import EndpointConfig
from diffembed.data.reasonaug.store import AnswerStore
from diffembed.errors import ConfigError, DiffEmbedError, MissingExtraError, ResourceError

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Called with the stage, the number of answers it has and the number it needs."""

HOPELESS = {
    401: "refuses the API key",
    403: "refuses the API key",
    404: "does not know the model or the path",
}
NO_KEY = "none"


class LiveSource:
    """Sends what is not stored, stores what comes back."""

    def __init__(
        self, config: EndpointConfig, store: AnswerStore, budget: Budget, progress: Progress | None = None
    ) -> None:
        """Raises ConfigError when the base URL is none."""
        if not config.base_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"endpoint.base_url {config.base_url!r} is no http address; expected such as http://host:8000/v1"
            )
        self.config = config
        self.store = store
        self.budget = budget
        self.progress = progress
        self.num_sent = 0
        """Requests sent by this session, retries of the library not counted."""

    lost_pairs: frozenset[str] = frozenset()

    def has_stage(self, stage: str) -> bool:
        """True: anything can be asked."""
        return True

    def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """One outcome per request; stored ones are not sent.

        Raises ResourceError when the budget is spent or the endpoint fails again and again, ConfigError when it
        refuses the key or the model. Requests in flight are finished and stored first.
        """
        todo = [request for request in requests if request.key not in self.store]
        failures = _run(self._send_all(todo, len(requests))) if todo else {}
        return [
            self.store.find(request.key) if request.key in self.store else failures[request.key] for request in requests
        ]

    async def _send_all(self, todo: list[Request], num_needed: int) -> dict[str, Failure]:
        try:
            import openai
        except ImportError as error:
            raise MissingExtraError.of("openai", "reasonaug") from error
        session = _Session(todo, num_needed)
        async with openai.AsyncOpenAI(
            base_url=self.config.base_url,
            api_key=os.environ.get(self.config.api_key_env) or NO_KEY,
            max_retries=self.config.max_retries,
            timeout=self.config.timeout_s,
        ) as client:
            num_workers = min(self.config.concurrency, len(todo))
            await asyncio.gather(*(self._work(client, session) for _ in range(num_workers)))
        if session.stop is not None:
            raise session.stop
        return session.failures

    async def _work(self, client: Any, session: "_Session") -> None:
        """One of the workers: takes requests until none is left or the session stops."""
        for request in session.queue:
            try:
                while session.stop is None and not self.budget.reserve(request):
                    async with session.done:
                        await session.done.wait()
                if session.stop is not None:
                    return
                failure = await self._send(client, request)
            except DiffEmbedError as error:
                session.stop = session.stop or error
                return
            finally:
                self.budget.release(request)
                async with session.done:
                    session.done.notify_all()
            if failure is None:
                session.num_failed_in_a_row = 0
                session.num_done += 1
            else:
                session.failures[request.key] = failure
                session.num_failed_in_a_row += 1
                if session.num_failed_in_a_row >= self.config.max_consecutive_failures:
                    session.stop = session.stop or self._given_up(session.num_failed_in_a_row, failure)
            if self.progress is not None:
                self.progress(request.stage, session.num_done, session.num_needed)

    async def _send(self, client: Any, request: Request) -> Failure | None:
        """Sends one request and stores what comes back; Failure when nothing did."""
        import openai

        self.num_sent += 1
        try:
            raw = await client.chat.completions.with_raw_response.create(**request.body(self.config.token_limit_field))
        except openai.APIStatusError as error:
            if error.status_code in HOPELESS:
                raise ConfigError(
                    f"{self.config.base_url} {HOPELESS[error.status_code]} (HTTP {error.status_code}); "
                    f"check endpoint.base_url, generation.model {request.model!r} and ${self.config.api_key_env}"
                ) from error
            return Failure(reason=f"HTTP {error.status_code}", detail=_one_line(error))
        except openai.APITimeoutError as error:
            return Failure(reason="no answer in time", detail=_one_line(error))
        except openai.APIConnectionError as error:
            return Failure(reason="connection failed", detail=_one_line(error.__cause__ or error))
        text = raw.text
        try:
            body = json.loads(text)
        except json.JSONDecodeError:
            body = text
        self.store.add(request, body if isinstance(body, dict) else text)
        return None

    def _given_up(self, num_failed: int, last: Failure) -> ResourceError:
        return ResourceError(
            f"{self.config.base_url} failed {num_failed} requests in a row (last: {last.reason}, {last.detail}); "
            f"{len(self.store)} answers are stored, run the same command again to continue"
        )


class _Session:
    """What the workers share while they answer one list of requests."""

    def __init__(self, todo: list[Request], num_needed: int) -> None:
        self.queue: Iterator[Request] = iter(todo)
        self.num_needed = num_needed
        self.num_done = num_needed - len(todo)
        self.num_failed_in_a_row = 0
        self.failures: dict[str, Failure] = {}
        self.stop: DiffEmbedError | None = None
        self.done = asyncio.Condition()


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, also where an event loop is already running (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
