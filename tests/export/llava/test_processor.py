"""The processor of an exported LLaVA: pixel values and prompts."""

import numpy as np
import pytest
import torch
from jinja2 import Template, UndefinedError
from PIL import Image, ImageOps
from torchvision.transforms import Compose
from transformers import CLIPImageProcessor, CLIPImageProcessorPil

from prefixvlm.encoder.transforms import open_clip_transform, timm_transform
from prefixvlm.export.llava.chat_template import Prompt, chat_template
from prefixvlm.export.llava.processor import image_options

SHORTEST = open_clip_transform({"size": 64})
TRANSFORMS = {
    "shortest": SHORTEST,
    "squash": open_clip_transform({"size": 64, "resize_mode": "squash", "interpolation": "bilinear", "mean": 0.5}),
    "timm": timm_transform({"input_size": (3, 64, 64), "interpolation": "bicubic", "crop_pct": 0.875}),
}


def picture(width, height):
    noise = np.random.default_rng(width).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", [(70, 50), (64, 64), (40, 90), (640, 480)])
def test_pixel_values_are_those_of_the_encoder(name, size):
    options, image = image_options(TRANSFORMS[name]), picture(*size)
    expected = TRANSFORMS[name](image)
    (exact,) = CLIPImageProcessorPil(**options)(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(exact, expected, atol=1e-6, rtol=0)
    # The default of AutoProcessor resizes by torchvision, which rounds some values to a neighbouring one of 256.
    (close,) = CLIPImageProcessor(**options)(image, return_tensors="pt").pixel_values
    assert (close - expected).abs().max() < 2.5 / 255 / min(options["image_std"])
    assert ((close - expected).abs() > 1e-4).float().mean() < 0.15


def test_an_odd_margin_is_cut_off_one_pixel_beside_ours():
    """The one exact difference: of a margin that is 3 more than a multiple of 4, a pixel more is cut at its end."""
    image = picture(90, 224)  # 64 x 159, so that 95 rows are cut off
    options = image_options(SHORTEST)
    (values,) = CLIPImageProcessorPil(**options)(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(values[:, 1:], SHORTEST(image)[:, :-1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("next_turn", [None, " WANTED Q:"])
def test_prompts_of_any_words_are_kept(next_turn):
    prompt = Prompt("IMAGE PROMPTS ", ' null "é" {{x}} %} \n', " WANTED null", "", next_turn)
    template = Template(chat_template({"question": prompt, "caption": prompt}))
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "IMAGE?"}]}
    first = 'IMAGE PROMPTS <image> null "é" {{x}} %} \nIMAGE? WANTED null'
    assert template.render(messages=[asked]) == first
    messages = [asked, {"role": "assistant", "content": "null"}, {"role": "user", "content": "and?"}]
    if next_turn:
        assert template.render(messages=messages) == f"{first}null WANTED Q:and? WANTED null"
    else:
        with pytest.raises(UndefinedError, match="raise_exception"):  # a function of transformers
            template.render(messages=messages)


def test_a_transform_of_other_steps_is_refused():
    with pytest.raises(ValueError, match="the encoder's transform has the step ResizeKeepRatio"):
        image_options(open_clip_transform({"size": 64, "resize_mode": "longest"}))
    with pytest.raises(ValueError, match="has the step <function invert"):
        image_options(Compose([ImageOps.invert, *SHORTEST.transforms]))
