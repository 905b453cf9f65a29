"""A tiny model in float64 with patches, and texts about an image as targets."""

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from prefixvlm.batch import IGNORE_INDEX, Row
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.inspect.target import Target
from prefixvlm.mapper.interface import Mapper
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.captioning import Captioning
from tests.conftest import collator_of, tiny_lm

SIDE, PATCH = 16, 2


class PatchEncoder(ImageEncoder):
    """A convolution with patches of 2 x 2 pixels, and a function that is not linear."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_width, self.grid = 8, (SIDE // PATCH, SIDE // PATCH)
        self.num_features = self.grid[0] * self.grid[1]
        self.conv = nn.Conv2d(3, 8, PATCH, PATCH).requires_grad_(False)

    @staticmethod
    def transform(image: Image.Image) -> Tensor:
        pixels = torch.tensor(list(image.convert("RGB").resize((SIDE, SIDE)).tobytes()))
        return pixels.view(SIDE, SIDE, 3).permute(2, 0, 1).double() / 127.5 - 1

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.conv(pixel_values).tanh().flatten(2).transpose(1, 2)


class Resampled(Mapper):
    """A linear layer over all patches."""

    def __init__(self, num_features: int, width: int, prefix_length: int = 3) -> None:
        super().__init__()
        self.prefix_length = prefix_length
        self.linear = nn.Linear(num_features * 8, prefix_length * width)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features.flatten(1)).unflatten(1, (self.prefix_length, -1))


def make_model(family: str = "gpt2") -> PrefixLM:
    torch.manual_seed(1)
    encoder, lm = PatchEncoder(), tiny_lm(family)
    return PrefixLM(encoder, Resampled(encoder.num_features, lm.width), lm).double().eval()


def make_target(model: PrefixLM, image: Image.Image, text: str = " ab", prompt: str = "Caption:") -> Target:
    collate = collator_of(model)
    batch = collate([Row((image, prompt), text)])
    number = int((batch.labels != IGNORE_INDEX).sum()) - 1  # without the EOS

    def score(model, batch):
        return -model(batch).view(len(batch.input_ids), -1)[:, :number]

    task = Captioning(prompt, decoding={"max_new_tokens": 4})
    asked = collate([Row((image, prompt), key="k", id="k")], False, task.name)
    return Target(model, task, asked, batch, text, [text[place] for place in range(number)], score)


@pytest.fixture
def noise():
    """An image of random colours."""
    values = torch.randint(256, (SIDE, SIDE, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return Image.fromarray(values.numpy())


@pytest.fixture(params=["gpt2", "t5"])
def target(request, noise):
    return make_target(make_model(request.param), noise)
