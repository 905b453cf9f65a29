"""LLaVA-1.5 built of our components, against the class in transformers."""

import pytest
import torch
from torch import nn
from torchvision.transforms.functional import pil_to_tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from prefixvlm.batch import IMAGE_ID, Row
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.lm.causal import CausalLM
from prefixvlm.mapper.mlp import MLPMapper
from prefixvlm.model.decoder_state import DecoderState
from prefixvlm.model.decoding import greedy
from prefixvlm.model.prefix_lm import PrefixLM
from tests.conftest import byte_tokenizer, collator_of

IMAGE_TOKEN = 255


class Patches(ImageEncoder):
    """Patch features of the layer before CLIP's last, without the CLS token."""

    feature_width, num_features = 24, 9

    def __init__(self, vision: nn.Module) -> None:
        super().__init__()
        self.vision = vision

    @staticmethod
    def transform(image):
        return pil_to_tensor(image.resize((12, 12))) / 255

    def forward(self, pixel_values):
        return self.vision(pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]


@pytest.fixture
def llava():
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=12, patch_size=4,
        initializer_range=0.3,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, eos_token_id=256, pad_token_id=256, bos_token_id=None,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, image_seq_length=9)
    return LlavaForConditionalGeneration(config).eval()


@pytest.fixture
def model(llava):
    language = LlamaForCausalLM(llava.config.text_config)
    language.model.load_state_dict(llava.model.language_model.state_dict())
    language.lm_head.load_state_dict(llava.lm_head.state_dict())
    encoder, lm = Patches(llava.model.vision_tower), CausalLM(language, byte_tokenizer())
    mapper = MLPMapper(24, 9, lm.width, prefix_length=None, hidden_ratio=1.0, activation="gelu")
    theirs = llava.model.multi_modal_projector
    for ours, other in ((mapper.mlp[0], theirs.linear_1), (mapper.mlp[2], theirs.linear_2)):
        ours.load_state_dict(other.state_dict())
    return PrefixLM(encoder, mapper, lm).eval()


def inputs_of(batch):
    """Return the arguments of LLaVA for a batch of one row."""
    ids = torch.where(batch.input_ids == IMAGE_ID, IMAGE_TOKEN, batch.input_ids)
    return {"input_ids": ids, "pixel_values": batch.pixel_values[batch.image_index]}


@torch.no_grad()
def test_logits_and_texts_are_those_of_transformers_llava(llava, model, images):
    rows = [Row(("Look: ", images[0], "what is it?")), Row((images[1], " and ", images[2], "?"))]
    for row in rows:
        batch = collator_of(model)([row])
        places = torch.arange(batch.input_ids.shape[1])[None]
        hidden = model.lm.hidden(model.inputs_embeds(batch), batch.attention_mask, places)
        expected = llava(**inputs_of(batch)).logits
        torch.testing.assert_close(model.lm.logits(hidden), expected, atol=1e-5, rtol=1e-5)
        generated = llava.generate(
            **inputs_of(batch), attention_mask=batch.attention_mask.long(), max_new_tokens=8, do_sample=False,
            pad_token_id=256,
        )[0, batch.input_ids.shape[1] :].tolist()  # fmt: skip
        assert greedy(model, batch, 8) == [generated[: generated.index(256)] if 256 in generated else generated]


@torch.no_grad()
def test_rows_of_a_padded_batch_have_the_logits_of_llava_alone(llava, model, images):
    """In prompts as they are trained, packed or not, and in answers, which padding separates from their prompts."""
    rows = [
        Row(("Look: ", images[0], "what is it, and where?")),
        Row((images[1], "and", images[2])),
        Row((images[3], "?")),
    ]
    batch, alone = collator_of(model)(rows), [collator_of(model)([row]) for row in rows]
    embeds, mask = model.inputs_embeds(batch), batch.attention_mask
    prompts = torch.cat([llava(**inputs_of(each)).logits[0] for each in alone])
    for packs in (True, False):
        model.lm.packs = packs
        torch.testing.assert_close(model.lm.logits(model.lm.hidden_at(embeds, mask, mask)), prompts)
    state = DecoderState.from_prompts(model, batch)
    answers = torch.tensor([[3, 70], [80, 9], [11, 200]])
    for length in range(answers.shape[1] + 1):
        for logits, each, answer in zip(state.logits, alone, answers[:, :length], strict=True):
            inputs = inputs_of(each)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], answer[None]], 1)
            torch.testing.assert_close(logits, llava(**inputs).logits[0, -1])
        if length < answers.shape[1]:
            state.step(answers[:, length], torch.arange(len(rows)))
