"""Train a mapper: build the module, the data and the trainer, fit, and test the best checkpoint."""

import sys
from pathlib import Path
from typing import Any

from prefixvlm.distributed.signals import exit_on_signals, signals
from prefixvlm.distributed.threads import wait_without_spinning

if __name__ == "__main__":
    exit_on_signals()  # before the imports that take seconds
    wait_without_spinning()  # before torch is imported

from prefixvlm import config
from prefixvlm.command_line.check import check_command
from prefixvlm.errors import job, one_sentence, quoted

CONF = Path(__file__).parent / "conf"
if __name__ == "__main__":
    config.register()
    one_sentence(check_command, CONF)(CONF)  # also before them

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf

from prefixvlm import plugins, run
from prefixvlm.build import build_data, build_module, build_trainer, check_data, plain, score_kinds
from prefixvlm.distributed import launch, world
from prefixvlm.provenance.record import provenance
from prefixvlm.provenance.redaction import redact, redact_dumps
from prefixvlm.training import objective
from prefixvlm.training.changes import check_resumed
from prefixvlm.training.checkpoint_file import load
from prefixvlm.training.resume import checkpoint_to_resume


def train(cfg: DictConfig) -> Any:
    """Train in cfg.run_dir and return the best value of cfg.monitor, or the values of cfg.objectives, for a sweep."""
    config.check_ranges(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision("high")
    kinds = score_kinds(cfg)
    run.check_options(cfg, kinds)
    resume = checkpoint_to_resume(cfg.run_dir, cfg.resume)
    check_data(cfg, "fit", *(["test"] if cfg.test and cfg.task else []))
    module = build_module(cfg, provenance())
    if cfg.init_from and not resume:
        module.start_from(cfg.init_from)
    torch.manual_seed(cfg.seed + world.rank())  # the same initial weights on all ranks, but different dropout
    data, trainer = build_data(cfg, module), build_trainer(cfg)
    with run.finish_run(trainer, cfg.run_dir):
        if resume:
            check_resumed(resume, module, trainer)
        run.print_summary(module, redact(plain(cfg)), trainer)
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
        value = run.finish_fit(trainer, module, data, cfg.run_dir, cfg.monitor)
        logged = dict(trainer.callback_metrics)
        if cfg.test and data.collates.test:
            module.load_trained(load(run.best_checkpoint(trainer, cfg.run_dir)))
            trainer.test(module, data, verbose=False)
            run.print_scores(module)
        if cfg.objectives:
            value = run.logged_values(cfg.objectives, logged | dict(trainer.callback_metrics))
        run.write_objective(plain(cfg), value, trainer, kinds)
        if trainer.is_global_zero:
            print(f"Run folder: {cfg.run_dir}")
    return value


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@job
def main(cfg: DictConfig) -> Any:
    if world.rank() == 0:  # Hydra has just written .hydra/, with any secrets of the command line
        redact_dumps(cfg.run_dir, Path(cfg.run_dir).parent)
    OmegaConf.resolve(cfg)
    plugins.enable(cfg.plugins)
    with run.only_run(cfg.run_dir):
        return start(cfg)


def start(cfg: DictConfig) -> Any:
    """Train in this process, or in one for each device, unless the run is finished."""
    if objective.say_if_finished(plain(cfg)):  # again, because another process may have trained until here
        return objective.read_objective(Path(cfg.run_dir)).value
    if (count := world.num_processes(cfg.trainer)) > 1:
        # All processes share the run folder, in which this one has already written .hydra/.
        overrides = [f"hydra.run.dir={quoted(cfg.run_dir)}", "hydra.output_subdir=null"]
        if is_worker := HydraConfig.get().mode == RunMode.MULTIRUN:  # its sys.argv is that of submitit or Ray
            sys.argv = [__file__, *HydraConfig.get().overrides.task]
        if code := launch.launch(count, cfg.run_dir, *overrides):
            if is_worker:
                raise ValueError(f"one of the job's {count} processes failed with exit code {code}")
            sys.exit(code)
        return objective.read_objective(Path(cfg.run_dir)).value
    with signals.installed():
        return train(cfg)


if __name__ == "__main__":
    launch.exit_with_parent()
    run.quiet_known_warnings()
    one_sentence(launch.run_sweep_once)()
    one_sentence(main, CONF)()
