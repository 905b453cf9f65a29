"""Record of a run that its checkpoints hold: configuration and provenance."""

from collections.abc import Mapping
from typing import Any


class RunRecord:
    """Description of a run in its checkpoints.

    config: plain data from which the module can be built again. provenance: commit, versions and command of the run.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, provenance: Mapping[str, Any] | None = None) -> None:
        # Plain dicts: a DictConfig in a checkpoint cannot be read with weights_only=True.
        self.config, self.provenance = dict(config or {}), dict(provenance or {})
