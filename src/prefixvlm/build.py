"""A configuration goes in; module, data and trainer come out: the only caller of Hydra's instantiate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from omegaconf import DictConfig, OmegaConf

from prefixvlm.component_check import check, nearest
from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.data.shards.manifest import resolve_shards
from prefixvlm.data.sources import how_to_make
from prefixvlm.encoder.cached import CachedEncoder, identity_of, local
from prefixvlm.features.write import check_features
from prefixvlm.provenance.redaction import redact
from prefixvlm.training.checkpoint import KEY, AtomicCheckpointIO
from prefixvlm.training.module import PrefixModule


def plain(cfg: Any) -> Any:
    """The configuration as plain containers, every reference resolved."""
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg


def make(axis: str, node: Any, **handed: Any) -> Any:
    """Build what a node of the configuration names, with what is handed along added where it is wanted."""
    node = plain(node)
    check(axis, node, handed)
    try:
        return instantiate(node, **handed, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ValueError | OSError):
            raise cause from error
        reason = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise ValueError(f"{axis} cannot be built: {reason.strip()}") from error


def encoder_choice(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The node of conf/encoder/NAME.yaml, here or beside the package, with `encoder.key=value` in it changed."""
    folders = [folder for folder in (Path("conf"), Path(__file__).parents[2] / "conf") if (folder / "encoder").is_dir()]
    choices = {path.stem: path for folder in reversed(folders) for path in (folder / "encoder").glob("*.yaml")}
    if name not in choices:
        raise ValueError(f"there is no encoder {name!r}{nearest(name, list(choices))}")
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"{override!r} is not encoder.KEY=VALUE")
    changes = OmegaConf.from_dotlist([override.removeprefix("encoder.") for override in overrides])
    return plain(OmegaConf.merge(OmegaConf.load(choices[name]), changes))


def build_module(cfg: DictConfig) -> LightningModule:
    """Encoder, language model, and the mapper between them, whose widths are theirs; then the steps around them."""
    parts: dict[str, Any] = {}
    if cfg.get("encoder"):
        with torch.random.fork_rng(devices=[]):  # the mapper is the same whether features are computed or stored
            parts["encoder"] = make("encoder", cfg.encoder)
    if cfg.get("lm"):
        parts["lm"] = make("lm", cfg.lm)
        with torch.random.fork_rng(devices=[]):  # the mapper is the same whatever is tuned
            for way in _ways(cfg):
                way.apply(parts["lm"])
    if cfg.get("mapper"):
        if not {"encoder", "lm"} <= parts.keys():
            raise ValueError("a mapper stands between an encoder and a language model; set encoder and lm, not null")
        encoder = parts["encoder"]
        parts["mapper"] = make(
            "mapper",
            cfg.mapper,
            feature_width=encoder.feature_width,
            num_features=encoder.num_features,
            lm_width=parts["lm"].width,
            grid=encoder.grid,
        )
    if cfg.get("task"):
        parts["task"] = {name: make(f"task.{name}", _chosen(name, node)) for name, node in cfg.task.items()}
    if cfg.get("optim"):
        parts["optim"] = make("optim", cfg.optim)
    module = make("module", cfg.module, **parts)
    # What the run was, for the checkpoint; where it ran is not part of it.
    kept = {key: value for key, value in plain(cfg).items() if key not in ("run_dir", "callbacks", "logger")}
    if "lm" in parts and parts["lm"].own_weights_tuned:  # auto would be another on a machine that is fast at it
        kept["lm"]["dtype"] = "float32"
    module.config = redact(kept)
    if "encoder" in parts and parts["encoder"].identity is not None:  # the checkpoint reads images as well as features
        module.config["encoder"] = parts["encoder"].identity.encoder
    return module


def _chosen(name: str, node: Any) -> Any:
    """Raises ValueError for options of a task that was not chosen, as an experiment's are when task= is another."""
    if "_target_" not in (node or ()):
        raise ValueError(f"task.{name} has options, but task {name} is not chosen; set ~task.{name}, or task to it too")
    return node


def _ways(cfg: DictConfig) -> list[Any]:
    return [make(f"tune.{name}", node) for name, node in (cfg.get("tune") or {}).items() if node]


def rebuild(cfg: DictConfig, checkpoint: dict[str, Any]) -> PrefixModule:
    """What was trained with the configuration, from its checkpoint. Random weights that were frozen are drawn anew."""
    with torch.random.fork_rng():
        torch.manual_seed(cfg.get("seed", 0))
        module = build_module(cfg)
    assert isinstance(module, PrefixModule)
    module.load_trained(checkpoint)
    return module


