"""Checks that an exported LLaVA folder reads prompts and computes logits as the checkpoint does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from prefixvlm.batch import IMAGE_ID, Row
from prefixvlm.data.sample import BLACK_IMAGE
from prefixvlm.export.llava.language_model import IMAGE_TOKEN
from prefixvlm.task.interface import Task

TOLERANCE = 1e-3  # of the logits of a float32 folder, relative to the largest; mistakes change them by more
QUESTION = "what is this?"


def reads_as_trained(processor: Any, collate: Any, tasks: Mapping[str, Task]) -> bool:
    """Return whether the processor gives the token ids of the tasks' prompts."""
    for task in tasks.values():
        asked, row = prompt_of_task(task, BLACK_IMAGE)
        (text,) = processor.apply_chat_template([[message(BLACK_IMAGE, *asked)]])
        text = text.replace(IMAGE_TOKEN, IMAGE_TOKEN * collate.prefix_length)
        ids = [IMAGE_ID if id == processor.image_token_id else id for id in processor.tokenizer(text).input_ids]
        if ids != collate.tokenize(row, False).ids:
            return False
    return True


@torch.no_grad()
def check_folder(folder: Path, module: Any, tasks: Mapping[str, Task], dtype: str) -> str:
    """Return what was compared. Raises ValueError if prompts are tokenized otherwise, or if float32 logits differ."""
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    if not reads_as_trained(processor, module.collate, tasks):
        raise ValueError(
            f"the tokenizer of the language model, {type(module.model.lm.tokenizer).__name__}, reads a prompt after an "
            "image token otherwise than in training, so LLaVA cannot express it"
        )
    exported = AutoModelForImageTextToText.from_pretrained(folder).eval()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((320, 320), Image.Resampling.BICUBIC)
    model, largest, pixels = module.model, 0.0, 0.0
    for task in tasks.values():
        asked, row = prompt_of_task(task, image)
        batch = module.collate([row], False)
        inputs = processor.apply_chat_template(
            [message(image, *asked)], tokenize=True, return_dict=True, return_tensors="pt"
        )
        pixel_values = model.encoder.normalized(batch.pixel_values)
        pixels = max(pixels, (inputs["pixel_values"] - pixel_values).abs().max().item())
        inputs["pixel_values"] = pixel_values.to(exported.dtype)
        places = torch.arange(batch.input_ids.shape[1])[None]
        ours = model.lm.logits(model.lm.hidden(model.inputs_embeds(batch), batch.attention_mask, places))
        theirs = exported(**inputs).logits[..., : ours.shape[-1]].float()
        difference = (ours - theirs).abs().max().item()
        if dtype == "float32" and not difference <= TOLERANCE * ours.abs().max():  # also for NaN
            raise ValueError(
                f"the logits of the folder differ from the checkpoint's by {difference:.2g}: please report it"
            )
        largest = max(largest, difference)
    compared = f"differ from the checkpoint's by at most {largest:.1e}, and pixel values by {pixels:.1e}"
    return f"a LLaVA for transformers; on an image of noise its logits {compared}"


def prompt_of_task(task: Task, image: Image.Image) -> tuple[tuple[str, ...], Row]:
    """Return what a user asks a task, and its row."""
    asked = (QUESTION,) if task.takes == "question" else ()
    return asked, task.prompt_rows(task.request("", image, asked))[0]


def message(image: Image.Image, *texts: str) -> dict[str, Any]:
    """Return a message of a user for the processor's chat template."""
    parts = [{"type": "image", "image": image}, *({"type": "text", "text": text} for text in texts)]
    return {"role": "user", "content": parts}
