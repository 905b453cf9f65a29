"""What is asked besides images goes in; the task that takes it, and the samples for its prompts, come out."""

from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from prefixvlm.data.sample import Sample
from prefixvlm.data.schema import Box, Question, Tagged
from prefixvlm.task.contrastive import Contrastive
from prefixvlm.task.fast_binding import FastBinding
from prefixvlm.task.grounding import Grounding
from prefixvlm.task.interface import Task
from prefixvlm.task.retrieval import Retrieval
from prefixvlm.task.tagging import Tagging
from prefixvlm.task.vqa import Vqa

QUESTION, PHRASE, TEXT, NOTHING, MORE = "question", "phrase", "text", "", "more"
# The option that a task takes, a subclass before its base; all others take an image alone.
TAKES: tuple[tuple[type[Task], str], ...] = (
    (FastBinding, MORE), (Retrieval, MORE), (Contrastive, MORE),  # other images, or a set to search
    (Vqa, QUESTION), (Grounding, PHRASE), (Tagging, TEXT),
)  # fmt: skip
TRAIN = {QUESTION: "vqa", PHRASE: "grounding", TEXT: "tagging"}


@dataclass(frozen=True)
class Asked:
    """questions: for vqa, each on its own, and for dialogue, one after the other. phrases: each of one thing, for
    grounding. text: words to tag."""

    questions: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    text: str | None = None

    @property
    def kind(self) -> str:
        """Raises ValueError where several are given, or nothing that can be read."""
        given_texts = {QUESTION: self.questions, PHRASE: self.phrases, TEXT: () if self.text is None else (self.text,)}
        for name, texts in given_texts.items():
            if not all(text.strip() for text in texts):
                raise ValueError(f"--{name} has no words; give some")
        given = [name for name, texts in given_texts.items() if texts]
        if len(given) > 1:
            raise ValueError(f"--{given[0]} and --{given[1]} are of two tasks; give one of them")
        return given[0] if given else NOTHING

    @property
    def texts(self) -> tuple[str, ...]:
        """What a prediction is made to, one each; a single empty text where an image alone is asked about."""
        return self.questions or self.phrases or (self.text or "",)

    def sample(self, key: str, image: Image.Image) -> Sample:
        """Its references are not known; those that a prompt needs none the less are made up."""
        if len(set(self.phrases)) < len(self.phrases):
            raise ValueError("a --phrase comes twice; give each once")
        questions = tuple(Question(str(number), text) for number, text in enumerate(self.questions))
        boxes = tuple(Box(phrase, 0.0, 0.0, 1.0, 1.0) for phrase in self.phrases) or None
        words = tuple((self.text or "").split())
        return Sample(key, image, questions=questions, boxes=boxes, tagged=(Tagged(words, ("O",) * len(words)),))


def takes(task: Task) -> str:
    """question, phrase, text, nothing but the image, or more than a command line has."""
    return next((option for kind, option in TAKES if isinstance(task, kind)), NOTHING)


def chosen(tasks: Mapping[str, Task], asked: Asked, name: str | None) -> Task:
    """The task for what is asked. Raises ValueError if there is none, or several and no name."""
    if name is not None and name not in tasks:
        raise ValueError(
            f"the checkpoint was trained for {', '.join(tasks)}, not for {name}; set --task to one of these"
        )
    kind = asked.kind
    among = {name: tasks[name]} if name else tasks
    fitting = [each for each, task in among.items() if takes(task) == kind]
    if len(fitting) > 1 and "captioning" not in fitting:
        raise ValueError(f"the checkpoint was trained for {', '.join(fitting)}; set --task to one of these")
    if not fitting:
        raise ValueError(_refusal(among, kind, name))
    return tasks["captioning" if "captioning" in fitting else fitting[0]]


def _refusal(tasks: Mapping[str, Task], kind: str, name: str | None) -> str:
    """Why none of the tasks takes what was asked, and what to do."""
    trained, taken = ", ".join(tasks), sorted({takes(task) for task in tasks.values()} - {MORE})
    options = " or ".join(f"--{each}" if each else "images alone" for each in taken)
    if not taken:
        return f"task {trained} is about more than an image; evaluate it with eval.py"
    if name:
        return f"task {name} takes {options}, not {f'--{kind}' if kind else 'images alone'}"
    if kind:
        return f"the checkpoint was trained for {trained}, not for {TRAIN[kind]}; train one with task={TRAIN[kind]}"
    return f"the checkpoint was trained for {trained}; give {options}"


def check_images(task: Task, number: int) -> None:
    """Raises ValueError if images are missing, or come with a task that reads none."""
    reads = not isinstance(task, Tagging) or task.with_image
    if reads and not number:
        raise ValueError(f"task {task.name} is about an image; give one or more")
    if number and not reads:
        raise ValueError(f"task {task.name} was trained without images; leave them out")
