"""Predictions of all ranks: once each, in one order; two real processes with gloo."""

import json
from dataclasses import asdict

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from prefixvlm.task.interface import Prediction
from prefixvlm.training.gather import gather_by_id


def prediction(key, number=0):
    return Prediction("vqa", key, f"{key}-{number}", "is it?", f"answer to {key}", ("yes", "no"), 0.5)


def test_the_order_is_by_image_then_item_whatever_came_first():
    wanted = [prediction(key, number) for key in ("a", "b", "c") for number in range(3)]
    assert gather_by_id(wanted[::-1]) == wanted
    assert gather_by_id(wanted[4:] + wanted[:4], num_keys=3) == wanted


def test_an_item_that_comes_twice_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"'b-0'"):
        gather_by_id([prediction("a"), prediction("b"), prediction("c"), prediction("b")])


@pytest.mark.parametrize("num_keys", [1, 3])
def test_a_lost_or_additional_image_is_an_error_with_both_numbers(num_keys):
    with pytest.raises(ValueError, match=rf"\b2 images.*\b{num_keys}\b"):
        gather_by_id([prediction("a"), prediction("a", 1), prediction("b")], num_keys=num_keys)


def _rank(rank, folder, keys):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(keys))
    try:
        result = [asdict(p) for p in gather_by_id([prediction(key) for key in keys[rank]])]
    except ValueError as error:
        result = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def gathered(folder, keys):
    """What each rank has in the end."""
    context = mp.start_processes(_rank, (folder, keys), nprocs=len(keys), join=False, start_method="fork")
    for _ in range(2):  # once for each process
        if context.join(timeout=60):
            break
    else:
        for process in context.processes:
            process.kill()
        pytest.fail("the ranks wait for each other")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(len(keys))]


def test_every_rank_has_the_predictions_of_all(tmp_path):
    wanted = json.loads(json.dumps([asdict(prediction(key)) for key in "abcde"]))
    assert gathered(tmp_path, ["dbe", "ca"]) == [wanted, wanted]


def test_a_rank_may_have_none_and_what_two_ranks_have_is_an_error_on_both(tmp_path):
    (tmp_path / "none").mkdir()
    assert [len(rank) for rank in gathered(tmp_path / "none", ["ab", ""])] == [2, 2]
    first, second = gathered(tmp_path, ["ab", "cb"])
    assert "'b-0'" in first
    assert first == second
