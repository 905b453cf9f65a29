"""Compare positions with MAE's 2-D sine-cosine embedding, number by number, and test them in the mappers."""

import math

import pytest
import torch

from prefixvlm.mapper.positions import make_positions, sincos
from prefixvlm.mapper.resampler import ResamplerMapper
from prefixvlm.mapper.transformer import TransformerMapper

GRID, WIDTH = (3, 5), 16
WITH_POSITIONS = [TransformerMapper, ResamplerMapper]


def test_sincos_is_maes() -> None:
    """get_2d_sincos_pos_embed of facebookresearch/mae: four quarters, of the column, then of the row."""
    values = sincos(GRID, WIDTH)
    assert values.shape == (15, WIDTH)
    quarter = WIDTH // 4
    for row in range(3):
        for column in range(5):
            for i in range(quarter):
                frequency = 1 / 10000 ** (i / quarter)
                found = values[row * 5 + column]
                assert found[i].item() == pytest.approx(math.sin(column * frequency), abs=1e-6)
                assert found[quarter + i].item() == pytest.approx(math.cos(column * frequency), abs=1e-6)
                assert found[2 * quarter + i].item() == pytest.approx(math.sin(row * frequency), abs=1e-6)
                assert found[3 * quarter + i].item() == pytest.approx(math.cos(row * frequency), abs=1e-6)


@pytest.mark.parametrize("kind", WITH_POSITIONS)
@pytest.mark.parametrize("positions", [None, "sincos", "learned"])
def test_the_order_of_features_matters_only_with_positions(kind, positions) -> None:
    torch.manual_seed(0)
    mapper = kind(12, 15, WIDTH, prefix_length=4, num_heads=4, positions=positions, grid=GRID)
    features = torch.randn(2, 15, 12)
    same = torch.allclose(mapper(features), mapper(features.flip(1)), atol=1e-6)
    assert same == (positions is None)


@pytest.mark.parametrize("kind", WITH_POSITIONS)
def test_learned_positions_are_trained_and_fixed_ones_are_not_in_a_checkpoint(kind) -> None:
    plain, fixed, learned = (
        kind(12, 15, WIDTH, num_heads=4, positions=positions, grid=GRID) for positions in (None, "sincos", "learned")
    )
    assert plain.state_dict().keys() == fixed.state_dict().keys()
    assert learned.state_dict().keys() - plain.state_dict().keys() == {"positions.values"}
    learned(torch.randn(2, 15, 12)).square().sum().backward()
    assert learned.positions.values.grad.abs().sum() > 0
    assert not list(fixed.positions.parameters())


def test_learned_positions_start_as_timms() -> None:
    torch.manual_seed(0)
    values = make_positions("learned", (16, 16), 64).values
    assert values.shape == (256, 64)
    assert (values.mean().item(), values.std().item()) == pytest.approx((0, 0.02), abs=5e-4)


def test_positions_keep_the_precision_of_the_features() -> None:
    for kind in ("sincos", "learned"):
        assert make_positions(kind, GRID, WIDTH)(torch.randn(2, 15, WIDTH).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("positions", ["sincos", "learned"])
@pytest.mark.parametrize("kind", WITH_POSITIONS)
def test_positions_are_made_on_the_meta_device(kind, positions) -> None:
    with torch.device("meta"):
        mapper = kind(12, 15, 64, prefix_length=15, positions=positions, grid=GRID)
        assert mapper(torch.randn(2, 15, 12)).shape == (2, 15, 64)
    assert {p.device.type for p in mapper.parameters()} == {"meta"}


@pytest.mark.parametrize("kind", WITH_POSITIONS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "rope", "grid": GRID}, "positions is 'rope', but it must be null, sincos or learned"),
        ({"positions": "sincos"}, "positions is sincos, but these features have no known grid: set encoder.features"),
        ({"positions": "sincos", "grid": GRID, "lm_width": 18}, "positions is sincos, which needs a width of a multip"),
    ],
)
def test_errors_name_the_key(kind, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"mapper.{message}"):
        kind(12, 15, num_heads=1, **{"lm_width": WIDTH, **options})
