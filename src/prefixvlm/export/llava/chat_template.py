"""The prompts of a checkpoint's tasks as a chat template, for messages of images and texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefixvlm.batch import AssistantTurn, Part, TemplateText
from prefixvlm.data.sample import BLACK_IMAGE
from prefixvlm.export.llava.language_model import IMAGE_TOKEN
from prefixvlm.task.interface import Task

QUESTION, ANSWER, NEXT = "\ue000", "\ue001", "\ue002"  # private-use characters, which no prompt contains

# A question is the text of a user's message; a message without one asks for a caption. PROMPTS stands for the texts
# around a question, an answer and the next question.
TEMPLATE = """\
{%- macro text_of(message) -%}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set prompts = PROMPTS -%}
{%- set state = namespace(prompt=none) -%}
{%- for message in messages -%}
{%- set text = text_of(message) -%}
{%- if message['role'] == 'user' and loop.index0 % 2 == 0 -%}
{%- set images = namespace(text='') -%}
{%- if message['content'] is not string -%}
{%- for part in message['content'] if part['type'] == 'image' -%}
{%- set images.text = images.text + 'IMAGE' -%}
{%- endfor -%}
{%- endif -%}
{%- if loop.first -%}
{%- set state.prompt = prompts['question'] if text else prompts['caption'] -%}
{{- state.prompt['start'] + images.text + state.prompt['before'] + text + state.prompt['after'] -}}
{%- else -%}
{{- state.prompt['next'] + text + state.prompt['after'] -}}
{%- endif -%}
{%- elif message['role'] == 'assistant' and loop.index0 % 2 == 1 and state.prompt['next'] is defined -%}
{{- state.prompt['answer'] + text -}}
{%- else -%}
{{- raise_exception('the messages are not those that the model was trained with: WANTED') -}}
{%- endif -%}
{%- endfor -%}
"""


@dataclass(frozen=True)
class Prompt:
    """The texts of a prompt: start, the images, before, a question, after.

    With several turns it goes on: answer, an answer of the model, next, another question, after.
    """

    start: str
    before: str
    after: str
    answer: str = ""
    next: str | None = None  # None for one turn only


def chat_template(prompts: dict[str, Prompt]) -> str:
    """Return the template in Jinja. prompts: "question" and "caption"."""
    several = any(prompt.next is not None for prompt in prompts.values())
    wanted = "one of the user" + ", then one of the assistant and one of the user in turn" * several
    values = {
        name: {key: text for key, text in vars(prompt).items() if text is not None} for name, prompt in prompts.items()
    }
    literal = json.dumps(values, ensure_ascii=False)
    # The prompts last: they may have any words, also these.
    return TEMPLATE.replace("IMAGE", IMAGE_TOKEN).replace("WANTED", wanted).replace("PROMPTS", literal)


def prompts_of(tasks: Mapping[str, Task], collate: Any, space: str) -> dict[str, Prompt]:
    """Return the prompts of a "question" and of a "caption". tasks: by these names. space: see `rendered`."""
    found = {name: prompt_of(task, collate, space) for name, task in tasks.items()}
    # Without a task for questions a question is the whole prompt, and without captions it is empty.
    question = found.get("question", Prompt("", space, ""))
    return {"question": question, "caption": found.get("caption", question)}


def prompt_of(task: Task, collate: Any, space: str) -> Prompt:
    """Return the texts of a task's prompt. Raises ValueError for a task whose prompts are of another form."""
    asked = (QUESTION,) if task.takes == "question" else ()
    rows = task.prompt_rows(task.request("", BLACK_IMAGE, asked))
    if task.turn_by_turn:
        rows = task.prompt_rows(task.request("", BLACK_IMAGE, (QUESTION, NEXT), (ANSWER,)))[-1:]
    text = rendered(rows[0].parts, collate, space)
    start, image, rest = text.partition(IMAGE_TOKEN)
    if len(rows) > 1 or not image or IMAGE_TOKEN in rest or start.strip(QUESTION) != start:
        raise ValueError(f"task {task.name} has prompts that are no chat template: not an image and then one text")
    if not asked:
        return Prompt(start, rest, "")
    before, _, after = rest.partition(QUESTION)
    if not task.turn_by_turn:
        return Prompt(start, before, after)
    turn, _, rest = after.partition(ANSWER)
    following, _, after = rest.partition(NEXT)
    return Prompt(start, before, after, turn.removeprefix(after), following)


def rendered(parts: Sequence[Part], collate: Any, space: str) -> str:
    """Return the parts of a row as one text: special tokens are spelled, and an image is IMAGE_TOKEN.

    space: before a text after an image. SentencePiece puts one before a text that it reads alone, as in training, but
    not before one that it reads after the image token.
    """
    tokenizer = collate.tokenizer
    pieces = tokenizer.convert_ids_to_tokens(collate.start_ids)
    bos = tokenizer.bos_token if collate.bos_ids else ""
    for part in collate.chat(parts) if collate.chat else parts:
        if not isinstance(part, str):
            pieces.append(IMAGE_TOKEN)
        elif isinstance(part, AssistantTurn):
            pieces.append(part + tokenizer.eos_token)
        elif isinstance(part, TemplateText):
            pieces.append(part)
        else:
            after_image = pieces[-1:] == [IMAGE_TOKEN]
            pieces.append(bos + space * after_image + part)  # BOS stands before the first text, after an image
            bos = ""
    return "".join([*pieces, bos])
