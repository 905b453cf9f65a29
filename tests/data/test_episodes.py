"""Episodes of fast binding from labelled shards: what is shown, what is asked, and balance."""

import json
from collections import Counter

import pytest
from PIL import Image

from prefixvlm.data.sample import decode
from prefixvlm.data.shards.write import write_shards
from prefixvlm.data.sources.episodes import available_splits, samples, version
from tests.data.conftest import encoded

COLOURS = ("red", "lime", "blue")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Twelve images: three colours, twice each with a size; two of them without the label size."""
    out = tmp_path_factory.mktemp("labelled")

    def labelled():
        for number in range(12):
            colour = COLOURS[number % 3]
            labels = {"colour": colour, "size": "large" if number < 6 else "small"}
            if number > 9:
                del labels["size"]
            yield f"k{number}", {"png": encoded(Image.new("RGB", (8, 8 + number), colour), "PNG"),
                                 "json": json.dumps({"labels": labels}).encode()}  # fmt: skip

    write_shards({"test": labelled()}, out, "tests", "none", workers=1)
    return out


def read(shards, *args, **options):
    def content(value):
        return value if isinstance(value, bytes) else value.read_bytes()

    made = samples("test", shards, *args, **options)
    return [decode(key, {name: content(each) for name, each in members.items()}, "test") for key, members in made]


def kind(image):
    return image.getpixel((0, 0))


@pytest.mark.parametrize(("ways", "shots"), [(2, 1), (3, 2)])
def test_the_answer_is_the_name_of_the_images_of_the_same_kind(shards, ways, shots):
    for sample in read(shards, "colour", ways, shots, episodes=2 * ways * ways):
        (question,) = sample.questions
        named = {(kind(image), text) for image, text in sample.support}
        assert len(named) == len({text for _, text in named}) == ways, "a kind has one name"
        assert (kind(sample.image), f"This is a {question.answers[0]}.") in named
        assert {f"This is a {name}." for name in question.choices} == {text for _, text in named}
        sizes = [image.size for image, _ in sample.support] + [sample.image.size]
        assert len(set(sizes)) == ways * shots + 1, "all images differ, the image that is asked for too"


@pytest.mark.parametrize("ways", [2, 3])
def test_every_name_is_the_answer_equally_often_at_every_place(shards, ways):
    made = read(shards, "colour", ways, episodes=8 * ways**2)
    cells = Counter()
    for sample in made:
        (question,) = sample.questions
        place = [kind(image) for image, _ in sample.support].index(kind(sample.image))
        cells[question.choices.index(question.answers[0]), place] += 1
    assert set(cells.values()) == {8}
    assert len(cells) == ways**2
    assert len({sample.questions[0].choices for sample in made}) > 1


def test_a_kind_may_be_several_labels_and_images_without_one_are_left_out(shards):
    made = read(shards, "colour,size", episodes=32)
    heights = {image.size[1] - 8 for sample in made for image in (sample.image, *(each for each, _ in sample.support))}
    assert heights <= set(range(10)), "the last two have no size"
    assert read(shards, "colour,size", episodes=32) == made, "the same seed draws the same episodes"
    assert read(shards, "colour,size", episodes=32, seed=1) != made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "shape"}, "0 values of shape"),
        ({"label": "colour", "shots": 4}, "0 values of colour with more than 4"),
        ({"label": "colour", "ways": 4}, "3 values of colour"),
        ({"label": "colour", "ways": 9}, "--ways is 9; set it to 2 to 8"),
        ({"label": "colour", "episodes": 0}, "--episodes 0"),
    ],
)
def test_too_few_kinds_or_images_are_an_error(shards, options, message):
    with pytest.raises(ValueError, match=message):
        samples("test", shards, **options)


def test_only_the_splits_of_the_folder_are_written(shards):
    assert available_splits(shards, label="colour") == ["test"]
    with pytest.raises(ValueError, match="has no shards val-"):
        available_splits(shards / "empty", label="colour")


def test_the_manifest_tells_the_episodes_of_other_shards_apart(shards, tmp_path):
    assert version(shards) == version(shards)
    assert version(shards) != version(tmp_path)
