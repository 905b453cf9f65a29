"""The overrides of a job go in; the same as a YAML for conf/experiment comes out."""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf


def experiment(overrides: Sequence[str], loader: ConfigLoader, title: Sequence[str]) -> str:
    """Choices of axes become its defaults, values stand below. What a YAML cannot say, as ~key, is in its title."""
    defaults: list[Any] = []
    values = OmegaConf.create({})
    unsaid = []
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)):
        key = override.key_or_group
        if override.is_delete():
            unsaid.append(override.input_line or "")
        elif not loader.get_group_options(key, results_filter=ObjectType.CONFIG):
            OmegaConf.update(values, key, override.value(), force_add=True)
        elif key == "experiment":  # first, for what it chooses may be chosen anew
            defaults.insert(0, f"/{key}/{override.value()}")
        else:
            group = f"/{key}@{override.package}" if override.package else f"/{key}"
            defaults.append({group if override.is_add() else f"override {group}": override.value()})
    title = [*title, *(["It also wants on the command line: " + " ".join(unsaid)] if unsaid else [])]
    written = {"defaults": [*defaults, "_self_"], **(OmegaConf.to_container(values) or {})}  # type: ignore[dict-item]
    body = OmegaConf.to_yaml(OmegaConf.create(written))
    return "\n".join(["# @package _global_", *(f"# {line}" for line in title), body])
