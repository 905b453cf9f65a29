"""`prefixvlm export --to onnx` and `--to torch`: the graphs say what the model says, for batches of several lengths."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import CenterCrop

from prefixvlm.data.image import ImageDecoder
from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.encoder.timm import TimmEncoder
from prefixvlm.encoder.transforms import open_clip_transform
from prefixvlm.export.graphs import ImageGraph, graphs_of
from prefixvlm.export.programs import compare, export_programs, trace, write_onnx
from prefixvlm.export.runtime import describe_transform
from prefixvlm.inference.captioner import Captioner
from prefixvlm.inference.request import Request
from prefixvlm.mapper.resampler import ResamplerMapper
from prefixvlm.mapper.transformer import TransformerMapper
from prefixvlm.model.decoder_state import DecoderState
from tests.conftest import tiny_lm, tiny_model
from tests.inference.test_predictor import write_checkpoint
from tests.test_end_to_end import ROOT, tiny_clip

QUESTIONS = ["is it?", "what colour is the small shape beside the large one?", "A <eos>"]
EXAMPLE = ROOT / "examples" / "onnx_caption.py"


def example():
    spec = importlib.util.spec_from_file_location("onnx_caption", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images():
    picture = Image.new("RGB", (70, 50), "red")
    picture.paste((9, 99, 199), (0, 0, 20, 50))
    clear = Image.new("RGBA", (33, 120), (10, 200, 30, 120))
    return [picture, picture.rotate(90, expand=True), clear]


def checkpoint(folder, family):
    lm = tiny_lm(family)
    if family == "llama":  # the two layers of GPT-2 are enough
        del lm.model.model.layers[1]
        lm.model.config.num_hidden_layers = 1
    lm.model.save_pretrained(folder / "lm")
    lm.tokenizer.save_pretrained(folder / "lm")
    write_checkpoint(folder, name=str(folder / "lm"))
    return folder / "x.ckpt"


@pytest.fixture(scope="module", params=["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def exported(request, tmp_path_factory):
    """(the model, its folder of ONNX files)"""
    folder = tmp_path_factory.mktemp(request.param)
    path = checkpoint(folder, request.param)
    export_programs(path, folder / "onnx", onnx=True)
    return Captioner(path, "cpu"), folder / "onnx"


def prompts(model):
    """A batch of prompts of several lengths, with one image or another."""
    task = model.task(Request(("x",)))
    rows = [
        replace(task.prompt_rows(task.request(str(n), image, [question]))[0], id=str(n))
        for n, (image, question) in enumerate(zip(map(model.decoder.convert, images()), QUESTIONS, strict=True))
    ]
    return model.module.collate(rows, False)


def test_onnx_captions_and_answers_are_those_of_the_model(exported):
    model, folder = exported
    captioner = example().OnnxCaptioner(folder)
    captions = captioner(images())
    assert captions == model.caption(images())
    assert len(set(captions)) > 1
    for question in QUESTIONS:
        assert captioner(images(), question) == model.answer(images(), question)
    captioner.runtime["max_positions"] = 60  # of the 96 that the graph has
    assert captioner(images(), "is it?") == model.answer(images(), "is it?")
    with pytest.raises(SystemExit, match="more than the model's 60 positions"):
        captioner(images(), "x" * 60)


def test_onnx_pixels_prefixes_and_logits_are_those_of_the_model(exported):
    model, folder = exported
    captioner, batch = example().OnnxCaptioner(folder), prompts(model)
    pixels = np.stack([captioner.pixels(image) for image in images()])
    assert np.abs(pixels - model.module.model.encoder.normalized(batch.pixel_values).numpy()).max() < 1e-6
    (prefixes,) = captioner.image.run(None, {"pixel_values": pixels})
    assert np.abs(prefixes - model.embed(images()).numpy()).max() < 1e-4
    parts = captioner.runtime["tasks"]["vqa"]["parts"]
    embeds = [captioner.prompt(parts, *each) for each in zip(prefixes, QUESTIONS, strict=True)]
    assert [len(each) for each in embeds] == batch.attention_mask.sum(1).tolist()
    with torch.no_grad():
        state = DecoderState.from_prompts(model.module.model, batch)
        ours = state.logits.numpy().copy()
        state.step(state.logits.argmax(-1), torch.arange(3))
    seen = []
    run = captioner.text.run
    captioner.text = type("Spy", (), {
        "get_inputs": captioner.text.get_inputs, "run": lambda self, *a: (seen.append(found := run(*a)), found)[1]
    })()  # fmt: skip
    captioner.generate(embeds, 2)
    assert np.abs(seen[0][0] - ours).max() < 1e-4
    assert np.abs(seen[1][0] - state.logits.numpy()).max() < 1e-4


def test_a_program_of_torch_is_loaded_and_generates_the_same(tmp_path):
    path = checkpoint(tmp_path, "llama")
    export_programs(path, tmp_path / "torch", onnx=False)
    model = Captioner(path, "cpu")
    runtime = json.loads((tmp_path / "torch" / "runtime.json").read_text())
    image, embed, text = (
        torch.export.load(tmp_path / "torch" / runtime["graphs"][name]).module() for name in ("image", "embed", "text")
    )
    batch = prompts(model)
    with torch.no_grad():
        embeds = model.module.model.inputs_embeds(batch)
        assert torch.equal(embed(batch.input_ids.clamp_min(0))[batch.input_ids >= 0], embeds[batch.input_ids >= 0])
        pixel_values = model.module.model.encoder.normalized(batch.pixel_values)
        assert (image(pixel_values) - model.embed(images())).abs().max() < 1e-5
        state = DecoderState.from_prompts(model.module.model, batch)
        past = [torch.zeros(3, c["heads"], 0, c["width"]) for c in runtime["cache"] for _ in range(2)]
        logits, mask, *past = text(embeds, batch.attention_mask.sum(1), torch.zeros(3, 0, dtype=torch.bool), past)
        for _ in range(4):
            assert (logits - state.logits).abs().max() < 1e-4
            ids = logits.argmax(-1)
            logits, mask, *past = text(embed(ids[:, None]), torch.ones(3, dtype=torch.long), mask, past)
            state.step(ids, torch.arange(3))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip patches, transformer", "timm patches, resampler", "timm pooled, transformer"])
def test_images_of_all_encoders_and_mappers(kind, tmp_path):
    torch.manual_seed(0)
    encoder_name, _, mapper_name = kind.partition(", ")
    features = "patch" if "patches" in encoder_name else "pooled"
    if encoder_name.startswith("clip"):
        encoder = OpenClipEncoder(f"local-dir:{tiny_clip(tmp_path / 'clip')}", features=features)
    else:
        encoder = TimmEncoder("test_vit.r160_in1k", "random", features=features)
        del encoder.visual.blocks[1:]  # the time to trace a graph grows with its nodes
    sizes = (encoder.feature_width, encoder.num_features, 32)
    model = tiny_model("gpt2")
    model.encoder = encoder
    options = {"num_layers": 1, "prefix_length": 3, "grid": encoder.grid}
    if mapper_name == "resampler":
        model.mapper = ResamplerMapper(*sizes, **options, positions="sincos")
    else:
        model.mapper = TransformerMapper(*sizes, **options, positions="learned" if encoder.grid else None)
    write_onnx(trace(graph := graphs_of(model.eval())["image"]), graph, tmp_path / "image.onnx")  # which compares


def test_a_graph_that_says_something_else_is_refused():
    graph = graphs_of(tiny_model("gpt2").eval())["text"]

    def forgets_padding(embeds, lengths, mask, past):
        return graph.module(embeds, lengths, torch.ones_like(mask), past)

    compare(graph, graph.module)

    def divides_by_zero(*inputs):
        logits, *rest = graph.module(*inputs)
        return [logits * float("nan"), *rest]

    for wrong in (forgets_padding, divides_by_zero):
        with pytest.raises(ValueError, match="lm GPT2LMHeadModel: the written graph has another logits than the model"):
            compare(graph, wrong)


@pytest.mark.parametrize("options", [{}, {"resize_mode": "squash"}, {"interpolation": "bilinear"}])
def test_pixels_are_those_of_the_encoders_transform(options):
    transform = open_clip_transform({"size": (30, 40) if options.get("resize_mode") else 30, **options})
    captioner = object.__new__(example().OnnxCaptioner)
    captioner.runtime = {"image": describe_transform(transform, ImageDecoder("#336699"))}
    grey = Image.fromarray(np.arange(40 * 50, dtype=np.uint16).reshape(40, 50) * 32)
    for image in [*images(), grey, Image.new("L", (31, 200), 77), Image.new("RGB", (99, 30), "blue")]:
        ours = transform(ImageDecoder("#336699").convert(image)).numpy()
        assert np.abs(captioner.pixels(image) - ours).max() < 1e-6


@pytest.mark.parametrize("size", [(31, 37), (20, 41), (21, 22), (64, 33)])
def test_a_center_crop_is_that_of_torchvision(size):
    image = Image.effect_noise(size, 90)
    assert example().center_crop(image, 30, 31) == CenterCrop((30, 31))(image)


class Looks(nn.Module):
    """A mapper whose shape depends on values."""

    def forward(self, features):
        return features[:, :1] if features.sum() > 0 else features


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("bloom", "lm BloomForCausalLM takes no position_ids"),
        ("t5", "lm T5ForConditionalGeneration is no decoder-only"),
    ],
)
def test_what_has_no_graph_is_refused_by_its_name(family, words):
    with pytest.raises(ValueError, match=f"{words}.*export --to hub"):
        graphs_of(tiny_model(family))


def test_a_part_that_cannot_be_traced_or_described_is_named():
    model = tiny_model("gpt2")
    graph = graphs_of(model)["image"]
    model.mapper = Looks()
    with pytest.raises(ValueError, match="encoder MeanEncoder with mapper TinyMapper cannot be traced"):
        trace(replace(graph, module=ImageGraph(model)))
    with pytest.raises(ValueError, match="the encoder's transform has the step function"):
        describe_transform(model.encoder.transform, ImageDecoder())


@pytest.mark.slow
def test_the_example_imports_neither_torch_nor_prefixvlm(exported, tmp_path):
    model, folder = exported
    images()[0].save(tmp_path / "a.png")
    code = (
        f"import runpy, sys; sys.argv = ['x', {str(folder)!r}, {str(tmp_path / 'a.png')!r}]; "
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__'); "
        "assert not {'torch', 'prefixvlm', 'transformers', 'torchvision'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.strip() == " ".join(model.caption(images()[0]).split("\n"))
