"""Image encoders as the CLIP and SigLIP vision towers of transformers."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer as OpenClipViT
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn
from transformers import CLIPVisionConfig, SiglipVisionConfig

from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.encoder.pretrained import PretrainedEncoder

# Names of the tensors in transformers by those of open_clip and of timm. {} is the number of a block.
COMMON = {
    "{}.ln_1": "encoder.layers.{}.layer_norm1",
    "{}.ln_2": "encoder.layers.{}.layer_norm2",
    "{}.attn.out_proj": "encoder.layers.{}.self_attn.out_proj",
    "{}.mlp.c_fc": "encoder.layers.{}.mlp.fc1",
    "{}.mlp.c_proj": "encoder.layers.{}.mlp.fc2",
}
OPEN_CLIP = {
    "conv1": "embeddings.patch_embedding",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    **{f"transformer.resblocks.{name}": other for name, other in COMMON.items()},
}
TIMM = {
    "patch_embed.proj": "embeddings.patch_embedding",
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding.weight",
    "norm_pre": "pre_layrnorm",
    "norm": "post_layernorm",
    "blocks.{}.norm1": "encoder.layers.{}.layer_norm1",
    "blocks.{}.norm2": "encoder.layers.{}.layer_norm2",
    "blocks.{}.attn.proj": "encoder.layers.{}.self_attn.out_proj",
    "blocks.{}.mlp.fc1": "encoder.layers.{}.mlp.fc1",
    "blocks.{}.mlp.fc2": "encoder.layers.{}.mlp.fc2",
}
FUSED = ("attn.in_proj_weight", "attn.in_proj_bias", "attn.qkv.weight", "attn.qkv.bias")
POOLING = ("proj", "attn_pool.", "attn_pool_contrastive.", "fc_norm.", "head.")  # not read for patch features
# A final norm is written as a block x + NORM_SCALE * norm(x), of which float32 and bfloat16 keep nothing of x. A power
# of two, so that dividing the next weights by it is exact.
NORM_SCALE = 2.0**40


@dataclass(frozen=True)
class VisionTower:
    """A vision tower of transformers. state: its tensors by name.

    layers: LLaVA's vision_feature_layer. scale: of the features, by which LLaVA's first projection is divided.
    """

    config: CLIPVisionConfig | SiglipVisionConfig
    state: dict[str, Tensor]
    layers: int | list[int]
    scale: float

    @property
    def has_class_token(self) -> bool:
        return isinstance(self.config, CLIPVisionConfig)


def vision_tower(encoder: ImageEncoder) -> VisionTower:
    """Return the tower that computes the encoder's features. Raises ValueError if neither CLIP nor SigLIP can."""
    if not isinstance(encoder, PretrainedEncoder):
        raise ValueError(f"the encoder is a {type(encoder).__name__}, which LLaVA's vision tower cannot express")
    _check_features(encoder)
    visual = encoder.visual.trunk if isinstance(encoder.visual, TimmModel) else encoder.visual
    if not isinstance(visual, OpenClipViT | TimmViT):
        raise ValueError(f"the encoder is a {type(visual).__name__}; LLaVA's vision tower is a ViT of CLIP or SigLIP")
    state = dict(_renamed(visual))
    blocks = visual.transformer.resblocks if isinstance(visual, OpenClipViT) else visual.blocks
    config = _config(visual, blocks, state)
    number = len(blocks)
    if encoder.layers is not None:
        # The libraries return the layers in the order of the model.
        places = sorted(layer % number - number for layer in encoder.layers)
        return VisionTower(config, state, places[0] if len(places) == 1 else places, 1.0)
    if getattr(visual, "attn_pool", None) is not None and isinstance(visual, OpenClipViT):
        return VisionTower(config, state, -1, 1.0)  # CoCa's last norm belongs to its attention pooling
    config.num_hidden_layers += 1
    state |= _norm_as_block(state, f"encoder.layers.{number}.", config.intermediate_size)
    return VisionTower(config, state, -1, NORM_SCALE)


def _check_features(encoder: PretrainedEncoder) -> None:
    if encoder.pooled:
        raise ValueError("encoder.features is pooled, and LLaVA reads patches: train with encoder.features=patch")
    for key, neutral in (("normalize", False), ("average_pooling", 1), ("pixel_shuffle", 1)):
        if (value := getattr(encoder, key)) != neutral:
            raise ValueError(f"encoder.{key} is {value}, which LLaVA's vision tower cannot express")


