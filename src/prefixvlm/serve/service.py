"""What all endpoints share: the model and its thread, images, limits and metrics."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastapi import HTTPException, Request

from prefixvlm.inference.captioner import Captioner
from prefixvlm.serve.batcher import Batcher, QueueFullError
from prefixvlm.serve.images import Images
from prefixvlm.serve.limits import MAX_HELD_PIXELS, Limits
from prefixvlm.serve.metrics import Metrics
from prefixvlm.task.interface import Task

R = TypeVar("R")
GONE = 499  # nginx's code for a client that has closed its connection


@dataclass(frozen=True)
class Settings:
    """name: of the model. remote_hosts: from which images are fetched. feedback: folder of corrections."""

    name: str = "prefixvlm"
    limits: Limits = field(default_factory=Limits)
    remote_hosts: tuple[str, ...] = ()
    feedback: Path | None = None


class Service:
    """A model that is served."""

    def __init__(self, model: Captioner, settings: Settings) -> None:
        limits = self.limits = settings.limits
        self.model, self.settings = model, settings
        self.images = Images(model.decoder, int(limits.max_body_mb * 1e6), MAX_HELD_PIXELS, settings.remote_hosts)
        self.metrics = Metrics(lambda: len(self.batcher))
        on_batch: Callable[[int], None] = self.metrics.batches.observe
        self.batcher = Batcher(limits.max_batch, limits.max_wait_ms / 1e3, limits.max_queue, on_batch)

    def task(self, task: Task, options: dict[str, Any]) -> Task:
        """Return a task with decoding options, which a task that does not generate freely has none of.

        Raises ValueError for those that do not fit, or for too many tokens.
        """
        most = self.limits.max_tokens
        if options.get("max_new_tokens", 1) > most:
            raise ValueError(f"{options['max_new_tokens']} tokens are asked for; at most {most} are generated")
        if not task.generates:  # clients set some without knowing the task
            return task
        changed = task.with_decoding(**options)
        if changed.decoding.get("max_new_tokens", 1) > most:  # the task's own
            changed = changed.with_decoding(max_new_tokens=most)
        return changed

    async def computed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return a result that is computed alone, by the thread of the model."""
        return await self.together(lambda each: [function(*each[0])], arguments, None)

    async def together(self, function: Callable[[list[Any]], Sequence[Any]], argument: Any, key: Hashable) -> Any:
        """Return the result of one argument of a function that is called with those of all requests with this key."""
        try:
            return await self.batcher.submit(function, argument, key)
        except QueueFullError:
            raise _full() from None

    async def stream(self, parts: Callable[[], Iterator[Any]], deadline: float) -> AsyncGenerator[Any]:
        """Yield the parts of a result. Raises HTTPException 504 at the deadline, a time of the event loop."""
        try:
            stream = self.batcher.stream(parts)
        except QueueFullError:
            raise _full() from None
        loop, iterator = asyncio.get_running_loop(), aiter(stream)
        try:
            while True:
                yield await asyncio.wait_for(anext(iterator), max(deadline - loop.time(), 0.001))
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise self._late() from None
        finally:
            stream.close()

    async def bounded(self, request: Request, work: Coroutine[Any, Any, R]) -> R:
        """Return a result in time, or raise HTTPException 504. Work for a client that is gone is cancelled."""
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({task, gone}, timeout=self.limits.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise HTTPException(GONE, "the client has gone") if gone.done() else self._late()
        finally:
            task.cancel()
            gone.cancel()

    def close(self) -> None:
        """Compute what waits, and end the threads."""
        self.batcher.close()
        self.images.close()

    def deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.limits.timeout_s

    def _late(self) -> HTTPException:
        return HTTPException(504, f"it took more than {self.limits.timeout_s:g} s; ask for less, or later")


def _full() -> HTTPException:
    return HTTPException(429, "as many requests wait as may; try again later", {"Retry-After": "1"})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
