"""Texts of many callers into packs of a token budget, one pack at a time through the network.

Read `Batcher._take`: it is the whole policy. Half of a pack goes to the requests that have had least, so that a single
query is in the next pack whatever else waits; the other half to the oldest, so that nobody waits for ever. Everything
but the encoding itself happens in the event loop, hence no locks. Must not know HTTP, models or texts.
"""

import asyncio
import heapq
import itertools
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from diffembed.embedding.text import Tokens
from diffembed.errors import DiffEmbedError
from diffembed.records import Vectors

Result = TypeVar("Result")

SPEED_MEMORY = 0.8
"""Weight of the past in the speed that is remembered: a change shows after about five packs."""


class QueueFullError(DiffEmbedError):
    """More waits than can be answered in time."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """When there should be room again, in whole seconds, at least 1."""


class TooLargeError(DiffEmbedError):
    """A request that would not fit into an empty queue."""


class DeadlineError(DiffEmbedError):
    """The vectors were not there in time."""


@dataclass(eq=False, slots=True)
class _Job:
    """The windows of one request, and how far they are."""

    windows: Sequence[Tokens]
    number: int
    """Of arrival."""
    vectors: asyncio.Future[Vectors]
    waiting: list[tuple[int, int]] = field(default_factory=list)
    """(tokens, position) of the windows that are in no pack yet, the longest last."""
    rows_WD: Vectors | None = None
    num_done: int = 0
    num_taken_tokens: int = 0
    num_open_tokens: int = 0
    """Tokens that are not encoded yet."""

    def take(self, room: int | None) -> int | None:
        """Position of the longest waiting window that fits, or `None`; no `room` takes the longest."""
        end = len(self.waiting) if room is None else bisect_right(self.waiting, (room, math.inf))
        if end == 0:
            return None
        length, position = self.waiting.pop(end - 1)
        self.num_taken_tokens += length
        return position


class Batcher:
    """A queue of token windows in front of one network; its methods belong to one event loop."""

    def __init__(
        self,
        encode: Callable[[Sequence[Tokens]], Vectors],
        *,
        token_budget: int,
        max_queue_tokens: int,
        timeout_s: float,
        max_calls: int = 64,
        on_pack: Callable[[int, int, float], None] | None = None,
    ) -> None:
        """encode: [N, D] of a pack, in its order; runs in a thread of its own, one call at a time.

        on_pack: told (windows, tokens, seconds) of each pack. max_calls: longest queue of `call`.
        """
        self.token_budget = token_budget
        self.timeout_s = timeout_s
        self.tokens_per_s: float | None = None
        """Measured on packs that are at least half full; `None` before the first."""
        self.num_queue_tokens = 0
        """Tokens that wait or are being encoded."""
        self._encode = encode
        self._max_queue_tokens = max_queue_tokens
        self._max_calls = max_calls
        self._on_pack = on_pack
        self._jobs: dict[int, _Job] = {}
        self._calls: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._numbers = itertools.count()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._runner: asyncio.Task[None] | None = None

    @property
    def num_requests(self) -> int:
        """Requests that wait or are being encoded."""
        return len(self._jobs) + len(self._calls)

    @property
    def capacity_tokens(self) -> int:
        """Tokens that may wait: what can be answered in time by a request that gets half of every pack."""
        if self.tokens_per_s is None:
            return self._max_queue_tokens
        return max(min(self._max_queue_tokens, int(self.tokens_per_s * self.timeout_s / 2)), self.token_budget)

    def check_room(self, num_tokens: int) -> None:
        """Raises QueueFullError when so many tokens more do not fit, TooLargeError when they never would."""
        capacity = self.capacity_tokens
        if num_tokens > capacity:
            raise TooLargeError(
                f"the request has {num_tokens:,} tokens, at most {capacity:,} can be answered in "
                f"{self.timeout_s:g} s; split it into several"
            )
        if self.num_queue_tokens and self.num_queue_tokens + max(num_tokens, 1) > capacity:
            raise QueueFullError(
                f"{self.num_queue_tokens:,} tokens wait, {capacity:,} are allowed; try again later", self.retry_after_s
            )

    @property
    def retry_after_s(self) -> int:
        """When half of what waits will be done, in whole seconds, at least 1."""
        return max(1, math.ceil(self.num_queue_tokens / 2 / self.tokens_per_s)) if self.tokens_per_s else 1

    async def encode(self, windows: Sequence[Tokens], *, timeout_s: float | None = None) -> Vectors:
        """[W, D] in the order of the windows. Cancelling it takes what is left of them out of the queue.

        Raises QueueFullError, TooLargeError, DeadlineError, and what the network raises for one of these windows.
        """
        assert len(windows) > 0
        num_tokens = sum(map(len, windows))
        self.check_room(num_tokens)
        job = _Job(windows, next(self._numbers), asyncio.get_running_loop().create_future())
        for position, window in enumerate(windows):
            job.waiting.append((len(window), position))
        job.waiting.sort(key=lambda pair: (pair[0], -pair[1]))
        job.num_open_tokens = num_tokens
        self._jobs[job.number] = job
        self.num_queue_tokens += num_tokens
        self._wake()
        try:
            return await self._in_time(job.vectors, timeout_s)
        finally:
            self._drop(job)

    async def call(
        self, function: Callable[[], Result], *, timeout_s: float | None = None, has_deadline: bool = True
    ) -> Result:
        """What `function` returns in the thread of the network, between two packs.

        has_deadline: False waits as long as it takes, for work that no caller waits for.
        Raises QueueFullError, DeadlineError, and what the function raises.
        """
        if len(self._calls) >= self._max_calls:
            raise QueueFullError(f"{len(self._calls)} searches wait; try again later", self.retry_after_s)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._calls.append((function, future))
        self._wake()
        return await (self._in_time(future, timeout_s) if has_deadline else future)

    async def _in_time(self, future: "asyncio.Future[Result]", timeout_s: float | None) -> Result:
        limit = self.timeout_s if timeout_s is None else min(timeout_s, self.timeout_s)
        try:
            async with asyncio.timeout(limit):
                return await future
        except TimeoutError as error:
            if future.done() and not future.cancelled():
                raise
            raise DeadlineError(f"not answered within {limit:g} s; send fewer texts, or try again later") from error

    async def close(self) -> None:
        """Waits until everything is answered, then ends the thread."""
        while self._runner is not None and not self._runner.done():
            await asyncio.wait({self._runner})
        self._thread.shutdown()

    def _wake(self) -> None:
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Ends when nothing waits; `_wake` starts it again."""
        while self._calls or any(job.waiting for job in self._jobs.values()):
            if self._calls:
                # It leaves the queue when it is done: until then it is one of the requests that are counted.
                await self._call_one(*self._calls[0])
                self._calls.popleft()
            if pack := self._take():
                await self._encode_pack(pack)

    async def _call_one(self, function: Callable[[], Any], future: "asyncio.Future[Any]") -> None:
        if future.done():
            return
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, function)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)

    def _take(self) -> list[tuple[_Job, int]]:
        """The next pack as (job, position of the window)."""
        pack: list[tuple[_Job, int]] = []
        room = self.token_budget
        heap = [(job.num_taken_tokens, job.number) for job in self._jobs.values() if job.waiting]
        heapq.heapify(heap)
        # Half to whoever has had least, a window at a time.
        while heap and room > self.token_budget // 2:
            job = self._jobs[heapq.heappop(heap)[1]]
            # A window longer than the budget makes a pack of its own.
            position = job.take(room if pack else None)
            if position is not None:
                pack.append((job, position))
                room -= len(job.windows[position])
                if job.waiting:
                    heapq.heappush(heap, (job.num_taken_tokens, job.number))
        # What is left to the oldest; the jobs stand in the order of their arrival.
        for job in self._jobs.values():
            while room > 0 and (position := job.take(room)) is not None:
                pack.append((job, position))
                room -= len(job.windows[position])
        return pack

    async def _encode_pack(self, pack: list[tuple[_Job, int]]) -> None:
        windows = [job.windows[position] for job, position in pack]
        started = perf_counter()
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, windows)
        except Exception as error:
            await self._fail(pack, error)
            return
        self._note(len(windows), sum(map(len, windows)), perf_counter() - started)
        self._deliver(pack, rows)

    async def _fail(self, pack: list[tuple[_Job, int]], error: Exception) -> None:
        """One request must not fail for another: each is tried by itself, and a request that is alone has failed."""
        jobs = list(dict.fromkeys(job for job, _ in pack))
        if len(jobs) > 1:
            for job in jobs:
                await self._encode_pack([pair for pair in pack if pair[0] is job])
            return
        if not jobs[0].vectors.done():
            jobs[0].vectors.set_exception(error)
        self._drop(jobs[0])

    def _note(self, num_windows: int, num_tokens: int, seconds: float) -> None:
        if self._on_pack is not None:
            self._on_pack(num_windows, num_tokens, seconds)
        if num_tokens >= self.token_budget // 2 and seconds > 0:
            speed = num_tokens / seconds
            past = self.tokens_per_s
            self.tokens_per_s = speed if past is None else SPEED_MEMORY * past + (1 - SPEED_MEMORY) * speed

    def _deliver(self, pack: list[tuple[_Job, int]], rows: Vectors) -> None:
        for (job, position), row in zip(pack, rows, strict=True):
            if job.number not in self._jobs:
                continue
            if job.rows_WD is None:
                job.rows_WD = np.empty((len(job.windows), len(row)), dtype=np.float32)
            job.rows_WD[position] = row
            job.num_done += 1
            job.num_open_tokens -= len(job.windows[position])
            self.num_queue_tokens -= len(job.windows[position])
            if job.num_done == len(job.windows) and not job.vectors.done():
                job.vectors.set_result(job.rows_WD)
                self._drop(job)

    def _drop(self, job: _Job) -> None:
        if self._jobs.pop(job.number, None) is not None:
            self.num_queue_tokens -= job.num_open_tokens
            job.waiting.clear()
