"""What a runtime needs beside the graphs, as plain JSON: the image transform, prompts as token ids, and the cache."""

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize

from prefixvlm.batch import IMAGE_ID
from prefixvlm.data.collate import Collator
from prefixvlm.data.image import ImageDecoder
from prefixvlm.data.sample import BLACK_IMAGE
from prefixvlm.data.tokenization import token_ids
from prefixvlm.encoder.transforms import is_conversion
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.interface import Task
from prefixvlm.task.vqa import Vqa

PROBES = ("is it?", "what colour is the small shape?", "A")  # questions that show where in the ids the text stands
RESAMPLING = {"nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"}


def describe_transform(transform: Any, decoder: ImageDecoder) -> dict[str, Any]:
    """Return the steps of an encoder's transform for PIL and numpy. Raises ValueError for another step."""
    steps: list[dict[str, Any]] = []
    norm: Normalize | None = None
    for step in transform.transforms if isinstance(transform, Compose) else [transform]:
        if isinstance(step, Resize) and step.max_size is None and step.interpolation.value in RESAMPLING:
            size = step.size if isinstance(step.size, int) else list(step.size)
            size = size[0] if isinstance(size, list) and len(size) == 1 else size
            steps.append({"resize": size, "interpolation": step.interpolation.value})
        elif isinstance(step, CenterCrop):
            steps.append({"center_crop": [int(side) for side in step.size]})
        elif isinstance(step, Normalize) and norm is None:
            norm = step
        elif not is_conversion(step):
            raise ValueError(
                f"the encoder's transform has the step {type(step).__name__}, and resize, center crop and "
                "normalization can be described; export --to hub"
            )
    if norm is None:
        raise ValueError("the encoder's transform does not normalize pixels; export --to hub")
    mean, std = ([float(value) for value in values] for values in (norm.mean, norm.std))
    return {
        "steps": steps, "mean": mean, "std": std, "background": decoder.background, "max_pixels": decoder.max_pixels
    }  # fmt: skip


def describe_tasks(tasks: Mapping[str, Task], collate: Collator) -> dict[str, Any]:
    """Return prompts and decoding of the tasks that generate texts about one image.

    Raises ValueError if there are none.
    """
    described = {name: _describe(task, collate) for name, task in tasks.items() if _generates(task)}
    if not described:
        raise ValueError(
            f"the checkpoint was trained for {', '.join(tasks)}, and the graphs are of captioning, and of vqa without "
            "a closed set of answers; export --to hub"
        )
    return described


def _generates(task: Task) -> bool:
    return type(task) is Captioning or (type(task) is Vqa and task.closed_set is None)


def _describe(task: Task, collate: Collator) -> dict[str, Any]:
    options = {name: task.decoding[name] for name in ("method", "max_new_tokens", "stop")}
    if isinstance(task, Vqa):
        text = task.prompt
        found = {
            tuple(map(str, _parts(collate, task, text.replace("{question}", probe), probe))): probe for probe in PROBES
        }
        if len(found) != 1:
            raise ValueError(f"the tokens around a question of task {task.name} depend on it; export --to hub")
        parts = _parts(collate, task, text.replace("{question}", PROBES[0]), PROBES[0])
        return {"parts": [{"text": text} if "text" in part else part for part in parts], "decoding": options}
    return {"parts": _parts(collate, task), "decoding": options}


def _parts(collate: Collator, task: Task, text: str | None = None, question: str = "") -> list[dict[str, Any]]:
    """Return the prompt as parts: {ids: [...]}, {image: true}, and {text: ""} where the ids of `text` stand."""
    (row,) = task.prompt_rows(task.request("", BLACK_IMAGE, (question,) if text is not None else ()))
    ids = collate.tokenize(row, supervised=False).ids
    start = ids.index(IMAGE_ID)
    end = start + collate.prefix_length
    assert ids.count(IMAGE_ID) == collate.prefix_length, "the tasks have one image"
    after: list[dict[str, Any]] = [{"ids": ids[end:]}]
    if text is not None:
        own = token_ids(collate.tokenizer, text)
        places = [n for n in range(end, len(ids)) if ids[n : n + len(own)] == own]
        if not places:
            raise ValueError(f"the question of task {task.name} is not tokenized alone; export --to hub")
        after = [{"ids": ids[end : places[0]]}, {"text": ""}, {"ids": ids[places[0] + len(own) :]}]
    parts: list[dict[str, Any]] = [{"ids": ids[:start]}, {"image": True}, *after]
    return [part for part in parts if part.get("ids") != []]


def fast_tokenizer(tokenizer: Any) -> Tokenizer:
    """Return the tokenizer for the library tokenizers, without padding. Raises ValueError if it has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or getattr(tokenizer, "clean_up_tokenization_spaces", False):
        raise ValueError(f"lm has the tokenizer {type(tokenizer).__name__}, which tokenizer.json cannot hold")
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy
