"""The name of a Hugging Face language model goes in; the model, with all its weights, and its tokenizer come out."""

from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prefixvlm.lm.quantization import options_of
from prefixvlm.precision import dtype_of


def load(
    auto_class: Any,
    name: str,
    dtype: str = "auto",
    attention: str = "sdpa",
    eos_token: str | None = None,
    revision: str | None = None,
    quantization: str | None = None,
    weights: str = "pretrained",
    **options: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a hub id or a local folder; auto_class is one of transformers' Auto classes.

    dtype: auto (see precision.fast_dtype), float32, bfloat16 or float16. attention: sdpa, eager or flash_attention_2.
    quantization: null, int8 or nf4, of the blocks' matrices; auto is then bfloat16, for what a quantised model is
    depends on its dtype, and machines should agree. weights: pretrained, or random for a control.
    Raises ValueError where the weights cannot be had or do not fill the model.
    """
    if weights not in ("pretrained", "random"):
        raise ValueError(f"lm.weights is {weights!r}; accepted are pretrained and random")
    wanted = dtype_of("lm.dtype", "bfloat16" if quantization and dtype == "auto" else dtype)
    quantized = options_of(quantization, wanted)
    common = {"attn_implementation": attention, "trust_remote_code": False, **options}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        if weights == "random":
            config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
            model, report = auto_class.from_config(config, dtype=wanted, **common), {}
        else:
            model, report = auto_class.from_pretrained(
                name,
                dtype=wanted,
                revision=revision,
                output_loading_info=True,
                **common,
                **quantized,
            )
    except OSError as error:
        raise ValueError(
            f"the language model {name!r} is neither a local folder nor to be had from the hub "
            f"({str(error).splitlines()[0]}); set lm.name"
        ) from error
    if unfilled := [*report.get("missing_keys", ()), *report.get("mismatched_keys", ())]:
        raise ValueError(f"the weights of {name!r} lack {unfilled[0]} and {len(unfilled) - 1} more; set lm.name")
    if eos_token is not None:
        tokenizer.eos_token = eos_token
    return model, tokenizer
