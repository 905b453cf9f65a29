"""Endpoints of prefixvlm's own: captions and answers with the probabilities of their tokens, and rankings."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request

from prefixvlm.batch import Row
from prefixvlm.serve import work
from prefixvlm.serve.api import sse
from prefixvlm.serve.api.generate import options_of, said_by
from prefixvlm.serve.api.schema import CaptionRequest, ImageRequest, RankRequest
from prefixvlm.serve.limits import check_characters
from prefixvlm.serve.prompts import Turn, prompt_of
from prefixvlm.serve.service import Service
from prefixvlm.task.interface import Task

NUM_RANKED = 10  # answers of a task's own list


def router(service: Service) -> APIRouter:
    """Return the endpoints /v1/caption and /v1/rank."""
    routes = APIRouter()

    @routes.post("/v1/caption")
    async def caption(asked: CaptionRequest, request: Request) -> Any:
        options, deadline = options_of(asked.decoding), service.deadline()

        async def answer() -> Any:
            task, rows = await _prompt(service, asked, options)
            if not asked.stream:
                return _whole(await said_by(service, task, rows, 0))
            parts = partial(work.parts, service.model, task, rows, True)
            return sse.response(await sse.first_of(service.stream(parts, deadline)), _event)

        return await service.bounded(request, answer())

    @routes.post("/v1/rank")
    async def rank(asked: RankRequest, request: Request) -> Any:
        async def answer() -> Any:
            check_characters(asked.question or "", *(asked.texts or ()))
            task, rows = await _prompt(service, asked, {})
            found = await service.computed(work.rank, service.model, task, rows, asked.texts)
            shown = found if asked.texts else found[:NUM_RANKED]
            return {"answers": [{"text": text, "probability": p, "share": share} for text, p, share in shown]}

        return await service.bounded(request, answer())

    return routes


async def _prompt(service: Service, asked: ImageRequest, options: dict[str, Any]) -> tuple[Task, list[Row]]:
    _, image = await service.images.read(asked.image)
    task, rows = prompt_of(service.model, [Turn((image,), asked.question or "")], name=asked.task)
    return service.task(task, options), rows


def _whole(said: work.Said) -> dict[str, Any]:
    return {"text": said.text, "tokens": [[each.text, each.log_prob] for each in said.tokens]}


def _event(part: str | work.Said) -> Iterator[Any]:
    yield {"text": part} if isinstance(part, str) else {"done": True, **_whole(part)}
