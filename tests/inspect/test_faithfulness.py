"""Curves of a model in which one patch alone decides the token, where the right order is known."""

from dataclasses import replace

import pytest
import torch

from prefixvlm.inspect.attribution import METHODS, attributions
from prefixvlm.inspect.faithfulness import RANDOM, curves, random_curves, table
from prefixvlm.metrics.bootstrap import bootstrap_interval
from tests.inspect.test_attribution import blank

ROW, COLUMN = 5, 2  # of the patch that decides


@pytest.fixture
def decided(target):
    """A target whose two tokens have a probability that depends on one patch alone: the second falls with the first."""

    def score(model, batch):
        patch = batch.pixel_values[:, :, 2 * ROW : 2 * ROW + 2, 2 * COLUMN : 2 * COLUMN + 2].mean((1, 2, 3))
        return torch.stack([torch.nn.functional.logsigmoid(4 * patch), torch.nn.functional.logsigmoid(-4 * patch)], 1)

    pixels = torch.full_like(target.pixel_values, -1 / 63)  # all other pixels, so that the mean colour is 0
    pixels[:, :, 2 * ROW : 2 * ROW + 2, 2 * COLUMN : 2 * COLUMN + 2] = 1
    return replace(target, batch=replace(target.batch, pixel_values=pixels), score=score, tokens=["a", "b"])


def maps(value):
    found = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    found[:, ROW, COLUMN] = value
    return found


def test_a_map_of_the_deciding_patch_is_faithful_and_others_are_not(decided):
    right, wrong, random = (curves(decided, maps(2)), curves(decided, maps(-1)), random_curves(decided, 16))
    (low, high), (bad_low, bad_high) = right.areas(), wrong.areas()
    chance = [each.mean(0) for each in random.areas()]
    whole, none = torch.tensor([4.0], dtype=torch.float64).sigmoid(), 0.5
    assert low[0] < chance[0][0] < bad_low[0]  # deletion: the sooner it falls the better
    assert high[0] > chance[1][0] > bad_high[0]
    # The patch is in the first step: K steps of 1 / 10, of which the first is a trapezoid.
    torch.testing.assert_close(low[0], none + (whole[0] - none) / 20, atol=0.01, rtol=0)
    torch.testing.assert_close(high[0], whole[0] - (whole[0] - none) / 20, atol=0.01, rtol=0)
    # For the token that the patch speaks against, the same order is the worst one.
    assert low[1] > chance[0][1] > bad_low[1]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_deciding_patch(decided, method):
    values = attributions(decided, method)
    assert values[0].argmax() == 8 * ROW + COLUMN
    assert values[1].argmin() == 8 * ROW + COLUMN
    assert values[0].flatten().sort().values[-2] < 1e-6


def test_curves_begin_and_end_with_the_whole_image_and_none_of_it(target):
    found = curves(target, torch.rand(3, 8, 8))
    ends = target.log_probs(torch.cat([target.pixel_values, blank(target)])).exp().detach()
    for curve in (found.deletion, found.insertion.flip(1)):
        torch.testing.assert_close(curve[:, 0], ends[0])
        torch.testing.assert_close(curve[:, -1], ends[1])
    assert found.shares.tolist() == sorted(found.shares.tolist())
    assert found.shares[0] == 0
    assert found.shares[-1] == 1


def test_a_point_of_a_curve_is_the_image_without_the_first_cells(target):
    values = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    found, place = curves(target, values), 4
    count = round(float(found.shares[place]) * 64)
    for token in range(3):
        first = values[token].flatten().argsort(descending=True)[:count].tolist()
        without, alone = target.pixel_values.clone(), blank(target)
        for cell in first:
            at = (..., slice(cell // 8 * 2, cell // 8 * 2 + 2), slice(cell % 8 * 2, cell % 8 * 2 + 2))
            without[at] = blank(target)[at]
            alone[at] = target.pixel_values[at]
        pair = target.log_probs(torch.cat([without, alone])).exp()[:, token].detach()
        torch.testing.assert_close(found.deletion[token, place], pair[0])
        torch.testing.assert_close(found.insertion[token, place], pair[1])


def test_the_table_pairs_each_token_with_random_maps(decided):
    images = [{"good": curves(decided, maps(2)), RANDOM: random_curves(decided, 4, seed)} for seed in range(5)]
    good, random = table(images)
    assert (good.method, random.method) == ("good", RANDOM)
    assert random.deletion_gain is None
    differences, values = [], []
    for each in images:
        values += (area := each["good"].areas()[1]).tolist()
        differences += (area - each[RANDOM].areas()[1].mean(0)).tolist()
    groups = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert good.insertion == pytest.approx((sum(values) / 10, *bootstrap_interval(values, groups)))
    assert good.insertion_gain == pytest.approx((sum(differences) / 10, *bootstrap_interval(differences, groups)))
