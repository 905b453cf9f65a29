"""Loading open_clip models: check the name and the weights, then build the model."""

import difflib
import hashlib
import logging
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip

from prefixvlm.encoder.loading import LOAD_ERRORS, first_line, on_meta
from prefixvlm.encoder.local_clip import LOCAL, check_local
from prefixvlm.strict_json import read_json

logger = logging.getLogger(__name__)
HUB, QUICK = "hf-hub:", "-quickgelu"


def check_name(model_name: str, pretrained: str | None, trained: bool, keys: tuple[str, str]) -> None:
    """Raise ValueError where open_clip would use random weights, guess, or only log a warning.

    keys: the configuration keys of model_name and pretrained, for the message.
    """
    name_key, _ = keys
    if model_name.startswith(LOCAL):
        return check_local(model_name, pretrained, keys)
    if model_name.startswith(HUB):
        return None
    config = open_clip.get_model_config(model_name)
    if config is None:
        near = difflib.get_close_matches(model_name, open_clip.list_models(), n=3, cutoff=0.4) or ["ViT-B-32"]
        raise ValueError(
            f"{name_key} is {model_name!r}, which open_clip does not know: it knows {', '.join(near)} "
            f"and others, or take {LOCAL}PATH"
        )
    return check_pretrained(model_name, config, pretrained, trained, keys)


def check_pretrained(
    model_name: str, config: dict[str, Any], pretrained: str | None, trained: bool, keys: tuple[str, str]
) -> None:
    """Raise ValueError if frozen weights would be random, or if pretrained is no weights of this model."""
    name_key, pretrained_key = keys
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    accepted = f"set {pretrained_key} to a weights file or one of {', '.join(tags) or '(no tags)'}"
    if pretrained is None:
        if not trained:
            raise ValueError(f"{pretrained_key} is null, which would freeze {model_name} at random weights: {accepted}")
        return
    tag_config = open_clip.get_pretrained_cfg(model_name, pretrained)
    if not tag_config and not Path(pretrained).is_file():
        raise ValueError(f"{pretrained_key} is {pretrained!r}, neither a file nor a tag of {model_name}: {accepted}")
    if not tag_config and _is_torchscript(Path(pretrained)):
        raise ValueError(
            f"{pretrained_key} is {pretrained!r}, a TorchScript program such as OpenAI's own files, which is not run; "
            f"set {pretrained_key}=openai, the same weights, or to a file of weights alone"
        )
    # OpenAI's weights were trained with QuickGELU. open_clip loads them into a model with GELU and only warns, although
    # the features then differ.
    quick = bool(tag_config.get("quick_gelu")) if tag_config else _file_has_quick_gelu(model_name, Path(pretrained))
    base = model_name.removesuffix(QUICK)
    if quick is not None and quick != config.get("quick_gelu", False):
        right = base + (QUICK if quick else "")
        raise ValueError(
            f"{name_key} is {model_name}, but the weights {pretrained!r} were trained with another activation: "
            f"set {name_key}={right}"
        )
    if quick is None and open_clip.get_model_config(base) and open_clip.get_model_config(base + QUICK):
        logger.warning(
            "the file %s does not say whether its weights were trained with GELU (%s=%s) or QuickGELU (%s%s), as "
            "OpenAI's were; %s is taken: check it where the file comes from",
            pretrained, name_key, base, base, QUICK, model_name,
        )  # fmt: skip


def _file_has_quick_gelu(model_name: str, path: Path) -> bool | None:
    """Return whether the weights of a file were trained with QuickGELU, None if nothing says it."""
    beside = path.parent / "open_clip_config.json"  # as in repositories of the hub
    if beside.is_file():
        model = read_json(beside, dict[str, Any], "a configuration of open_clip").get("model_cfg")
        return bool(model.get("quick_gelu")) if isinstance(model, dict) else None
    base, known = model_name.removesuffix(QUICK), {}
    for tag in open_clip.list_pretrained_tags_by_model(base):
        released = open_clip.get_pretrained_cfg(base, tag)
        if match := re.search(r"/([0-9a-f]{64})/|-([0-9a-f]{8})\.pth?$", released.get("url", "")):
            known[match[1] or match[2]] = bool(released.get("quick_gelu"))
    if not known:
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return next((quick for start, quick in known.items() if digest.startswith(start)), None)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any(name.endswith("/constants.pkl") for name in file.namelist())


def load_clip(
    model_name: str,
    pretrained: str | None,
    keys: tuple[str, str],
    image_size: int | None = None,
    empty: bool = False,
) -> Any:
    """Return an open_clip model in float32; its image encoder has the attribute preprocess_cfg.

    image_size: of a ViT or a timm model; a ModifiedResNet keeps its own. empty: do not load weights.
    Weights are read as tensors, never as code. Raises ValueError if they cannot be loaded.
    """
    name_key, pretrained_key = keys
    if on_meta() and model_name.startswith(HUB):
        raise ValueError(f"{name_key} is {model_name}, whose sizes only its repository says: set {LOCAL}PATH")
    try:
        config = open_clip.get_model_config(model_name) or {}
        resnet = isinstance(config.get("vision_cfg", {}).get("layers"), list)
        with _no_warnings(empty):
            return open_clip.create_model(
                model_name,
                pretrained=None if empty else pretrained,
                load_weights=not empty,
                device="meta" if on_meta() else "cpu",
                force_image_size=None if resnet else image_size,
                pretrained_text=False,
                # A repository without weights would otherwise give a random model and a warning.
                require_pretrained=not empty and (pretrained is not None or model_name.startswith((LOCAL, HUB))),
                force_preprocess_cfg=_preprocessing(model_name),
                weights_only=True,
            )
    except LOAD_ERRORS as error:
        raise ValueError(
            f"{pretrained_key} is {pretrained}, but its weights could not be loaded into {model_name} "
            f"({first_line(error)}): "
            f"if they can't be downloaded here, set {pretrained_key} to a file or {name_key} to {LOCAL}PATH"
        ) from error


def _preprocessing(model_name: str) -> dict[str, Any]:
    """Return the preprocessing that all published weights of a model share, empty if they differ."""
    # open_clip applies it to a tag alone: a file of SigLIP weights would get the mean, std and crop of OpenAI's CLIP.
    tags = [
        open_clip.get_pretrained_cfg(model_name, tag) for tag in open_clip.list_pretrained_tags_by_model(model_name)
    ]
    keys = ("mean", "std", "interpolation", "resize_mode")
    settings = [{key: tag[key] for key in keys if tag.get(key) is not None} for tag in tags]
    return settings[0] if settings and all(each == settings[0] for each in settings) else {}


@contextmanager
def _no_warnings(enabled: bool) -> Iterator[None]:
    """Silence open_clip's warning that the weights are random, for a model that is meant to have none."""
    before = logging.root.manager.disable
    if enabled:
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