def _renamed(visual: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors by their names in transformers. Raises ValueError for one that has no place there."""
    names = OPEN_CLIP if isinstance(visual, OpenClipViT) else TIMM
    for name, tensor in visual.state_dict().items():
        if name.startswith(POOLING):
            continue
        number = next(iter(re.findall(r"\d+", name)), "")
        if name.endswith(FUSED):  # queries, keys and values in one matrix
            kind = name.replace("_", ".").rsplit(".", 1)[1]
            for part, values in zip("qkv", tensor.chunk(3), strict=True):
                yield f"encoder.layers.{number}.self_attn.{part}_proj.{kind}", values
            continue
        stem, dot, kind = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "")
        if (new := names.get(re.sub(r"\d+", "{}", stem, count=1) if number else stem)) is None:
            new = names.get(stem)
        if new is None:
            raise ValueError(f"the encoder has {name}, which the vision towers of CLIP and SigLIP have not")
        new = new.format(number) + dot + kind
        if new == "embeddings.class_embedding":
            tensor = tensor.flatten()
        yield new, tensor.squeeze(0) if new == "embeddings.position_embedding.weight" and tensor.ndim == 3 else tensor


def _config(visual: Any, blocks: Any, state: dict[str, Tensor]) -> CLIPVisionConfig | SiglipVisionConfig:
    patch = state["embeddings.patch_embedding.weight"]
    with_class, with_norm = "embeddings.class_embedding" in state, "pre_layrnorm.weight" in state
    if with_class != with_norm:
        having = "a class token and no norm" if with_class else "a norm and no class token"
        raise ValueError(f"the encoder is a ViT with {having} before its blocks, as neither CLIP nor SigLIP is")
    image_size = _square(visual.image_size if isinstance(visual, OpenClipViT) else visual.patch_embed.img_size)
    mlp = blocks[0].mlp
    options: dict[str, Any] = {
        "hidden_size": patch.shape[0],
        "intermediate_size": state["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len(blocks),
        "num_attention_heads": blocks[0].attn.num_heads,
        "image_size": image_size,
        "patch_size": _square(patch.shape[2:]),
        "hidden_act": _activation(mlp.gelu if isinstance(visual, OpenClipViT) else mlp.act),
        "layer_norm_eps": _epsilon(visual),
    }
    if with_class:
        return CLIPVisionConfig(**options)
    width = patch.shape[0]
    state.setdefault("embeddings.patch_embedding.bias", patch.new_zeros(width))
    return SiglipVisionConfig(**options, vision_use_head=False)


def _square(size: Any) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ValueError(f"the encoder has images or patches of {height} x {width}, and LLaVA's are square")
    return int(height)


def _activation(layer: nn.Module) -> str:
    name = type(layer).__name__
    if name == "GELU" and getattr(layer, "approximate", "none") == "none":
        return "gelu"
    known = {"QuickGELU": "quick_gelu", "GELUTanh": "gelu_pytorch_tanh", "GELU": "gelu_pytorch_tanh"}
    if name not in known:
        raise ValueError(f"the encoder has the activation {name}; an exported one has a GELU")
    return known[name]


def _epsilon(visual: nn.Module) -> float:
    values = {layer.eps for layer in visual.modules() if isinstance(layer, nn.LayerNorm)}
    if len(values) != 1:
        raise ValueError(f"the encoder has layer norms of eps {sorted(values)}, and LLaVA's vision tower one eps")
    return float(values.pop())


def _norm_as_block(state: dict[str, Tensor], block: str, intermediate: int) -> dict[str, Tensor]:
    """Return the tensors of a block that multiplies the final norm of its input by NORM_SCALE, in place of the input.

    LLaVA reads the output of a block, before the final norm, but an encoder without encoder.layer applies the norm. In
    the block, the norm before the MLP is that norm, and the MLP is linear: for every GELU act(t) - act(-t) = t.
    """
    weight, bias = state["post_layernorm.weight"], state["post_layernorm.bias"]
    width = len(weight)
    if intermediate < 2 * width:
        raise ValueError(
            f"the encoder's MLPs have {intermediate} units, too few for the final norm to be a block of LLaVA's "
            "vision tower: train with encoder.layer=-1, which has no final norm"
        )
    eye, zeros = torch.eye(width, dtype=weight.dtype), torch.zeros(width, dtype=weight.dtype)
    padded = torch.cat([eye, -eye, eye.new_zeros(intermediate - 2 * width, width)])
    block_state = {
        "layer_norm1.weight": torch.ones_like(weight),
        "layer_norm1.bias": zeros,
        "layer_norm2.weight": weight.clone(),
        "layer_norm2.bias": bias.clone(),
        "mlp.fc1.weight": padded,
        "mlp.fc1.bias": zeros.new_zeros(intermediate),
        "mlp.fc2.weight": NORM_SCALE * padded.T.contiguous(),
        "mlp.fc2.bias": zeros.clone(),
    }
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):  # attention adds nothing
        block_state |= {f"self_attn.{part}.weight": torch.zeros_like(eye), f"self_attn.{part}.bias": zeros.clone()}
    return {block + name: tensor for name, tensor in block_state.items()}
