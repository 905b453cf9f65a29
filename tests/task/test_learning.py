"""Each task learns on easy-VQA within seconds: its scores are better than constant or blind predictions."""

import random
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from prefixvlm.data.sample import decode
from prefixvlm.data.schema import Tagged
from prefixvlm.data.sources import easy_vqa
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.mapper.mlp import MLPMapper
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.classification import Classification
from prefixvlm.task.classification_head import ClassificationHead
from prefixvlm.task.contrastive import Contrastive
from prefixvlm.task.detection import Detection
from prefixvlm.task.dialogue import Dialogue
from prefixvlm.task.grounding import Grounding
from prefixvlm.task.interface import Task
from prefixvlm.task.regression import Regression
from prefixvlm.task.rows.loader_rows import PromptRows, TrainingRows
from prefixvlm.task.tagging import Tagging
from tests.conftest import collator_of, tiny_lm

SHAPES, COLOURS = list(easy_vqa.SHAPES), list(easy_vqa.COLOURS)


class Thumbnail(ImageEncoder):
    """12 x 12 pixels: enough for the colour and position of a shape."""

    feature_width, num_features = 432, 1

    @staticmethod
    def transform(image: Image.Image) -> Tensor:
        small = image.resize((12, 12), Image.Resampling.BOX)
        return torch.tensor(list(small.tobytes())).view(12, 12, 3).permute(2, 0, 1) / 127.5 - 1

    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values.flatten(1)[:, None]


@lru_cache
def samples(split: str, number: int) -> list:
    found = []
    for key, members in easy_vqa.samples(split):
        found.append(decode(key, {"png": members["png"].read_bytes(), "json": members["json"]}, "x"))
        if len(found) == number:
            break
    return found


def trained(task: Task, steps: int, tuned: bool = False, lr: float = 3e-3, of=samples) -> PrefixLM:
    """Train a mapper for a small random Llama on 1,500 images. tuned: train the Llama too."""
    torch.manual_seed(0)
    lm = tiny_lm("llama")
    heads = {task.name: head} if (head := task.head(lm.state_width, lm.width, 432)) is not None else {}
    mapper = MLPMapper(432, 1, lm.width, prefix_length=4, hidden_ratio=2.0, activation="gelu", output_std=1.0)
    model = PrefixLM(Thumbnail(), mapper, lm, heads)
    lm.requires_grad_(tuned)
    rows = TrainingRows({task.name: task}, collator_of(model))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr)
    rng, chosen = random.Random(0), of("train", 1500)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(steps):
        task.losses(model, rows(rng.sample(chosen, 64), rng)).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


def scored(task: Task, model: PrefixLM, blind: bool = False, of=samples) -> dict:
    prompts = PromptRows(task, collator_of(model))
    asked = of("test", 300)
    if blind:
        black = Image.new("RGB", (8, 8))
        asked = [replace(each, image=black) for each in asked]
    predictions = task.finalize(task.predict(model, prompts(asked, random.Random(0))))
    return task.report(predictions)


def compared(task: Task, steps: int, **options) -> tuple[dict, dict]:
    """Return the scores with the images and with black ones."""
    model, of = trained(task, steps, **options), options.get("of", samples)
    return scored(task, model, of=of), scored(task, model, blind=True, of=of)


def test_colours_are_classified():
    seen, blind = compared(ClassificationHead(COLOURS, "color"), 150, tuned=True)
    assert seen["scores"]["accuracy"] > 45 > 30 > blind["scores"]["accuracy"]
    assert set(seen["classes"]) == {*COLOURS, "averages"}


def test_two_classes_are_one_number():
    task = ClassificationHead(["rectangle", "triangle"], "shape", class_weights={"rectangle": 2.0})
    assert task.head(32, 32, 8).outputs[-1].out_features == 1
    with pytest.raises(ValueError, match="is of class 'circle'; add it"):
        [task.prompt_rows(each) for each in samples("test", 300)]


def test_several_classes_are_true_at_once():
    seen, blind = compared(ClassificationHead([*COLOURS, *SHAPES], "seen", multi_label=True), 200, tuned=True)
    assert seen["scores"]["micro_f1"] > blind["scores"]["micro_f1"] + 8
    assert set(seen["classes"]) <= {*COLOURS, *SHAPES, "averages"}


def test_an_area_is_estimated():
    seen, blind = compared(Regression("area", 0.097, 0.057), 250)
    assert seen["scores"]["r2"] > 0.5 > 0.1 > blind["scores"]["r2"]
    assert seen["scores"]["mae"] < 0.7 * seen["scores"]["mae_of_the_mean"]


def test_words_are_tagged_where_they_are_seen():
    seen, blind = compared(Tagging(["O", "B-SEEN", "I-SEEN"]), 250, tuned=True)
    assert seen["scores"]["span_f1"] > blind["scores"]["span_f1"] + 8
    assert {"B-SEEN", "I-SEEN", "O"} <= set(seen["classes"])


def test_a_shape_is_grounded():
    seen, blind = compared(Grounding("{phrase}", bins=10), 300, tuned=True)
    assert seen["scores"]["mean_overlap"] > blind["scores"]["mean_overlap"] + 15


def test_shapes_are_detected():
    seen, blind = compared(Detection(SHAPES, "", max_boxes=2, bins=10), 300, tuned=True)
    assert seen["scores"]["f1_50"] > blind["scores"]["f1_50"] + 10
    assert seen["scores"]["map_50"] > blind["scores"]["map_50"]


def test_captions_find_their_images():
    seen, blind = compared(Contrastive(32), 200, tuned=True)
    assert seen["scores"]["text_to_image_recall_1"] > 15
    assert blind["scores"]["text_to_image_recall_1"] == 0  # all black images tie, and ties count as errors


def test_a_dialogue_is_answered():
    seen, blind = compared(Dialogue("{question}", turns=2), 80, tuned=True)
    assert seen["scores"]["accuracy"] > blind["scores"]["accuracy"] + 3


def test_a_shape_is_one_of_two():
    def of_two(split, number):
        return [each for each in samples(split, number) if each.labels.get("shape") in ("rectangle", "triangle")]

    task = ClassificationHead(["rectangle", "triangle"], "shape", hidden_width=16)
    model = trained(task, 200, tuned=True, of=of_two)
    seen, blind = scored(task, model, of=of_two), scored(task, model, blind=True, of=of_two)
    assert seen["scores"]["accuracy"] > 62 > blind["scores"]["accuracy"]
    assert seen["scores"]["roc_auc"] > 65


def test_classes_are_ranked_as_text():
    seen, blind = compared(
        Classification(["red", "green", "blue", "black"], "color", [""]), 150, tuned=True, of=of_colours
    )
    assert seen["scores"]["accuracy"] > 50 > 35 > blind["scores"]["accuracy"]


def of_colours(split, number):
    return [each for each in samples(split, number) if each.labels.get("color") in ("red", "green", "blue", "black")]


def test_words_are_tagged_in_texts_alone():
    """The tagged colours are at different positions in the captions, and no image is read."""

    def of_words(split, number):
        found = []
        for each in samples(split, number):
            words = tuple(each.captions[0].split())
            tags = tuple("B-COLOUR" if word in COLOURS else "O" for word in words)
            found.append(replace(each, tagged=(Tagged(words, tags),)))
        return found

    task = Tagging(["O", "B-COLOUR"], with_image=False)
    seen = scored(task, trained(task, 60, tuned=True, of=of_words), of=of_words)
    assert seen["scores"]["span_f1"] > 90  # O for every word has a score of 0
