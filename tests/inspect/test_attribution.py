"""Heat maps against finite differences, captum and naive loops; and that a model is left as it was."""

import pytest
import torch
from captum.attr import IntegratedGradients
from PIL import Image

import prefixvlm
from prefixvlm.inspect.attribution import (
    METHODS,
    attributions,
    gradient_x_input,
    gradients,
    heat_maps,
    integrated_gradients,
    occlusion,
    scaled,
)
from prefixvlm.inspect.cells import Cells
from tests.inference.test_predictor import made, write_checkpoint  # noqa: F401  # a fixture
from tests.inspect.conftest import PATCH, SIDE, make_model, make_target

CELLS = SIDE // PATCH


def naive_log_probs(target, pixel_values):
    """The log-probabilities of the tokens in float64, by transformers' own forward: float64[B, T]."""
    model, batch = target.model, target.batch
    prefix = model.prefix_embeds(pixel_values)
    is_target = batch.labels[0] >= 0
    ids, found = batch.labels[0, is_target], []
    for each in prefix:
        rows = []
        for place, token in enumerate(batch.input_ids[0].tolist()):
            inside = place < len(each) and token < 0
            rows.append(each[place] if inside else model.lm.embed(torch.tensor(token)))
        embeds = torch.stack(rows)[None]
        if model.lm.encodes_prompts:
            prompt = embeds[:, ~is_target]
            logits = model.lm.model(inputs_embeds=prompt, labels=ids[None]).logits[0]
        else:
            logits = model.lm.model(inputs_embeds=embeds).logits[0, :-1][is_target[1:]]
        found.append(logits.double().log_softmax(-1)[torch.arange(len(ids)), ids])
    return torch.stack(found)[:, : len(target.tokens)]


def blank(target):
    return torch.stack([each.mean().expand(SIDE, SIDE) for each in target.pixel_values[0]])[None]


