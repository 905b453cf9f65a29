"""`prefixvlm export --to hub`: a folder that has the predictions of its checkpoint, and a card about it."""

import io
import json
import shutil
import struct
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from PIL import Image

import prefixvlm
from prefixvlm.data.shards import manifest
from prefixvlm.data.shards.write import write_shards
from prefixvlm.export.hub import export_hub
from prefixvlm.training.checkpoint_file import load
from tests.inference.test_predictor import write_checkpoint
from tests.test_end_to_end import ROOT

OLD = ROOT / "tests" / "old_checkpoints"  # of LoRA with layer norms, heads and averages, too


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The folder of real checkpoints, in which their paths start."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def images():
    picture = Image.new("RGB", (70, 50), "red")
    picture.paste((9, 99, 199), (0, 0, 20, 50))
    return [picture, picture.rotate(90, expand=True), Image.new("RGB", (40, 90), "green")]


def sha256(path):
    return manifest.sha256(Path(path))


def answers(model):
    task = next(iter(model.module.tasks.values()))
    texts = ["a circle"] if task.takes == "phrase" else [""]
    found = model.answers_of(task, [("", image) for image in images()], texts)
    return [
        (each.prediction.prediction, model.module.tasks[task.name].probabilities(each.prediction)) for each in found
    ]


@pytest.mark.parametrize("name", ["captioning_vqa", "classification_lora_ema", "grounding"])
def test_a_folder_has_the_tensors_and_the_predictions_of_its_checkpoint(old, name):
    checkpoint = old / f"{name}.ckpt"
    export_hub(checkpoint, old / "out")
    ours, theirs = load(checkpoint), load(old / "out")
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for key, tensor in ours["state_dict"].items():
        assert tensor.dtype == theirs["state_dict"][key].dtype
        assert torch.equal(tensor, theirs["state_dict"][key]), key
    assert answers(prefixvlm.load(old / "out")) == answers(prefixvlm.load(checkpoint))


def test_a_folder_with_its_frozen_parts_loads_anywhere(tmp_path, monkeypatch):
    made = tmp_path / "made"
    made.mkdir()
    module = write_checkpoint(made)
    line = export_hub(made / "x.ckpt", made / "out", include_frozen=True)
    assert "frozen encoder and lm" in line
    shutil.move(made / "out", tmp_path / "moved")
    expected = prefixvlm.load(made / "x.ckpt").caption(images())
    shutil.rmtree(made)
    monkeypatch.chdir("/")
    model = prefixvlm.load(tmp_path / "moved")
    assert model.caption(images()) == expected
    assert module.identity() == model.module.identity()
    assert str(made) not in (tmp_path / "moved" / "prefixvlm.json").read_text()


def test_the_card_has_data_licences_scores_with_their_baselines_and_no_home(old, monkeypatch):
    monkeypatch.setenv("HOME", str(old))
    (old / "run" / "checkpoints").mkdir(parents=True)
    checkpoint = shutil.copy(old / "captioning_vqa.ckpt", old / "run" / "checkpoints" / "best.ckpt")
    Image.new("RGB", (8, 8), "red").save(buffer := io.BytesIO(), "PNG")
    samples = [(str(n), {"png": buffer.getvalue(), "txt": b"a red square"}) for n in range(3)]
    write_shards({"train": samples}, old / "shards", "drawn | squares", "CC-BY-4.0", samples_per_shard=3)
    vqa = {
        "scores": {"accuracy": 82.5},
        "blind": {"accuracy": 66.4},
        "num_items": 9,
        "intervals": {"accuracy": [80, 85]},
    }
    metrics = {
        "tasks": {"vqa": {**vqa, "variant": "exact_match"}},
        "date": "2026-01-02",
        "checkpoint_sha256": sha256(checkpoint),
        "config": {"data": {"shards": str(old / "shards")}},
    }  # fmt: skip
    (old / "run" / "eval").mkdir()
    (old / "run" / "eval" / "metrics.json").write_text(json.dumps(metrics))
    export_hub(checkpoint, old / "out", licence="mit")
    card = ModelCard.load(old / "out" / "README.md")
    header = card.data.to_dict()
    assert header["license"] == "mit"
    assert header["pipeline_tag"] == "image-to-text"
    (result,) = card.data.eval_results
    assert (result.task_type, result.metric_type, result.metric_value) == ("vqa", "accuracy", 82.5)
    assert "| vqa | accuracy | 82.50 | 66.40 | 80.00 … 85.00 | 9 |" in card.text
    assert "drawn / squares (3 train samples). Licence: CC-BY-4.0" in card.text
    assert "The frozen lm was the local folder or file `old_lm`" in card.text
    assert load(checkpoint)["prefixvlm"]["identity"]["lm"] in card.text
    assert str(old) not in card.text


