"""Generated texts of requests, computed together where that does not change them."""

import secrets
from functools import partial
from typing import Any

from prefixvlm.batch import Row
from prefixvlm.serve import work
from prefixvlm.serve.api.schema import Decoding
from prefixvlm.serve.service import Service
from prefixvlm.task.interface import Task

SAMPLED = "nucleus"


def options_of(decoding: Decoding) -> dict[str, Any]:
    """Return the decoding options that are given, those of sampling with a seed."""
    options = decoding.model_dump(exclude_none=True)
    if options.keys() & {"temperature", "top_p", "seed"}:
        options.setdefault("method", SAMPLED)
    if options.get("method") == SAMPLED:
        options.setdefault("seed", secrets.randbits(32))
    return options


async def said_by(service: Service, task: Task, rows: list[Row], num_likeliest: int | None) -> work.Said:
    """Return the text after a prompt. num_likeliest: see work.texts."""
    options = tuple(sorted((name, repr(value)) for name, value in task.decoding.items()))
    # The rows of a batch draw from one random generator, so a sampled text would depend on its neighbours.
    key = None if task.decoding.get("method") == SAMPLED else (task.name, options, num_likeliest)
    compute = partial(_texts, service, task, num_likeliest)
    said: work.Said = await service.together(compute, rows, key)
    service.metrics.tokens.inc(said.num_tokens)
    return said


def _texts(service: Service, task: Task, num_likeliest: int | None, prompts: list[list[Row]]) -> list[work.Said]:
    return work.texts(service.model, task, prompts, num_likeliest)
