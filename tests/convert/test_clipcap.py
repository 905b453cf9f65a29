"""`prefixvlm import-clipcap` against ClipCap's model written from its description: same logits, losses and captions."""

import json
import sys

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from prefixvlm.batch import Row
from prefixvlm.build import build_module
from prefixvlm.command_line import subcommands
from prefixvlm.convert.clipcap_weights import read_clipcap
from prefixvlm.inference.captioner import Captioner
from prefixvlm.model import decoding
from prefixvlm.model.clipcap_beam import clipcap_beam
from prefixvlm.model.decoder_state import DecoderState
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load
from tests.conftest import byte_tokenizer
from tests.convert import clipcap as naive
from tests.test_end_to_end import parts, run, tiny_clip  # noqa: F401

FEATURES = 16  # of the tiny CLIP
SIZES = {"small": (32, 2, 4), "wide": (128, 1, 2), "deep": (16, 5, 8)}  # GPT-2's width, layers, heads
STOPS = {"small": 1.5, "wide": 2.0, "deep": 4.0}  # how much each leans to the stop, so that texts end here and there
CASES = [
    ("small", "mlp", False), ("small", "transformer", True), ("wide", "transformer", False), ("deep", "mlp", True)
]  # fmt: skip


def gpt2_of(size, seed=0):
    torch.manual_seed(seed)
    width, layers, heads = SIZES[size]
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=257,
            n_positions=128,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            initializer_range=0.3,
            bos_token_id=256,
            eos_token_id=256,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases at their initial 1 and 0 hide nothing
                parameter.add_(0.3 * torch.randn_like(parameter))
        embeddings = model.transformer.wte.weight
        model.transformer.ln_f.bias.add_(
            STOPS[size] * embeddings[naive.STOP] / embeddings[naive.STOP].norm()
        )  # texts end
    return model


def mapper_of(kind, width, seed=0):
    """Return random tensors with ClipCap's names and shapes: 3 prefix tokens; clip_length 2 of the transformer."""
    torch.manual_seed(seed + 1)
    prefix, clip = 3, 2

    def linear(name, rows, columns, bias=True):
        weight = {f"{name}.weight": torch.randn(rows, columns) / columns**0.5}
        return weight | ({f"{name}.bias": torch.randn(rows) * 0.3} if bias else {})

    if kind == "mlp":
        hidden = width * prefix // 2
        return linear("model.0", hidden, FEATURES) | linear("model.2", width * prefix, hidden)
    state = linear("linear", clip * width, FEATURES) | {"prefix_const": torch.randn(prefix, width)}
    for layer in range(2):
        name = f"transformer.layers.{layer}"
        for norm in ("norm1", "norm2"):
            state |= {f"{name}.{norm}.weight": 1 + 0.3 * torch.randn(width), f"{name}.{norm}.bias": torch.randn(width)}
        state |= linear(f"{name}.attn.to_queries", width, width, bias=False)
        state |= linear(f"{name}.attn.to_keys_values", 2 * width, width, bias=False)
        state |= linear(f"{name}.attn.project", width, width)
        state |= linear(f"{name}.mlp.fc1", 2 * width, width) | linear(f"{name}.mlp.fc2", width, 2 * width)
    return state


