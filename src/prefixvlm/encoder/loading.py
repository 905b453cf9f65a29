"""What loading weights has in common for open_clip and timm: errors, random weights of controls, the meta device."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

RANDOM = "random"  # value of encoder.pretrained for a control: frozen weights that were never trained
# All that open_clip, timm and their downloads raise for a name or a file that does not fit; neither has a base class.
LOAD_ERRORS = (
    RuntimeError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AssertionError,
    pickle.UnpicklingError,
    SafetensorError,
)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class for an empty one, such as a bare assert's."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def on_meta() -> bool:
    """Return whether new tensors have no values: only widths and sizes are needed then, and no weights are loaded."""
    return torch.get_default_device().type == "meta"


def check_random(pretrained: object, trained: bool) -> None:
    """Raise ValueError if the random weights of a control are to be trained."""
    if pretrained == RANDOM and trained:
        raise ValueError(
            "encoder.pretrained is random, which is for a frozen control: set encoder.pretrained=null to train from "
            "scratch, or encoder.trained=false"
        )


@contextmanager
def fixed_random_weights(pretrained: object) -> Iterator[None]:
    """Seed the initialisation of a control's weights, and restore the random state afterwards.

    A checkpoint holds no frozen weights, so an evaluation must draw the same ones again. Weights that are trained from
    scratch still follow the seed of the run.
    """
    with torch.random.fork_rng(devices=[], enabled=pretrained == RANDOM):
        if pretrained == RANDOM:
            # A constant, so that runs with different seeds share a control. Frozen is arXiv:2106.13884.
            torch.default_generator.manual_seed(210613884)
        yield
