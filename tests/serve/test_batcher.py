"""The policy of the queue, on a network that stands still until it is told to go on: no clock decides a test."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from diffembed.embedding.text import Tokens
from diffembed.records import Vectors
from diffembed.serve.batcher import Batcher, DeadlineError, QueueFullError, TooLargeError


def window(length: int, mark: int = 1) -> Tokens:
    """A window whose vector is [length, mark]."""
    return Tokens(np.full(length, mark, dtype=np.int32), 0, length)


class Network:
    """Encodes a pack each time it is released."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.packs: list[list[int]] = []
        """The marks of the windows of each pack it was given."""
        self.is_open = is_open
        self._started = threading.Semaphore(0)
        self._released = threading.Semaphore(0)

    def __call__(self, windows: Sequence[Tokens]) -> Vectors:
        self.packs.append([int(text.ids[0]) for text in windows])
        self._started.release()
        if not self.is_open:
            assert self._released.acquire(timeout=30)
        if any(text.ids[0] == 13 for text in windows):
            raise RuntimeError("unlucky")
        return np.array([[len(text), text.ids[0]] for text in windows], dtype=np.float32)

    async def started(self) -> None:
        """Returns when one more pack has begun."""
        assert await asyncio.to_thread(self._started.acquire, timeout=30)

    def release(self) -> None:
        """Lets one pack end."""
        self._released.release()

    def open(self) -> None:
        """Lets all packs end from now on."""
        self.is_open = True
        self._released.release(1000)


