"""objective.json, which a run writes at its end: its value, with a hash of its options."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefixvlm.atomic import write_text
from prefixvlm.distributed.world import rank
from prefixvlm.strict_json import read_json

OBJECTIVE = "objective.json"


@dataclass(frozen=True)
class Objective:
    """The value of a run that has ended, one or several; directions of its scores; a hash of its options."""

    value: float | list[float] | None
    pruned: bool = False
    higher_is_better: dict[str, bool | None] = field(default_factory=dict)
    options: str = ""

    @property
    def values(self) -> list[float]:
        return self.value if isinstance(self.value, list) else [] if self.value is None else [self.value]


def write(run_dir: str, config: Mapping[str, Any], **content: Any) -> None:
    """Write the content and the hash of the configuration."""
    write_text(Path(run_dir) / OBJECTIVE, json.dumps({**content, "options": options_hash(run_dir, config)}) + "\n")


def read_objective(run: Path) -> Objective | None:
    """Return the value of a run, None if it has not ended. Raises ValueError or OSError if the file is damaged."""
    path = run / OBJECTIVE
    return read_json(path, Objective, "the value of a run") if path.exists() else None


def is_finished(run_dir: str, config: Mapping[str, Any]) -> bool:
    """Return whether a run with exactly these options has come to its end in the folder."""
    if config["resume"] not in ("auto", "must") or not (Path(run_dir) / "checkpoints" / "last.ckpt").is_file():
        return False
    written = read_objective(Path(run_dir))
    return written is not None and written.options == options_hash(run_dir, config)


def say_if_finished(config: Mapping[str, Any]) -> bool:
    """Print a sentence if a run is finished, and return whether it is."""
    if not is_finished(config["run_dir"], config):
        return False
    if rank() == 0:
        print(f"The run in {config['run_dir']} is finished. To train more, set an option, or hydra.run.dir.")
    return True


def options_hash(run_dir: str, config: Mapping[str, Any]) -> str:
    """Return a hash of the configuration that is the same wherever the folder is moved."""
    kept = {key: value for key, value in config.items() if key != "resume"}
    kept["trainer"] = {key: value for key, value in config["trainer"].items() if key not in ("devices", "num_nodes")}
    text = json.dumps(kept, sort_keys=True, default=str).replace(str(run_dir), "")
    return hashlib.sha256(text.encode()).hexdigest()[:16]
