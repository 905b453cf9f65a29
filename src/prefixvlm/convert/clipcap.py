"""Converts ClipCap's weights into a folder with its GPT-2 and a prefixvlm checkpoint."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from prefixvlm.atomic import replacing_folder
from prefixvlm.convert.clipcap_weights import EOS, ClipCap, refusal
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.lm.causal import CausalLM
from prefixvlm.lm.saving import save_pretrained
from prefixvlm.mapper.interface import Mapper
from prefixvlm.model.trained_state import fingerprint
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO

MODEL, CHECKPOINT = "lm", "clipcap.ckpt"
HEAD_WIDTH = 64  # of every published GPT-2; the weights do not tell it


def write_clipcap(
    weights: ClipCap,
    out: Path,
    config: dict[str, Any],
    encoder: ImageEncoder,
    mapper: Mapper,
    tokenizer: str = "gpt2",
    num_heads: int | None = None,
) -> None:
    """Write out/lm, which transformers can load, and out/clipcap.ckpt, for an evaluation.

    config: of a run with the overrides of the weights; its lm.name is set to out/lm.
    encoder, mapper: built from that configuration. The encoder may be on the meta device: only its shape is checked.
    tokenizer: a local folder or a hub id. num_heads: of GPT-2; by default its width divided by 64.
    Raises ValueError if `out` exists or if something does not fit the weights.
    """
    out = out.resolve()
    if out.exists():
        raise ValueError(f"{out} exists; set --out to a new folder")
    if (encoder.num_features, encoder.feature_width) != (1, weights.feature_width):
        raise ValueError(
            f"the weights read one feature of width {weights.feature_width} an image, but this encoder gives "
            f"{encoder.num_features} of width {encoder.feature_width}; set --encoder"
        )
    _load(mapper, weights.mapper, weights.path)
    words = _tokenizer(tokenizer, len(weights.gpt2["transformer.wte.weight"]))
    model = _gpt2(weights, num_heads, words.eos_token_id)
    with replacing_folder(out) as folder:
        save_pretrained(model, words, folder / MODEL)
        words.eos_token = EOS  # not before: the saved tokenizer stays GPT-2's
        config["lm"]["name"] = str(out / MODEL)
        AtomicCheckpointIO().save_checkpoint(_checkpoint(config, mapper, CausalLM(model, words)), folder / CHECKPOINT)


def _checkpoint(config: dict[str, Any], mapper: Mapper, lm: CausalLM) -> dict[str, Any]:
    return {
        "epoch": 0,
        "global_step": 0,
        "state_dict": {f"model.mapper.{name}": value for name, value in mapper.state_dict().items()},
        "callbacks": {},
        # Without the identity of the encoder, which ClipCap's file does not tell.
        KEY: {"config": config, "identity": {"lm": fingerprint(lm)}, "lineage": []},
    }


def _gpt2(weights: ClipCap, num_heads: int | None, eos_id: int | None) -> GPT2LMHeadModel:
    """Return GPT-2 in float32 with the sizes of the weights; its head is tied if it equals the embeddings."""
    state = {"lm_head.weight": weights.gpt2["transformer.wte.weight"], **weights.gpt2}
    width = weights.lm_width
    heads = f"heads of {HEAD_WIDTH}" if num_heads is None else f"{num_heads} heads"
    if num_heads is None:
        num_heads = width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 0
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"the weights' GPT-2 is {width} wide and does not divide into {heads}; set --num-heads")
    inner = state.get("transformer.h.0.mlp.c_fc.weight")
    config = GPT2Config(
        vocab_size=len(state["transformer.wte.weight"]),
        n_positions=len(state["transformer.wpe.weight"]),
        n_embd=width,
        n_layer=len({name.split(".")[2] for name in state if name.startswith("transformer.h.")}),
        n_head=num_heads,
        n_inner=None if inner is None else inner.shape[-1],
        bos_token_id=eos_id,
        eos_token_id=eos_id,
        tie_word_embeddings=torch.equal(state["lm_head.weight"], state["transformer.wte.weight"]),
    )
    with torch.device("meta"):  # saves the random initialisation of weights that are then replaced
        model = GPT2LMHeadModel(config)
    model = model.to_empty(device="cpu")
    model.tie_weights()
    _load(model, state, weights.path)
    return model.eval()


def _tokenizer(name: str, num_tokens: int) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the tokenizer {name!r} is neither a local folder nor available from the hub "
            f"({str(error).splitlines()[0]}); set --tokenizer"
        ) from error
    if len(tokenizer) > num_tokens or len(tokenizer(EOS, add_special_tokens=False).input_ids) != 1:
        raise ValueError(
            f"the tokenizer {name!r} has {len(tokenizer)} tokens, but it must have at most the {num_tokens} of the "
            f"weights' GPT-2, and {EOS!r} must be one token; set --tokenizer"
        )
    return tokenizer


def _load(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict({name: value.float() for name, value in state.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n", 1)[-1].split())
        raise refusal(path, f"its {type(module).__name__} is another: {reason[:200]}") from error
