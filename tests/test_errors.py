"""Errors are one sentence: the messages themselves, and the programs as a user runs them."""

import errno
import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from prefixvlm import cli, config
from prefixvlm.data.shards.write import write_shards
from prefixvlm.errors import ERRORS, is_expected, one_sentence
from prefixvlm.sentences import sentence
from tests.data.conftest import png
from tests.forked import FORKED
from tests.inference.test_predictor import write_checkpoint

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"


def raised(function):
    try:
        function()
    except (HydraException, OmegaConfBaseException) as error:
        return error
    raise AssertionError("nothing was raised")


def composing(*overrides):
    config.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return raised(lambda: compose("train", list(overrides)))


def test_a_missing_value_is_named_with_the_way_to_set_it():
    cfg = OmegaConf.create({"ckpt": "???", "data": {"shards": "???"}})
    assert sentence(raised(lambda: cfg.ckpt)) == "ckpt has no value; set it as ckpt=VALUE"
    assert "data.shards" in sentence(raised(lambda: cfg.data.shards))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("mapper.hiden_ratio=3", "there is no key mapper.hiden_ratio; did you mean mapper.hidden_ratio?"),
        ("sede=3", "there is no key sede; did you mean seed?"),
        ("mapper=lineer", "there is no mapper 'lineer'; did you mean mapper=linear?"),
    ],
)
def test_an_unknown_key_or_choice_suggests_the_nearest(monkeypatch, override, expected):
    monkeypatch.setattr(sys, "argv", ["train.py", "mapper=mlp", override])
    error = composing("mapper=mlp", override) if not override.startswith("mapper=") else composing(override)
    assert sentence(error, CONF) == expected
    GlobalHydra.instance().clear()


def test_an_unknown_key_without_a_folder_of_configurations_is_named():
    assert sentence(composing("sede=3")) == "there is no key sede"
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim: {lr: 0.1}", "experiment/mine.yaml does not fit the configuration: Key 'experiment' not in "
                             "'TrainConfig'; begin it with the line `# @package _global_`"),
        ("# @package _global_\nsede: 3", "experiment/mine.yaml does not fit the configuration: Key 'sede' not in "
                                         "'TrainConfig'"),
        ("optim: {lr: [", "a file of the configuration is not YAML: while parsing a flow node"),
    ],
)  # fmt: skip
def test_a_wrong_experiment_file_is_one_sentence(tmp_path, text, expected):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    config.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(ERRORS) as caught:
        compose("train", ["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"])
    assert sentence(caught.value).startswith(expected)
    assert "\n" not in sentence(caught.value)


def test_a_wrong_value_names_its_key():
    cfg = OmegaConf.structured(config.TrainConfig)
    message = sentence(raised(lambda: cfg.merge_with({"seed": "abc"})))
    assert "'abc'" in message
    assert "seed" in message
    assert "\n" not in message


def test_an_os_error_is_its_reason_and_its_file():
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/last.ckpt")
    assert sentence(error) == "No space left on device: /x/last.ckpt"
    assert sentence(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) == "No space left on device"
    assert sentence(OSError("the hub\n  is away")) == "the hub"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("\n  first line \n second line\n", "first line"),
        ("first\nfull_key: a.b\nobject_type=dict", "first (in a.b)"),
        ("a.b is wrong\n    full_key: a.b", "a.b is wrong"),
        ("", "ValueError"),
    ],
)
def test_a_message_of_many_lines_is_its_first(message, expected):
    assert sentence(ValueError(message)) == expected


@pytest.mark.parametrize(("error", "code"), [(ValueError("a\nb"), 2), (OSError("a"), 2), (KeyboardInterrupt(), 130)])
def test_an_entry_point_ends_with_one_line_and_its_code(monkeypatch, capsys, error, code):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def fail():
        raise error

    with pytest.raises(SystemExit) as caught:
        one_sentence(fail)()
    assert caught.value.code == code
    assert capsys.readouterr().err.strip().count("\n") == 0


@pytest.mark.parametrize("kind", [tqdm, Tqdm])
def test_the_sentence_starts_a_line_below_a_progress_bar(monkeypatch, capsys, kind):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    bar = kind(total=3, file=sys.stderr)

    def fail():
        bar.update(1)
        raise ValueError("no such thing")

    with pytest.raises(SystemExit):
        one_sentence(fail)()
    assert capsys.readouterr().err.endswith("\nerror: no such thing\n")


