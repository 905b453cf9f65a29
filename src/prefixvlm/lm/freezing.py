"""Freezing a language model."""

from transformers import PreTrainedModel


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    """Freeze every weight of a model, and put it in eval mode.

    Gradients still pass through it to its inputs, so it runs with gradients enabled. LanguageModel.train keeps it in
    eval mode, methods of tune/ make single parts trainable again, and the FrozenGuard callback checks fingerprints.
    """
    # A model that is built from its configuration, and not loaded, starts in train mode, with dropout.
    return model.requires_grad_(False).eval()
