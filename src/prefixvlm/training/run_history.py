"""The history of a run that a checkpoint holds: logged scalars, and predictions at the validations."""

import logging
from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from prefixvlm.strict_json import convert

Step = Annotated[int, Meta(ge=0, le=10**12)]
logger = logging.getLogger(__name__)


class Record(TypedDict):
    """A logged scalar."""

    step: Step
    name: str
    value: float


class Example(TypedDict):
    """A prediction at a validation. nearest: the tokens nearest to the prefix embeddings of its image."""

    step: Step
    task: str
    key: str
    id: str
    prompt: str
    prediction: str
    references: list[str]
    correct: float | bool | None
    nearest: NotRequired[list[str] | None]


class RunHistory(TypedDict):
    """What the History callback has stored."""

    records: list[Record]
    examples: list[Example]


def history(checkpoint: Mapping[str, Any]) -> RunHistory:
    """Return the history in a checkpoint; an empty one, with a warning, if it is not such."""
    try:
        callbacks = convert(checkpoint.get("callbacks", {}), dict[str, Any])
        stored = convert(callbacks.get("History", {}), dict[str, Any])
        return convert({"records": [], "examples": [], **stored}, RunHistory)
    except ValueError as error:  # the scores of an evaluation do not depend on it
        logger.warning("the history of the run in the checkpoint is damaged and is not shown (%s)", error)
        return {"records": [], "examples": []}
