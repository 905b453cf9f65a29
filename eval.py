"""The story of an evaluation: rebuild from a checkpoint; predict, also with black images; score; write results."""

import time
from pathlib import Path
from typing import Any

import hydra
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from omegaconf import DictConfig, OmegaConf

from prefixvlm import config
from prefixvlm.build import build_data, build_module, check_data, plain
from prefixvlm.errors import job, one_sentence
from prefixvlm.report.results import describe, join, write_results
from prefixvlm.report.table import text_table
from prefixvlm.training import run
from prefixvlm.training.checkpoint import KEY, load

CONF = Path(__file__).parent / "conf"


def evaluate(cfg: DictConfig) -> None:
    """Write metrics.json, predictions.jsonl and report.html to cfg.out."""
    started = time.perf_counter()
    checkpoint = load(cfg.ckpt)
    trained = OmegaConf.create(checkpoint[KEY]["config"])
    if cfg.task:
        trained.task = cfg.task
    changes = {"shards": cfg.shards, "limit_test": cfg.limit, "eval_batch_size": cfg.batch_size, "blind": False}
    trained.data.update({key: value for key, value in changes.items() if value is not None})
    check_data(trained, "test")
    seed_everything(trained.seed, workers=True, verbose=False)
    module = build_module(trained)
    module.load_trained(checkpoint)

    def test(**more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data = build_data(trained, module, **more)
        trainer = Trainer(
            devices=1,
            precision=trained.trainer.precision,
            logger=False,
            callbacks=[TQDMProgressBar()],
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.test(module, data, verbose=False)
        return dict(module.reports), dict(module.predictions)

    reports, predictions = test()
    # Black images read alike, so a batch of many asks each different question only once.
    blind = test(blind=True, eval_batch_size=1024) if cfg.blind else ({}, {})
    seconds = {"evaluation": round(time.perf_counter() - started, 1)}
    result, lines = join(reports, predictions, *blind)
    result |= describe(cfg.ckpt, plain(trained), run.parts(module), seconds)
    out = Path(cfg.out or Path(cfg.ckpt).parent.parent / "eval")
    images = build_data(trained, module).test_images
    write_results(out, result, lines, run.history(checkpoint), images)
    print(text_table(result))
    print(f"Report: {out / 'report.html'}")


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
@job
def main(cfg: DictConfig) -> None:
    evaluate(cfg)


if __name__ == "__main__":
    run.quiet_known_warnings()
    config.register()
    one_sentence(main, CONF)()
