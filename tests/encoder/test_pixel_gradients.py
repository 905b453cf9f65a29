"""Gradients of pixels through frozen encoders, which heat maps need and training does not."""

import pytest
import torch

from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.encoder.timm import TimmEncoder
from tests.test_end_to_end import tiny_clip


@pytest.mark.parametrize("features", ["pooled", "patch"])
@pytest.mark.parametrize("kind", ["clip", "resnet"])
def test_a_frozen_encoder_has_gradients_of_pixels_that_require_them_only(tmp_path, kind, features):
    if kind == "clip":
        encoder = OpenClipEncoder(f"local-dir:{tiny_clip(tmp_path / 'clip')}", features=features)
    else:
        encoder = TimmEncoder("test_resnet.r160_in1k", pretrained="random", features=features)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    assert not encoder(pixels).requires_grad
    leaf = pixels.clone().requires_grad_()
    weights = torch.randn(encoder(leaf).shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((encoder(leaf) * weights).sum(), leaf)
    encoder.visual.double()  # a small step, between the kinks of a ReLU
    step = 1e-3 * gradient / gradient.norm()
    change = ((encoder(pixels.double() + step) - encoder(pixels.double() - step)).double() * weights).sum() / 2
    assert float((gradient * step).sum()) == pytest.approx(float(change), rel=0.05)
    assert all(parameter.grad is None for parameter in encoder.parameters())
    with torch.no_grad():
        assert not encoder(leaf).requires_grad
