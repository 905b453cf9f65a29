"""Consensus re-ranking: a model's beams, of which the captions of similar training images choose one."""

import io
import json
import pickle

import pytest
from PIL import Image

from prefixvlm.batch import Row
from prefixvlm.data.shards.write import write_shards
from prefixvlm.model.generation import generate, generate_beams
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.results.consensus import Consensus
from tests.training.test_module import module_of

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
BEAMS = {"method": "beam", "num_beams": 4, "max_new_tokens": 3}


def raw(texts):
    for name, colour in COLOURS.items():
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
        yield name, {"png": buffer.getvalue(), "json": json.dumps({"captions": texts(name)}).encode()}


def shards_of(folder, texts=lambda name: [f"a {name} thing", f"it is all {name}"]):
    write_shards({"train": raw(texts)}, folder, "a test", "none")
    return str(folder)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return shards_of(tmp_path_factory.mktemp("consensus") / "shards")


def batch_of(module, colours):
    rows = [
        Row((Image.new("RGB", (8, 8), COLOURS[each]) if each else "", "x"), "", str(i))
        for i, each in enumerate(colours)
    ]
    return module.collate(rows, False, "captioning")


def test_each_image_gets_the_candidate_of_its_own_colour(shards):
    module = module_of()
    candidates = [["a blue thing", "a red thing"], ["a blue thing", "a red thing"], ["only one"], ["first", "second"]]
    batch = batch_of(module, ["red", "blue", "green", None])
    chosen = Consensus(shards, ridge=0.01).choose(module.model, batch, candidates)
    # A row without an image keeps its likeliest text.
    assert chosen == ["a red thing", "a blue thing", "only one", "first"]


def test_loader_workers_get_a_task_without_the_training_captions(shards):
    module = module_of()
    task = Captioning(decoding=BEAMS, consensus=Consensus(shards))
    before = pickle.dumps(task)
    task.consensus.choose(module.model, batch_of(module, ["red"]), [["a red thing", "a blue thing"]])
    assert task.consensus._scorer is not None
    assert pickle.dumps(task) == before


def test_the_last_image_of_a_row_decides(shards):
    module = module_of()
    red, blue = (Image.new("RGB", (8, 8), COLOURS[name]) for name in ("red", "blue"))
    batch = module.collate([Row((red, "x", blue, "x")), Row((blue, "x", red, "x"))], False, "captioning")
    chosen = Consensus(shards, ridge=0.01).choose(module.model, batch, [["a blue thing", "a red thing"]] * 2)
    assert chosen == ["a blue thing", "a red thing"]


def test_captioning_chooses_among_the_beams_of_the_model(tmp_path):
    module = module_of().eval()
    batch = batch_of(module, ["red", "green"])
    likeliest = Captioning(decoding=BEAMS)
    beams = generate_beams(module.model, batch, likeliest.decoding)
    assert [each[0] for each in beams] == [p.prediction for p in likeliest.predict(module.model, batch)]
    task = Captioning(decoding=BEAMS, consensus=Consensus(shards_of(tmp_path / "shards"), ridge=0.01))
    chosen = []
    task.consensus.choose = lambda model, batch, candidates: chosen.extend(candidates) or [c[-1] for c in candidates]
    assert [p.prediction for p in task.predict(module.model, batch)] == [each[-1] for each in beams]
    assert chosen == beams
    assert all(len(each) == 4 for each in beams)


def test_a_stated_method_is_used_without_the_consensus(shards):
    module = module_of().eval()
    batch = batch_of(module, ["red", "green"])
    task = Captioning(decoding=BEAMS, consensus=Consensus(shards))
    assert task.with_decoding(max_new_tokens=2).consensus is task.consensus
    for method in ("greedy", "beam"):
        plain = task.with_decoding(method=method)
        assert plain.generate(module.model, batch) == generate(module.model, batch, plain.decoding)
        assert "consensus" not in plain.report([])["decoding"]
    assert task.report([])["decoding"]["consensus"] == {"ridge": 1.0}


def test_wrong_options_are_errors(shards, tmp_path):
    for wrong in ("https://example.org/shards", {"a": {"shards": "b"}}):
        with pytest.raises(ValueError, match="give one folder or pattern on this disk"):
            Consensus(wrong)
    with pytest.raises(ValueError, match=r"consensus\.ridge is 0"):
        Consensus(shards, ridge=0)
    with pytest.raises(ValueError, match=r"decoding\.method is greedy; set task\.captioning\.decoding\.method=beam"):
        Captioning(consensus=Consensus(shards))
    missing = Captioning(decoding=BEAMS, consensus=Consensus(str(tmp_path / "missing")))
    with pytest.raises(ValueError, match=r"^\S+/missing does not exist; set task\.captioning\.consensus\.shards to"):
        missing.check(module_of().model.lm, None)


def test_shards_without_captions_and_a_trained_encoder_are_errors(shards, tmp_path):
    module = module_of()
    batch = batch_of(module, ["red"])
    bare = Consensus(shards_of(tmp_path / "bare", lambda name: []))
    with pytest.raises(ValueError, match=r"has a caption; set task\.captioning\.consensus=null"):
        bare.choose(module.model, batch, [["a", "b"]])
    module.model.encoder.trained = True
    with pytest.raises(ValueError, match=r"set encoder\.trained=false"):
        Consensus(shards).choose(module.model, batch, [["a", "b"]])
