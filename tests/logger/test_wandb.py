"""Offline and online wandb runs, one per run folder, without prompts and without secrets."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from prefixvlm.logger.resumable import CsvLogger
from prefixvlm.logger.wandb import ContinuedWandbLogger, finish, is_logged_in, log_table
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


def test_without_a_key_the_user_is_not_logged_in():
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
    run = ContinuedWandbLogger(str(folder), name="n").experiment
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
    assert ContinuedWandbLogger(str(tmp_path / "run")).experiment.disabled
    assert not list(tmp_path.rglob("*.wandb"))
    assert "sync" not in capsys.readouterr().out


def test_offline_is_offline_also_with_a_key(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert ContinuedWandbLogger(str(tmp_path))._offline


def test_with_a_key_a_run_is_online(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert not ContinuedWandbLogger(str(tmp_path))._offline  # its experiment would need the network
    assert "offline" not in capsys.readouterr().out


def test_offline_may_be_chosen_and_a_run_that_is_to_be_online_never_prompts(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"logger\.wandb\.offline is false, but wandb has no key; run `wandb login`"):
        ContinuedWandbLogger(str(tmp_path), offline=False)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert ContinuedWandbLogger(str(tmp_path), offline=True)._offline
    assert not ContinuedWandbLogger(str(tmp_path), offline=False)._offline


def records(folder):
    """Yield the records of the offline runs of a folder, in order, from wandb's files in LevelDB's log format."""
    wandb.teardown()  # an offline run is still being written when wandb.finish returns
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_ctime):
        data, place, parts = path.read_bytes(), 7, b""
        while place + 7 <= len(data):
            if 32768 - place % 32768 < 7:
                place += 32768 - place % 32768
                continue
            length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
            parts += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):
                yield Record.FromString(parts)
                parts = b""


def nested(folder):
    """Return the configuration after the last record."""
    found = {}
    for record in records(folder):
        if record.HasField("run") or record.HasField("config"):
            updates = record.run.config.update if record.HasField("run") else record.config.update
            found |= {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in updates}
    return found


def test_one_run_per_folder_goes_on_under_its_id_and_keeps_its_exit_code(tmp_path):
    for step, (code, preempted) in enumerate([(143, True), (1, False), (0, False)]):
        logger = ContinuedWandbLogger(str(tmp_path), name="n")
        logger.log_hyperparams({"mapper": {"sizes": [1, {"deep": 2.5}]}, "lm": None, "name": "x"})
        logger.log_metrics({"train/loss": 1.5}, step=step)
        finish([logger], code, preempted)
        assert wandb.run is None
    (run_id,) = {record.run.run_id for record in records(tmp_path) if record.HasField("run")}
    assert (tmp_path / "wandb_id").read_text() == f"{run_id}\n"
    assert [record.exit.exit_code for record in records(tmp_path) if record.HasField("exit")] == [143, 1, 0]
    assert sum(record.HasField("preempting") for record in records(tmp_path)) == 1
    config = nested(tmp_path)
    assert (config["mapper"], config["lm"], config["name"]) == ({"sizes": [1, {"deep": 2.5}]}, None, "x")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_never_is_another_run_and_so_is_another_folder(tmp_path):
    first, again = (ContinuedWandbLogger(str(tmp_path / "a")).version for _ in range(2))
    new = ContinuedWandbLogger(str(tmp_path / "a"), resume="never").version
    other = ContinuedWandbLogger(str(tmp_path / "b")).version
    assert first == again
    assert len({first, new, other}) == 3
    assert ContinuedWandbLogger(str(tmp_path / "a")).version == new


def test_other_ranks_write_and_import_nothing(tmp_path):
    script = f"""
import sys
from prefixvlm.logger.wandb import finish, ContinuedWandbLogger
from prefixvlm.logger.resumable import ContinuedTensorBoardLogger, CsvLogger
loggers = [make({str(tmp_path / "run")!r}) for make in (ContinuedWandbLogger, CsvLogger, ContinuedTensorBoardLogger)]
for logger in loggers:
    logger.log_hyperparams({{"a": 1}})
    logger.log_metrics({{"x": 1.0}}, 1)
finish(loggers, 1, preempted=True)
print("imported" if "wandb.sdk" in sys.modules else "not imported")
"""
    env = {**os.environ, "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    assert done.stdout == "not imported\n"
    assert list(tmp_path.glob("run*")) == []


def test_wandb_does_not_record_a_secret_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "data.shards=https://u:hunter2hunter2@h/x"])
    logger = ContinuedWandbLogger(str(tmp_path))
    logger.log_metrics({"x": 1.0}, 1)
    finish([logger], 0)
    assert list(records(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


def test_csv_and_wandb_have_the_same_numbers(tmp_path, shards):  # noqa: F811
    loggers = [ContinuedWandbLogger(str(tmp_path)), CsvLogger(str(tmp_path))]
    fit_with_two_validations(module_of(), shards, logger=loggers)
    finish(loggers, 0)
    ours = {}
    for record in records(tmp_path):
        if record.HasField("history"):
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            step = row.get("trainer/global_step")
            ours |= {(step, name): value for name, value in row.items() if isinstance(value, int | float)}
    with (tmp_path / "csv" / "metrics.csv").open(newline="") as file:
        theirs = {
            (int(row["step"]), name): float(value) for row in csv.DictReader(file)
            for name, value in row.items() if value and name != "step"
        }  # fmt: skip
    assert {key: ours[key] for key in theirs} == pytest.approx(theirs)
    assert {(0, "train/loss"), (1, "val/loss"), (1, "val/captioning_most_frequent_share")} <= theirs.keys()


def test_a_table_needs_rows(tmp_path, shards):  # noqa: F811
    module = module_of()
    trainer = fit_with_two_validations(module, shards, limit=0, logger=ContinuedWandbLogger(str(tmp_path)))
    log_table(trainer, "val/x", ["a"], [])
    log_table(trainer, "val/y", ["a", "b"], [["1", 2]])
    wandb.finish()
    (table,) = tmp_path.rglob("*.table.json")
    assert json.loads(table.read_text())["data"] == [["1", 2]]
