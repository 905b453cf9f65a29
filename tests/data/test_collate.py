"""Collator: supervision, truncation, and images that rows share."""

import numpy as np
import pytest
import torch

from prefixvlm.batch import IGNORE_INDEX, IMAGE_ID, Row
from tests.conftest import byte_tokenizer, collator_of, tiny_model


@pytest.fixture
def lm_model():
    return tiny_model("gpt2")


def test_ids_labels_and_mask_of_a_row(lm_model, images):
    batch = collator_of(lm_model)([Row((images[0], "ab"), "c"), Row((images[0],), "defgh")])
    a, b, c = byte_tokenizer()("abc").input_ids
    assert batch.input_ids[0].tolist() == [IMAGE_ID] * 3 + [a, b, c, 256] + [256] * 2
    assert batch.labels[0].tolist() == [IGNORE_INDEX] * 5 + [c, 256] + [IGNORE_INDEX] * 2
    assert batch.attention_mask[0].tolist() == [True] * 7 + [False] * 2


def test_long_targets_are_truncated_and_long_prompts_raise(lm_model, images):
    collate = collator_of(lm_model, max_positions=8)
    batch = collate([Row((images[0], "ab"), "a caption of 1140 words")])
    assert batch.input_ids.shape == (1, 8)
    assert collator_of(lm_model, max_target_length=4)([Row((images[0], "ab"), "a caption")]).input_ids.shape == (1, 9)
    with pytest.raises(ValueError, match=r"'k7'.*15 tokens.*reads 8"):
        collate([Row((images[0], "twelve chars"), "x", key="k7")])


def test_text_that_spells_a_special_token_stays_text(lm_model, images):
    batch = collator_of(lm_model)([Row((images[0],), "end <eos> not")])
    assert batch.input_ids[0].tolist().count(256) == 1


def test_rows_with_the_same_input_are_merged_in_evaluation_only(lm_model, images):
    rows = [Row((images[0], "q"), key=str(i), id=str(i)) for i in range(3)] + [Row((images[1], "q"), id="3")]
    batch = collator_of(lm_model)(rows, supervised=False)
    assert batch.input_ids.shape[0] == 2
    assert [[row.id for row in group] for group in batch.rows] == [["0", "1", "2"], ["3"]]
    assert len(collator_of(lm_model)(rows).input_ids) == 4


def test_a_batch_of_text_only(lm_model):
    batch = collator_of(lm_model)([Row(("text only",), "x")])
    assert len(batch.pixel_values) == len(batch.image_index) == 0
    assert lm_model(batch).shape == (2,)  # x and EOS


def test_bos_stands_before_the_first_text(lm_model, images):
    collate = collator_of(lm_model)
    collate.bos_ids = [7]
    prompt = collate.tokenize(Row((images[0], "a", images[0], "b")), supervised=False).ids
    a, b = byte_tokenizer()("ab").input_ids
    assert prompt == [IMAGE_ID] * 3 + [7, a] + [IMAGE_ID] * 3 + [b]


def test_a_context_stands_before_the_prompt_with_one_bos_and_counts_as_positions(lm_model, images):
    row = Row((images[0], "b"), "x", key="k7", context=("a", images[1], "c"))
    collate = collator_of(lm_model, max_positions=9)
    collate.bos_ids = [7]
    a, b, c = byte_tokenizer()("abc").input_ids
    with pytest.raises(ValueError, match=r"'k7'.*10 tokens.*reads 9"):
        collate([row])
    collate.max_positions = 12
    assert collate([row]).input_ids[0].tolist() == [7, a] + [IMAGE_ID] * 3 + [c] + [IMAGE_ID] * 3 + [b] + [
        *byte_tokenizer()("x").input_ids, 256
    ]  # fmt: skip


def test_stored_features_are_batched_once_for_rows_that_share_them(lm_model):
    first, second = np.ones((2, 8), np.float16), np.zeros((2, 8), np.float16)
    collate = collator_of(lm_model, reads_features=True)
    collate.transform = torch.tensor
    batch = collate([Row((first, "a"), "b"), Row((second, "a"), "b"), Row((first, "c", second), "d")])
    assert torch.equal(batch.pixel_values, torch.tensor(np.stack([first, second])))
    assert batch.image_index.tolist() == [0, 1, 0, 1]


def test_features_raise_where_images_are_expected(lm_model):
    with pytest.raises(ValueError, match=r"hold features.*set encoder=cached, or data\.shards"):
        collator_of(lm_model)([Row((np.ones((2, 8), np.float16),), "x")])
