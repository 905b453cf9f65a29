"""Tables of validation predictions in an offline wandb run."""

import hashlib
import io
import json

import wandb
from PIL import Image

from prefixvlm.callbacks.prediction_table import COLUMNS, PredictionTable
from prefixvlm.logger.wandb import ContinuedWandbLogger
from tests.logger.test_wandb import nobody  # noqa: F401
from tests.training.test_module import fit_with_two_validations, module_of, pytestmark, shards  # noqa: F401


def tables_of(folder):
    """Yield the tables that `wandb sync` would upload, with the colour of its corner in the place of each image."""
    files = [path.read_bytes() for path in folder.rglob("artifacts/staging/*")]
    by_hash = {hashlib.sha256(data).hexdigest(): data for data in files}
    contents = [json.loads(data) for data in files if data.startswith(b'{"')]
    for table in (content for content in contents if "columns" in content):
        for row in table["data"]:
            row[0] = Image.open(io.BytesIO(by_hash[row[0]["sha256"]])).convert("RGB").getpixel((0, 0))
        yield table


def test_each_validation_logs_a_table_per_task_with_its_images(tmp_path, shards):  # noqa: F811
    module = module_of()
    logger = ContinuedWandbLogger(str(tmp_path / "run"), name="n")
    fit_with_two_validations(module, shards, PredictionTable(), logger=logger)
    wandb.finish()
    found = list(tables_of(tmp_path))
    assert all(table["columns"] == COLUMNS for table in found)
    for predictions in module.predictions.values():
        colours = [(40 * int(p.key.removeprefix("val-")), 0, 0) for p in predictions]
        tables = [table["data"] for table in found if table["data"][0][1] == predictions[0].prompt]
        assert len(tables) >= 2
        for table in tables:
            assert [(tuple(row[0]), row[1], row[3]) for row in table] == [
                (colour, p.prompt, " | ".join(p.references)) for colour, p in zip(colours, predictions, strict=True)
            ]
        last = [[p.prediction, p.correct] for p in predictions]
        assert last in [[[row[2], row[4]] for row in table] for table in tables]
    names = sorted(path.name.rsplit("_", 2)[0] for path in (tmp_path / "run").rglob("val/*.table.json"))
    assert names == ["captioning_predictions"] * 2 + ["vqa_predictions"] * 2


def test_without_predictions_there_is_no_table(tmp_path, shards):  # noqa: F811
    logger = ContinuedWandbLogger(str(tmp_path), name="n")
    fit_with_two_validations(module_of(), shards, PredictionTable(), limit=0, logger=logger)
    wandb.finish()
    assert not list(tmp_path.rglob("*.table.json"))


def test_without_wandb_nothing_is_logged(tmp_path, shards):  # noqa: F811
    fit_with_two_validations(module_of(), shards, PredictionTable())
    assert not list(tmp_path.rglob("*.table.json"))
