"""Predictor with a small CLIP and GPT-2 that are rebuilt from local folders."""

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from prefixvlm.build import build_module
from prefixvlm.data.sample import Question, Sample
from prefixvlm.inference.captioner import Captioner
from prefixvlm.inference.request import Request
from prefixvlm.task.detection import Detection
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO
from tests.test_end_to_end import tiny_clip, tiny_gpt2

COLOURS = ("red", "green", "blue", "white")
TASKS = {
    "captioning": {
        "_target_": "prefixvlm.task.captioning.Captioning", "prompt": "Caption:", "decoding": {"max_new_tokens": 5}
    },
    "vqa": {"_target_": "prefixvlm.task.vqa.Vqa", "decoding": {"max_new_tokens": 5}},
    "head": {
        "_target_": "prefixvlm.task.classification_head.ClassificationHead", "classes": ["circle", "square", "dog"]
    },
    "names": {
        "_target_": "prefixvlm.task.classification.Classification", "classes": ["cat", "dog"], "prompts": ["This is"]
    },
    "detection": {
        "_target_": "prefixvlm.task.detection.Detection", "classes": ["a", "b"], "prompt": "", "max_boxes": 2,
    },
}  # fmt: skip


def write_checkpoint(folder, tasks=("captioning", "vqa"), gpt2=None, **lm):
    """Write folder/x.ckpt with random weights and return its module. gpt2: options of tiny_gpt2."""
    name = tiny_gpt2(folder / "gpt2", **(gpt2 or {}))
    cfg = {
        "seed": 5,
        "encoder": {
            "_target_": "prefixvlm.encoder.openclip.OpenClipEncoder",
            "model_name": f"local-dir:{tiny_clip(folder / 'clip')}",
        },
        "mapper": {"_target_": "prefixvlm.mapper.linear.LinearMapper", "prefix_length": 2},
        "lm": {
            "_target_": "prefixvlm.lm.causal.CausalLM.from_pretrained",
            "name": str(name),
            "dtype": "float32",
            **lm,
        },
        "task": {name: TASKS[name] for name in tasks},
        "module": {"_target_": "prefixvlm.training.module.PrefixModule"},
        "optim": {
            "_target_": "prefixvlm.training.optim.Optim",
            "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True},
            "lr": 0.001,
        },
    }
    torch.manual_seed(cfg["seed"])
    module = build_module(OmegaConf.create(cfg)).eval()
    with torch.no_grad():
        for parameter in module.model.mapper.parameters():
            parameter.normal_()  # nothing that a new mapper would have, and so large that each image counts
    checkpoint = {"state_dict": {}}
    module.on_save_checkpoint(checkpoint)
    AtomicCheckpointIO().save_checkpoint(checkpoint, folder / "x.ckpt")
    return module


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the module, its checkpoint, image files)"""
    folder = tmp_path_factory.mktemp("predictor")
    module = write_checkpoint(folder)
    for colour in COLOURS:
        image = Image.new("RGB", (70, 50), colour)
        image.paste((9, 99, 199), (0, 0, 20, 50))
        image.save(folder / f"{colour}.png")
    return module, folder / "x.ckpt", [folder / f"{colour}.png" for colour in COLOURS]


@pytest.fixture(scope="module")
def predictor(made):
    return Captioner(made[1])


def alone(module, task, path, question="is it?"):
    sample = Sample("k", Image.open(path).convert("RGB"), ("",), (Question("q", question, ("",)),))
    batch = module.collate(module.tasks[task].prompt_rows(sample), False)
    return module.tasks[task].predict(module.model, batch)[0].prediction


def test_captions_are_those_of_the_saved_module(made, predictor):
    module, _, paths = made
    captions = predictor.caption(paths)
    assert captions == [alone(module, "captioning", path) for path in paths]
    assert len(set(captions)) > 1


def test_texts_are_in_the_order_of_the_images_even_if_one_is_repeated(made, predictor):
    paths = made[2]
    captions = dict(zip(paths, predictor.caption(paths), strict=True))
    order = [paths[3], paths[0], paths[3], paths[1]]
    assert predictor.caption(order) == [captions[path] for path in order]


def test_a_question_is_answered_about_each_image(made, predictor):
    module, _, paths = made
    answers = predictor.answer(paths, "what {colour} is it?")
    assert answers == [alone(module, "vqa", path, "what {colour} is it?") for path in paths]
    assert answers != predictor.caption(paths)
    assert answers != predictor.answer(paths, "how many?")


def test_a_file_that_is_not_an_image_is_an_error_with_its_name(made, predictor, tmp_path):
    (tmp_path / "notes.png").write_text("these are notes")
    with pytest.raises(ValueError, match=r"notes\.png.*image does not decode"):
        predictor.caption([made[2][0], tmp_path / "notes.png"])
    with pytest.raises(OSError, match=r"absent\.png"):
        predictor.caption([tmp_path / "absent.png"])


def test_a_request_for_an_untrained_task_is_an_error(tmp_path, made):
    write_checkpoint(tmp_path, ["captioning"])
    predictor = Captioner(tmp_path / "x.ckpt")
    assert len(predictor.caption(made[2])) == 4
    with pytest.raises(ValueError, match=r"trained for captioning, not for vqa.*task=vqa"):
        predictor.answer(made[2], "what colour?")


def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path):
    (tmp_path / "x.ckpt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"x\.ckpt is not a checkpoint"):
        Captioner(tmp_path / "x.ckpt")


def test_a_random_language_model_is_drawn_as_it_was_in_training(tmp_path):
    module = write_checkpoint(tmp_path, weights="random")
    state = torch.random.get_rng_state()
    found = Captioner(tmp_path / "x.ckpt").module
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in module.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)


def test_rows_of_a_request_have_no_references():
    task = Detection(["a", "b"])
    assert task.prompt_rows(task.request("k", Image.new("RGB", (8, 8))))[0].references == ()


@pytest.mark.parametrize("option", ["questions", "phrases"])
def test_a_request_without_words_is_refused(option):
    with pytest.raises(ValueError, match=f"--{option[:-1]} has no words; give some"):
        _ = Request(**{option: ("what?", " ")}).takes
