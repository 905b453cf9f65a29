"""Turns the overrides of a job into a YAML file for conf/experiment."""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from prefixvlm.provenance.redaction import redact


def experiment(overrides: Sequence[str], loader: ConfigLoader, title: Sequence[str]) -> str:
    """Return the YAML text: choices become its defaults list, values its body, and deletions a comment.

    title: lines of the comment at the top.
    """
    defaults: list[Any] = []
    values = OmegaConf.create({})
    deletions = []  # ~key, which YAML cannot express
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)):
        key = override.key_or_group
        if override.is_delete():
            deletions.append(override.input_line or "")
        elif not loader.get_group_options(key, results_filter=ObjectType.CONFIG):
            OmegaConf.update(values, key, override.value(), force_add=True)
        elif key == "experiment":  # first, so that later entries override its choices
            defaults.insert(0, f"/{key}/{override.value()}")
        else:
            group = f"/{key}@{override.package}" if override.package else f"/{key}"
            defaults.append({group if override.is_add() else f"override {group}": override.value()})
    title = [*title, *(["It also needs on the command line: " + " ".join(deletions)] if deletions else [])]
    content = {"defaults": [*defaults, "_self_"], **(OmegaConf.to_container(values) or {})}  # type: ignore[dict-item]
    body = OmegaConf.to_yaml(OmegaConf.create(redact(content)))
    return "\n".join(["# @package _global_", *(f"# {line}" for line in redact(title)), body])