def weights_of(size, kind, buffers=False, seed=0):
    """Return a state dict as ClipCap's code saves it. buffers: with the masks that older transformers saved."""
    width, layers, _ = SIZES[size]
    state = {f"gpt.{name}": value.clone() for name, value in gpt2_of(size, seed).state_dict().items()}
    for layer in range(layers if buffers else 0):
        state[f"gpt.transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 128, 128).tril().byte()
        state[f"gpt.transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return state | {f"clip_project.{name}": value for name, value in mapper_of(kind, width, seed).items()}


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["prefixvlm", "import-clipcap", *map(str, arguments)])
    subcommands._main()


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """Return a function that imports a state dict and returns the written folder."""
    clip, words = tiny_clip(tmp_path / "clip"), tmp_path / "words"
    byte_tokenizer().save_pretrained(words)

    def of(state, *arguments, out="out"):
        torch.save(state, tmp_path / "weights.pt")
        encoder = ["--encoder", "clip_tiny", f"encoder.model_name=local-dir:{clip}"]
        command(
            monkeypatch, tmp_path / "weights.pt", "--out", tmp_path / out, *encoder, "--tokenizer", words, *arguments
        )
        return tmp_path / out

    return of


def module_of(folder):
    checkpoint = load(folder / "clipcap.ckpt")
    module = build_module(OmegaConf.create(checkpoint[KEY]["config"]))
    module.load_trained(checkpoint)
    return module.eval()


@torch.no_grad()
@pytest.mark.parametrize(("size", "kind", "buffers"), CASES)
def test_logits_losses_and_captions_are_clipcaps(size, kind, buffers, imported, images):
    heads, images = SIZES[size][2], images[1:4]  # at least two get different captions
    state = weights_of(size, kind, buffers)
    module = module_of(imported(state, *([] if size == "wide" else ["--num-heads", heads])))  # wide has heads of 64
    task, model = module.tasks["captioning"], module.model
    collate = module.collate
    pixel_values = torch.stack([module.model.encoder.transform(image) for image in images])
    features = model.encoder(pixel_values)[:, 0]
    prompts = collate([Row((image, "")) for image in images], supervised=False)

    first = torch.stack([naive.logits(state, feature, [], heads)[-1] for feature in features])
    torch.testing.assert_close(DecoderState.from_prompts(model, prompts).logits, first, atol=1e-3, rtol=1e-4)

    captions = [f"a {'long ' * i}photo of {i}." for i in range(len(images))]
    ids = [[*model.lm.tokenizer(caption).input_ids] for caption in captions]
    found = model(collate([Row((image,), caption) for image, caption in zip(images, captions, strict=True)]))
    expected = [naive.losses(state, feature, text, heads) for feature, text in zip(features, ids, strict=True)]
    for ours, theirs in zip(found.split([len(text) + 1 for text in ids]), expected, strict=True):
        torch.testing.assert_close(ours[:-1], theirs, atol=1e-3, rtol=1e-4)  # the last is of the EOS, which is ours

    expected_ids = [naive.greedy(state, feature, heads) for feature in features]
    assert decoding.greedy(model, prompts, 67) == [without_stop(text) for text in expected_ids]
    beams = [naive.beam(state, feature, heads)[0] for feature in features]
    assert len({tuple(text) for text in beams}) > 1
    assert clipcap_beam(model, prompts) == [without_stop(text) for text in beams]
    decode = model.lm.tokenizer.batch_decode
    assert task.generate(model, prompts) == [text.strip() for text in decode([without_stop(text) for text in beams])]


def without_stop(ids):
    """Return the ids before the stop, which is our EOS and no part of a text."""
    return ids[: ids.index(naive.STOP)] if naive.STOP in ids else ids


def test_of_a_tuned_gpt2_the_tuned_weights_are_kept_and_transformers_reads_them_alone(imported):
    state = weights_of("small", "mlp")
    tuned = state | {name: value + 0.1 for name, value in state.items() if name.startswith("gpt.transformer.h.")}
    folders = imported(state, "--num-heads", 4), imported(tuned, "--num-heads", 4, out="tuned")
    identities = [load(folder / "clipcap.ckpt")[KEY]["identity"] for folder in folders]
    assert identities[0] != identities[1]
    for folder, weights in zip(folders, (state, tuned), strict=True):
        assert sorted(path.name for path in folder.iterdir()) == ["clipcap.ckpt", "lm"]
        assert (folder / "lm" / "model.safetensors").is_file()
        alone = AutoModelForCausalLM.from_pretrained(folder / "lm", dtype=torch.float32).eval()
        words = AutoTokenizer.from_pretrained(folder / "lm")
        assert words.eos_token == "<eos>"  # only for ClipCap's captions is it "."
        assert alone.config.eos_token_id == words.eos_token_id
        ids = words("a red circle.").input_ids
        embeds = weights["gpt.transformer.wte.weight"][ids]
        expected = naive.gpt2(weights, embeds, 4)
        torch.testing.assert_close(alone(input_ids=torch.tensor([ids])).logits[0], expected, atol=1e-3, rtol=1e-4)


def test_an_untied_head_and_half_precision_are_kept(imported):
    state = weights_of("small", "mlp")
    state["gpt.lm_head.weight"] = state["gpt.lm_head.weight"] + 0.5
    lm = module_of(imported({name: value.half() for name, value in state.items()}, "--num-heads", 4)).model.lm
    torch.testing.assert_close(lm.head.weight, state["gpt.lm_head.weight"].half().float())
    torch.testing.assert_close(lm.embed(torch.tensor([7]))[0], state["gpt.transformer.wte.weight"][7].half().float())


def test_normalize_is_stored_in_the_checkpoint(imported, tmp_path):
    state = weights_of("small", "transformer")
    Image.new("RGB", (70, 50), "teal").save(tmp_path / "x.png")
    captions = []
    for out, arguments in {"plain": [], "normalised": ["--normalize"]}.items():
        predictor = Captioner(imported(state, "--num-heads", 4, *arguments, out=out) / "clipcap.ckpt")
        encoder = predictor.module.model.encoder
        feature = encoder(encoder.transform(Image.open(tmp_path / "x.png").convert("RGB"))[None])[0, 0]
        assert (abs(float(feature.norm()) - 1) < 1e-5) == bool(arguments)
        ids = without_stop(naive.beam(state, feature, 4)[0])
        captions.append(byte_tokenizer().decode(ids).strip())
        assert predictor.caption([tmp_path / "x.png"]) == captions[-1:]
    assert captions[0] != captions[1]


@pytest.mark.slow
def test_eval_scores_it(imported, parts, tmp_path):  # noqa: F811
    folder = imported(weights_of("small", "mlp"), "--num-heads", 4)
    shards = next(part for part in parts if part.startswith("data.shards=")).removeprefix("data.")
    run("eval.py", f"ckpt={folder}/clipcap.ckpt", shards, "limit=4", "java=false", f"out={tmp_path}/eval")
    result = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert result["tasks"]["captioning"]["decoding"]["method"] == "clipcap_beam"
    assert result["tasks"]["captioning"]["num_items"] == 4


class Code:
    def __reduce__(self):
        return nn.Linear, (2, 2)


def test_objects_in_the_file_are_refused(tmp_path, imported):
    state = weights_of("small", "mlp")
    for content in ({**state, "code": Code()}, gpt2_of("small")):
        with pytest.raises(ValueError, match=r"weights\.pt is damaged, or holds more than tensors"):
            imported(content)
    assert not (tmp_path / "out").exists()


def test_other_files_are_refused_in_one_sentence(tmp_path, imported):
    state = weights_of("small", "transformer")
    without = {name: value for name, value in state.items() if "norm1" not in name}
    for content, message in (
        ({}, "lacks those of GPT-2"),
        ([1, 2], "something other than named tensors"),
        ({"gpt.transformer.wte.weight": 3}, "something other than named tensors"),
        ({"mapper.weight": torch.zeros(2)}, "lacks those of GPT-2"),
        (state | {"optimizer": torch.zeros(2)}, "tensors outside gpt and clip_project"),
        ({name: value for name, value in state.items() if name.startswith("gpt.")}, "its mapper lacks 'linear.weight'"),
        (without, "its TransformerMapper is another: Missing key.*norm1"),
        (state | {"clip_project.prefix_const": torch.zeros(3, 8)}, "its TransformerMapper is another"),
        (state | {"gpt.transformer.h.0.attn.extra": torch.zeros(3)}, "its GPT2LMHeadModel is another: Unexpected key"),
    ):
        with pytest.raises(ValueError, match=f"weights.pt is not a checkpoint of ClipCap's.*{message}") as caught:
            imported(content, "--num-heads", 4)
        assert "\n" not in str(caught.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "weights.pt", "words"]


def test_errors_name_the_option(tmp_path, imported, monkeypatch):
    state = weights_of("small", "mlp")
    with pytest.raises(ValueError, match=r"32 wide and does not divide into heads of 64; set --num-heads"):
        imported(state)
    with pytest.raises(ValueError, match=r"32 wide and does not divide into 5 heads; set --num-heads"):
        imported(state, "--num-heads", 5)
    with pytest.raises(ValueError, match=r"the tokenizer 'absent' is neither a local folder.*set --tokenizer"):
        imported(state, "--num-heads", 4, "--tokenizer", "absent")
    with pytest.raises(ValueError, match=r"features of width 16, not of 512, 640, 768, so their encoder is unknown"):
        command(monkeypatch, tmp_path / "weights.pt", "--out", tmp_path / "x")
    wider = state | {"clip_project.model.0.weight": torch.zeros(48, 20)}
    with pytest.raises(ValueError, match=r"one feature of width 20 an image.*gives 1 of width 16; set --encoder"):
        imported(wider, "--num-heads", 4)
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"out exists; set --out to a new folder"):
        imported(state, "--num-heads", 4)
    with pytest.raises(FileNotFoundError):
        command(monkeypatch, tmp_path / "absent.pt", "--out", tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "out", "weights.pt", "words"]


@pytest.mark.parametrize(("width", "encoder"), [(512, "clip_vit_b32"), (640, "clip_rn50x4"), (768, "clip_vit_l14")])
def test_the_encoder_is_the_one_of_the_features_width_and_nothing_is_downloaded(width, encoder, tmp_path, monkeypatch):
    state = weights_of("small", "mlp") | {"clip_project.model.0.weight": torch.zeros(48, width)}
    torch.save(state, tmp_path / "weights.pt")
    assert read_clipcap(tmp_path / "weights.pt").overrides(None, False)[0] == f"encoder={encoder}"
    byte_tokenizer().save_pretrained(tmp_path / "words")
    command(
        monkeypatch, tmp_path / "weights.pt", "--out", tmp_path / "out", "--tokenizer", tmp_path / "words",
        "--num-heads", 4,
    )  # fmt: skip
    assert load(tmp_path / "out" / "clipcap.ckpt")[KEY]["config"]["encoder"]["pretrained"] == "openai"