def test_an_internal_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(ZeroDivisionError):
        one_sentence(lambda: 1 / 0)()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("batchsize=3", "there is no key batchsize; did you mean batch_size?"),
        ("few_shot.shot=3", "there is no key few_shot.shot; did you mean few_shot.shots?"),
        ("benchmark=cocoo", "there is no benchmark 'cocoo'; did you mean benchmark=coco?"),
        ("trials=0", "trials is 0; it must be an int of 1 or more"),
    ],
)
def test_a_wrong_word_to_eval_is_one_sentence_and_exit_code_2(monkeypatch, capsys, override, expected):
    """In this process, to spare it the imports."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", [str(ROOT / "eval.py"), "ckpt=x.ckpt", override])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "eval.py"), run_name="__main__")
    GlobalHydra.instance().clear()
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {expected}\n"


def test_a_text_file_as_image_is_one_sentence_and_exit_code_2(monkeypatch, capsys, tmp_path):
    """In this process, to spare it the imports."""
    write_checkpoint(tmp_path)
    (tmp_path / "notes.txt").write_text("these are notes")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    arguments = ["predict", tmp_path / "notes.txt", "--ckpt", tmp_path / "x.ckpt"]
    monkeypatch.setattr(sys, "argv", ["prefixvlm", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower()]
    assert line.startswith(f"error: {tmp_path}/notes.txt: the image does not decode")


def samples(split, count=6, questions=True):
    for i in range(count):
        question = {"id": f"{split}-{i}-0", "question": "is it?", "answers": ["yes"]}
        content = {"captions": ["a b"], "questions": [question] if questions or i != 4 else []}
        yield f"{split}-{i}", {"png": png(i), "json": json.dumps(content).encode()}


def shards_of(folder, **keywords):
    write_shards({split: samples(split, **keywords) for split in ("train", "val", "test")}, folder, "a test", "none")
    (folder / "manifest.json").unlink()  # with it the damage would be found by the file's size
    return folder


def with_a_broken_image(folder):
    shards_of(folder)
    with tarfile.open(folder / "train-000000.tar", "w") as tar:
        for key, members in samples("train"):
            for extension, data in members.items():
                data = data[: len(data) // 2] if (key, extension) == ("train-3", "png") else data
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder


def cut_short(folder):
    tar = shards_of(folder) / "train-000000.tar"
    os.truncate(tar, 512 * 9)
    return folder


# Each command runs in a fork of a process that has imported all modules, because the imports take most of the time.
@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return the exit code and the error output of each command."""
    folder = tmp_path_factory.mktemp("errors")
    write_checkpoint(folder)
    parts = [
        f"encoder.model_name=local-dir:{folder}/clip", "lm=gpt2", f"lm.name={folder}/gpt2", "lm.dtype=float32",
        "mapper=linear", "trainer=cpu", "trainer.max_steps=5", "data.batch_size=2", "data.num_workers=0", "logger=csv",
        "test=false",
    ]  # fmt: skip

    def train(name, shards, task):
        return ["train.py", *parts, f"data.shards={shards}", f"task={task}", f"hydra.run.dir={folder}/{name}"]

    commands = {
        "no ckpt": ["eval.py"],
        "no coco": ["eval.py", "benchmark=coco", "shards=/nowhere"],
        "truncated": train("truncated", cut_short(folder / "cut"), "captioning"),
        "broken image": train("broken", with_a_broken_image(folder / "broken-shards"), "captioning"),
        "no question": train("question", shards_of(folder / "questions", questions=False), "vqa"),
    }

    found = {}
    for name, command in commands.items():
        process = FORKED.start(command)
        error = process.communicate()[1]
        found[name] = (process.returncode, error)
    return found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no ckpt", ["ckpt has no value; set it as ckpt=VALUE"]),
        ("truncated", ["train-000000.tar", "cut short"]),
        ("broken image", ["train-000000.tar", "sample train-3", "does not decode"]),
        ("no question", ["'train-4'", "vqa"]),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(results, name, words):
    code, err = results[name]
    assert code == 2, err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if "error:" in line.lower()]
    for word in words:
        assert word in line


def assert_coco_is_explained(code, err):
    assert code == 2, err
    assert "Traceback" not in err
    assert err.count("error:") == 1
    for word in ("/nowhere", "dataset_coco.json", "https://", ".zip", "http://images.cocodataset.org", "--images DIR"):
        assert word in err
    command = err.splitlines()[-1].strip()
    assert command == "prefixvlm shards coco --annotations dataset_coco.json --images DIR --out /nowhere"


def test_a_benchmark_without_shards_names_its_files_and_the_command(results):
    assert_coco_is_explained(*results["no coco"])


def test_make_says_the_same():
    stamp = ROOT / ".venv" / ".installed"
    newer = [name for name in ("pyproject.toml", "constraints.txt") if stamp.is_file()
             and (ROOT / name).stat().st_mtime > stamp.stat().st_mtime]  # fmt: skip
    if not stamp.is_file() or newer or not shutil.which("make"):
        pytest.skip("`make` would install first: .venv/.installed is missing or out of date")
    made = subprocess.run(
        ["make", "-s", "eval-coco", "DATA=/nowhere", "CKPT=x"], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "HYDRA_FULL_ERROR": "0"},
    )  # fmt: skip
    lines = made.stderr.splitlines()
    assert "***" in lines.pop()  # make: or, under another make, make[1]:
    assert_coco_is_explained(made.returncode, "\n".join(lines))


def test_a_data_worker_that_was_killed_is_an_error_with_what_to_do(capsys):
    class Killed(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(SystemExit) as end:
        one_sentence(lambda: list(torch.utils.data.DataLoader(Killed(), num_workers=1)))()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: a data worker was killed (DataLoader worker (pid")
    assert "mostly for want of memory; set data.num_workers or data.batch_size to less" in error


def test_memory_that_runs_out_is_one_sentence_with_what_to_do():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    expected = r"memory ran out \(\d+ bytes were asked for\); set batch_size, num_beams or prefix_length to less"
    assert re.match(expected, sentence(error.value))
    assert is_expected(error.value)
    assert sentence(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")).startswith(
        "memory ran out (2.00 GiB were asked for)"
    )


def test_a_runtime_error_of_our_own_keeps_its_traceback():
    def fail():
        raise RuntimeError("frozen weights changed in training")

    with pytest.raises(RuntimeError, match="frozen weights"):
        one_sentence(fail)()
