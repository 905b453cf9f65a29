"""Dynamic batching: a queue of requests, and the one thread that computes them."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Compute = Callable[[list[Any]], Sequence[Any]]  # arguments -> their results
END = object()


class QueueFullError(Exception):
    """Raised if as many requests wait as may."""


@dataclass(eq=False)
class Job:
    """An argument of a function. Jobs with equal keys are computed in one call; None is computed alone."""

    compute: Compute
    argument: Any
    key: Hashable | None
    future: "Future[Any]" = field(default_factory=Future)
    born: float = field(default_factory=time.monotonic)

    @property
    def dropped(self) -> bool:
        return self.future.cancelled()


class Stream:
    """Parts of a result as they are computed, for the event loop that made it. Closing it ends the computation."""

    key = None
    born = 0.0

    def __init__(self, parts: Callable[[], Iterator[Any]]) -> None:
        self.dropped = False
        self._parts = parts
        self._iterator: Iterator[Any] | None = None
        self._loop, self._queue = asyncio.get_running_loop(), asyncio.Queue[Any]()

    def close(self) -> None:
        self.dropped = True

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (part := await self._queue.get()) is not END:
            if isinstance(part, Exception):
                raise part
            yield part

    def step(self) -> bool:
        """Compute the next part. Returns whether there may be more."""
        try:
            self._iterator = self._iterator or self._parts()
            part = END if self.dropped else next(self._iterator, END)
        except Exception as error:
            part = error
        goes_on = part is not END and not isinstance(part, Exception)
        if not goes_on:
            self._iterator = None  # with its KV cache
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, part)
        return goes_on


class Batcher:
    """Computes jobs in the order in which they come, in a thread of its own, and streams step by step between them.

    The oldest job waits for others with its key until there are max_batch or it has waited max_wait seconds.
    on_batch is called with the number of jobs of each batch.
    """

    def __init__(
        self, max_batch: int, max_wait: float, max_queue: int, on_batch: Callable[[int], None] = lambda size: None
    ) -> None:
        self.max_batch, self.max_wait, self.max_queue, self.on_batch = max_batch, max_wait, max_queue, on_batch
        self._waiting: list[Job | Stream] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """The number of requests that wait."""
        with self._changed:
            return sum(not each.dropped for each in self._waiting)

    def submit(self, compute: Compute, argument: Any, key: Hashable | None = None) -> "asyncio.Future[Any]":
        """Return the future of a result; cancelling it takes the job out of the queue. Raises QueueFullError."""
        job = Job(compute, argument, key)
        self._put(job)
        return asyncio.wrap_future(job.future)

    def stream(self, parts: Callable[[], Iterator[Any]]) -> Stream:
        """Return the parts of a result. Raises QueueFullError."""
        stream = Stream(parts)
        self._put(stream)
        return stream

    def close(self) -> None:
        """Compute what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _put(self, work: Job | Stream) -> None:
        with self._changed:
            self._waiting = [each for each in self._waiting if not each.dropped]
            if len(self._waiting) >= self.max_queue:
                raise QueueFullError
            self._waiting.append(work)
            self._changed.notify()

    def _run(self) -> None:
        streams: list[Stream] = []
        while (batch := self._next(len(streams))) is not None:
            jobs = [each for each in batch if isinstance(each, Job)]
            if jobs:
                self._compute(jobs)
            streams += [each for each in batch if isinstance(each, Stream)]
            streams = [stream for stream in streams if stream.step()]

    def _next(self, num_streams: int) -> list[Job | Stream] | None:
        """Return what is to be computed now, [] if that is only the streams; None at the end."""
        with self._changed:
            while True:
                self._waiting = [each for each in self._waiting if not each.dropped]
                may_start = num_streams < self.max_batch
                first = next((each for each in self._waiting if may_start or isinstance(each, Job)), None)
                if first is not None:
                    batch, wait = self._batch(first)
                    if wait <= 0:
                        self._waiting = [each for each in self._waiting if each not in batch]
                        return batch
                elif num_streams == 0 and self._closed:
                    return None
                if num_streams:
                    return []
                self._changed.wait(None if first is None else wait)

    def _batch(self, first: Job | Stream) -> tuple[list[Job | Stream], float]:
        """Return the work to compute with the oldest, and the seconds for which it still waits for more."""
        if first.key is None:
            return [first], 0.0
        batch = [each for each in self._waiting if each.key == first.key][: self.max_batch]
        full = len(batch) == self.max_batch or self._closed
        return batch, 0.0 if full else first.born + self.max_wait - time.monotonic()

    def _compute(self, batch: list[Job]) -> None:
        jobs = [job for job in batch if job.future.set_running_or_notify_cancel()]
        if not jobs:
            return
        self.on_batch(len(jobs))
        try:
            results = jobs[0].compute([job.argument for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:  # one that is wrong, as too long a question, must not harm the others
                for job in jobs:
                    self._compute_again(job)
            return
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(result)

    def _compute_again(self, job: Job) -> None:
        try:
            job.future.set_result(job.compute([job.argument])[0])
        except Exception as error:
            job.future.set_exception(error)
