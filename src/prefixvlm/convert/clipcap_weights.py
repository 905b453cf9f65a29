"""Reads a file of ClipCap's weights: GPT-2, the mapper under our names, and the configuration that fits them."""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prefixvlm.checkpoint.untrusted import check_archive

EOS = "."  # ClipCap trains no EOS: a full stop ends its captions
ENCODERS = {512: "clip_vit_b32", 640: "clip_rn50x4", 768: "clip_vit_l14"}  # conf/encoder, by feature width
BUFFER = re.compile(r"\.attn\.(masked_)?bias$")  # the causal mask, which older transformers saved with GPT-2
NAMES = {  # parts of the names of the mappers' tensors: ClipCap's, ours
    "model.": "mlp.",
    "prefix_const": "constants",
    "transformer.layers.": "layers.",
    "attn.to_queries": "attention.query",
    "attn.to_keys_values": "attention.key_value",
    "attn.project": "attention.out",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}


@dataclass(frozen=True)
class ClipCap:
    """The content of a file of weights.

    mapper: by the names of our MLPMapper or TransformerMapper.
    kind: mlp or transformer, a choice of conf/mapper. options: its sizes, by their keys in conf/mapper.
    """

    path: Path
    gpt2: dict[str, Tensor]
    mapper: dict[str, Tensor]
    kind: str
    options: dict[str, int]
    feature_width: int
    lm_width: int

    def overrides(self, encoder: str | None, normalize: bool) -> list[str]:
        """Return the overrides of train.py's configuration that fit the weights.

        encoder: a choice of conf/encoder; None for the CLIP of the same feature width.
        normalize: whether the features were divided by their norm, which the weights do not tell.
        """
        encoder = encoder or ENCODERS.get(self.feature_width)
        if encoder is None:
            raise ValueError(
                f"the weights read features of width {self.feature_width}, not of "
                f"{', '.join(map(str, ENCODERS))}, so their encoder is unknown; set --encoder to one of conf/encoder"
            )
        return [
            f"encoder={encoder}",
            f"encoder.normalize={str(normalize).lower()}",
            "encoder.dtype=float32",
            f"mapper={self.kind}",
            *(f"mapper.{key}={value}" for key, value in self.options.items()),
            "lm=gpt2",
            "lm.dtype=float32",
            f"++lm.eos_token='{EOS}'",
            "task=captioning",
            "task.captioning.prompt=''",
            "++task.captioning.decoding={method: clipcap_beam, num_beams: 5, max_new_tokens: 67, stop: []}",
        ]


def read_clipcap(path: Path) -> ClipCap:
    """Read a state dict of ClipCap's model without running code from the file. Raises ValueError for other files."""
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # on arbitrary bytes the unpickler raises nearly any exception
        raise ValueError(f"{path} is damaged, or holds more than tensors, which may run code") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise refusal(path, "it holds something other than named tensors")
    gpt2, project = _under("gpt.", state), _under("clip_project.", state)
    if len(gpt2) + len(project) < len(state) or not {"transformer.wte.weight", "transformer.wpe.weight"} <= gpt2.keys():
        raise refusal(path, "it has tensors outside gpt and clip_project, or lacks those of GPT-2")
    width = gpt2["transformer.wte.weight"].shape[1]
    mapper = {our_name(name): value for name, value in project.items()}
    try:
        if "mlp.2.weight" in mapper:
            kind, options = "mlp", {"prefix_length": len(mapper["mlp.2.weight"]) // width}
            feature_width = mapper["mlp.0.weight"].shape[1]
        else:
            kind, feature_width = "transformer", mapper["linear.weight"].shape[1]
            options = {
                "prefix_length": len(mapper["constants"]),
                "clip_length": len(mapper["linear.weight"]) // width,
                "num_layers": len({name.split(".")[1] for name in mapper if name.startswith("layers.")}),
            }
    except (KeyError, IndexError) as error:
        raise refusal(path, f"its mapper lacks {error}") from error
    return ClipCap(path, {k: v for k, v in gpt2.items() if not BUFFER.search(k)}, mapper, kind, options,
                   feature_width, width)  # fmt: skip


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def our_name(name: str) -> str:
    """Return the name of one of ClipCap's tensors, without clip_project, in our mapper."""
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


def refusal(path: Path, reason: str) -> ValueError:
    """Return the error for a file that is not ClipCap's."""
    return ValueError(f"{path} is not a checkpoint of ClipCap's ClipCaptionModel: {reason}")
