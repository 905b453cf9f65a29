"""What is explained: classes of heads, texts of chats and of several tasks, and what is refused."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from prefixvlm.data.image import ImageDecoder
from prefixvlm.inference.captioner import Captioner
from prefixvlm.inspect.attribution import METHODS, attributions, heat_maps
from prefixvlm.inspect.explanation import explain
from prefixvlm.inspect.target import target_of
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.classification_head import ClassificationHead
from prefixvlm.task.regression import Regression
from prefixvlm.task.vqa import Vqa
from prefixvlm.training.module import PrefixModule
from tests.conftest import tiny_lm
from tests.inspect.conftest import PatchEncoder, Resampled

CLASSES = ["red", "green", "blue"]


class FloatEncoder(PatchEncoder):
    """PatchEncoder in float32, as heads are."""

    @staticmethod
    def transform(image):
        return PatchEncoder.transform(image).float()


def captioner(*tasks, family="llama", encoder=None):
    torch.manual_seed(0)
    encoder, lm = encoder or FloatEncoder(), tiny_lm(family)
    mapper = Resampled(encoder.num_features, lm.width)
    module = PrefixModule(encoder, mapper, lm, {task.name: task for task in tasks}, None)
    return Captioner.of(module, ImageDecoder(), Path())


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:2]])
def test_a_class_of_a_head_is_its_log_probability(noise, family, classes):
    model = captioner(ClassificationHead(classes), family=family)
    shares = model.classify(noise)
    for name in classes:
        target = target_of(model, noise, text=name)
        assert target.tokens == [name]
        with torch.no_grad():
            found = target.log_probs(target.pixel_values)[0]
        torch.testing.assert_close(found.exp(), torch.tensor([shares[name]]))
    assert target_of(model, noise).tokens == [max(shares, key=shares.get)]
    with pytest.raises(ValueError, match="the text is 'pink', but the classes are red, green"):
        target_of(model, noise, text="pink")


def test_several_classes_of_a_head(noise):
    model = captioner(ClassificationHead(CLASSES, multi_label=True))
    shares = model.classify(noise)
    target = target_of(model, noise, text="blue, red")
    assert target.tokens == ["blue", "red"]
    with torch.no_grad():
        found = target.log_probs(target.pixel_values)[0].exp()
    torch.testing.assert_close(found, torch.tensor([shares["blue"], shares["red"]]))


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_a_class_sum_to_no_more_than_it_has(noise, method):
    maps = heat_maps(captioner(ClassificationHead(CLASSES), family="bert"), noise, method=method)
    assert maps.maps.shape == (1, 8, 8)
    assert maps.values.isfinite().all()
    assert maps.values.std() > 0


def test_a_class_is_explained_without_attention(noise):
    target = target_of(captioner(ClassificationHead(CLASSES), family="bert"), noise)
    found = explain(target, "x.png")
    assert found.attention.startswith("a head predicts the class")
    assert {change.said for change in found.changes.whole} <= set(CLASSES)
    assert len(found.changes.without) == 3


def test_each_task_has_its_own_text(noise):
    model = captioner(Captioning("Caption:", decoding={"max_new_tokens": 3}), Vqa(decoding={"max_new_tokens": 3}))
    caption, answer = target_of(model, noise, text="ab"), target_of(model, noise, "what?", text="ab")
    with torch.no_grad():
        values = [target.log_probs(target.pixel_values)[0] for target in (caption, answer)]
    for found, question in zip(values, (None, "what?"), strict=True):
        expected = [value for _, value in model.log_probs(noise, "ab", question)][:-1]
        torch.testing.assert_close(found, torch.tensor(expected))
    assert not torch.allclose(*values)
    assert caption.say(caption.prefix()) == [model.caption(noise)]
    assert answer.say(answer.prefix()) == [model.answer(noise, "what?")]


def test_tasks_and_encoders_without_an_explanation_are_refused(noise):
    with pytest.raises(ValueError, match="task regression predicts neither a text nor a class"):
        target_of(captioner(Regression("x")), noise)
    stored = FloatEncoder()
    stored.reads_features = True
    with pytest.raises(ValueError, match="reads stored features, which have no pixels"):
        heat_maps(captioner(Captioning(), encoder=stored), noise)
    with pytest.raises(ValueError, match="trained for captioning, not for vqa"):
        heat_maps(captioner(Captioning()), noise, question="what?")


@pytest.mark.parametrize("method", ["gradient_x_input", "integrated_gradients"])
def test_a_language_model_in_bfloat16_has_maps_like_in_float32(method):
    image = Image.new("RGB", (16, 16), "white")
    image.paste("red", (4, 4, 10, 10))
    model = captioner(Captioning("Caption:"))
    exact = attributions(target_of(model, image, text="ab"), method)
    model.module.model.lm.model.to(torch.bfloat16)
    found = attributions(target_of(model, image, text="ab"), method)
    assert found.dtype == torch.float32
    for token in range(len(exact)):
        cosine = torch.cosine_similarity(found[token].flatten(), exact[token].flatten(), dim=0)
        assert cosine > 0.8
