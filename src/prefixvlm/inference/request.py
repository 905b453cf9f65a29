"""Requests of `prefixvlm predict`, and the choice of the task that answers one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing it imports torch, before the arguments are checked
    from prefixvlm.task.interface import Task

TRAINED_BY = {"question": "vqa", "phrase": "grounding", "text": "tagging"}  # by Task.takes, for error messages


@dataclass(frozen=True)
class Request:
    """Texts of a request: questions to answer, phrases to find, or a text to tag; none for the image alone."""

    questions: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    text: str | None = None

    @property
    def takes(self) -> str:
        """The value of Task.takes that fits the request.

        Raises ValueError if texts of several kinds are given, or a text without words.
        """
        texts = {"question": self.questions, "phrase": self.phrases, "text": () if self.text is None else (self.text,)}
        for name, values in texts.items():
            if not all(value.strip() for value in values):
                raise ValueError(f"--{name} has no words; give some")
        given = [name for name, values in texts.items() if values]
        if len(given) > 1:
            raise ValueError(f"--{given[0]} and --{given[1]} are of two tasks; give one of them")
        return given[0] if given else "image"

    @property
    def texts(self) -> tuple[str, ...]:
        """The questions, phrases or text, with a prediction for each; an empty text for the image alone."""
        return self.questions or self.phrases or (self.text or "",)


def choose_task(tasks: Mapping[str, "Task"], request: Request, name: str | None) -> "Task":
    """Return the task that answers a request. Raises ValueError if none does, or if several do and none is named."""
    if name is not None and name not in tasks:
        raise ValueError(
            f"the checkpoint was trained for {', '.join(tasks)}, not for {name}; set --task to one of these"
        )
    candidates = {name: tasks[name]} if name else tasks
    fitting = [each for each, task in candidates.items() if task.takes == request.takes]
    if len(fitting) > 1 and "captioning" not in fitting:
        raise ValueError(f"the checkpoint was trained for {', '.join(fitting)}; set --task to one of these")
    if not fitting:
        raise ValueError(_refusal(candidates, request.takes, name))
    return tasks["captioning" if "captioning" in fitting else fitting[0]]


def _refusal(tasks: Mapping[str, "Task"], takes: str, name: str | None) -> str:
    trained, accepted = ", ".join(tasks), sorted({task.takes for task in tasks.values()} - {""})
    options = " or ".join("images alone" if each == "image" else f"--{each}" for each in accepted)
    if not accepted:
        return f"task {trained} is about more than an image; evaluate it with eval.py"
    if name:
        return f"task {name} takes {options}, not {'images alone' if takes == 'image' else f'--{takes}'}"
    if takes != "image":
        task = TRAINED_BY[takes]
        return f"the checkpoint was trained for {trained}, not for {task}; train one with task={task}"
    return f"the checkpoint was trained for {trained}; give {options}"


def check_num_images(task: "Task", number: int) -> None:
    """Raise ValueError if images are missing, or if the task does not read images."""
    if task.reads_image and not number:
        raise ValueError(f"task {task.name} is about an image; give one or more")
    if number and not task.reads_image:
        raise ValueError(f"task {task.name} was trained without images; leave them out")
