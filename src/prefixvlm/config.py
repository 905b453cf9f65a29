"""Typed schemas of the root keys of train.py and eval.py, and composition of configurations without them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from prefixvlm import plugins
from prefixvlm.distributed.world import rank, run_id
from prefixvlm.options.component_check import nearest
from prefixvlm.options.ranges import NonNegative, Positive, Seed, check_value

CONF_FOLDERS = (Path("conf"), Path(__file__).parents[2] / "conf")  # of the working directory, or beside the package


@dataclass
class TrainConfig:
    """Root keys of train.py; conf/train.yaml describes them. Axes are checked against the signatures of components."""

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
    plugins: list[str] = field(default_factory=list)


@dataclass
class EvalConfig:
    """Root keys of eval.py; conf/eval.yaml describes them."""

    ckpt: str = MISSING
    plugins: list[str] = field(default_factory=list)
    task: Any = None
    benchmark: Any = None
    clip_scorer: Any = None
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
    nearest: bool = False
    devices: int = 1
    inspect: int = 0


# Of root keys of both. omegaconf does not take such annotations in the classes above.
RANGES = {
    "seed": Seed,
    "resume": Literal["auto", "must", "never"],
    "monitor_mode": Literal["min", "max"],
    "trials": Positive,
    "limit": Positive | None,
    "batch_size": Positive | None,
    "devices": Positive,
    "inspect": NonNegative,
}


def check_ranges(cfg: Mapping[str, Any]) -> None:
    """Raise ValueError for a root value outside its range, or a precision that would lose updates."""
    for key, annotation in RANGES.items():
        if key in cfg:
            check_value(key, cfg[key], annotation)
    trainer = cfg.get("trainer")
    precision = str(trainer.get("precision")) if isinstance(trainer, Mapping) else ""
    if precision in ("bf16-true", "16-true"):
        raise ValueError(
            f"trainer.precision is {precision}, in which small updates of the trained weights are lost; set it to "
            f"{precision.removesuffix('true')}mixed, and lm.dtype for the frozen weights"
        )


def register() -> None:
    """Register the schemas and the resolvers of conf/ with Hydra."""
    # Cached, so that all interpolations of a process get the same id, which may hold the time.
    OmegaConf.register_new_resolver("run_id", run_id, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("rank_zero", lambda name: None if rank() else name, replace=True)
    store = ConfigStore.instance()
    store.store("train_schema", TrainConfig)
    store.store("eval_schema", EvalConfig)


def compose_run(overrides: Sequence[str]) -> DictConfig:
    """Compose conf/train.yaml, here or beside the package, with overrides, and resolve every interpolation.

    run_dir is "outputs", because there is no run. Raises ValueError if there is no conf.
    """
    folders = [folder for folder in CONF_FOLDERS if (folder / "train.yaml").is_file()]
    if not folders:
        raise ValueError("there is no conf/train.yaml here; run this in a folder of prefixvlm")
    register()
    with initialize_config_dir(str(folders[0].resolve()), version_base="1.3"):
        cfg = compose("train", ["run_dir=outputs", *overrides])
    OmegaConf.resolve(cfg)
    plugins.enable(cfg.plugins)
    return cfg


def encoder_choice(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the node of conf/encoder/NAME.yaml with overrides such as `encoder.features=patch`."""
    folders = [folder for folder in CONF_FOLDERS if (folder / "encoder").is_dir()]
    choices = {path.stem: path for folder in reversed(folders) for path in (folder / "encoder").glob("*.yaml")}
    if name not in choices:
        raise ValueError(f"there is no encoder {name!r}{nearest(name, list(choices))}")
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"{override!r} is not encoder.KEY=VALUE")
    changes = OmegaConf.from_dotlist([override.removeprefix("encoder.") for override in overrides])
    merged: Any = OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(choices[name]), changes), resolve=True)
    return merged
