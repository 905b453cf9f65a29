"""The name of a Hugging Face language model goes in; the model, with all its weights, and its tokenizer come out."""

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
from prefixvlm.lm.quantization import keep_4bit_frozen, options_of
from prefixvlm.precision import dtype_of


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
    """Load a hub id or a local folder; auto_class is one of transformers' Auto classes.

    dtype: auto (see precision.fast_dtype), float32, bfloat16 or float16. attention: sdpa, eager or flash_attention_2.
    quantization: null, int8 or nf4, of the blocks' matrices; auto is then bfloat16, for what a quantised model is
    depends on its dtype, and machines should agree. weights: pretrained, or random for a control. unused: how the names
    of weights begin that may be missing. Where torch's default device is "meta" nothing is read but the architecture.
    Raises ValueError where the weights cannot be had or do not fill the model.
    """
    if weights not in ("pretrained", "random"):
        raise ValueError(f"lm.weights is {weights!r}; accepted are pretrained and random")
    if quantization and weights == "random":
        raise ValueError("lm.weights=random are not quantised; set lm.quantization=null")
    wanted = dtype_of("lm.dtype", "bfloat16" if quantization and dtype == "auto" else dtype)
    quantized = options_of(quantization, wanted)
    try:
        if torch.get_default_device().type == "meta":
            return _of_config(auto_class, _config(name, revision), "eager"), _stand_in()
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        if weights == "random":
            model = _random(auto_class, _config(name, revision), attention, wanted)
        else:
            model = _pretrained(auto_class, name, revision, attention, unused, dtype=wanted, **quantized)
    except OSError as error:
        raise ValueError(
            f"the language model {name!r} is neither a local folder nor to be had from the hub "
            f"({str(error).splitlines()[0]}); set lm.name"
        ) from error
    except ValueError as error:
        if attention == "eager" or "eager" not in str(error):
            raise
        raise ValueError(f"{name!r} has no attention of the kind {attention!r}; set lm.attention=eager") from error
    keep_4bit_frozen(model)
    if eos_token is not None:
        tokenizer.eos_token = eos_token
    return model, tokenizer


def _config(name: str, revision: str | None) -> PreTrainedConfig:
    """The architecture: of a folder, of those that we know, or from the hub."""
    known = not Path(name).is_dir() and torch.get_default_device().type == "meta" and name in CONFIGS
    return CONFIGS[name]() if known else AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)


def _pretrained(
    auto_class: Any, name: str, revision: str | None, attention: str, unused: str, **options: Any
) -> PreTrainedModel:
    """Raises ValueError where weights are missing: transformers would draw them at random and only print a report."""
    model, report = auto_class.from_pretrained(
        name,
        revision=revision,
        output_loading_info=True,
        attn_implementation=attention,
        trust_remote_code=False,
        **options,
    )
    missing = [*report.get("missing_keys", ()), *report.get("mismatched_keys", ())]
    if unfilled := [key for key in missing if not (unused and key.startswith(unused))]:
        raise ValueError(f"the weights of {name!r} lack {unfilled[0]} and {len(unfilled) - 1} more; set lm.name")
    return model


def _of_config(auto_class: Any, config: PreTrainedConfig, attention: str) -> PreTrainedModel:
    return untie_head(auto_class.from_config(config, attn_implementation=attention, trust_remote_code=False))


def _random(auto_class: Any, config: PreTrainedConfig, attention: str, dtype: torch.dtype) -> PreTrainedModel:
    """Of torch's seed: drawn on the CPU in float32, so that they are the same on every machine; the generator stays as
    it was, so that a mapper begins as it does beside pretrained weights."""
    config.dtype = torch.float32
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(torch.initial_seed())
        model: nn.Module = _of_config(auto_class, config, attention)
    model.to(dtype)
    assert isinstance(model, PreTrainedModel)
    return model


def untie_head(model: PreTrainedModel) -> PreTrainedModel:
    """With a head of its own where T5 v1.1 and Flan-T5 have one; transformers 5 ties it unless a checkpoint has it."""
    head, words = model.get_output_embeddings(), model.get_input_embeddings()
    if getattr(model.config, "scale_decoder_outputs", None) is False and isinstance(words, nn.Embedding):
        head.weight = nn.Parameter(torch.empty_like(words.weight).normal_())
    return model


def _stand_in() -> PreTrainedTokenizerBase:
    """A tokenizer of one word, for who only wants the model's shapes."""
    words = Tokenizer(models.WordLevel({"<eos>": 0}, unk_token="<eos>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
