"""train.py and eval.py as a user runs them, on real easy-VQA shards with a small random CLIP and GPT-2."""

import copy
import json
import signal
import subprocess
import time
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.write import write_shards
from prefixvlm.data.sources import easy_vqa
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load
from prefixvlm.training.run_history import history
from tests.conftest import tiny_lm
from tests.forked import FORKED

ROOT = Path(__file__).parents[1]
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
SIZES = {"train": 40, "val": 8, "test": 12}


def tiny_clip(folder: Path, seed: int = 0, config: dict = CLIP) -> Path:
    torch.manual_seed(seed)
    folder.mkdir()
    save_file(open_clip.model.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 64}}))
    return folder


def tiny_gpt2(folder: Path, seed: int = 0, scale: float = 1.0, repeats: int = 1) -> Path:
    """Write a small random GPT-2. scale: of its embeddings. repeats: of its 96 positions."""
    lm = tiny_lm("gpt2", seed)
    lm.model.transformer.wte.weight.data *= scale
    positions = lm.model.transformer.wpe
    positions.weight.data = positions.weight.data.repeat(repeats, 1)
    lm.model.config.n_positions = 96 * repeats
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def easy_shards(folder: Path) -> Path:
    """Return shards with the first few samples of each split of easy-VQA."""

    def first(split):
        samples = easy_vqa.samples(split)
        return [next(samples) for _ in range(SIZES[split])]

    write_shards({s: first(s) for s in SIZES}, folder / "shards", "easy-VQA", "none", samples_per_shard=16)
    return folder / "shards"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Return overrides for small parts."""
    folder = tmp_path_factory.mktemp("parts")
    return [
        f"data.shards={easy_shards(folder)}",
        f"encoder.model_name=local-dir:{tiny_clip(folder / 'clip')}",
        "lm=gpt2",
        f"lm.name={tiny_gpt2(folder / 'gpt2')}",
        "lm.dtype=float32",
        "mapper=transformer",
        "mapper.num_layers=1",
        "mapper.prefix_length=4",
        "module.max_target_length=40",
        "data.batch_size=8",
        "logger=csv",
    ]


def run(*arguments, code=0, cwd=ROOT, timeout=180, **env):
    """Run a command as a user does, in a fork that has imported all modules."""
    child = FORKED.start(arguments, cwd, env)
    out, err = child.communicate(timeout)
    assert child.returncode == code, out + err
    return subprocess.CompletedProcess(arguments, code, out, err)


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    """Return the folder of a run of 5 steps, and its output."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, run("train.py", *parts, f"hydra.run.dir={folder}").stdout


def test_a_run_trains_tests_and_leaves_a_small_safe_checkpoint(trained):
    folder, out = trained
    assert "captioning" in out
    assert "vqa" in out
    checkpoint = load(folder / "checkpoints" / "best.ckpt")
    assert all(name.startswith("model.mapper.") for name in checkpoint["state_dict"])
    assert checkpoint[KEY]["config"]["mapper"]["num_layers"] == 1
    assert {"encoder", "lm"} == set(checkpoint[KEY]["identity"])
    metrics = (folder / "csv" / "metrics.csv").read_text()
    assert "val/loss" in metrics
    assert "test/vqa_accuracy" in metrics
    assert not list(folder.rglob("*.tmp"))


