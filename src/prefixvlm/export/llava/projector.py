"""Mappers as LLaVA's projector, which is two linear layers with an activation between them."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from prefixvlm.mapper.interface import Mapper
from prefixvlm.mapper.linear import LinearMapper
from prefixvlm.mapper.mlp import MLPMapper

ACTIVATIONS: dict[type[nn.Module], str] = {nn.Tanh: "tanh", nn.GELU: "gelu", nn.ReLU: "relu", nn.SiLU: "silu"}


def projector(mapper: Mapper, scale: float) -> tuple[str, dict[str, Tensor]]:
    """Return LLaVA's projector_hidden_act and the tensors of its projector.

    scale: of the features that it reads. Raises ValueError for a mapper that it cannot express.
    """
    if not isinstance(mapper, LinearMapper | MLPMapper):
        raise ValueError(f"the mapper is a {type(mapper).__name__}; LLaVA's projector is mapper=llava, linear or mlp")
    if any(isinstance(layer, nn.LayerNorm) for layer in mapper.output):
        raise ValueError("mapper.output_std is set, and LLaVA's projector has no norm: train with output_std=null")
    activation, first, last = _layers(mapper)
    width = last[0].shape[0]
    if width != mapper.lm_width:
        raise ValueError("the mapper makes several embeddings of one feature, which LLaVA's projector does not")
    missing = width - first[0].shape[0]
    if missing < 0:
        raise ValueError(
            f"the mapper's hidden width is {first[0].shape[0]}, and that of LLaVA's projector is {width}: train with "
            "mapper.hidden_ratio of at most 1"
        )
    # Missing hidden units are always 0, as each of these activations is at 0.
    return activation, {
        "linear_1.weight": pad(first[0], (0, 0, 0, missing)) / scale,
        "linear_1.bias": pad(first[1], (0, missing)),
        "linear_2.weight": pad(last[0], (0, missing)),
        "linear_2.bias": last[1],
    }


def _layers(mapper: LinearMapper | MLPMapper) -> tuple[str, list[Tensor], list[Tensor]]:
    """Return the activation, and the weight and bias of each of two layers. The second of a linear mapper is 1."""
    if isinstance(mapper, LinearMapper):
        width = mapper.linear.out_features
        return "linear", _tensors(mapper.linear), [torch.eye(width), torch.zeros(width)]
    return ACTIVATIONS[type(mapper.mlp[1])], _tensors(mapper.mlp[0]), _tensors(mapper.mlp[2])


def _tensors(layer: nn.Module) -> list[Tensor]:
    return [layer.get_parameter("weight").detach(), layer.get_parameter("bias").detach()]
