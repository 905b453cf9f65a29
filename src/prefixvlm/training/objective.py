"""objective.json, which a run writes at its end: its value, with a hash of its options."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefixvlm.atomic import write_text
from prefixvlm.distributed.world import rank
from prefixvlm.strict_json import read_json

OBJECTIVE = "objective.json"


def write(run_dir: str, config: Mapping[str, Any], **content: Any) -> None:
    """Write the content and the hash of the configuration."""
    write_text(Path(run_dir) / OBJECTIVE, json.dumps({**content, "options": options_hash(run_dir, config)}) + "\n")


def read(run_dir: str) -> dict[str, Any]:
    """Return the content that `write` has written. Raises ValueError if the file is damaged."""
    return read_json(Path(run_dir) / OBJECTIVE, dict[str, Any], "the value of a run")


def is_finished(run_dir: str, config: Mapping[str, Any]) -> bool:
    """Return whether a run with exactly these options has come to its end in the folder."""
    if config["resume"] not in ("auto", "must") or not (Path(run_dir) / OBJECTIVE).is_file():
        return False
    has_checkpoint = (Path(run_dir) / "checkpoints" / "last.ckpt").is_file()
    return has_checkpoint and read(run_dir).get("options") == options_hash(run_dir, config)


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
