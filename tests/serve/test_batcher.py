"""The queue and its thread, with functions that show what they are called with."""

import asyncio
import threading
import time
from contextlib import contextmanager

import pytest

from prefixvlm.serve.batcher import Batcher, QueueFullError


@contextmanager
def batching(max_batch=4, max_wait=0.05, max_queue=16):
    batcher = Batcher(max_batch, max_wait, max_queue)
    yield batcher
    batcher.close()


class Blocked:
    """A function that waits for `go` at its first call, and keeps its arguments."""

    def __init__(self):
        self.go, self.calls = threading.Event(), []

    def __call__(self, arguments):
        self.calls.append(list(arguments))
        if len(self.calls) == 1:
            assert self.go.wait(10)
        if any(isinstance(each, str) for each in arguments):
            raise ValueError("a text")
        return [10 * each for each in arguments]


def run(batcher, scenario):
    async def main():
        function = Blocked()
        first = batcher.submit(function, 0)
        while not function.calls:
            await asyncio.sleep(0.001)
        return await scenario(function, first)

    return asyncio.run(asyncio.wait_for(main(), 20))


def test_equal_keys_are_computed_together_in_the_order_of_arrival():
    async def scenario(function, first):
        keys = ["a", "b", "a", None, "a", "a", "a", "b", None]
        futures = [batcher.submit(function, number, key) for number, key in enumerate(keys, 1)]
        function.go.set()
        assert await asyncio.gather(first, *futures) == [10 * number for number in range(10)]
        assert function.calls == [[0], [1, 3, 5, 6], [2, 8], [4], [7], [9]]

    with batching() as batcher:
        run(batcher, scenario)


def test_a_request_waits_for_others_as_long_as_told_and_no_longer():
    async def scenario(function, first):
        function.go.set()
        await first
        start = time.monotonic()
        one = batcher.submit(function, 1, "a")
        await asyncio.sleep(0.1)
        two = batcher.submit(function, 2, "a")
        assert await asyncio.gather(one, two) == [10, 20]
        assert 0.3 <= time.monotonic() - start < 2
        assert function.calls[1:] == [[1, 2]]
        start = time.monotonic()
        await asyncio.gather(*(batcher.submit(function, number, "a") for number in range(4)))
        assert time.monotonic() - start < 0.25  # full: nobody waits

    with batching(max_wait=0.3) as batcher:
        run(batcher, scenario)


def test_one_that_fails_harms_no_other_of_its_batch():
    async def scenario(function, first):
        futures = [batcher.submit(function, each, "a") for each in (1, "wrong", 3)]
        function.go.set()
        one, wrong, three = await asyncio.gather(*futures, return_exceptions=True)
        assert (one, three) == (10, 30)
        assert isinstance(wrong, ValueError)
        await first

    with batching() as batcher:
        run(batcher, scenario)


def test_what_nobody_waits_for_is_not_computed():
    async def scenario(function, first):
        futures = [batcher.submit(function, number, "a") for number in (1, 2, 3)]
        futures[1].cancel()
        await asyncio.sleep(0)  # the event loop tells the queue
        assert len(batcher) == 2
        function.go.set()
        assert await asyncio.gather(futures[0], futures[2]) == [10, 30]
        assert function.calls == [[0], [1, 3]]
        await first

    with batching() as batcher:
        run(batcher, scenario)


def test_the_queue_has_a_limit_and_room_again():
    async def scenario(function, first):
        futures = [batcher.submit(function, number) for number in (1, 2)]
        with pytest.raises(QueueFullError):
            batcher.submit(function, 3)
        futures[0].cancel()
        await asyncio.sleep(0)
        last = batcher.submit(function, 4)
        function.go.set()
        assert await last == 40
        await first

    with batching(max_queue=2) as batcher:
        run(batcher, scenario)


def test_streams_and_batches_take_turns():
    order = []

    def parts(name, number):
        for each in range(number):
            order.append(f"{name}{each}")
            yield each

    def batch(arguments):
        order.append("batch")
        return arguments

    async def scenario(function, first):
        streams = [batcher.stream(lambda: parts("a", 3)), batcher.stream(lambda: parts("b", 2))]
        job = batcher.submit(batch, 1)
        function.go.set()
        assert [part async for part in streams[0]] == [0, 1, 2]
        assert [part async for part in streams[1]] == [0, 1]
        assert await job == 1
        await first
        assert order == ["a0", "a1", "b0", "batch", "a2", "b1"]

    with batching() as batcher:
        run(batcher, scenario)


def test_a_stream_that_is_closed_stops_and_its_end_is_seen():
    steps, closed = [], threading.Event()

    def parts():
        try:
            for each in range(10**6):
                steps.append(each)
                time.sleep(0.001)
                yield each
        finally:
            closed.set()

    async def scenario(function, first):
        function.go.set()
        stream = batcher.stream(parts)
        async for part in stream:
            if part == 3:
                stream.close()
        assert closed.wait(5)
        assert len(steps) < 1000
        await first

    with batching() as batcher:
        run(batcher, scenario)


def test_an_error_of_a_stream_is_raised_where_it_is_read():
    def parts():
        yield 1
        raise ValueError("half a stream")

    async def scenario(function, first):
        function.go.set()
        iterator = aiter(batcher.stream(parts))
        assert await anext(iterator) == 1
        with pytest.raises(ValueError, match="half a stream"):
            await anext(iterator)
        assert await batcher.submit(function, 5) == 50  # the thread lives
        await first

    with batching() as batcher:
        run(batcher, scenario)


def test_closing_computes_what_waits():
    async def scenario(function, first):
        futures = [batcher.submit(function, number, "a") for number in (1, 2)]
        function.go.set()
        await asyncio.to_thread(batcher.close)
        assert await asyncio.gather(first, *futures) == [0, 10, 20]

    batcher = Batcher(4, 30.0, 16)  # seconds: closing waits for no others
    run(batcher, scenario)
