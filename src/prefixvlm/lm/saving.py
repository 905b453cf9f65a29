"""Save a language model and its tokenizer as a Hugging Face folder."""

from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin


def save_pretrained(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | ProcessorMixin, folder: str | Path
) -> None:
    """Write a model and its tokenizer or processor to a folder that `from_pretrained` can load.

    Raises OSError if writing fails.
    """
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # what safetensors raises where the disk is full; it is no OSError
        raise OSError(f"{folder} cannot be written: {error}") from error
