"""ClipCap's own code, imported from a folder of its repository: the model of train.py and the searches of predict.py.

The files are of 2021. What they import and the benchmark does not use is given by empty modules: clip, cog and skimage.
AdamW of transformers is torch's now.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from sides import FEATURE_WIDTH, PREFIX_LENGTH, Sizes, Tokenizer, random_lm
from torch import Tensor, nn

from prefixvlm.convert.clipcap_weights import our_name
from prefixvlm.mapper.interface import Mapper

FILES = ("train.py", "predict.py")


class Empty(ModuleType):
    """A module in which any name is a class that can be a base class, a decorator and an annotation."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return (lambda *args, **options: lambda function: function) if name.islower() else type(name, (), {})


class Ids(Tokenizer):
    """A tokenizer whose texts are their ids. The stop token is EOS."""

    def encode(self, text: str) -> list[int]:
        return [self.eos_token_id]

    def decode(self, ids: Any) -> list[int]:
        found = [int(each) for each in ids]
        return found[: found.index(self.eos_token_id)] if self.eos_token_id in found else found


class ClipCapRepository:
    """A folder of ClipCap's repository. Raises ValueError if it lacks a file, or one cannot be imported."""

    def __init__(self, folder: Path) -> None:
        if missing := [name for name in FILES if not (folder / name).is_file()]:
            raise ValueError(
                f"CLIPCAP is {folder}, which has no {' and no '.join(missing)}; set it to ClipCap's repository"
            )
        with _stand_ins():
            self.train, self.predict = (_imported(folder / name) for name in FILES)

    def model(self, kind: str, sizes: Sizes) -> nn.Module:
        """Return ClipCap's model with only the mapper trained, around a random GPT-2. kind: mlp or transformer."""
        language_model = random_lm(sizes)
        torch.manual_seed(1)
        with mock.patch.object(self.train.GPT2LMHeadModel, "from_pretrained", return_value=language_model):
            model: nn.Module = self.train.ClipCaptionPrefix(
                PREFIX_LENGTH, PREFIX_LENGTH, FEATURE_WIDTH, 8, self.train.MappingType(kind)
            )
        return model.train()

    def greedy(self, model: Any, features: Tensor, num_tokens: int) -> list[int]:
        """Return the ids of a caption of one image. features: float[1, D]."""
        embeds = model.clip_project(features).reshape(1, PREFIX_LENGTH, -1)
        # Its nucleus, of which it takes the most probable token.
        result: list[int] = self.predict.generate2(model, _ids(model), embed=embeds, entry_length=num_tokens)
        return result

    def beam(self, model: Any, features: Tensor, num_tokens: int, num_beams: int) -> list[int]:
        embeds = model.clip_project(features).reshape(1, PREFIX_LENGTH, -1)
        texts = self.predict.generate_beam(model, _ids(model), num_beams, embed=embeds, entry_length=num_tokens)
        result: list[int] = texts[0]
        return result


def longest(lengths: list[int]) -> int:
    """Return the number of tokens to which its data set pads captions of these lengths."""
    numbers = torch.tensor(lengths).float()
    return min(int(numbers.mean() + 10 * numbers.std()), max(lengths))


def padded(captions: list[list[int]], width: int) -> tuple[Tensor, Tensor]:
    """Return what its data set yields: tokens, int64[S, width] with zeros, and the mask, float[S, P + width]."""
    tokens, mask = torch.zeros(len(captions), width, dtype=torch.long), torch.zeros(len(captions), width)
    for row, caption in enumerate(captions):
        tokens[row, : len(caption)] = torch.tensor(caption)
        mask[row, : len(caption)] = 1
    return tokens, torch.cat([torch.ones(len(captions), PREFIX_LENGTH), mask], 1)


def loss_of(model: nn.Module, tokens: Tensor, features: Tensor, mask: Tensor) -> Tensor:
    """Return the loss as its training loop does: logits of all positions, and token 0 not supervised."""
    logits = model(tokens, features, mask).logits[:, PREFIX_LENGTH - 1 : -1]
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), ignore_index=0)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor, features: Tensor, mask: Tensor) -> None:
    """Take a training step as its loop does: the gradients of GPT-2 are computed, added up and never used."""
    model.zero_grad()
    loss = loss_of(model, tokens, features, mask)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()
    loss.item()


def copy_mapper(model: Any, mapper: Mapper) -> Mapper:
    """Return our mapper with the weights of ClipCap's."""
    mapper.load_state_dict({our_name(name): value for name, value in model.clip_project.state_dict().items()})
    return mapper


def _ids(model: Any) -> Ids:
    return Ids(model.gpt.config.vocab_size)


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"clipcap_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be imported ({error}); set CLIPCAP to ClipCap's repository") from error
    return module


@contextmanager
def _stand_ins() -> Iterator[None]:
    names = ["clip", "cog", "skimage", "skimage.io"]
    with (
        mock.patch.dict(sys.modules, {name: Empty(name) for name in names}),
        # sys.modules: `import transformers` may give the module that it has replaced there.
        mock.patch.object(sys.modules["transformers"], "AdamW", torch.optim.AdamW, create=True),
    ):
        yield
