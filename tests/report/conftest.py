"""A small evaluation result, as from eval.py, with HTML in its texts."""

from io import BytesIO
from typing import Any

import pytest
from PIL import Image

EVIL = "<script>alert('x')</script> & \"q\" $a_{b$ \U0001f600 \u72ac"


def line(task: str, key: str, prediction: str, reference: str, **more: Any) -> dict[str, Any]:
    correct = prediction == reference
    entry = {"task": task, "key": key, "id": f"{task}/{key}", "prompt": "", "prediction": prediction}
    return entry | {"references": [reference], "correct": correct, "blind_prediction": "no"} | more


@pytest.fixture
def predictions() -> list[dict[str, Any]]:
    """Return captions of 40 images, ten of them wrong, and three questions each, one wrong on every second image."""
    lines = [line("captioning", f"k{i}", "a red circle" if i >= 10 else EVIL, "a red circle") for i in range(40)]
    for i in range(40):
        for n in range(3):
            guess = EVIL if n == 0 and i % 2 else "yes"
            question = f"Question: is it {('red', 'blue', EVIL)[n]}? Answer:"
            lines.append(line("vqa", f"k{i}", guess, "yes", prompt=question, id=f"vqa/{i}/{n}"))
    return lines


@pytest.fixture
def result() -> dict[str, Any]:
    decoding = {"method": "greedy", "max_new_tokens": 8}
    common = {"num_images": 40, "num_unscored": 0, "prompt": None, "decoding": decoding, "variant": EVIL}
    return {
        "checkpoint": f"outputs/{EVIL}/best.ckpt",
        "date": "2025-01-02 03:04 UTC",
        "tasks": {
            "captioning": {
                "scores": {"exact_match": 75.0, "cider": 0.5},
                "digits": {"exact_match": 2, "cider": 3},
                "blind": {"exact_match": 80.5, "cider": 0.25},
                "intervals": {"exact_match": [60.0, 88.0]},
                "num_items": 40,
                **common,
            },
            "vqa": {"scores": {"accuracy": 83.333}, "blind": None, "num_items": 12000, **common},
        },
        "model": {
            "encoder": {"_target_": "prefixvlm.encoder.openclip.OpenClipEncoder", "features": EVIL},
            "mapper": {"_target_": "prefixvlm.mapper.mlp.MLPMapper", "prefix_length": 10},
            "lm": {"name": "tiny"},
            "trained_parameters": 1000,
            "frozen_parameters": 9000,
        },
        "config": {"seed": 1, "note": EVIL},
        "versions": {"torch": "2"},
        "seed": 1,
        "seconds": {"evaluate": 1.5},
        "evaluation": {"few_shot": {"shots": 0, "choice": "random", "induction": ""}, "trials": 1, "benchmark": None},
        "config_hash": "0123456789abcdef",
        "clip_scorer": None,
    }


@pytest.fixture
def examples() -> list[dict[str, Any]]:
    """Return captions of two images and a question at nine validations; the answer is right from the fifth on."""
    lines = []
    for step in range(100, 1000, 100):
        said = "a red circle" if step >= 500 else EVIL
        lines += [line("captioning", f"v{i}", said, "a red circle") | {"step": step} for i in range(2)]
        question = f"Question: is it {EVIL}? Answer:"
        lines.append(line("vqa", "v0", f"answer {step}", "yes", prompt=question) | {"step": step})
    return lines


@pytest.fixture
def history() -> list[dict[str, Any]]:
    entries = [{"step": step, "name": "train/loss", "value": 3 / (step + 1)} for step in range(600)]
    entries += [{"step": step, "name": "val/loss", "value": 2.0} for step in (0, 300, 599)]
    entries += [{"step": step, "name": "lr-AdamW", "value": 1e-3} for step in range(3)]
    entries += [{"step": step, "name": "lr-AdamW/pg2", "value": 1e-4} for step in range(3)]
    return [
        *entries,
        {"step": 5, "name": f"train/{EVIL}", "value": 1.0},
        {"step": 6, "name": "x", "value": float("nan")},
    ]


@pytest.fixture
def png() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    return buffer.getvalue()