def test_eval_needs_only_the_checkpoint_and_writes_three_files(trained, tmp_path):
    folder, _ = trained
    out = run(ROOT / "eval.py", f"ckpt={folder}/checkpoints/best.ckpt", f"out={tmp_path}/eval", cwd=tmp_path).stdout
    assert "blind" in out
    result = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "eval" / "predictions.jsonl").read_text().splitlines()]
    assert result["tasks"]["captioning"]["num_images"] == SIZES["test"]
    assert result["tasks"]["vqa"]["num_items"] == sum(line["task"] == "vqa" for line in lines)
    assert {line["key"] for line in lines} == {f"test-{i:04d}" for i in range(SIZES["test"])}
    assert all(line["blind_prediction"] is not None for line in lines)
    said = {line["id"]: line["prediction"] for line in lines}
    assert all(line["shuffled_prediction"] == said[line["shuffled_from"]] for line in lines)
    for report in result["tasks"].values():
        for baseline in ("blind", "shuffled"):
            main = next(iter(report["scores"]))
            found = report["differences"][baseline][main]
            assert found["difference"] == pytest.approx(report["scores"][main] - report[baseline][main])
            assert found["interval"][0] <= found["difference"] <= found["interval"][1]
    what = [line for line in lines if line["task"] == "vqa" and line["prompt"].startswith("Question: what")]
    assert result["tasks"]["vqa"]["counts"]["accuracy_what"] == len(what)
    assert result["model"]["trained_parameters"] > 0
    assert all(set(line["scores"]) >= {"accuracy"} for line in lines if line["task"] == "vqa")
    assert all(line["groups"] == ["what"] for line in what)
    for report in result["tasks"].values():
        assert set(report["counts"]) == set(report["scores"])
        assert report["prompt"] in ("Caption:", "Question: {question} Answer:")
    assert len(result["config_hash"]) == 16
    assert result["clip_scorer"] is None
    assert result["evaluation"]["few_shot"]["shots"] == 0
    page = (tmp_path / "eval" / "report.html").read_text()
    assert "data:image/png" in page
    assert result["config_hash"] in page
    assert "Predictions while training" in page
    examples = history(load(folder / "checkpoints" / "best.ckpt"))["examples"]
    assert {line["task"] for line in examples} == {"captioning", "vqa"}
    assert all(f'<th scope="row">{line["key"]}<' in page for line in examples)


def test_eval_takes_another_task_and_decoding(trained, tmp_path):
    folder, _ = trained
    answers = "task.vqa.answers=[yes,no,red]"
    ckpt = f"ckpt={folder}/checkpoints/best.ckpt"
    run("eval.py", ckpt, f"out={tmp_path}", "task=vqa", answers, "blind=false", "limit=3")
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert set(result["tasks"]) == {"vqa"}
    assert result["tasks"]["vqa"]["decoding"]["method"] == "ranking"
    assert result["tasks"]["vqa"]["num_images"] == 3
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert {line["prediction"] for line in lines} <= {"yes", "no", "red"}


def read(folder):
    """Return metrics.json, and the lines of predictions.jsonl."""
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    return json.loads((folder / "metrics.json").read_text()), [json.loads(line) for line in lines]


def test_eval_with_demonstrations_trials_and_a_clip_scorer(trained, parts, tmp_path):
    clip = next(part.split("=")[1] for part in parts if part.startswith("encoder.model_name="))
    out = run(
        "eval.py", f"ckpt={trained[0]}/checkpoints/best.ckpt", f"out={tmp_path}", "few_shot.shots=2", "trials=2",
        "few_shot.choice=nearest", "limit=4", "clip_scorer=folder", f"clip_scorer.name={clip}", "task=captioning",
        "task.captioning.prompt=", "task.captioning.decoding.max_new_tokens=8", # a token a letter, and 96 of them
    ).stdout  # fmt: skip
    result, lines = read(tmp_path)
    for name, report in result["tasks"].items():
        assert report["num_images"] == 4, name
        assert set(report["spread"]) == set(report["trials"]) == set(report["scores"])
        assert all(len(values) == 2 for values in report["trials"].values())
    captions = result["tasks"]["captioning"]
    assert captions["scores"]["clip_score"] == pytest.approx(sum(captions["trials"]["clip_score"]) / 2)
    assert 0 <= captions["blind"]["clip_score"] <= 250
    assert 0 <= captions["shuffled"]["clip_score"] <= 250
    assert "distinct_captions" not in captions["shuffled"]
    assert captions["differences"].keys() == {"blind", "shuffled"}
    assert captions["differences"]["shuffled"].keys() >= {"cider", "bleu_1", "clip_score"}
    assert result["clip_scorer"]["name"] == clip
    assert "flatters" in result["clip_scorer"]["warning"]  # it is the encoder of the model
    assert all(
        {"clip_score", "ref_clip_score"} <= set(line["scores"]) for line in lines if line["task"] == "captioning"
    )
    assert "± spread" in out
    page = (tmp_path / "report.html").read_text()
    assert "flatters" in page
    assert "mean of 2 trials" in page


