"""The story of a run: build model, data and trainer; fit; test the best checkpoint; return the monitored value."""

from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf

from prefixvlm import config
from prefixvlm.build import build_data, build_module, build_trainer, check_data, plain
from prefixvlm.errors import job, one_sentence
from prefixvlm.training import run
from prefixvlm.training.checkpoint import load

CONF = Path(__file__).parent / "conf"


def train(cfg: DictConfig) -> float | None:
    """One run in cfg.run_dir. Returns the best value of cfg.monitor, which a sweep compares."""
    seed_everything(cfg.seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision("high")
    resume = run.checkpoint_to_resume(cfg.run_dir, cfg.resume)
    check_data(cfg, "fit", *(["test"] if cfg.test and cfg.task else []))
    module = build_module(cfg)
    if cfg.init_from:
        module.load_trained(load(cfg.init_from))
    data = build_data(cfg, module)
    trainer = build_trainer(cfg)
    with run.finished_loggers(trainer):
        run.announce(module, plain(cfg), trainer)
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
        value = run.finish_fit(trainer, module, data, cfg.run_dir, cfg.monitor)
        if cfg.test and module.test_collates:
            module.load_trained(load(run.best_checkpoint(trainer, cfg.run_dir)))
            trainer.test(module, data, verbose=False)
            run.print_scores(module)
    print(f"Run folder: {cfg.run_dir}")
    return value


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@job
def main(cfg: DictConfig) -> float | None:
    OmegaConf.resolve(cfg)
    if HydraConfig.get().mode == RunMode.MULTIRUN and cfg.trainer.devices not in (1, "1"):
        raise ValueError(f"a sweep runs on one device a job, trainer.devices is {cfg.trainer.devices}; set it to 1")
    return train(cfg)


if __name__ == "__main__":
    run.quiet_known_warnings()
    config.register()
    one_sentence(main, CONF)()
