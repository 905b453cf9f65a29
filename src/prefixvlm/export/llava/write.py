"""Writes a checkpoint as a folder of LlavaForConditionalGeneration."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration

from prefixvlm.atomic import replacing_folder
from prefixvlm.build import build_merged, rebuild
from prefixvlm.checkpoint.hub_folder import find
from prefixvlm.checkpoint.local_parts import locate, naming_places
from prefixvlm.export.llava.chat_template import chat_template, prompts_of
from prefixvlm.export.llava.check import check_folder, reads_as_trained
from prefixvlm.export.llava.language_model import text_model
from prefixvlm.export.llava.processor import llava_processor
from prefixvlm.export.llava.projector import projector
from prefixvlm.export.llava.vision_tower import vision_tower
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.lm.saving import save_pretrained
from prefixvlm.precision import dtype_of
from prefixvlm.task.interface import Task
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load


def write_llava(checkpoint: Path, out: Path, dtype: str = "float32") -> str:
    """Write the new folder `out` for AutoModelForImageTextToText and AutoProcessor, and return lines about it.

    dtype: of its weights. Raises ValueError for a part that LLaVA cannot express, or if the folder does not compute
    what the checkpoint does.
    """
    module = read_float32(checkpoint)
    model, collate, tasks = module.model, module.collate, _tasks(module.tasks)
    tower = vision_tower(model.encoder)
    activation, mapped = projector(model.mapper, tower.scale)
    text = text_model(model.lm)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text.config,
        image_token_index=text.image_id,
        image_seq_length=model.encoder.num_features,
        projector_hidden_act=activation,
        vision_feature_layer=tower.layers,
        vision_feature_select_strategy="default" if tower.has_class_token else "full",
        tie_word_embeddings=text.config.tie_word_embeddings,
    )
    parts = {"vision_tower": tower.state, "multi_modal_projector": mapped, "language_model": text.state}
    state = {f"model.{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}
    exported = _assembled(config, {**state, "lm_head.weight": text.head}, dtype_of("--dtype", dtype))
    exported.generation_config, notes = _generation_config(tasks, model.lm)
    if tower.scale > 1:
        notes.append("its encoder ends with a norm that overflows in float16: use it in float32 or bfloat16")
    for space in ("", " "):
        template = chat_template(prompts_of(tasks, collate, space))
        processor = llava_processor(model.encoder.transform, tower, model.lm.tokenizer, template)
        if reads_as_trained(processor, collate, tasks):
            break
    with replacing_folder(out) as folder:
        save_pretrained(exported, processor, folder)
        return "\n".join([check_folder(folder, module, tasks, dtype), *notes])


def read_float32(checkpoint: Path) -> Any:
    """Return the module of a checkpoint in float32, with merged tuning."""
    path = find(checkpoint)
    content = load(path)
    config = locate(content[KEY]["config"], path)
    for axis in ("encoder", "lm"):
        if axis == "lm" or "dtype" in (config.get(axis) or ()):  # whose defaults are auto and float32
            config[axis] = {**(config.get(axis) or {}), "dtype": "float32"}
    with naming_places(config, path):
        if config.get("tune"):
            return build_merged({**content, KEY: {**content[KEY], "config": config}}).eval()
        return rebuild(config, content).eval()


def _tasks(tasks: dict[str, Task]) -> dict[str, Task]:
    """Return the tasks that answer questions and that caption, by "question" and "caption", as far as there are any."""
    text = [task for task in tasks.values() if not task.has_head and task.reads_image]
    found = {}
    for name, takes, preferred in (("caption", "image", "captioning"), ("question", "question", "vqa")):
        fitting = {task.name: task for task in text if task.takes == takes}
        if fitting:
            found[name] = fitting.get(preferred) or next(iter(fitting.values()))
    if not found:
        raise ValueError(
            f"the checkpoint was trained for {', '.join(tasks)}, and LLaVA generates captions and answers to questions"
        )
    return found


def _assembled(config: LlavaConfig, state: dict[str, Tensor], dtype: torch.dtype) -> LlavaForConditionalGeneration:
    """Return the model of a configuration with these tensors. Raises ValueError for one too much or too few."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    wanted = set(model.state_dict())
    if different := sorted(wanted ^ state.keys()):
        first = different[0]
        what = "lacks" if first in wanted else "has"
        raise ValueError(f"the checkpoint {what} {first.removeprefix('model.')}, other than its LLaVA would")
    cast = {name: value.detach().to(dtype).contiguous() for name, value in state.items()}
    if config.tie_word_embeddings:
        cast["lm_head.weight"] = cast["model.language_model.embed_tokens.weight"]
    model.load_state_dict(cast, assign=True)
    model.config.dtype = dtype
    return model.eval()


def _generation_config(tasks: dict[str, Task], lm: LanguageModel) -> tuple[GenerationConfig, list[str]]:
    """Return the decoding options of the task that captions, or else answers, and what they leave out."""
    task = next(iter(tasks.values()))
    options, notes = dict(task.decoding), list[str]()
    method, stop = options.pop("method"), options.pop("stop")
    if stop:
        notes.append(f"transformers does not end a text before {' or '.join(map(repr, stop))}: cut it there")
    if method not in ("greedy", "beam", "nucleus"):
        notes.append(f"generation_config.json has greedy decoding, as transformers has no {method}")
        options = {"max_new_tokens": options["max_new_tokens"]}
    if method == "beam":
        options = {"num_beams": 5, "length_penalty": 1.0, "early_stopping": False, **options}
    options.pop("seed", None)
    closed = [each.name for each in tasks.values() if getattr(each, "closed_set", None)]
    if closed:
        notes.append(f"task {closed[0]} answers from a closed list, and the exported model with any text")
    if getattr(task, "consensus", None):
        notes.append("the exported model gives the likeliest beam, without the consensus")
    ids = {"eos_token_id": lm.eos_id, "pad_token_id": lm.pad_id}
    return GenerationConfig(do_sample=method == "nucleus", **ids, **options), notes
