"""Values of the wrong type are refused with their key."""

import pytest

from prefixvlm import build
from tests.test_conf import composed


@pytest.mark.parametrize(
    ("axis", "override", "sentence"),
    [
        ("data", "data.batch_size=x", "data.batch_size is 'x'; it must be an int of 1 or more"),
        ("data", "data.bucket_batches=x", "data.bucket_batches is 'x'; it must be an int of 0 or more"),
        ("data", "data.shuffle_buffer=1.5", "data.shuffle_buffer is 1.5; it must be an int of 1 or more"),
        ("data", "data.num_workers=true", "data.num_workers is True; it must be an int from 0 to 1024"),
        ("data", "data.num_workers=null", "data.num_workers is None; it must be an int from 0 to 1024"),
        ("data", "data.epoch_samples=x", "data.epoch_samples is 'x'; it must be an int of 1 or more or null"),
        ("data", "data.max_bad_fraction=x", "data.max_bad_fraction is 'x'; it must be a float from 0 to 1"),
        ("data", "data.cache_limit=x", "data.cache_limit is 'x'; it must be a float above 0 or null"),
        ("data", "data.blind=maybe", "data.blind is 'maybe'; it must be true or false"),
        ("data", "data.cache_dir=3", "data.cache_dir is 3; it must be a text"),
        ("trainer", "trainer.max_epochs=x", "trainer.max_epochs is 'x'; it must be an int of -1 or more or null"),
    ],
)
def test_a_value_of_another_type_is_one_sentence_with_its_key(axis, override, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        build.check(axis, build.plain(composed("train", "run_dir=x", override)[axis]))


@pytest.mark.parametrize(
    "override", ["data.max_bad_fraction=1", "data.max_bad_fraction=1e-3", "data.cache_limit=null", "data.blind=true"]
)
def test_an_int_may_stand_where_a_float_may(override):
    build.check("data", build.plain(composed("train", "run_dir=x", override)["data"]))
