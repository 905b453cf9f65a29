"""train.py, eval.py and predict on tasks with heads, boxes and dialogues: easy-VQA shards, small random models."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from prefixvlm.cli import main
from prefixvlm.data.sample import decode
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.write import write_shards
from prefixvlm.data.sources import easy_vqa
from prefixvlm.inference.predictor import Predictor
from prefixvlm.inference.request import Request
from prefixvlm.training.checkpoint_file import load
from tests.callbacks.test_last_checkpoint import equal
from tests.conftest import WIDTH, byte_tokenizer
from tests.test_end_to_end import easy_shards, read, run, tiny_clip
from tests.test_runs import end

HEAD = "_target_: prefixvlm.task.classification_head.ClassificationHead"
NAMES = [*easy_vqa.SHAPES, *easy_vqa.COLOURS]
HEADS = [
    "task=[classification,tagging,regression,contrastive]",
    f"+task.seen={{{HEAD}, label: seen, multi_label: true, classes: [{','.join(NAMES)}]}}",
    "+task.texts={_target_: prefixvlm.task.tagging.Tagging, tags: [O, B-SEEN, I-SEEN], with_image: false}",
    "task.classification.dropout=0.1", "task.contrastive.width=8",
]  # fmt: skip
TEXTS = ["task=[detection,grounding,dialogue]", "task.dialogue.turns=2", "task.detection.max_boxes=2"]
TRAINED_ON = {"heads": ("classification", "tagging", "regression", "contrastive", "seen", "texts"),
              "texts": ("detection", "grounding", "dialogue")}  # fmt: skip
AVERAGES = {f"{kind}_{name}" for kind in ("micro", "macro", "weighted") for name in ("precision", "recall", "f1")}
SCORES = {
    "classification": {"accuracy", *AVERAGES},
    "seen": {"accuracy", "micro_f1", "macro_f1", "weighted_f1"},
    "tagging": {"accuracy", "span_precision", "span_recall", "span_f1"},
    "texts": {"accuracy", "span_precision", "span_recall", "span_f1"},
    "regression": {"mae", "rmse", "r2", "mae_of_the_mean"},
    "contrastive": {f"{way}_recall_{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)},
    "detection": {"f1_50", "map", "map_50", "map_75", "mar_100"},
    "grounding": {"accuracy", "mean_overlap"},
    "dialogue": {"accuracy"},
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Return overrides for small parts; the language model has enough positions for a dialogue in bytes."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    size = {"vocab_size": 257, "eos_token_id": 256, "pad_token_id": 256, "bos_token_id": 256, "n_positions": 512}
    lm = GPT2LMHeadModel(GPT2Config(n_embd=WIDTH, n_layer=2, n_head=4, initializer_range=0.3, **size))
    lm.save_pretrained(folder / "gpt2")
    byte_tokenizer().save_pretrained(folder / "gpt2")
    shards, clip = easy_shards(folder), tiny_clip(folder / "clip")
    return [
        f"data.shards={shards}", f"encoder.model_name=local-dir:{clip}", "lm=gpt2", f"lm.name={folder}/gpt2",
        "lm.dtype=float32", "mapper=linear", "mapper.prefix_length=4", "data.batch_size=8", "logger=csv",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    """Return the output and the folders of a run of 15 steps with heads and one of 5 steps without."""
    folder = tmp_path_factory.mktemp("runs")
    long = ["trainer.max_epochs=3", "callbacks.last.every_n_steps=3"]
    output = run("train.py", *parts, *HEADS, *long, f"hydra.run.dir={folder}/heads").stdout
    output += run("train.py", *parts, *TEXTS, f"hydra.run.dir={folder}/texts").stdout
    return output, {name: folder / name for name in TRAINED_ON}


@pytest.fixture(scope="module")
def evaluated(trained):
    """Return the report, the lines and the page by task."""
    found = {}
    for name, tasks in TRAINED_ON.items():
        folder = trained[1][name]
        run("eval.py", f"ckpt={folder}/checkpoints/best.ckpt", "java=false")
        result, lines = read(folder / "eval")
        page = (folder / "eval" / "report.html").read_text()
        assert tuple(result["tasks"]) == tasks
        found |= {task: (result["tasks"][task], [at for at in lines if at["task"] == task], page) for task in tasks}
    return found


@pytest.fixture(scope="module")
def samples(parts):
    """Return the samples of the test split and the bytes of their images, by key."""
    shard = Path(parts[0].split("=")[1]) / "test-000000.tar"
    return {key: (decode(key, members, "x"), members["png"]) for key, members in read_shard(shard)}


@pytest.mark.parametrize("task", SCORES)
def test_a_task_is_trained_and_scored_with_images_and_without(trained, evaluated, samples, task):
    report, lines, _ = evaluated[task]
    assert f"test {task} " in trained[0]
    assert SCORES[task] <= report["scores"].keys() == report["blind"].keys()
    assert len(lines) == report["num_items"] == len({line["id"] for line in lines})
    assert all(line["blind_prediction"] is not None for line in lines)
    asked = {
        "tagging": [key for key, (sample, _) in samples.items() if sample.tagged],
        "dialogue": [key for key, (sample, _) in samples.items() for _ in sample.questions],
    }  # one box an image, one caption an image
    asked["texts"] = asked["tagging"]
    assert Counter(line["key"] for line in lines) == Counter(asked.get(task, list(samples)))
    if task in ("regression", "texts"):  # after 15 steps the others may predict the same for every image
        assert all(line["blind_prediction"] == line["prediction"] for line in lines) == (task == "texts")


def section(page, name):
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)
    return found[1] if found else ""


def test_the_page_shows_each_task_in_its_own_view(evaluated):
    page = evaluated["tagging"][2]
    classes, numbers, recall = (section(page, name) for name in ("classes", "numbers", "tables"))
    for name in ("classification", "tagging: tags", "tagging: spans", "seen", "texts: spans"):
        assert f"<h3>{name}</h3>" in classes
    for name in ("micro", "macro", "weighted"):
        assert classes.count(f'<th scope="row">{name}</th>') == 6
    assert classes.count('role="img" aria-label="Confusion matrix, ') == 3  # no matrix of several at once, or of spans
    assert not re.search("<h3>(regression|contrastive)", classes)
    assert 'aria-label="Predicted against true, regression"' in numbers
    assert "MAE" in numbers
    assert re.findall(r">% right among the first (\d+)<", recall) == ["1", "5", "10"]
    assert "from a caption to its image" in recall
    assert "<small>" in section(page, "gallery")  # tags below words
    other = evaluated["detection"][2]
    assert not section(other, "numbers") + section(other, "tables")
    gallery = section(other, "gallery")
    boxes = sum(len(line["references"][0].split("; ")) for name in ("detection", "grounding")
                for line in evaluated[name][1])  # fmt: skip
    assert gallery.count('<rect class="true-box"') == boxes
    assert gallery.count('<rect class="predicted-box"') >= len(evaluated["grounding"][1])
    assert not re.search("<h3>(detection|grounding)", section(other, "classes"))
    for text in (page, other):
        assert re.findall(r"https?://[^\"\s]*", text.replace("http://www.w3.org/", "")) == []


def test_predict_and_eval_have_the_same_predictions(trained, evaluated, samples, tmp_path):
    paths = {}
    for key, (_, image) in samples.items():
        paths[key] = tmp_path / f"{key}.png"
        paths[key].write_bytes(image)
    heads, texts = (Predictor(trained[1][name] / "checkpoints" / "best.ckpt") for name in TRAINED_ON)

    def predicted(predictor, keys, request, task):
        answers = predictor.answers([paths[key] for key in keys], request, task)
        return [answer.prediction.prediction for answer in answers]

    def expected(task):
        return {line["id"]: line["prediction"] for line in evaluated[task][1]}

    for task, predictor in (("classification", heads), ("seen", heads), ("regression", heads), ("detection", texts)):
        assert predicted(predictor, paths, Request(), task) == [expected(task)[key] for key in paths], task
    for key, (sample, _) in samples.items():
        if sample.tagged:
            request = Request(text=" ".join(sample.tagged[0].words))
            assert predicted(heads, [key], request, "tagging") == [expected("tagging")[f"{key}-0"]]
            assert heads.answers([], request, "texts")[0].prediction.prediction == expected("texts")[f"{key}-0"]
        assert predicted(texts, [key], Request(phrases=(sample.boxes[0].label,)), None) == [
            expected("grounding")[f"{key}-0"]
        ]
        first = sample.questions[0]
        assert predicted(texts, [key], Request((first.question,)), None) == [expected("dialogue")[first.id]]


def predict(monkeypatch, trained, name, *arguments):
    """Run `prefixvlm predict` in this process."""
    ckpt = trained[1][name] / "checkpoints" / "best.ckpt"
    monkeypatch.setattr("sys.argv", ["prefixvlm", "predict", "--ckpt", str(ckpt), *map(str, arguments)])
    main()


def test_predict_prints_readable_lines(trained, samples, tmp_path, monkeypatch, capsys):
    path = tmp_path / "photo.png"
    path.write_bytes(samples["test-0000"][1])

    def printed(name, *options, images=(path,)):
        predict(monkeypatch, trained, name, *images, *options)
        return capsys.readouterr().out

    assert re.fullmatch(rf"{path}\t(circle|rectangle|triangle) 0\.\d+\n", printed("heads", "--task", "classification"))
    assert re.fullmatch(rf"{path}\t-?[\d.e-]+\n", printed("heads", "--task", "regression"))
    words = printed("heads", "--task", "texts", "--text", "a red circle", images=()).split()
    assert [word.split("/")[0] for word in words] == ["a", "red", "circle"]
    box = r"(\(nothing\)|circle|rectangle|triangle)( \d+){4} 0\.\d\d"
    assert re.fullmatch(rf"{path}\t({box}(; {box})*|\(nothing\))\n", printed("texts", "--out", tmp_path / "x.png"))
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    lines = printed("texts", "--question", "what?", "--question", "and?").splitlines()
    assert [line.split("\t")[:2] for line in lines] == [[str(path), "what?"], [str(path), "and?"]]


def test_a_resumed_run_with_heads_ends_with_the_same_weights(parts, trained):
    folder = trained[1]["heads"]
    straight, checkpoints = end(folder), folder / "checkpoints"
    assert load(checkpoints / "previous.ckpt")["global_step"] == 12  # in the middle of an epoch
    assert straight["global_step"] == 15
    shutil.move(checkpoints / "previous.ckpt", checkpoints / "last.ckpt")
    (folder / "objective.json").unlink()  # else the run is finished
    long = ["trainer.max_epochs=3", "callbacks.last.every_n_steps=3"]
    run("train.py", *parts, *HEADS, *long, f"hydra.run.dir={folder}", "resume=must", "test=false")
    assert equal(end(folder), straight)


def test_init_from_another_run_starts_a_new_head(parts, trained, tmp_path):
    began = trained[1]["texts"] / "checkpoints" / "last.ckpt"
    options = ["task=classification", f"init_from={began}", "optim.lr=0", "trainer.max_steps=1", "test=false"]
    run("train.py", *parts, *options, f"hydra.run.dir={tmp_path}/run")
    state = load(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    assert any(name.startswith("model.heads.classification.") for name in state)
    for name, tensor in load(began)["state_dict"].items():
        assert torch.equal(state[name], tensor)


def test_a_subset_of_the_heads_can_be_evaluated(trained, evaluated, tmp_path):
    run("eval.py", f"ckpt={trained[1]['heads']}/checkpoints/best.ckpt", "task=tagging", f"out={tmp_path}")
    result, lines = read(tmp_path)
    assert result["tasks"] == {"tagging": evaluated["tagging"][0]}
    assert lines == evaluated["tagging"][1]


@pytest.mark.slow
def test_two_processes_train_heads_as_one(parts, tmp_path):
    """Without contrastive, whose negatives are the samples of the batch of a process."""
    tasks = ["task=[classification,tagging,regression,detection]", *HEADS[1:3], "task.detection.max_boxes=1"]
    options = [*parts, *tasks, "test=false", "data.limit_val_predictions=0", "trainer.max_epochs=4"]
    run("train.py", *options, f"hydra.run.dir={tmp_path}/one")
    run("train.py", *options, "data.batch_size=4", "trainer.devices=2", f"hydra.run.dir={tmp_path}/two")
    one, two = (load(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("one", "two"))
    assert sum(name.startswith("model.heads.") for name in one) == 20
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def bare(tmp_path_factory, samples):
    """Return shards of images with captions only."""
    folder = tmp_path_factory.mktemp("bare") / "shards"
    content = json.dumps({"captions": ["a thing"]}).encode()
    splits = ("train", "val", "test")
    write_shards({s: [(f"{s}-{n}", {"png": image, "json": content}) for n, (_, image) in enumerate(samples.values())]
                  for s in splits}, folder, "a test", "none")  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("heads", ["task=classification", "task.classification.classes=[circle,square]"],
         "was trained with classes=['circle', 'rectangle', 'triangle'], but here task.classification.classes is"),
        ("texts", ["task=regression"], "has no head of task regression: it was trained for detection"),
        ("heads", ["few_shot.shots=1"], "task classification has a head and takes no demonstrations"),
        ("heads", ["task=classification", "shards=BARE"], "no tested sample has references for task classification"),
        ("heads", ["task=tagging", "shards=BARE"], "no tested sample has references for task tagging"),
        ("heads", ["task=regression", "shards=BARE"], "no tested sample has references for task regression"),
        ("texts", ["task=detection", "shards=BARE"], "no tested sample has references for task detection"),
    ],
)  # fmt: skip
def test_wrong_options_of_eval_are_one_sentence(trained, bare, tmp_path, name, options, message):
    options = [option.replace("BARE", str(bare)) for option in options]
    result = run("eval.py", f"ckpt={trained[1][name]}/checkpoints/best.ckpt", *options, f"out={tmp_path}/eval", code=2)
    one_sentence(result.stderr, message)
    assert not list((tmp_path / "eval").glob("*"))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("classification", "has training rows for task classification; set other options of the task,"),
        ("regression", "has training rows for task regression; set other options of the task,"),
    ],
)
def test_wrong_options_of_train_are_one_sentence(parts, bare, tmp_path, task, message):
    result = run("train.py", *parts[1:], f"data.shards={bare}", f"task={task}", f"hydra.run.dir={tmp_path}/run", code=2)
    one_sentence(result.stderr, message)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("heads", ["IMAGE"], "was trained for classification, regression, seen; set --task to one of these"),
        ("heads", ["IMAGE", "--question", "what?"], "seen, texts, not for vqa; train one with task=vqa"),
        ("heads", ["IMAGE", "--task", "regression", "--phrase", "it"], "takes images alone, not --phrase"),
        ("heads", ["IMAGE", "--task", "vqa"], "not for vqa; set --task to one of these"),
        ("heads", ["IMAGE", "--task", "contrastive"], "is about more than an image; evaluate it with eval.py"),
        ("heads", ["IMAGE", "--task", "texts", "--text", "a b"], "was trained without images; leave them out"),
        ("heads", ["--task", "regression"], "is about an image; give one or more"),
        ("heads", ["IMAGE", "--task", "regression", "--out", "x.png"], "task regression predicts none"),
        ("texts", ["IMAGE", "--task", "dialogue"], "task dialogue takes --question, not images alone"),
        ("texts", ["IMAGE", "--question", "what?", "--text", "a"], "--question and --text are of two tasks"),
    ],
)
def test_wrong_options_of_predict_are_one_sentence(
    trained, samples, tmp_path, monkeypatch, capsys, name, options, message
):
    (tmp_path / "photo.png").write_bytes(samples["test-0000"][1])
    options = [str(tmp_path / "photo.png") if option == "IMAGE" else option for option in options]
    with pytest.raises(SystemExit) as stop:
        predict(monkeypatch, trained, name, *options)
    assert stop.value.code == 2
    output = capsys.readouterr()
    one_sentence(output.err, message)
    assert not output.out


def one_sentence(text, message):
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, text
    assert message in errors[0]
    assert "Traceback" not in text