def make(network: Network, **changes: Any) -> Batcher:
    return Batcher(network, **{"token_budget": 100, "max_queue_tokens": 10**9, "timeout_s": 60.0} | changes)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def settled() -> None:
    """Every task that can go on has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_rows_come_back_in_order_whatever_is_packed_together() -> None:
    async def test() -> None:
        network = Network(is_open=True)
        batcher = make(network)
        generator = np.random.default_rng(0)
        requests = [
            [window(int(generator.integers(1, 130)), number + 20) for _ in range(number)] for number in (1, 30, 7)
        ]
        answers = await asyncio.gather(*(batcher.encode(request) for request in requests))
        for request, rows in zip(requests, answers, strict=True):
            np.testing.assert_array_equal(rows, [[len(text), text.ids[0]] for text in request])
        assert any(len(set(pack)) > 1 for pack in network.packs), "no pack mixed two requests"
        assert batcher.num_queue_tokens == batcher.num_requests == 0
        await batcher.close()

    run(test)


def test_a_pack_holds_the_budget_or_one_longer_window() -> None:
    async def test() -> None:
        sizes: list[list[int]] = []

        def encode(windows: Sequence[Tokens]) -> Vectors:
            sizes.append([len(text) for text in windows])
            return np.zeros((len(windows), 1), dtype=np.float32)

        batcher = Batcher(encode, token_budget=100, max_queue_tokens=10**9, timeout_s=60)
        lengths = np.random.default_rng(1).integers(1, 150, 200)
        await asyncio.gather(*(batcher.encode([window(int(n)) for n in part]) for part in lengths.reshape(8, 25)))
        assert sum(map(sum, sizes)) == lengths.sum()
        assert all(sum(pack) <= 100 or len(pack) == 1 for pack in sizes)
        assert np.mean([sum(pack) for pack in sizes]) > 85, "packs are not filled"
        await batcher.close()

    run(test)


@pytest.mark.parametrize("length", [10, 90])
def test_a_single_query_is_in_the_next_pack_behind_ten_thousand_texts(length: int) -> None:
    """So that it waits for the pack under way and its own: two budgets at most."""

    async def test() -> None:
        network = Network()
        batcher = make(network)
        large = [asyncio.create_task(batcher.encode([window(10)] * 10_000)) for _ in range(2)]
        await network.started()
        single = asyncio.create_task(batcher.encode([window(length, 7)]))
        await settled()
        network.release()
        await network.started()
        network.release()
        rows = await single
        assert rows.tolist() == [[length, 7]]
        assert [7 in pack for pack in network.packs[:2]] == [False, True]
        assert not any(task.done() for task in large)
        for task in large:
            task.cancel()
        network.open()
        await batcher.close()

    run(test)


def test_the_oldest_request_goes_on_while_new_ones_keep_coming() -> None:
    async def test() -> None:
        network = Network()
        batcher = make(network)
        old = asyncio.create_task(batcher.encode([window(10, 3)] * 40))
        new: list[asyncio.Task[Vectors]] = []
        for _ in range(9):
            new += [asyncio.create_task(batcher.encode([window(10, 4)])) for _ in range(10)]
            await network.started()
            network.release()
        network.open()
        await asyncio.gather(old, *new)
        middle = network.packs[1:8]
        assert all(pack.count(3) >= 4 and 4 in pack for pack in middle), middle
        await batcher.close()

    run(test)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def test() -> None:
        network = Network()
        batcher = make(network, max_queue_tokens=500)
        batcher.tokens_per_s = 40.0
        waiting = asyncio.create_task(batcher.encode([window(100)] * 5))
        await network.started()
        with pytest.raises(QueueFullError, match="500 tokens wait, 500 are allowed") as refused:
            await batcher.encode([window(1)])
        assert refused.value.retry_after_s == 7, "half of 500 tokens at 40 a second"
        with pytest.raises(TooLargeError, match="split it"):
            await batcher.encode([window(100)] * 6)
        network.open()
        await waiting
        assert (await batcher.encode([window(1, 5)])).tolist() == [[1, 5]]
        await batcher.close()

    run(test)


def test_no_more_waits_than_can_be_answered_in_time() -> None:
    batcher = make(Network(), max_queue_tokens=10_000, timeout_s=10)
    assert batcher.capacity_tokens == 10_000
    batcher.tokens_per_s = 200.0
    assert batcher.capacity_tokens == 1_000, "a request that gets half of each pack reads 200 * 10 / 2 tokens in time"
    batcher.tokens_per_s = 1.0
    assert batcher.capacity_tokens == 100, "one pack is always taken"


def test_a_deadline_ends_the_wait_and_empties_the_queue() -> None:
    async def test() -> None:
        network = Network()
        batcher = make(network)
        with pytest.raises(DeadlineError, match=r"not answered within 0\.01 s"):
            await batcher.encode([window(60), window(60)], timeout_s=0.01)
        assert batcher.num_queue_tokens == 0
        network.open()
        await batcher.close()
        assert len(network.packs) == 1, "the second window was still encoded"

    run(test)


def test_who_goes_away_leaves_nothing_in_the_queue() -> None:
    async def test() -> None:
        network = Network()
        batcher = make(network)
        first = asyncio.create_task(batcher.encode([window(100, 1)]))
        await network.started()
        gone = asyncio.create_task(batcher.encode([window(100, 2)] * 50))
        stays = asyncio.create_task(batcher.encode([window(100, 3)]))
        await settled()
        gone.cancel()
        network.open()
        await asyncio.gather(first, stays)
        assert network.packs == [[1], [3]]
        assert batcher.num_queue_tokens == 0
        await batcher.close()

    run(test)


def test_a_request_that_fails_fails_alone() -> None:
    async def test() -> None:
        network = Network(is_open=True)
        batcher = make(network)
        good, bad, also = await asyncio.gather(
            *(batcher.encode([window(10, mark)] * 2) for mark in (5, 13, 6)), return_exceptions=True
        )
        assert isinstance(bad, RuntimeError)
        assert isinstance(good, np.ndarray) and isinstance(also, np.ndarray)
        assert good.tolist() == [[10, 5]] * 2 and also.tolist() == [[10, 6]] * 2
        assert len(set(network.packs[0])) == 3, "they were not in one pack, so nothing was shown"
        assert batcher.num_queue_tokens == 0
        await batcher.close()

    run(test)


def test_calls_take_their_turn_between_packs() -> None:
    async def test() -> None:
        network = Network()
        batcher = make(network, max_calls=1)
        rows = asyncio.create_task(batcher.encode([window(100)] * 3))
        await network.started()
        call = asyncio.create_task(batcher.call(lambda: len(network.packs)))
        await settled()
        with pytest.raises(QueueFullError):
            await batcher.call(lambda: 0)
        network.open()
        assert await call == 1, "it ran after the pack under way"
        await rows
        with pytest.raises(ZeroDivisionError):
            await batcher.call(lambda: 1 // 0)
        await batcher.close()

    run(test)


def test_closing_waits_for_every_answer() -> None:
    async def test() -> None:
        network = Network()
        batcher = make(network)
        tasks = [asyncio.create_task(batcher.encode([window(60, mark)] * 3)) for mark in (1, 2, 3)]
        await network.started()
        closing = asyncio.create_task(batcher.close())
        await settled()
        assert not closing.done()
        network.open()
        await closing
        assert [len(rows) for rows in await asyncio.gather(*tasks)] == [3, 3, 3]

    run(test)
