"""What a module's checkpoints say of the run that trained it."""

from collections.abc import Mapping
from typing import Any


class RunRecord:
    """config: plain data, enough to build the module again. provenance: commit, versions and command of the run."""

    def __init__(self, config: Mapping[str, Any] | None = None, provenance: Mapping[str, Any] | None = None) -> None:
        self.config, self.provenance = dict(config or {}), dict(provenance or {})
