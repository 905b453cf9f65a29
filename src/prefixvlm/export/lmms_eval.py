"""A checkpoint as a model of lmms-eval, which finds it by the entry point lmms_eval.models: --model prefixvlm."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from prefixvlm.batch import IGNORE_INDEX, Row
from prefixvlm.data.sample import BLACK_IMAGE
from prefixvlm.inference.captioner import Captioner
from prefixvlm.inference.images import to_image
from prefixvlm.model.generation import generate
from prefixvlm.task.rows.few_shot import join_texts

PLACE = "\ue000"  # of a question: a private-use character, which no prompt contains
PROMPTS = ("question", "caption", "plain")


def manifest() -> Any:
    """Return the entry of this model in the registry of lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("prefixvlm", simple_class_path=f"{__name__}.PrefixVLM")


class Likelihood(tuple, GenerationResult):
    """(negative log-likelihood, whether the text is greedy)."""

    # lmms-eval 0.7.3 turns what a model returns into a str, tuples of numbers too, and its scores of multiple-choice
    # benchmarks then fail; it takes `text` of a GenerationResult as it is (api/instance.py, unwrap_generation_output).


class PrefixVLM(lmms):
    """A checkpoint for lmms-eval 0.7.

    pretrained: a checkpoint file, a folder of `export --to hub` or a hub id. device, dtype: see prefixvlm.load.
    prompt: "question" puts the text of a benchmark into the checkpoint's prompt for questions, "caption" leaves it out,
    "plain" takes it as it is. The default is "question" for a checkpoint that answers questions, else "plain".
    Raises ValueError for options that are not accepted.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        device: str = "auto",
        dtype: str | None = None,
        batch_size: int | str = 1,
        prompt: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        unknown = sorted(name for name in options if name != "max_batch_size")  # which lmms-eval passes to each model
        if unknown or prompt not in (None, *PROMPTS):
            wrong = f"{unknown[0]}={options[unknown[0]]}" if unknown else f"prompt={prompt}"
            raise ValueError(
                f"--model_args has {wrong}; accepted are pretrained, device, dtype, batch_size and prompt, which is "
                f"{', '.join(PROMPTS)}"
            )
        self.captioner = Captioner(str(pretrained), str(device), dtype)
        self.device = self.captioner.module.device
        self.batch_size = 64 if batch_size == "auto" else int(batch_size)
        tasks = self.captioner.module.tasks
        prompt = prompt or ("question" if any(task.takes == "question" for task in tasks.values()) else "plain")
        takes = {"question": "question", "caption": "image"}.get(prompt)
        self.task = next((task for task in tasks.values() if task.takes == takes and not task.has_head), None)
        if takes and self.task is None:
            raise ValueError(f"--model_args has prompt={prompt}, but the checkpoint was trained for {', '.join(tasks)}")

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the generated texts.

        Arguments of a request: (context, options, doc_to_visual, doc id, task, split).
        """
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(number)
        texts = [""] * len(requests)
        for batch in self._batches(groups.values()):
            prompts = [self._prompt(request.args[0], request.args[2:]) for request in (requests[i] for i in batch)]
            decoding = decoding_of(requests[batch[0]].args[1], self._room(prompts))
            for number, text in zip(batch, generated(self.captioner, prompts, decoding), strict=True):
                texts[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, texts[number])
        return texts

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return the negative log-likelihood of each continuation, and whether it is the greedy text.

        Arguments of a request: (context, continuation or doc_to_target, doc_to_visual, doc id, task, split), or a
        context and a continuation alone.
        """
        # The interface asks for the log-likelihood, but lmms-eval 0.7 takes the choice with the least value as the
        # answer, because its own models return a loss (api/task.py, process_results).
        found: list[tuple[float, bool]] = []
        for batch in self._batches([list(range(len(requests)))]):
            prompts, texts = [], []
            for request in (requests[number] for number in batch):
                context, text, *document = request.args
                prompts.append(self._prompt(context, document))
                texts.append(text if isinstance(text, str) else str(text(self._document(*document[1:]))))
            found += [Likelihood((-value, greedy)) for value, greedy in log_likelihoods(self.captioner, prompts, texts)]
        return found

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise ValueError("prefixvlm answers benchmarks of one round; choose other --tasks")

    def _prompt(self, context: str, document: Sequence[Any]) -> list[Any]:
        """Return the images and texts of a prompt. document: doc_to_visual, doc id, task, split; empty for no image."""
        images = list(document[0](self._document(*document[1:])) or ()) if document else []
        if other := [each for each in images if not isinstance(each, Image.Image)]:
            raise ValueError(f"the benchmark shows a {type(other[0]).__name__}, and prefixvlm reads images alone")
        if self.task is None:
            return [*images, context or "\n"]  # a likelihood needs a token before it
        (row, *_) = self.task.prompt_rows(self.task.request("", BLACK_IMAGE, (PLACE,)))
        return [*images, row.text.replace(PLACE, context.strip())]

    def _document(self, number: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][number]

    def _batches(self, groups: Any) -> Iterator[list[int]]:
        batches = [group[i : i + self.batch_size] for group in groups for i in range(0, len(group), self.batch_size)]
        yield from tqdm(batches, unit=" batches", disable=self.rank != 0 or None)

    def _room(self, prompts: Sequence[Sequence[Any]]) -> int | None:
        """Return how many tokens the language model can still read after the longest prompt; None for any number."""
        limit, collate = self.captioner.module.model.lm.max_positions, self.captioner.module.collate
        if limit is None:
            return None
        return limit - max(len(collate.tokenize(row, False).ids) for row in rows_of(self.captioner, prompts))


def decoding_of(options: dict[str, Any], room: int | None) -> dict[str, Any]:
    """Return our decoding options for those of a benchmark, which are named as in transformers.

    room: the most new tokens that fit. Options that concern images or caches are left out.
    """
    until = options.get("until", [])
    number = int(options.get("max_new_tokens") or options.get("max_gen_toks") or 128)
    decoding: dict[str, Any] = {
        "max_new_tokens": number if room is None else max(1, min(number, room)),
        "stop": [text for text in ([until] if isinstance(until, str) else until) if text],
    }
    temperature, beams = float(options.get("temperature") or 0), int(options.get("num_beams") or 1)
    if options.get("do_sample", temperature > 0) and temperature > 0:
        return {**decoding, "method": "nucleus", "temperature": temperature, "top_p": float(options.get("top_p") or 1)}
    return {**decoding, "method": "beam", "num_beams": beams} if beams > 1 else {**decoding, "method": "greedy"}


def rows_of(captioner: Captioner, prompts: Sequence[Sequence[Any]]) -> list[Row]:
    """Return a row for each prompt of images and texts."""
    images = [
        [part if isinstance(part, str) else to_image(part, captioner.decoder) for part in each] for each in prompts
    ]
    return [Row(tuple(join_texts(parts)), id=str(number)) for number, parts in enumerate(images)]


def generated(captioner: Captioner, prompts: Sequence[Sequence[Any]], decoding: dict[str, Any]) -> list[str]:
    """Return the text after each prompt. decoding: the options of a task."""
    module = captioner.module
    batch = module.collate(rows_of(captioner, prompts), False).to(module.device)
    texts = generate(module.model, batch, decoding)
    # Rows of the same input are computed once.
    found = {row.id: text for rows, text in zip(batch.rows, texts, strict=True) for row in rows}
    return [found[str(number)] for number in range(len(prompts))]


@torch.no_grad()
def log_likelihoods(
    captioner: Captioner, prompts: Sequence[Sequence[Any]], texts: Sequence[str]
) -> list[tuple[float, bool]]:
    """Return the log-likelihood of a text, without EOS, after each prompt, and whether it is the greedy text."""
    model = captioner.module.model
    rows = [replace(row, target=text) for row, text in zip(rows_of(captioner, prompts), texts, strict=True)]
    batch = captioner.batch(rows, supervised=True)
    states, targets = model.lm.supervised_states(model.inputs_embeds(batch), batch.attention_mask, batch.labels)
    logits: Tensor = model.lm.logits(states)
    values = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    lengths = (batch.labels != IGNORE_INDEX).sum(1).tolist()
    found = []
    for own, ids, best in zip(*(each.split(lengths) for each in (values, targets, logits.argmax(-1))), strict=True):
        end = len(ids) - int(len(ids) > 0 and ids[-1].item() == model.lm.eos_id)
        found.append((own[:end].sum().item(), bool(torch.equal(ids[:end], best[:end]))))
    return found
