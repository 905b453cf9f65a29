"""ClipCap's weights and the encoder and mapper that they fit go in; a folder with GPT-2 and a checkpoint comes out."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from prefixvlm.convert.clipcap_weights import EOS, ClipCap, refusal
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.lm.causal import CausalLM
from prefixvlm.mapper.interface import Mapper
from prefixvlm.model.trained_state import fingerprint
from prefixvlm.training.checkpoint import KEY, AtomicCheckpointIO

MODEL, CHECKPOINT = "lm", "clipcap.ckpt"
HEAD_WIDTH = 64  # of every published GPT-2


def write_clipcap(
    weights: ClipCap,
    out: Path,
    config: dict[str, Any],
    encoder: ImageEncoder,
    mapper: Mapper,
    tokenizer: str = "gpt2",
    num_heads: int | None = None,
) -> None:
    """Write out/lm, for transformers, and out/clipcap.ckpt, for an evaluation; both, or nothing.

    config: of a run with the weights' overrides. encoder, mapper: as it says; the encoder may be without weights, for
    its shape is all that is known of ClipCap's. tokenizer: a local folder or a hub id. num_heads: of GPT-2.
    Raises ValueError if out is there, or where something does not fit.
    """
    out = out.resolve()
    if out.exists():
        raise ValueError(f"{out} exists; set --out to a new folder")
    if (encoder.num_features, encoder.feature_width) != (1, weights.feature_width):
        raise ValueError(
            f"the weights read one feature of width {weights.feature_width} an image, but this encoder gives "
            f"{encoder.num_features} of width {encoder.feature_width}; set --encoder"
        )
    _fill(mapper, weights.mapper, weights.path)
    words = _tokenizer(tokenizer, len(weights.gpt2["transformer.wte.weight"]))
    model = _gpt2(weights, num_heads, words.eos_token_id)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        temporary.chmod(out.parent.stat().st_mode & 0o777)  # mkdtemp's are for their owner alone
        model.save_pretrained(temporary / MODEL)
        words.save_pretrained(temporary / MODEL)
        words.eos_token = EOS
        config["lm"]["name"] = str(out / MODEL)
        checkpoint = {
            "epoch": 0,
            "global_step": 0,
            "state_dict": {f"model.mapper.{name}": value for name, value in mapper.state_dict().items()},
            "callbacks": {},
            # Which encoder it was, nothing in the file tells.
            KEY: {"config": config, "identity": {"lm": fingerprint(CausalLM(model, words))}, "lineage": []},
        }
        AtomicCheckpointIO().save_checkpoint(checkpoint, temporary / CHECKPOINT)
        temporary.rename(out)
    except SafetensorError as error:  # its way to say that the disk is full
        raise OSError(f"{out} cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _gpt2(weights: ClipCap, num_heads: int | None, eos_id: int | None) -> GPT2LMHeadModel:
    """In float32, of whichever size, with its head tied to its embeddings where the two are the same."""
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
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    model = model.to_empty(device="cpu")
    model.tie_weights()
    _fill(model, state, weights.path)
    return model.eval()


def _tokenizer(name: str, num_tokens: int) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the tokenizer {name!r} is neither a local folder nor to be had from the hub "
            f"({str(error).splitlines()[0]}); set --tokenizer"
        ) from error
    if len(tokenizer) > num_tokens or len(tokenizer(EOS, add_special_tokens=False).input_ids) != 1:
        raise ValueError(
            f"the tokenizer {name!r} has {len(tokenizer)} tokens, and the weights' GPT-2 has {num_tokens}, of which "
            f"{EOS!r} must be one; set --tokenizer"
        )
    return tokenizer


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict({name: value.float() for name, value in state.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n", 1)[-1].split())
        raise refusal(path, f"its {type(module).__name__} is another: {reason[:200]}") from error
