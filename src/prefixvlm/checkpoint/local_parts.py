"""Local parts of a checkpoint, its encoder and its language model, found from any working folder."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefixvlm.encoder.local_clip import LOCAL

AXES = ("encoder", "lm", "task")


def locate(config: Mapping[str, Any], checkpoint: Path, axes: Sequence[str] = AXES) -> dict[str, Any]:
    """Return the configuration with absolute paths for parts that lie beside the checkpoint and not here.

    A relative path is of the folder in which the run was started, mostly one above the checkpoint. A path that begins
    with ~/, as an exported folder has it, is in the user's home folder.
    """
    located = {axis: _located(config.get(axis), checkpoint.absolute().parents) for axis in axes}
    return {**config, **{axis: node for axis, node in located.items() if axis in config}}


@contextmanager
def naming_places(config: Mapping[str, Any], checkpoint: Path) -> Iterator[None]:
    """Add to an error in a block where a missing part was looked for."""
    try:
        yield
    except (ValueError, OSError) as error:
        texts = [text.removeprefix(LOCAL) for axis in ("encoder", "lm") for text in _texts(config.get(axis))]
        for missing in [text for text in texts if _is_relative(text) and not Path(text).exists()][:1]:
            folder = checkpoint.absolute().parent
            error.add_note(f"{missing} was looked for in {Path.cwd()}, in {folder} and in the folders above it")
        raise


def _located(node: Any, folders: Any) -> Any:
    if isinstance(node, Mapping):
        return {name: _located(value, folders) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [_located(value, folders) for value in node]
    if not isinstance(node, str) or not _is_relative(path := node.removeprefix(LOCAL)) or Path(path).exists():
        return node
    if path.startswith("~/"):
        return node.replace(path, str(Path(path).expanduser()))
    found = next((folder / path for folder in folders if (folder / path).exists()), None)
    return node if found is None else f"{LOCAL if node.startswith(LOCAL) else ''}{found}"


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping | list | tuple):
        for value in node.values() if isinstance(node, Mapping) else node:
            yield from _texts(value)
    elif isinstance(node, str):
        yield node


def _is_relative(text: str) -> bool:
    """Return whether a text may be a path of several folders. One word may be the id of a model, as gpt2."""
    return os.sep in text and len(text) < 1000 and text.isprintable() and not os.path.isabs(text)
