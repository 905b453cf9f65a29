"""Load Hugging Face language models with their tokenizers, and refuse incomplete weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from prefixvlm.lm.architectures import CONFIGS
from prefixvlm.lm.quantization import keep_4bit_frozen, quantization_options
from prefixvlm.precision import dtype_of

# No others: transformers takes a name with a slash for a repository of kernels, whose code it would run.
ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")


def load_model(
    auto_class: Any,
    name: str,
    dtype: str = "auto",
    attention: str = "sdpa",
    eos_token: str | None = None,
    revision: str | None = None,
    quantization: str | None = None,
    weights: str = "pretrained",
    unused: str = "",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a hub id or a local folder. On torch's default device "meta" only the architecture is built.

    auto_class: one of transformers' Auto classes. attention: one of ATTENTIONS.
    dtype: auto (see precision.fast_dtype), float32, bfloat16 or float16. quantization: null, int8 or nf4.
    weights: pretrained, or random for a control. unused: prefix of the names of weights that may be missing.
    Raises ValueError if the weights cannot be loaded or are incomplete.
    """
    if attention not in ATTENTIONS:
        raise ValueError(f"lm.attention is {attention!r}; accepted are {', '.join(ATTENTIONS)}")
    if weights not in ("pretrained", "random"):
        raise ValueError(f"lm.weights is {weights!r}; accepted are pretrained and random")
    if quantization and weights == "random":
        raise ValueError("lm.weights=random cannot be quantized; set lm.quantization=null")
    # The dtype changes the numbers of a quantised model, so auto is then the same on all machines.
    torch_dtype = dtype_of("lm.dtype", "bfloat16" if quantization and dtype == "auto" else dtype)
    quantized = quantization_options(quantization, torch_dtype)
    with _errors_of(name, attention):
        if torch.get_default_device().type == "meta":
            return _from_config(auto_class, _config(name, revision), "eager"), _placeholder_tokenizer()
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        if weights == "random":
            model = _random(auto_class, _config(name, revision), attention, torch_dtype)
        else:
            model = _pretrained(auto_class, name, revision, attention, unused, dtype=torch_dtype, **quantized)
    keep_4bit_frozen(model)
    if eos_token is not None:
        tokenizer.eos_token = eos_token
    return model, tokenizer


@contextmanager
def _errors_of(name: str, attention: str) -> Iterator[None]:
    """Turn errors of transformers into a ValueError that names the key to set."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"the language model {name!r} is neither a local folder nor available from the hub "
            f"({str(error).splitlines()[0]}); set lm.name"
        ) from error
    except ValueError as error:
        # Models without SDPA (BLOOM, GPT-J) raise a ValueError that advises attn_implementation="eager".
        if attention == "eager" or "eager" not in str(error):
            raise
        raise ValueError(f"{name!r} has no attention of the kind {attention!r}; set lm.attention=eager") from error


def _config(name: str, revision: str | None) -> PreTrainedConfig:
    """Return the architecture: of a folder, of a known hub id (on "meta" alone), or from the hub."""
    known = not Path(name).is_dir() and torch.get_default_device().type == "meta" and name in CONFIGS
    return CONFIGS[name]() if known else AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)


def _pretrained(
    auto_class: Any, name: str, revision: str | None, attention: str, unused: str, **options: Any
) -> PreTrainedModel:
    """Raises ValueError if weights are missing or have other shapes."""
    # transformers fills such weights with random numbers and only prints a report.
    model, report = auto_class.from_pretrained(
        name,
        revision=revision,
        output_loading_info=True,
        attn_implementation=attention,
        trust_remote_code=False,  # else the hub's Python files would be executed
        **options,
    )
    missing = [*report.get("missing_keys", ()), *report.get("mismatched_keys", ())]
    if unfilled := [key for key in missing if not (unused and key.startswith(unused))]:
        raise ValueError(f"the weights of {name!r} lack {unfilled[0]} and {len(unfilled) - 1} more; set lm.name")
    return model


def _from_config(auto_class: Any, config: PreTrainedConfig, attention: str) -> PreTrainedModel:
    return untie_head(auto_class.from_config(config, attn_implementation=attention, trust_remote_code=False))


def _random(auto_class: Any, config: PreTrainedConfig, attention: str, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model with random weights of torch's seed."""
    # Drawn on the CPU in float32, to be the same on every machine. The generator is forked, so that a mapper gets the
    # same initial weights as beside pretrained weights.
    config.dtype = torch.float32
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(torch.initial_seed())
        model: nn.Module = _from_config(auto_class, config, attention)
    model.to(dtype)
    assert isinstance(model, PreTrainedModel)
    return model


def untie_head(model: PreTrainedModel) -> PreTrainedModel:
    """Give a T5 v1.1 or Flan-T5 that is built from its configuration an output matrix of its own."""
    # transformers 5 ties the two matrices of every T5 unless the checkpoint has both.
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if getattr(model.config, "scale_decoder_outputs", None) is False and isinstance(embeddings, nn.Embedding):
        head.weight = nn.Parameter(torch.empty_like(embeddings.weight).normal_())
    return model


def _placeholder_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer of one word, for models on "meta", which have shapes alone."""
    tokenizer = Tokenizer(models.WordLevel({"<eos>": 0}, unk_token="<eos>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
