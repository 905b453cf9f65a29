"""Records of a run: one history over resumes, its provenance, and no secrets."""

import csv
import json
import signal
import time

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load
from prefixvlm.training.run_history import history
from tests.forked import FORKED
from tests.logger.test_wandb import nested, records
from tests.test_end_to_end import parts, run  # noqa: F401

SECRETS = {"of the environment": "environment-9876", "of a URL": "hunter2hunter2", "of an override": "overridden-4321"}


@pytest.fixture(scope="module")
def tracked(parts, tmp_path_factory):  # noqa: F811
    """Return the folders of a run that resumed after 2 of 5 steps, with secrets around it, and of its evaluation."""
    folder = tmp_path_factory.mktemp("tracked") / "run"
    environment, url, override = SECRETS.values()
    options = [
        *(part for part in parts if not part.startswith("logger=")),
        "logger=[wandb,csv,tensorboard]",
        "trainer.log_every_n_steps=1",
        f"data.cache_dir='{folder}/https://me:{url}@host/${{oc.env:MY_SERVICE_TOKEN}}'",
        f"+hydra.job.env_set.OTHER_API_KEY={override}",
        f"hydra.run.dir={folder}",
    ]
    for steps in (2, 5):
        run("train.py", *options, f"trainer.max_steps={steps}", MY_SERVICE_TOKEN=environment)
    ckpt = f"ckpt={folder}/checkpoints/best.ckpt"
    run("eval.py", ckpt, "limit=2", MY_SERVICE_TOKEN=environment)
    return folder


def test_no_file_of_a_run_has_a_secret(tracked):
    files = {path: path.read_bytes() for path in tracked.rglob("*") if path.is_file()}
    names = {path.name for path in files}
    assert {"overrides.yaml", "hydra.yaml", "config.yaml", "hparams.yaml", "metrics.csv", "last.ckpt", "metrics.json",
            "report.html", "wandb_id"} <= names  # fmt: skip
    for kind, secret in SECRETS.items():
        assert not [path for path, content in files.items() if secret.encode() in content], kind
    overrides = yaml.safe_load((tracked / ".hydra" / "overrides.yaml").read_text())
    assert any("https://***@host/" in override for override in overrides)
    assert "trainer.max_steps=5" in overrides
    config = load(tracked / "checkpoints" / "last.ckpt")[KEY]["config"]
    assert config["data"]["cache_dir"] == f"{tracked}/https://***@host/***"


def test_a_run_in_two_parts_is_one_run_in_every_logger(tracked):
    with (tracked / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(5))
    for name in ("grad_norm", "samples_per_second", "data_wait", "memory_gb", "prefix_norm", "token_norm", "padding"):
        assert len([row for row in rows if row[f"train/{name}"]]) == 5, name
    assert {row["val/captioning_most_frequent_share"] for row in rows} > {""}
    (run_id,) = {record.run.run_id for record in records(tracked) if record.HasField("run")}
    assert (tracked / "wandb_id").read_text().strip() == run_id
    assert [record.exit.exit_code for record in records(tracked) if record.HasField("exit")] == [0, 0]
    tables = [path.name.rsplit("_", 2)[0] for path in tracked.rglob("val/*.table.json")]
    assert {"captioning_predictions", "vqa_predictions", "prefix_tokens"} <= set(tables)
    events = EventAccumulator(str(tracked / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(5))


def test_the_provenance_of_a_run_is_recorded(tracked):
    config = nested(tracked)
    assert config["mapper"]["num_layers"] == 1
    origin = config["provenance"]
    assert origin["command"].startswith("train.py ")
    assert {"python", "torch", "prefixvlm"} <= origin["versions"].keys()
    stored = load(tracked / "checkpoints" / "last.ckpt")[KEY]["provenance"]
    result = json.loads((tracked / "eval" / "metrics.json").read_text())
    assert stored == origin
    assert (result["git"], result["versions"]) == (origin["git"], origin["versions"])
    assert result["command"].startswith("eval.py ")


def test_the_report_shows_curves_and_nearest_tokens(tracked):
    page = (tracked / "eval" / "report.html").read_text()
    for words in (
        "gradient norm",
        "norm of an embedding",
        "images a second",
        "Tokens nearest to the prefix",
        "eval.py",
    ):
        assert words in page, words
    examples = history(load(tracked / "checkpoints" / "last.ckpt"))["examples"]
    assert examples
    assert all(len(example["nearest"]) == 4 for example in examples)  # the length of the prefix


def ends(folder):
    """Return the exit codes that wandb got, and the number of preempted runs."""
    written = list(records(folder))
    codes = [record.exit.exit_code for record in written if record.HasField("exit")]
    return codes, sum(record.HasField("preempting") for record in written)


def test_wandb_gets_the_exit_code_of_a_run(parts, tmp_path):  # noqa: F811
    options = [part for part in parts if not part.startswith("logger=")]
    options += ["logger=[wandb,csv]", "test=false", f"hydra.run.dir={tmp_path}/run", "trainer.log_every_n_steps=1"]
    run("train.py", *options, "optim.lr=1e30", code=2)  # the loss is not finite
    assert ends(tmp_path / "run") == ([1], 0)
    rows = tmp_path / "run" / "csv" / "metrics.csv"
    rows.unlink()
    process = FORKED.start(["train.py", *options, "trainer.max_epochs=1000", "resume=never"])
    deadline = time.monotonic() + 120
    while not rows.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert ends(tmp_path / "run") == ([1, 143], 1)
    runs = {record.run.run_id for record in records(tmp_path / "run") if record.HasField("run")}
    assert len(runs) == 2  # resume=never starts another run
