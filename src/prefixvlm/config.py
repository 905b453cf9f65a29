"""Typed root schema: every root value that train.py and eval.py read; a key that is not here is an error."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from prefixvlm.distributed.world import rank, run_id


@dataclass
class TrainConfig:
    """See conf/train.yaml for what each value means. The axes are checked against the signatures of what they name."""

    data: Any = MISSING
    encoder: Any = None
    mapper: Any = None
    lm: Any = None
    tune: Any = field(default_factory=dict)
    task: Any = None
    module: Any = MISSING
    optim: Any = None
    trainer: Any = MISSING
    callbacks: Any = field(default_factory=dict)
    logger: Any = field(default_factory=dict)
    seed: int = 0
    run_dir: str = MISSING
    resume: str = "auto"
    init_from: str | None = None
    test: bool = True
    monitor: str = "val/loss"
    monitor_mode: str = "min"
    objectives: Any = None


@dataclass
class EvalConfig:
    """See conf/eval.yaml."""

    ckpt: str = MISSING
    task: Any = None
    benchmark: Any = None
    clip: Any = None
    few_shot: Any = MISSING
    trials: int = 1
    out: str | None = None
    java: bool = True
    submission: str | None = None
    shards: str | None = None
    split: str | None = None
    limit: int | None = None
    batch_size: int | None = None
    blind: bool = True
    devices: int = 1


def register() -> None:
    """Make the schemas, and what conf/ interpolates, known to Hydra."""
    OmegaConf.register_new_resolver("run_id", run_id, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("rank_zero", lambda name: None if rank() else name, replace=True)
    store = ConfigStore.instance()
    store.store("train_schema", TrainConfig)
    store.store("eval_schema", EvalConfig)


def composed_run(overrides: Sequence[str]) -> DictConfig:
    """What train.py would run with these words, of conf here or beside the package, every reference resolved.

    run_dir is outputs, for there is no run. Raises ValueError if there is no conf.
    """
    folders = [
        folder for folder in (Path("conf"), Path(__file__).parents[2] / "conf") if (folder / "train.yaml").is_file()
    ]
    if not folders:
        raise ValueError("there is no conf/train.yaml here; run this in a folder of prefixvlm")
    register()
    with initialize_config_dir(str(folders[0].resolve()), version_base="1.3"):
        cfg = compose("train", ["run_dir=outputs", *overrides])
    OmegaConf.resolve(cfg)
    return cfg