def test_a_submission_is_written_without_references(trained, parts, tmp_path):
    """The images of a test server have no captions, and their ids are numbers."""
    shards = Path(next(part.split("=")[1] for part in parts if part.startswith("data.shards=")))
    image = next(read_shard(shards / "test-000000.tar"))[1]["png"]
    write_shards({"test": [(f"{n:012d}", {"png": image}) for n in (7, 9)]}, tmp_path / "shards", "a server", "none")
    options = [f"ckpt={trained[0]}/checkpoints/best.ckpt", f"out={tmp_path}/eval", f"shards={tmp_path}/shards"]
    run("eval.py", *options, "task=captioning", f"submission={tmp_path}/new/x.json")
    result, lines = read(tmp_path / "eval")
    assert json.loads((tmp_path / "new" / "x.json").read_text()) == [
        {"image_id": number, "caption": line["prediction"]} for number, line in zip((7, 9), lines, strict=True)
    ]
    assert result["tasks"]["captioning"]["scores"] == {}
    assert result["tasks"]["captioning"]["num_unscored"] == 2
    assert [line["correct"] for line in lines] == [None, None]
    assert "✗ wrong" not in (tmp_path / "eval" / "report.html").read_text()
    error = run("eval.py", *options[:1], f"submission={tmp_path}/both.json", f"out={tmp_path}/both", code=2).stderr
    assert "a submission is of one task, not of captioning, vqa" in error
    assert not list(tmp_path.glob("both*"))  # the error comes before any work
    error = run("eval.py", *options, "task=captioning", code=2).stderr
    assert "has no caption" in error
    assert "submission=FILE" in error


@pytest.mark.slow
def test_two_processes_have_the_predictions_and_scores_of_one(trained, tmp_path):
    options = [f"ckpt={trained[0]}/checkpoints/best.ckpt", "limit=5", "batch_size=2", "blind=false"]
    run("eval.py", *options, f"out={tmp_path}/one", CUDA_VISIBLE_DEVICES="")
    run("eval.py", *options, f"out={tmp_path}/two", "devices=2", CUDA_VISIBLE_DEVICES="")
    (one, one_lines), (two, two_lines) = read(tmp_path / "one"), read(tmp_path / "two")
    assert two_lines == one_lines
    assert two["tasks"] == one["tasks"]
    assert two["config_hash"] == one["config_hash"]
    error = run("eval.py", "ckpt=nothing.ckpt", "devices=2", code=2).stderr
    assert error.strip().splitlines() == [
        "error: there is no checkpoint file nothing.ckpt; set ckpt to a .ckpt file of a run"
    ]


@pytest.mark.parametrize("debug", ["one_batch", "overfit"])
def test_debug_configurations_run(parts, tmp_path, debug):
    short = ["trainer.max_epochs=2"] if debug == "overfit" else ["data.eval_batch_size=2"]
    out = run("train.py", *parts, f"debug={debug}", *short, f"hydra.run.dir={tmp_path}/run").stdout
    assert "Run folder" in out
    assert ("test vqa" in out) == (debug == "one_batch")


def test_another_encoder_or_lm_is_refused(trained, parts, tmp_path):
    folder, _ = trained
    checkpoint = load(folder / "checkpoints" / "best.ckpt")
    for axis, key, other in (
        ("encoder", "model_name", f"local-dir:{tiny_clip(tmp_path / 'clip', seed=1)}"),
        ("lm", "name", str(tiny_gpt2(tmp_path / "gpt2", seed=1))),
    ):
        changed = copy.deepcopy(checkpoint[KEY])
        changed["config"][axis][key] = other
        torch.save({**checkpoint, KEY: changed}, tmp_path / "other.ckpt")
        err = run("eval.py", f"ckpt={tmp_path}/other.ckpt", code=2).stderr
        assert f"the checkpoint was trained with {axis} {checkpoint[KEY]['identity'][axis]}" in err


