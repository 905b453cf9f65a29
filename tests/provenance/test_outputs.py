"""A secret in a prompt or in a data set's URL is in no file that a run or a sweep writes or uploads."""

from pathlib import Path
from types import SimpleNamespace

import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch.loggers import WandbLogger

from hydra_plugins.prefixvlm._experiment import experiment
from prefixvlm.callbacks.history import History
from prefixvlm.logger.wandb import log_table
from prefixvlm.task.results.prediction import Prediction

CONF = Path(__file__).parents[2] / "conf"
TOKEN = "hf_" + "aB3" * 11


def test_a_token_in_a_prompt_is_not_stored_in_a_checkpoint():
    prediction = Prediction("vqa", "a", "a-0", f"Use {TOKEN}. What? Answer:", "x", ("y",), 0.0)
    trainer = SimpleNamespace(sanity_checking=False, callbacks=[], callback_metrics={}, global_step=3)
    callback = History()
    callback.on_validation_end(trainer, SimpleNamespace(predictions={"vqa": [prediction]}))
    (example,) = callback.state_dict()["examples"]
    assert example["prompt"] == "Use ***. What? Answer:"
    assert (example["step"], example["prediction"], example["nearest"]) == (3, "x", None)


class Recorder(WandbLogger):
    """Keeps the tables instead of sending them."""

    def __init__(self):
        self.tables = {}

    def log_table(self, key, columns, data):
        self.tables[key] = data


def test_a_token_in_a_prompt_is_not_in_a_table_of_wandb():
    logger = Recorder()
    rows = [[None, f"Use {TOKEN}. What?", "x"], [None, "What?", "y"]]
    log_table(SimpleNamespace(is_global_zero=True, loggers=[logger]), "val/x", ["image", "prompt", "prediction"], rows)
    assert logger.tables == {"val/x": [[None, "Use ***. What?", "x"], [None, "What?", "y"]]}


def test_the_experiment_of_a_sweep_has_no_signed_url():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [
            "mapper=linear",
            "data.shards='https://host/{split}.tar?X-Amz-Signature=s3cr3t&a=b'",
            f"task.vqa.prompt='Use {TOKEN}'",
            "+data.api_key=s3cr3t-value",
            "~logger.wandb",
        ]
        text = experiment(overrides, GlobalHydra.instance().config_loader(), ["Job 3 of https://me:s3cr3t@host"])
    assert "s3cr3t" not in text
    assert TOKEN not in text
    content = yaml.safe_load(text)
    assert content["data"]["shards"] == "https://host/{split}.tar?X-Amz-Signature=***&a=b"
    assert content["defaults"] == [{"override /mapper": "linear"}, "_self_"]