@pytest.mark.parametrize("name", ["./old_lm", "{}/old_lm"])
def test_a_folder_that_names_a_part_here_is_loaded_from_anywhere(old, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(old))
    content = torch.load("captioning_vqa.ckpt", weights_only=True)
    content["prefixvlm"]["config"]["lm"]["name"] = name.format(old)
    torch.save(content, "other.ckpt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    shown = name.format("~")
    assert f"needs {name.format(old)}, the lm" in export_hub(old / "other.ckpt", old / "run" / "out")
    assert f"local folder or file `{shown}`" in (old / "run" / "out" / "README.md").read_text()
    stored = json.loads((old / "run" / "out" / "prefixvlm.json").read_text())
    assert stored["prefixvlm"]["config"]["lm"]["name"] == shown
    assert prefixvlm.load(old / "run" / "out").module.identity() == content["prefixvlm"]["identity"]


@pytest.mark.parametrize(
    ("name", "call"),
    [("captioning_vqa", "model.answer("), ("classification_lora_ema", "model.classify("), ("grounding", "# pre")],
)
def test_the_card_shows_a_call_that_the_checkpoint_answers(old, name, call):
    export_hub(old / f"{name}.ckpt", old / "out")
    lines = (old / "out" / "README.md").read_text().splitlines()
    assert lines[lines.index('    model = prefixvlm.load("USER/NAME")  # or this folder') + 1].startswith(f"    {call}")


def test_scores_of_another_checkpoint_are_refused_or_passed_over(old):
    metrics = {"tasks": {"vqa": {"scores": {"accuracy": 1.0}, "num_items": 9}}, "checkpoint_sha256": "0" * 64}
    (old / "metrics.json").write_text(json.dumps(metrics))
    export_hub(old / "captioning_vqa.ckpt", old / "out")
    assert "None were given" in (old / "out" / "README.md").read_text()
    with pytest.raises(ValueError, match="metrics.json is of another checkpoint"):
        export_hub(old / "captioning_vqa.ckpt", old / "again", metrics=old / "metrics.json")
    assert not (old / "again").exists()
    (old / "metrics.json").write_text("[]")  # of another program, perhaps
    export_hub(old / "captioning_vqa.ckpt", old / "again")


def test_secrets_of_the_environment_are_in_neither_file(old, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "Caption:-very-secret")
    content = torch.load("captioning_vqa.ckpt", weights_only=True)
    content["prefixvlm"]["provenance"]["command"] = "train.py key=Caption:-very-secret"
    torch.save(content, "secret.ckpt")
    export_hub(old / "secret.ckpt", old / "out")
    assert "very-secret" not in (old / "out" / "prefixvlm.json").read_text() + (old / "out" / "README.md").read_text()


def change(key, value):
    def write(folder):
        stored = json.loads((folder / "prefixvlm.json").read_text())
        (folder / "prefixvlm.json").write_text(json.dumps({**stored, key: value}))

    return write


def replace_tensors(data, honest=False):
    def write(folder):
        (folder / "model.safetensors").write_bytes(data)
        if honest:
            change("sha256", sha256(folder / "model.safetensors"))(folder)

    return write


HEADER = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
HOSTILE = {
    "a flipped byte": lambda folder: _flip(folder / "model.safetensors"),
    "a tensor larger than its file": replace_tensors(struct.pack("<Q", len(HEADER)) + HEADER, honest=True),
    "a header larger than its file": replace_tensors(struct.pack("<Q", 2**62) + b"{}", honest=True),
    "a pickle": replace_tensors(b"\x80\x04\x95\x0b\x00\x00\x00", honest=True),
    "no tensors": lambda folder: (folder / "model.safetensors").unlink(),
    "a device": lambda folder: _zeros(folder / "model.safetensors"),
    "no JSON": lambda folder: (folder / "prefixvlm.json").write_text("x"),
    "deep JSON": lambda folder: (folder / "prefixvlm.json").write_text("[" * 10**5),
    "another format": change("format", 2),
    "no configuration": change("prefixvlm", {}),
    "a list": change("prefixvlm", []),
    "a configuration of numbers": change("prefixvlm", {"config": {"encoder": 3}, "identity": {}}),
}  # fmt: skip


def _zeros(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_folder_is_one_sentence(attack, old):
    export_hub(old / "captioning_vqa.ckpt", old / "out")
    HOSTILE[attack](old / "out")
    with pytest.raises(ValueError, match=r"prefixvlm\.json|model\.safetensors|not the checkpoint") as error:
        load(old / "out")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_a_component_in_a_folder_is_built_from_the_list_of_those_allowed_alone(old):
    export_hub(old / "captioning_vqa.ckpt", old / "out")
    stored = json.loads((old / "out" / "prefixvlm.json").read_text())
    stored["prefixvlm"]["config"]["mapper"] = {"_target_": "prefixvlm.atomic.write_text", "path": "canary", "text": "x"}
    (old / "out" / "prefixvlm.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"^mapper.*accepted are"):
        prefixvlm.load(old / "out")
    assert not (old / "canary").exists()


def test_a_hub_id_is_downloaded_with_our_files_alone(old, monkeypatch):
    export_hub(old / "captioning_vqa.ckpt", old / "out")
    asked = {}

    def snapshot_download(repository, revision, allow_patterns):
        asked.update(repository=repository, revision=revision, patterns=allow_patterns)
        return str(old / "out")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert load("someone/model@v1.0")["global_step"] == load(old / "out")["global_step"]
    assert (asked["repository"], asked["revision"]) == ("someone/model", "v1.0")
    names = [
        "prefixvlm.json",
        "model.safetensors",
        "frozen/lm/model.safetensors",
        "x.py",
        "frozen/lm/x.py",
        "frozen/x.bin",
    ]
    assert list(filter_repo_objects(names, allow_patterns=asked["patterns"])) == names[:3]


def test_without_a_network_a_hub_id_is_one_sentence(old):
    with pytest.raises(
        ValueError, match="someone/model is neither a checkpoint file or folder here, nor could"
    ) as error:
        load("someone/model")
    assert "\n" not in str(error.value)
    for name in ("absent.ckpt", "old_lm/absent", str(old)):
        with pytest.raises(ValueError, match="there is no"):
            load(name)
