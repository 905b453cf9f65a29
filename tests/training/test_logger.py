"""Whether wandb is online is decided before it could ask, and what it shows; with real runs where that is quick."""

import hashlib
import io
import json
import os

import pytest
import wandb
from PIL import Image

from prefixvlm.training.logger import is_logged_in, wandb_logger
from tests.training.test_module import fit_with_two_validations, module_of, pytestmark, shards  # noqa: F401

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """A user without any key, in an empty home."""
    for name in [name for name in os.environ if name.startswith("WANDB")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "to be restored: Lightning sets it")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    yield
    wandb.finish()
    wandb.teardown()  # or it would keep this test's environment


def write_netrc(path, host):
    path.write_text(f"machine github.com\n  login a\n  password b\nmachine {host}\n  login user\n  password {KEY}\n")
    path.chmod(0o600)


def test_without_a_key_nobody_is_logged_in():
    assert not is_logged_in()


@pytest.mark.parametrize(("key", "expected"), [(KEY, True), ("", False)])
def test_a_key_in_the_environment(monkeypatch, key, expected):
    monkeypatch.setenv("WANDB_API_KEY", key)
    assert is_logged_in() is expected


@pytest.mark.parametrize(("host", "expected"), [("api.wandb.ai", True), ("example.com", False)])
def test_a_key_in_the_netrc_file_of_the_home(tmp_path, host, expected):
    write_netrc(tmp_path / "home" / ".netrc", host)
    assert is_logged_in() is expected


def test_a_key_in_the_netrc_file_that_the_environment_names(tmp_path, monkeypatch):
    write_netrc(tmp_path / "elsewhere", "api.wandb.ai")
    monkeypatch.setenv("NETRC", str(tmp_path / "elsewhere"))
    assert is_logged_in()


def test_a_key_for_another_server_is_one_for_it_only(tmp_path, monkeypatch):
    write_netrc(tmp_path / "home" / ".netrc", "wandb.example.com")
    assert not is_logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.com")
    assert is_logged_in()


def test_a_netrc_file_that_does_not_parse_is_none(tmp_path):
    (tmp_path / "home" / ".netrc").write_text("machine\nwho knows what")
    assert not is_logged_in()


def test_without_a_key_a_run_is_offline_in_its_folder_and_says_so(tmp_path, capsys):
    folder = tmp_path / "run"
    run = wandb_logger(str(folder), name="n").experiment
    assert run.settings.mode in ("offline", "dryrun")
    assert run.project == "prefixvlm"
    wandb.finish()
    (offline,) = (folder / "wandb").glob("offline-run-*")
    assert list(offline.glob("*.wandb"))
    assert f"{folder}/wandb" in capsys.readouterr().out


@pytest.mark.parametrize("key", [None, KEY])
def test_disabled_is_disabled(tmp_path, monkeypatch, capsys, key):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    assert wandb_logger(str(tmp_path / "run")).experiment.disabled
    assert not list(tmp_path.rglob("*.wandb"))
    assert "sync" not in capsys.readouterr().out


def test_offline_is_offline_also_with_a_key(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_logger(str(tmp_path))._offline


def test_with_a_key_a_run_is_online(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert not wandb_logger(str(tmp_path))._offline  # its experiment would need the network
    assert "offline" not in capsys.readouterr().out


def staged(folder):
    """The tables of an offline run as `wandb sync` will upload them, each image in them as the colour of its corner."""
    files = [path.read_bytes() for path in folder.rglob("artifacts/staging/*")]
    by_hash = {hashlib.sha256(data).hexdigest(): data for data in files}
    found = [json.loads(data) for data in files if data.startswith(b'{"')]
    for table in (table for table in found if "columns" in table):
        for row in table["data"]:
            row[0] = Image.open(io.BytesIO(by_hash[row[0]["sha256"]])).convert("RGB").getpixel((0, 0))
        yield table


def test_each_validation_writes_a_table_a_task_with_its_images(tmp_path, shards):  # noqa: F811
    module = module_of()
    fit_with_two_validations(module, shards, logger=wandb_logger(str(tmp_path / "run"), name="n"))
    wandb.finish()
    found = list(staged(tmp_path))
    assert all(table["columns"] == ["image", "prompt", "prediction", "references", "correct"] for table in found)
    for said in module.predictions.values():
        colours = [(40 * int(p.key.removeprefix("val-")), 0, 0) for p in said]
        tables = [table["data"] for table in found if table["data"][0][1] == said[0].prompt]
        assert len(tables) >= 2
        for table in tables:
            assert [(tuple(row[0]), row[1], row[3]) for row in table] == [
                (colour, p.prompt, " | ".join(p.references)) for colour, p in zip(colours, said, strict=True)
            ]
        assert [[p.prediction, p.correct] for p in said] in [[[row[2], row[4]] for row in table] for table in tables]
    names = sorted(path.name.rsplit("_", 2)[0] for path in (tmp_path / "run").rglob("val/*.table.json"))
    assert names == ["captioning_predictions"] * 2 + ["vqa_predictions"] * 2


def test_without_predictions_there_is_no_table(tmp_path, shards):  # noqa: F811
    fit_with_two_validations(module_of(), shards, limit=0, logger=wandb_logger(str(tmp_path), name="n"))
    wandb.finish()
    assert not list(tmp_path.rglob("*.table.json"))
