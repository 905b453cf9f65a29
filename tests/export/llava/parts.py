"""Checkpoints of small random parts that LLaVA can express."""

import torch
from omegaconf import OmegaConf
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from prefixvlm.build import build_module
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO
from tests.conftest import tiny_lm
from tests.test_end_to_end import tiny_clip

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
VIT = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 16, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1}
TASKS = {
    "captioning": {"_target_": "prefixvlm.task.captioning.Captioning", "prompt": "Caption:"},
    "vqa": {"_target_": "prefixvlm.task.vqa.Vqa", "prompt": "Question: {question} Answer:"},
}
OPTIM = {
    "_target_": "prefixvlm.training.optim.Optim",
    "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True},
    "lr": 0.001,
}
TIMM = {"_target_": "prefixvlm.encoder.timm.TimmEncoder", "pretrained": "random"}
CAUSAL = {"_target_": "prefixvlm.lm.causal.CausalLM.from_pretrained", "dtype": "float32"}


def vit(num_classes, **kind):
    model = VisionTransformer(**SIZE, **kind, num_classes=num_classes)
    model.pretrained_cfg = {"input_size": (3, 32, 32), "interpolation": "bicubic", "crop_pct": 1.0, "mean": (0.5,) * 3}
    return model


@register_model
def vit_test_siglip(pretrained=False, num_classes=0, **_):
    """As timm's SigLIP: no class token, a bias of the patches, and an attention pool that patch features leave out."""
    return vit(num_classes, class_token=False, global_pool="map")


@register_model
def vit_test_clip(pretrained=False, num_classes=0, **_):
    """As timm's CLIP with QuickGELU: a class token, and a norm before the blocks."""
    return vit(num_classes, pre_norm=True, act_layer="quick_gelu", norm_layer=nn.LayerNorm)


@register_model
def vit_test_plain(pretrained=False, num_classes=0, **_):
    """As timm's ViT: a class token without a norm before the blocks."""
    return vit(num_classes)


def clip_folder(folder, quick_gelu=False, **vision):
    config = {"embed_dim": 16, "vision_cfg": {**VIT, **vision}, "text_cfg": TEXT, "quick_gelu": quick_gelu}
    return tiny_clip(folder, config=config)


def llama_tokenizer(kind):
    """A tokenizer of characters with BOS before a text, and for "sentencepiece" with a space before it, too."""
    letters = "▁:?,.abcdefghijklmnopqrstuvwxyzACQ"
    tokens = {token: place for place, token in enumerate(["<unk>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[], unk_token="<unk>"))
    scheme = "first" if kind == "sentencepiece" else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def checkpoint(folder, encoder=None, mapper=None, family="llama", tasks=None, lm=None, std=0.3, tokenizer=None, **axes):
    """Write folder/x.ckpt and return its path. encoder, mapper, lm: options, in place of those of LLaVA-1.5."""
    lm = lm or {**CAUSAL, "name": str(folder / "lm")}
    if "name" in lm:
        model = tiny_lm(family)
        model.model.save_pretrained(folder / "lm")
        (tokenizer or model.tokenizer).save_pretrained(folder / "lm")
    if "_target_" not in (encoder or {}):
        name = {} if "model_name" in (encoder or {}) else {"model_name": f"local-dir:{clip_folder(folder / 'clip')}"}
        encoder = {"_target_": "prefixvlm.encoder.openclip.OpenClipEncoder", **name, **(encoder or {})}
    if "_target_" not in (mapper or {}):
        llava = {"prefix_length": None, "hidden_ratio": 1.0, "activation": "gelu"}
        mapper = {"_target_": "prefixvlm.mapper.mlp.MLPMapper", **llava, **(mapper or {})}
    cfg = {
        "seed": 5,
        "encoder": {"features": "patch", **encoder},
        "mapper": mapper,
        "lm": lm,
        "task": tasks or TASKS,
        "module": {"_target_": "prefixvlm.training.module.PrefixModule"},
        "optim": OPTIM,
        **axes,
    }
    torch.manual_seed(cfg["seed"])
    module = build_module(OmegaConf.create(cfg)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=std)  # also those that are 0 at first, as half of LoRA's
    content = {"state_dict": {}}
    module.on_save_checkpoint(content)
    AtomicCheckpointIO().save_checkpoint(content, folder / "x.ckpt")
    return folder / "x.ckpt"
