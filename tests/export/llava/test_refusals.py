"""Parts that LLaVA cannot express are refused in one sentence that names them."""

import pytest
import torch

from prefixvlm.encoder.timm import TimmEncoder
from prefixvlm.export.llava.language_model import text_model
from prefixvlm.export.llava.projector import projector
from prefixvlm.export.llava.vision_tower import vision_tower
from prefixvlm.export.llava.write import _tasks, write_llava
from prefixvlm.mapper.linear import LinearMapper
from prefixvlm.mapper.mlp import MLPMapper
from prefixvlm.mapper.resampler import ResamplerMapper
from prefixvlm.mapper.transformer import TransformerMapper
from prefixvlm.task.classification_head import ClassificationHead
from tests.conftest import MeanEncoder, tiny_lm
from tests.export.llava.parts import checkpoint


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_test_clip", {"features": "pooled"}, "encoder.features is pooled"),
        ("vit_test_clip", {"average_pooling": 2}, "encoder.average_pooling is 2"),
        ("vit_test_clip", {"pixel_shuffle": 2}, "encoder.pixel_shuffle is 2"),
        ("vit_test_clip", {"normalize": True}, "encoder.normalize is True"),
        ("vit_test_plain", {}, "a class token and no norm before its blocks"),
        ("resnet10t", {"image_size": 32}, "the encoder is a ResNet"),
    ],
)
def test_encoders(name, options, message):
    encoder = TimmEncoder(name, pretrained="random", **{"features": "patch", **options})
    with pytest.raises(ValueError, match=message):
        vision_tower(encoder)


def test_encoders_of_plug_ins():
    with pytest.raises(ValueError, match="the encoder is a MeanEncoder"):
        vision_tower(MeanEncoder())


def test_a_tensor_that_has_no_place_is_named():
    encoder = TimmEncoder("vit_test_clip", pretrained="random", features="patch")
    encoder.visual.blocks[0].ls1 = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"the encoder has blocks.0.ls1.weight, which the vision towers"):
        vision_tower(encoder)


@pytest.mark.parametrize(
    ("mapper", "message"),
    [
        (ResamplerMapper(8, 4, 16), "the mapper is a ResamplerMapper"),
        (TransformerMapper(8, 4, 16, 4), "the mapper is a TransformerMapper"),
        (LinearMapper(8, 4, 16, output_std=0.1), "mapper.output_std is set"),
        (MLPMapper(8, 4, 16, hidden_ratio=2.0), "the mapper's hidden width is 32, and that of LLaVA's projector is 16"),
        (LinearMapper(8, 1, 16, prefix_length=3), "several embeddings of one feature"),
    ],
)
def test_mappers(mapper, message):
    with pytest.raises(ValueError, match=message):
        projector(mapper, 1.0)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("t5", "is a T5ForConditionalGeneration"),
        ("bert", "is a BertModel"),
        ("gptj", "GPTJForCausalLM, whose head has a bias"),
        ("bloom", "BloomForCausalLM, whose attention transformers has not for LLaVA"),
        ("opt", r"OPTForCausalLM with widths \[16, 32\]"),
    ],
)
def test_language_models(family, message):
    with pytest.raises(ValueError, match=message):
        text_model(tiny_lm(family))


def test_adapters_in_the_language_model(tmp_path):
    path = checkpoint(tmp_path, {"layer": -2}, tune={"adapters": {"_target_": "prefixvlm.tune.adapters.Adapters"}})
    with pytest.raises(ValueError, match="adapter"):
        write_llava(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tasks_without_text():
    with pytest.raises(ValueError, match="trained for classification_head, and LLaVA generates captions"):
        _tasks({"classification_head": ClassificationHead(["a", "b"])})