def build_merged(checkpoint: dict[str, Any]) -> LightningModule:
    """What a checkpoint holds, in float32, with what was tuned of the language model merged into its weights.

    Raises ValueError if nothing was tuned, or if it cannot be merged.
    """
    cfg = OmegaConf.create(checkpoint[KEY]["config"])
    if not cfg.get("tune"):
        raise ValueError("the checkpoint has nothing to merge: it was trained without tune; set --ckpt to another")
    if cfg.lm.get("quantization"):
        raise ValueError("a quantised language model cannot be merged into; train with lm.quantization=null")
    cfg.lm.dtype = "float32"
    module = rebuild(cfg, checkpoint)
    for way in _ways(cfg):
        way.merge(module.model.lm)
    return module


def evaluation(cfg: DictConfig, trained: Mapping[str, Any]) -> DictConfig:
    """What was trained, with what an evaluation changes: its tasks, its data.

    A benchmark's task begins with what was trained of that name; what the benchmark leaves null stays.
    """
    changed: dict[str, Any] = dict(trained)
    benchmark = plain(cfg.benchmark) or {}
    known = trained.get("task") or {}
    for name, options in (benchmark.get("task") or {}).items():
        given = {key: value for key, value in options.items() if value is not None}
        changed["task"] = {name: {**known.get(name, {}), **given}}
    if cfg.task:
        changed["task"] = plain(cfg.task)
    changed["data"] = dict(trained["data"]) | data_changes(cfg)
    stored = [folder for folder in local(changed["data"]["shards"]) if identity_of(folder) is not None]
    if changed.get("encoder") and stored:  # whose features these are is held against the checkpoint
        target = f"{CachedEncoder.__module__}.{CachedEncoder.__qualname__}"
        changed["encoder"] = {"_target_": target, "features_of": stored[0]}
    return OmegaConf.create(changed)


def data_changes(cfg: DictConfig) -> dict[str, Any]:
    """What an evaluation says of the data."""
    benchmark = plain(cfg.benchmark) or {}
    wanted = {
        "shards": cfg.shards or benchmark.get("shards"),
        "test_split": cfg.split or benchmark.get("split"),
        "limit_test": cfg.limit,
        "eval_batch_size": cfg.batch_size,
        "blind": False,
    }
    return {key: value for key, value in wanted.items() if value is not None}


def check_benchmark(cfg: DictConfig) -> None:
    """Raise ValueError, with the files that are wanted and the command that makes shards of them, if there are none."""
    if cfg.benchmark:
        wanted = data_changes(cfg)
        name = cfg.benchmark.source.replace("_", "-")
        shots = cfg.few_shot.shots
        try:
            for split in (wanted["test_split"], *(["train"] if shots else [])):
                resolve_shards(wanted["shards"], split, "make them as follows")
        except ValueError as error:
            error.add_note(how_to_make(name, None if shots else wanted["test_split"], wanted["shards"]))
            raise


def check_data(cfg: DictConfig, *stages: str) -> None:
    """Raise ValueError now, before anything is loaded or written, if shards of a stage are missing or cut short."""
    data = make("data", cfg.data)
    for stage in stages:
        data.setup(stage)


def build_data(cfg: DictConfig, module: Any, **changes: Any) -> ShardDataModule:
    """The data, collated as the module wants it."""
    data = make("data", {**plain(cfg.data), **changes})
    if isinstance(module, PrefixModule):
        check_features(module.model.encoder, data.shards)
    data.train_collate = module.train_collate
    data.val_collate = module.val_collate
    data.test_collates = module.test_collates
    return data


def build_trainer(cfg: DictConfig) -> Trainer:
    """Trainer, loggers and callbacks; checkpoints are written atomically.

    Raises ValueError for a precision in which what is trained loses small steps.
    """
    if (precision := str(cfg.trainer.get("precision"))) in ("bf16-true", "16-true"):
        raise ValueError(
            f"trainer.precision is {precision}, in which small steps of what is trained are lost; set it to "
            f"{precision.removesuffix('true')}mixed, and lm.dtype for what is frozen"
        )
    callbacks = [make(f"callbacks.{name}", node) for name, node in (cfg.get("callbacks") or {}).items() if node]
    loggers = [make(f"logger.{name}", node) for name, node in (cfg.get("logger") or {}).items() if node]
    plugins: list[Any] = [AtomicCheckpointIO()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # LastCheckpoint saves; Lightning looks in no run's folder
    return make("trainer", cfg.trainer, callbacks=callbacks, logger=loggers or False, plugins=plugins)
