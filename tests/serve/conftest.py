"""A server of a small random checkpoint, and its images."""

import pytest
from PIL import Image

import prefixvlm
from tests.inference.test_predictor import COLOURS, write_checkpoint
from tests.serve.serving import serving


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="package")
def model(folder):
    return prefixvlm.load(folder / "x.ckpt")


@pytest.fixture(scope="package")
def paths(folder):
    for colour in COLOURS:
        image = Image.new("RGB", (70, 50), colour)
        image.paste((9, 99, 199), (0, 0, 20, 50))
        image.save(folder / f"{colour}.png")
    return [folder / f"{colour}.png" for colour in COLOURS]


@pytest.fixture(scope="package")
def url(model):
    with serving(model) as (url, _):
        yield url