def test_gradient_x_input_is_that_of_finite_differences(noise):
    target = make_target(make_model("gpt2"), noise)  # T5 and Llama have layer norms in float32, also in float64
    image, step = target.pixel_values, 1e-5
    inputs = image - image.mean((2, 3), keepdim=True)
    expected = torch.zeros(len(target.tokens), CELLS, CELLS, dtype=torch.float64)
    with torch.no_grad():
        for place in range(0, image.numel(), 7):  # each seventh pixel value, or it takes a minute
            change = torch.zeros(image.numel(), dtype=torch.float64)
            change[place] = step
            change = change.view(image.shape)
            pair = naive_log_probs(target, torch.cat([image + change, image - change]))
            _, row, column = torch.unravel_index(torch.tensor(place), image.shape[1:])
            expected[:, row // PATCH, column // PATCH] += (pair[0] - pair[1]) / (2 * step) * inputs.flatten()[place]
    chosen = torch.zeros(image.numel())
    chosen[::7] = 1
    found = Cells.of(target.model, SIDE, SIDE).sums(
        (gradients(target, image)[:, 0] * inputs * chosen.view(image.shape)).sum(1)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_gradient_x_input_sums_over_channels_and_cells(target):
    cells = Cells.of(target.model, SIDE, SIDE)
    product = gradients(target, target.pixel_values)[:, 0] * (target.pixel_values - blank(target))
    blocks = product.unflatten(3, (CELLS, PATCH)).unflatten(2, (CELLS, PATCH)).sum((1, 3, 5))
    torch.testing.assert_close(gradient_x_input(target, cells), blocks)
    assert blocks.std() > 0


def test_integrated_gradients_are_those_of_captum(target):
    cells = Cells.of(target.model, SIDE, SIDE)
    found = integrated_gradients(target, cells, steps=12)
    captum = IntegratedGradients(target.log_probs)
    for token in range(len(target.tokens)):
        whole = captum.attribute(target.pixel_values, blank(target), target=token, n_steps=12, method="gausslegendre")
        torch.testing.assert_close(found[token], cells.sums(whole.sum(1))[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", ["gpt2"], indirect=True)  # the ReLU of T5 makes the sum converge slowly
def test_integrated_gradients_are_complete(target):
    found = integrated_gradients(target, Cells.of(target.model, SIDE, SIDE), steps=200)
    with torch.no_grad():
        ends = naive_log_probs(target, torch.cat([target.pixel_values, blank(target)]))
    assert (ends[0] - ends[1]).abs().min() > 0.01
    torch.testing.assert_close(found.sum((1, 2)), ends[0] - ends[1], rtol=0, atol=1e-3)


def test_occlusion_is_that_of_a_loop(target):
    found = occlusion(target, Cells.of(target.model, SIDE, SIDE))
    with torch.no_grad():
        whole = naive_log_probs(target, target.pixel_values)[0]
        for row in range(0, CELLS, 3):
            for column in range(CELLS):
                image = target.pixel_values.clone()
                at = (..., slice(row * PATCH, (row + 1) * PATCH), slice(column * PATCH, (column + 1) * PATCH))
                image[at] = blank(target)[at]
                fall = whole - naive_log_probs(target, image)[0]
                torch.testing.assert_close(found[:, row, column].double(), fall, rtol=1e-4, atol=4e-6)


@pytest.mark.parametrize(
    ("patches", "pixels", "cells"),
    [(8, 64, 8), (14, 224, 14), (24, 336, 12), (37, 518, 13), (7, 224, 14), (2, 64, 8), (1, 3, 3), (14, 5, 5)],
)
def test_cells_are_patches_merged_or_divided(patches, pixels, cells):
    class Model:
        class encoder:  # noqa: N801
            grid = (patches, patches)

    found = Cells.of(Model, pixels, pixels)
    assert (found.rows, found.columns) == (cells, cells)
    assert found.index.unique().tolist() == list(range(cells * cells))
    sums = found.sums(torch.ones(2, pixels, pixels))
    assert sums.sum() == 2 * pixels * pixels
    assert sums.shape == (2, cells, cells)


def test_maps_are_scaled_for_each_token():
    values = torch.tensor([[[2.0, -1.0]], [[0.5, 0.25]], [[-1.0, -2.0]]])
    assert scaled(values).tolist() == [[[1, 0]], [[1, 0.5]], [[0, 0]]]


@pytest.fixture(scope="module")
def captioner(made):  # noqa: F811
    return prefixvlm.load(made[1])


@pytest.mark.parametrize("method", METHODS)
def test_heat_maps_of_a_checkpoint(captioner, made, method):  # noqa: F811
    said = captioner.answer(made[2][0], "what?")
    found = heat_maps(captioner, made[2][0], "what?", method=method)
    expected = captioner.log_probs(made[2][0], said, "what?")[:-1]
    assert found.tokens == [token for token, _ in expected]
    torch.testing.assert_close(found.log_probs, torch.tensor([value for _, value in expected]))
    assert found.maps.shape == (len(found.tokens), 8, 8)
    assert found.maps.amin() == 0
    assert (found.maps.amax((1, 2)) == 1).all()
    assert found.picture.size == (64, 64)
    other = heat_maps(captioner, made[2][0], text="xy", method=method)
    assert other.tokens == [token for token, _ in captioner.log_probs(made[2][0], "xy")[:-1]]


def test_the_picture_is_the_image(captioner):
    picture = heat_maps(captioner, Image.new("RGB", (80, 60), (200, 30, 90)), text="a").picture
    assert max(abs(a - b) for a, b in zip(picture.getpixel((30, 30)), (200, 30, 90), strict=True)) <= 1


@pytest.mark.parametrize("method", METHODS)
def test_a_model_is_left_as_it_was(captioner, made, method):  # noqa: F811
    model = captioner.module.model
    before = {name: (p.requires_grad, p.clone()) for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    attention = model.lm.model.config._attn_implementation
    with torch.inference_mode():  # as a server may be
        heat_maps(captioner, made[2][0], method=method)
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert any(required for required, _ in before.values()), "the mapper is trained"
    assert [module.training for module in model.modules()] == modes
    assert model.lm.model.config._attn_implementation == attention
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    assert not any(getattr(module, each) for module in model.modules() for each in hooks)


def test_what_cannot_be_explained_is_one_sentence(captioner, made):  # noqa: F811
    with pytest.raises(ValueError, match="method is 'lime'; accepted are gradient_x_input"):
        heat_maps(captioner, made[2][0], method="lime")
    with pytest.raises(ValueError, match="says nothing.*give the text"):
        heat_maps(captioner, made[2][0], text=" ")


def test_an_encoder_without_gradients_is_named(target):
    forward = target.model.encoder.forward
    target.model.encoder.forward = lambda pixels: forward(pixels.detach())
    target.model.requires_grad_(False)
    with pytest.raises(ValueError, match="PatchEncoder computes no gradients of its pixels; set the method to occl"):
        attributions(target, "gradient_x_input")
    assert attributions(target, "occlusion").shape == (3, 8, 8)
