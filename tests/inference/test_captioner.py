"""prefixvlm.load with a small CLIP and GPT-2: every kind of image, every method."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import prefixvlm
from prefixvlm.batch import Row
from prefixvlm.inference.captioner import Captioner
from prefixvlm.model.constrained import score_answers
from tests.inference.test_predictor import TASKS, alone, made, write_checkpoint  # noqa: F401  # made is a fixture


@pytest.fixture(scope="module")
def model(made):  # noqa: F811
    return prefixvlm.load(made[1])


@pytest.fixture(scope="module")
def image(made):  # noqa: F811
    return Image.open(made[2][0]).convert("RGB")


def kinds(path):
    """Return the image of a file in all kinds that are accepted."""
    image, data = Image.open(path).convert("RGB"), path.read_bytes()
    array = np.array(image)
    tensor = torch.from_numpy(array).movedim(-1, 0)
    rgba = np.dstack([array, np.full(array.shape[:2], 255, np.uint8)])
    return [path, str(path), data, image, image.convert("RGBA"), array, rgba, array / 255, tensor, tensor / 255]


def test_an_image_of_any_kind_has_the_same_caption(made, model):  # noqa: F811
    module, _, paths = made
    expected = alone(module, "captioning", paths[0])
    assert model.caption(kinds(paths[0])) == [expected] * 10
    assert [model.caption(each) for each in kinds(paths[0])] == [expected] * 10
    assert model.caption(paths[1]) == alone(module, "captioning", paths[1]) != expected


def test_a_grey_array_is_a_grey_image(model):
    grey = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    caption = model.caption(Image.fromarray(grey).convert("RGB"))
    assert model.caption([grey, grey[..., None], torch.from_numpy(grey)]) == [caption] * 3


def test_a_picture_taken_sideways_is_turned(model, image):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    sideways = Image.open(io.BytesIO(buffer.getvalue()))
    assert model.caption([buffer.getvalue(), sideways]) == [model.caption(image)] * 2


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (3, "of type int; give a path, bytes"),
        (np.zeros((4, 4, 2), np.uint8), r"has the shape \[4, 4, 2\]"),
        (torch.zeros(5, 4, 3), r"has the shape \[5, 4, 3\]"),
        (np.full((4, 4, 3), 255.0), "values from 255 to 255; give 0 to 1"),
        (np.full((4, 4, 3), np.nan), "values from nan to nan"),
        (np.zeros((4, 4, 3), np.int32), "array of int32; give uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"has the shape \[0, 4, 3\]"),
        (b"no image", "does not decode"),
    ],
)
def test_what_is_no_image_is_one_sentence(model, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.caption(wrong)


def test_a_bad_image_of_a_list_is_named_by_its_place(model, image):
    with pytest.raises(ValueError, match=r"^images\[65\]: the image does not decode"):
        model.caption([image] * 65 + [b"no image"])
    with pytest.raises(ValueError, match=r"^images\[1\]: an image is of type NoneType"):
        model.embed([image, None])


def test_answers_are_those_of_the_saved_module(made, model):  # noqa: F811
    module, _, paths = made
    assert model.answer(paths[0], "is it?") == alone(module, "vqa", paths[0])
    assert model.answer(paths, "is it?") == [alone(module, "vqa", path) for path in paths]


def test_questions_may_differ_by_image_or_be_about_one(made, model):  # noqa: F811
    module, _, paths = made
    questions = ["is it?", "how many?", "is it?", "what?"]
    pairs = zip(paths, questions, strict=True)
    assert model.answer(paths, questions) == [alone(module, "vqa", *each) for each in pairs]
    one = model.answer(paths[0], questions[:2])
    assert one == [alone(module, "vqa", paths[0], question) for question in questions[:2]]
    assert [each.asked for each in one] == questions[:2]
    # More than a batch: the questions go on with their images.
    many = model.answer([paths[number % 4] for number in range(70)], [f"{number % 4}?" for number in range(70)])
    assert many[66] == model.answer(paths[2], "2?")
    assert len(many) == 70
    with pytest.raises(ValueError, match="there are 2 questions and 4 images; give one for each image"):
        model.answer(paths, ["a?", "b?"])


def test_decoding_options_are_those_of_the_task(model, image):
    assert model.caption(image, method="beam", num_beams=1) == model.caption(image)
    assert len(model.caption(image, max_new_tokens=3)) <= 3 < len(model.caption(image, max_new_tokens=20, stop=[]))
    first = model.caption(image, method="nucleus", seed=1, temperature=2.0)
    assert first == model.caption(image, method="nucleus", seed=1, temperature=2.0)
    with pytest.raises(ValueError, match="decoding.num_beams is not an option of greedy decoding"):
        model.caption(image, num_beams=3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_new_tokens": "3"}, "decoding.max_new_tokens is '3'; it must be an int of 1 or more"),
        ({"max_new_tokens": 0}, "decoding.max_new_tokens is 0; it must be an int of 1 or more"),
        ({"method": "beam", "num_beams": 0}, "decoding.num_beams is 0; it must be an int of 1 or more"),
        ({"method": "nucleus", "top_p": 1.5}, "decoding.top_p is 1.5; it must be a float from above 0 to 1"),
        ({"method": "nucleus", "temperature": "hot"}, "decoding.temperature is 'hot'; it must be a float above 0"),
    ],
)
def test_a_decoding_option_of_another_type_or_range_is_one_sentence(model, image, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.caption(image, **options)


@pytest.mark.parametrize("question", [None, "is it?"])
@pytest.mark.parametrize("options", [{}, {"method": "nucleus", "seed": 3, "temperature": 3.0}, {"stop": []}])
def test_a_streamed_text_is_the_whole_one(model, image, question, options):
    options = {"max_new_tokens": 12, **options}
    parts = list(model.stream(image, question, **options))
    whole = model.answer(image, question, **options) if question else model.caption(image, **options)
    assert "".join(parts) == whole
    assert len(parts) > 1


def test_beam_search_is_not_streamed(model, image):
    with pytest.raises(ValueError, match="beam decoding cannot be streamed; accepted are greedy, nucleus"):
        model.stream(image, method="beam")


@pytest.mark.parametrize("question", [None, "is it?"])
def test_texts_are_ranked_by_their_likelihoods(model, image, question):
    texts = ["a red thing", "blue", "no"]
    ranked = model.rank(image, texts, question)
    assert sorted(text for text, _ in ranked) == sorted(texts)
    assert [value for _, value in ranked] == sorted((value for _, value in ranked), reverse=True)
    for text, value in ranked:
        tokens = model.log_probs(image, text, question)
        assert value == pytest.approx(sum(each for _, each in tokens), abs=1e-4)
        assert "".join(token for token, _ in tokens[:-1]) == f" {text}"
    mean = dict(model.rank(image, texts, question, normalize_length=True))
    assert mean["no"] == pytest.approx(dict(ranked)["no"] / 4, abs=1e-5)  # " no" and the EOS


def test_log_likelihoods_are_those_of_a_naive_loop(model, image):
    module = model.module
    row = Row((image, "Caption:"))
    ids = module.model.lm.tokenizer(" ab").input_ids
    expected = score_answers(module.model, module.collate([row], False), [ids])[0, 0]
    assert dict(model.rank(image, ["ab"]))["ab"] == pytest.approx(float(expected), abs=1e-5)


def test_texts_without_words_have_no_likelihoods(model, image):
    for texts in ([], "red", ["red", " "]):
        with pytest.raises(ValueError, match="the texts to rank are .*; give a list of texts with words"):
            model.rank(image, texts)
    with pytest.raises(ValueError, match="the text has no words"):
        model.log_probs(image, " ")


def test_the_embedding_is_the_prefix(model, image):
    pixels = model.module.model.encoder.transform(image)[None]
    with torch.no_grad():
        expected = model.module.model.prefix_embeds(pixels)
    torch.testing.assert_close(model.embed(image), expected[0])
    torch.testing.assert_close(model.embed([image, image]), expected.expand(2, -1, -1))
    assert model.embed([]).shape == (0, *expected.shape[1:])
    assert model.caption([]) == []


def test_demonstrations_stand_before_the_prompt(made, model, image):  # noqa: F811
    red, green = made[2][:2]
    shown = model.caption(image, [(red, "red"), (green, "green")], max_new_tokens=8)
    one, two = (Image.open(path).convert("RGB") for path in (red, green))
    same = model.generate([one, "Caption: red\n", two, "Caption: green\n", image, "Caption:"], max_new_tokens=8)
    assert shown == same != model.caption(image, max_new_tokens=8)
    asked = model.answer(image, "how many?", [(red, "is it?", "yes")], max_new_tokens=8)
    prompt = [one, "Question: is it? Answer: yes\n", image, "Question: how many? Answer:"]
    assert asked == model.generate(prompt, max_new_tokens=8)
    with pytest.raises(ValueError, match=r"demonstrations\[1\] is not \(image, question, answer\)"):
        model.answer(image, "how many?", [(red, "is it?", "yes"), (red, "yes")])
    with pytest.raises(ValueError, match=r"demonstrations\[0\] is not \(image, caption\)"):
        model.caption(image, [image])


def test_a_prompt_may_have_several_images_or_none(made, model, image):  # noqa: F811
    assert model.generate([image, "Caption:"], max_new_tokens=5) == model.caption(image)
    assert model.generate([Path(made[2][0]), "Caption:"], max_new_tokens=5) == model.caption(image)
    assert model.generate(["Caption", ":"]).images == ()
    both = model.generate([image, Path(made[2][1]), "Caption:"], max_new_tokens=5)
    assert [each.getpixel((50, 9)) for each in both.images] == [(255, 0, 0), (0, 128, 0)]
    assert both._repr_html_().count("<img src=") == 2
    assert model.generate("Caption:") == model.generate(["Caption", ":"])
    with pytest.raises(ValueError, match="a prompt is empty"):
        model.generate([])


def test_a_notebook_shows_the_image_with_its_text(model, image):
    page = model.answer(image, "is <it>?")._repr_html_()
    assert page.startswith('<figure><img src="data:image/png;base64,')
    assert "<em>is &lt;it&gt;?</em>" in page


def test_classes_need_a_task_with_classes(model, image):
    with pytest.raises(ValueError, match="trained for captioning, vqa; rank"):
        model.classify(image)


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("gpu", "device is 'gpu'; give auto, cpu"),
        ("meta", "device is 'meta'; give auto, cpu"),
        ("cuda:99", r"device is 'cuda:99', and torch finds \d+ CUDA devices; give auto"),
    ],
)
def test_a_device_that_is_none_is_one_sentence(made, device, sentence):  # noqa: F811
    with pytest.raises(ValueError, match=sentence):
        Captioner(made[1], device=device)


def test_the_dtype_is_that_of_the_language_model(made):  # noqa: F811
    model = prefixvlm.load(made[1], dtype="bfloat16")
    assert model.module.model.lm.head.weight.dtype == torch.bfloat16
    assert {each.dtype for each in model.module.model.mapper.parameters()} == {torch.float32}
    assert repr(model) == f"<Captioner of {made[1]}: captioning, vqa; torch.bfloat16 on cpu>"


def test_float16_is_loaded_where_it_rounds_weights_to_zero(tmp_path):
    write_checkpoint(tmp_path, gpt2={"scale": 1e-6})
    model = prefixvlm.load(tmp_path / "x.ckpt", dtype="float16")
    weights = list(model.module.model.lm.parameters())
    assert {each.dtype for each in weights} == {torch.float16}
    assert any((each == 0).sum() > 10 for each in weights)
    assert isinstance(model.caption(Image.new("RGB", (8, 8))), str)


@pytest.mark.parametrize("task", ["head", "names"])
def test_classes_have_the_probabilities_of_the_task(tmp_path, made, image, task):  # noqa: F811
    module = write_checkpoint(tmp_path, [task])
    model, images = prefixvlm.load(tmp_path / "x.ckpt"), [image, Image.open(made[2][1]).convert("RGB")]
    found = model.classify(images)
    classes = TASKS[task]["classes"]
    for each, shares in zip(images, found, strict=True):
        batch = module.collate([Row((each, "This is" if task == "names" else ""))], False)
        with torch.no_grad():
            if task == "names":
                ids = [module.model.lm.tokenizer(f" {name}").input_ids for name in classes]
                logits = score_answers(module.model, batch, ids)[0]
            else:
                logits = module.model.heads["head"](module.model, batch)[0]
        weights = np.exp(logits.double().numpy())
        expected = dict(zip(classes, weights / weights.sum(), strict=True))
        assert shares == pytest.approx(expected, abs=1e-5)
        assert list(shares) == sorted(classes, key=expected.get, reverse=True)
    assert model.classify(image) == pytest.approx(found[0], abs=1e-5)
    assert found[0] != pytest.approx(found[1], abs=1e-4)


def relative(made, folder):  # noqa: F811
    """Move a checkpoint with its parts to a folder, and write relative paths into it."""
    checkpoint = torch.load(made[1], weights_only=True)
    config = checkpoint["prefixvlm"]["config"]
    for name in ("clip", "gpt2"):
        shutil.copytree(made[1].parent / name, folder / "parts" / name)
    config["encoder"]["model_name"], config["lm"]["name"] = "local-dir:parts/clip", "parts/gpt2"
    path = folder / "outputs" / "run" / "x.ckpt"
    path.parent.mkdir(parents=True)
    torch.save(checkpoint, path)
    return path


def test_relative_paths_are_found_beside_the_checkpoint(made, model, image, tmp_path, monkeypatch):  # noqa: F811
    path = relative(made, tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert prefixvlm.load(path).caption(image) == model.caption(image)
    monkeypatch.chdir(path.parent)
    assert prefixvlm.load("x.ckpt").caption(image) == model.caption(image)
    (tmp_path / "a" / "parts" / "clip").rename(tmp_path / "clip")
    with pytest.raises(ValueError, match="parts/clip does not hold") as error:
        prefixvlm.load(path)
    (note,) = error.value.__notes__
    assert note == f"parts/clip was looked for in {path.parent}, in {path.parent} and in the folders above it"


def test_importing_the_package_imports_nothing_that_takes_long():
    code = "import sys, prefixvlm; print(prefixvlm.load.__name__, len({*sys.argv[1:]} & {*sys.modules}))"
    modules = ["torch", "transformers", "hydra", "omegaconf", "numpy", "PIL", "lightning"]
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True)
    assert done.stdout == "load 0\n"