def test_an_interrupted_run_ends_with_the_same_weights(parts, trained, tmp_path):
    """Killed after step 3 and run again, a run ends with bit-identical weights to one that was not stopped."""
    folder, _ = trained
    kill_and_run_again([*parts, "test=false"], tmp_path / "run")
    assert_same_weights(folder, tmp_path / "run")


def test_an_interrupted_stream_goes_on_at_its_place(parts, tmp_path):
    """Without a shuffle buffer nothing is left out, so the weights are those of a run that was not stopped."""
    options = [*parts, "test=false", "data.mode=stream", "data.epoch_samples=40", "data.shuffle_buffer=1"]
    run("train.py", *options, f"hydra.run.dir={tmp_path}/straight")
    stopped_at, out = kill_and_run_again(options, tmp_path / "run")
    assert stopped_at == 5 or "the stream of shards goes on at its place in the checkpoint" in out
    assert_same_weights(tmp_path / "straight", tmp_path / "run")


def kill_and_run_again(options, folder):
    """Kill a run after step 2 or later, and start the same command again. Return the step and what is printed then."""
    command = ["train.py", *options, f"hydra.run.dir={folder}", "callbacks.last.every_n_steps=1"]
    process = FORKED.start([*command, "data.num_workers=0"])
    last = folder / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if last.exists() and load(last)["global_step"] >= 2:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    process.communicate(timeout=60)
    stopped_at, done = load(last)["global_step"], run(*command)
    return stopped_at, done.stdout + done.stderr


def assert_same_weights(folder, other):
    """The runs in both folders must have ended after 5 steps with the same weights."""
    one, two = (load(each / "checkpoints" / "last.ckpt") for each in (folder, other))
    assert one["global_step"] == two["global_step"] == 5
    for name, tensor in one["state_dict"].items():
        assert torch.equal(tensor, two["state_dict"][name]), name


def test_a_sweep_gives_each_job_its_folder_and_its_wandb_run(parts, tmp_path):
    options = [option for option in parts if not option.startswith(("logger", "mapper"))]
    run(
        "train.py", "-m", *options, "logger=wandb", "mapper=linear,mlp", "trainer.max_steps=1",
        "test=false", f"hydra.sweep.dir={tmp_path}/sweep", timeout=300,
    )  # fmt: skip
    runs = set()
    for job in range(2):
        folder = tmp_path / "sweep" / str(job)
        assert (folder / "checkpoints" / "last.ckpt").exists()
        runs |= {path.name.rsplit("-", 1)[1] for path in folder.glob("wandb/offline-run-*")}
    assert len(runs) == 2
    kinds = [load(tmp_path / "sweep" / str(j) / "checkpoints" / "last.ckpt")[KEY]["config"] for j in range(2)]
    assert [kind["mapper"]["_target_"].rsplit(".")[-1] for kind in kinds] == ["LinearMapper", "MLPMapper"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("resume=must", "to resume from"),
        ("optim.schedule=cosin", "accepted are constant, linear, cosine"),
        ("task.vqa.decoding.method=beams", "accepted are greedy, beam, clipcap_beam, nucleus"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(parts, tmp_path, override, message):
    result = run("train.py", *parts, override, f"hydra.run.dir={tmp_path}/run", code=2)
    assert message in result.stderr
    assert result.stderr.count("error:") == 1
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("damage", ["truncated", "text", "absent", "foreign"])
def test_a_file_that_is_not_a_checkpoint_is_one_sentence(trained, tmp_path, damage):
    path = tmp_path / "x.ckpt"
    if damage == "truncated":
        path.write_bytes((trained[0] / "checkpoints" / "best.ckpt").read_bytes()[:2000])
    elif damage == "text":
        path.write_text("not a checkpoint")
    elif damage == "foreign":
        torch.save({"state_dict": {}}, path)
    result = run("eval.py", f"ckpt={path}", f"out={tmp_path}/eval", code=2)
    assert str(path) in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "eval").exists()
