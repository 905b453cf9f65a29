"""Choice of demonstrations: nearest in colour, random, or with black images."""

import io
import json

import pytest
from PIL import Image

from prefixvlm.data.collates import Collates
from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.data.shards.write import write_shards
from prefixvlm.evaluation.demonstrations import draw_demonstrations
from prefixvlm.task.rows.few_shot import FewShot
from prefixvlm.task.rows.loader_rows import PromptRows
from tests.training.test_module import data_of, module_of

BLUES = range(0, 256, 51)
COLOURS = {
    "train": {f"train-{blue:03d}": (255 - blue, 0, blue) for blue in BLUES},
    "test": {"nearly-red": (250, 0, 5), "nearly-blue": (12, 0, 243), "train-102": (153, 0, 102)},
}


def raw(split):
    for key, colour in COLOURS[split].items():
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
        question = {"id": key, "question": "is it?", "answers": [f"it is {key}"]}
        content = {"captions": [f"this is {key}"], "questions": [question]}
        yield key, {"png": buffer.getvalue(), "json": json.dumps(content).encode()}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demonstrations") / "shards"
    write_shards({split: raw(split) for split in COLOURS}, folder, "a test", "none", samples_per_shard=4)
    return str(folder)


def contexts(shards, task="captioning", blind=False, **options):
    """Return the context of each test image by its key, as texts and colours of images."""
    module = module_of()
    data = data_of(module, shards, ShardDataModule, blind=blind)
    demonstrations = draw_demonstrations(module, data, FewShot(**options))
    rows = []
    collate = PromptRows(module.tasks[task], lambda found, with_targets, task: rows.extend(found), demonstrations)
    (loader,) = data_of(module, shards, blind=blind, collates=Collates(test={task: collate})).test_dataloader()
    list(loader)
    return {row.key: [part if isinstance(part, str) else part.getpixel((0, 0)) for part in row.context] for row in rows}


def shown(context):
    """Return the colours of the images of a context."""
    return [part for part in context if not isinstance(part, str)]


def test_without_shots_there_is_no_context(shards):
    assert contexts(shards) == {key: [] for key in COLOURS["test"]}


@pytest.mark.parametrize("task", ["captioning", "vqa"])
def test_the_nearest_have_the_nearest_colours_and_the_most_similar_is_last(shards, task):
    found = contexts(shards, task, shots=2, choice="nearest")
    assert shown(found["nearly-red"]) == [(204, 0, 51), (255, 0, 0)]
    assert shown(found["nearly-blue"]) == [(51, 0, 204), (0, 0, 255)]


def test_an_image_is_not_its_own_demonstration(shards):
    own = COLOURS["train"]["train-102"]
    assert sorted(shown(contexts(shards, shots=2, choice="nearest")["train-102"])) == [(102, 0, 153), (204, 0, 51)]
    for seed in range(8):
        colours = shown(contexts(shards, shots=5, seed=seed)["train-102"])
        assert own not in colours
        assert len(set(colours)) == 5


def test_a_demonstration_has_its_own_text(shards):
    for context in contexts(shards, shots=2, choice="nearest", separator=" ; ").values():
        keys = {colour: key for key, colour in COLOURS["train"].items()}
        first, one, second, two = context
        assert one == f"this is {keys[first]} ; " or one == f" this is {keys[first]} ; "
        assert f"this is {keys[second]} ; " in two


def test_random_ones_depend_on_the_seed_alone(shards):
    first, again = contexts(shards, shots=2, seed=1), contexts(shards, shots=2, seed=1)
    assert first == again
    assert any(contexts(shards, shots=2, seed=seed) != first for seed in (2, 3))


def test_the_pool_is_drawn_by_the_seed_of_the_demonstrations(shards):
    """Checkpoints that were trained with different seeds get the same demonstrations."""
    pools = []
    for data_seed, seed in ((0, 1), (5, 1), (0, 2), (0, 3)):
        module = module_of()
        few_shot = FewShot(shots=1, pool_size=3, seed=seed)
        pools.append(tuple(draw_demonstrations(module, data_of(module, shards, seed=data_seed), few_shot).keys))
    assert pools[0] == pools[1]
    assert len(set(pools)) > 1


def test_blind_demonstrations_are_random_with_black_images(shards):
    blind = contexts(shards, blind=True, shots=3, choice="nearest")
    assert all(shown(context) == [(0, 0, 0)] * 3 for context in blind.values())
    texts = {tuple(part for part in context if isinstance(part, str)) for context in blind.values()}
    assert len(texts) > 1
    nearest = contexts(shards, shots=3, choice="nearest")
    assert any(
        [p for p in blind[key] if isinstance(p, str)] != [p for p in nearest[key] if isinstance(p, str)]
        for key in blind
    )


def test_too_few_training_images_are_an_error(shards):
    with pytest.raises(ValueError, match="there are only 6 training samples to show"):
        contexts(shards, shots=6)


def test_no_training_split_is_needed_without_shots(shards, tmp_path):
    write_shards({"test": raw("test")}, tmp_path / "shards", "a test", "none")
    assert contexts(str(tmp_path / "shards"), induction="Answer.") == {key: ["Answer.\n"] for key in COLOURS["test"]}
    with pytest.raises(ValueError, match="holds no train samples"):
        contexts(str(tmp_path / "shards"), shots=1)
