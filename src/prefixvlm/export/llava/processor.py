"""The processor of an exported LLaVA: image processor, tokenizer and chat template."""

import copy
from typing import Any

from tokenizers.processors import TemplateProcessing
from torchvision.transforms import CenterCrop, InterpolationMode, Normalize, Resize
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from prefixvlm.encoder.transforms import is_conversion
from prefixvlm.export.llava.language_model import IMAGE_TOKEN
from prefixvlm.export.llava.vision_tower import VisionTower

RESAMPLE = {InterpolationMode.BICUBIC: 3, InterpolationMode.BILINEAR: 2, InterpolationMode.NEAREST: 0}  # Pillow's


def llava_processor(
    transform: Any, tower: VisionTower, tokenizer: PreTrainedTokenizerBase, template: str
) -> LlavaProcessor:
    """Return the processor. transform: that of the encoder.

    Raises ValueError for a transform that CLIPImageProcessor cannot express.
    """
    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    # The template spells the special tokens, because training puts BOS after a leading image.
    for name in ("add_bos_token", "add_eos_token"):
        if hasattr(own, name):
            setattr(own, name, False)
    if isinstance(own, PreTrainedTokenizerFast):
        own.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B")
    if own.pad_token is None:
        own.pad_token = own.eos_token
    # For batches of prompts in `generate`. Of the attributes only those in init_kwargs are saved.
    own.padding_side = own.init_kwargs["padding_side"] = "left"
    own.chat_template = None  # a processor has its own
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(**image_options(transform)),
        tokenizer=own,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy="default" if tower.has_class_token else "full",
        num_additional_image_tokens=int(tower.has_class_token),
        chat_template=template,
        image_token=IMAGE_TOKEN,
    )


def image_options(transform: Any) -> dict[str, Any]:
    """Return the options of CLIPImageProcessor for a transform of an encoder."""
    options: dict[str, Any] = {"do_center_crop": False}
    for step in transform.transforms:
        if type(step) is Resize and step.max_size is None and step.interpolation in RESAMPLE:
            sides = [step.size] if isinstance(step.size, int) else list(step.size)
            size = {"shortest_edge": sides[0]} if len(sides) == 1 else {"height": sides[0], "width": sides[1]}
            options |= {"size": size, "resample": RESAMPLE[step.interpolation]}
        elif type(step) is CenterCrop:
            options |= {"do_center_crop": True, "crop_size": {"height": step.size[0], "width": step.size[1]}}
        elif type(step) is Normalize:
            options |= {name: [float(each) for each in getattr(step, name[6:])] for name in ("image_mean", "image_std")}
        elif not is_conversion(step):
            raise ValueError(
                f"the encoder's transform has the step {step}, which transformers' CLIPImageProcessor cannot express"
            )
    return options
