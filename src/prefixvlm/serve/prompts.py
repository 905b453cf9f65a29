"""Prompts of requests: a conversation about images as the rows of text that the model continues."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from prefixvlm.batch import AssistantTurn, Part, Row
from prefixvlm.data.sample import BLACK_IMAGE
from prefixvlm.inference.captioner import SEPARATOR, Captioner
from prefixvlm.inference.request import Request, check_num_images
from prefixvlm.serve.limits import check_characters
from prefixvlm.task.interface import Task
from prefixvlm.task.rows.few_shot import join_texts


@dataclass(frozen=True)
class Turn:
    """What a user says, and the answer that an earlier turn got. text: a question; "" to have the image captioned."""

    images: tuple[Image.Image, ...]
    text: str
    answer: str = ""


def prompt_of(
    model: Captioner, turns: Sequence[Turn], system: str = "", name: str | None = None
) -> tuple[Task, list[Row]]:
    """Return the task that answers the last turn, and its rows: with one turn the same as Captioner's.

    There is one row, or one for each prompt of an ensemble.

    The images of a turn stand before its text, in the prompt of the task. Earlier turns stand before the last as in
    a dialogue or, if the checkpoint has learned none, as demonstrations. system: text before all.
    name: name of the task, if several fit.
    """
    check_characters(system, *(text for turn in turns for text in (turn.text, turn.answer)))
    check = model.task(_request(turns[-1].text), name)
    check_num_images(check, sum(len(turn.images) for turn in turns))
    as_turns = check.turn_by_turn or model.module.model.lm.chat is not None
    context: list[Part] = [system.strip() + SEPARATOR] if system.strip() else []
    for turn in turns[:-1]:
        task, (row, *_) = _rows(model, turn, name)
        space = " " if row.text else ""
        if as_turns:
            context += [*row.parts, AssistantTurn(space + turn.answer), getattr(task, "separator", SEPARATOR)]
        else:
            context += [*row.parts, space + turn.answer + SEPARATOR]
    task, rows = _rows(model, turns[-1], name)
    contexts = [[*context, *row.context] for row in rows]
    contexts = contexts if as_turns else [join_texts(each) for each in contexts]
    return task, [replace(row, context=tuple(each)) for row, each in zip(rows, contexts, strict=True)]


def _rows(model: Captioner, turn: Turn, name: str | None) -> tuple[Task, list[Row]]:
    request = _request(turn.text)
    task = model.task(request, name)
    rows = task.prompt_rows(task.request("", turn.images[0] if turn.images else BLACK_IMAGE, request.texts))
    return task, [replace(row, prompt=(*turn.images, row.text)) for row in rows]


def _request(text: str) -> Request:
    return Request((text,)) if text.strip() else Request()
