"""Folders of an open_clip model, which are checked without importing open_clip."""

from pathlib import Path

LOCAL = "local-dir:"
KEYS = ("encoder.model_name", "encoder.pretrained")  # of the two arguments, for error messages


def check_local(model_name: str, pretrained: str | None, keys: tuple[str, str]) -> None:
    """Raise ValueError if the folder of local-dir:PATH has no model, or if other weights are named.

    keys: the configuration keys of model_name and pretrained, for the message.
    """
    name_key, pretrained_key = keys
    folder = Path(model_name.removeprefix(LOCAL))
    weights = [path for path in folder.glob("*") if path.suffix in (".safetensors", ".bin", ".pth")]
    if not (folder / "open_clip_config.json").is_file() or not weights:
        raise ValueError(
            f"{name_key} is {model_name}, but {folder} does not hold an open_clip_config.json and weights: "
            f"make it with `python train.py experiment=clip_pretrain module.out={folder}`, or set {name_key}"
        )
    if pretrained is not None:
        raise ValueError(
            f"{pretrained_key} is {pretrained!r}, but {LOCAL} brings its own weights: set {pretrained_key}=null"
        )
