"""prefixvlm: learned visual embeddings as a prefix to a frozen language model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from prefixvlm.inference.captioner import Captioner


def load(
    checkpoint: "str | os.PathLike[str]", device: str = "auto", dtype: str | None = None, plugins: Sequence[str] = ()
) -> "Captioner":
    """Return the model of a checkpoint, for captions, answers, classes, likelihoods and embeddings of images.

    checkpoint: a .ckpt file of a run, from any working folder; a folder of `prefixvlm export --to hub`; or a hub id,
    as user/name or user/name@revision. device: auto, cpu, cuda, cuda:1 or mps.
    dtype: of the language model: float32, bfloat16 or float16; None for that of the run.
    plugins: modules of your own whose classes the checkpoint names. They are imported.
    Raises ValueError or OSError if the file is not a checkpoint, or if its encoder or language model is not found.
    """
    # Imported here, because torch takes seconds.
    from prefixvlm.inference.captioner import Captioner
    from prefixvlm.plugins import enable

    enable([plugins] if isinstance(plugins, str) else plugins)
    return Captioner(checkpoint, device, dtype)
