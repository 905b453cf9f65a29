"""OpenAI's endpoints: chat completions about images, and the list of models."""

import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, HTTPException, Request

from prefixvlm.batch import Row
from prefixvlm.serve import work
from prefixvlm.serve.api import sse
from prefixvlm.serve.api.completion import Completion
from prefixvlm.serve.api.generate import SAMPLED, said_by
from prefixvlm.serve.api.schema import ChatRequest, ImagePart, Message
from prefixvlm.serve.prompts import Turn, prompt_of
from prefixvlm.serve.service import Service
from prefixvlm.task.interface import Task


def router(service: Service) -> APIRouter:
    """Return the endpoints /v1/chat/completions and /v1/models."""
    routes = APIRouter()
    name = service.settings.name

    @routes.post("/v1/chat/completions")
    async def complete(asked: ChatRequest, request: Request) -> Any:
        _check(asked, name)
        completion, deadline = Completion(name), service.deadline()

        async def answer() -> Any:
            task, rows = await _prompt(service, asked)
            if asked.stream:
                parts = partial(work.parts, service.model, task, rows)
                usage = asked.stream_options is not None and asked.stream_options.include_usage
                events = partial(completion.chunks, usage=usage)
                return sse.response(
                    await sse.first_of(service.stream(parts, deadline)), _counted(service, events), sse.DONE
                )
            likeliest = (asked.top_logprobs or 0) if asked.logprobs else None
            said = [await said_by(service, each, rows, likeliest) for each in _choices(task, asked.n or 1)]
            return completion.whole(said)

        return await service.bounded(request, answer())

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "prefixvlm"}]}

    return routes


def _check(asked: ChatRequest, name: str) -> None:
    if asked.model != name:
        raise HTTPException(404, f"there is no model {asked.model[:100]!r}; set model to {name!r}")
    if wrong := asked.unsupported():
        raise ValueError(f"{wrong[0]} is not supported; leave it out")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise ValueError("top_logprobs needs logprobs; set it to true")
    if asked.stream and (asked.logprobs or (asked.n or 1) > 1):
        raise ValueError("a stream is one text without logprobs; leave out n and logprobs, or stream")
    if (asked.n or 1) > 1 and not _samples(asked):
        raise ValueError(f"n is {asked.n}, and without sampling all texts are equal; set temperature above 0")


def _samples(asked: ChatRequest) -> bool:
    """Return whether a request wants a sampled text. Without temperature and top_p the task's own decoding is used."""
    return bool(asked.temperature) or (asked.temperature is None and asked.top_p is not None)


def _options(asked: ChatRequest, task: Task) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if _samples(asked):
        seed = secrets.randbits(32) if asked.seed is None else asked.seed
        options = {
            "method": SAMPLED,
            "temperature": asked.temperature or 1.0,
            "top_p": asked.top_p or 1.0,
            "seed": seed,
        }
    elif asked.temperature == 0:
        options = {"method": "greedy"}
    if most := asked.max_completion_tokens or asked.max_tokens:
        options["max_new_tokens"] = most
    if asked.stop:  # besides the task's own
        given = [asked.stop] if isinstance(asked.stop, str) else asked.stop
        options["stop"] = [*task.decoding.get("stop", []), *given]
    return options


def _choices(task: Task, number: int) -> Iterator[Task]:
    yield task
    for more in range(1, number):
        yield task.with_decoding(seed=(task.decoding["seed"] + more) % 2**63) if task.generates else task


async def _prompt(service: Service, asked: ChatRequest) -> tuple[Task, list[Row]]:
    turns, system = await _turns(service, asked.messages)
    task, rows = prompt_of(service.model, turns, system)
    return service.task(task, _options(asked, task)), rows


async def _turns(service: Service, messages: Sequence[Message]) -> tuple[list[Turn], str]:
    """Return what the user says, each turn with its answer, and the text of the system."""
    first = next(
        (place for place, each in enumerate(messages) if each.role not in ("system", "developer")), len(messages)
    )
    system, said = [_text(each) for each in messages[:first]], messages[first:]
    for place, message in enumerate(said):
        if message.role != ("user", "assistant")[place % 2]:
            raise ValueError(
                f"messages.{first + place} is of {message.role}; user and assistant take turns, the user first"
            )
    if len(said) % 2 == 0:
        raise ValueError("the last message must be of the user")
    sources = [[part.image_url.url for part in _parts(each) if isinstance(part, ImagePart)] for each in said]
    if any(sources[1::2]) or any(isinstance(part, ImagePart) for each in messages[:first] for part in _parts(each)):
        raise ValueError("an image is in a message that is not the user's")
    if (number := sum(map(len, sources))) > (most := service.limits.max_images):
        raise ValueError(f"there are {number} images; at most {most} are read")
    answers = [*(_text(each) for each in said[1::2]), ""]
    turns = []
    for message, urls, answer in zip(said[::2], sources[::2], answers, strict=True):
        images = tuple([(await service.images.read(url))[1] for url in urls])
        turns.append(Turn(images, _text(message), answer))
    return turns, "\n".join(system)


def _parts(message: Message) -> list[Any]:
    return message.content if isinstance(message.content, list) else []


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content.strip()
    return " ".join(part.text.strip() for part in _parts(message) if not isinstance(part, ImagePart)).strip()


def _counted(service: Service, events: Any) -> Any:
    def count(part: Any) -> Any:
        if isinstance(part, work.Said):
            service.metrics.tokens.inc(part.num_tokens)
        return events(part)

    return count
